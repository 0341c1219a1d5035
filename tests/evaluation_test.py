"""Metrics against hand-made cases, NumPy and scipy."""

import warnings

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from stnjax import evaluation, transforms

SHAPE = (40, 60, 1)  # 20 and 30 pixels are a unit of theta


def uniform_angles(n=4000):
  return np.random.default_rng(0).uniform(-90, 90, n)


def applied_rotation(theta):
  return evaluation.applied(theta, SHAPE)["rotation"]


class RotationTest(parameterized.TestCase):
  def test_nothing_done_is_the_spread_of_the_perturbation(self):
    true = uniform_angles()
    found = evaluation.alignment(
      "rotation", true, np.zeros_like(true), np.arange(4000) % 10
    )
    self.assertAlmostEqual(found.std, 51.96, delta=1)
    self.assertEqual(found.none, found.std)
    self.assertAlmostEqual(found.slope, 0, delta=0.01)

  @parameterized.parameters(0.0, 0.5, np.pi, -3.0)
  def test_any_common_pose_per_class_is_perfect(self, pose):
    true, labels = uniform_angles(), np.arange(4000) % 10
    applied = np.degrees(pose) * labels - true
    found = evaluation.alignment("rotation", true, applied, labels)
    self.assertLess(found.std, np.degrees(1e-6))
    self.assertLess(max(found.by_class), np.degrees(1e-6))
    self.assertAlmostEqual(found.none, 51.96, delta=1)

  def test_noise_is_measured(self):
    true, labels = uniform_angles(), np.arange(4000) % 10
    noise = np.random.default_rng(1).normal(0, 12, 4000)
    found = evaluation.alignment("rotation", true, 180 - true + noise, labels)
    self.assertAlmostEqual(found.std, 12, delta=0.5)

  def test_the_mean_of_a_class_may_be_where_angles_wrap(self):
    left = evaluation.residual(
      "rotation",
      np.array([170.0, -170, 10, -10]),
      np.zeros(4),
      np.array([0, 0, 1, 1]),
    )
    np.testing.assert_allclose(left, [-10, 10, 10, -10], atol=1e-9)

  def test_pose_of_the_object_is_read_from_theta(self):
    angles = np.linspace(-3, 3, 7)
    theta = transforms.compose(
      transforms.rotation(-angles),
      transforms.translation(jnp.array([0.3, 0.1])),
      transforms.scaling(jnp.array([0.8, 0.8])),
    )
    degrees = np.degrees(angles)
    np.testing.assert_allclose(applied_rotation(theta), degrees, atol=1e-3)
    projective = 2.5 * np.asarray(transforms.to_homogeneous(theta))
    np.testing.assert_allclose(applied_rotation(projective), degrees, atol=1e-3)

  def test_a_perfect_transformer_has_no_residual(self):
    # Objects are turned by `true`; theta = rotation(true) undoes it.
    true = uniform_angles(50)
    predicted = applied_rotation(transforms.rotation(np.radians(true)))
    np.testing.assert_allclose(predicted, -true, atol=1e-3)
    found = evaluation.alignment("rotation", true, predicted, np.zeros(50))
    self.assertAlmostEqual(found.slope, -1, places=4)

  def test_projective_pose_is_its_slope_at_the_centre(self):
    matrix = np.array([[0.9, -0.3, 0.2], [0.4, 1.1, -0.1], [0.2, -0.3, 1.0]])

    def apply(x, y):
      u, v, w = matrix @ [x, y, 1]
      return np.array([u / w, v / w])

    h = 1e-6
    columns = [
      (apply(h, 0) - apply(-h, 0)) / (2 * h),
      (apply(0, h) - apply(0, -h)) / (2 * h),
    ]
    numeric = np.column_stack([*columns, apply(0, 0)])
    found = evaluation.applied(matrix, SHAPE)
    for axis, expected in evaluation.applied(numeric, SHAPE).items():
      np.testing.assert_allclose(found[axis], expected, atol=1e-3)


