"""Folders of pictures by class: `<data_dir>/train/<class>/*.png`.

The test pictures are those of `<data_dir>/test/<class>`. Without that folder,
a tenth of the training pictures is held out. Without train/ and test/, the
folders in `data_dir` are the classes.

PNG and JPEG are read. All pictures are grey if all files are, else RGB; see
`images.pixels` for transparency, palettes, 16 bits and EXIF orientation. With
an image size they are resized as `images.fit` has it: whole, on black.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import contextlib
import dataclasses
import functools
import os
from typing import Any, NamedTuple, TypeVar
import unicodedata

from etils import epath
import numpy as np

from stnjax import extras, files
from stnjax.data import images, splitting
from stnjax.data.dataset import Dataset, Examples
from stnjax.data.notes import Notes, announce, listed

_SUFFIXES = (".png", ".jpg", ".jpeg")
_LAYOUT = "<data_dir>/train/<class>/*.png, *.jpg or *.jpeg; the same in test/"
_THREADS = 8  # Pillow decodes outside the lock of Python
_CHUNK = 10_000  # pictures

_Input = TypeVar("_Input")
_Output = TypeVar("_Output")


class _Picture(NamedTuple):
  path: epath.Path
  name: str  # <class>/<file>, in Unicode's normal form C
  class_name: str


class _Header(NamedTuple):
  size: tuple[int, int]  # (H, W), upright
  grey: bool


@dataclasses.dataclass(frozen=True, repr=False)  # of thousands of pictures
class _Folder:
  """The pictures of a folder by split, and their common properties."""

  root: epath.Path
  splits: dict[str, list[_Picture]]
  class_names: tuple[str, ...]
  image_shape: tuple[int, int, int]
  image_size: int | None

  def check(self, split: str, data_dir: str | None) -> None:
    """Raises for another split, or another folder than the described one."""
    if split not in self.splits:
      raise ValueError(
        f"split={split!r} is unknown for dataset 'folder'; accepted: train,"
        " test"
      )
    if data_dir is not None and files.place("data_dir", data_dir) != self.root:
      raise ValueError(
        f"data_dir={os.fspath(data_dir)!r} is not the folder that was described"
        f" ({self.root}); find the dataset 'folder' again"
      )

  def read(self, split: str, data_dir: str | None) -> Examples:
    """Decodes the pictures of a split."""
    self.check(split, data_dir)
    pictures = self.splits[split]
    try:
      array = np.empty((len(pictures), *self.image_shape), np.uint8)
    except MemoryError as error:
      raise ValueError(
        f"{len(pictures):,} pictures of {self.root} of shape {self.image_shape}"
        " do not fit into memory; give a smaller image_size"
      ) from error

    def decode(index: int) -> None:
      path = pictures[index].path
      with _opened(path) as image:
        pixels = images.pixels(image, self.image_shape[-1])
      if self.image_size is not None:
        pixels = images.fit(pixels, self.image_size)
      if pixels.shape != self.image_shape:
        raise images.ImageError(f"of shape {pixels.shape}, which has changed")
      array[index] = pixels

    _each(decode, range(len(pictures)), [p.path for p in pictures])
    index_of = {name: index for index, name in enumerate(self.class_names)}
    labels = [index_of[picture.class_name] for picture in pictures]
    return Examples(array, np.array(labels, np.int32))

  def count(self, split: str, data_dir: str | None) -> int:
    """Counts the pictures of a split."""
    self.check(split, data_dir)
    return len(self.splits[split])


def describe(data_dir: str | None, image_size: int | None) -> Dataset:
  """Describes a folder of pictures by class, see `stnjax.data.find`.

  Args:
    data_dir: Folder, local or `gs://`.
    image_size: Height and width in pixels that pictures are resized to; None
      if all have one size.

  Returns:
    The data set "folder", with splits "train" and "test".

  Raises:
    ValueError: If data_dir is missing, there are fewer than two classes, a
      class without pictures or one that only test has, pictures that cannot be
      decoded, or pictures of several sizes without image_size.
    FileNotFoundError: If there is no such folder.
  """
  extras.needs("PIL", extra="experiments")
  if data_dir is None:
    raise ValueError(
      f"dataset 'folder' needs data_dir (--data_dir=...), with {_LAYOUT}"
    )
  root = files.place("data_dir", data_dir)
  if not root.is_dir():
    raise FileNotFoundError(
      f"data_dir={os.fspath(data_dir)!r} is not a folder; dataset 'folder'"
      f" needs {_LAYOUT}"
    )
  splits = _splits(root)
  class_names = _class_names(root, splits)
  if "test" not in splits:
    splits = _with_held_out(root, splits["train"])
  everything = [p.path for pictures in splits.values() for p in pictures]
  headers = _each(_header, everything, everything)
  folder = _Folder(
    root,
    splits,
    class_names,
    _image_shape(root, everything, headers, image_size),
    image_size,
  )
  return Dataset(
    name="folder",
    image_shape=folder.image_shape,
    num_classes=len(class_names),
    class_names=class_names,
    read=folder.read,
    count=folder.count,
    title=f"pictures ({root.name})",
    origin=f"pictures in {root}",
    needs_files=lambda data_dir: True,
  )


def _splits(root: epath.Path) -> dict[str, list[_Picture]]:
  """The pictures of each split that has a folder."""
  notes = Notes(f"dataset 'folder', {root}")
  entries = {entry.name: entry for entry in _visible(root)}
  folders = {name for name, entry in entries.items() if entry.is_dir()}
  if "train" in folders:
    used = [name for name in ("train", "test") if name in folders]
    splits = {name: _pictures(entries[name], notes) for name in used}
    for name in entries:
      if name not in splits:
        notes.add("left out, neither train/ nor test/", name)
  elif "test" in folders:
    raise ValueError(f"{root} has test/, but no train/; accepted: {_LAYOUT}")
  else:
    splits = {"train": _pictures(root, notes)}
  notes.tell(once=True)
  return splits


def _visible(folder: epath.Path) -> list[epath.Path]:
  """Content of a folder, without hidden files, sorted on every system."""
  entries = [e for e in folder.iterdir() if not e.name.startswith(".")]
  return sorted(entries, key=lambda e: (_normal(e.name), e.name))


def _normal(name: str) -> str:
  """A file's name in one form; macOS takes accents apart."""
  return unicodedata.normalize("NFC", name)


