"""Padding per axis: NumPy, OpenCV, every kernel, fill, mask and adjoint."""

import functools

from absl.testing import absltest, parameterized
import chex
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import sampling, transforms
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import (
  check_gradients,
  off_lattice_grid,
  random_grid,
)

PANORAMA = ("border", "wrap")  # y, x
SHAPE = (5, 6)


def fill_share(grid, shape, padding, method):
  """How much of each sample is fill, by the axes that take it."""
  names = ["zeros" if name == "constant" else "ones" for name in padding]
  weights = np.ones(grid.shape[:-1])
  for place in np.ndindex(*grid.shape[:-1]):
    for name, coordinate, size in zip(
      names, grid[place][::-1], shape, strict=True
    ):
      position = reference.to_pixel(float(coordinate), size, False)
      if name == "zeros":
        weights[place] *= reference.weights(
          position, size, method=method, padding=name, align_corners=False
        ).sum()
      weights[place] *= not np.isnan(position)
  return 1 - weights


class ValuesTest(parameterized.TestCase):
  def check(self, shape, implementation="auto", dtype=np.float64, **options):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, 2)).astype(dtype)
    grid = random_grid(rng, len(shape)).astype(dtype)
    grid[(-1,) * len(shape)] = np.nan
    found = compiled.grid_sample(
      image, grid, implementation=implementation, **options
    )
    options = {"align_corners": False, **options}
    expected = reference.sample(image, grid, **options)
    np.testing.assert_allclose(found, expected, atol=1e-10)

  @parameterized.product(
    implementation=tuple(sampling.KERNELS),
    padding=(PANORAMA, ("zeros", "reflection")),
  )
  @pytest.mark.usefixtures("x64")
  def test_linear_by_every_kernel(self, implementation, padding):
    options = dict(method="linear", padding=padding)
    self.check(SHAPE, implementation, **options)

  @parameterized.product(
    method=("nearest", "cubic", "spline"),
    padding=(PANORAMA, ("wrap", "zeros"), ("reflection", "border")),
    align_corners=(False, True),
  )
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_every_method(self, **options):
    self.check(SHAPE, **options)

  @pytest.mark.usefixtures("x64")
  def test_splines(self):
    self.check(SHAPE, method="spline", padding=PANORAMA)

  @parameterized.parameters("linear", "spline")
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_volumes(self, method):
    padding = ("zeros", "reflection", "wrap")
    self.check((3, 4, 5), method=method, padding=padding)

  def test_that_of_opencv(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(20, 24)).astype(np.float32)
    wide = cv2.copyMakeBorder(image, 0, 0, 30, 30, cv2.BORDER_WRAP)
    # Multiples of 1/32 pixel, to which OpenCV rounds.
    x = rng.integers(32 * -25, 32 * 48, (8, 9)).astype(np.float32) / 32
    y = rng.integers(32 * -9, 32 * 30, (8, 9)).astype(np.float32) / 32
    expected = cv2.remap(
      wide, x + 30, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    found = sampling.sample_pixels(
      image[..., None], np.stack([x, y], -1), padding=PANORAMA
    )
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-5)

  def test_one_name_for_all_axes_is_that_name(self):
    rng = np.random.default_rng(0)
    image, grid = rng.normal(size=(*SHAPE, 2)), random_grid(rng, 2)
    for name in ("border", "wrap"):
      one = stnjax.grid_sample(image, grid, padding=name)
      two = stnjax.grid_sample(image, grid, padding=[name, name])
      np.testing.assert_array_equal(one, two)

  def test_batches_and_integers(self):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (3, *SHAPE, 1)).astype(np.uint8)
    theta = transforms.translation(jnp.array([[0.4, 0.1], [3.0, -0.2], [0, 2]]))
    found = stnjax.warp(image, theta, padding=PANORAMA)
    chex.assert_type(found, jnp.uint8)
    for index in range(3):
      grid = np.asarray(stnjax.affine_grid(theta[index], SHAPE))
      expected = reference.sample(
        image[index], grid, method="linear", padding=PANORAMA,
        align_corners=False,
      )  # fmt: skip
      np.testing.assert_allclose(found[index], expected, atol=0.501)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_prefiltered(self):
    rng = np.random.default_rng(0)
    image, grid = rng.normal(size=(*SHAPE, 1)), random_grid(rng, 2)
    options = dict(padding=PANORAMA, align_corners=True)
    coefficients = stnjax.spline_coefficients(image, **options)
    sample = functools.partial(
      compiled.grid_sample, grid=grid, method="spline", **options
    )
    np.testing.assert_allclose(
      sample(coefficients, prefilter=False), sample(image), atol=1e-12
    )


