"""Generated house numbers: what is drawn, what varies, and the builder."""

import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
import pytest
import tensorflow_datasets as tfds

from stnjax.data import mnist
from stnjax.data.house_numbers import BLANK
from stnjax.data.synthetic import glyphs, painting, poses, street_numbers
from stnjax.data.tfds_builders import writing

LUMA = np.array([0.299, 0.587, 0.114])


def draw(index, split="train"):
  return street_numbers.draw(street_numbers.rng_of(split, index), split)


def spied(module, name):
  """Replaces a function of a module by itself, recording its calls."""
  return mock.patch.object(module, name, wraps=getattr(module, name))


class DrawTest(parameterized.TestCase):
  def test_shapes_and_types(self):
    image, label = draw(0)
    self.assertEqual((image.shape, image.dtype), ((64, 64, 3), np.uint8))
    self.assertEqual((label.shape, label.dtype), ((5,), np.int64))

  @pytest.mark.slow
  def test_an_example_does_not_depend_on_those_before_it(self):
    forward = [draw(index) for index in range(6)]
    for index in reversed(range(6)):
      for left, right in zip(forward[index], draw(index), strict=True):
        np.testing.assert_array_equal(left, right)

  @pytest.mark.slow
  def test_no_two_examples_are_alike(self):
    drawn = {
      draw(index, split)[0].tobytes()
      for split in ("train", "test")
      for index in range(50)
    }
    self.assertLen(drawn, 100)

  @parameterized.parameters(([0],), ([1, 2, 3, 4, 5],), ([9, 9],))
  def test_number_becomes_the_label(self, number):
    _, label = street_numbers.draw(np.random.default_rng(0), number=number)
    blanks = [BLANK] * (5 - len(number))
    self.assertEqual(label.tolist(), number + blanks)

  @parameterized.parameters(([],), ([1] * 6,), ([10],), ([-1],))
  def test_wrong_numbers(self, number):
    with self.assertRaisesRegex(ValueError, r"number=\[.*one to five digits"):
      street_numbers.draw(np.random.default_rng(0), number=number)

  def test_another_number_is_another_picture(self):
    for seed in range(10):
      one, other = (
        street_numbers.draw(np.random.default_rng(seed), number=number)[0]
        for number in ([1, 2, 3], [1, 2, 8])
      )
      self.assertGreater((one != other).sum(), 100)

  @pytest.mark.slow
  def test_colours_and_light_vary_within_bounds(self):
    images = np.stack([draw(index)[0] for index in range(120)]) / 255
    np.testing.assert_allclose(images.mean((0, 1, 2)), 0.47, atol=0.06)
    np.testing.assert_allclose(images.std((0, 1, 2)), 0.23, atol=0.06)
    means = images.mean((1, 2))
    self.assertGreater((means @ LUMA).std(), 0.12)
    self.assertGreater(np.ptp(means, axis=1).mean(), 0.05)

  @pytest.mark.slow
  def test_digits_stand_out_and_are_whole(self):
    differences = []
    for index in range(150):
      with spied(painting, "paint") as paint:
        image, label = draw(index)
      mask = paint.call_args.args[2]
      border = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
      self.assertLess(max(side.max() for side in border), 0.3)
      # On thin strokes nothing covers a pixel wholly.
      digits = mask > 0.6 * mask.max()
      self.assertGreater(digits.sum(), 8 * (label != BLANK).sum())
      rows, columns = np.nonzero(mask > 0.1)
      around = np.zeros_like(digits)
      around[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = (
        True
      )
      luma = image @ LUMA / 255
      around &= mask < 0.05
      differences.append(luma[digits].mean() - luma[around].mean())
    # Dark on light and light on dark, from faint to clear.
    self.assertGreater(np.quantile(np.abs(differences), 0.05), 0.05)
    self.assertLess(np.quantile(np.abs(differences), 0.2), 0.25)
    self.assertBetween(np.mean(np.array(differences) > 0), 0.3, 0.7)


class NumberTest(absltest.TestCase):
  def test_frequencies(self):
    rng = np.random.default_rng(0)
    numbers = [street_numbers.random_number(rng) for _ in range(5000)]
    lengths = np.bincount([len(n) for n in numbers], minlength=6)
    np.testing.assert_allclose(
      lengths / 5000, (0, *street_numbers.LENGTHS), atol=0.02
    )
    digits = np.bincount(np.concatenate(numbers), minlength=10)
    self.assertBetween(digits[0] / digits.sum(), 0.05, 0.08)
    np.testing.assert_allclose(digits[1:] / digits.sum(), 0.104, atol=0.015)
    self.assertFalse(any(len(n) > 1 and n[0] == 0 for n in numbers))


class GlyphTest(absltest.TestCase):
  def test_each_font_has_ten_different_digits(self):
    for font in glyphs.FONTS:
      masks = [glyphs.font_glyph(font, d) for d in range(10)]
      for mask in masks:
        self.assertEqual(mask.shape[0], 48)
        self.assertBetween((mask > 128).mean(), 0.08, 0.75)
      self.assertLen({mask.tobytes() for mask in masks}, 10)

  def test_splits_have_their_own_handwriting(self):
    always = mock.patch.object(glyphs, "HANDWRITTEN", 1.0)
    for split in ("train", "test"):
      with always, spied(glyphs, "handwritten_glyph") as glyph:
        labels = [draw(index, split)[1] for index in range(20)]
      digits = sum((label != BLANK).sum() for label in labels)
      self.assertGreaterEqual(glyph.call_count, digits)  # and neighbours
      self.assertEqual({call.args[0] for call in glyph.call_args_list}, {split})

  def test_handwriting_is_of_the_digit_and_as_thick(self):
    labels = mnist.SUBSET.read("test").labels
    always = mock.patch.object(glyphs, "HANDWRITTEN", 1.0)
    inks = []
    for seed in range(30):
      with always, spied(glyphs, "handwritten_glyph") as glyph:
        digits = [3, 8, 3, 8]
        masks = glyphs.glyphs_of(np.random.default_rng(seed), digits, "test")
      found = [labels[call.args[1]] for call in glyph.call_args_list]
      self.assertEqual(found, digits)
      inks.append([(mask > 128).sum() for mask in masks])
    first, second = np.array(inks)[:, [0, 2]].T
    self.assertGreater(np.corrcoef(first, second)[0, 1], 0.5)


class PoseTest(absltest.TestCase):
  def test_row_fills_its_box_and_both_vary(self):
    boxes, angles = [], []
    rng = np.random.default_rng(0)
    for width in (30, 70, 110, 200) * 75:  # of one to five digits
      matrix, box, angle = poses.random_pose(rng, (48, width))
      self.assertTrue((box >= 0.99).all() and (box <= 63.01).all())
      boxes.append(box)
      angles.append(np.rad2deg(angle))
      solid = np.pad(np.full((48, width), 255, np.uint8), glyphs.MARGIN)
      rows, columns = np.nonzero(poses.project(solid, matrix) > 0.02)
      seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
      np.testing.assert_allclose(seen, box, atol=2.0)
    left, top, right, bottom = np.array(boxes).T
    fills = np.maximum(right - left, bottom - top) / 64
    self.assertLess(np.quantile(fills, 0.05), 0.6)
    self.assertGreater(np.quantile(fills, 0.95), 0.85)
    self.assertGreater(((left + right) / 2).std(), 4.5)
    self.assertGreater(((top + bottom) / 2).std(), 4.5)
    # As in SVHN's crops, most of the way to the square, whatever the length.
    aspects = ((right - left) / (bottom - top)).reshape(-1, 4).mean(0)
    self.assertTrue((aspects > 0.7).all() and (aspects < 2).all(), aspects)
    self.assertBetween(np.std(angles), 7, 14)
    self.assertBetween(np.mean(np.abs(angles) > 14), 0.05, 0.2)


class DistractorTest(absltest.TestCase):
  def test_they_occur_are_cut_off_or_small_and_leave_the_number_alone(self):
    box, high, counts = (20.0, 22.0, 44.0, 42.0), 20.0, []
    rng = np.random.default_rng(0)
    for _ in range(200):
      others = list(poses.distractors(rng, box, high, 0.1, "test"))
      counts.append(len(others))
      for mask in others:
        rows, columns = np.nonzero(mask > 0.1)
        if not len(rows):
          continue
        small = np.ptp(rows) + 1 < 0.7 * high  # a line of them leans, too
        self.assertTrue(small or columns.min() == 0 or columns.max() == 63)
        self.assertLess(mask[24:40, 22:42].max(), 0.05)
    self.assertBetween(np.mean(np.array(counts) > 0), 0.4, 0.8)
    whole = (0.0, 0.0, 64.0, 64.0)
    others = poses.distractors(rng, whole, high, 0.1, "test")
    self.assertEmpty(list(others))


class BuilderTest(absltest.TestCase):
  def prepared(self, root):
    """The examples of a prepared set by split."""
    builder = tfds.builder_from_directory(f"{root}/street_numbers/2.0.0")
    return {
      split: {
        example["image"].tobytes(): example["label"].tolist()
        for example in builder.as_data_source(split=split)
      }
      for split in ("train", "test")
    }

  def expected(self):
    return {
      split: {
        image.tobytes(): label.tolist()
        for image, label in (draw(index, split) for index in range(size))
      }
      for split, size in (("train", 6), ("test", 3))
    }

  def test_prepares_without_tensorflow(self):
    root = self.create_tempdir().full_path
    sizes = {"train": 6, "test": 3}
    builder_class = street_numbers.StreetNumbers
    with mock.patch.object(street_numbers, "SIZES", sizes):
      writing.prepare(builder_class(data_dir=root, file_format="array_record"))
    self.assertEqual(self.prepared(root), self.expected())
    self.assertNotIn("tensorflow", sys.modules)

  @pytest.mark.slow
  def test_the_same_in_any_process(self):
    root = self.create_tempdir().full_path
    code = (
      "from stnjax.data.synthetic import street_numbers as s\n"
      "s.SIZES = {'train': 6, 'test': 3}\n"
      f"b = s.StreetNumbers(data_dir={root!r}, file_format='array_record')\n"
      "b.download_and_prepare()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    self.assertEqual(self.prepared(root), self.expected())

  def test_sizes_are_those_of_the_description(self):
    self.assertEqual(street_numbers.SIZES, {"train": 20_000, "test": 4_000})


if __name__ == "__main__":
  absltest.main()
