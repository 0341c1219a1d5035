"""A script on a few made-up images in place of a data set.

`python -m tests.toy_sets <script of experiments> <flags>`
"""

import runpy
import sys
from unittest import mock

import jax
import numpy as np

from stnjax import data
import stnjax.paper  # noqa: F401, registers its data sets
from stnjax.training import config, description
from stnjax.training.settings import Settings

SIZES = {"train": 96, "test": 40}
SETTINGS = Settings(
  network="STN-SL1",
  width=0.0625,
  epochs=3,
  batch_size=24,  # 4 steps an epoch
  learning_rate=0.01,
  eval_passes=1,
)


def load(dataset, split, data_dir=None):
  """Stands in for `Dataset.load`: noise, darker the higher its first class.

  Args:
    dataset: Dataset, or the name of a registered one.
    split: Its split for training or testing.
    data_dir: Not read.
  """
  del data_dir
  if isinstance(dataset, str):
    dataset = data.find(dataset)
  count = num_images(dataset, split)
  rng = np.random.default_rng(len(split))
  heads = (dataset.heads,) if dataset.heads > 1 else ()
  labels = rng.integers(0, dataset.num_classes, (count, *heads))
  images = rng.integers(0, 120, (count, *dataset.image_shape)).astype(np.uint8)
  first = labels.reshape(count, -1)[:, 0] * 10 // dataset.num_classes
  images += (12 * first[:, None, None, None]).astype(np.uint8)
  return data.Examples(images, labels.astype(np.int32))


def num_images(dataset, split, data_dir=None):
  """Stands in for `Dataset.count`."""
  del data_dir
  return SIZES["train" if split == dataset.train_split else "test"]


def task_of(settings):
  """The task of a run with these settings."""
  return description.describe(
    data.find(settings.dataset), data.PERTURBATIONS[settings.perturbation]
  )


def finish(run, error=0.25, residual=0.5, task=None, **results):
  """Has a run finished as if it had been trained, with these results.

  Args:
    run: Run; its folder need not exist.
    error: Error in [0, 1], in thousandths.
    residual: Residual share of the perturbation along every axis.
    task: Description of the task; by default that of the settings.
    **results: Entries of results.json that replace those of all runs.
  """
  settings = run.settings
  task = task or task_of(settings)
  axes = config.Config(settings, task).axes
  run.start(task)
  for epoch in range(1, settings.epochs + 1):
    line = {"epoch": epoch, "step": 4 * epoch, "train_loss": 1 / epoch}
    measured = dict.fromkeys(axes, 50.0 * residual)
    values = {"error": error, "eval_loss": 1.0, "seconds": 2.0}
    run.append({**line, **values, "alignment": measured})
  aligned = {
    "std": 50.0 * residual,
    "none": 50.0,
    "slope": -0.5,
    "by_class": [50.0 * residual] * task.num_classes,
  }
  run.finish(
    _evaluation(settings, task, axes, error),
    {
      "parameters": {"total": 9, "localisation": 4, "classifier": 5},
      "error": error,
      **({"alignment": dict.fromkeys(axes, aligned)} if axes else {}),
      "seconds": 2.0 * settings.epochs,
      "seconds_per_epoch": 2.0,
      "seeds_together": 1,
      "peak_memory_mb": 100,
      "hardware": "1 x cpu",
      **results,
    },
  )


def _evaluation(settings, task, axes, error):
  """Arrays of an evaluation of 1000 images with that error."""
  count, passes = 1000, settings.eval_passes
  label = np.arange(count) % task.num_classes
  wrong = np.arange(count) < round(count * error)
  predicted = (label + wrong) % task.num_classes
  if task.heads > 1:
    label, predicted = (
      np.stack([x] * task.heads, 1) for x in (label, predicted)
    )
  true = np.linspace(-60, 60, passes * count).reshape(passes, count)
  shown = np.zeros((4, 10, *task.image_shape), np.uint8)
  return {
    "label": label.astype(np.int32),
    "predicted": np.stack([predicted] * passes).astype(np.int16),
    "pose": np.tile(np.eye(2, 3, dtype=np.float32), (passes, count, 1, 1)),
    "before": shown,
    "after": shown,
    **{f"true_{axis}": true for axis in axes},
    **{f"predicted_{axis}": -0.5 * true for axis in axes},
  }


def loaded():
  """Has every data set replaced in this process."""
  return mock.patch.multiple(
    "experiments.lib.loading", images=load, count=num_images
  )


if __name__ == "__main__":
  loaded().start()
  jax.config.update("jax_disable_most_optimizations", True)  # as the tests do
  module = f"experiments.{sys.argv.pop(1)}"
  sys.modules.pop(module, None)
  runpy.run_module(module, run_name="__main__", alter_sys=True)
