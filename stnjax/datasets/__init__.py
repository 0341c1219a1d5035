"""Data sets, read through TensorFlow Datasets without TensorFlow.

Importing this package is cheap; TFDS is imported when a set is loaded.
"""

from typing import NamedTuple

import jax
import numpy as np

from stnjax import checks


class Data(NamedTuple):
  """Images and their labels."""

  images: jax.Array | np.ndarray  # [N, H, W, C], uint8
  labels: jax.Array | np.ndarray  # [N], int32


class Description(NamedTuple):
  """What a network needs to know of a set before it sees an image."""

  image_shape: tuple[int, int, int]  # (H, W, C)
  num_classes: int
  mean: float  # of the pixels in [0, 1], by which the paper normalises
  std: float


_MNIST = Description((28, 28, 1), 10, 0.1307, 0.3081)

SETS = {"mnist": _MNIST, "mnist_subset": _MNIST}
"""The data sets by name."""


def load(name: str, split: str, data_dir: str | None = None) -> Data:
  """Loads one split of a set into memory.

  Args:
    name: one of `SETS`. "mnist_subset" is embedded in this package.
    split: "train" or "test".
    data_dir: TFDS directory, local or `gs://`, holding `<name>/<version>`;
      TFDS's own default where None.

  Returns:
    All images and labels, in the order of the files.

  Raises:
    ValueError: for an unknown set or split.
    FileNotFoundError: where the set is not prepared there; the message says
      how to get it. Nothing is ever downloaded.
  """
  checks.option("dataset", name, tuple(SETS))
  from stnjax.datasets import loading  # imports TFDS

  return loading.load(name, split, data_dir)
