"""Grids against torch, NumPy loops, scipy, and what they must conserve."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import scipy.integrate
import scipy.interpolate

import stnjax
from stnjax import coordinates
from stnjax.sampling import grids
from tests import reference


def random_theta(rng, num_axes, projective=False, batch=()):
  shape = (num_axes + projective, num_axes + 1)
  theta = np.eye(*shape) + rng.uniform(-0.2, 0.2, (*batch, *shape))
  if projective:
    theta[..., -1, -1] = 1
  return theta


def smooth_field(rng, shape, size):
  """A few low waves, `size` high, in normalised units."""
  x, y = np.moveaxis(np.asarray(coordinates.lattice(shape)), -1, 0)
  waves = [
    rng.normal(size=2)[:, None, None]
    * np.sin(rng.normal(size=()) * 2 * x + rng.normal(size=()) * 2 * y)
    for _ in range(4)
  ]
  field = np.moveaxis(sum(waves), 0, -1)
  return (field * size / np.abs(field).max()).astype(np.float32)


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


def check_gradients(function, *arguments, modes=("fwd", "rev")):
  """First derivatives against differences, from one compiled program."""
  check_grads(
    jax.jit(function), arguments, 1, modes, eps=1e-7, atol=1e-5, rtol=1e-5
  )


def determinants(grid):
  """Of the change of pixel coordinates, by differences."""
  height, width = grid.shape[:2]
  down, across = np.gradient(np.asarray(grid) * [width / 2, height / 2])[:2]
  return across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]


@pytest.mark.usefixtures("x64")
class AffineTest(parameterized.TestCase):
  @parameterized.product(
    shape=((3, 4), (1, 5), (1, 1), (2, 3, 4), (1, 4, 1)),
    projective=(False, True),
    align_corners=(False, True),
  )
  def test_against_a_loop(self, shape, projective, align_corners):
    rng = np.random.default_rng(0)
    theta = random_theta(rng, len(shape), projective)
    np.testing.assert_allclose(
      stnjax.affine_grid(theta, shape, align_corners=align_corners),
      reference.grid(theta, shape, align_corners=align_corners),
      atol=1e-12,
    )

  @parameterized.product(
    shape=((3, 4), (1, 5), (2, 3, 4)), align_corners=(False, True)
  )
  def test_against_torch(self, shape, align_corners):
    torch = pytest.importorskip("torch")
    theta = random_theta(np.random.default_rng(0), len(shape), batch=(2,))
    expected = torch.nn.functional.affine_grid(
      torch.tensor(theta), (2, 1, *shape), align_corners=align_corners
    )
    np.testing.assert_allclose(
      stnjax.affine_grid(theta, shape, align_corners=align_corners),
      expected.numpy(),
      atol=1e-12,
    )

  def test_vanishing_denominator_is_nan_with_zero_gradient(self):
    theta = jnp.eye(3).at[2].set(jnp.array([1.0, 0.0, -0.5]))  # 0 at x = 0.5
    grid = stnjax.affine_grid(theta, (2, 2))
    self.assertTrue(np.isnan(grid[:, 1]).all())
    self.assertTrue(np.isfinite(grid[:, 0]).all())
    image = jnp.ones((2, 2, 1))
    for antialias in (False, True):
      value, grad = jax.jit(
        jax.value_and_grad(
          lambda t, a=antialias: stnjax.warp(image, t, antialias=a).sum()
        )
      )(theta)
      self.assertTrue(np.isfinite(value))
      self.assertTrue(np.isfinite(grad).all())

  @parameterized.product(num_axes=(2, 3), dtype=("float32", "float64"))
  def test_a_multiple_of_a_homography_is_the_same(self, num_axes, dtype):
    rng = np.random.default_rng(0)
    shape, tolerance = (6, 5, 4)[:num_axes], 100 * np.finfo(dtype).eps
    theta = random_theta(rng, num_axes, projective=True)
    image = rng.normal(size=(*shape, 1)).astype(dtype)

    @jax.jit
    def value_and_grad(theta):
      return jax.value_and_grad(
        lambda t: (stnjax.warp(image, t, antialias=True) ** 2).sum()
      )(theta)

    call = (shape, shape)
    grid = jax.jit(lambda t: stnjax.affine_grid(t, shape))
    slopes = jax.jit(lambda t: grids.jacobian(t, *call))
    value, grad = value_and_grad(theta.astype(dtype))
    change = slopes(theta.astype(dtype))
    for scale in (1e-8, 1e-30, -1e30, 7.0, -0.3):
      multiple = (theta * scale).astype(dtype)
      np.testing.assert_allclose(
        grid(multiple),
        reference.grid(theta, shape, align_corners=False),
        atol=tolerance,
      )
      np.testing.assert_allclose(slopes(multiple), change, atol=tolerance)
      other, other_grad = value_and_grad(multiple)
      np.testing.assert_allclose(other, value, rtol=tolerance)
      np.testing.assert_allclose(
        other_grad * scale, grad, atol=tolerance * np.abs(grad).max()
      )

  @pytest.mark.usefixtures("x64")
  def test_gradient_of_a_multiple_of_a_homography(self):
    rng = np.random.default_rng(0)
    theta, image = random_theta(rng, 2, True), rng.normal(size=(5, 6, 1))
    for scale in (1e-20, -20.0):
      step = 1e-6 * scale
      grad = jax.jit(jax.grad(lambda t: stnjax.warp(image, t).sum()))(
        scale * theta
      )
      for place in np.ndindex(3, 3):
        ends = []
        for sign in (-1, 1):
          moved = scale * theta
          moved[place] += sign * step
          grid = reference.grid(moved, (5, 6), align_corners=False)
          out = reference.sample(
            image, grid, method="linear", padding="zeros", align_corners=False
          )
          ends.append(out.sum())
        expected = (ends[1] - ends[0]) / (2 * step)
        self.assertAlmostEqual(
          float(grad[place]) * scale, expected * scale, places=5
        )

  @parameterized.parameters(1.0, 1e-30, 1 / 3, -1e30)
  def test_multiples_of_a_vanishing_denominator(self, scale):
    theta = np.eye(3, dtype=np.float32)
    theta[2] = [3, 0, -0.9]  # 0 at x = 0.3 but for rounding: column 6 of 10
    theta *= np.float32(scale)
    grid, pull = jax.vjp(lambda t: stnjax.affine_grid(t, (2, 10)), theta)
    columns = np.isfinite(grid).all(axis=(0, 2))
    self.assertEqual(np.flatnonzero(~columns).tolist(), [6])
    (grad,) = pull(jnp.zeros_like(grid).at[:, 6].set(1))
    np.testing.assert_array_equal(grad, 0)

  @parameterized.product(
    shape=((3, 4), (2, 3, 4)),
    projective=(False, True),
    align_corners=(False, True),
  )
  def test_jacobian_against_differences(self, shape, projective, align_corners):
    num_axes = len(shape)
    theta = random_theta(np.random.default_rng(0), num_axes, projective)
    output_shape = (5, 6, 7)[:num_axes]
    pixels = np.moveaxis(np.indices(output_shape)[::-1], 0, -1)
    step = 1e-5

    def move(axis, by):  # the input pixel of an output pixel that is moved
      moved = pixels + by * np.eye(num_axes)[axis]
      at = coordinates.to_normalised(
        moved, output_shape, align_corners=align_corners
      )
      at = np.concatenate([at, np.ones_like(at[..., :1])], -1) @ theta.T
      at = at[..., :num_axes] / (at[..., num_axes:] if projective else 1)
      return coordinates.to_pixels(at, shape, align_corners=align_corners)

    expected = np.stack(
      [(move(a, step) - move(a, -step)) / (2 * step) for a in range(num_axes)],
      -1,
    )
    ours = grids.jacobian(
      theta, shape, output_shape, align_corners=align_corners
    )
    np.testing.assert_allclose(
      np.broadcast_to(ours, expected.shape), expected, atol=1e-8
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
      stnjax.tps_grid(offsets, output_shape), expected, atol=1e-9
    )

  @parameterized.product(align_corners=(False, True), count=(2, 3, 8))
  def test_convention_zero_offsets_are_the_identity(self, align_corners, count):
    grid = stnjax.tps_grid(
      jnp.zeros((count, count, 2)), (5, 8), align_corners=align_corners
    )
    np.testing.assert_array_equal(
      grid, coordinates.lattice((5, 8), align_corners=align_corners)
    )

  def test_convention_controls_reach_from_corner_to_corner(self):
    # One control point is moved: with corners aligned, pixels are controls.
    offsets = jnp.zeros((3, 4, 2)).at[0, 2].set(jnp.array([0.25, -0.5]))
    grid = stnjax.tps_grid(offsets, (3, 4), align_corners=True)
    moved = grid - coordinates.lattice((3, 4), align_corners=True)
    np.testing.assert_allclose(moved, offsets, atol=2e-6)

  def test_affine_offsets_make_an_affine_grid(self):
    theta = np.array([[0.8, -0.3, 0.1], [0.2, 1.1, -0.2]], np.float32)
    controls = coordinates.lattice((5, 5), align_corners=True)
    offsets = controls @ theta[:, :2].T + theta[:, 2] - controls
    np.testing.assert_allclose(
      stnjax.tps_grid(offsets, (6, 7)),
      stnjax.affine_grid(theta, (6, 7)),
      atol=1e-5,
    )

  @parameterized.parameters(
    ((2, 2), (1024, 1100)),
    ((7, 7), (3, 5)),
    ((12, 12), (1024, 40)),
    ((32, 32), (1024, 8)),
    ((3, 24), (30, 2000)),
    ((4, 3, 5), (50, 40, 60)),
  )
  def test_constant_offsets_shift_by_exactly_that(self, controls, shape):
    offsets = jnp.full((*controls, len(controls)), 0.25)
    np.testing.assert_array_equal(
      jax.jit(lambda o: stnjax.tps_grid(o, shape))(offsets),
      np.asarray(coordinates.lattice(shape)) + np.float32(0.25),
    )

  @parameterized.parameters(
    ((12, 12), (512, 80), False),
    ((32, 32), (1024, 8), True),
    ((3, 24), (30, 2000), True),
    ((6, 5, 4), (41, 40, 37), True),
  )
  def test_single_precision_of_many_controls(self, controls, shape, ends):
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
    grid = stnjax.tps_grid(offsets, shape, align_corners=ends)
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
      stnjax.tps_grid(offsets.astype(np.float32), (300, 100)),
      reference.grid(theta, (300, 100), align_corners=False),
      atol=6e-7,
    )

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
    grid = stnjax.tps_grid(offsets, (4, 5))
    self.assertEqual(grid.shape, (*batch, 4, 5, 2))
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        grid[place], stnjax.tps_grid(offsets[place], (4, 5)), atol=1e-5
      )

  @parameterized.parameters((3, 3), (2, 3, 2))
  @pytest.mark.usefixtures("x64")
  def test_gradient_to_the_control_points(self, *control_shape):
    num_axes = len(control_shape)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*(5, 6, 4)[:num_axes], 1))
    offsets = 0.1 * rng.normal(size=(*control_shape, num_axes))
    shape = (4, 3, 2)[:num_axes]
    check_gradients(
      lambda o: stnjax.grid_sample(image, stnjax.tps_grid(o, shape)), offsets
    )


class FlowTest(parameterized.TestCase):
  @parameterized.product(
    shape=((3, 4), (1, 5), (2, 3, 4)), align_corners=(False, True)
  )
  def test_is_added_to_the_identity(self, shape, align_corners):
    field = np.random.default_rng(0).normal(size=(2, *shape, len(shape)))
    identity = np.eye(len(shape), len(shape) + 1)
    expected = field + reference.grid(
      identity, shape, align_corners=align_corners
    )
    np.testing.assert_allclose(
      stnjax.flow_grid(field, align_corners=align_corners), expected, atol=1e-6
    )

  @pytest.mark.usefixtures("x64")
  def test_gradient_to_the_displacement(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 1))
    check_gradients(
      lambda d: stnjax.grid_sample(image, stnjax.flow_grid(d)),
      0.1 * rng.normal(size=(5, 6, 2)),
    )


class VelocityTest(parameterized.TestCase):
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
    grid = stnjax.velocity_grid(velocity)[8:-8:10, 8:-8:10]
    np.testing.assert_allclose(grid, end, atol=2e-3)

  @parameterized.product(
    shape=((5, 6), (1, 4), (3, 4, 2)), align_corners=(False, True)
  )
  def test_constant_velocity_is_a_shift(self, shape, align_corners):
    velocity = jnp.full((*shape, len(shape)), 0.3)
    np.testing.assert_allclose(
      stnjax.velocity_grid(velocity, align_corners=align_corners),
      stnjax.flow_grid(velocity, align_corners=align_corners),
      atol=1e-6,
    )
    np.testing.assert_array_equal(
      stnjax.velocity_grid(0 * velocity, align_corners=align_corners),
      coordinates.lattice(shape, align_corners=align_corners),
    )

  def test_does_not_fold_where_a_displacement_does(self):
    field = smooth_field(np.random.default_rng(3), (48, 48), 0.8)
    self.assertLess(determinants(stnjax.flow_grid(field)).min(), 0)
    self.assertGreater(determinants(stnjax.velocity_grid(field)).min(), 0)

  def test_more_steps_are_closer(self):
    field = smooth_field(np.random.default_rng(1), (32, 32), 0.4)
    exact = stnjax.velocity_grid(field, steps=12)
    errors = [
      np.abs(stnjax.velocity_grid(field, steps=s) - exact).max()
      for s in (0, 2, 4, 7)
    ]
    self.assertTrue((np.diff(errors) < 0).all(), errors)

  def test_gradient_does_not_keep_every_step(self):
    field = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
    gradient = jax.jit(jax.grad(lambda v: stnjax.velocity_grid(v).sum()))
    memory = gradient.lower(field).compile().memory_analysis()
    # The fields before the 7 steps, and a step of its own.
    self.assertLess(memory.temp_size_in_bytes, 40 * field.size * 4)

  @pytest.mark.usefixtures("x64")
  def test_gradient(self):
    field = 0.3 * np.random.default_rng(0).normal(size=(2, 4, 5, 2))
    check_gradients(lambda v: stnjax.velocity_grid(v, steps=3), field)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (stnjax.affine_grid, ValueError, "matrix must be", jnp.eye(2), (2, 2)),
    (
      stnjax.affine_grid,
      TypeError,
      "matrix must hold",
      1j * jnp.eye(3),
      (2, 2),
    ),
    (
      stnjax.affine_grid,
      ValueError,
      r"output_shape must be \(H, W\)",
      jnp.eye(3),
      (2,),
    ),
    (
      stnjax.affine_grid,
      ValueError,
      r"output_shape must be \(D, H, W\)",
      jnp.eye(4),
      (2, 2),
    ),
    (
      stnjax.affine_grid,
      ValueError,
      "output_shape.*at least 1",
      jnp.eye(3),
      (0, 2),
    ),
    (
      stnjax.affine_grid,
      TypeError,
      "output_shape must be a static",
      jnp.eye(3),
      None,
    ),
    (
      stnjax.tps_grid,
      ValueError,
      "offsets must be.*at least 2",
      jnp.zeros((1, 3, 2)),
      (4, 4),
    ),
    (stnjax.tps_grid, ValueError, "offsets must be", jnp.zeros((9, 2)), (4, 4)),
    (
      stnjax.tps_grid,
      ValueError,
      "offsets must be",
      jnp.zeros((3, 3, 4)),
      (4, 4),
    ),
    (
      stnjax.tps_grid,
      TypeError,
      "offsets must hold",
      jnp.zeros((3, 3, 2), bool),
      (4, 4),
    ),
    (
      stnjax.tps_grid,
      ValueError,
      r"output_shape must be \(H, W\)",
      jnp.zeros((3, 3, 2)),
      (4, 4, 4),
    ),
    (stnjax.flow_grid, ValueError, "displacement must be", jnp.zeros((3, 2))),
    (
      stnjax.flow_grid,
      ValueError,
      "displacement must be",
      jnp.zeros((3, 3, 1)),
    ),
    (
      stnjax.flow_grid,
      ValueError,
      "displacement.*at least 1",
      jnp.zeros((0, 3, 2)),
    ),
    (
      stnjax.flow_grid,
      TypeError,
      "displacement must hold",
      jnp.zeros((3, 3, 2), complex),
    ),
    (
      stnjax.velocity_grid,
      ValueError,
      "velocity must be",
      jnp.zeros((3, 3, 3)),
    ),
    (
      stnjax.velocity_grid,
      TypeError,
      "velocity must hold",
      jnp.zeros((3, 3, 2), bool),
    ),
  )
  def test_wrong_arguments_are_named(
    self, function, error, message, *arguments
  ):
    with self.assertRaisesRegex(error, message):
      function(*arguments)

  @parameterized.parameters(
    (ValueError, "steps must be at least 0, got -1", dict(steps=-1)),
    (TypeError, "steps must be an int, got 2.0", dict(steps=2.0)),
    (TypeError, "steps must be an int, got True", dict(steps=True)),
    (TypeError, "align_corners must be", dict(align_corners="yes")),
  )
  def test_wrong_options_are_named(self, error, message, options):
    if "align_corners" in options:
      for call in (
        lambda: stnjax.affine_grid(jnp.eye(3), (2, 2), **options),
        lambda: stnjax.tps_grid(jnp.zeros((2, 2, 2)), (2, 2), **options),
        lambda: stnjax.flow_grid(jnp.zeros((2, 2, 2)), **options),
        lambda: coordinates.lattice((2, 2), **options),
        lambda: coordinates.to_pixels(jnp.zeros(2), (2, 2), **options),
        lambda: coordinates.to_normalised(jnp.zeros(2), (2, 2), **options),
      ):
        with self.assertRaisesRegex(error, message):
          call()
    with self.assertRaisesRegex(error, message):
      stnjax.velocity_grid(jnp.zeros((3, 3, 2)), **options)


if __name__ == "__main__":
  absltest.main()
