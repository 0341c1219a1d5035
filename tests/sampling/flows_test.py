"""Displacement fields in pixels, composed, inverted, and their determinants."""

import functools

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stnjax
from stnjax import coordinates, sampling
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, smooth_field

compose = jax.jit(
  sampling.compose_flows, static_argnames=("units", "align_corners")
)


def in_pixels(field, align_corners=False):
  shape = field.shape[-field.shape[-1] - 1 : -1]
  extents = [coordinates.half_extent(s, align_corners) for s in shape[::-1]]
  return np.asarray(field) * extents


def smooth_image(shape, width=2):
  image = np.random.default_rng(0).normal(size=shape)
  return scipy.ndimage.gaussian_filter(image, width).astype(np.float32)


class PixelsTest(parameterized.TestCase):
  def test_optical_flow_is_that_of_opencv(self):
    image, rng = smooth_image((24, 31)), np.random.default_rng(1)
    flow = 4 * rng.normal(size=(24, 31, 2)).astype(np.float32)
    rows, columns = np.indices((24, 31)).astype(np.float32)
    expected = cv2.remap(
      image, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR
    )
    # OpenCV rounds coordinates to a 32nd of a pixel.
    ours = compiled.grid_sample(
      image[..., None], compiled.flow_grid(flow, units="pixels")
    )
    np.testing.assert_allclose(ours[..., 0], expected, atol=0.01)
    maps = np.stack([columns, rows], -1) + flow
    ours = jax.jit(sampling.sample_pixels)(image[..., None], maps)
    np.testing.assert_allclose(ours[..., 0], expected, atol=0.01)

  @parameterized.product(
    shape=((3, 4), (1, 5), (2, 3, 4)), align_corners=(False, True)
  )
  def test_units(self, shape, align_corners):
    field = np.random.default_rng(0).normal(size=(*shape, len(shape)))
    field = 0.1 * field * [s > 1 or not align_corners for s in shape[::-1]]
    pixels = in_pixels(field, align_corners)
    for function in (compiled.flow_grid, compiled.velocity_grid):
      np.testing.assert_allclose(
        function(pixels, units="pixels", align_corners=align_corners),
        function(field, align_corners=align_corners),
        atol=1e-5,
      )


class ComposeTest(parameterized.TestCase):
  @parameterized.product(shape=((5, 7), (3, 4, 5)), align_corners=(False, True))
  @pytest.mark.usefixtures("x64")
  def test_against_a_loop(self, shape, align_corners):
    rng, num_axes = np.random.default_rng(0), len(shape)
    a, b, c = 0.5 * rng.normal(size=(3, *shape, num_axes))

    def two(outer, inner):
      lattice = reference.grid(
        np.eye(num_axes, num_axes + 1), shape, align_corners=align_corners
      )
      return inner + reference.sample(
        outer,
        lattice + inner,
        method="linear",
        padding="border",
        align_corners=align_corners,
      )

    expected = two(a, two(b, c))
    np.testing.assert_allclose(
      compose(a, b, c, align_corners=align_corners), expected, atol=1e-10
    )
    pixels = [in_pixels(d, align_corners) for d in (a, b, c)]
    np.testing.assert_allclose(
      compose(*pixels, units="pixels"),
      in_pixels(expected, align_corners),
      atol=1e-10,
    )

  @pytest.mark.slow
  def test_convention_is_that_of_matrices(self):
    # A picture read at `a` and then at `b`.
    image = smooth_image((40, 48), 5)[..., None]
    rng = np.random.default_rng(1)
    a, b = (smooth_field(rng, (40, 48), 0.1) for _ in range(2))
    twice = compiled.grid_sample(
      compiled.grid_sample(
        image, compiled.flow_grid(a), method="spline", padding="border"
      ),
      compiled.flow_grid(b),
      method="spline",
      padding="border",
    )
    once = compiled.grid_sample(
      image,
      compiled.flow_grid(compose(a, b)),
      method="spline",
      padding="border",
    )
    swapped = compiled.flow_grid(compose(b, a))
    other = compiled.grid_sample(
      image, swapped, method="spline", padding="border"
    )
    inner = (slice(12, -12), slice(12, -12))
    apart = np.abs(once - twice)[inner].max()
    self.assertLess(apart, 0.1 * np.abs(other - twice)[inner].max())

  def test_batches_broadcast(self):
    rng = np.random.default_rng(0)
    a = 0.2 * rng.normal(size=(3, 1, 4, 5, 2))
    b = 0.2 * rng.normal(size=(2, 4, 5, 2))
    ours = compose(a, b)
    self.assertEqual(ours.shape, (3, 2, 4, 5, 2))
    np.testing.assert_allclose(ours[2, 1], compose(a[2, 0], b[1]), atol=1e-6)


