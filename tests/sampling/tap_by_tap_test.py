"""Gradients by many taps on CPU without compiled code: right, and small."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest

from stnjax.sampling.kernels import compiled, library
from stnjax.sampling.methods import METHODS
from stnjax.sampling.padding import PADDINGS
from tests.sampling.compiled_test import SHAPES, expected


def gradients(image, points, cotangent, method, padding, align_corners):
  """A jitted program of both gradients, as on a machine without a compiler."""

  def run(image, points, cotangent):
    def sample(image, points):
      return compiled.sample(
        image,
        points,
        method=METHODS[method],
        padding=PADDINGS[padding],
        align_corners=align_corners,
      )

    return jax.vjp(sample, image, points)[1](cotangent)

  with mock.patch.object(library, "is_compiled", lambda: False):
    return jax.jit(run).lower(image, points, cotangent).compile()


class TapByTapTest(parameterized.TestCase):
  @parameterized.parameters(
    ("cubic", "zeros", False, 2),
    ("spline", "reflection", True, 2),
    ("cubic", "wrap", False, 3),
  )
  @pytest.mark.usefixtures("x64")
  def test_against_numpy(self, method, padding, align_corners, num_axes):
    shape = SHAPES[num_axes][0]
    rng = np.random.default_rng(0)
    sizes = np.array(shape[::-1])
    points = rng.uniform(-2, 2, (40, num_axes)) * sizes + sizes / 2
    image = rng.normal(size=(*shape, 2))
    operands = image, points, rng.normal(size=(40, 2))
    mode = method, padding, align_corners
    found = gradients(*operands, *mode)(*operands)
    _, *wanted = expected(*operands, *mode)
    for ours, theirs in zip(found, wanted, strict=True):
      np.testing.assert_allclose(ours, theirs, atol=1e-6)

  def test_points_that_are_no_numbers_change_nothing(self):
    points = np.array([[1, 2], [np.nan, 1], [1, np.nan]], np.float32)
    image, cotangent = np.ones((4, 5, 2), np.float32), np.ones((3, 2))
    operands = image, points, cotangent.astype(np.float32)
    program = gradients(*operands, "cubic", "border", False)
    to_image, to_points = program(*operands)
    np.testing.assert_allclose(to_image.sum(axis=(0, 1)), [1, 1], atol=1e-6)
    np.testing.assert_array_equal(to_points[1:], 0)

  def test_pixels_and_values_that_are_no_numbers_stay_where_they_are(self):
    image = np.ones((6, 7, 2), np.float32)
    image[0, 0, 0] = np.nan
    far = np.array([[-9, -9], [5, 4]], np.float32)
    cotangent = np.array([[np.inf, np.nan], [1, 1]], np.float32)
    program = gradients(image, far, cotangent, "cubic", "zeros", False)
    to_image, to_points = program(image, far, cotangent)
    self.assertTrue(np.isfinite(to_image).all())
    self.assertTrue(np.isfinite(to_points).all())

  def test_no_copy_for_each_tap(self):
    image = np.ones((64, 64, 16), np.float32)
    points = np.ones((64 * 64, 2), np.float32)
    cotangent = np.ones((64 * 64, 16), np.float32)
    program = gradients(image, points, cotangent, "cubic", "border", False)
    used = program.memory_analysis()
    moved = used.argument_size_in_bytes + used.output_size_in_bytes
    self.assertLess(used.temp_size_in_bytes, 3 * moved)


if __name__ == "__main__":
  absltest.main()
