"""Affine and flow grids against torch, NumPy loops and differences; errors."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import coordinates
from stnjax.sampling import grids
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, random_theta


@pytest.mark.usefixtures("x64")
class AffineTest(parameterized.TestCase):
  @parameterized.parameters(
    ((3, 4), True, False),
    ((3, 4), True, True),
    ((1, 5), False, True),
    ((1, 1), True, False),
    ((2, 3, 4), True, True),
    ((1, 4, 1), False, True),
    ((1, 4, 1), True, False),
  )
  def test_against_a_loop(self, shape, projective, align_corners):
    rng = np.random.default_rng(0)
    theta = random_theta(rng, len(shape), projective)
    np.testing.assert_allclose(
      compiled.affine_grid(theta, shape, align_corners=align_corners),
      reference.grid(theta, shape, align_corners=align_corners),
      atol=1e-12,
    )

  @parameterized.product(
    shape=((3, 4), (1, 5), (2, 3, 4)), align_corners=(False, True)
  )
  @pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid")
  def test_against_torch(self, shape, align_corners):
    torch = pytest.importorskip("torch")
    theta = random_theta(np.random.default_rng(0), len(shape), batch=(2,))
    expected = torch.nn.functional.affine_grid(
      torch.tensor(theta), (2, 1, *shape), align_corners=align_corners
    )
    np.testing.assert_allclose(
      compiled.affine_grid(theta, shape, align_corners=align_corners),
      expected.numpy(),
      atol=1e-12,
    )

  @pytest.mark.slow
  def test_vanishing_denominator_is_nan_with_zero_gradient(self):
    theta = jnp.eye(3).at[2].set(jnp.array([1.0, 0.0, -0.5]))  # 0 at x = 0.5
    grid = compiled.affine_grid(theta, (2, 2))
    self.assertTrue(np.isnan(grid[:, 1]).all())
    self.assertTrue(np.isfinite(grid[:, 0]).all())
    image = jnp.ones((2, 2, 1))
    value, grad = jax.jit(
      jax.value_and_grad(lambda t: stnjax.warp(image, t, antialias=True).sum())
    )(theta)
    self.assertTrue(np.isfinite(value))
    self.assertTrue(np.isfinite(grad).all())

  @pytest.mark.slow
  def test_a_multiple_of_a_homography_is_the_same(self):
    self.check_multiples(2, "float32")

  @parameterized.product(num_axes=(2, 3), dtype=("float32", "float64"))
  @pytest.mark.slow
  def test_a_multiple_of_any_homography_is_the_same(self, num_axes, dtype):
    self.check_multiples(num_axes, dtype)

  def check_multiples(self, num_axes, dtype):
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
  @pytest.mark.slow
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
    grid, grad = self.grid_and_gradient(theta)
    columns = np.isfinite(grid).all(axis=(0, 2))
    self.assertEqual(np.flatnonzero(~columns).tolist(), [6])
    np.testing.assert_array_equal(grad, 0)

  @staticmethod
  @jax.jit
  def grid_and_gradient(theta):
    grid, vjp = jax.vjp(lambda t: stnjax.affine_grid(t, (2, 10)), theta)
    return grid, vjp(jnp.zeros_like(grid).at[:, 6].set(1))[0]

  @parameterized.parameters(
    ((3, 4), True, False),
    ((3, 4), False, True),
    ((2, 3, 4), True, True),
    ((2, 3, 4), False, False),
  )
  def test_jacobian_against_differences(self, shape, projective, align_corners):
    num_axes = len(shape)
    theta = random_theta(np.random.default_rng(0), num_axes, projective)
    output_shape = (5, 6, 7)[:num_axes]
    pixels = np.moveaxis(np.indices(output_shape)[::-1], 0, -1)
    step = 1e-5

    @functools.partial(jax.jit, static_argnums=0)
    def move(axis, by):  # the input pixel of an output pixel that is moved
      moved = pixels + by * jnp.eye(num_axes)[axis]
      at = coordinates.to_normalised(
        moved, output_shape, align_corners=align_corners
      )
      at = jnp.concatenate([at, jnp.ones_like(at[..., :1])], -1) @ theta.T
      at = at[..., :num_axes] / (at[..., num_axes:] if projective else 1)
      return coordinates.to_pixels(at, shape, align_corners=align_corners)

    expected = np.stack(
      [(move(a, step) - move(a, -step)) / (2 * step) for a in range(num_axes)],
      -1,
    )
    ours = jax.jit(
      lambda t: grids.jacobian(
        t, shape, output_shape, align_corners=align_corners
      )
    )(theta)
    np.testing.assert_allclose(
      np.broadcast_to(ours, expected.shape), expected, atol=1e-8
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
      compiled.flow_grid(field, align_corners=align_corners),
      expected,
      atol=1e-6,
    )

  @pytest.mark.usefixtures("x64")
  def test_gradient_to_the_displacement(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 1))
    check_gradients(
      lambda d: stnjax.grid_sample(image, stnjax.flow_grid(d)),
      0.1 * rng.normal(size=(5, 6, 2)),
    )


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
