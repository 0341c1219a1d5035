"""Building data sets that are drawn, not read from files."""

import abc
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from stnjax.data import images

SPLITS = ("train", "test")


class SyntheticBuilder(tfds.core.GeneratorBasedBuilder):
  """Builds a set of `sizes` examples that are drawn one by one."""

  @property
  @abc.abstractmethod
  def sizes(self) -> dict[str, int]:
    """Number of examples of each split."""

  @abc.abstractmethod
  def example(
    self, split: str, index: int
  ) -> tuple[np.ndarray, np.ndarray | int]:
    """Image `[H, W, 1 or 3]` uint8 and label; depends on nothing else."""

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    del dl_manager
    return {split: self._generate_examples(split) for split in self.sizes}

  def _generate_examples(self, split: str) -> Iterator:
    for index in range(self.sizes[split]):
      image, label = self.example(split, index)
      yield index, {"image": images.png(image), "label": label}


def rng_of(seed: int, split: str, index: int) -> np.random.Generator:
  """Random numbers of one example, whatever is drawn before it.

  Args:
    seed: of the set; each set has its own.
    split: "train" or "test".
    index: of the example in its split.
  """
  return np.random.default_rng((seed, SPLITS.index(split), index))
