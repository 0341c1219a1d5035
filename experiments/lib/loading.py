"""Images of a run: loaded once for all runs on the same."""

from collections.abc import Callable
import threading

import numpy as np

from stnjax import data, files
from stnjax.data import Dataset, Examples, splitting
from stnjax.training import building
from stnjax.training.settings import Settings

Load = Callable[[Settings], "Loaded"]
Loaded = tuple[building.Setup, Examples, Examples]
"""Objects that settings name, images to train on, images to evaluate on."""

_HELD_OUT = 10  # one of so many training images, for tuning


def images(
  dataset: Dataset, split: str, data_dir: str | None = None
) -> Examples:
  """Loads one split of a data set."""
  return dataset.load(split, data_dir)


def count(
  dataset: Dataset, split: str, data_dir: str | None = None
) -> int | None:
  """Counts the images of a split; None where they are yet to be generated."""
  return dataset.count(split, data_dir)


def load(settings: Settings, data_dir: str | None = None) -> Loaded:
  """Loads the images of a run.

  Args:
    settings: Settings of the run.
    data_dir: Folder of the data, for data sets that are not embedded.

  Raises:
    ValueError: for objects that cannot be found, or damaged data.
    FileNotFoundError: for a data set that is not there.
  """
  setup = _checked(settings, data_dir)
  dataset = setup.dataset
  train = images(dataset, dataset.train_split, data_dir)
  if not settings.use_validation_split:
    evaluation = images(dataset, dataset.test_split, data_dir)
    return setup, _first(settings, train), evaluation
  order = _mixed(train.labels)
  cut = _num_kept(settings, len(order))
  train, validation = (
    Examples(train.images[part], train.labels[part])
    for part in (order[:cut], order[cut:])
  )
  return setup, _first(settings, train), validation


def _mixed(labels: np.ndarray) -> np.ndarray:
  """Indices of images in an order whose end has all classes.

  That of the data set, unless it is sorted by class, as folders are.
  """
  if labels.ndim > 1 or (np.diff(labels) < 0).any():
    return np.arange(len(labels))
  return splitting.stratified(labels)


def _first(settings: Settings, train: Examples) -> Examples:
  """The training images that a run uses, in the order of the data set.

  Raises:
    ValueError: if there are fewer than `train_images`.
  """
  if settings.train_images is None:
    return train
  _check_train_images(settings, len(train.labels))
  order = splitting.stratified(train.labels)[: settings.train_images]
  order = np.sort(order)
  return Examples(train.images[order], train.labels[order])


def once(data_dir: str | None = None) -> Load:
  """`load`, once for all runs on the same images, in all threads.

  Raises:
    ValueError: for a data_dir that is neither local nor `gs://`.
  """
  if data_dir is not None:
    files.place("data_dir", data_dir)  # raises unless accepted
  loaded: dict[tuple, Loaded] = {}
  lock = threading.Lock()

  def load_once(settings: Settings) -> Loaded:
    key = (
      settings.dataset,
      settings.image_size,
      settings.use_validation_split,
      settings.train_images,
    )
    with lock:
      if key not in loaded:
        loaded.clear()  # no two sets at a time
        loaded[key] = load(settings, data_dir)
      _, train, evaluation = loaded[key]
      return building.find(settings, data_dir), train, evaluation

  return load_once


def check(settings: Settings, data_dir: str | None = None) -> building.Setup:
  """Checks that a data set is there and fills a batch, without reading it.

  Returns:
    The objects that the settings name.

  Raises:
    FileNotFoundError: for a data set that is not there.
    ValueError: for a batch larger than the training set, or too many steps.
  """
  setup = _checked(settings, data_dir)
  dataset: Dataset = setup.dataset
  for split in (dataset.train_split, dataset.test_split):
    number = count(dataset, split, data_dir)
    if split == dataset.train_split and number is not None:
      building.num_steps(settings, num_training_images(settings, number))
  return setup


def _checked(settings: Settings, data_dir: str | None) -> building.Setup:
  """The objects that settings name, which fit together.

  Computes, so that processes that work together must have joined before.
  """
  setup = building.find(settings, data_dir)
  data.check_perturbation(setup.perturbation, setup.dataset.image_shape)
  return setup


def num_training_images(settings: Settings, count: int) -> int:
  """Training images out of `count` that a run uses.

  Raises:
    ValueError: if there are fewer than `train_images`.
  """
  kept = _num_kept(settings, count)
  if settings.train_images is None:
    return kept
  _check_train_images(settings, kept)
  return settings.train_images


def _num_kept(settings: Settings, count: int) -> int:
  """Images out of `count` without those held out for tuning."""
  if not settings.use_validation_split:
    return count
  return count * (_HELD_OUT - 1) // _HELD_OUT


def _check_train_images(settings: Settings, count: int) -> None:
  if settings.train_images > count:
    raise ValueError(
      f"train_images must be at most {count}, the number of training images of"
      f" {settings.dataset}, got {settings.train_images}"
    )
