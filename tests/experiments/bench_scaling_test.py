"""The scaling benchmark: its arithmetic, and a small run of its parts."""

from absl.testing import absltest
import numpy as np

from experiments import bench_scaling
from stnjax import plots
from tests import scripts


class PartsTest(absltest.TestCase):
  def test_slope_is_that_of_the_upper_half(self):
    place = 2.0 ** np.arange(8)
    cost = 5 + place**1.5
    line = np.stack([place, cost, cost, cost], 1)
    line[4:, 1:] -= 5
    self.assertAlmostEqual(bench_scaling.slope(line), 1.5, places=6)

  def test_along(self):
    shape = (2, 3, 5, 7)
    found = {
      axis: bench_scaling.along(axis, shape) for axis in bench_scaling.AXES
    }
    self.assertEqual(found, {"batch": 2, "pixels": 15, "channels": 7})

  def test_measurements_become_a_table_and_a_figure(self):
    shapes = [(1, 4, 4, 1), (3, 4, 4, 1)]
    rows = bench_scaling.measure("batch", shapes, ["stnjax"], 2)
    self.assertLen(rows, 2 * len(bench_scaling.PASSES))
    rows[0]["seconds"] = [0.002, 0.004]
    lines = bench_scaling.lines(rows)
    np.testing.assert_allclose(
      lines["batch"]["stnjax, forward"][0], [1, 2.5, 3, 3.5]
    )
    text = bench_scaling.table(lines)
    self.assertIn("| batch | stnjax, forward | 1 | 3 | 3 |", text)
    (axis,) = plots.scaling(lines).axes
    names = [line.get_label() for line in axis.lines]
    self.assertEqual(names, ["stnjax, forward", "stnjax, both", "slope 1"])

  def test_wrong_flags_are_named(self):
    done = scripts.run("bench_scaling", "--rounds=0")
    self.assertNotEqual(done.returncode, 0)
    self.assertIn("--rounds", done.stderr + done.stdout)


if __name__ == "__main__":
  absltest.main()