class AppliedTest(parameterized.TestCase):
  def test_every_axis_of_a_pose_made_by_hand(self):
    """The object shifts, shrinks and stretches, then turns."""
    turn = np.radians(30)
    # By 6 pixels right and 5 up, twice as wide, half as high, 30 degrees
    # clockwise, which in coordinates whose y points down is anticlockwise's
    # matrix; theta is the inverse, written out.
    shift = np.array([[1, 0, 6 / 30], [0, 1, -5 / 20], [0, 0, 1]])
    scale = np.diag([2, 0.5, 1])
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    theta = np.linalg.inv(rotation @ scale @ shift)
    for pose in (theta[:2], -1.5 * theta):
      found = evaluation.applied(np.stack([pose] * 2), SHAPE)
      expected = {
        "rotation": 30,
        "translation_x": 6,
        "translation_y": -5,
        "scale_x": 1,
        "scale_y": -1,
      }
      self.assertEqual(set(found), set(evaluation.UNITS))
      for axis, value in expected.items():
        np.testing.assert_allclose(
          found[axis], [value] * 2, atol=1e-3, err_msg=axis
        )

  def test_a_mirrored_pose_has_the_size_of_its_scale(self):
    found = evaluation.applied(np.array([[0.5, 0, 0], [0, -0.25, 0]]), SHAPE)
    self.assertAlmostEqual(float(found["scale_x"]), 1, places=4)
    self.assertAlmostEqual(float(found["scale_y"]), 2, places=4)

  def test_a_pose_that_is_no_pose_is_not_perfect(self):
    for pose in (np.full((2, 3), np.nan), np.zeros((2, 3))):
      poses = np.stack([np.eye(2, 3), pose])
      for axis, values in evaluation.applied(poses, SHAPE).items():
        self.assertEqual(values[0], 0, axis)
        self.assertTrue(np.isnan(values[1]), axis)

  def test_one_pose_that_is_none_spoils_its_class_and_the_whole(self):
    applied = np.array([1.0, 2.0, np.nan, 3.0])
    labels = np.array([0, 0, 1, 1])
    for axis in evaluation.UNITS:
      found = evaluation.alignment(axis, np.arange(4.0), applied, labels)
      self.assertTrue(np.isnan(found.std))
      self.assertFalse(np.isnan(found.by_class[0]))
      self.assertTrue(np.isnan(found.by_class[1]))
      self.assertFalse(np.isnan(found.none))

  def test_truth_by_axis(self):
    found = evaluation.true(
      {
        "rotation": np.array([0, np.pi / 2], np.float32),
        "translation": np.array([[1, 2], [3, 4]], np.float32),
        "scale": np.array([-1, 2], np.float32),
      }
    )
    expected = {
      "rotation": [0, 90],
      "translation_x": [1, 3],
      "translation_y": [2, 4],
      "scale_x": [-1, 2],
      "scale_y": [-1, 2],
    }
    self.assertEqual(set(found), set(expected))
    for axis, values in expected.items():
      np.testing.assert_allclose(found[axis], values, atol=1e-5)
    self.assertEqual(evaluation.true({}), {})


