"""Filters along an axis, compiled and by products, against loops in NumPy."""

import contextlib
import functools
from unittest import mock

from absl.testing import absltest, parameterized
import jax
from jax import export, lax
import jax.numpy as jnp
from jax.sharding import AxisType
import numpy as np
import pytest

import stnjax
from stnjax.sampling.kernels import filters, library
from tests.sampling.cases import check_gradients

# Batch, lines, pixels of a line, numbers of a pixel.
SHAPES = {
  "pixels": (2, 3, 9, 1),
  "even": (2, 2, 8, 3),
  "one pixel": (3, 2, 1, 2),
  "two pixels": (1, 1, 2, 1),
  "long rows": (2, 1, 7, 1100),
  "many rows": (1, 1, 150, 600),
  "tiles": (2, 2, 300, 2),
  "long lines": (3, 2, 1200, 1),
  "no images": (0, 2, 9, 1),
  "no numbers": (2, 2, 9, 0),
}

THETA = 3 * np.eye(2, 3)


def some(shape, cyclic):
  """Images, weights and reaches, from none to all."""
  rng = np.random.default_rng(0)
  count = filters.num_weights(shape[2], cyclic)
  weights = rng.normal(size=(shape[0], count))
  reach = np.linspace(count - 1, 0, shape[0]).astype(np.int32)
  return rng.normal(size=shape), weights, reach


def loops(images, weights, reach, cyclic):
  """Filtered images; a function from their cotangent to both gradients."""
  size = images.shape[2]

  def pairs():
    """Distances, and pixels of the result and of the image that far apart."""
    for image, furthest in enumerate(reach):
      for d in range(furthest + 1):
        for offset in {d, -d} if d else (0,):
          here = np.arange(size)
          there = here + offset
          inside = np.full(size, cyclic) | (there >= 0) & (there < size)
          yield (image, d), here[inside], there[inside] % size

  filtered = np.zeros_like(images)
  for (image, d), here, there in pairs():
    filtered[image][:, here] += weights[image, d] * images[image][:, there]

  def gradients(cotangent):
    to_images, to_weights = np.zeros_like(images), np.zeros_like(weights)
    for (image, d), here, there in pairs():
      received = cotangent[image][:, here]
      to_images[image][:, there] += weights[image, d] * received
      to_weights[image, d] += (received * images[image][:, there]).sum()
    return to_images, to_weights

  return filtered, gradients


@contextlib.contextmanager
def form(compiled):
  """Uses the compiled code if it is there, of any size, or nowhere."""
  there = library.is_compiled() and compiled
  with (
    mock.patch.object(library, "is_compiled", lambda: there),
    mock.patch.object(filters, "_SMALL", 0),
  ):
    yield


def afresh(run, *operands, compiled=True):
  """What `run` returns, by the compiled code if it is there, or without."""
  with form(compiled):
    return jax.jit(lambda *operands: run(*operands))(*operands)


