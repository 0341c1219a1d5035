"""Generated house numbers, a substitute for those of Street View (SVHN).

Each picture is drawn with NumPy and Pillow from its own seed: a wall,
maybe a plate, one number of one to five digits in some pose, light, and a
camera. The label is the number that is complete and largest; other digits are
cut off by the border or less than half as high. The same seed gives the same
pixels with the same versions of NumPy, Pillow and Matplotlib, whose fonts are
used.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from stnjax.data.house_numbers import BLANK, MAX_DIGITS
from stnjax.data.synthetic import builder, glyphs, painting, poses
from stnjax.data.synthetic.painting import SIDE

SIZES = {"train": 20_000, "test": 4_000}
SEED = 0

LENGTHS = (0.15, 0.44, 0.29, 0.08, 0.04)
"""Shares of numbers with 1, 2, ... digits; as in SVHN, but for five."""


class StreetNumbers(builder.SyntheticBuilder):
  """Generated house numbers with the labels of SVHN's full numbers."""

  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES = {
    "2.0.0": "Numbers are stretched towards the square, as SVHN's crops are.",
    "1.0.0": "20,000 + 4,000 images.",
  }

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "Generated pictures of house numbers of one to five digits, in the"
        " fonts that Matplotlib brings and in handwritten digits of MNIST,"
        " those of the training split in train, those of the test split in"
        " test. Labels are padded with 10."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
          "label": tfds.features.Tensor(shape=(MAX_DIGITS,), dtype=np.int64),
        }
      ),
      supervised_keys=("image", "label"),
      # The handwritten digits are MNIST's.
      license="CC BY-SA 3.0",
    )

  @property
  def sizes(self) -> dict[str, int]:
    return SIZES

  def example(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    return draw(rng_of(split, index), split)


def rng_of(split: str, index: int) -> np.random.Generator:
  """Random numbers of one example, whatever is drawn before it."""
  return builder.rng_of(SEED, split, index)


def draw(
  rng: np.random.Generator,
  split: str = "train",
  *,
  number: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one picture of a house number.

  Args:
    rng: where all that varies comes from.
    split: "train" or "test", whose handwritten digits are used.
    number: its one to five digits; random where None.

  Returns:
    The image `[64, 64, 3]` uint8, and the label `[5]` int64, the digits
    followed by `BLANK`.

  Raises:
    ValueError: for a number that is too long, or of anything but digits.
  """
  some = random_number(rng)
  digits = some if number is None else list(number)
  if not 1 <= len(digits) <= MAX_DIGITS or not set(digits) <= set(range(10)):
    raise ValueError(f"number={number!r}; accepted: one to five digits")
  label = np.full(MAX_DIGITS, BLANK, np.int64)
  label[: len(digits)] = digits
  return picture(rng, digits, split)[0], label


def random_number(rng: np.random.Generator) -> list[int]:
  """Digits of a house number; it starts with 0 only where that is all."""
  length = rng.choice(MAX_DIGITS, p=LENGTHS) + 1
  digits = rng.integers(10, size=length)
  if length > 1:
    digits[0] = rng.integers(1, 10)
  return digits.tolist()


def picture(
  rng: np.random.Generator, digits: Sequence[int], split: str
) -> tuple[np.ndarray, np.ndarray]:
  """Draws from back to front: wall, other digits, plate, number, light.

  Args:
    rng: where all that varies comes from.
    digits: of the number.
    split: "train" or "test", whose handwritten digits are used.

  Returns:
    The image `[64, 64, 3]` uint8, and the box (left, top, right, bottom) of
    the number in it, in pixels.
  """
  row = glyphs.row_of(rng, glyphs.glyphs_of(rng, digits, split))
  matrix, box, angle = poses.random_pose(rng, row.shape)
  layers = [
    np.pad(row, glyphs.MARGIN),
    *glyphs.plate_around(rng, row.shape),
  ]
  mask, *plate = (poses.project(layer, matrix) for layer in layers)
  height = poses.digit_height(matrix, row.shape)
  others = poses.distractors(rng, box, height, angle, split)

  contrast = 0.35 + 0.5 * rng.beta(1.1, 1.8)
  wall = surface = painting.random_colour(rng, rng.uniform(0.15, 0.95))
  if plate:
    surface = painting.random_colour(rng, rng.uniform(0.08, 0.95))
  ink = painting.contrasting_colour(rng, surface, contrast)
  # Without a plate, the texture of the wall must not drown the digits.
  strength = 0.3 if plate else min(0.8 * contrast, 0.3)
  image = painting.wall(rng, angle, wall, strength)
  for other in others:
    colour = ink
    if rng.random() >= 0.5:
      colour = painting.contrasting_colour(rng, wall, contrast)
    image = painting.blend(image, other, colour)
  for layer, colour in zip(plate, (surface, ink), strict=False):
    image = painting.blend(image, layer, colour)
  image = painting.paint(rng, image, mask, ink, contrast)
  image = painting.light(rng, image)
  return painting.photograph(rng, image, contrast, height), box