class InvertTest(parameterized.TestCase):
  @parameterized.parameters("normalised", "pixels")
  def test_undoes_a_smooth_field(self, units):
    field = smooth_field(np.random.default_rng(0), (48, 40), 0.3)
    if units == "pixels":
      field = in_pixels(field).astype(np.float32)
    inverse, residual = compiled.invert_flow(field, units=units)
    both = compose(field, inverse, units=units)
    both = both if units == "pixels" else in_pixels(both)
    np.testing.assert_allclose(
      residual, np.linalg.norm(both, axis=-1), atol=1e-4
    )
    self.assertLess(residual.max(), 0.02)
    self.assertGreater(np.abs(inverse).max(), 0.1)

  def test_of_a_velocity_is_the_flow_back(self):
    velocity = smooth_field(np.random.default_rng(2), (64, 64), 0.2)
    lattice = coordinates.lattice((64, 64))
    inverse, _ = compiled.invert_flow(
      compiled.velocity_grid(velocity) - lattice
    )
    back = compiled.velocity_grid(-velocity) - lattice
    np.testing.assert_allclose(
      inverse[12:-12, 12:-12], back[12:-12, 12:-12], atol=4e-3
    )

  @pytest.mark.slow
  def test_of_a_linear_field_of_a_volume(self):
    # Places move to 1.25 times their distance from the middle.
    lattice = coordinates.lattice((6, 7, 8))
    inverse, residual = compiled.invert_flow(0.25 * lattice, steps=40)
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(inverse[inner], -0.2 * lattice[inner], atol=1e-5)
    self.assertLess(residual.max(), 1e-4)

  def test_the_residual_shows_a_fold(self):
    field = smooth_field(np.random.default_rng(3), (48, 48), 0.8)
    self.assertLess(compiled.jacobian_determinant(field).min(), 0)
    _, residual = compiled.invert_flow(field)
    self.assertGreater(residual.max(), 1)


class DeterminantTest(parameterized.TestCase):
  @parameterized.product(
    shape=((5, 7), (1, 4), (2, 1), (3, 4, 5), (3, 1, 2)),
    align_corners=(False, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_against_numpy(self, shape, align_corners):
    num_axes = len(shape)
    field = np.random.default_rng(0).normal(size=(2, *shape, num_axes))
    pixels = in_pixels(field, align_corners)
    slopes = np.zeros((2, *shape, num_axes, num_axes))
    for axis in range(num_axes):  # x, y(, z)
      if shape[num_axes - 1 - axis] > 1:
        slopes[..., axis] = np.gradient(pixels, axis=-2 - axis)
    expected = np.linalg.det(slopes + np.eye(num_axes))
    np.testing.assert_allclose(
      compiled.jacobian_determinant(field, align_corners=align_corners),
      expected,
      atol=1e-10,
    )
    np.testing.assert_allclose(
      compiled.jacobian_determinant(pixels, units="pixels"),
      expected,
      atol=1e-10,
    )

  @pytest.mark.slow
  def test_convention_above_one_where_objects_shrink(self):
    lattice = coordinates.lattice((6, 8))
    np.testing.assert_allclose(
      compiled.jacobian_determinant(lattice), 4, atol=1e-5
    )


@pytest.mark.usefixtures("x64")
class GradientTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.rng = np.random.default_rng(0)
    # Between pixels, where linear interpolation has a derivative.
    self.field = self.rng.uniform(0.2, 0.4, (4, 5, 2))

  @pytest.mark.slow
  def test_of_composition(self):
    other = self.rng.uniform(0.2, 0.4, (4, 5, 2))
    check_gradients(
      functools.partial(sampling.compose_flows, units="pixels"),
      self.field,
      other,
    )

  @pytest.mark.slow
  def test_of_inversion(self):
    check_gradients(
      lambda d: sampling.invert_flow(d, units="pixels", steps=5)[0], self.field
    )
    slope = jax.jit(jax.grad(lambda d: sampling.invert_flow(d)[1].sum()))
    np.testing.assert_array_equal(slope(jnp.zeros((4, 5, 2))), 0)

  @parameterized.parameters(((4, 5),), ((2, 3, 1),))
  def test_of_determinants(self, shape):
    check_gradients(
      sampling.jacobian_determinant, self.rng.normal(size=(*shape, len(shape)))
    )


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (stnjax.flow_grid, "displacement"),
    (stnjax.velocity_grid, "velocity"),
    (sampling.compose_flows, "displacements"),
    (sampling.invert_flow, "displacement"),
    (sampling.jacobian_determinant, "displacement"),
  )
  def test_wrong_arguments_are_named(self, function, name):
    with self.assertRaisesRegex(ValueError, f"{name} must be"):
      function(np.zeros((3, 2)))
    with self.assertRaisesRegex(TypeError, f"{name} must hold"):
      function(np.zeros((3, 3, 2), complex))
    with self.assertRaisesRegex(ValueError, "units='mm' is unknown; accepted"):
      function(np.zeros((3, 3, 2)), units="mm")
    with self.assertRaisesRegex(TypeError, "align_corners must be"):
      function(np.zeros((3, 3, 2)), align_corners=1)

  @parameterized.parameters(
    (lambda: sampling.compose_flows(), "at least one displacement, got none"),
    (
      lambda: sampling.compose_flows(np.ones((3, 3, 2)), np.ones((3, 4, 2))),
      r"one spatial shape, got \(3, 3\) and \(3, 4\)",
    ),
    (
      lambda: sampling.compose_flows(
        np.ones((2, 3, 3, 2)), np.ones((4, 3, 3, 2))
      ),
      "batch axes",
    ),
    (
      lambda: sampling.invert_flow(np.ones((3, 3, 2)), steps=0),
      "steps must be at least 1, got 0",
    ),
    (
      lambda: sampling.sample_pixels(np.ones((3, 3, 1)), np.ones(2)),
      r"points must be \[..., h, w, 2\]",
    ),
  )
  def test_wrong_values_are_named(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == "__main__":
  absltest.main()
