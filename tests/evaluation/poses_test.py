"""Alignment against hand-made cases and NumPy."""

import warnings

from absl.testing import absltest, parameterized
import numpy as np
from scipy import stats

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


def circular_std(angles):
  """Root mean square of differences to the circular mean, by a loop."""
  turns = [complex(np.cos(a), np.sin(a)) for a in np.radians(angles)]
  middle = np.degrees(np.angle(sum(turns)))
  wrapped = [(a - middle + 180) % 360 - 180 for a in angles]
  return np.sqrt(sum(w * w for w in wrapped) / len(wrapped))


class CircleTest(parameterized.TestCase):
  """Perturbations over the whole circle, where angles wrap."""

  def uniform(self, passes=10, count=2000):
    return np.random.default_rng(0).uniform(-180, 180, (passes, count))

  def test_nothing_done_is_uniform(self):
    true_pose, labels = self.uniform(), np.arange(2000) % 10
    nothing = np.zeros_like(true_pose)
    found = evaluation.alignment(ROTATION, true_pose, nothing, labels)
    # Less than 103.9, as each class is about the mean of its 2,000 angles.
    self.assertAlmostEqual(found.std, 180 / 3**0.5 - 1.5, delta=0.5)
    self.assertEqual(found.none, found.std)
    self.assertAlmostEqual(found.slope, 0, delta=1e-9)
    # About the mean of 10 uniform angles; docs/metrics.md names both.
    self.assertAlmostEqual(found.by_image, 90, delta=0.5)

  @parameterized.parameters(5.0, 40.0, 90.0)
  def test_spreads_are_those_of_a_loop(self, noise):
    rng = np.random.default_rng(1)
    true_pose, labels = self.uniform(3, 200), np.arange(200) % 4
    rest = rng.normal(0, noise, true_pose.shape) + 170 + 90 * labels
    predicted_pose = (rest - true_pose + 180) % 360 - 180
    found = evaluation.alignment(ROTATION, true_pose, predicted_pose, labels)
    total = true_pose + predicted_pose
    spreads = [circular_std(total[:, labels == k].ravel()) for k in range(4)]
    np.testing.assert_allclose(found.by_class, spreads, rtol=1e-9)
    np.testing.assert_allclose(found.std, np.mean(np.square(spreads)) ** 0.5)
    by_image = [circular_std(column) ** 2 * 3 / 2 for column in total.T]
    np.testing.assert_allclose(found.by_image, np.mean(by_image) ** 0.5)
    if noise < 10:  # as the circular standard deviation, of which it is none
      expected = stats.circstd(total[:, labels == 0], high=360)
      np.testing.assert_allclose(found.by_class[0], expected, rtol=0.02)
      self.assertAlmostEqual(found.slope, -1, delta=0.01)

  @parameterized.parameters(-1.0, -0.5, -0.2, 0.0)
  def test_slopes_over_the_circle(self, slope):
    true_pose, labels = self.uniform(1)[0], np.arange(2000) % 10
    noise = np.random.default_rng(1).normal(0, 3, true_pose.shape)
    predicted_pose = (slope * true_pose + noise + 180) % 360 - 180
    found = evaluation.alignment(ROTATION, true_pose, predicted_pose, labels)
    self.assertAlmostEqual(found.slope, slope, delta=0.01)
    line = evaluation.response(ROTATION, true_pose, predicted_pose).line
    self.assertAlmostEqual(line.slope, slope, delta=0.01)

  def test_the_mean_of_some_passes(self):
    """Others are measured about the pose that those have."""
    true_pose = np.array([[0.0, 10], [0, 10], [50, 60]])
    nothing, labels = np.zeros((3, 2)), np.zeros(2)
    first = np.array([True, True, False])
    found = evaluation.residual(ROTATION, true_pose, nothing, labels, first)
    np.testing.assert_allclose(found, [[-5, 5], [-5, 5], [45, 55]], atol=1e-9)


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


