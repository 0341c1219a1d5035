"""Metrics against hand-made cases, NumPy and scipy."""

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
from scipy import optimize

from stnjax import evaluation, transforms


def uniform_angles(n=4000):
  return np.random.default_rng(0).uniform(-np.pi / 2, np.pi / 2, n)


class AlignmentTest(parameterized.TestCase):
  def test_nothing_done_is_the_spread_of_the_perturbation(self):
    true = uniform_angles()
    std = evaluation.alignment_std(
      true, np.zeros_like(true), np.arange(4000) % 10
    )
    self.assertAlmostEqual(std, 51.96, delta=1)

  @parameterized.parameters(0.0, 0.5, np.pi, -3.0)
  def test_any_common_pose_per_class_is_perfect(self, pose):
    true, labels = uniform_angles(), np.arange(4000) % 10
    std = evaluation.alignment_std(true, pose * labels - true, labels)
    self.assertLess(std, 1e-6)

  def test_noise_is_measured(self):
    true, labels = uniform_angles(), np.arange(4000) % 10
    noise = np.random.default_rng(1).normal(0, np.radians(12), 4000)
    std = evaluation.alignment_std(true, np.pi - true + noise, labels)
    self.assertAlmostEqual(std, 12, delta=0.5)

  def test_pose_of_the_object_is_read_from_theta(self):
    angles = np.linspace(-3, 3, 7)
    theta = transforms.compose(
      transforms.rotation(-angles),
      transforms.translation(jnp.array([0.3, 0.1])),
      transforms.scaling(jnp.array([0.8, 0.8])),
    )
    np.testing.assert_allclose(
      evaluation.predicted_rotation(theta), angles, atol=1e-5
    )
    projective = 2.5 * np.asarray(transforms.to_homogeneous(theta))
    np.testing.assert_allclose(
      evaluation.predicted_rotation(projective), angles, atol=1e-5
    )

  def test_a_pose_that_is_no_pose_is_not_perfect(self):
    for pose in (np.full((2, 3), np.nan), np.zeros((2, 3))):
      self.assertTrue(np.isnan(evaluation.predicted_rotation(pose)))

  def test_a_perfect_transformer_has_no_residual(self):
    # Objects are turned by `true`; theta = rotation(true) undoes it.
    true = uniform_angles(50)
    predicted = evaluation.predicted_rotation(transforms.rotation(true))
    np.testing.assert_allclose(predicted, -true, atol=1e-5)

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
    np.testing.assert_allclose(
      evaluation.predicted_rotation(matrix),
      evaluation.predicted_rotation(numeric),
      atol=1e-5,
    )


class ErrorTest(absltest.TestCase):
  def test_error_rate(self):
    self.assertEqual(evaluation.error_rate([1, 2, 3, 4], [1, 2, 0, 0]), 0.5)


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

  def test_degenerate_clouds(self):
    x = np.array([-1.0, 0, 1])
    self.assertEqual(evaluation.deming_line(x, np.ones(3)), (0.0, 1.0))
    self.assertTrue(np.isnan(evaluation.deming_line(np.ones(3), x).slope))


if __name__ == "__main__":
  absltest.main()
