"""Thin-plate splines through pairs of points: against scipy."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate

from stnjax import coordinates, sampling
from tests.sampling.cases import check_gradients


@jax.jit
def mapped(source, target, points, regularisation=0.0):
  spline = sampling.fit_tps(source, target, regularisation=regularisation)
  return spline(points)


@functools.partial(jax.jit, static_argnames=("shape", "align_corners"))
def fitted_grid(source, target, shape, align_corners=False):
  spline = sampling.fit_tps(source, target)
  return spline.grid(shape, align_corners=align_corners)


def scipy_spline(source, target, regularisation=0.0):
  return scipy.interpolate.RBFInterpolator(
    source,
    target,
    kernel="thin_plate_spline" if source.shape[-1] == 2 else "linear",
    smoothing=regularisation,
    degree=1,
  )


def point_pairs(num_axes, count, scale=1.0, seed=0):
  rng = np.random.default_rng(seed)
  source = rng.uniform(-1, 1, (count, num_axes))
  target = source + 0.1 * rng.normal(size=source.shape)
  points = rng.uniform(-1.5, 1.5, (20, num_axes))
  return scale * source, scale * target, scale * points


@pytest.mark.usefixtures("x64")
class DoubleTest(parameterized.TestCase):
  @parameterized.product(
    num_axes=(2, 3), count=(4, 12, 60), regularisation=(0.0, 0.3)
  )
  def test_values_are_those_of_scipy(self, num_axes, count, regularisation):
    source, target, points = point_pairs(num_axes, count)
    expected = scipy_spline(source, target, regularisation)(points)
    result = mapped(source, target, points, regularisation)
    np.testing.assert_allclose(result, expected, atol=1e-9)

  @parameterized.parameters(2, 3)
  def test_in_pixels_with_a_weight_per_point(self, num_axes):
    source, target, points = point_pairs(num_axes, 12, scale=300.0)
    source, points = source + 500, points + 500
    weights = np.random.default_rng(1).uniform(0, 900, 12)
    expected = scipy_spline(source, target, weights)(points)
    result = mapped(source, target, points, weights)
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-6)

  @parameterized.parameters(2, 3)
  @pytest.mark.slow
  def test_gradients(self, num_axes):
    source, target, points = point_pairs(num_axes, 6)
    check_gradients(mapped, source, target, points[:4], np.full(6, 0.1))

  @pytest.mark.slow
  def test_gradient_at_a_control_of_a_lattice(self):
    # Symmetric: equal distances, equal singular values.
    source = np.stack(np.meshgrid([-1.0, 0, 1], [-1.0, 0, 1]), -1).reshape(9, 2)
    target = source.copy()
    target[4] += 0.2
    check_gradients(mapped, source, target, source)

  @pytest.mark.slow
  def test_gradients_of_a_grid(self):
    source, target, _ = point_pairs(2, 6)
    check_gradients(lambda s, t: fitted_grid(s, t, (4, 5)), source, target)

  def test_regularisation_ends_at_the_affine_fit(self):
    source, target, points = point_pairs(2, 9)
    columns = np.concatenate([source, np.ones((9, 1))], 1)
    affine = np.linalg.lstsq(columns, target)[0]
    expected = np.concatenate([points, np.ones((20, 1))], 1) @ affine
    result = mapped(source, target, points, 1e9)
    np.testing.assert_allclose(result, expected, atol=1e-7)

  @pytest.mark.slow
  def test_equal_points_need_regularisation(self):
    source, target, points = point_pairs(2, 8)
    source[3] = source[5]
    self.assertTrue(np.isnan(mapped(source, target, points)).all())
    np.testing.assert_allclose(
      mapped(source, target, points, 0.1),
      scipy_spline(source, target, 0.1)(points),
      atol=1e-9,
    )

  def test_undetermined_splines_have_no_gradient(self):
    source, target, points = point_pairs(2, 8)
    same = source.copy()
    same[3] = same[5]
    line = np.stack([source[:, 0], 2 * source[:, 0] + 1], -1)
    missing = np.where(np.arange(8)[:, None] == 2, np.nan, source)
    value = jax.jit(jax.value_and_grad(_sum, (0, 1, 2)))
    for degenerate in (same, line, missing):
      result, gradients = value(degenerate, target, points)
      self.assertTrue(np.isnan(result))
      for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)

  @pytest.mark.slow
  def test_many_points_are_mapped_in_parts(self):
    source, target, _ = point_pairs(2, 70)
    grid = fitted_grid(source, target, (301, 300))
    lattice = np.asarray(coordinates.lattice((301, 300), dtype=np.float64))
    some = (slice(None, None, 50), slice(None, None, 43))
    expected = scipy_spline(source, target)(lattice[some].reshape(-1, 2))
    np.testing.assert_allclose(grid[some].reshape(-1, 2), expected, atol=1e-9)


def _sum(source, target, points):
  return mapped(source, target, points).sum()


class ThinPlateSplineTest(parameterized.TestCase):
  @parameterized.product(num_axes=(2, 3), align_corners=(False, True))
  @pytest.mark.slow
  def test_equal_points_are_the_identity_exactly(self, num_axes, align_corners):
    source, _, points = point_pairs(num_axes, 9)
    np.testing.assert_array_equal(
      mapped(source, source, points), points.astype(np.float32)
    )
    shape = (4, 5, 6)[:num_axes]
    np.testing.assert_array_equal(
      fitted_grid(source, source, shape, align_corners),
      coordinates.lattice(shape, align_corners=align_corners),
    )

  @parameterized.parameters((2, 10, 1e-5), (2, 100, 1e-3), (3, 300, 1e-4))
  def test_single_precision(self, num_axes, count, tolerance):
    arrays = point_pairs(num_axes, count, scale=200.0)
    source, target, points = (np.float32(a) for a in arrays)
    result = mapped(source, target, points)
    self.assertEqual(result.dtype, np.float32)
    expected = scipy_spline(*(a.astype(float) for a in (source, target)))
    np.testing.assert_allclose(
      result, expected(points.astype(float)), atol=200 * tolerance
    )

  @pytest.mark.slow
  def test_batches_broadcast(self):
    source, target, points = point_pairs(2, 8)
    targets = np.stack([target, target + 0.5, target[::-1]])
    result = mapped(source, targets, points)
    self.assertEqual(result.shape, (3, 20, 2))
    for one, each in zip(targets, result, strict=True):
      np.testing.assert_allclose(mapped(source, one, points), each, atol=1e-5)
    self.assertEqual(fitted_grid(source, targets, (4, 5)).shape, (3, 4, 5, 2))

  @pytest.mark.slow
  def test_convention_source_is_the_output(self):
    # The pixel right of the middle is shown in the middle.
    source = np.array([[0.0, 0], [-1, -1], [1, -1], [1, 1], [-1, 1]])
    target = source + [[0.4, 0], [0, 0], [0, 0], [0, 0], [0, 0]]
    image = jnp.zeros((5, 5, 1)).at[2, 3].set(1)
    result = sampling.grid_sample(image, fitted_grid(source, target, (5, 5)))
    self.assertAlmostEqual(float(result[2, 2, 0]), 1, places=5)

  @pytest.mark.slow
  def test_points_that_are_not_finite(self):
    source, target, points = point_pairs(2, 8)
    points[3, 1] = np.nan
    value, gradient = jax.value_and_grad(
      lambda t: jnp.nansum(mapped(source, t, points))
    )(target)
    self.assertTrue(np.isfinite(value))
    self.assertTrue(np.isfinite(gradient).all())
    np.testing.assert_array_equal(
      np.isnan(mapped(source, target, points)).any(-1), np.arange(20) == 3
    )

  @parameterized.parameters(
    (dict(source=np.zeros((4, 4))), r"source must be \[..., K, 2\]"),
    (dict(target=np.zeros(2)), r"target must be \[..., K, 2\]"),
    (dict(source=np.zeros((2, 2))), "source must hold at least 3 points"),
    (dict(target=np.zeros((5, 2))), "same number of points"),
    (dict(source=np.zeros((4, 3)), target=np.zeros((4, 2))), "as many axes"),
    (dict(source=np.zeros((2, 4, 2)), target=np.zeros((3, 4, 2))), "broadcast"),
    (dict(regularisation=-1.0), "regularisation must be at least 0, got -1.0"),
    (dict(regularisation=np.ones(3)), "one per point"),
    (
      dict(regularisation=np.ones((2, 4)), target=np.zeros((3, 4, 2))),
      "regularisation",
    ),
  )
  def test_wrong_arguments_are_named(self, arguments, message):
    call = dict(source=np.zeros((4, 2)), target=np.zeros((4, 2)))
    with self.assertRaisesRegex(ValueError, message):
      sampling.fit_tps(**{**call, **arguments})

  @parameterized.parameters("source", "target", "regularisation")
  def test_wrong_types_are_named(self, name):
    call = dict(source=np.zeros((4, 2)), target=np.zeros((4, 2)))
    with self.assertRaisesRegex(TypeError, f"{name} must hold real"):
      sampling.fit_tps(**{**call, name: np.zeros((4, 2), complex)})

  @parameterized.parameters(
    (np.zeros((4, 3)), r"points must end in an axis of 2"),
    (np.zeros(2), r"points must be \[..., P, 2\]"),
    (np.zeros((3, 4, 2)), "points and the spline must broadcast"),
  )
  def test_wrong_points_are_named(self, points, message):
    source, target, _ = point_pairs(2, 5)
    spline = sampling.fit_tps(np.stack([source] * 2), target)
    with self.assertRaisesRegex(ValueError, message):
      spline(points)
    with self.assertRaisesRegex(ValueError, r"output_shape must be \(H, W\)"):
      spline.grid((3, 4, 5))


if __name__ == "__main__":
  absltest.main()