@pytest.mark.usefixtures("x64")
class GradientTest(parameterized.TestCase):
  @parameterized.parameters(*sampling.KERNELS)
  def test_numerical(self, implementation):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*SHAPE, 2))
    grid = off_lattice_grid(rng, SHAPE, -9, 15, False)
    check_gradients(
      lambda image, grid: stnjax.grid_sample(
        image, grid, padding=PANORAMA, implementation=implementation
      ),
      image,
      grid,
    )

  @parameterized.parameters("cubic", "spline")
  @pytest.mark.slow
  def test_numerical_of_other_methods(self, method):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*SHAPE, 1))
    grid = off_lattice_grid(rng, SHAPE, -9, 15, False)
    check_gradients(
      lambda image, grid, fill: stnjax.grid_sample(
        image,
        grid,
        padding=("constant", "reflection"),
        method=method,
        fill_value=fill,
      ),
      image,
      grid,
      np.array(0.7),
    )

  def test_zero_along_the_axis_that_clamps(self):
    image = np.random.default_rng(0).normal(size=(*SHAPE, 1))
    points = np.array([[[2.3, -1.6], [-7.7, 9.0], [5.5, 4.0]]])

    def total(points):
      return sampling.sample_pixels(image, points, padding=PANORAMA).sum()

    slope = jax.grad(total)(points)[0]
    np.testing.assert_array_equal(slope[:, 1], 0)
    rows = image[[0, -1, -1], :, 0]
    left = [2, 4, 5]  # -7.7 is 4.3, and 5.5 lies between the last and the first
    expected = [r[(c + 1) % 6] - r[c] for r, c in zip(rows, left, strict=True)]
    np.testing.assert_allclose(slope[:, 0], expected, atol=1e-12)


class FillTest(parameterized.TestCase):
  @parameterized.parameters("linear", "nearest")
  @pytest.mark.usefixtures("x64")
  def test_fill_and_mask(self, method):
    self.check(method, ("constant", "wrap"))

  @parameterized.product(
    method=("linear", "cubic", "spline"),
    padding=(("wrap", "constant"), ("constant", "border")),
  )
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_fill_and_mask_of_every_method(self, method, padding):
    self.check(method, padding)

  def check(self, method, padding):
    rng = np.random.default_rng(0)
    image, grid = rng.normal(size=(*SHAPE, 2)), random_grid(rng, 2)
    grid[1, 1] = [np.nan, 0.1]
    grid[1, 2] = [0.1, np.nan]
    fill = np.array([2.0, -3.0])
    found, mask = compiled.grid_sample(
      image,
      grid,
      method=method,
      padding=padding,
      fill_value=fill,
      return_mask=True,
    )
    zeros = tuple("zeros" if n == "constant" else n for n in padding)
    options = dict(method=method, align_corners=False)
    expected = reference.sample(image, grid, padding=zeros, **options)
    share = fill_share(grid, SHAPE, padding, method)
    np.testing.assert_allclose(
      found, expected + share[..., None] * fill, atol=1e-10
    )
    ones = np.ones((*SHAPE, 1))
    inside = reference.sample(ones, grid, padding="zeros", **options)
    np.testing.assert_allclose(mask, inside[..., 0], atol=1e-10)

  def test_integers_keep_a_fill_that_floats_cannot_hold(self):
    image = np.full((4, 4, 1), 2**30 + 1, np.int32)
    points = np.array([[[9.0, 2.0], [2.0, 9.0]]], np.float32)
    found = sampling.sample_pixels(
      image, points, method="nearest", padding=("constant", "wrap"),
      fill_value=7,
    )  # fmt: skip
    self.assertEqual(found.ravel().tolist(), [2**30 + 1, 7])


