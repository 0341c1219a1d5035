"""Data sets of arrays that are in memory."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from stnjax import checks
from stnjax.data import splitting
from stnjax.data.dataset import Dataset, Examples
from stnjax.data.notes import announce


def from_arrays(
  name: str,
  train: tuple[Any, Any],
  test: tuple[Any, Any] | None = None,
  *,
  num_classes: int | None = None,
  class_names: Sequence[str] = (),
  **fields: Any,
) -> Dataset:
  """Makes a data set of arrays.

  Register it for the scripts: `DATASETS.register(dataset.name, dataset)`.

  >>> images = np.zeros((20, 8, 8, 1), np.uint8)
  >>> labels = np.arange(20) % 2
  >>> dataset = from_arrays("mine", (images, labels), (images, labels))
  >>> dataset.load("train").images.shape
  (20, 8, 8, 1)

  Args:
    name: Name of the data set, without spaces.
    train: Images and labels to train on. Images `[N, H, W, C]`, or
      `[N, H, W]` for one channel: uint8, floats in [0, 1], booleans, uint16 in
      [0, 65535], or other integers in [0, 255]. Labels `[N]` or `[N, heads]`,
      integers from 0.
    test: Images and labels to evaluate on; None to hold out a tenth of `train`,
      of each class, the same on every machine, which is printed to stderr.
    num_classes: Number of classes; the number of class_names, or the greatest
      label of `train` plus 1, if None.
    class_names: Names of the classes in the order of the labels.
    **fields: Further fields of `Dataset`, such as licence or backbone.

  Returns:
    The data set, with splits "train" and "test". It holds the arrays.

  Raises:
    ValueError: If shapes, values or labels are not accepted.
    TypeError: If a part is not a pair of arrays, or of a dtype that is not
      accepted.
  """
  splits = {"train": _examples(name, "train", train)}
  if test is not None:
    splits["test"] = _examples(name, "test", test)
  else:
    splits["train"], splits["test"] = _split(name, splits["train"])
  _check_agreement(name, splits)
  images, labels = splits["train"]
  if num_classes is None:
    num_classes = _num_classes(name, splits, class_names)

  def read(split: str, data_dir: str | None) -> Examples:
    del data_dir
    if split not in splits:
      raise ValueError(
        f"split={split!r} is unknown for dataset {name!r}; accepted: train,"
        " test"
      )
    return splits[split]

  def count(split: str, data_dir: str | None) -> int:
    return len(read(split, data_dir).labels)

  _, height, width, channels = images.shape
  made = Dataset(
    name=name,
    image_shape=(height, width, channels),
    num_classes=num_classes,
    class_names=tuple(class_names),
    read=read,
    count=count,
    heads=labels.shape[1] if labels.ndim == 2 else 1,
    **{"origin": "arrays in memory"} | fields,
  )
  for split in splits:
    made.load(split)  # checks
  return made


def _num_classes(
  name: str, splits: dict[str, Examples], class_names: Sequence[str]
) -> int:
  """The number of classes, of names or else of labels."""
  greatest = {split: int(part.labels.max()) for split, part in splits.items()}
  if class_names and len(class_names) <= max(greatest.values()):
    raise ValueError(
      f"dataset {name!r}: class_names has {len(class_names)} names for labels 0"
      f" to {max(greatest.values())}; accepted: a name for each label"
    )
  if not class_names and greatest["test"] > greatest["train"]:
    raise ValueError(
      f"dataset {name!r}: labels of test go up to {greatest['test']}, those of"
      f" train up to {greatest['train']}; give num_classes if that is meant"
    )
  return len(class_names) or greatest["train"] + 1


def _check_agreement(name: str, splits: dict[str, Examples]) -> None:
  """Raises unless images and labels of both splits have the same shapes."""
  for train, test, what in zip(
    splits["train"], splits["test"], ("images", "labels"), strict=True
  ):
    if train.shape[1:] != test.shape[1:]:
      raise ValueError(
        f"dataset {name!r}: {what} of test must be as those of train, got"
        f" {test.shape[1:]} and {train.shape[1:]}"
      )


def _split(name: str, examples: Examples) -> tuple[Examples, Examples]:
  """Holds out a share of the training images, and announces it."""
  chosen = splitting.held_out(examples.labels)
  announce(
    f"dataset {name!r} has no test split: {chosen.sum():,} of"
    f" {len(chosen):,} training images are held out as one"
  )
  return (
    Examples(examples.images[~chosen], examples.labels[~chosen]),
    Examples(examples.images[chosen], examples.labels[chosen]),
  )


def _examples(name: str, split: str, pair: Any) -> Examples:
  """Images as uint8 and labels as int32, of accepted shapes."""
  owner = f"dataset {name!r}, {split}:"
  if not isinstance(pair, tuple | list) or len(pair) != 2:
    raise TypeError(
      f"{owner} accepted: a pair of images and labels, got {checks.shown(pair)}"
    )
  images, labels = map(np.asarray, pair)
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim != 4 or not images.size:
    raise ValueError(
      f"{owner} images must be [N, H, W, C] or [N, H, W], none of them 0, got"
      f" shape {np.shape(pair[0])}"
    )
  if not np.issubdtype(labels.dtype, np.integer):
    raise TypeError(f"{owner} labels must be integers, got {labels.dtype}")
  if labels.shape == (len(images), 1):
    labels = labels[:, 0]
  if labels.ndim not in (1, 2) or len(labels) != len(images):
    raise ValueError(
      f"{owner} labels must be [N] or [N, heads] for {len(images)} images, got"
      f" shape {labels.shape}"
    )
  if labels.min() < 0 or labels.max() >= 2**31:
    raise ValueError(
      f"{owner} labels must be 0 or more, got {labels.min()} to {labels.max()}"
    )
  return Examples(_to_uint8(owner, images), labels.astype(np.int32))


def _to_uint8(owner: str, images: np.ndarray) -> np.ndarray:
  """Images of any accepted dtype as uint8."""
  if images.dtype == np.uint8:
    return images
  if images.dtype == np.bool_:
    return images.astype(np.uint8) * np.uint8(255)
  if images.dtype == np.uint16:
    return (images >> 8).astype(np.uint8)
  floating = jnp.issubdtype(images.dtype, jnp.floating)  # or bfloat16
  if not floating and not np.issubdtype(images.dtype, np.integer):
    raise TypeError(
      f"{owner} images must be uint8, floats in [0, 1] or integers, got"
      f" {images.dtype}"
    )
  most = 1 if floating else 255
  least, greatest = images.min(), images.max()
  if not (least >= 0 and greatest <= most):  # NaN compares as False
    raise ValueError(
      f"{owner} images of {images.dtype} must be in [0, {most}], got {least}"
      f" to {greatest}"
    )
  if not floating:
    return images.astype(np.uint8)
  converted = np.empty(images.shape, np.uint8)
  for image, out in zip(images, converted, strict=True):  # not all at once
    out[...] = np.rint(image.astype(np.float32) * 255)
  return converted
