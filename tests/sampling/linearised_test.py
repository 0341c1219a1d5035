"""method="linearised": values of linear, slopes of a plane around."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from tests.sampling.cases import random_grid

KEY = jax.random.key(0)


class LinearisedTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_values_and_image_gradient_are_those_of_linear(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    grid = random_grid(rng, 2).astype(np.float32)
    cotangent = rng.normal(size=(*grid.shape[:-1], 2)).astype(np.float32)

    def value_and_gradient(**options):
      @jax.jit
      def run(image, grid, cotangent):
        value, vjp = jax.vjp(
          lambda i: stnjax.grid_sample(i, grid, **options), image
        )
        return value, vjp(cotangent)[0]

      return run(image, grid, cotangent)

    ours = value_and_gradient(method="linearised", key=KEY)
    linear = value_and_gradient()
    np.testing.assert_allclose(ours[0], linear[0], atol=1e-6)
    np.testing.assert_allclose(ours[1], linear[1], rtol=1e-6, atol=1e-6)

  @parameterized.parameters(2, 3)
  def test_slope_of_a_plane_is_exact(self, num_axes):
    shape = (40, 60, 50)[:num_axes]
    slopes = np.array([0.5, -1.5, 2.0])[:num_axes]  # per pixel, x first
    pixels = np.stack(np.indices(shape)[::-1], -1)
    image = (pixels @ slopes)[..., None].astype(np.float32)
    grid = jnp.full((*(20, 30, 25)[:num_axes], num_axes), 0.1)
    grad = jax.jit(
      jax.grad(
        lambda g: stnjax.grid_sample(
          image, g, method="linearised", key=KEY
        ).sum()
      )
    )(grid)
    expected = slopes * np.array(shape[::-1]) / 2
    np.testing.assert_allclose(
      grad, np.broadcast_to(expected, grad.shape), rtol=1e-3
    )

  @pytest.mark.slow
  def test_slopes_where_batches_broadcast(self):
    self.check_slopes((3,), (2, 1))

  @parameterized.parameters(((8,), ()), ((1,), ()), ((2, 3), (3,)), ((), (2,)))
  @pytest.mark.slow
  def test_slopes_of_other_batches(self, image_batch, grid_batch):
    self.check_slopes(image_batch, grid_batch)

  def check_slopes(self, image_batch, grid_batch):
    """Ramps i * x, whose slope is i, with as many grids as may be."""
    factors = np.arange(1.0, 1 + np.prod(image_batch, dtype=int))
    factors = factors.reshape(*image_batch, 1, 1, 1)
    image = jnp.asarray(factors * np.arange(64.0)[:, None], jnp.float32)
    image = jnp.broadcast_to(image, (*image_batch, 64, 64, 1))
    batch = np.broadcast_shapes(image_batch, grid_batch)

    def sample(displacement):  # one for each result, to tell their slopes apart
      grid = jnp.zeros((*grid_batch, 5, 5, 2)) + displacement
      return stnjax.grid_sample(image, grid, method="linearised", key=KEY)

    grid = jnp.zeros((*grid_batch, 5, 5, 2))
    jacobian = jax.jit(jax.jacfwd(sample))(jnp.zeros(2))
    self.assertEqual(jacobian.shape, (*batch, 5, 5, 1, 2))
    slope = np.stack([32 * factors, 0 * factors], -1)
    np.testing.assert_allclose(
      jacobian, np.broadcast_to(slope, jacobian.shape), atol=1e-2
    )
    np.testing.assert_allclose(
      stnjax.grid_sample(image, grid, method="linearised", key=KEY),
      stnjax.grid_sample(image, grid),
    )

  def test_warp_of_several_images_by_one_transform(self):
    factors = jnp.arange(1.0, 5.0).reshape(4, 1, 1, 1)
    image = jnp.broadcast_to(
      factors * jnp.arange(32.0)[:, None], (4, 32, 32, 1)
    )
    slopes = jax.jit(
      jax.jacfwd(
        lambda theta: stnjax.warp(image, theta, method="linearised", key=KEY)
      )
    )(jnp.eye(2, 3))
    inner = slopes[
      :, 8:-8, 8:-8, 0, 0, 2
    ]  # how each pixel moves with the shift
    expected = np.broadcast_to(16 * factors[..., 0], inner.shape)
    np.testing.assert_allclose(inner, expected, rtol=1e-3)

  @pytest.mark.slow
  def test_gradient_reaches_further_than_linear(self):
    # A bright pixel two pixels away: linear sees nothing of it.
    image = jnp.zeros((9, 9, 1)).at[4, 6].set(1.0)
    grid = jnp.zeros((1, 1, 2))

    def slope(key, method):
      return jax.grad(
        lambda g: stnjax.grid_sample(image, g, method=method, key=key).sum()
      )(grid)[0, 0, 0]

    self.assertEqual(slope(None, "linear"), 0)
    keys = jax.random.split(KEY, 500)
    slopes = jax.jit(jax.vmap(lambda key: slope(key, "linearised")))(keys)
    error = slopes.std() / len(keys) ** 0.5
    self.assertGreater(slopes.mean(), 5 * error)

  def test_the_key_decides(self):
    image = np.random.default_rng(0).normal(size=(9, 9, 1))
    grid = jnp.zeros((2, 2, 2))

    @jax.jit
    def slope(seed):
      return jax.grad(
        lambda g: stnjax.grid_sample(
          image, g, method="linearised", key=jax.random.key(seed)
        ).sum()
      )(grid)

    np.testing.assert_array_equal(slope(1), slope(1))
    self.assertTrue((slope(1) != slope(2)).all())

  def test_vmap_over_keys_and_images(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 5, 6, 1)).astype(np.float32)
    grid = rng.uniform(-1, 1, (3, 2, 2, 2)).astype(np.float32)
    keys = jax.random.split(KEY, 3)
    out = jax.vmap(
      lambda i, g, k: stnjax.grid_sample(i, g, method="linearised", key=k)
    )(image, grid, keys)
    np.testing.assert_allclose(out, stnjax.grid_sample(image, grid), atol=1e-6)


if __name__ == "__main__":
  absltest.main()
