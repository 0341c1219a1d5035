"""splat: batches, dtypes, gradients, errors; values are in contract_test."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

import stnjax
from tests.sampling import compiled
from tests.sampling.cases import off_lattice_grid


class SplatTest(parameterized.TestCase):
  @parameterized.parameters(
    ((), (3,)), ((3,), ()), ((2, 1), (3,)), ((0,), (0,))
  )
  def test_batches_broadcast(self, values_batch, grid_batch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(*values_batch, 2, 3, 2)).astype(np.float32)
    grid = rng.uniform(-1, 1, (*grid_batch, 2, 3, 2)).astype(np.float32)
    out = compiled.splat(values, grid, (4, 5))
    batch = np.broadcast_shapes(values_batch, grid_batch)
    self.assertEqual(out.shape, (*batch, 4, 5, 2))
    values = np.broadcast_to(values, (*batch, 2, 3, 2))
    grid = np.broadcast_to(grid, (*batch, 2, 3, 2))
    for place in np.ndindex(*batch):
      alone = compiled.splat(values[place], grid[place], (4, 5))
      np.testing.assert_allclose(out[place], alone, atol=1e-6)

  @parameterized.parameters(
    ("bfloat16", "bfloat16"), ("float32", "float32"), ("uint8", "float32")
  )
  def test_dtypes(self, dtype, expected):
    # 300 ones into one pixel: more than bfloat16 counts to.
    out = compiled.splat(
      jnp.ones((300, 1, 1), dtype), jnp.zeros((300, 1, 2)), (1, 1)
    )
    self.assertEqual(out.dtype, jnp.dtype(expected))
    np.testing.assert_allclose(out.astype(jnp.float32).ravel(), [300])

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients(self):
    self.check_gradients(1)

  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_second_derivatives(self):
    self.check_gradients(2)

  def check_gradients(self, order):
    rng = np.random.default_rng(0)
    grid = off_lattice_grid(rng, (5, 6), -1, 5, False)
    values = rng.normal(size=(*grid.shape[:-1], 2))
    check_grads(
      jax.jit(lambda v, g: stnjax.splat(v, g, (5, 6))),
      (values, grid),
      order,
      ("rev",),
      eps=1e-5,
    )

  @parameterized.parameters(
    (ValueError, "padding='constant'", dict(padding="constant")),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2)))),
    (ValueError, "values must have the sp", dict(values=jnp.ones((2, 2, 1)))),
    (ValueError, "values must have the spatial", dict(values=jnp.ones(3))),
    (TypeError, "values must hold", dict(values=jnp.ones((2, 3, 1), bool))),
    (ValueError, r"output_shape must be \(H, W\)", dict(output_shape=(4,))),
    (TypeError, "output_shape", dict(output_shape=4)),
    (TypeError, "align_corners must be", dict(align_corners=None)),
    (
      ValueError,
      "batch axes of values and grid",
      dict(values=jnp.ones((2, 2, 3, 1)), grid=jnp.zeros((3, 2, 3, 2))),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
    call = dict(
      values=jnp.ones((2, 3, 1)), grid=jnp.zeros((2, 3, 2)), output_shape=(4, 4)
    )
    with self.assertRaisesRegex(error, message):
      stnjax.splat(**{**call, **arguments})


if __name__ == "__main__":
  absltest.main()
