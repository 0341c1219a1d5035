"""The Triton kernels, interpreted, against weighted sums in NumPy."""

import functools
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax.sampling import padding as paddings
from stnjax.sampling.kernels import plain, triton
from stnjax.sampling.methods import METHODS
from stnjax.sampling.padding import PADDINGS
from tests.sampling.compiled_test import SHAPES, expected


def padded(points, shape, method, padding, align_corners):
  """The coordinates that a kernel takes, one array per axis."""
  if method.pads_position:
    pad = paddings.apply_padding
  else:
    pad = functools.partial(paddings.near, support=method.support)
  return [
    pad(points[..., axis], size, padding, align_corners)
    for axis, size in enumerate(shape[::-1])
  ]


def inputs(shape, channels, batch=2, count=70):
  rng = np.random.default_rng(0)
  sizes = np.array(shape[::-1])
  points = rng.uniform(-2, 2, (batch, count, len(shape))) * sizes + sizes / 2
  image = rng.normal(size=(batch, *shape, channels))
  return image, points, rng.normal(size=(batch, count, channels))


def check(method, padding, align_corners, shape, channels):
  image, points, cotangent = inputs(shape, channels)
  options = dict(
    method=METHODS[method],
    padding=PADDINGS[padding],
    align_corners=align_corners,
  )
  places = padded(points, shape, *options.values())
  values = triton.read(image, *places, **options)
  wanted = [
    expected(*one, method, padding, align_corners)
    for one in zip(image, points, cotangent, strict=True)
  ]
  for ours, (theirs, _, _) in zip(values, wanted, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-8)
  if method == "nearest":
    return

  # The derivative of padding is not the kernel's.
  def pad(points):
    return padded(points, shape, *options.values())

  _, vjp = jax.vjp(pad, jnp.asarray(points))
  (slopes,) = vjp(triton.grad_coords(image, cotangent, *places, **options))
  for ours, (_, _, theirs) in zip(slopes, wanted, strict=True):
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.usefixtures("x64")
class AgainstNumPyTest(parameterized.TestCase):
  @parameterized.parameters(
    ("linear", "zeros", False, 2),
    ("linear", "wrap", False, 3),
    ("nearest", "reflection", True, 2),
    ("cubic", "reflection", False, 2),
  )
  def test_methods(self, method, padding, align_corners, num_axes):
    check(method, padding, align_corners, SHAPES[num_axes][0], 3)

  @parameterized.product(
    method=("nearest", "linear", "cubic", "spline"),
    padding=("zeros", "border", "reflection", "wrap"),
    align_corners=(False, True),
    shape=(*SHAPES[2], *SHAPES[3]),
  )
  @pytest.mark.slow
  def test_all_modes(self, method, padding, align_corners, shape):
    check(method, padding, align_corners, shape, 2)

  @parameterized.parameters(1, 4, 64, 70)
  def test_channels(self, channels):
    check("linear", "border", False, (5, 6), channels)


class EdgesTest(absltest.TestCase):
  options = dict(
    method=METHODS["linear"], padding=PADDINGS["border"], align_corners=False
  )

  def test_points_that_are_no_numbers_read_nothing(self):
    image = jnp.ones((1, 3, 3, 1))
    x, y = jnp.array([[1.0, np.nan, 1.0]]), jnp.array([[1.0, 1.0, np.nan]])
    values = triton.read(image, x, y, **self.options)
    self.assertEqual(values.ravel().tolist(), [1, 0, 0])
    slopes = triton.grad_coords(image, values, x, y, **self.options)
    self.assertTrue(np.isfinite(slopes).all())

  def test_nothing_to_read(self):
    for batch, count, channels in ((0, 5, 1), (2, 0, 1), (2, 5, 0)):
      image = jnp.ones((batch, 3, 3, channels))
      points = jnp.ones((batch, count))
      values = triton.read(image, points, points, **self.options)
      self.assertEqual(values.shape, (batch, count, channels))
      slopes = triton.grad_coords(image, values, points, points, **self.options)
      self.assertEqual(
        [s.tolist() for s in slopes], 2 * [(0 * points).tolist()]
      )


class LoweringTest(absltest.TestCase):
  def lowered(self, **options):
    """The program of a warp's values and gradients for a GPU."""

    def run(image, theta):
      values, vjp = jax.vjp(
        functools.partial(stnjax.warp, **options), image, theta
      )
      return vjp(values)

    traced = jax.jit(run).trace(jnp.ones((2, 4, 4, 1)), jnp.ones((2, 2, 3)))
    return traced.lower(lowering_platforms=("cuda",)).as_text()

  def test_without_a_gpu_it_is_xla_s(self):
    self.assertNotIn("triton", self.lowered())

  def test_linear_images_call_both_kernels_on_a_gpu(self):
    called = []

    def record(name):
      def call(*operands, **options):
        called.append(name)
        return reference[name](*operands, **options)

      return call

    reference = {
      "read": plain.read,
      "grad_coords": plain.grad_coords,
    }
    fakes = {name: record(name) for name in reference}
    with (
      mock.patch.object(triton, "_has_gpu", lambda: True),
      mock.patch.multiple(triton, **fakes),
    ):
      self.lowered()
      self.assertEqual(sorted(called), ["grad_coords", "read"])
      called.clear()
      self.lowered(method="cubic")
      self.lowered(implementation="gather")
      self.assertEqual(called, [])


if __name__ == "__main__":
  absltest.main()