@pytest.mark.usefixtures("x64")
class FiltersTest(parameterized.TestCase):
  @parameterized.product(
    case=tuple(SHAPES), cyclic=(False, True), compiled=(True, False)
  )
  def test_values_and_gradients(self, case, cyclic, compiled):
    images, weights, reach = some(SHAPES[case], cyclic)
    expected, gradients = loops(images, weights, reach, cyclic)
    cotangent = np.cos(np.arange(images.size)).reshape(images.shape)

    def run(images, weights):
      call = functools.partial(
        filters.symmetric, reach=reach, axis=2, cyclic=cyclic
      )
      value, vjp = jax.vjp(call, images, weights)
      return value, vjp(jnp.asarray(cotangent))

    value, found = afresh(run, images, weights, compiled=compiled)
    np.testing.assert_allclose(value, expected, atol=1e-10)
    for a, b in zip(found, gradients(cotangent), strict=True):
      np.testing.assert_allclose(a, b, atol=1e-9)

  @parameterized.product(cyclic=(False, True), compiled=(True, False))
  def test_float32(self, cyclic, compiled):
    images, weights, reach = some((2, 3, 300, 5), cyclic)
    expected, _ = loops(images, weights, reach, cyclic)
    call = functools.partial(filters.symmetric, axis=2, cyclic=cyclic)
    single = images.astype(np.float32), weights.astype(np.float32)
    value = afresh(call, *single, reach, compiled=compiled)
    self.assertEqual(value.dtype, np.float32)
    np.testing.assert_allclose(value, expected, atol=1e-3)

  @parameterized.product(cyclic=(False, True), compiled=(True, False))
  def test_further_derivatives(self, cyclic, compiled):
    images, weights, reach = some((2, 2, 6, 2), cyclic)

    def loss(images, weights):
      return jnp.sin(
        filters.symmetric(images, weights, reach, axis=2, cyclic=cyclic)
      ).sum()

    def slope(images, weights):
      to_images, to_weights = jax.grad(loss, (0, 1))(images, weights)
      return jnp.cos(to_images).sum() + jnp.cos(to_weights).sum()

    with form(compiled):
      check_gradients(slope, images, weights)

  @parameterized.parameters((0, 0), (1, None), (None, 1))
  def test_vmap(self, images_axis, weights_axis):
    images, weights, reach = some((2, 2, 6, 2), cyclic=False)
    several = [
      operand if axis is None else np.stack([operand, 2 * operand + 1], axis)
      for operand, axis in ((images, images_axis), (weights, weights_axis))
    ]

    def run(images, weights):
      return filters.symmetric(images, weights, reach, axis=2, cyclic=False)

    axes = images_axis, weights_axis
    found = jax.jit(jax.vmap(run, axes))(*several)
    for index in range(2):
      alone = [
        operand if axis is None else np.take(operand, index, axis)
        for operand, axis in zip(several, axes, strict=True)
      ]
      expected, _ = loops(*alone, reach, False)
      np.testing.assert_allclose(found[index], expected, atol=1e-12)

  @parameterized.product(axis=(2, 3), cyclic=(False, True))
  def test_several_axes_of_the_batch_and_another_axis(self, axis, cyclic):
    shape = (2, 3, 7, 8, 2)
    images, weights, reach = some((6, 1, shape[axis], 1), cyclic)
    images = np.random.default_rng(1).normal(size=shape)
    batched = weights.reshape(2, 3, -1), reach.reshape(2, 3)
    found = afresh(
      functools.partial(filters.symmetric, axis=axis, cyclic=cyclic),
      images,
      *batched,
    )
    if axis == 2:
      lines = np.moveaxis(images, 2, 3).reshape(6, 8, 7, 2)
    else:
      lines = images.reshape(6, 7, 8, 2)
    expected, _ = loops(lines, weights, reach, cyclic)
    if axis == 2:
      expected = expected.swapaxes(1, 2)
    np.testing.assert_allclose(found, expected.reshape(shape), atol=1e-12)

  @parameterized.parameters("filter", "warp")
  def test_vmap_of_a_choice(self, what):
    """Constants of its branches get the axis that is mapped, too."""
    images, weights, reach = some((2, 2, 6, 2), cyclic=False)

    def blurred(images):
      if what == "warp":
        return stnjax.warp(images, THETA, antialias=True)
      return filters.symmetric(images, weights, reach, axis=2, cyclic=False)

    def run(choice, images):
      return lax.cond(choice, blurred, jnp.zeros_like, images)

    several = np.stack([images, 2 * images])
    found = jax.jit(jax.vmap(run))(np.array([True, False]), several)
    np.testing.assert_allclose(found[0], blurred(images), atol=1e-12)
    np.testing.assert_array_equal(found[1], np.zeros_like(images))

  def test_outside_jit_and_without_it(self):
    operands = some((2, 2, 6, 2), cyclic=True)
    expected, _ = loops(*operands, True)
    operands = list(map(jnp.asarray, operands))
    value = filters.symmetric(*operands, axis=2, cyclic=True)
    np.testing.assert_allclose(value, expected, atol=1e-12)
    with jax.disable_jit():
      value = filters.symmetric(*operands, axis=2, cyclic=True)
    np.testing.assert_allclose(value, expected, atol=1e-12)

  def test_numbers_beyond_the_reach_do_not_count(self):
    images, weights, reach = some((1, 1, 9, 1), cyclic=False)
    reach = reach * 0 + 1
    images[:, :, 5] = np.nan
    value = afresh(
      functools.partial(filters.symmetric, axis=2, cyclic=False),
      images,
      weights,
      reach,
    )
    found = np.isnan(value[0, 0, :, 0])
    if library.is_compiled():
      np.testing.assert_array_equal(np.flatnonzero(found), [4, 5, 6])

  def test_exported(self):
    operands = some((2, 2, 6, 2), cyclic=False)
    call = jax.jit(functools.partial(filters.symmetric, axis=2, cyclic=False))
    program = export.export(call, platforms=("cpu", "tpu", "cuda"))(*operands)
    expected, _ = loops(*operands, False)
    np.testing.assert_allclose(program.call(*operands), expected, atol=1e-12)


