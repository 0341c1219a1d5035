"""Figures: what is drawn, read back from the figure's own artists."""

from absl.testing import absltest, parameterized
import numpy as np

import stnjax
from stnjax import alignability, plots, transforms


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


class AlignabilityTest(absltest.TestCase):
  def test_residuals_by_family_and_the_profile_over_depth(self):
    rng = np.random.default_rng(0)
    families = {
      name: alignability.FAMILIES[name] for name in ("rotation", "shear")
    }

    def residuals(count, factor):
      values = factor * rng.uniform(1, 2, (4, count, 3))
      return alignability.Residuals(*values, np.ones(count))

    layers = {"input": 0.1, "block 1": 0.3}
    audits = {
      state: alignability.Audit(
        families,
        {},
        {
          layer: {
            name: residuals(len(family.magnitudes), factor)
            for name, family in families.items()
          }
          for layer, factor in layers.items()
        },
      )
      for state in ("trained", "untrained")
    }
    figure = plots.alignability(audits, kind="aligned")
    rotation, shear, profile = figure.axes[:3]
    self.assertEqual(rotation.get_title(), "rotation")
    self.assertEqual(shear.get_xlabel(), "px/px")
    shown = audits["trained"].residuals["block 1"]["shear"].aligned
    lines = {line.get_label(): line for line in shear.lines}
    x, y = lines["block 1"].get_data()
    np.testing.assert_array_equal(x, families["shear"].magnitudes)
    np.testing.assert_allclose(y, shown.mean(axis=1))
    drawn = [line for line in profile.lines if len(line.get_ydata())]
    expected = [
      100 * profile
      for audit in audits.values()
      for profile in audit.profile("aligned").values()
    ]
    for line, values in zip(drawn, expected, strict=True):
      np.testing.assert_allclose(line.get_ydata(), values)


class PictureTest(absltest.TestCase):
  def test_a_panel_per_network_with_rows_of_draws_and_columns_of_classes(self):
    before = np.random.default_rng(0).uniform(size=(2, 3, 4, 4, 1))
    figure = plots.before_and_after(before, {"STN-C0": before + 1})
    titles = [axis.get_title() for axis in figure.axes]
    self.assertEqual(titles, ["input", "STN-C0"])
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown[5:9, 10:14], before[1, 2, ..., 0] + 1)


class DensityTest(parameterized.TestCase):
  @parameterized.parameters(("rotation", -90, 90), ("scale_x", -1, 2))
  def test_the_line_has_the_slope_of_the_cloud(self, axis, low, high):
    true = np.random.default_rng(0).uniform(low, high, 500)
    figure = plots.pose_density(
      axis, {"STN-C0": true}, {"STN-C0": -0.5 * true + 0.1}
    )
    panel = figure.axes[0]
    self.assertIn("slope -0.50", panel.get_title())
    x, y = panel.lines[1].get_data()
    np.testing.assert_allclose(y, -0.5 * x + 0.1, atol=1e-6)
    x, y = panel.lines[0].get_data()
    np.testing.assert_allclose(y, -x)
    # All of the cloud is in the picture.
    counts = panel.collections[0].get_array() ** 2
    self.assertAlmostEqual(float(counts.sum()), 500, delta=5)
    self.assertIn(axis.split("_")[0], figure.get_supxlabel())


class ErrorLinesTest(absltest.TestCase):
  def test_means_spreads_and_every_seed(self):
    figure = plots.error_lines(
      "depth", {"STN-SL": {3: [4.0, 6.0], 0: [8.0]}}, baseline=[9.0, 11.0]
    )
    (axis,) = figure.axes
    self.assertEqual(axis.lines[0].get_ydata()[0], 10)
    ((line, _, bars),) = axis.containers
    np.testing.assert_array_equal(line.get_xydata(), [[0, 8], [3, 5]])
    reach = bars[0].get_segments()[1][:, 1]
    np.testing.assert_allclose(reach, [5 - 2**0.5, 5 + 2**0.5])
    dots = [
      y
      for dot in axis.lines
      if dot.get_marker() == "."
      for y in dot.get_ydata()
    ]
    self.assertCountEqual(dots, [8, 4, 6])
    np.testing.assert_array_equal(axis.get_xticks(), [0, 3])


class WarpTest(absltest.TestCase):
  def test_lines_and_arrows_are_where_the_grid_reads(self):
    image = np.arange(20.0).reshape(4, 5, 1)
    shift = transforms.translation(np.array([2 * 2 / 5, -1 * 2 / 4]))
    grid = stnjax.affine_grid(shift, (4, 5))  # 2 pixels right, 1 up
    figure = plots.warp(image, stnjax.warp(image, shift), grid)
    on_image, result, arrows = figure.axes[:3]
    lines = on_image.collections[0].get_segments()
    self.assertLen(lines, 4 + 5)
    np.testing.assert_allclose(
      lines[1], [[x + 2, 0] for x in range(5)], atol=1e-6
    )
    # The view takes in what the grid reads outside.
    self.assertGreaterEqual(on_image.get_xlim()[1], 6)
    self.assertLessEqual(on_image.get_ylim()[1], -1)
    quiver = arrows.collections[0]
    np.testing.assert_allclose(quiver.U, 2, atol=1e-6)
    np.testing.assert_allclose(quiver.V, -1, atol=1e-6)
    # One scale of grey for both pictures.
    self.assertEqual(on_image.images[0].get_clim(), result.images[0].get_clim())

  def test_images_are_all_shown_under_their_names(self):
    rng = np.random.default_rng(0)
    panels = {
      "grey": rng.normal(size=(4, 6)),
      "channel": 3 * rng.normal(size=(4, 6, 1)),
      "colour": rng.normal(size=(4, 6, 3)),
      "bytes": rng.integers(0, 256, (4, 6, 3)).astype(np.uint8),
      "small": rng.normal(size=(2, 3)),
    }
    figure = plots.images(panels)
    self.assertLen(figure.axes, 8)
    for axis, (name, image) in zip(figure.axes, panels.items(), strict=False):
      self.assertEqual(axis.get_title(), name)
      shown = axis.images[0].get_array()
      expected = np.clip(image, 0, 1) if name == "colour" else image
      np.testing.assert_array_equal(
        shown, expected[..., 0] if name == "channel" else expected
      )
    figure.canvas.draw()

  def test_a_grid_of_a_volume_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"grid must be \[h, w, 2\]"):
      plots.warp(np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((2, 2, 2, 3)))


if __name__ == "__main__":
  absltest.main()
