"""Flows along velocity fields: against an integrator, and diffeomorphisms."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate

import stnjax
from stnjax import coordinates
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, determinants, smooth_field


class VelocityTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_against_an_integrator(self):
    shape, rng = (48, 64), np.random.default_rng(0)
    velocity = smooth_field(rng, shape, 0.3)
    ends = [
      coordinates.lattice(shape)[0, :, 0],
      coordinates.lattice(shape)[:, 0, 1],
    ]
    field = scipy.interpolate.RegularGridInterpolator(
      (ends[1], ends[0]), velocity, bounds_error=False, fill_value=None
    )
    start = np.asarray(coordinates.lattice(shape))[8:-8:10, 8:-8:10]
    path = scipy.integrate.solve_ivp(
      lambda _, p: field(p.reshape(-1, 2)[:, ::-1]).ravel(),
      (0, 1),
      start.ravel(),
      rtol=1e-6,
    )
    end = path.y[:, -1].reshape(start.shape)
    self.assertGreater(np.abs(end - start).max(), 0.1)
    grid = compiled.velocity_grid(velocity)[8:-8:10, 8:-8:10]
    np.testing.assert_allclose(grid, end, atol=2e-3)

  @parameterized.parameters(((5, 6), False), ((1, 4), True), ((3, 4, 2), False))
  @pytest.mark.slow
  def test_constant_velocity_is_a_shift(self, shape, align_corners):
    velocity = jnp.full((*shape, len(shape)), 0.3)
    np.testing.assert_allclose(
      compiled.velocity_grid(velocity, align_corners=align_corners),
      compiled.flow_grid(velocity, align_corners=align_corners),
      atol=1e-6,
    )
    np.testing.assert_array_equal(
      compiled.velocity_grid(0 * velocity, align_corners=align_corners),
      coordinates.lattice(shape, align_corners=align_corners),
    )

  def test_does_not_fold_where_a_displacement_does(self):
    field = smooth_field(np.random.default_rng(3), (48, 48), 0.8)
    self.assertLess(determinants(compiled.flow_grid(field)).min(), 0)
    self.assertGreater(determinants(compiled.velocity_grid(field)).min(), 0)

  def test_more_steps_are_closer(self):
    field = smooth_field(np.random.default_rng(1), (32, 32), 0.4)
    exact = compiled.velocity_grid(field, steps=12)
    errors = [
      np.abs(compiled.velocity_grid(field, steps=s) - exact).max()
      for s in (0, 2, 4, 7)
    ]
    self.assertTrue((np.diff(errors) < 0).all(), errors)

  @pytest.mark.slow
  def test_gradient_does_not_keep_every_step(self):
    field = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    gradient = jax.jit(jax.grad(lambda v: stnjax.velocity_grid(v).sum()))
    memory = gradient.lower(field).compile().memory_analysis()
    # The fields before the 7 steps, and a step of its own.
    self.assertLess(memory.temp_size_in_bytes, 40 * field.size * 4)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient(self):
    field = 0.3 * np.random.default_rng(0).normal(size=(2, 4, 5, 2))
    check_gradients(lambda v: stnjax.velocity_grid(v, steps=3), field)


if __name__ == "__main__":
  absltest.main()