class ModesTest(absltest.TestCase):
  def test_numbers_are_as_wide_as_when_it_was_traced(self):
    image = np.random.default_rng(0).normal(size=(2, 9, 8, 1))

    @jax.jit
    def slope(image):
      return jax.grad(lambda x: stnjax.warp(x, THETA, antialias=True).sum())(
        image
      )

    with jax.enable_x64(True):
      traced = slope.trace(image)
      expected = afresh(slope, image)
    with mock.patch.object(library, "is_compiled", lambda: False):
      text = traced.lower().as_text()  # outside
      with jax.enable_x64(True):
        np.testing.assert_allclose(
          traced.lower().compile()(image), expected, atol=1e-12
        )
    self.assertNotIn("f32", text)


class DevicesTest(parameterized.TestCase):
  def test_the_same_sums_every_time(self):
    rng = np.random.default_rng(0)
    images, cotangent = rng.normal(size=(2, 1, 40, 700, 30)).astype(np.float32)
    weights = rng.normal(size=(1, 700)).astype(np.float32)

    @jax.jit
    def run(images, weights, cotangent):
      call = functools.partial(
        filters.symmetric, reach=jnp.array([20]), axis=2, cyclic=False
      )
      value, vjp = jax.vjp(call, images, weights)
      return value, *vjp(cotangent)

    first = run(images, weights, cotangent)
    for _ in range(5):
      for a, b in zip(first, run(images, weights, cotangent), strict=True):
        np.testing.assert_array_equal(a, b)

  @parameterized.product(axis=(0, 1), padding=("zeros", "wrap"))
  def test_images_that_lie_on_a_mesh_explicitly(self, axis, padding):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Explicit,))
    image = np.random.default_rng(0).normal(size=(2, 4, 8, 12, 2))
    image = image.astype(np.float32)
    spec = jax.P("x") if axis == 0 else jax.P(None, "x")

    @jax.jit
    def warped(image):
      theta = jnp.asarray(THETA, jnp.float32)
      return stnjax.warp(image, theta, antialias=True, padding=padding)

    expected = np.asarray(warped(image))
    with jax.set_mesh(mesh):
      lying = jax.device_put(image, jax.NamedSharding(mesh, spec))
      found = warped(lying)
      self.assertEqual(found.sharding.spec[axis], "x")
      np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5)

  def test_shard_map(self):
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 30, 20, 2)).astype(np.float32)
    theta = 3 * np.eye(2, 3, dtype=np.float32)

    def gradients(image, theta):
      def loss(image, theta):
        return (stnjax.warp(image, theta, antialias=True) ** 2).sum()

      return jax.grad(loss, (0, 1))(image, theta)

    split, whole = jax.P("batch"), jax.P()
    mapped = jax.shard_map(
      gradients, mesh=mesh, in_specs=(split, whole), out_specs=(split, whole)
    )
    for a, b in zip(
      jax.jit(mapped)(image, theta),
      jax.jit(gradients)(image, theta),
      strict=True,
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
  absltest.main()