def _pictures(folder: epath.Path, notes: Notes) -> list[_Picture]:
  """The pictures of all classes in a folder, by class and name."""
  pictures: list[_Picture] = []
  empty, classes = [], []
  for entry in _visible(folder):
    class_name = _normal(entry.name)
    if not entry.is_dir():
      notes.add("left out, in no folder of a class", class_name)
      continue
    if class_name in classes:
      raise ValueError(
        f"{folder} has two folders of the name {class_name!r}, in two forms of"
        " Unicode; accepted: one for each class"
      )
    classes.append(class_name)
    count = len(pictures)
    for path in _visible(entry):
      name = f"{class_name}/{_normal(path.name)}"
      if path.is_dir() or not path.name.lower().endswith(_SUFFIXES):
        notes.add("left out, neither PNG nor JPEG", name)
      else:
        pictures.append(_Picture(path, name, class_name))
    if len(pictures) == count:
      empty.append(str(entry))
  if empty and pictures:
    raise ValueError(
      f"no PNG or JPEG in {listed(empty)}; remove the folder, or add some"
    )
  if not pictures:
    raise ValueError(
      f"{folder} holds no folders of pictures, one for each class; accepted:"
      f" {_LAYOUT}"
    )
  return pictures


def _class_names(
  root: epath.Path, splits: dict[str, list[_Picture]]
) -> tuple[str, ...]:
  """The classes of train, which must be those of test, too."""
  of_split = {
    split: {picture.class_name for picture in pictures}
    for split, pictures in splits.items()
  }
  unknown = sorted(of_split.get("test", set()) - of_split["train"])
  if unknown:
    raise ValueError(
      f"{root / 'test'} has classes that train/ lacks: {listed(unknown)}"
    )
  if len(of_split["train"]) < 2:
    raise ValueError(
      f"{root} has pictures of one class, {listed(of_split['train'])};"
      " accepted: at least two"
    )
  return tuple(sorted(of_split["train"]))


