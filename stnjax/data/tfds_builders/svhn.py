"""Street View House Numbers, whole numbers ("format 1"), as a TFDS set."""

from collections.abc import Callable, Iterator
import functools
import gzip
import io
import itertools
import math
import pathlib
import sys
import tarfile
from typing import Any, NamedTuple
import zlib

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from stnjax.data import images
from stnjax.data.house_numbers import BLANK, MAX_DIGITS
from stnjax.data.notes import Notes

HOMEPAGE = "http://ufldl.stanford.edu/housenumbers"
SPLITS = ("train", "extra", "test")
SIZE = 64
"""Height and width of the crops."""
GROWTH = 0.3
"""By how much the box around the digits is wider, and higher, in the crop."""

_SHARD = 25_000  # examples in a file, and encoded in memory while it is written
_FIELDS = (b"left", b"top", b"width", b"height", b"label")
_STRUCT = "digitStruct.mat"

# Limits far above what the archives of SVHN hold; they keep a file that is
# damaged, or made to do harm, from filling the memory.
_LARGEST_PNG = 2**26  # bytes
_LARGEST_STRUCT = 2**31
_EXPANSION = 50  # unpacked size of an archive by its own
_ROOM = 2**28  # unpacked bytes that any archive may hold
_MOST_NUMBERS = 10_000_000  # in digitStruct.mat
_MOST_ELEMENTS = 1_000  # digits of a number, letters of a name
_FAR = 1e6  # pixels, of a box

# Errors of h5py on damaged or unexpected contents.
_HDF5_ERRORS = (
  *(ValueError, KeyError, OSError, RuntimeError, TypeError),
  *(AttributeError, MemoryError),
)


class Svhn(tfds.core.ShardBasedBuilder):
  """SVHN in its original format: photographs of whole house numbers.

  An example is the union of the boxes of the digits, grown by 30 % in width and
  in height about its centre (15 % on each side), rounded outwards to whole
  pixels, clipped to the photograph and resized to 64x64 (bilinear); its label
  is the digits, padded with `BLANK` to five.

  Left out and named are numbers of more than five digits, or of none; those
  whose box is outside the photograph or has no area; PNGs that are broken, too
  large (64 MiB, 2**26 pixels), no plain files, or of which digitStruct.mat
  knows nothing, and entries of it that are damaged or without PNG. A damaged
  archive, or one of unknown labels, is refused.
  """

  # A generator-based builder shuffles what is over 1000 MiB, as "extra" is,
  # through files of TensorFlow's.
  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "Whole numbers, cropped and resized to 64x64."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "manual_dir is a folder with train.tar.gz, test.tar.gz and extra.tar.gz of"
    f" format 1, from {HOMEPAGE}; they need not be extracted."
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "House numbers in Google Street View images, cropped to the number and"
        " resized to 64x64. A label is five digits; 10 stands for none. Y."
        " Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng: Reading"
        " Digits in Natural Images with Unsupervised Feature Learning, 2011."
        " For non-commercial use only."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIZE, SIZE, 3)),
          "label": tfds.features.Tensor(shape=(MAX_DIGITS,), dtype=np.int64),
        }
      ),
      supervised_keys=("image", "label"),
      homepage=HOMEPAGE,
    )

  def _shard_iterators_per_split(
    self, dl_manager: tfds.download.DownloadManager
  ) -> dict[str, list[Callable[[], Iterator]]]:
    folder = pathlib.Path(dl_manager.manual_dir)
    paths = {split: folder / f"{split}.tar.gz" for split in SPLITS}
    for path in paths.values():
      if not path.exists():
        raise FileNotFoundError(
          f"no {path.name} in {folder}; all of train.tar.gz, extra.tar.gz and"
          f" test.tar.gz are needed, from {HOMEPAGE}"
        )
    return {split: _shards(path) for split, path in paths.items()}


class Number(NamedTuple):
  """One photograph's entry in digitStruct.mat."""

  boxes: np.ndarray  # [digits, 4]: left, top, width, height; from 0, in pixels
  digits: list[int]  # 0 to 9


def _shards(path: pathlib.Path) -> list[Callable[[], Iterator]]:
  """Functions to call, in turn, for the examples of each file."""
  print(f"reading digitStruct.mat of {path}", file=sys.stderr)
  numbers = read_digit_struct(_find_digit_struct(path), str(path))
  print(f"cropping {len(numbers)} numbers of {path}", file=sys.stderr)
  # All shards read on in one stream; the last one reads to its end.
  examples = _examples(path, numbers)
  full = max(0, math.ceil(len(numbers) / _SHARD) - 1)
  part = functools.partial(itertools.islice, examples, _SHARD)
  return [part] * full + [lambda: examples]


