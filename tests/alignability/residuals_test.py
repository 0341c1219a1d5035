"""Residuals against NumPy loops, least squares and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import INPUT, METHODS, Geometry, ImageTransforms
from stnjax.alignability.mixing import best_mixing
from stnjax.alignability.residuals import relative_distance
from tests.alignability.examples import (
  VALID5,
  audit,
  blobs,
  conv,
  convolve,
  family,
  kernels,
  matrix,
  relu_of,
  smooth,
)

RNG = np.random.default_rng(0)


def read(plane, x, y):
  """Bilinear; NaN where any pixel that counts is missing."""
  total = 0.0
  for i in (int(np.floor(y)), int(np.floor(y)) + 1):
    for j in (int(np.floor(x)), int(np.floor(x)) + 1):
      weight = max(0, 1 - abs(y - i)) * max(0, 1 - abs(x - j))
      if weight > 1e-6:
        inside = 0 <= i < plane.shape[0] and 0 <= j < plane.shape[1]
        total += weight * (plane[i, j] if inside else np.nan)
  return total


def extract(plane, kernel, stride, pad):
  """A convolution by loops; NaN outside the plane."""
  size = len(kernel)
  plane = np.pad(plane, pad, constant_values=np.nan)
  shape = [(n - size) // stride + 1 for n in plane.shape]
  found = np.zeros((*shape, kernel.shape[-1]))
  for i, j, f in np.ndindex(*found.shape):
    y, x = stride * i, stride * j
    part = plane[y : y + size, x : x + size]
    found[i, j, f] = (part * kernel[..., 0, f]).sum()
  return found


def naive(image, kernel, matrix, stride, pad):
  """Residuals, with NaN outside the image: it reaches what a border does.

  With the inverse, then with no warp at all; and the share that counts.
  """
  height, width = image.shape
  middle = np.array([(width - 1) / 2, (height - 1) / 2])

  def transform(matrix, x, y):
    return matrix[:, :2] @ (np.array([x, y]) - middle) + matrix[:, 2] + middle

  moved = np.array(
    [
      [read(image, *transform(matrix, x, y)) for x in range(width)]
      for y in range(height)
    ]
  )
  before, after = (extract(i, kernel, stride, pad) for i in (image, moved))
  inverse = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2]
  first = (len(kernel) - 1) / 2 - pad

  def compare(matrix):
    distance, norm, count = 0.0, 0.0, 0
    for i, j in np.ndindex(before.shape[:2]):
      position = transform(matrix, first + stride * j, first + stride * i)
      x, y = (position - first) / stride
      values = np.array(
        [read(plane, x, y) for plane in np.moveaxis(after, 2, 0)]
      )
      if not np.isnan(values).any() and not np.isnan(before[i, j]).any():
        distance += ((values - before[i, j]) ** 2).sum()
        norm += (before[i, j] ** 2).sum()
        count += 1
    return np.sqrt(distance / norm), count / before[..., 0].size

  return *compare(inverse), compare(np.eye(2, 3))[0]


SMALL = {"margin": 0, "steps": 0}  # audits of 2 images of 15 x 17 pixels


@pytest.mark.parametrize(
  "stride, pad", [(1, 1), pytest.param(2, 0, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(
  "name, magnitude",
  [
    ("rotation", 20.0),
    ("translation", 2.5),
    pytest.param("scale", 0.3, marks=pytest.mark.slow),
    pytest.param("shear", 0.3, marks=pytest.mark.slow),
  ],
)
@pytest.mark.slow
def test_against_loops(name, magnitude, stride, pad, x64):
  images = RNG.normal(size=(2, 15, 17, 1))
  kernel = RNG.normal(size=(3, 3, 1, 2)).astype(np.float32)
  features = conv(kernel, stride, [(pad, pad)] * 2)
  found = audit(features, images, family(name, magnitude), **SMALL)
  residuals = found.residuals["features"][name]
  transform = np.asarray(matrix(name, magnitude))
  for i, image in enumerate(images):
    aligned, coverage, unaligned = naive(
      image[..., 0], kernel, transform, stride, pad
    )
    assert residuals.aligned[0, i] == pytest.approx(aligned, rel=1e-6)
    assert residuals.unaligned[0, i] == pytest.approx(unaligned, rel=1e-6)
    assert residuals.coverage[0] == pytest.approx(coverage)


def check_constant_images(method, **options):
  families = {
    **family("translation", 2.5),
    **family("rotation", 20.0),
    **family("shear", 0.2),
  }
  features = conv(np.abs(kernels(3, 2)), padding=[(1, 1)] * 2)
  images = np.ones((2, 15, 17, 1))
  found = audit(features, images, families, method=method, **options)
  for by_family in found.residuals.values():
    for residuals in by_family.values():
      assert np.max(residuals[:4]) < 1e-5
      assert 0 < residuals.coverage[0] < 1


@pytest.mark.slow
def test_borders_do_not_count(x64):
  """Constant images change only at their border."""
  check_constant_images("linear", **SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_borders_do_not_count_in_a_search(method):
  check_constant_images(method, margin=0, steps=3)


@pytest.mark.slow
def test_a_mixing_from_few_images_is_not_worse_than_none():
  features = relu_of(conv(kernels(3, 32)))
  found = audit(features, blobs(14, 2), family("rotation", 30.0), margin=0)
  residuals = found.residuals["features"]["rotation"]
  assert (residuals.mixed <= residuals.best).all()


def test_the_best_mixing_is_that_of_lstsq(x64):
  rng = np.random.default_rng(3)
  features, target = rng.normal(size=(2, 6, 5, 4, 3))
  weight = rng.integers(0, 2, (5, 4)).astype(float)
  compiled = jax.jit(best_mixing)
  counted = weight.astype(bool)
  expected, *_ = np.linalg.lstsq(
    features[:, counted].reshape(-1, 3), target[:, counted].reshape(-1, 3)
  )
  np.testing.assert_allclose(
    np.eye(3) + compiled(features, target, weight), expected, rtol=1e-9
  )
  # A channel without variance is mixed with nothing.
  features[..., 1] = 0
  change = compiled(features, 2 * features, weight)
  np.testing.assert_allclose(change, np.diag([1, 0, 1]), atol=1e-9)


def test_features_that_are_all_zero_have_no_residual():
  found = audit(
    lambda x: 0 * conv(kernels())(x),
    families=family("shear", 0.3),
    geometry={"features": VALID5},
  )
  residuals = found.residuals["features"]["shear"]
  assert all(np.isnan(value).all() for value in residuals[:4])
  assert np.isnan(found.profile()["shear"][1])


@pytest.mark.slow
def test_gradients_are_those_of_differences(x64):
  arguments = {
    "matrix": matrix("rotation", 33.0),
    "kernel": jnp.asarray(kernels(3, 2)),
    "images": blobs(12, 2).astype(jnp.float64),
  }
  geometry = Geometry((1.0, 1.0), (1.0, 1.0), (1.0, 1.0))

  @jax.jit
  @jax.value_and_grad
  def residual(arguments):
    def features(images):
      return jnp.tanh(convolve(images, arguments["kernel"]))

    return alignability.residual(
      features, arguments["images"], arguments["matrix"], geometry=geometry
    ).sum()

  _, analytic = residual(arguments)
  step = 1e-6
  for name, value in arguments.items():
    direction = jnp.asarray(RNG.normal(size=value.shape))
    ahead, behind = (
      residual({**arguments, name: value + sign * step * direction})[0]
      for sign in (1, -1)
    )
    numeric = float(ahead - behind) / (2 * step)
    slope = float((analytic[name] * direction).sum())
    assert slope == pytest.approx(numeric, rel=1e-5), name


def test_the_gradient_is_zero_where_the_residual_is_zero():
  images = blobs()
  weight = jnp.ones(images.shape[1:3])
  value, gradient = jax.jit(
    jax.value_and_grad(
      lambda features: relative_distance(features, images, weight).sum()
    )
  )(images)
  assert value == 0
  assert (gradient == 0).all()
  assert jnp.isnan(relative_distance(images, images, 0 * weight)).all()


@pytest.mark.parametrize(
  "method", ["linear", pytest.param("cubic", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_residual_is_what_audit_calls_aligned(method):
  images, features = blobs(), relu_of(conv(kernels(5)))
  found = audit(features, images, family("shear", 0.3), method=method)
  compiled = jax.jit(
    functools.partial(
      alignability.residual,
      features,
      geometry=found.geometry["features"],
      margin=14,
      method=method,
    )
  )
  transform = matrix("shear", 0.3)
  expected = found.residuals["features"]["shear"].aligned[0]
  np.testing.assert_allclose(compiled(images, transform), expected, rtol=1e-4)
  assert compiled(images[:0], transform).shape == (0,)


@functools.partial(jax.jit, static_argnames="method")
def residual_of(images, transform, method="linear"):
  pixels = Geometry((0, 0), (1, 1), (0, 0))
  return alignability.residual(
    lambda x: x, images, transform, geometry=pixels, margin=14, method=method
  ).mean()


@pytest.mark.slow
def test_cubic_leaves_less_of_the_image():
  transform = matrix("rotation", 30.0)
  linear, cubic = (residual_of(blobs(), transform, m) for m in METHODS)
  assert cubic < linear / 2


@pytest.mark.slow
def test_a_projective_transform_is_undone():
  """Of pixels, up to interpolation."""
  tilt = jnp.eye(3).at[2, 0].set(0.02)
  images = alignability.extended(smooth(), 14)
  moved = jax.jit(alignability.transformed)(images, tilt)
  change = jnp.linalg.norm(moved - images) / jnp.linalg.norm(images)
  assert residual_of(smooth(), tilt) < change / 4


@pytest.mark.slow
def test_projective_families_and_several_layers():
  tilt = ImageTransforms(
    lambda x: jnp.eye(3).at[2, 0].set(x), (0.002, 0.004), "1/px"
  )
  first, second = conv(kernels(3, 2)), conv(RNG.normal(size=(3, 3, 2, 2)))

  def features(images):
    one = first(images)
    return {"one": one, "two": second(one)}

  found = audit(features, families={"tilt": tilt}, steps=2)
  assert found.layers == (INPUT, "one", "two")
  assert found.undone("tilt").shape == (3, 2)
  residuals = found.residuals["two"]["tilt"]
  np.testing.assert_allclose(
    found.undone("tilt", "aligned")[2],
    1 - residuals.aligned.mean(axis=1) / residuals.unaligned.mean(axis=1),
    rtol=1e-5,
  )
  assert found.profile()["tilt"].shape == (3,)
