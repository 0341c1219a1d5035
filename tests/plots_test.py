"""Figures: what is drawn, read back from the figure's own artists."""

import itertools
import warnings

from absl.testing import absltest, parameterized
from matplotlib import colors
import numpy as np
import pytest

from stnjax import alignability, evaluation, plots
from tests.axes import ROTATION, SCALE_X


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

  def test_many_layers_can_be_told_apart_on_white(self):
    layers = ["input", *(f"block {i}" for i in range(1, 9))]
    rng = np.random.default_rng(0)
    family = alignability.ImageTransforms(None, (1.0, 2.0), "px")
    residuals = {
      layer: {
        "shift": alignability.Residuals(*rng.uniform(1, 2, (4, 2, 3)), [1, 1])
      }
      for layer in layers
    }
    audit = alignability.Audit({"shift": family}, {}, residuals)
    audits = {f"state {i}": audit for i in range(4)}
    figure = plots.alignability(audits)
    panel, profile, legend = figure.axes[:3]
    named = [k for k in panel.lines if k.get_label() in layers]
    self.assertLen({(k.get_marker(), k.get_color()[:3].__str__())
                    for k in named}, 9)  # fmt: skip
    for line in [*panel.lines, *profile.lines]:
      red, green, blue, _ = colors.to_rgba(line.get_color())
      # Contrast on white of at least 3, as WCAG 2.1 wants of graphics.
      linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (red, green, blue)
      ]
      luminance = np.dot([0.2126, 0.7152, 0.0722], linear)
      self.assertGreaterEqual(1.05 / (luminance + 0.05), 3)
    dotted = [k for k in panel.lines if k.get_linestyle() == ":"]
    self.assertEqual([k.get_marker() for k in dotted],
                     [k.get_marker() for k in named])  # fmt: skip
    told = [t.get_text() for t in legend.artists[0].get_texts()]
    self.assertEqual(told, [*layers, "with the warp", "without a warp"])
    states = [t.get_text() for t in legend.get_legend().get_texts()]
    self.assertEqual(states, ["shift", *audits])  # none is left out

  @pytest.mark.slow
  def test_fourteen_layers_fit(self):
    """Ticks stay apart, legends off the panels, and no row is left blank."""
    rng = np.random.default_rng(0)
    for count in (2, 4):
      families = {
        f"family {i}": alignability.ImageTransforms(None, (1.0, 2.0), "px")
        for i in range(count)
      }
      residuals = {
        f"block {i}": {
          name: alignability.Residuals(*rng.uniform(1, 2, (4, 2, 3)), [1, 1])
          for name in families
        }
        for i in range(14)
      }
      audit = alignability.Audit(families, {}, residuals)
      figure = plots.alignability({"trained": audit, "untrained": audit})
      figure.draw_without_rendering()
      profile = figure.axes[count]
      ticks = [
        label.get_window_extent()
        for label in profile.get_xticklabels()
        if label.get_text()
      ]
      for left, right in itertools.pairwise(ticks):
        self.assertLess(left.x1, right.x0)
      panels = [a.get_window_extent() for a in figure.axes if a.axison]
      legends = [legend.get_window_extent() for legend in figure.legends]
      for box, other in itertools.combinations([*panels, *legends], 2):
        self.assertFalse(box.overlaps(other))
      self.assertIsNone(profile.get_legend())
      for legend in figure.legends:
        self.assertGreaterEqual(legend.get_window_extent().x0, 0)
        self.assertLessEqual(legend.get_window_extent().x1, figure.bbox.width)
      rows = {round(panel.y0) for panel in panels}
      self.assertLen(rows, -(-(count + 1) // 3))
      with self.assertRaisesRegex(ValueError, "kind='x' is unknown"):
        plots.alignability({"trained": audit}, kind="x")


class DensityTest(parameterized.TestCase):
  @parameterized.parameters((ROTATION, -90, 90), (SCALE_X, -1, 2))
  def test_the_line_has_the_slope_of_the_cloud(self, axis, low, high):
    true_pose = np.random.default_rng(0).uniform(low, high, 500)
    figure = plots.pose_density(
      axis, {"STN-C0": true_pose}, {"STN-C0": -0.5 * true_pose + 0.1}
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
    name = {"deg": "rotation (deg)", "octaves": "scale x (octaves)"}[axis.unit]
    self.assertIn(name, figure.get_supxlabel())
    self.assertIn(name, figure.get_supylabel())

  @parameterized.parameters(True, False)
  def test_the_slope_is_that_of_alignment(self, with_labels):
    """Of poses that differ by class, and wrap around."""
    rng = np.random.default_rng(1)
    labels = np.arange(600) % 3 if with_labels else np.zeros(600, int)
    true_pose = rng.uniform(-90, 90, 600)
    common = np.array([170.0, -60.0, 20.0])[labels]
    noise = rng.normal(0, 4, 600)
    clean = common - 0.8 * true_pose + noise  # before angles are cut at 180
    predicted_pose = (clean + 180) % 360 - 180
    figure = plots.pose_density(
      ROTATION,
      {"a": true_pose},
      {"a": predicted_pose},
      {"a": labels} if with_labels else None,
    )
    found = evaluation.alignment(
      ROTATION, true_pose, predicted_pose, labels
    ).slope
    centred = np.stack([true_pose, clean])
    for label in set(labels):
      mine = labels == label
      # The sum of both is centred, not each.
      centred[1, mine] -= (true_pose + clean)[mine].mean()
    centred -= centred.mean(axis=1, keepdims=True)
    direction = np.linalg.svd(centred, full_matrices=False)[0][:, 0]
    expected = direction[1] / direction[0]
    self.assertAlmostEqual(found, expected, delta=2e-3)
    title = figure.axes[0].get_title()
    self.assertEqual(title, f"a: slope {found:.2f}")
    (x0, x1), (y0, y1) = figure.axes[0].lines[1].get_data()
    self.assertAlmostEqual((y1 - y0) / (x1 - x0), found, places=6)

  @parameterized.parameters(
    ([1.0] * 5, [2.0] * 5),
    ([1.0, 2.0, 3.0], [np.nan] * 3),
    ([np.nan, 2.0, 3.0], [np.nan, 1.0, 2.0]),
    ([0.0], [0.0]),
  )
  def test_values_without_a_slope_are_drawn(self, true_pose, predicted_pose):
    figure = plots.pose_density(
      SCALE_X, {"a": np.array(true_pose)}, {"a": np.array(predicted_pose)}
    )
    self.assertEqual(figure.axes[0].get_title(), "a: slope none")
    figure.draw_without_rendering()

  @parameterized.parameters(
    ([1.0, 2.0, 3.0], [np.inf, 1.0, 2.0], None),
    ([1.0, 2.0, 3.0], [-np.inf, np.inf, 2.0], [0, 0, 1]),
    ([1.0, np.inf, 3.0], [1.0, 1.0, 2.0], [0, 1, 1]),
    ([], [], []),
  )
  def test_infinite_and_no_poses_are_drawn_without_warnings(
    self, true_pose, predicted_pose, labels
  ):
    arguments = [
      {"a": np.array(values)} for values in (true_pose, predicted_pose)
    ]
    if labels is not None:
      arguments.append({"a": np.array(labels)})
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      figure = plots.pose_density(ROTATION, *arguments)
      figure.draw_without_rendering()
    fine = np.isfinite(true_pose) & np.isfinite(predicted_pose)
    counts = figure.axes[0].collections[0].get_array() ** 2
    self.assertLessEqual(counts.sum(), fine.sum())
    self.assertEqual(figure.axes[0].get_title(), "a: slope none")

  def test_arguments_that_do_not_fit_are_named(self):
    three, two = {"a": np.ones(3)}, {"a": np.ones(2)}
    for arguments, message in (
      ((ROTATION, {}, three), "true_pose must not be empty"),
      ((ROTATION, three, {}), "predicted_pose lacks 'a'"),
      (
        (ROTATION, three, two),
        r"true_pose and predicted_pose must both be \[N\]",
      ),
      ((ROTATION, three, three, {}), "labels lacks 'a'"),
      ((ROTATION, three, three, two), r"labels must both be \[N\] for 'a'"),
    ):
      with self.assertRaisesRegex(ValueError, message):
        plots.pose_density(*arguments)


class NameTest(absltest.TestCase):
  @pytest.mark.slow
  def test_names_are_no_formulas_and_stay_on_the_page(self):
    odd, long = "$x_{", "STN-SL" + ",".join(["10"] * 32)
    names = (odd, "$a$", "_hidden", long)
    curves = {name: [np.array([np.nan, 1.0])] for name in names}
    figures = [
      plots.images(dict.fromkeys(names, np.full((2, 2), np.nan))),
      plots.learning_curves({"error": curves, "left": {}}),
      plots.error_lines("depth", {name: {1: [2.0]} for name in names}),
      plots.labelled_points("x", {"y": {n: [(1, 2, n)] for n in names}}),
      plots.before_and_after(
        np.zeros((1, 1, 2, 2, 1)),
        dict.fromkeys(names, np.zeros((1, 1, 2, 2, 1))),
      ),
    ]
    for figure in figures:
      figure.draw_without_rendering()
      width = figure.bbox.width
      for legend in [*figure.legends, *(a.get_legend() for a in figure.axes)]:
        if legend:
          texts = [text.get_text().strip() for text in legend.get_texts()]
          self.assertIn("_hidden", texts)
          self.assertIn(r"\$a\$", texts)
          for text in legend.get_texts():
            self.assertLessEqual(text.get_window_extent().x1, width)

  def test_more_lines_than_colours_have_other_dashes(self):
    curves = {f"n{i}": [np.arange(1.0, 4.0)] for i in range(30)}
    figure = plots.learning_curves({"error": curves})
    styles = {
      (line.get_color(), str(line.get_linestyle()), str(line._dash_pattern))
      for line in figure.axes[0].lines
    }
    self.assertLen(styles, 30)

  def test_nothing_to_draw_is_named(self):
    for draw in (plots.images, plots.learning_curves, plots.alignability):
      with self.assertRaisesRegex(ValueError, "must not be empty"):
        draw({})


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


class LayersTest(absltest.TestCase):
  def test_values_by_layer_are_means_at_their_layers(self):
    values = {"A": {"x": [1.0, 3.0], "z": [0.0]}, "B": {"y": [5.0]}}
    panels = {"first": values, "second": {"B": {"x": [4.0]}}}
    figure = plots.values_by_layer("norm", panels, layers=["z", "y", "x"])
    first, second = figure.axes
    lines = {line.get_label(): line for line in first.lines}
    np.testing.assert_array_equal(lines["A"].get_xdata(), [0, 2])
    np.testing.assert_array_equal(lines["A"].get_ydata(), [np.nan, 2.0])
    np.testing.assert_array_equal(lines["B"].get_xdata(), [1])
    np.testing.assert_array_equal(second.lines[0].get_ydata(), [4.0])
    names = [tick.get_text() for tick in second.get_xticklabels()]
    self.assertEqual(names, ["z", "y", "x"])
    self.assertEqual(first.get_yscale(), "log")
    plain = plots.values_by_layer("norm", panels, logarithmic=False)
    np.testing.assert_array_equal(plain.axes[0].lines[0].get_ydata(), [2, 0])
    with self.assertRaisesRegex(ValueError, "panels must not be empty"):
      plots.values_by_layer("norm", {})


if __name__ == "__main__":
  absltest.main()