def _find_digit_struct(path: pathlib.Path) -> bytes:
  for name, content, why in _members(path, {_STRUCT: _LARGEST_STRUCT}):
    if content is not None and name == _STRUCT:
      return content
    if name == _STRUCT:
      raise ValueError(
        f"digitStruct.mat of {path} is {why}; get the archive again from"
        f" {HOMEPAGE}"
      )
  raise ValueError(
    f"{path} holds no digitStruct.mat: it is not an archive of format 1, which"
    f" is at {HOMEPAGE}"
  )


class _Bounded:
  """A stream that refuses to unpack far more than an archive may hold."""

  def __init__(self, stream: gzip.GzipFile, room: int):
    self._stream, self._room, self._left = stream, room, room

  def read(self, size: int) -> bytes:
    content = self._stream.read(size)
    self._left -= len(content)
    if self._left < 0:
      raise tarfile.ReadError(f"it unpacks to more than {self._room:,} bytes")
    return content


def _members(
  path: pathlib.Path, largest: dict[str, int]
) -> Iterator[tuple[str, bytes | None, str]]:
  """Streams an archive.

  Args:
    path: Archive to read.
    largest: Greatest size in bytes, by the end of the names to be read.

  Yields:
    Name, without folders, and content; or None and why it is not read.
  """
  try:
    room = max(_ROOM, _EXPANSION * path.stat().st_size)
    with (
      path.open("rb") as file,
      gzip.open(file) as stream,
      tarfile.open(fileobj=_Bounded(stream, room), mode="r|") as archive,
    ):
      for member in archive:
        # To skip what is not there, tarfile would count up to its end.
        if archive.offset - member.offset_data > room:
          raise tarfile.ReadError(f"{member.name} claims {member.size:,} bytes")
        name = pathlib.PurePosixPath(member.name).name
        end = next(filter(name.endswith, largest), None)
        if end is None or name[:2] == "._":  # macOS adds "._1.png" of its own
          continue
        if not member.isreg() or member.issparse():
          yield name, None, "no plain file"
        elif member.size > largest[end]:
          yield name, None, f"of more than {largest[end]:,} bytes"
        else:
          yield name, archive.extractfile(member).read(), ""
      # The checksum is compared at the end.
      while content := archive.fileobj.read(2**20):
        if content.count(0) < len(content):
          raise tarfile.ReadError("it holds something after a broken header")
  except (
    *(tarfile.TarError, EOFError, zlib.error, OSError, ValueError),
    *(OverflowError, RecursionError, LookupError),
  ) as error:
    raise ValueError(
      f"{path} is damaged or incomplete ({error}); get it again from {HOMEPAGE}"
    ) from error


def read_digit_struct(content: bytes, source: str) -> dict[str, Number]:
  """Reads a digitStruct.mat, which is HDF5.

  Args:
    content: of the file.
    source: where it is from, for errors.

  Returns:
    The numbers by the names of their PNGs.

  Raises:
    ValueError: where it cannot be read as a whole, or has labels other than 1
      to 10; single entries that are not of that structure are left out and
      named on stderr.
    ImportError: without h5py.
  """
  try:
    import h5py
  except ImportError as error:
    raise ImportError("preparing svhn needs h5py: pip install h5py") from error
  notes = Notes(f"digitStruct.mat of {source}")
  numbers: dict[str, Number] = {}
  cannot = f"digitStruct.mat of {source} cannot be read"
  try:
    # Low-level calls and references read at once are four times as fast.
    file = h5py.h5f.open_file_image(content)
    names, groups = (
      _read(h5py, h5py.h5d.open(file, path), _MOST_NUMBERS)
      for path in (b"/digitStruct/name", b"/digitStruct/bbox")
    )
  except _HDF5_ERRORS as error:
    raise ValueError(f"{cannot}: {error}") from error
  if len(names) != len(groups):
    raise ValueError(f"{cannot}: {len(names)} names, {len(groups)} boxes")
  for index, (name_of, group) in enumerate(zip(names, groups, strict=True)):
    name = f"entry {index + 1}"
    try:
      name = _text(h5py, file, name_of)
      table = _table(h5py, file, group)
    except _HDF5_ERRORS:
      notes.add("left out, not of the format in digitStruct.mat", name)
      continue
    if name in numbers:
      raise ValueError(f"{cannot}, at {name!r}: a second entry of that name")
    labels = table[:, 4]
    if not np.isin(labels, range(1, 11)).all():
      raise ValueError(
        f"{cannot}, at {name!r}: labels must be 1 to 10, got {labels.tolist()}"
      )
    digits = [int(label) % 10 for label in labels]
    numbers[name] = Number(table[:, :4], digits)
  notes.tell()
  return numbers


