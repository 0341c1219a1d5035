"""Checks of arguments that all functions share."""

import warnings

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax


class ByteOrderTest(parameterized.TestCase):
  """Arrays of either byte order are read equally."""

  @parameterized.parameters(("i2",))
  @pytest.mark.slow
  def test_calls(self, kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9, (5, 6, 2)).astype(f">{kind}")
    grid = rng.uniform(-1.2, 1.2, (4, 3, 2)).astype(">f4")
    fill = np.array([1, 2], f">{kind}")

    def native(array):
      return array.astype(array.dtype.newbyteorder("="))

    for call in (
      lambda i, g, f: stnjax.grid_sample(
        i, g, padding="constant", fill_value=f
      ),
      lambda i, g, f: stnjax.splat(i[:4, :3], g, (5, 6)),
      lambda i, g, f: stnjax.warp(
        i,
        np.eye(2, 3, dtype=">f4"),
        output_shape=(3, 4),
        padding="constant",
        fill_value=f,
      ),
      lambda i, g, f: stnjax.spline_coefficients(i),
    ):
      ours = call(image, grid, fill)
      expected = call(native(image), native(grid), native(fill))
      self.assertEqual(ours.dtype, expected.dtype)
      np.testing.assert_array_equal(ours, expected)


class ChannelsFirstTest(parameterized.TestCase):
  CALLS = {
    "warp": lambda image: stnjax.warp(image, jnp.eye(2, 3)),
    "warp_volumes": lambda image: stnjax.warp(image, jnp.eye(3, 4)),
    "grid_sample": lambda image: stnjax.grid_sample(
      image, jnp.zeros((2, 2, 2))
    ),
    "coefficients": stnjax.spline_coefficients,
  }

  @parameterized.parameters(
    ((2, 3, 8, 224), 2), ((1, 28, 28), 2), ((2, 1, 8, 20, 20), 3)
  )
  def test_warns_of_small_ones(self, shape, num_axes):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with self.assertWarnsRegex(UserWarning, "moveaxis"):
      jax.eval_shape(
        lambda i: stnjax.warp(i, jnp.eye(num_axes, num_axes + 1)), image
      )

  @parameterized.parameters(*CALLS)
  def test_warns_once_and_where_it_was_called(self, name):
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      volume = (32,) * (name == "warp_volumes")
      shape = (4, 3, 32, 32, *volume)
      image = jax.ShapeDtypeStruct(shape, jnp.float32)
      jax.eval_shape(self.CALLS[name], image)
    (warning,) = caught
    self.assertIn("moveaxis", str(warning.message))
    self.assertEqual(warning.filename, __file__)

  @parameterized.parameters(
    ((4, 4, 256),),
    ((1, 28, 1),),
    ((3, 200, 3),),
    ((28, 28, 64),),
    ((1, 1, 512),),
  )
  def test_does_not_warn_of_feature_maps(self, shape):
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      image = jax.ShapeDtypeStruct(shape, jnp.float32)
      jax.eval_shape(self.CALLS["warp"], image)


if __name__ == "__main__":
  absltest.main()
