"""Metrics against hand-made cases, NumPy and scipy."""

import warnings

from absl.testing import absltest, parameterized
import numpy as np
from scipy import optimize

from stnjax import evaluation
from tests.axes import ROTATION, SCALE_X, TRANSLATION_X, Axis


def uniform_angles(n=4000):
  return np.random.default_rng(0).uniform(-90, 90, n)


class RotationTest(parameterized.TestCase):
  def test_nothing_done_is_the_spread_of_the_perturbation(self):
    true_pose = uniform_angles()
    found = evaluation.alignment(
      ROTATION, true_pose, np.zeros_like(true_pose), np.arange(4000) % 10
    )
    self.assertAlmostEqual(found.std, 51.96, delta=1)
    self.assertEqual(found.none, found.std)
    self.assertAlmostEqual(found.slope, 0, delta=0.01)

  @parameterized.parameters(0.0, 0.5, np.pi, -3.0)
  def test_any_common_pose_per_class_is_perfect(self, pose):
    true_pose, labels = uniform_angles(), np.arange(4000) % 10
    predicted_pose = np.degrees(pose) * labels - true_pose
    found = evaluation.alignment(ROTATION, true_pose, predicted_pose, labels)
    self.assertLess(found.std, np.degrees(1e-6))
    self.assertLess(max(found.by_class), np.degrees(1e-6))
    self.assertAlmostEqual(found.none, 51.96, delta=1)

  def test_noise_is_measured(self):
    true_pose, labels = uniform_angles(), np.arange(4000) % 10
    noise = np.random.default_rng(1).normal(0, 12, 4000)
    found = evaluation.alignment(
      ROTATION, true_pose, 180 - true_pose + noise, labels
    )
    self.assertAlmostEqual(found.std, 12, delta=0.5)

  def test_the_mean_of_a_class_may_be_where_angles_wrap(self):
    left = evaluation.residual(
      ROTATION,
      np.array([170.0, -170, 10, -10]),
      np.zeros(4),
      np.array([0, 0, 1, 1]),
    )
    np.testing.assert_allclose(left, [-10, 10, 10, -10], atol=1e-9)


class SingleTest(absltest.TestCase):
  def test_a_class_with_a_single_pose_is_left_out(self):
    true_pose = np.array([3.0, 1.0, -1.0])
    nothing, labels = np.zeros(3), np.array([0, 1, 1])
    found = evaluation.alignment(TRANSLATION_X, true_pose, nothing, labels)
    self.assertEqual((found.std, found.none), (1, 1))
    np.testing.assert_array_equal(found.by_class, [np.nan, 1])
    alone = evaluation.alignment(
      TRANSLATION_X, true_pose, nothing, np.arange(3)
    )
    np.testing.assert_array_equal([alone.std, alone.none], [np.nan, np.nan])


class PeriodTest(parameterized.TestCase):
  """Any period: angles in other units, phases, orientations of bars."""

  @parameterized.parameters(2 * np.pi, 360.0, 180.0, 1.0, 0.3)
  def test_residuals_are_those_of_degrees_in_the_unit(self, period):
    rng = np.random.default_rng(0)
    true_pose, predicted_pose = rng.uniform(-2, 2, (2, 900)) * period
    labels = np.arange(900) % 4
    axis = Axis("phase", "", period)
    found = evaluation.residual(axis, true_pose, predicted_pose, labels)
    # The whole periods that are added nearest to the mean of the class.
    for label in range(4):
      members = labels == label
      total = (true_pose + predicted_pose)[members]
      turns = np.exp(2j * np.pi * total / period)
      centred = np.angle(turns / turns.mean()) / (2 * np.pi) * period
      np.testing.assert_allclose(found[members], centred, atol=1e-9 * period)
    self.assertLessEqual(np.abs(found).max(), period / 2 * (1 + 1e-9))

  def test_whole_periods_do_not_matter(self):
    rng = np.random.default_rng(1)
    true_pose = rng.uniform(-1, 1, 60)
    predicted_pose = 0.2 - 0.9 * true_pose
    axis, labels = Axis("phase", "turns", 5.0), np.zeros(60)
    shifted = predicted_pose + 5.0 * rng.integers(-3, 4, 60)
    np.testing.assert_allclose(
      evaluation.alignment(axis, true_pose, predicted_pose, labels)[0],
      evaluation.alignment(axis, true_pose, shifted, labels)[0],
    )
    for given in (None, labels):
      line = evaluation.response(axis, true_pose, shifted, given).line
      self.assertAlmostEqual(line.slope, -0.9, places=6)

  @parameterized.parameters(0.0, -360.0, np.nan)
  def test_a_period_that_is_none_is_refused(self, period):
    axis = Axis("phase", "", period)
    with self.assertRaisesRegex(
      ValueError, "period of axis 'phase' must be ab"
    ):
      evaluation.residual(axis, np.ones(2), np.ones(2), np.zeros(2))