class AlignmentTest(parameterized.TestCase):
  """Translation and scale: means instead of directions."""

  def test_nothing_done_to_shifts(self):
    true = np.tile(np.arange(-16, 17), 100)
    found = evaluation.alignment(
      "translation_x", true, np.zeros(3300), np.zeros(3300)
    )
    self.assertAlmostEqual(found.none, 9.522, places=3)  # sqrt((33^2 - 1) / 12)
    self.assertAlmostEqual(found.std, 9.522, places=3)

  def test_nothing_done_to_scales(self):
    true = np.linspace(-1, 2, 3001)
    found = evaluation.alignment(
      "scale_y", true, np.zeros(3001), np.zeros(3001)
    )
    self.assertAlmostEqual(found.none, 0.866, places=3)  # 3 / sqrt(12)

  @parameterized.parameters(
    ("translation_x", 20.0), ("scale_y", 1.0), ("rotation", 40.0)
  )
  def test_a_share_that_is_undone(self, axis, bound):
    true = np.random.default_rng(0).uniform(-bound, bound, 3000)
    labels = np.arange(3000) % 3
    applied = -0.75 * true + bound * labels / 10
    found = evaluation.alignment(axis, true, applied, labels)
    self.assertAlmostEqual(found.slope, -0.75, delta=0.01)
    self.assertAlmostEqual(found.std, 0.25 * found.none, delta=0.01 * bound)

  def test_each_class_has_its_own_spread(self):
    rng = np.random.default_rng(0)
    labels = np.arange(9000) % 3
    true = rng.uniform(-16, 16, 9000)
    noise = rng.normal(0, 1, 9000) * np.array([0.5, 1, 4])[labels]
    applied = 5.0 * labels - true + noise
    found = evaluation.alignment("translation_y", true, applied, labels)
    np.testing.assert_allclose(found.by_class, [0.5, 1, 4], rtol=0.05)
    whole = np.sqrt(np.mean(np.square(found.by_class)))
    self.assertAlmostEqual(found.std, whole, places=6)

  def test_a_shift_is_no_angle(self):
    true = np.array([-300.0, 300, 0, 0])
    found = evaluation.residual(
      "translation_x", true, np.full(4, 7.0), np.zeros(4)
    )
    np.testing.assert_allclose(found, true)

  def test_a_perfect_theta_for_shifts_and_scales(self):
    """From truth to pose to residual: theta = scale, then shift."""
    rng = np.random.default_rng(0)
    shifts = rng.integers(-16, 17, (50, 2))
    octaves = rng.uniform(-1, 2, 50)
    theta = np.zeros((50, 2, 3))
    theta[:, 0, 0] = theta[:, 1, 1] = 2**octaves
    theta[:, :, 2] = shifts / [30, 20]
    applied = evaluation.applied(theta, SHAPE)
    true = evaluation.true({"translation": shifts, "scale": octaves})
    self.assertLen(true, 4)
    for axis, values in true.items():
      found = evaluation.alignment(axis, values, applied[axis], np.zeros(50))
      self.assertLess(found.std, 1e-4)
      self.assertAlmostEqual(found.slope, -1, places=4)

  @parameterized.parameters(
    ([], []),
    ([1.0, 2.0, 3.0], [np.inf, -np.inf, 1.0]),
    ([np.inf, 1.0, 2.0], [0.0, np.nan, 1.0]),
  )
  def test_none_and_infinite_poses_are_nan_without_warnings(self, *poses):
    true, applied = map(np.array, poses)
    labels = np.zeros(len(true), int)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      for axis in ("rotation", "scale_x"):
        found = evaluation.alignment(axis, true, applied, labels)
        line = evaluation.response(axis, true, applied).line
        np.testing.assert_array_equal([found.std, found.slope, *line], np.nan)

  def test_a_pose_at_infinity_is_nan_without_warnings(self):
    poses = np.stack([np.eye(3), np.full((3, 3), np.inf), np.diag([1, 1, 0])])
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      found = evaluation.applied(poses, (28, 28))
    for values in found.values():
      np.testing.assert_array_equal(values, [0, np.nan, np.nan])


class ErrorTest(absltest.TestCase):
  def test_error_rate(self):
    self.assertEqual(evaluation.error_rate([1, 2, 3, 4], [1, 2, 0, 0]), 0.5)

  def test_of_several_heads_all_must_be_right(self):
    labels = np.array([[1, 2, 10], [3, 10, 10], [4, 5, 6], [7, 7, 7]])
    predicted = labels.copy()
    predicted[1, 2] = predicted[3, 0] = predicted[3, 1] = 0
    self.assertEqual(evaluation.error_rate(predicted, labels), 0.5)
    self.assertEqual(evaluation.error_rate(labels, labels), 0)


class DemingTest(parameterized.TestCase):
  @parameterized.parameters(-1.0, -0.3, 2.0)
  def test_it_minimises_the_orthogonal_distance(self, slope):
    rng = np.random.default_rng(0)
    x = rng.normal(size=300)
    y = slope * x + 0.7 + rng.normal(0, 0.3, 300)
    x = x + rng.normal(0, 0.3, 300)

    def distance(line):
      return np.sum((y - line[0] * x - line[1]) ** 2) / (1 + line[0] ** 2)

    fit = optimize.minimize(distance, [slope, 0.7], tol=1e-12)
    np.testing.assert_allclose(evaluation.deming_line(x, y), fit.x, rtol=1e-4)

  @parameterized.parameters(-1.0, -1e-7, 1e-3, 40.0)
  def test_it_is_the_first_singular_vector(self, slope):
    rng = np.random.default_rng(2)
    x = rng.normal(1e3, 2, 200)
    y = slope * x + rng.normal(0, min(abs(slope), 1) / 9, 200)
    found = evaluation.deming_line(x, y)
    both = np.stack([x - x.mean(), y - y.mean()])
    first = np.linalg.svd(both, full_matrices=False)[0][:, 0]
    np.testing.assert_allclose(found.slope, first[1] / first[0], rtol=1e-9)

  def test_degenerate_clouds(self):
    x = np.array([-1.0, 0, 1])
    self.assertEqual(evaluation.deming_line(x, np.ones(3)), (0.0, 1.0))
    self.assertTrue(np.isnan(evaluation.deming_line(np.ones(3), x).slope))


if __name__ == "__main__":
  absltest.main()
