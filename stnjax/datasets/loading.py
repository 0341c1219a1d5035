"""Reading prepared TFDS directories into memory."""

from collections.abc import Callable, Iterator
import importlib
import pathlib
import struct
import sys

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from stnjax.datasets import SETS, Data, plankton, preparing

EMBEDDED = pathlib.Path(__file__).parent / "embedded"
"""TFDS directory of the sets that this package brings."""

# Reading record by record is many times slower; one read of everything would
# hold all images twice.
_CHUNK = 2_000


def load(name: str, split: str, data_dir: str | None = None) -> Data:
  """See `stnjax.datasets.load`."""
  root = _root(name, data_dir)
  if name in _GENERATED:
    folder = _generated(name, root)
  else:
    folder = _prepared(name, root)
  builder = tfds.builder_from_directory(folder)
  counts = _counts(builder, name, split)
  description = SETS[name]
  # Filled in place: a list of all images, stacked, would hold them twice.
  images = np.empty((sum(counts.values()), *description.image_shape), np.uint8)
  heads = (description.heads,) if description.heads > 1 else ()
  labels = np.empty((sum(counts.values()), *heads), np.int32)
  start = 0
  for part, count in counts.items():
    rows = slice(start, start + count)
    _fill(images[rows], labels[rows], builder, part, _FITS.get(name))
    start += count
  if not np.isin(labels, range(description.num_classes)).all():
    raise ValueError(
      f"{folder} has labels from {labels.min()} to {labels.max()}; dataset"
      f" {name!r} has {description.num_classes} classes"
    )
  return Data(images, labels)


def count(name: str, split: str, data_dir: str | None = None) -> int | None:
  """See `stnjax.datasets.count`."""
  root = _root(name, data_dir)
  if name in _GENERATED:
    folder = _generated_folder(name, root)
    if not (folder / "dataset_info.json").exists():
      return None
  else:
    folder = _prepared(name, root)
  builder = tfds.builder_from_directory(folder)
  return sum(_counts(builder, name, split).values())


def _root(name: str, data_dir: str | None) -> epath.Path:
  """The TFDS directory that holds a set."""
  if data_dir is None and (EMBEDDED / name).exists():
    return epath.Path(EMBEDDED)
  return epath.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()


def _counts(
  builder: tfds.core.DatasetBuilder, name: str, split: str
) -> dict[str, int]:
  """The number of examples of each part of a split."""
  for part in split.split("+"):
    if part not in builder.info.splits:
      raise ValueError(
        f"split={split!r} is unknown for dataset {name!r}; accepted:"
        f" {', '.join(builder.info.splits)}, or several of them joined by '+'"
      )
  splits = builder.info.splits
  return {part: splits[part].num_examples for part in split.split("+")}


_FITS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  "plankton": plankton.fit
}
"""What makes images of different sizes one size."""


def _fill(
  images: np.ndarray,
  labels: np.ndarray,
  builder: tfds.core.DatasetBuilder,
  split: str,
  fit: Callable[[np.ndarray], np.ndarray] | None,
) -> None:
  """Reads one split into the arrays, which have its number of examples."""
  found = 0
  for example in _examples(builder, split):
    if found < len(images):
      image = fit(example["image"]) if fit else example["image"]
      label = np.asarray(example["label"])
      if image.shape != images.shape[1:] or label.shape != labels.shape[1:]:
        raise ValueError(
          f"{builder.data_dir}, split {split!r}: an example has an image"
          f" {image.shape} and a label {label.shape}; accepted:"
          f" {images.shape[1:]} and {labels.shape[1:]}"
        )
      images[found], labels[found] = image, label
    found += 1
  if found != len(images):
    raise ValueError(
      f"{builder.data_dir} holds {found} examples of split {split!r}, its"
      f" dataset_info.json says {len(images)}; prepare the set again"
    )


