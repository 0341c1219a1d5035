"""Reading the records of a shard, with their checksums compared."""

from collections.abc import Iterator
import contextlib
import os
import struct

from array_record.python import array_record_data_source
from etils import epath
import numpy as np
import tensorflow_datasets as tfds

from stnjax.data.tfds_reader import checksums

# Reading record by record is many times slower; one read of everything would
# hold all images twice.
CHUNK = 2_000
"""Records that are read at once."""

_CHUNK_BYTES = 2**21  # of TFRECORD, whose checksums are computed here
_LEAST = 16  # bytes of a record without data, in either format

ACCEPTED = (tfds.core.FileFormat.ARRAY_RECORD, tfds.core.FileFormat.TFRECORD)
"""Formats of prepared sets that can be read without TensorFlow."""


class DamagedError(ValueError):
  """A file of a prepared set cannot be used; the message names it."""


def reason(error: Exception) -> str:
  """The message of an error of a library, as one line of moderate length."""
  text = " ".join(str(error).split())
  return text if len(text) < 200 else f"{text[:200]}..."


def check(path: epath.Path, count: int) -> None:
  """Raises unless a shard is there and may hold `count` records.

  Args:
    path: File to check.
    count: Number of records in dataset_info.json.

  Raises:
    DamagedError: If it is missing or too small; nothing else is read.
  """
  try:
    size = path.stat().length
  except OSError as error:
    what = "is missing" if not path.exists() else "cannot be read"
    raise DamagedError(f"{path} {what} ({reason(error)})") from error
  if not size and count:
    raise DamagedError(f"{path} is empty")
  if count * _LEAST > size:
    raise DamagedError(
      f"{path} has {size} bytes, too few for the {count} examples of"
      " dataset_info.json"
    )


def read(
  path: epath.Path, count: int, file_format: tfds.core.FileFormat
) -> Iterator[bytes]:
  """Reads the records of one shard.

  Args:
    path: File to read.
    count: Number of records in dataset_info.json.
    file_format: One of `ACCEPTED`.

  Yields:
    The records, in the order of the file.

  Raises:
    DamagedError: If the file is damaged, or does not hold `count` records.
  """
  if file_format is tfds.core.FileFormat.ARRAY_RECORD:
    chunks = _array_record(path, count)
  else:
    chunks = _tfrecord(path, count)
  for chunk in chunks:
    yield from chunk


def _compare(path: epath.Path, found: int, count: int) -> None:
  if found != count:
    raise DamagedError(
      f"{path} holds {found} examples, its dataset_info.json says {count}"
    )


def _array_record(path: epath.Path, count: int) -> Iterator[list[bytes]]:
  with _reading(path):
    source = array_record_data_source.ArrayRecordDataSource([os.fspath(path)])
    found = len(source)
  _compare(path, found, count)
  for start in range(0, count, CHUNK):
    with _reading(path):  # hashes of the file are compared
      chunk = source.__getitems__(range(start, min(start + CHUNK, count)))
    yield chunk


@contextlib.contextmanager
def _reading(path: epath.Path) -> Iterator[None]:
  """Names the file in errors of the C++ reader, which documents no kinds."""
  try:
    yield
  except Exception as error:
    raise DamagedError(f"{path} is damaged ({reason(error)})") from error


def _tfrecord(path: epath.Path, count: int) -> Iterator[list[bytes]]:
  """TFRECORD, as prepared by default and on GCS, which TFDS reads with TF only.

  A record is its length (8 bytes), a checksum of it (4), the data and its
  checksum (4).
  """
  try:
    content = path.read_bytes()
  except OSError as error:
    raise DamagedError(f"{path} cannot be read ({reason(error)})") from error
  starts, ends = _bounds(path, content)
  _verify(path, content, [(start - 12, start - 4) for start in starts])
  _compare(path, len(starts), count)
  size, chunk = 0, []
  for bounds in zip(starts, ends, strict=True):
    chunk.append(bounds)
    size += bounds[1] - bounds[0]
    if len(chunk) == CHUNK or size > _CHUNK_BYTES:
      yield _verify(path, content, chunk)
      size, chunk = 0, []
  yield _verify(path, content, chunk)


def _bounds(path: epath.Path, content: bytes) -> tuple[list[int], list[int]]:
  """Start and end of the data of each record."""
  starts, ends, start = [], [], 12
  while start - 12 < len(content):
    length = len(content)
    if start <= len(content):
      (length,) = struct.unpack_from("<Q", content, start - 12)
    if start + length + 4 > len(content):
      raise DamagedError(
        f"{path} is damaged: it breaks off inside the record at byte"
        f" {start - 12}, or the length there is wrong"
      )
    starts.append(start)
    ends.append(start + length)
    start = ends[-1] + 16
  return starts, ends


def _verify(
  path: epath.Path, content: bytes, bounds: list[tuple[int, int]]
) -> list[bytes]:
  """The parts of a file between bounds, each followed by its checksum."""
  parts = [content[start:end] for start, end in bounds]
  stored = b"".join(content[end : end + 4] for _, end in bounds)
  wrong = checksums.masked_crc32c(parts) != np.frombuffer(stored, "<u4")
  if wrong.any():
    raise DamagedError(
      f"{path} is damaged: the checksum of the data at byte"
      f" {bounds[wrong.argmax()][0]} does not match"
    )
  return parts
