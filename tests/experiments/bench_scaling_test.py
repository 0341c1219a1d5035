"""The scaling benchmark: its arithmetic, and a small run of its parts."""

from absl.testing import absltest
import numpy as np

from experiments.bench import peers, scaling
from experiments.lib import tables
import stnjax
from stnjax import plots


class ScalingTest(absltest.TestCase):
  def test_slope_is_that_of_the_upper_half(self):
    position = 2.0 ** np.arange(8)
    cost = 5 + position**1.5
    line = np.stack([position, cost, cost, cost], 1)
    line[4:, 1:] -= 5
    self.assertAlmostEqual(scaling.slope(line), 1.5, places=6)

  def test_position(self):
    shape = (2, 3, 5, 7)
    self.assertEqual(
      {axis: scaling.position(axis, shape) for axis in scaling.AXES},
      {"batch": 2, "pixels": 15, "channels": 7, "antialiased pixels": 15},
    )

  def test_antialiased_images_are_those_of_a_shrinking_warp(self):
    (name,) = scaling.libraries("antialiased pixels")
    shape = (1, 32, 32, 1)
    image, theta, _ = peers.inputs(shape)
    theta[..., :2] *= 4
    forward = peers.build(name, shape, "linear")["forward"]
    expected = stnjax.warp(image, theta, antialias=True)
    np.testing.assert_allclose(forward(), expected, atol=1e-6)
    self.assertGreater(np.abs(expected - stnjax.warp(image, theta)).max(), 0.1)

  def test_measurements_become_a_table_and_a_figure(self):
    shapes = [(1, 4, 4, 1), (3, 4, 4, 1)]
    rows = scaling.measure("batch", shapes, ["stnjax"], 2)
    self.assertLen(rows, 2 * len(scaling.PASSES))
    rows[0]["seconds"] = [0.002, 0.004]
    lines = scaling.lines(rows)
    np.testing.assert_allclose(
      lines["batch"]["stnjax, forward"][0], [1, 2.5, 3, 3.5]
    )
    text = tables.markdown(scaling.table(lines))
    self.assertIn("| batch | stnjax, forward | 1 | 3 | 3 |", text)
    (axis,) = plots.scaling(lines).axes
    drawn = [line.get_label() for line in axis.lines]
    self.assertContainsSubset(lines["batch"], drawn)

  def test_a_library_has_one_colour_in_all_panels(self):
    line = np.array([[1.0, 1, 2, 3], [2, 2, 3, 4]])
    first, second = plots.scaling(
      {"batch": {"a, both": line, "b, both": line}, "pixels": {"b, both": line}}
    ).axes
    colours = [drawn.get_color() for drawn in first.lines[:2]]
    self.assertNotEqual(*colours)
    self.assertEqual(second.lines[0].get_color(), colours[1])


if __name__ == "__main__":
  absltest.main()
