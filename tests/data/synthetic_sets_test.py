"""Synthetic digits and plankton: what is drawn, what varies, and loading."""

import contextlib
import io
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from stnjax import data
from stnjax.data.synthetic import (
  glyphs,
  street_numbers,
  synthetic_digits,
  synthetic_plankton,
)
import stnjax.paper  # noqa: F401

DIGITS = synthetic_digits.SyntheticDigits
PLANKTON = synthetic_plankton.SyntheticPlankton
NAMED = parameterized.named_parameters(
  ("digits", synthetic_digits, DIGITS),
  ("plankton", synthetic_plankton, PLANKTON),
)


def example(builder_class, index, split="train"):
  return builder_class.example(None, split, index)


class EitherTest(parameterized.TestCase):
  @NAMED
  def test_shapes_types_and_classifier(self, module, builder_class):
    description = data.find(builder_class.name)
    image, _ = example(builder_class, 13)
    self.assertEqual(image.shape, description.image_shape)
    self.assertEqual(image.dtype, np.uint8)
    self.assertEqual(module.N_CLASSES, description.num_classes)

  @NAMED
  def test_an_example_does_not_depend_on_those_before_it(
    self, _, builder_class
  ):
    forward = [example(builder_class, index) for index in range(6)]
    for index in reversed(range(6)):
      image, label = example(builder_class, index)
      np.testing.assert_array_equal(image, forward[index][0])
      self.assertEqual(label, forward[index][1])

  @NAMED
  def test_no_two_examples_are_alike(self, _, builder_class):
    drawn = {
      example(builder_class, index, split)[0].tobytes()
      for split in ("train", "test")
      for index in range(30)
    }
    self.assertLen(drawn, 60)

  @NAMED
  def test_sizes_are_balanced_and_those_of_the_description(
    self, module, builder_class
  ):
    numbers = " + ".join(f"{size:,}" for size in module.SIZES.values())
    self.assertIn(numbers, builder_class.RELEASE_NOTES["1.0.0"])
    for size in module.SIZES.values():
      self.assertEqual(size % module.N_CLASSES, 0)

  @NAMED
  def test_wrong_labels(self, module, _):
    for label in (-1, module.N_CLASSES):
      with self.assertRaisesRegex(ValueError, f"={label}; accepted: 0 to"):
        module.draw(np.random.default_rng(0), label)

  @NAMED
  def test_generated_once_by_load(self, module, builder_class):
    root = self.create_tempdir().full_path
    name, count = builder_class.name, module.N_CLASSES
    printed = io.StringIO()
    sizes = {"train": 2 * count, "test": count}
    with (
      mock.patch.object(module, "SIZES", sizes),
      contextlib.redirect_stderr(printed),
    ):
      examples = data.load(name, "train", root)
    self.assertStartsWith(
      printed.getvalue(),
      f"generating the dataset {name}, once, in {root}/{name}/1.0.0\n",
    )
    self.assertEqual(np.bincount(examples.labels).tolist(), [2] * count)
    found = {i.tobytes(): n for i, n in zip(*examples, strict=True)}
    drawn = [example(builder_class, index) for index in range(2 * count)]
    self.assertEqual(found, {i.tobytes(): n for i, n in drawn})
    test = data.load(name, "test", root)  # would take long once more
    self.assertEqual(np.bincount(test.labels).tolist(), [1] * count)
    self.assertNotIn("tensorflow", sys.modules)


class SyntheticDigitsTest(absltest.TestCase):
  def test_digit_is_whole_and_fills_a_fair_part(self):
    fills, middles = [], []
    rng = np.random.default_rng(0)
    for _ in range(500):
      low = rng.uniform(1, 40, 2)
      box = np.concatenate([low, low + rng.uniform(10, 23, 2)])
      square = np.array(synthetic_digits._square(rng, box))
      side = square[2] - square[0]
      self.assertAlmostEqual(square[3] - square[1], side)
      self.assertTrue((square[:2] <= box[:2] + 1e-6).all())
      self.assertTrue((square[2:] >= box[2:] - 1e-6).all())
      self.assertTrue((square >= 0).all() and (square <= 64).all())
      fills.append((box[2:] - box[:2]).max() / side)
      middles.append(((box[:2] + box[2:]) / 2 - square[:2]) / side)
    self.assertGreater(min(fills), 0.6)
    self.assertLess(max(fills), 0.96)
    self.assertGreater(np.std(middles), 0.04)

  def test_square_fits_a_digit_that_fills_the_picture(self):
    box = np.array([20.0, 1.0, 50.0, 63.0])
    square = synthetic_digits._square(np.random.default_rng(0), box)
    np.testing.assert_allclose(square, (0, 0, 64, 64), atol=1e-6)

  def test_box_of_a_picture_holds_the_digit(self):
    # Another digit in the same place changes what is in the box.
    differences = []
    for seed in range(12):
      rngs = (np.random.default_rng(seed) for _ in range(2))
      (one, box), (other, _) = (
        street_numbers.picture(rng, [digit], "train")
        for rng, digit in zip(rngs, (3, 8), strict=True)
      )
      self.assertGreaterEqual(box.min(), 1)
      self.assertLessEqual(box.max(), 63)
      change = np.abs(one.astype(int) - other).sum(-1)
      left, top, right, bottom = box.astype(int)
      inside = change[top : bottom + 1, left : right + 1].mean()
      differences.append(inside / change.mean())
    self.assertGreater(np.median(differences), 1.5)

  def test_splits_have_their_own_handwriting(self):
    for split in ("train", "test"):
      with (
        mock.patch.object(glyphs, "HANDWRITTEN", 1.0),
        mock.patch.object(
          glyphs, "handwritten_glyph", wraps=glyphs.handwritten_glyph
        ) as glyph,
      ):
        example(DIGITS, 0, split)
      self.assertEqual({call.args[0] for call in glyph.call_args_list}, {split})