class AntialiasTest(absltest.TestCase):
  def test_each_axis_is_blurred_by_its_own_padding(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(12, 16, 1)).astype(np.float32)
    shrink = functools.partial(
      stnjax.warp,
      transform=jnp.eye(2, 3),
      output_shape=(6, 8),
      padding=PANORAMA,
      antialias=True,
    )
    found = shrink(image)
    turned = shrink(np.roll(image, 2, axis=1))
    np.testing.assert_allclose(turned, np.roll(found, 1, axis=1), atol=1e-5)
    image[-1] += 1000  # not seen by the first rows
    np.testing.assert_allclose(shrink(image)[:2], found[:2], atol=1e-4)

  def test_fill_is_not_blurred(self):
    theta = transforms.scaling(jnp.array([2.0, 2.0]))
    found = stnjax.warp(
      jnp.zeros((8, 8, 1)), theta, antialias=True,
      padding=("constant", "wrap"), fill_value=5.0,
    )  # fmt: skip
    expected = np.zeros((8, 8, 1))
    expected[[0, 1, -2, -1]] = 5
    np.testing.assert_allclose(found, expected, atol=1e-5)


class SplatTest(absltest.TestCase):
  @pytest.mark.usefixtures("x64")
  def test_adjoint(self):
    rng = np.random.default_rng(0)
    image, grid = rng.normal(size=(*SHAPE, 2)), random_grid(rng, 2)
    values = rng.normal(size=(*grid.shape[:-1], 2))
    read = reference.sample(
      image, grid, method="linear", padding=PANORAMA, align_corners=False
    )
    added = stnjax.splat(values, grid, SHAPE, padding=PANORAMA)
    np.testing.assert_allclose((added * image).sum(), (read * values).sum())

  def test_no_fill(self):
    with self.assertRaisesRegex(ValueError, "padding='constant' is unknown"):
      stnjax.splat(
        jnp.ones((2, 2, 1)), jnp.zeros((2, 2, 2)), (3, 3),
        padding=("constant", "wrap"),
      )  # fmt: skip


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    (("border",), r"padding must be a name or 2 names, \(y, x\), got"),
    (("wrap",) * 3, r"2 names, \(y, x\), got \('wrap', 'wrap', 'wrap'\)"),
    (("border", "mirror"), "padding='mirror' is unknown; accepted: 'zeros'"),
    (("zeros", "constant"), "must not have both 'zeros' and 'constant'"),
    (7, "padding=7 is unknown"),
  )
  def test_what_is_no_padding(self, padding, message):
    image = jnp.ones((3, 4, 1))
    for antialias in (False, True):
      with self.assertRaisesRegex(ValueError, message):
        stnjax.warp(image, jnp.eye(2, 3), padding=padding, antialias=antialias)

  def test_names_of_volumes(self):
    with self.assertRaisesRegex(ValueError, r"3 names, \(z, y, x\), got"):
      stnjax.warp(jnp.ones((3, 4, 5, 1)), jnp.eye(3, 4), padding=PANORAMA)

  def test_a_fill_needs_an_axis_that_takes_it(self):
    with self.assertRaisesRegex(
      ValueError, r"needs padding='constant', got padding=\('border', 'wrap'\)"
    ):
      stnjax.warp(
        jnp.ones((3, 4, 1)), jnp.eye(2, 3), padding=PANORAMA, fill_value=1.0
      )


if __name__ == "__main__":
  absltest.main()
