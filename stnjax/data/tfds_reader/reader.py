"""Reading prepared TFDS directories into memory."""

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from stnjax.data.dataset import Examples
from stnjax.data.prepared import Prepared
from stnjax.data.tfds_reader import examples, folders, records


def read(
  prepared: Prepared, split: str, data_dir: str | None = None
) -> Examples:
  """Reads a split, or several, see `Prepared.read`."""
  with folders.advice(prepared, data_dir):
    builder = folders.restore(prepared, folders.find(prepared, data_dir))
    parts = [folders.shards(builder, p) for p in _parts(builder, split)]
    counts = [sum(count for _, count in files) for files in parts]
    data = _allocate(prepared, sum(counts), builder)
    stop = 0
    for files, count in zip(parts, counts, strict=True):
      start, stop = stop, stop + count
      part = Examples(data.images[start:stop], data.labels[start:stop])
      _fill(part, prepared, files, builder.info.file_format)
  return data


def count(
  prepared: Prepared, split: str, data_dir: str | None = None
) -> int | None:
  """Counts the images of a split, see `Prepared.count`."""
  with folders.advice(prepared, data_dir):
    folder = folders.find(prepared, data_dir, generate=False)
    if folder is None:
      return None
    builder = folders.restore(prepared, folder)
    parts = [folders.shards(builder, p) for p in _parts(builder, split)]
  return sum(count for files in parts for _, count in files)


def _parts(builder: tfds.core.DatasetBuilder, split: str) -> list[str]:
  """The splits that `split` names, such as "train+extra"."""
  accepted = builder.info.splits
  parts = str(split).split("+")
  if not set(parts) <= set(accepted):
    raise ValueError(
      f"split={split!r} is unknown for dataset {builder.name!r} in"
      f" {builder.data_dir}; accepted: {', '.join(accepted)}, or several of"
      " them joined by '+'"
    )
  return parts


def _allocate(
  prepared: Prepared, count: int, builder: tfds.core.DatasetBuilder
) -> Examples:
  heads = (prepared.heads,) if prepared.heads > 1 else ()
  try:
    images = np.empty((count, *prepared.image_shape), np.uint8)
    labels = np.empty((count, *heads), np.int32)
  except (MemoryError, ValueError) as error:
    raise records.DamagedError(
      f"the {count} examples that {builder.data_dir}/dataset_info.json names"
      " do not fit into memory"
    ) from error
  return Examples(images, labels)


def _fill(
  data: Examples,
  prepared: Prepared,
  files: list[tuple[epath.Path, int]],
  file_format: tfds.core.FileFormat,
) -> None:
  """Reads files in place: a list of all images would hold them twice."""
  labels = data.labels.reshape(-1, prepared.heads)
  row = 0
  for path, count in files:
    for index, record in enumerate(records.read(path, count, file_format)):
      try:
        image, label = examples.decode(record, prepared)
      except ValueError as error:
        raise records.DamagedError(
          f"{path}, example {index}: {error}"
        ) from error
      data.images[row], labels[row] = image, label
      row += 1
  _refuse_copies(data, files)


def _refuse_copies(data: Examples, files: list[tuple[epath.Path, int]]) -> None:
  """Raises if a file is a copy of another of the split."""
  seen: dict[tuple[int, bytes], tuple[epath.Path, Examples]] = {}
  stop = 0
  for path, count in files:
    start, stop = stop, stop + count
    part = Examples(data.images[start:stop], data.labels[start:stop])
    key = count, part.images[:1].tobytes()  # few agree in it
    other, earlier = seen.setdefault(key, (path, part))
    if count and other != path and all(map(np.array_equal, part, earlier)):
      raise records.DamagedError(f"{path} holds the same examples as {other}")