def features(image):
  """What turning, mirroring, shifting and scaling a creature leaves alike."""
  light = image[..., 0].astype(float)
  light = (light - np.median(light) - 15).clip(0)
  light /= light.sum()
  y, x = np.mgrid[:95, :95]
  y, x = y - (light * y).sum(), x - (light * x).sum()
  away = np.hypot(y, x)
  away /= np.sqrt((light * away**2).sum())
  turn = np.exp(1j * np.arctan2(y, x))
  moments = [
    abs((light * away**power * turn**order).sum()) ** 0.5
    for order in range(7)
    for power in (1, 2, 3)
  ]
  bins = np.linspace(0, 2.6, 11)
  rings = np.histogram(away, bins, weights=light)[0]
  return np.concatenate([moments, 2 * rings])


def still(label, seed, angle):
  """A creature of a species, whose pose and light are those of a seed."""
  return synthetic_plankton.draw(np.random.default_rng(seed), label, angle)[
    ..., 0
  ]


class SyntheticPlanktonTest(absltest.TestCase):
  @pytest.mark.slow
  def test_species_differ_more_than_individuals(self):
    train, test = (
      np.stack(
        [features(example(PLANKTON, index, split)[0]) for index in range(count)]
      )
      for split, count in (("train", 160), ("test", 60))
    )
    spread = train.std(0) + 1e-6
    means = (train / spread).reshape(8, 20, -1).mean(0)
    away = ((test / spread)[:, None] - means) ** 2
    right = away.sum(-1).argmin(1) == np.arange(60) % 20
    # Chance is 0.05; not all of it is that easy.
    self.assertBetween(right.mean(), 0.5, 0.9)

  def test_each_species_has_its_recipe_and_some_are_relatives(self):
    recipes = [synthetic_plankton.species(label) for label in range(20)]
    self.assertLen({r.waves.tobytes() for r in recipes}, 15)
    for stripes, hollow in zip(recipes[10:15], recipes[15:], strict=True):
      np.testing.assert_array_equal(stripes.waves, hollow.waves)
      np.testing.assert_array_equal(stripes.limbs, hollow.limbs)
      self.assertNotEmpty(stripes.marks)
      self.assertEmpty(hollow.marks)
      self.assertGreater(hollow.hollow, 0.5)

  def test_angle_turns_the_creature(self):
    for label in (3, 4, 13):
      plain, turned = (still(label, 5, angle) for angle in (0, np.pi / 2))
      back = np.rot90(turned, 1)
      same = np.corrcoef(plain.ravel(), back.ravel())[0, 1]
      other = np.corrcoef(plain.ravel(), turned.ravel())[0, 1]
      self.assertGreater(same, 0.75)
      self.assertGreater(same, other + 0.1)

  def test_bright_on_dark_of_varied_size_and_angle(self):
    images = [example(PLANKTON, 20 * n + 3)[0][..., 0] for n in range(80)]
    sizes, angles = [], []
    for image in images:
      self.assertLess(np.median(image), 60)
      self.assertGreater(np.quantile(image, 0.99), np.median(image) + 30)
      smooth = image.reshape(19, 5, 19, 5).mean((1, 3))
      y, x = np.nonzero(smooth > np.median(smooth) + 25)
      sizes.append(max(np.ptp(x), np.ptp(y)) / 19)
      _, vectors = np.linalg.eigh(np.cov(x, y))
      angles.append(np.arctan2(*vectors[:, 1]) % np.pi)
    self.assertGreater(np.ptp(sizes), 0.35)
    quarters = np.histogram(angles, 4, (0, np.pi))[0]
    self.assertGreater(quarters.min(), 8)


if __name__ == "__main__":
  absltest.main()
