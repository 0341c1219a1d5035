"""Grids from the parameters of every family."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import coordinates, sampling, transforms
from tests import reference
from tests.sampling import compiled

FAMILIES = tuple(transforms.FAMILIES)
GRIDS = ("thin_plate", "velocity")
SHAPES = {2: (5, 7), 3: (3, 4, 2)}


@jax.jit(static_argnums=1)
def grid_and_gradient(params, family):
  """The grid, and the gradient of what it reads at generic places."""
  image = jnp.sin(jnp.arange(5 * 7.0)).reshape(5, 7, 1)

  def loss(params):
    grid = sampling.family_grid(params, family, (5, 7))
    return (stnjax.grid_sample(image, grid + 0.05) ** 2).sum(), grid

  return jax.grad(loss, has_aux=True)(params)


class FamilyGridTest(parameterized.TestCase):
  @parameterized.parameters(*FAMILIES)
  def test_zeros_are_the_identity_lattice_with_a_gradient(self, family):
    zeros = jnp.zeros(transforms.num_params(family))
    gradient, grid = grid_and_gradient(zeros, family)
    np.testing.assert_array_equal(grid, coordinates.lattice((5, 7)))
    self.assertTrue(np.isfinite(gradient).all())
    self.assertTrue((gradient != 0).all())

  @parameterized.parameters(*GRIDS)
  def test_zeros_are_the_identity_of_volumes(self, family):
    zeros = jnp.zeros(transforms.num_params(family, num_axes=3))
    np.testing.assert_array_equal(
      compiled.family_grid(zeros, family=family, output_shape=SHAPES[3]),
      coordinates.lattice(SHAPES[3]),
    )

  @parameterized.parameters((2, "similarity"), (2, "projective"), (3, "affine"))
  def test_grid_of_a_matrix(self, num_axes, family):
    size = transforms.num_params(family, num_axes=num_axes)
    params = np.random.default_rng(0).uniform(-0.2, 0.2, size)
    matrix = compiled.matrix(params, family, num_axes=num_axes)
    np.testing.assert_allclose(
      compiled.family_grid(params, family, SHAPES[num_axes]),
      reference.grid(matrix, SHAPES[num_axes], align_corners=False),
      atol=1e-6,
    )

  @parameterized.parameters(2, 3)
  def test_thin_plate_is_that_of_its_control_points(self, num_axes):
    offsets = np.random.default_rng(0).normal(
      size=(2, *[4] * num_axes, num_axes)
    )
    np.testing.assert_allclose(
      compiled.family_grid(
        offsets.reshape(2, -1), "thin_plate", SHAPES[num_axes]
      ),
      compiled.tps_grid(offsets, SHAPES[num_axes]),
      atol=1e-6,
    )

  @pytest.mark.usefixtures("x64")
  def test_velocity_is_the_flow_along_the_interpolated_field(self):
    coarse = 0.3 * np.random.default_rng(0).normal(size=(6, 6, 2))
    # Outermost points at -1 and 1, interpolated linearly: worked out by hand.
    shape = (5, 7)
    at = [((2 * np.arange(s) + 1) / s) * 2.5 for s in shape]
    rows, columns = (
      np.maximum(1 - np.abs(a[:, None] - np.arange(6)), 0) for a in at
    )
    field = np.einsum("yi,xj,ijc->yxc", rows, columns, coarse)
    np.testing.assert_allclose(
      compiled.family_grid(coarse.ravel(), "velocity", shape),
      compiled.velocity_grid(field),
      atol=1e-12,
    )

  @parameterized.parameters(
    (dict(family="euclid"), "family='euclid' is unknown.*'velocity'"),
    (dict(params=np.zeros(5)), r"params of family 'affine' must be \[..., 6\]"),
    (dict(family="velocity"), r"'velocity' must be \[..., 72\]"),
    (dict(output_shape=(4,)), "output_shape must be"),
  )
  def test_wrong_arguments_are_named(self, arguments, message):
    call = dict(params=np.zeros(6), family="affine", output_shape=(4, 4))
    with self.assertRaisesRegex(ValueError, message):
      sampling.family_grid(**{**call, **arguments})

  @parameterized.parameters(*GRIDS)
  def test_a_family_of_grids_has_no_matrix(self, family):
    params = np.zeros(transforms.num_params(family))
    with self.assertRaisesRegex(ValueError, f"'{family}' has grids.*'affine'"):
      transforms.matrix(params, family)


if __name__ == "__main__":
  absltest.main()
