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

from stnjax.datasets import BLANK, preparing

HOMEPAGE = "http://ufldl.stanford.edu/housenumbers"
SPLITS = ("train", "extra", "test")
SIZE = 64
"""Height and width of the crops."""
MAX_DIGITS = 5
"""Longer numbers are left out."""
GROWTH = 0.3
"""By how much the box around the digits is wider, and higher, in the crop."""

_SHARD = 25_000  # examples in a file, and encoded in memory while it is written
_FIELDS = (b"left", b"top", b"width", b"height", b"label")


class Svhn(tfds.core.ShardBasedBuilder):
  """SVHN in its original format: photographs of whole house numbers.

  An example is the union of the boxes of the digits, grown by 30 % in width and
  in height about its centre (15 % on each side), rounded outwards to whole
  pixels, clipped to the photograph and resized to 64x64 (bilinear); its label
  is the digits, padded with `BLANK` to five.

  Left out and named are numbers of more than five digits, or of none; those
  whose box is outside the photograph or has no area; PNGs that are broken, or
  of which digitStruct.mat knows nothing, and entries of it without PNG. A
  damaged archive, or one of unknown labels, is refused.
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
    folder = dl_manager.manual_dir
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
  """What to call, in turn, for the examples of each file to be written."""
  print(f"reading digitStruct.mat of {path}", file=sys.stderr)
  numbers = read_digit_struct(_find_digit_struct(path), str(path))
  print(f"cropping {len(numbers)} numbers of {path}", file=sys.stderr)
  # All shards read on in one stream; the last one reads to its end.
  examples = _examples(path, numbers)
  full = max(0, math.ceil(len(numbers) / _SHARD) - 1)
  part = functools.partial(itertools.islice, examples, _SHARD)
  return [part] * full + [lambda: examples]


def _find_digit_struct(path: pathlib.Path) -> bytes:
  for name, content in _members(path, "digitStruct.mat"):
    if name == "digitStruct.mat":
      return content
  raise ValueError(
    f"{path} holds no digitStruct.mat: it is not an archive of format 1, which"
    f" is at {HOMEPAGE}"
  )


def _members(path: pathlib.Path, suffix: str) -> Iterator[tuple[str, bytes]]:
  """Streams names, without folders, and contents of what ends in `suffix`."""
  try:
    with (
      path.open("rb") as file,
      gzip.open(file) as stream,
      tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
      for member in archive:
        name = pathlib.PurePosixPath(member.name).name
        # macOS adds files "._1.png" of its own.
        if member.isfile() and name.endswith(suffix) and name[:2] != "._":
          yield name, archive.extractfile(member).read()
      while stream.read(2**20):  # the checksum is compared at the end
        pass
  except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
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
    ValueError: where it is not of that structure, or has labels other than 1 to
      10.
    ImportError: without h5py.
  """
  try:
    import h5py
  except ImportError as error:
    raise ImportError("preparing svhn needs h5py: pip install h5py") from error
  name = "no entry yet"
  numbers: dict[str, Number] = {}
  try:
    # Low-level calls and references read at once are four times as fast.
    file = h5py.h5f.open_file_image(content)
    names = _read(h5py, h5py.h5d.open(file, b"/digitStruct/name"))
    groups = _read(h5py, h5py.h5d.open(file, b"/digitStruct/bbox"))
    for name_of, group in zip(names, groups, strict=True):
      text = _read(h5py, h5py.h5r.dereference(name_of, file))
      name = text.astype("<u2").tobytes().decode("utf-16-le")
      if name in numbers:
        raise ValueError("a second entry of that name")
      numbers[name] = _number(h5py, file, group)
  except (ValueError, KeyError, OSError, RuntimeError, TypeError) as error:
    raise ValueError(
      f"digitStruct.mat of {source} cannot be read, at {name!r}: {error}"
    ) from error
  return numbers


def _read(h5py: Any, dataset: Any) -> np.ndarray:
  """All elements of a low-level dataset, flat."""
  values = np.empty(dataset.shape, dataset.dtype)
  dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
  return values.ravel()


def _number(h5py: Any, file: Any, reference: Any) -> Number:
  group = h5py.h5r.dereference(reference, file)
  columns = []
  for field in _FIELDS:
    values = _read(h5py, h5py.h5d.open(group, field))
    if values.dtype == object:  # one digit is in place, several are elsewhere
      parts = [_read(h5py, h5py.h5r.dereference(v, file)) for v in values]
      values = np.concatenate(parts)
    columns.append(values)
  table = np.array(columns, np.float64).T
  labels = table[:, 4]
  if not np.isin(labels, range(1, 11)).all():
    raise ValueError(f"labels must be 1 to 10, got {labels.tolist()}")
  return Number(table[:, :4], [int(label) % 10 for label in labels])


def _examples(path: pathlib.Path, numbers: dict[str, Number]) -> Iterator:
  found = preparing.Notes(str(path))
  left, empty = dict(numbers), True
  for name, content in _members(path, ".png"):
    number = left.pop(name, None)
    if number is None:
      why = "given twice" if name in numbers else "not in digitStruct.mat"
      found.add(f"left out, {why}", name)
    elif len(number.digits) > MAX_DIGITS:
      found.add(f"left out, of more than {MAX_DIGITS} digits", name)
    elif image := _try_crop(content, number.boxes, name, found):
      blanks = [BLANK] * (MAX_DIGITS - len(number.digits))
      empty = False
      label = np.array(number.digits + blanks, np.int64)
      yield name, {"image": image, "label": label}
  for name in left:
    found.add("left out, in digitStruct.mat without PNG", name)
  found.tell()
  if empty:
    raise ValueError(f"{path} holds no number that can be used")


def _try_crop(
  content: bytes, boxes: np.ndarray, name: str, found: preparing.Notes
) -> bytes | None:
  """The crop as PNG, or a note on why there is none."""
  try:
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
      photo = image.convert("RGB")
  except (OSError, SyntaxError, ValueError):
    found.add("left out, broken PNG", name)
    return None
  box = crop_box(boxes, photo.width, photo.height)
  if box is None:
    found.add("left out, box without area or outside the image", name)
    return None
  crop = photo.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
  return preparing.png(np.asarray(crop))


def crop_box(
  boxes: np.ndarray, width: int, height: int
) -> tuple[int, int, int, int] | None:
  """What to crop for a number: the union of its boxes, grown and clipped.

  Args:
    boxes: `[digits, 4]`, left, top, width and height, in pixels from 0.
    width: of the image.
    height: of the image.

  Returns:
    left, top, right and bottom, whole pixels inside the image; None where the
    union has no area there.
  """
  if not len(boxes):
    return None
  size = np.array([width, height])
  start, end = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
  inside = np.minimum(end, size) - np.maximum(start, 0)
  if not (inside > 0).all():  # nor NaN
    return None
  margin = (end - start) * GROWTH / 2
  left, top = np.maximum(np.floor(start - margin), 0).astype(int)
  right, bottom = np.minimum(np.ceil(end + margin), size).astype(int)
  return int(left), int(top), int(right), int(bottom)