def _prepared(name: str, root: epath.Path) -> epath.Path:
  """The folder of the newest prepared version of a set."""
  folder = root / name
  versions = [
    tfds.core.Version(entry.name)
    for entry in (folder.iterdir() if folder.exists() else ())
    if tfds.core.Version.is_valid(entry.name)
    and (entry / "dataset_info.json").exists()
  ]
  if versions:
    return folder / str(max(versions))
  advice = "point data_dir at a TFDS directory that has it, or prepare it once:"
  if (EMBEDDED / name).exists():
    advice = "leave out data_dir to use the embedded copy"
  elif name in _MANUAL:
    advice += (
      f" python -m experiments.prepare_data --dataset={name}"
      f" --manual_dir=<{_MANUAL[name]}> --data_dir={root}"
    )
  else:
    advice += (
      " pip install 'stnjax[prepare]', then python -c \"import"
      f" tensorflow_datasets as tfds; tfds.builder('{name}',"
      f" data_dir='{root}', file_format='array_record')"
      '.download_and_prepare()"'
    )
  raise FileNotFoundError(
    f"dataset {name!r} is not prepared in {root}: {advice}; the datasets"
    f" mnist_subset, {', '.join(_GENERATED)} need no download"
  )


_MANUAL = {
  "svhn": "folder of the archives",
  "plankton": "folder of train/",
}
"""Sets that this package prepares, and from what."""


_GENERATED = {
  "street_numbers": "StreetNumbers",
  "street_digits": "StreetDigits",
  "drifters": "Drifters",
}
"""Sets that are drawn, each by this builder in the module of its name."""


def _generated_builder(name: str) -> type[tfds.core.DatasetBuilder]:
  module = importlib.import_module(f"stnjax.datasets.{name}")
  return getattr(module, _GENERATED[name])


def _generated_folder(name: str, root: epath.Path) -> epath.Path:
  """The folder of a set that is generated, now or later."""
  return root / name / str(_generated_builder(name).VERSION)


def _generated(name: str, root: epath.Path) -> epath.Path:
  """The folder of a set that is generated where it is not there."""
  builder_class, folder = (
    _generated_builder(name),
    _generated_folder(name, root),
  )
  if (folder / "dataset_info.json").exists():
    return folder
  print(f"generating the dataset {name}, once, in {folder}", file=sys.stderr)
  try:
    preparing.prepare(builder_class(data_dir=root, file_format="array_record"))
  except OSError as error:
    # Another process may have been faster.
    if not (folder / "dataset_info.json").exists():
      raise OSError(
        f"the dataset {name} cannot be written to {root} ({error});"
        " point data_dir at a folder that can be written to"
      ) from error
  return folder


def _examples(builder: tfds.core.DatasetBuilder, split: str) -> Iterator:
  if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
    return _array_records(builder, split)
  if builder.info.file_format is tfds.core.FileFormat.TFRECORD:
    return _tf_records(builder, split)
  raise ValueError(
    f"{builder.data_dir} is in format {builder.info.file_format.value};"
    " accepted: array_record, tfrecord"
  )


def _array_records(builder: tfds.core.DatasetBuilder, split: str) -> Iterator:
  source = builder.as_data_source(split=split)
  for start in range(0, len(source), _CHUNK):
    stop = min(start + _CHUNK, len(source))
    yield from source.__getitems__(range(start, stop))


def _tf_records(builder: tfds.core.DatasetBuilder, split: str) -> Iterator:
  """TFRECORD, as prepared by default and on GCS, which TFDS reads with TF only.

  A record is its length (8 bytes), a checksum of it (4), the data and its
  checksum (4).
  """
  for path in builder.info.splits[split].filepaths:
    content = epath.Path(path).read_bytes()
    start = 0
    while start < len(content):
      end = len(content)
      if start + 12 <= end:
        (length,) = struct.unpack_from("<Q", content, start)
        end = start + 12 + length
      if end + 4 > len(content):
        raise ValueError(f"{path} breaks off inside a record")
      yield builder.info.features.deserialize_example_np(
        content[start + 12 : end]
      )
      start = end + 4
