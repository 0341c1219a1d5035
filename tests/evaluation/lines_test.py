"""Orthogonal regression against scipy and NumPy."""

from absl.testing import absltest, parameterized
import numpy as np
from scipy import optimize

from stnjax import evaluation


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
