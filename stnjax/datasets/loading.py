"""Reading prepared TFDS directories into memory."""

from collections.abc import Iterator
import pathlib
import struct

from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from stnjax.datasets import Data

EMBEDDED = pathlib.Path(__file__).parent / "embedded"
"""TFDS directory of the sets that this package brings."""

# Reading record by record is many times slower; one read of everything would
# hold all encoded images at once.
_CHUNK = 10_000


def load(name: str, split: str, data_dir: str | None = None) -> Data:
  """See `stnjax.datasets.load`."""
  builder = tfds.builder_from_directory(_prepared(name, data_dir))
  if split not in builder.info.splits:
    raise ValueError(
      f"split={split!r} is unknown for dataset {name!r}; accepted:"
      f" {', '.join(builder.info.splits)}"
    )
  if builder.info.file_format is tfds.core.FileFormat.ARRAY_RECORD:
    examples = _array_records(builder, split)
  elif builder.info.file_format is tfds.core.FileFormat.TFRECORD:
    examples = _tf_records(builder, split)
  else:
    raise ValueError(
      f"{builder.data_dir} is in format {builder.info.file_format.value};"
      " accepted: array_record, tfrecord"
    )
  pairs = [(example["image"], example["label"]) for example in examples]
  expected = builder.info.splits[split].num_examples
  if len(pairs) != expected:
    raise ValueError(
      f"{builder.data_dir} holds {len(pairs)} examples of split {split!r}, its"
      f" dataset_info.json says {expected}; prepare the set again"
    )
  images, labels = zip(*pairs, strict=True)
  return Data(np.stack(images), np.array(labels, np.int32))


def _prepared(name: str, data_dir: str | None) -> epath.Path:
  """The folder of the newest prepared version of a set."""
  embedded = EMBEDDED / name
  if data_dir is None and embedded.exists():
    root = epath.Path(EMBEDDED)
  else:
    root = epath.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  folder = root / name
  versions = [
    tfds.core.Version(entry.name)
    for entry in (folder.iterdir() if folder.exists() else ())
    if tfds.core.Version.is_valid(entry.name)
    and (entry / "dataset_info.json").exists()
  ]
  if versions:
    return folder / str(max(versions))
  if embedded.exists():
    advice = "leave out data_dir to use the embedded copy"
  else:
    advice = (
      "point data_dir at a TFDS directory that has it, or prepare it once:"
      " pip install 'stnjax[prepare]', then python -c \"import"
      f" tensorflow_datasets as tfds; tfds.builder('{name}',"
      f" data_dir='{root}', file_format='array_record')"
      '.download_and_prepare()"; the dataset mnist_subset needs no download'
    )
  raise FileNotFoundError(
    f"dataset {name!r} is not prepared in {root}: {advice}"
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
