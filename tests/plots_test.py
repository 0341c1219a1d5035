"""Figures: what is drawn, read back from the figure's own artists."""

from absl.testing import absltest
import numpy as np

from stnjax import plots


class CurvesTest(absltest.TestCase):
  def test_a_network_has_one_colour_in_every_panel(self):
    seeds = [np.array([3.0, 2.0, 1.0]), np.array([5.0, 4.0])]
    figure = plots.learning_curves(
      {"error": {"CNN": seeds, "STN-C0": seeds}, "std": {"STN-C0": seeds}}
    )
    lines = [
      {line.get_label(): line for line in axis.lines} for axis in figure.axes
    ]
    self.assertEqual(
      lines[0]["STN-C0"].get_color(), lines[1]["STN-C0"].get_color()
    )
    self.assertNotEqual(
      lines[0]["CNN"].get_color(), lines[0]["STN-C0"].get_color()
    )
    # The mean over seeds, as far as all of them go.
    np.testing.assert_array_equal(lines[0]["CNN"].get_ydata(), [4, 3])


class PictureTest(absltest.TestCase):
  def test_a_panel_per_network_with_rows_of_draws_and_columns_of_classes(self):
    before = np.random.default_rng(0).uniform(size=(2, 3, 4, 4, 1))
    figure = plots.before_and_after(before, {"STN-C0": before + 1})
    titles = [axis.get_title() for axis in figure.axes]
    self.assertEqual(titles, ["input", "STN-C0"])
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown[5:9, 10:14], before[1, 2, ..., 0] + 1)


class AngleTest(absltest.TestCase):
  def test_the_line_has_the_slope_of_the_cloud(self):
    true = np.random.default_rng(0).uniform(-90, 90, 500)
    figure = plots.angle_density({"STN-C0": true}, {"STN-C0": -0.5 * true})
    self.assertIn("slope -0.50", figure.axes[0].get_title())
    np.testing.assert_allclose(
      figure.axes[0].lines[1].get_ydata(), [45, -45], atol=1e-6
    )


if __name__ == "__main__":
  absltest.main()