def _with_held_out(
  root: epath.Path, pictures: list[_Picture]
) -> dict[str, list[_Picture]]:
  """Splits off a share for testing, and announces it."""
  chosen = splitting.held_out(
    np.array([picture.class_name for picture in pictures]),
    [picture.name for picture in pictures],
  )
  announce(
    f"dataset 'folder': {root} has no test/, so {chosen.sum():,} of"
    f" {len(chosen):,} pictures are held out for testing"
  )
  return {
    split: [p for p, held in zip(pictures, chosen, strict=True) if held == test]
    for split, test in (("train", False), ("test", True))
  }


def _image_shape(
  root: epath.Path,
  paths: Sequence[epath.Path],
  headers: Sequence[_Header],
  image_size: int | None,
) -> tuple[int, int, int]:
  """The shape that all pictures have, or are given."""
  channels = 1 if all(header.grey for header in headers) else 3
  if image_size is not None:
    return image_size, image_size, channels
  sizes: dict[tuple[int, int], epath.Path] = {}
  for path, header in zip(paths, headers, strict=True):
    sizes.setdefault(header.size, path)
  if len(sizes) > 1:
    (one, first), (other, second), *_ = sizes.items()
    raise ValueError(
      f"{root} has pictures of {len(sizes)} sizes, such as"
      f" {one[0]}x{one[1]} ({first}) and {other[0]}x{other[1]} ({second}); give"
      " image_size (--image_size=64) to resize them"
    )
  return (*headers[0].size, channels)


@contextlib.contextmanager
def _opened(path: epath.Path) -> Iterator[Any]:
  """Opens a picture by its contents, whatever its suffix is."""
  with path.open("rb") as file:
    kind = images.kind_of(file.read(2))
    file.seek(0)
    with images.open_image(file, kind, sixteen_bits=True) as image:
      yield image


def _header(path: epath.Path) -> _Header:
  stat = path.stat()
  return _read_header(path, stat.mtime, stat.length)


@functools.lru_cache(maxsize=2**20)
def _read_header(path: epath.Path, mtime: int, length: int) -> _Header:
  """Size and colour of a file, read once while it stays as it is."""
  del mtime, length
  with _opened(path) as image:
    return _Header(images.upright_size(image), images.is_grey(image))


def _each(
  function: Callable[[_Input], _Output],
  values: Sequence[_Input],
  paths: Sequence[epath.Path],
) -> list[_Output]:
  """Maps in threads; the files that cannot be used are named together.

  Raises:
    ValueError: If any cannot.
  """

  def attempt(value: _Input) -> _Output | Exception:
    try:
      return function(value)
    except (images.ImageError, OSError) as error:
      return error

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    results: list[_Output | Exception] = []
    for start in range(0, len(values), _CHUNK):  # a future for each costs 1 kB
      results += pool.map(attempt, values[start : start + _CHUNK])
  reasons = [
    f"{path} ({getattr(result, 'strerror', None) or result})"
    for path, result in zip(paths, results, strict=True)
    if isinstance(result, Exception)
  ]
  if reasons:
    raise ValueError(
      f"{len(reasons)} of {len(results)} pictures cannot be used; repair or"
      f" remove them: {listed(reasons)}"
    )
  return [result for result in results if not isinstance(result, Exception)]
