"""Generated digits of house numbers, a substitute for small pictures in colour.

Small runs can use these if CIFAR-10 or the cropped digits of Street View (SVHN)
are not available; results on them do not apply to those sets.
Each picture is cut from one that `street_numbers` draws of a single digit,
from its own seed, so there are as many fonts, walls and lights.
"""

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from stnjax.data.synthetic import builder, street_numbers

SIDE = 32  # of the image, in pixels
N_CLASSES = 10
SIZES = {"train": 10_000, "test": 2_000}
SEED = 1

ROOM = (1.05, 1.6)
"""Least and greatest side of the crop, by that of the digit's box."""


class SyntheticDigits(builder.SyntheticBuilder):
  """Generated digits with the labels of SVHN's cropped ones."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "10,000 + 2,000 images."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "Generated pictures of one digit of a house number, in the fonts that"
        " Matplotlib brings and in handwritten digits of MNIST, those of the"
        " training split in train, those of the test split in test."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
          "label": tfds.features.ClassLabel(num_classes=N_CLASSES),
        }
      ),
      supervised_keys=("image", "label"),
      # The handwritten digits are MNIST's.
      license="CC BY-SA 3.0",
    )

  @property
  def sizes(self) -> dict[str, int]:
    return SIZES

  def example(self, split: str, index: int) -> tuple[np.ndarray, int]:
    label = index % N_CLASSES
    return draw(rng_of(split, index), label, split), label


def rng_of(split: str, index: int) -> np.random.Generator:
  """Random numbers of one example, whatever is drawn before it."""
  return builder.rng_of(SEED, split, index)


def draw(
  rng: np.random.Generator, digit: int, split: str = "train"
) -> np.ndarray:
  """Draws one picture of a digit.

  Args:
    rng: where all that varies comes from.
    digit: within [0, 9].
    split: "train" or "test", whose handwritten digits are used.

  Returns:
    The image `[32, 32, 3]` uint8. The digit is whole.

  Raises:
    ValueError: for another digit.
  """
  if digit not in range(N_CLASSES):
    raise ValueError(f"digit={digit!r}; accepted: 0 to {N_CLASSES - 1}")
  image, box = street_numbers.picture(rng, [digit], split)
  cut = Image.fromarray(image).resize(
    (SIDE, SIDE), Image.Resampling.BICUBIC, box=_square(rng, box)
  )
  return np.asarray(cut)


def _square(rng, box: np.ndarray) -> tuple[float, float, float, float]:
  """A square around a box (left, top, right, bottom), within the picture."""
  low, high = box[:2], box[2:]
  digit = (high - low).max()
  side = float(min(digit * rng.uniform(*ROOM), street_numbers.SIDE))
  # Where the square may start so that it holds the box.
  first = np.maximum(high - side, 0)
  last = np.minimum(low, street_numbers.SIDE - side)
  start = first + (last - first) * rng.beta(2, 2, 2)
  start = start.clip(0, street_numbers.SIDE - side)
  left, top = start.tolist()
  return left, top, left + side, top + side
