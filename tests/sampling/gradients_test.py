"""Gradients of sampling: against differences, and where they must vanish."""

import re

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

import stnjax
from tests import reference
from tests.sampling.cases import off_lattice_grid

KEY = jax.random.key(0)


def sample_fn(**mode):
  return lambda image, grid: stnjax.grid_sample(image, grid, **mode)


def value_and_gradients_fn(**mode):
  """Value and both gradients, which compile as one."""

  def run(image, grid, cotangent):
    value, vjp = jax.vjp(sample_fn(**mode), image, grid)
    return value, *vjp(cotangent)

  return run


class GradientTest(parameterized.TestCase):
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_numerical_gradients_off_the_lattice(self):
    mode = dict(method="spline", padding="border", implementation="matmul")
    self.check_numerically(mode)

  @parameterized.product(
    method=("linear", "cubic", "spline"), padding=("zeros", "reflection")
  )
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_numerical_gradients_of_every_method(self, **mode):
    self.check_numerically(mode)

  def check_numerically(self, mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    grid = off_lattice_grid(rng, (5, 6), -2, 7, False)
    sample = jax.jit(sample_fn(**mode))
    check_grads(sample, (image, grid), 1, ("fwd", "rev"), eps=1e-5)

  @pytest.mark.usefixtures("x64")
  def test_second_derivatives(self):
    self.check_second_derivatives("linear", "zeros")

  @parameterized.parameters(("cubic", "border"), ("cubic", "reflection"))
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_second_derivatives_of_cubic(self, method, padding):
    self.check_second_derivatives(method, padding)

  def check_second_derivatives(self, method, padding):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 1))
    grid = off_lattice_grid(rng, (5, 6), -2, 7, False)
    sample = sample_fn(method=method, padding=padding)
    gradient = jax.jit(jax.grad(lambda i, g: (sample(i, g) ** 2).sum(), (0, 1)))
    check_grads(gradient, (image, grid), 1, ("fwd",), eps=1e-5)

  @parameterized.parameters("linear", "cubic")
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_numerical_gradients_of_volumes(self, method):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 4, 5, 1))
    grid = off_lattice_grid(rng, (3, 4, 5), -2, 5, False)
    check_grads(sample_fn(method=method), (image, grid), 1, ("rev",), eps=1e-6)

  @parameterized.parameters(
    ("linear", "constant"),
    ("spline", "reflection", "matmul"),
    ("linearised", "constant"),
  )
  def test_no_coordinate_makes_a_gradient_that_is_not_finite(
    self, method, padding, implementation="auto"
  ):
    self.check_finite(method, padding, implementation)

  @parameterized.product(
    method=("nearest", "linear", "cubic", "spline"),
    padding=("constant", "reflection"),
  )
  @pytest.mark.slow
  def test_no_coordinate_of_any_method_makes_one(self, method, padding):
    self.check_finite(method, padding, "gather")

  def check_finite(self, method, padding, implementation):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)))
    bad = np.array([np.nan, np.inf, -np.inf, 1e30, -3e9, 2**31])
    good = np.full_like(bad, 0.3)
    grid = jnp.stack(
      [
        jnp.stack([jnp.asarray(x), jnp.asarray(y)], -1)
        for x, y in ((bad, good), (good, bad), (bad, bad), (good, good))
      ]
    )
    cotangent = jnp.ones((*grid.shape[:-1], 2), image.dtype)
    read = value_and_gradients_fn(
      method=method,
      padding=padding,
      implementation=implementation,
      key=KEY if method == "linearised" else None,
    )
    value, to_image, to_grid = jax.jit(read)(image, grid, cotangent)
    chex.assert_tree_all_finite((value, to_image, to_grid))
    np.testing.assert_array_equal(to_grid[~np.isfinite(grid)], 0)

  @parameterized.parameters("bfloat16", "float16")
  def test_gradient_of_a_narrow_image_is_summed_in_a_wide_dtype(self, dtype):
    grad = jax.grad(
      lambda image: (
        stnjax.grid_sample(image, jnp.zeros((64, 64, 2)), padding="border")
        .astype(jnp.float32)
        .sum()
      )
    )(jnp.ones((1, 1, 1), dtype))
    self.assertEqual(float(grad[0, 0, 0]), 4096)

  def test_convention_right_hand_gradient_at_pixel_centres(self):
    ramp = jnp.array([0.0, 1.0, 3.0, 7.0])[None, :, None]
    x = reference.to_coordinate(np.arange(4), 4, False)
    grid = jnp.stack([jnp.asarray(x), jnp.zeros(4)], -1)[None]
    grad = jax.jit(jax.grad(lambda g: stnjax.grid_sample(ramp, g).sum()))(grid)
    np.testing.assert_allclose(grad[0, :, 0], np.array([1, 2, 4, -7]) * 2)

  @parameterized.parameters("linear", "linearised")
  def test_unused_image_cotangent_costs_nothing(self, method):
    self.check_unused(method)

  @parameterized.parameters("cubic", "spline")
  @pytest.mark.slow
  def test_unused_image_cotangent_of_others_costs_nothing(self, method):
    self.check_unused(method)

  def check_unused(self, method):
    image = jnp.ones((2, 8, 8, 3))
    grid = jnp.zeros((2, 4, 4, 2))
    key = KEY if method == "linearised" else None

    def text(argnums):
      grad = jax.grad(
        lambda i, g: stnjax.grid_sample(i, g, method=method, key=key).sum(),
        argnums,
      )
      return jax.jit(grad).lower(image, grid).as_text()

    adding = re.compile("stablehlo.scatter|sampler_grad_image")
    self.assertNotRegex(text(1), adding)
    self.assertRegex(text(0), adding)


if __name__ == "__main__":
  absltest.main()
