"""Data sets of TFDS that nothing here describes: "tfds:NAME"."""

import functools
import re
from typing import Any

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from stnjax.data import images, splitting
from stnjax.data.dataset import Dataset, Examples
from stnjax.data.notes import announce
from stnjax.data.prepared import Prepared
from stnjax.data.tfds_reader import examples, folders, reader, records

_NAME = re.compile(r"tfds:(\w+)(?:/([\w.+-]+))?(?::(\d+\.\d+\.\d+))?")
_CHANNELS = {1: 1, 3: 3, 4: 3}  # read, by those declared


def parse(name: str) -> Prepared:
  """The set that a name stands for; its shapes are yet to be read.

  Args:
    name: "tfds:NAME", "tfds:NAME/CONFIG" or either with ":VERSION".

  Raises:
    ValueError: For other names.
  """
  match = _NAME.fullmatch(name)
  if match is None:
    raise ValueError(
      f"dataset={name!r} is unknown; accepted: tfds:NAME, tfds:NAME/CONFIG,"
      " either with :VERSION, such as tfds:cifar10:3.0.2"
    )
  builder, config, version = match.groups(default="")
  return Prepared(
    name=builder,
    folder=f"{builder}/{config}" if config else builder,
    version=version,
    image_shape=(1, 1, 1),
    num_classes=2,
    convert=True,
  )


def describe(
  name: str, data_dir: str | None, image_size: int | None
) -> Dataset:
  """Describes a prepared set by its features, see `stnjax.data.find`."""
  prepared = parse(name)
  with folders.advice(prepared, data_dir):
    folder = folders.find(prepared, data_dir)
    builder = folders.restore_any(prepared.name, folder)
    fields = _features(name, builder, image_size)
    label = builder.info.features[fields["label_key"]]
    class_names: tuple[str, ...] = ()
    num_classes = getattr(label, "num_classes", None)
    if num_classes:
      class_names = tuple(map(label.int2str, range(num_classes)))
    else:
      num_classes = 1 + _greatest_label(folder, fields["label_key"])
  prepared = Prepared(
    **{
      field: getattr(prepared, field)
      for field in ("name", "folder", "version", "convert")
    },
    num_classes=num_classes,
    **fields,
  )
  return prepared.dataset(
    name=name,
    class_names=class_names,
    origin=f"TFDS, in {folder}",
    prepare=None,
    licence=builder.info.redistribution_info.license or "",
    **_splits(name, prepared, builder, data_dir),
  )


def _features(
  name: str, builder: tfds.core.DatasetBuilder, image_size: int | None
) -> dict[str, Any]:
  """Fields of `Prepared` that follow from the features of a set."""
  features = builder.info.features
  if not isinstance(features, tfds.features.FeaturesDict):
    raise ValueError(f"dataset {name!r} is not an image classification set")
  image_keys = [
    key
    for key, feature in sorted(features.items())
    if isinstance(feature, tfds.features.Image) and feature.np_dtype == np.uint8
  ]
  label_keys = [
    key
    for key, feature in sorted(features.items())
    if feature.shape == () and examples.is_whole(feature)
  ]
  image_key = _choose(name, "image", image_keys, builder)
  label_key = _choose(name, "label", label_keys, builder)
  height, width, channels = features[image_key].shape
  if channels not in _CHANNELS:
    raise ValueError(
      f"dataset {name!r} has images of {channels} channels; accepted: 1, 3, 4"
    )
  if image_size is None and None in (height, width):
    raise ValueError(
      f"dataset {name!r} has images of several sizes; give image_size"
      " (--image_size=64) to resize them"
    )
  resize = None
  if image_size is not None and (height, width) != (image_size, image_size):
    resize = functools.partial(images.fit, size=image_size)
    height = width = image_size
  return {
    "image_key": image_key,
    "label_key": label_key,
    "image_shape": (height, width, _CHANNELS[channels]),
    "resize": resize,
  }


def _choose(
  name: str, kind: str, keys: list[str], builder: tfds.core.DatasetBuilder
) -> str:
  """The feature of that name, the supervised one, or the only one."""
  supervised = builder.info.supervised_keys or ()
  for key in (kind, *supervised):
    if key in keys:
      return str(key)
  if len(keys) != 1:
    raise ValueError(
      f"dataset {name!r} is not an image classification set: it must have a"
      f" uint8 Image and a label of one integer, got {kind}s {keys} among the"
      f" features {', '.join(sorted(builder.info.features))}"
    )
  return keys[0]


@functools.cache
def _greatest_label(folder: epath.Path, key: str) -> int:
  """The greatest label of the split "train", whose images are not decoded."""
  builder = tfds.builder_from_directory(folder)
  greatest = 1
  for path, count in folders.shards(builder, "train"):
    for record in records.read(path, count, builder.info.file_format):
      greatest = max(greatest, examples.label_of(record, key))
  return greatest


def _splits(
  name: str,
  prepared: Prepared,
  builder: tfds.core.DatasetBuilder,
  data_dir: str | None,
) -> dict[str, Any]:
  """Fields of `Dataset`: its splits, of which the test may be held out."""
  there = [
    split for split, info in builder.info.splits.items() if info.num_examples
  ]
  if "train" not in there:
    raise ValueError(
      f"dataset {name!r} has no split 'train', but {', '.join(there)}"
    )
  if "test" in there:
    return {
      "read": lambda split, given: prepared.read(split, given or data_dir),
      "count": lambda split, given: prepared.count(split, given or data_dir),
    }

  def check(split: str) -> None:
    if split not in ("train", "test"):
      raise ValueError(
        f"split={split!r} is unknown for dataset {name!r}; accepted: train,"
        " test (a held-out share of train)"
      )

  def read(split: str, given: str | None) -> Examples:
    check(split)
    data = reader.read(prepared, "train", given or data_dir)
    chosen = splitting.held_out(data.labels) == (split == "test")
    return Examples(data.images[chosen], data.labels[chosen])

  def count(split: str, given: str | None) -> int | None:
    check(split)
    total = reader.count(prepared, "train", given or data_dir)
    if total is None:
      return None
    held_out = splitting.held_out_count(total)
    return held_out if split == "test" else total - held_out

  total = builder.info.splits["train"].num_examples
  announce(
    f"dataset {name!r} has no split 'test' (it has {', '.join(there)}):"
    f" {splitting.held_out_count(total):,} of {total:,} training images are"
    " held out as one"
  )
  return {"read": read, "count": count}
