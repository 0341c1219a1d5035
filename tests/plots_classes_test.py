"""Figures of predictions by class, read back from their artists."""

from absl.testing import absltest
import numpy as np
import pytest

from stnjax import plots


class ConfusionTest(absltest.TestCase):
  def test_a_panel_per_network_with_the_shares_of_each_true_class(self):
    counts = {
      "CNN": np.array([[3, 1, 0], [0, 8, 8], [0, 0, 0]]),
      "STN-C0": np.diag([4, 16, 2]),
    }
    figure = plots.confusion(counts, ["cat", "dog", "$x_{"])
    panels = [axis for axis in figure.axes if axis.get_title()]
    self.assertEqual([p.get_title() for p in panels], [*counts])
    shown = panels[0].images[0].get_array()
    np.testing.assert_allclose(shown, [[75, 25, 0], [0, 50, 50], [0, 0, 0]])
    written = {t.get_position(): t.get_text() for t in panels[0].texts}
    self.assertEqual(
      written, {(0, 0): "75", (1, 0): "25", (1, 1): "50", (2, 1): "50"}
    )
    scale = panels[0].images[0].norm
    self.assertEqual((scale.vmin, scale.vmax), (0, 100))
    names = [label.get_text() for label in panels[1].get_yticklabels()]
    self.assertEqual(names, ["cat", "dog", r"\$x_{"])
    figure.draw_without_rendering()

  @pytest.mark.slow
  def test_numbers_of_classes_and_networks_fit(self):
    for classes, networks in ((2, 1), (20, 5)):
      counts = {f"STN-C{i}": np.eye(classes) for i in range(networks)}
      names = [f"a long name {i}" for i in range(classes)]
      figure = plots.confusion(counts, names)
      figure.draw_without_rendering()
      boxes = [a.get_tightbbox() for a in figure.axes if a.axison]
      for box in boxes:
        self.assertGreaterEqual(box.x0, 0)
        self.assertLessEqual(box.x1, figure.bbox.width)
      self.assertEqual(bool(figure.axes[0].texts), classes == 2)

  def test_arguments_that_do_not_fit_are_named(self):
    with self.assertRaisesRegex(ValueError, "counts must not be empty"):
      plots.confusion({}, ["a"])
    with self.assertRaisesRegex(ValueError, r"of 'CNN' must be \[K, K\]"):
      plots.confusion({"CNN": np.eye(3)}, ["a", "b"])


class SizeTest(absltest.TestCase):
  def test_a_dot_per_class_and_the_mean_of_each_octave(self):
    sizes = {"CNN": np.array([4.0, 7, 0, 20])}
    accuracies = {"CNN": np.array([0.5, 0.7, 0, 1])}
    figure = plots.accuracy_by_size(sizes, accuracies)
    dots, means = figure.axes[0].lines
    np.testing.assert_allclose(dots.get_xydata(), [[4, 50], [7, 70], [20, 100]])
    np.testing.assert_allclose(means.get_xydata(), [[28**0.5, 60], [20, 100]])
    figure.draw_without_rendering()

  def test_arguments_that_do_not_fit_are_named(self):
    with self.assertRaisesRegex(ValueError, "sizes must not be empty"):
      plots.accuracy_by_size({}, {})
    with self.assertRaisesRegex(ValueError, "sizes and accuracies must both"):
      plots.accuracy_by_size({"a": np.ones(3)}, {"a": np.ones(2)})


if __name__ == "__main__":
  absltest.main()
