"""A script on a few made-up images in place of a data set.

`python -m tests.toy_sets <script of experiments> <flags>`
"""

import contextlib
import runpy
import sys
from unittest import mock

import jax
import numpy as np

from stnjax import datasets, runs

SIZES = {"train": 96, "test": 40}
SETTINGS = runs.Settings(
  network="STN-SL1",
  width=0.0625,
  epochs=3,
  batch_size=24,  # 4 steps an epoch
  learning_rate=0.01,
  eval_passes=1,
)


def load(name, split, data_dir=None):
  """Stands in for `datasets.load`: noise, darker the higher its first class."""
  del data_dir
  known = datasets.SETS[name]
  rng = np.random.default_rng(len(split))
  count = SIZES[split]
  heads = (known.heads,) if known.heads > 1 else ()
  labels = rng.integers(0, known.num_classes, (count, *heads)).astype(np.int32)
  images = rng.integers(0, 120, (count, *known.image_shape)).astype(np.uint8)
  first = labels.reshape(count, -1)[:, 0]
  images += (12 * first[:, None, None, None]).astype(np.uint8)
  return datasets.Data(images, labels)


@contextlib.contextmanager
def loaded():
  """Has every data set replaced in this process."""
  with mock.patch.object(datasets, "load", load):
    yield


if __name__ == "__main__":
  datasets.load = load
  jax.config.update("jax_disable_most_optimizations", True)  # as the tests do
  module = f"experiments.{sys.argv.pop(1)}"
  sys.modules.pop(module, None)
  runpy.run_module(module, run_name="__main__", alter_sys=True)
