"""Figures of images and warps, read back from the figure's own artists."""

from absl.testing import absltest, parameterized
import numpy as np
import pytest

import stnjax
from stnjax import plots, transforms


class PictureTest(parameterized.TestCase):
  @parameterized.parameters((0, 3), (3, 0))
  def test_no_images_are_refused(self, draws, classes):
    none, some = np.zeros((draws, classes, 4, 4, 1)), np.zeros((1, 1, 4, 4, 1))
    with self.assertRaisesRegex(ValueError, "before must be .*at least one"):
      plots.before_and_after(none, {})
    with self.assertRaisesRegex(ValueError, "STN-C0 must be .*at least one"):
      plots.before_and_after(some, {"STN-C0": none})

  def test_a_network_may_be_called_input(self):
    before = np.zeros((1, 2, 4, 4, 1))
    figure = plots.before_and_after(before, {"input": before + 1})
    shown = [axis.images[0].get_array().max() for axis in figure.axes]
    self.assertEqual(shown, [0, 1])

  def test_a_panel_per_network_with_rows_of_draws_and_columns_of_classes(self):
    before = np.random.default_rng(0).uniform(size=(2, 3, 4, 4, 1))
    figure = plots.before_and_after(before, {"STN-C0": before + 1})
    titles = [axis.get_title() for axis in figure.axes]
    self.assertEqual(titles, ["input", "STN-C0"])
    shown = figure.axes[1].images[0].get_array()
    np.testing.assert_array_equal(shown[5:9, 10:14], before[1, 2, ..., 0] + 1)


class TrainingTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.before = np.random.default_rng(0).uniform(size=(3, 4, 4, 1))

  def test_a_panel_per_network_with_rows_of_epochs_and_columns_of_images(self):
    after = {1: self.before + 1, 15: self.before + 2}
    figure = plots.warps_by_epoch(self.before, {"STN-C0": after, "DEF0": after})
    titles = [axis.get_title() for axis in figure.axes]
    self.assertEqual(titles, ["STN-C0", "DEF0"])
    axis = figure.axes[1]
    shown = axis.images[0].get_array()
    for row, images in enumerate([self.before, *after.values()]):
      np.testing.assert_array_equal(
        shown[5 * row : 5 * row + 4, 10:14], images[2, ..., 0]
      )
    self.assertEqual(
      [text.get_text() for text in axis.get_yticklabels()],
      ["input", "epoch 1", "epoch 15"],
    )
    np.testing.assert_array_equal(axis.get_yticks(), [1.5, 6.5, 11.5])
    figure.draw_without_rendering()

  def test_networks_may_differ_in_epochs(self):
    figure = plots.warps_by_epoch(
      self.before,
      {"a": {1: self.before}, "b": {1: self.before, 2: self.before}},
    )
    rows = [len(axis.get_yticks()) for axis in figure.axes]
    self.assertEqual(rows, [2, 3])

  def test_smaller_images_are_enlarged(self):
    halved = self.before[:, ::2, ::2]
    figure = plots.warps_by_epoch(self.before, {"a": {1: halved}})
    shown = figure.axes[0].images[0].get_array()
    expected = halved.repeat(2, axis=1).repeat(2, axis=2)[2, ..., 0]
    np.testing.assert_array_equal(shown[5:9, 10:14], expected)

  def test_images_of_another_shape_are_named(self):
    with self.assertRaisesRegex(ValueError, "after must not be empty"):
      plots.warps_by_epoch(self.before, {})
    with self.assertRaisesRegex(ValueError, "before must be .*at least one"):
      plots.warps_by_epoch(self.before[0], {"a": {1: self.before}})
    with self.assertRaisesRegex(ValueError, r"after\['a'\]\[2\] must be"):
      plots.warps_by_epoch(self.before, {"a": {2: self.before[1:]}})


class WarpTest(absltest.TestCase):
  @pytest.mark.slow
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
    figure.draw_without_rendering()

  def test_a_grid_of_a_volume_is_refused(self):
    with self.assertRaisesRegex(ValueError, r"grid must be \[h, w, 2\]"):
      plots.warp(np.zeros((4, 4)), np.zeros((4, 4)), np.zeros((2, 2, 2, 3)))


if __name__ == "__main__":
  absltest.main()
