"""Data sets, read through TensorFlow Datasets without TensorFlow.

Importing this package is cheap; TFDS is imported when a set is loaded.
"""

from stnjax import extras

extras.needs("tensorflow_datasets", "array_record", "PIL", extra="experiments")

from typing import NamedTuple

import jax
import numpy as np

from stnjax import checks


class Data(NamedTuple):
  """Images and their labels."""

  images: jax.Array | np.ndarray  # [N, H, W, C], uint8
  labels: jax.Array | np.ndarray  # [N], or [N, heads], int32


class Description(NamedTuple):
  """What a network needs to know of a set before it sees an image."""

  image_shape: tuple[int, int, int]  # (H, W, C)
  num_classes: int  # of each head
  heads: int = 1  # answers per image; 5 for house numbers, the digits
  train_split: str = "train"
  test_split: str = "test"


_MNIST = Description((28, 28, 1), 10)
_HOUSE_NUMBER = Description((64, 64, 3), 11, heads=5)

SETS = {
  "mnist": _MNIST,
  "mnist_subset": _MNIST,
  "svhn": _HOUSE_NUMBER._replace(train_split="train+extra"),
  "street_numbers": _HOUSE_NUMBER,
  "plankton": Description((95, 95, 1), 121),
  "drifters": Description((95, 95, 1), 20),
  "cifar10": Description((32, 32, 3), 10),
  "svhn_cropped": Description((32, 32, 3), 10),
  "street_digits": Description((32, 32, 3), 10),
}
"""The data sets by name."""

BLANK = 10
"""The class of a head of a house number that has no such digit."""


def load(name: str, split: str, data_dir: str | None = None) -> Data:
  """Loads one split of a set into memory.

  Args:
    name: one of `SETS`. "mnist_subset" is embedded in this package;
      "street_numbers", "street_digits" and "drifters" are generated, once,
      when they are first asked for.
    split: of the set, such as "train" or "test", or several: "train+extra".
    data_dir: TFDS directory, local or `gs://`, holding `<name>/<version>`;
      TFDS's own default where None.

  Returns:
    All images and labels, in the order of the files.

  Raises:
    ValueError: for an unknown set or split, or another kind of address; for a
      set whose files are damaged, or are not as its description here says.
    FileNotFoundError: where the set is not prepared there; the message says
      how to get it. Nothing is ever downloaded.
  """
  checks.option("dataset", name, tuple(SETS))
  from stnjax.data.prepared import reader  # imports TFDS

  return reader.load(name, split, data_dir)


def count(name: str, split: str, data_dir: str | None = None) -> int | None:
  """Counts the images of one split of a set, without reading them.

  Args:
    name: see `load`.
    split: see `load`.
    data_dir: see `load`.

  Returns:
    The number of images; None for a set that `load` has yet to generate.

  Raises:
    ValueError: for an unknown set or split.
    FileNotFoundError: for a set that is not prepared there.
  """
  checks.option("dataset", name, tuple(SETS))
  from stnjax.data.prepared import reader  # imports TFDS

  return reader.count(name, split, data_dir)
