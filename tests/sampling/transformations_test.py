"""The same under JAX's transformations: jit, export, pmap, shard_map."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from tests import reference
from tests.sampling.cases import random_grid

KEY = jax.random.key(0)


def sample_fn(**mode):
  return lambda image, grid: stnjax.grid_sample(image, grid, **mode)


class TransformationsTest(chex.TestCase):
  """The same under what JAX does to functions."""

  @chex.all_variants()
  def test_all_variants_agree(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    grid = random_grid(rng, 2).astype(np.float32)
    expected = reference.sample(
      image, grid, method="linear", padding="border", align_corners=False
    )
    sample = self.variant(sample_fn(padding="border"))
    np.testing.assert_allclose(sample(image, grid), expected, atol=1e-5)

  @pytest.mark.slow
  def test_checkpoint_and_export(self):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(5, 6, 2)), jnp.float32)
    grid = jnp.asarray(random_grid(rng, 2), jnp.float32)

    @jax.jit
    def gradients(grid):
      def loss(grid):
        return jnp.sum(stnjax.grid_sample(image, grid) ** 2)

      return jax.grad(jax.checkpoint(loss))(grid), jax.grad(loss)(grid)

    chex.assert_trees_all_close(*gradients(grid), atol=1e-4)
    for method in ("nearest", "linear"):
      sample = sample_fn(method=method)
      exported = jax.export.export(jax.jit(sample))(image, grid)
      chex.assert_trees_all_close(
        exported.call(image, grid), sample(image, grid), atol=1e-5
      )
      # Nothing that only this runtime knows.
      self.assertNotIn("custom_call", exported.mlir_module())

  def test_sharded_batch_needs_no_collectives(self):
    self.check_collectives("linear")

  @parameterized.parameters(
    "nearest", "cubic", "spline", "linearised", "splat", "warp", "velocity"
  )
  @pytest.mark.slow
  def test_sharded_batch_of_slow_methods_needs_no_collectives(self, method):
    self.check_collectives(method)

  def check_collectives(self, method):
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    spec = jax.NamedSharding(mesh, jax.P("batch"))
    image = jax.device_put(jnp.ones((8, 6, 6, 2)), spec)
    grid = jax.device_put(jnp.zeros((8, 6, 6, 2)), spec)
    theta = jax.device_put(jnp.ones((8, 3, 3)), spec)

    def loss(image, grid, theta):
      if method == "splat":
        result = stnjax.splat(image, grid, (5, 5))
      elif method == "warp":
        result = stnjax.warp(image, theta, antialias=True)
      elif method == "velocity":
        result = stnjax.velocity_grid(grid, steps=2)
      else:
        key = KEY if method == "linearised" else None
        result = stnjax.grid_sample(image, grid, method=method, key=key)
      return (result**2).sum()

    grads = jax.jit(jax.grad(loss, (0, 1, 2)), out_shardings=(spec, spec, spec))
    text = grads.lower(image, grid, theta).compile().as_text()
    for collective in (" all-gather", " all-reduce", " all-to-all", "permute("):
      self.assertNotIn(collective, text)

  @pytest.mark.slow
  def test_pmap_and_shard_map(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 2, 5, 6, 1)).astype(np.float32)
    grid = rng.uniform(-1, 1, (4, 2, 3, 3, 2)).astype(np.float32)
    sample = sample_fn(method="nearest")
    expected = sample(image, grid)
    np.testing.assert_allclose(
      jax.pmap(sample)(image, grid), expected, atol=1e-5
    )
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    spec = jax.P("batch")
    mapped = jax.shard_map(sample, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(mapped(image, grid), expected, atol=1e-5)

  @parameterized.parameters((False, "Explicit"), (True, "Manual"))
  @pytest.mark.slow
  def test_gradients_of_a_batch_over_devices(self, adjoint, axis_type):
    self.check_gradients(adjoint, axis_type)

  @parameterized.parameters((True, "Explicit"), (False, "Manual"))
  @pytest.mark.slow
  def test_gradients_over_devices_of_other_kinds(self, adjoint, axis_type):
    self.check_gradients(adjoint, axis_type)

  def check_gradients(self, adjoint, axis_type):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 5, 6, 2)).astype(np.float32)
    grid = rng.uniform(-1, 1, (4, 5, 6, 2)).astype(np.float32)

    def loss(image, grid):
      if adjoint:
        return (stnjax.splat(image, grid, (3, 4)) ** 3).sum()
      return (stnjax.grid_sample(image, grid) ** 3).sum()

    gradients = jax.grad(loss, (0, 1))
    expected = jax.jit(gradients)(image, grid)
    kind = "Auto" if axis_type == "Manual" else axis_type
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType[kind],)
    )
    spec = jax.P("batch")
    if axis_type == "Manual":
      gradients = jax.shard_map(gradients, in_specs=spec, out_specs=spec)
    with jax.set_mesh(mesh):
      operands = jax.device_put((image, grid), jax.NamedSharding(mesh, spec))
      found = jax.jit(gradients)(*operands)
    chex.assert_trees_all_close(found, expected, atol=1e-4)


if __name__ == "__main__":
  absltest.main()