def _read(h5py: Any, dataset: Any, most: int) -> np.ndarray:
  """All elements of a low-level dataset, flat."""
  if not isinstance(dataset, h5py.h5d.DatasetID):
    raise ValueError("not a dataset")
  if math.prod(dataset.shape) > most:
    raise ValueError(f"{dataset.shape} elements; accepted: {most}")
  values = np.empty(dataset.shape, dataset.dtype)
  dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
  return values.ravel()


def _text(h5py: Any, file: Any, reference: Any) -> str:
  codes = _read(h5py, h5py.h5r.dereference(reference, file), _MOST_ELEMENTS)
  if codes.dtype.kind != "u":
    raise ValueError(f"a name of {codes.dtype}")
  return codes.astype("<u2").tobytes().decode("utf-16-le")


def _table(h5py: Any, file: Any, reference: Any) -> np.ndarray:
  """The boxes and labels of one photograph, `[digits, 5]`."""
  group = h5py.h5r.dereference(reference, file)
  columns = []
  for field in _FIELDS:
    values = _read(h5py, h5py.h5d.open(group, field), _MOST_ELEMENTS)
    if values.dtype == object:  # one digit is in place, several are elsewhere
      parts = [
        _read(h5py, h5py.h5r.dereference(value, file), 1) for value in values
      ]
      values = np.concatenate(parts)
    elif len(values) > 1:
      raise ValueError(f"{len(values)} digits in place")
    if values.dtype.kind not in "fiu":
      raise ValueError(f"numbers of {values.dtype}")
    columns.append(values)
  return np.array(columns, np.float64).T


def _examples(path: pathlib.Path, numbers: dict[str, Number]) -> Iterator:
  notes = Notes(str(path))
  left, empty, structs = dict(numbers), True, 0
  largest = {".png": _LARGEST_PNG, _STRUCT: 0}
  for name, content, unreadable in _members(path, largest):
    if name.endswith(_STRUCT):
      structs += 1
      continue
    number = left.pop(name, None)
    if number is None:
      why = "given twice" if name in numbers else "not in digitStruct.mat"
      notes.add(f"left out, {why}", name)
    elif content is None:
      notes.add(f"left out, {unreadable}", name)
    elif len(number.digits) > MAX_DIGITS:
      notes.add(f"left out, of more than {MAX_DIGITS} digits", name)
    elif image := _try_crop(content, number.boxes, name, notes):
      blanks = [BLANK] * (MAX_DIGITS - len(number.digits))
      empty = False
      label = np.array(number.digits + blanks, np.int64)
      yield name, {"image": image, "label": label}
  for name in left:
    notes.add("left out, in digitStruct.mat without PNG", name)
  if structs > 1:
    notes.add("left out, after the first of that name", _STRUCT)
  notes.tell()
  if empty:
    raise ValueError(f"{path} holds no number that can be used")


def _try_crop(
  content: bytes, boxes: np.ndarray, name: str, notes: Notes
) -> bytes | None:
  """The crop as PNG, or a note on why there is none."""
  try:
    with images.open_image(io.BytesIO(content), "PNG") as image:
      photo = image.convert("RGB")
  except images.ImageError as error:
    notes.add(f"left out, {error}", name)
    return None
  box = crop_box(boxes, photo.width, photo.height)
  if box is None:
    notes.add("left out, box without area or outside the image", name)
    return None
  crop = photo.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
  return images.png(np.asarray(crop))


def crop_box(
  boxes: np.ndarray, width: int, height: int
) -> tuple[int, int, int, int] | None:
  """The crop of a number: the union of its boxes, grown and clipped.

  Args:
    boxes: `[digits, 4]`, left, top, width and height, in pixels from 0.
    width: of the image.
    height: of the image.

  Returns:
    left, top, right and bottom, whole pixels inside the image; None where the
    union has no area there, or a box is not one.
  """
  # Neither NaN nor infinite; a size may be 0 among others.
  if not len(boxes) or not (np.abs(boxes) < _FAR).all():
    return None
  if (boxes[:, 2:] < 0).any():
    return None
  size = np.array([width, height])
  start, end = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
  inside = np.minimum(end, size) - np.maximum(start, 0)
  if not (inside > 0).all():
    return None
  margin = (end - start) * GROWTH / 2
  left, top = np.maximum(np.floor(start - margin), 0).astype(int)
  right, bottom = np.minimum(np.ceil(end + margin), size).astype(int)
  return int(left), int(top), int(right), int(bottom)