class AlignmentTest(parameterized.TestCase):
  """Translation and scale: means instead of directions."""

  def test_a_pose_that_is_not_finite_spoils_its_class_and_the_whole(self):
    predicted_pose = np.array([1.0, 2.0, np.nan, 3.0])
    labels = np.array([0, 0, 1, 1])
    for axis in (ROTATION, SCALE_X):
      found = evaluation.alignment(axis, np.arange(4.0), predicted_pose, labels)
      self.assertTrue(np.isnan(found.std))
      self.assertFalse(np.isnan(found.by_class[0]))
      self.assertTrue(np.isnan(found.by_class[1]))
      self.assertFalse(np.isnan(found.none))

  def test_nothing_done_to_shifts(self):
    true_pose = np.tile(np.arange(-16, 17), 100)
    found = evaluation.alignment(
      TRANSLATION_X, true_pose, np.zeros(3300), np.zeros(3300)
    )
    self.assertAlmostEqual(found.none, 9.522, places=3)  # sqrt((33^2 - 1) / 12)
    self.assertAlmostEqual(found.std, 9.522, places=3)

  def test_nothing_done_to_scales(self):
    true_pose = np.linspace(-1, 2, 3001)
    found = evaluation.alignment(
      SCALE_X, true_pose, np.zeros(3001), np.zeros(3001)
    )
    self.assertAlmostEqual(found.none, 0.866, places=3)  # 3 / sqrt(12)

  @parameterized.parameters(
    (TRANSLATION_X, 20.0), (SCALE_X, 1.0), (ROTATION, 40.0)
  )
  def test_a_share_that_is_undone(self, axis, bound):
    true_pose = np.random.default_rng(0).uniform(-bound, bound, 3000)
    labels = np.arange(3000) % 3
    predicted_pose = -0.75 * true_pose + bound * labels / 10
    found = evaluation.alignment(axis, true_pose, predicted_pose, labels)
    self.assertAlmostEqual(found.slope, -0.75, delta=0.01)
    self.assertAlmostEqual(found.std, 0.25 * found.none, delta=0.01 * bound)

  def test_each_class_has_its_own_spread(self):
    rng = np.random.default_rng(0)
    labels = np.arange(9000) % 3
    true_pose = rng.uniform(-16, 16, 9000)
    noise = rng.normal(0, 1, 9000) * np.array([0.5, 1, 4])[labels]
    predicted_pose = 5.0 * labels - true_pose + noise
    found = evaluation.alignment(
      TRANSLATION_X, true_pose, predicted_pose, labels
    )
    np.testing.assert_allclose(found.by_class, [0.5, 1, 4], rtol=0.05)
    whole = np.sqrt(np.mean(np.square(found.by_class)))
    self.assertAlmostEqual(found.std, whole, places=6)

  def test_a_shift_is_no_angle(self):
    true_pose = np.array([-300.0, 300, 0, 0])
    found = evaluation.residual(
      TRANSLATION_X, true_pose, np.full(4, 7.0), np.zeros(4)
    )
    np.testing.assert_allclose(found, true_pose)

  @parameterized.parameters(
    ([], []),
    ([1.0, 2.0, 3.0], [np.inf, -np.inf, 1.0]),
    ([np.inf, 1.0, 2.0], [0.0, np.nan, 1.0]),
  )
  def test_none_and_infinite_poses_are_nan_without_warnings(self, *poses):
    true_pose, predicted_pose = map(np.array, poses)
    labels = np.zeros(len(true_pose), int)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      for axis in (ROTATION, SCALE_X):
        found = evaluation.alignment(axis, true_pose, predicted_pose, labels)
        line = evaluation.response(axis, true_pose, predicted_pose).line
        np.testing.assert_array_equal([found.std, found.slope, *line], np.nan)


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
