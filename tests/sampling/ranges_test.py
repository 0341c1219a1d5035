"""Axes and coordinates at the ends of the range of floats and indices."""

import itertools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import sampling
from tests import reference


class RangeTest(parameterized.TestCase):
  """Axes and coordinates at the ends of the range of floats and indices."""

  PERIODIC = (("wrap", False), ("reflection", False), ("reflection", True))

  @parameterized.parameters(
    ("nearest", "border"), ("linear", "zeros"), ("cubic", "border")
  )
  def test_outside_of_a_long_axis(self, method, padding):
    image = jnp.ones((1, 2**23 + 64, 1), jnp.bfloat16).at[:, -8:].set(2)
    grid = jnp.array([[[1.5, 0.0], [-1.5, 0.0], [1e30, 0.0], [1 - 1e-6, 0.0]]])
    out = stnjax.grid_sample(image, grid, method=method, padding=padding)
    expected = [0, 0, 0, 2] if padding == "zeros" else [2, 1, 2, 2]
    np.testing.assert_array_equal(out.ravel(), expected)

  @parameterized.parameters(
    *itertools.product(("linear",), PERIODIC, (41, 1000)),
    ("nearest", ("wrap", False), 42),
    ("cubic", ("reflection", False), 5),
  )
  def test_periods_of_huge_coordinates(self, method, mode, size):
    self.check_periods(method, mode, size)

  @parameterized.product(
    method=("nearest", "linear", "cubic"),
    mode=PERIODIC,
    size=(5, 41, 42, 1000),
  )
  @pytest.mark.slow
  def test_periods_of_every_method(self, method, mode, size):
    self.check_periods(method, mode, size)

  def check_periods(self, method, mode, size):
    places = [2.0**23 + 1, 2.0**24 + 2, -(2.0**25) - 4, 1e9, -1e12, 1e30]
    padding, align_corners = mode
    period = size if padding == "wrap" else 2 * (size - align_corners)
    image = jnp.arange(float(size)).reshape(1, size, 1)
    points = np.stack([places, np.zeros(6)], -1).astype(np.float32)
    out = sampling.sample_pixels(
      image,
      jnp.asarray(points[None]),
      method=method,
      padding=padding,
      align_corners=align_corners,
    )
    rests = [int(place) % period for place in points[:, 0]]  # of exact integers
    expected = [
      reference.source(rest, size, padding, align_corners) for rest in rests
    ]
    np.testing.assert_array_equal(out.ravel(), expected)

  @parameterized.parameters("nearest", "linear")
  @pytest.mark.slow
  def test_more_pixels_than_an_index_of_32_bits_counts(self, method):
    image = np.zeros((32769, 65536, 1), np.uint8)
    image[:: image.shape[0] - 1, :: image.shape[1] - 1, 0] = [
      [11, 22],
      [33, 44],
    ]
    corners = np.stack(np.meshgrid([-1.0, 1.0], [-1.0, 1.0]), -1)
    out = stnjax.grid_sample(
      image, corners, method=method, padding="border", align_corners=True
    )
    np.testing.assert_array_equal(out[..., 0], [[11, 22], [33, 44]])

  def test_an_axis_that_is_too_long(self):
    image = jax.ShapeDtypeStruct((1, 2**30 + 1, 1), jnp.uint8)
    grid = jnp.zeros((1, 1, 2))
    with self.assertRaisesRegex(ValueError, "image .*1073741824 pixels"):
      jax.eval_shape(lambda image: stnjax.grid_sample(image, grid), image)


if __name__ == "__main__":
  absltest.main()