class ImageTest(parameterized.TestCase):
  """The residual about the mean of each image over its passes."""

  @parameterized.parameters(
    (TRANSLATION_X, 9.0), (ROTATION, 80.0), (Axis("phase", "", 1.0), 0.3)
  )
  def test_it_is_the_spread_of_each_image_about_its_mean(self, axis, bound):
    rng = np.random.default_rng(0)
    true_pose = rng.uniform(-bound, bound, (4, 30))
    predicted_pose = -true_pose + rng.normal(0, bound / 4, (4, 30))
    predicted_pose += rng.uniform(-3, 3, 30) * bound  # a pose per image
    found = evaluation.alignment(
      axis, true_pose, predicted_pose, np.arange(30) % 3
    )

    def expected(values):
      total = 0.0
      for image in range(30):
        mine = values[:, image]
        if axis.period is None:
          total += np.var(mine, ddof=1)
          continue
        turns = np.exp(2j * np.pi * mine / axis.period)
        centred = np.angle(turns / turns.mean()) / (2 * np.pi) * axis.period
        total += np.sum(centred**2) / 3
      return np.sqrt(total / 30)

    np.testing.assert_allclose(
      found.by_image, expected(true_pose + predicted_pose)
    )
    np.testing.assert_allclose(found.none_by_image, expected(true_pose))

  @parameterized.parameters(2, 10)
  def test_it_is_unbiased_for_any_number_of_passes(self, passes):
    true_pose = np.random.default_rng(0).uniform(-90, 90, (passes, 20000))
    labels = np.zeros(20000)
    shifts = evaluation.alignment(
      TRANSLATION_X, true_pose, np.zeros_like(true_pose), labels
    )
    self.assertAlmostEqual(shifts.by_image, 51.96, delta=0.5)
    self.assertEqual(shifts.by_image, shifts.none_by_image)

  def test_how_differently_people_write_counts_by_class_alone(self):
    rng = np.random.default_rng(0)
    true_pose = rng.uniform(-90, 90, (5, 400))
    slant = rng.normal(0, 12, 400)
    found = evaluation.alignment(
      ROTATION, true_pose, slant - true_pose, np.zeros(400)
    )
    self.assertAlmostEqual(found.std, 12, delta=1)
    self.assertLess(found.by_image, 1e-6)

  def test_images_may_be_brought_to_where_angles_wrap(self):
    total = np.array([[179.0, 20], [-179, 22]])
    found = evaluation.alignment(
      ROTATION, total, np.zeros_like(total), np.array([0, 1])
    )
    self.assertAlmostEqual(found.by_image, 2**0.5)

  def test_passes_are_as_images_for_all_that_is_about_the_class(self):
    rng = np.random.default_rng(3)
    true_pose, predicted_pose = rng.uniform(-90, 90, (2, 4, 50))
    labels = np.arange(50) % 3
    found = evaluation.alignment(ROTATION, true_pose, predicted_pose, labels)
    flat = evaluation.alignment(
      ROTATION, true_pose.ravel(), predicted_pose.ravel(), np.tile(labels, 4)
    )
    np.testing.assert_allclose(found.by_class, flat.by_class)
    for field in ("std", "slope", "none"):
      self.assertAlmostEqual(getattr(found, field), getattr(flat, field))
    self.assertTrue(np.isnan([flat.by_image, flat.none_by_image]).all())

  def test_a_pose_that_is_not_finite_spoils_it(self):
    predicted_pose = np.zeros((2, 3))
    predicted_pose[1, 2] = np.nan
    for axis in (ROTATION, SCALE_X):
      found = evaluation.alignment(
        axis, np.ones((2, 3)), predicted_pose, np.zeros(3)
      )
      self.assertTrue(np.isnan(found.by_image))
      self.assertEqual(found.none_by_image, 0)

  def test_arguments_that_do_not_fit_are_named(self):
    two = np.zeros((2, 3))
    for arguments, message in (
      ((two, two, np.zeros(6)), r"labels must be \[N\].*got shape \(6,\)"),
      ((two, two[0], np.zeros(3)), r"true_pose and predicted_pose must both"),
      ((two[None], two[None], np.zeros(3)), r"must both be \[N\] or \[P, N\]"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        evaluation.alignment(ROTATION, *arguments)


class PooledTest(parameterized.TestCase):
  def test_it_is_the_norm_about_the_class_over_all_components(self):
    rng = np.random.default_rng(0)
    true_pose = rng.uniform(-16, 16, (90, 2))
    labels = np.arange(90) % 4
    predicted_pose = 0.1 * rng.normal(size=(90, 2)) - 0.8 * true_pose
    predicted_pose += np.array([3.0, -2])[None] * labels[:, None]
    found = evaluation.pooled_alignment(
      TRANSLATION_X, true_pose, predicted_pose, labels
    )
    for value, moved in ((found.std, predicted_pose), (found.none, 0)):
      variance = 0.0
      for label in range(4):
        total = (true_pose + moved)[labels == label]
        for each in total - total.sum(axis=0) / len(total):
          variance += np.linalg.norm(each) ** 2
      np.testing.assert_allclose(value, np.sqrt(variance / 90))
    line = evaluation.deming_line(true_pose.ravel(), predicted_pose.ravel())
    np.testing.assert_allclose([found.slope, found.intercept], line)

  def test_one_component_without_a_period_is_not_wrapped(self):
    true_pose = np.array([170.0, -170, 10, -10])
    axis = Axis("rotation", "deg", None)
    found = evaluation.pooled_alignment(
      axis, true_pose, np.zeros(4), np.array([0, 0, 1, 1])
    )
    self.assertAlmostEqual(found.std, np.sqrt((170**2 + 10**2) / 2))
    wrapped = evaluation.pooled_alignment(
      ROTATION, true_pose, np.zeros(4), np.array([0, 0, 1, 1])
    )
    self.assertAlmostEqual(wrapped.std, 10)

  def test_the_mean_of_a_class_is_not_taken_from_the_line(self):
    true_pose = np.repeat([-1.0, 1.0], 50)
    labels = (true_pose > 0).astype(int)
    found = evaluation.pooled_alignment(
      SCALE_X, true_pose, 0.5 * true_pose + 3, labels
    )
    np.testing.assert_allclose([found.slope, found.intercept], [0.5, 3])
    self.assertEqual((found.std, found.none), (0, 0))

  def test_unknown_and_no_poses_are_nan(self):
    for poses in (np.zeros((0, 2)), np.full((3, 2), np.nan)):
      found = evaluation.pooled_alignment(
        TRANSLATION_X, poses, poses, np.zeros(len(poses))
      )
      np.testing.assert_array_equal(found, np.nan)

  def test_arguments_that_do_not_fit_are_named(self):
    with self.assertRaisesRegex(ValueError, r"must both be \[N\] or \[N, D\]"):
      evaluation.pooled_alignment(
        ROTATION, np.zeros(3), np.zeros((3, 2)), np.zeros(3)
      )
    with self.assertRaisesRegex(ValueError, r"labels must be \[N\]"):
      evaluation.pooled_alignment(
        ROTATION, np.zeros((3, 2)), np.zeros((3, 2)), np.zeros(2)
      )


if __name__ == "__main__":
  absltest.main()
