"""Data sets: one object each, found by name."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from stnjax import checks
from stnjax.registry import Registry

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, one number for each channel."""

_TFDS = "tfds:"


class Examples(NamedTuple):
  """Images and their labels."""

  images: jax.Array | np.ndarray  # [N, H, W, C], uint8
  labels: jax.Array | np.ndarray  # [N], or [N, heads], int32


def channel_statistics(perturbation: str, images: np.ndarray) -> Statistics:
  """Mean and standard deviation of each channel, in units of [0, 1].

  Args:
    perturbation: Name of the perturbation; not used.
    images: `[N, H, W, C]`, uint8, the training images.

  Returns:
    `(mean, std)`, a tuple of C floats each.
  """
  del perturbation
  # Exact, in integers, and in parts: NumPy counts in copies 8 times as large.
  channels = images.shape[-1]
  count = np.zeros((channels, 256))
  for part in np.array_split(images, max(1, len(images) // 1000)):
    for channel, pixels in enumerate(part.reshape(-1, channels).T):
      count[channel] += np.bincount(pixels, minlength=256)
  count /= images.size / channels
  values = np.arange(256) / 255
  mean = count @ values
  std = np.sqrt(count @ values**2 - mean**2)
  return tuple(mean.tolist()), tuple(std.tolist())


def _unknown(split: str, data_dir: str | None) -> None:
  """The count of a data set that must be read to be counted."""
  del split, data_dir


def _no_files(data_dir: str | None) -> bool:
  """Whether files are needed, of a data set that needs none."""
  del data_dir
  return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
  """Everything that is known of a data set, and how it is read.

  Attributes:
    name: Name under which it is registered, without spaces.
    image_shape: `(H, W, C)` of every image.
    num_classes: Number of classes, of each head; at least 2.
    read: Function of a split's name and `data_dir` that returns `Examples`, or
      a pair of images `[N, *image_shape]` uint8 and integer labels.
    count: Function of a split's name and `data_dir` that returns the number of
      images without reading them; None if it is not known yet.
    heads: Number of labels per image: 1 for labels `[N]`, more for
      `[N, heads]`.
    class_names: Names of the classes in the order of the labels; empty if they
      have none.
    train_split: Name of the split to train on.
    test_split: Name of the split to evaluate on.
    normalisation: Function of a perturbation's name and the training images
      that returns the mean and standard deviation of each channel.
    backbone: Name of the default backbone, or a function from the
      perturbation's name to it.
    title: Name of the data set in reports, such as "MNIST (subset)"; by default
      its name in words.
    licence: Licence of the images; empty if it is not known.
    origin: Where the files come from, in a few words, for lists of data sets.
    needs_files: Function of `data_dir` that returns whether files must be in
      place before the data set can be read.
    prepare: Function of `data_dir` and `manual_dir` that prepares the data set
      and returns a one-line summary; None if there is nothing to prepare.
  """

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int
  read: Callable[[str, str | None], Any]
  count: Callable[[str, str | None], int | None] = _unknown
  heads: int = 1
  class_names: tuple[str, ...] = ()
  train_split: str = "train"
  test_split: str = "test"
  normalisation: Callable[[str, np.ndarray], Statistics] = channel_statistics
  backbone: str | Callable[[str], str] = "plain"
  title: str = ""
  licence: str = ""
  origin: str = ""
  needs_files: Callable[[str | None], bool] = _no_files
  prepare: Callable[[str | None, str | None], str] | None = None

  def __post_init__(self) -> None:
    owner = f"Dataset {self.name!r}:"
    shape = tuple(self.image_shape)
    for size in shape:
      checks.whole(f"{owner} a size of image_shape", size, 1)
    if len(shape) != 3:
      raise ValueError(f"{owner} image_shape must be (H, W, C), got {shape}")
    checks.whole(f"{owner} num_classes", self.num_classes, 2)
    checks.whole(f"{owner} heads", self.heads, 1)
    names = tuple(self.class_names)
    if len(names) not in (0, self.num_classes):
      raise ValueError(
        f"{owner} class_names has {len(names)} names; accepted: one for each"
        f" of {self.num_classes} classes, or none"
      )
    object.__setattr__(self, "image_shape", shape)
    object.__setattr__(self, "class_names", names)

  def load(self, split: str, data_dir: str | None = None) -> Examples:
    """Reads one split into memory, and checks it.

    Args:
      split: Name of the split, such as "train" or "test".
      data_dir: Folder of the files, local or `gs://`; its meaning and default
        are those of the data set.

    Returns:
      All images `[N, H, W, C]` uint8 and labels `[N]` or `[N, heads]` int32.

    Raises:
      TypeError: If `read` returns anything but two arrays.
      ValueError: If the images or labels do not agree with the description, or
        the split is unknown.
      FileNotFoundError: If the files are missing.
    """
    owner = f"dataset {self.name!r}, split {split!r}:"
    parts = self.read(split, data_dir)
    arrays = (np.ndarray, jax.Array)
    if not isinstance(parts, tuple) or [
      isinstance(part, arrays) for part in parts
    ] != [True, True]:
      raise TypeError(
        f"{owner} read must return arrays of images and labels, got"
        f" {checks.shown(parts)}"
      )
    images, labels = parts
    if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
      sizes = ", ".join(map(str, self.image_shape))
      raise ValueError(
        f"{owner} images must be uint8 of shape (N, {sizes}), got"
        f" {checks.shown(images)}"
      )
    heads = (self.heads,) if self.heads > 1 else ()
    whole = np.issubdtype(labels.dtype, np.integer)
    if not whole or labels.shape != (len(images), *heads):
      raise ValueError(
        f"{owner} labels must be integers of shape {(len(images), *heads)},"
        f" got {checks.shown(labels)}"
      )
    if not len(images):
      raise ValueError(f"{owner} it has no images")
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= self.num_classes:
      raise ValueError(
        f"{owner} labels must be 0 to {self.num_classes - 1}, got {least} to"
        f" {most}"
      )
    return Examples(images, labels.astype(np.int32, copy=False))

  def default_backbone(self, perturbation: str) -> str:
    """Name of the backbone that is used unless another is chosen.

    Args:
      perturbation: Name of the perturbation.
    """
    if callable(self.backbone):
      return self.backbone(perturbation)
    return self.backbone


DATASETS: Registry[Dataset | Callable[[str | None, int | None], Dataset]] = (
  Registry("dataset")
)
"""Data sets by name: a `Dataset`, or a function of `data_dir` and `image_size`
that returns one, for data sets whose description depends on files."""


def find(
  name: str, data_dir: str | None = None, image_size: int | None = None
) -> Dataset:
  """Finds a data set by name.

  Args:
    name: A name in `DATASETS`, "folder" for folders of pictures, or
      "tfds:NAME" for a prepared set of TFDS, "tfds:NAME/CONFIG:VERSION" in
      full.
    data_dir: Folder of the files, local or `gs://`; read only for data sets
      whose description depends on them.
    image_size: Height and width in pixels that pictures of other sizes are
      resized to; None to keep theirs.

  Returns:
    The data set. Nothing of it is in memory yet.

  Raises:
    ValueError: If the name is unknown, the files are not accepted, or
      image_size is not that of a data set of fixed size.
    FileNotFoundError: If files that the description depends on are missing.
  """
  if image_size is not None:
    checks.whole("image_size", image_size, 1)
  if isinstance(name, str) and name.startswith(_TFDS):
    from stnjax.data.tfds_reader import describing  # imports TFDS

    return describing.describe(name, data_dir, image_size)
  if name not in DATASETS:
    raise ValueError(
      f"dataset={checks.shown(name)} is unknown; accepted:"
      f" {', '.join(DATASETS)}, {_TFDS}NAME; those of a module, such as"
      " stnjax.paper, after its import (--imports=...)"
    )
  dataset = DATASETS[name]
  if not isinstance(dataset, Dataset):
    return dataset(data_dir, image_size)
  if image_size is not None and dataset.image_shape[:2] != (image_size,) * 2:
    raise ValueError(
      f"image_size={image_size} is not accepted for dataset {name!r}, whose"
      f" images are {dataset.image_shape}; leave it out"
    )
  return dataset


def load(
  name: str,
  split: str,
  data_dir: str | None = None,
  image_size: int | None = None,
) -> Examples:
  """Loads one split of a data set into memory.

  Args:
    name: Name of the data set, see `find`.
    split: Name of the split, such as "train" or "test". Prepared TFDS sets
      also take several, joined by "+": "train+extra".
    data_dir: Folder of the files, local or `gs://`. For TFDS sets the folder
      that holds `<name>/<version>`, TFDS's own default if None; for "folder"
      the folder that holds `train/<class>`.
    image_size: Height and width in pixels, see `find`.

  Returns:
    All images and labels, in the order of the files.

  Raises:
    ValueError: If the name or split is unknown, or files are damaged or not as
      described.
    FileNotFoundError: If the data set is missing; the message explains how
      to get it. Nothing is ever downloaded.
  """
  return find(name, data_dir, image_size).load(split, data_dir)
