"""Thin-plate splines against scipy, in double and in single precision."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate

import stnjax
from stnjax import coordinates
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import check_gradients


def scipy_spline(values):
  """scipy's thin-plate spline of values `[*controls, C]` on the lattice."""
  *shape, channels = values.shape
  axes = np.meshgrid(*[np.linspace(-1, 1, k) for k in shape], indexing="ij")
  return scipy.interpolate.RBFInterpolator(
    np.stack(axes[::-1], -1).reshape(-1, len(shape)),
    values.reshape(-1, channels),
    kernel="thin_plate_spline" if len(shape) == 2 else "linear",
    degree=1,
  )


class ThinPlateTest(parameterized.TestCase):
  @parameterized.parameters(
    ((4, 4), (9, 7)), ((2, 5), (6, 6)), ((3, 2, 4), (5, 4, 3))
  )
  @pytest.mark.usefixtures("x64")
  def test_against_scipy(self, control_shape, output_shape):
    num_axes = len(control_shape)
    offsets = np.random.default_rng(0).normal(size=(*control_shape, num_axes))
    spline = scipy_spline(offsets)
    lattice = np.asarray(coordinates.lattice(output_shape, dtype=np.float64))
    expected = lattice + spline(lattice.reshape(-1, num_axes)).reshape(
      lattice.shape
    )
    np.testing.assert_allclose(
      compiled.tps_grid(offsets, output_shape), expected, atol=1e-9
    )

  @parameterized.product(align_corners=(False, True), count=(2, 3, 8))
  def test_convention_zero_offsets_are_the_identity(self, align_corners, count):
    grid = compiled.tps_grid(
      jnp.zeros((count, count, 2)), (5, 8), align_corners=align_corners
    )
    np.testing.assert_array_equal(
      grid, coordinates.lattice((5, 8), align_corners=align_corners)
    )

  def test_convention_controls_reach_from_corner_to_corner(self):
    # One control point is moved: with corners aligned, pixels are controls.
    offsets = jnp.zeros((3, 4, 2)).at[0, 2].set(jnp.array([0.25, -0.5]))
    grid = compiled.tps_grid(offsets, (3, 4), align_corners=True)
    moved = grid - coordinates.lattice((3, 4), align_corners=True)
    np.testing.assert_allclose(moved, offsets, atol=2e-6)

  def test_affine_offsets_make_an_affine_grid(self):
    theta = np.array([[0.8, -0.3, 0.1], [0.2, 1.1, -0.2]], np.float32)
    controls = np.asarray(coordinates.lattice((5, 5), align_corners=True))
    offsets = controls @ theta[:, :2].T + theta[:, 2] - controls
    np.testing.assert_allclose(
      compiled.tps_grid(offsets, (6, 7)),
      compiled.affine_grid(theta, (6, 7)),
      atol=1e-5,
    )

  @parameterized.parameters(((7, 7), (3, 5)), ((12, 12), (512, 80)))
  def test_constant_offsets_shift_by_exactly_that(self, controls, shape):
    self.check_shift(controls, shape)

  @parameterized.parameters(
    ((2, 2), (1024, 1100)),
    ((32, 32), (1024, 8)),
    ((3, 24), (30, 2000)),
    ((4, 3, 5), (50, 40, 60)),
  )
  @pytest.mark.slow
  def test_constant_offsets_of_large_grids(self, controls, shape):
    self.check_shift(controls, shape)

  def check_shift(self, controls, shape):
    offsets = jnp.full((*controls, len(controls)), 0.25)
    np.testing.assert_array_equal(
      jax.jit(lambda o: stnjax.tps_grid(o, shape))(offsets),
      np.asarray(coordinates.lattice(shape)) + np.float32(0.25),
    )

  @pytest.mark.slow
  def test_single_precision_of_many_controls(self):
    self.check_precision((12, 12), (512, 80), False)

  @parameterized.parameters(
    ((32, 32), (1024, 8), True),
    ((3, 24), (30, 2000), True),
    ((6, 5, 4), (41, 40, 37), True),
  )
  @pytest.mark.slow
  def test_single_precision_of_most_controls(self, controls, shape, ends):
    self.check_precision(controls, shape, ends)

  def check_precision(self, controls, shape, ends):
    num_axes, rng = len(controls), np.random.default_rng(0)
    offsets = 0.05 * rng.normal(size=(*controls, num_axes))
    offsets = offsets.astype(np.float32)
    spline = scipy_spline(offsets)
    axes = [
      (np.arange(s) - (s - 1) / 2) / ((s - 1) / 2 if ends else s / 2)
      for s in shape
    ]
    lattice = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)
    # The ends of the first axis, where splines swing most, and its middle.
    rows = [0, 1, shape[0] // 2, -1]
    places = lattice[rows].reshape(-1, num_axes)
    grid = compiled.tps_grid(offsets, shape, align_corners=ends)
    self.assertEqual(grid.dtype, jnp.float32)
    moved = np.asarray(grid, np.float64)[rows].reshape(-1, num_axes) - places
    # 16 roundings of the largest offset, and one of the coordinate itself.
    bound = np.finfo(np.float32).eps * (16 * np.abs(offsets).max() + 1)
    np.testing.assert_allclose(moved, spline(places), atol=bound, rtol=0)

  def test_affine_offsets_in_single_precision(self):
    theta = np.array([[0.8, -0.3, 0.1], [0.2, 1.1, -0.2]])
    x, y = np.meshgrid(np.linspace(-1, 1, 12), np.linspace(-1, 1, 12))
    controls = np.stack([x, y], -1)
    offsets = controls @ theta[:, :2].T + theta[:, 2] - controls
    np.testing.assert_allclose(
      compiled.tps_grid(offsets.astype(np.float32), (300, 100)),
      reference.grid(theta, (300, 100), align_corners=False),
      atol=6e-7,
    )

  @pytest.mark.slow
  def test_gradient_and_memory_of_many_controls(self):
    offsets, shape = jnp.zeros((24, 24, 2)), (512, 512)

    @jax.jit
    def gradient(offsets, weight):
      return jax.grad(lambda o: (stnjax.tps_grid(o, shape) * weight).sum())(
        offsets
      )

    weight = np.zeros((*shape, 2), np.float32)
    weight[100, 300, 0] = 1
    unit = np.eye(24 * 24).reshape(24, 24, -1)
    place = (np.array([[300, 100]]) + 0.5) / 256 - 1
    expected = scipy_spline(unit)(place).reshape(24, 24)
    grad = gradient(offsets, weight)
    np.testing.assert_allclose(grad[..., 0], expected, atol=3e-6)
    np.testing.assert_array_equal(grad[..., 1], 0)
    memory = gradient.lower(offsets, weight).compile().memory_analysis()
    self.assertLess(memory.temp_size_in_bytes, 16 * weight.nbytes)

  @parameterized.parameters((), (0,), (2, 3))
  def test_batches(self, *batch):
    offsets = np.random.default_rng(0).normal(size=(*batch, 3, 3, 2))
    grid = compiled.tps_grid(offsets, (4, 5))
    self.assertEqual(grid.shape, (*batch, 4, 5, 2))
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        grid[place], compiled.tps_grid(offsets[place], (4, 5)), atol=1e-5
      )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient_to_the_control_points(self):
    control_shape, num_axes = (2, 3, 2), 3
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*(5, 6, 4)[:num_axes], 1))
    offsets = 0.1 * rng.normal(size=(*control_shape, num_axes))
    shape = (4, 3, 2)[:num_axes]
    check_gradients(
      lambda o: stnjax.grid_sample(image, stnjax.tps_grid(o, shape)), offsets
    )


if __name__ == "__main__":
  absltest.main()
