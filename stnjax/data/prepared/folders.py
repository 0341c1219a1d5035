"""Finding the folder of a prepared set, and checking its descriptions."""

from collections.abc import Iterator
import contextlib
import importlib
import io
import json
import os
import pathlib
import re
import sys

from etils import epath
import tensorflow_datasets as tfds

from stnjax import files
from stnjax.data import SETS
from stnjax.data.prepared import builders, examples, records

EMBEDDED = pathlib.Path(__file__).parent.parent / "embedded"
"""TFDS directory of the sets that this package brings."""

_INFO = "dataset_info.json"

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


def root(data_dir: str | os.PathLike | None) -> epath.Path:
  """The TFDS directory of an argument `data_dir`.

  Args:
    data_dir: Local path or `gs://`; TFDS's default if None.

  Raises:
    ValueError: For other addresses, or an empty one.
    NotADirectoryError: For a file.
  """
  if data_dir is None:
    return epath.Path(tfds.core.constants.DATA_DIR).expanduser()
  path = files.place("data_dir", data_dir)
  if path.exists() and not path.is_dir():
    raise NotADirectoryError(
      f"data_dir={os.fspath(data_dir)!r} is a file; accepted: a folder that"
      " holds <dataset>/<version>"
    )
  return path


def find(
  name: str, data_dir: str | None, *, generate: bool = True
) -> epath.Path | None:
  """The folder of a set, which is generated first if it is one of those.

  Args:
    name: One of `stnjax.data.SETS`.
    data_dir: See `root`; an embedded set needs none.
    generate: Whether to generate a set that is not there yet.

  Returns:
    The folder; None for a set that is yet to be generated.

  Raises:
    FileNotFoundError: If the set is not prepared; the message says how to get
      it.
    OSError: If a set cannot be generated there.
    records.DamagedError: If files of its description are missing.
  """
  if data_dir is None and (EMBEDDED / name).exists():
    return _prepared(name, epath.Path(EMBEDDED))
  place = root(data_dir)
  if name in _GENERATED:
    return _generated(name, place, generate)
  return _prepared(name, place)


def needs_preparing(name: str, data_dir: str | None) -> bool:
  """Whether a set must lie in `data_dir`: it is neither brought nor drawn."""
  embedded = data_dir is None and (EMBEDDED / name).exists()
  return name not in _GENERATED and not embedded


def _prepared(name: str, place: epath.Path) -> epath.Path:
  """The folder of the newest prepared version of a set."""
  folder = place / name
  versions = [
    tfds.core.Version(entry.name)
    for entry in (folder.iterdir() if folder.is_dir() else ())
    if tfds.core.Version.is_valid(entry.name)
  ]
  if versions:
    return check_whole(folder / str(max(versions)))
  advice = "point data_dir at a TFDS directory that has it, or prepare it once:"
  if (EMBEDDED / name).exists():
    advice = "leave out data_dir to use the embedded copy"
  elif name in _MANUAL:
    advice += (
      f" python -m experiments.prepare_data --dataset={name}"
      f" --manual_dir=<{_MANUAL[name]}> --data_dir={place}"
    )
  else:
    advice += (
      " pip install 'stnjax[prepare]', then python -c \"import"
      f" tensorflow_datasets as tfds; tfds.builder('{name}',"
      f" data_dir='{place}', file_format='array_record')"
      '.download_and_prepare()"'
    )
  raise FileNotFoundError(
    f"dataset {name!r} is not prepared in {place}: {advice}; the datasets"
    f" mnist_subset, {', '.join(_GENERATED)} need no download"
  )


def check_whole(folder: epath.Path) -> epath.Path:
  """Returns the folder of a version, or raises if it was not finished."""
  if not (folder / _INFO).exists():
    raise records.DamagedError(f"{folder / _INFO} is missing")
  return folder


def _generated(
  name: str, place: epath.Path, generate: bool
) -> epath.Path | None:
  """The folder of a set that is generated where it is not there."""
  module = importlib.import_module(f"stnjax.data.{name}")
  builder_class = getattr(module, _GENERATED[name])
  folder = place / name / str(builder_class.VERSION)
  if folder.is_dir() and any(folder.iterdir()):
    return check_whole(folder)
  if not generate:
    return None
  print(f"generating the dataset {name}, once, in {folder}", file=sys.stderr)
  try:
    builders.prepare(builder_class(data_dir=place, file_format="array_record"))
  except OSError as error:
    # Another process may have been faster.
    if not (folder / _INFO).exists():
      if isinstance(error, builders.UnwritableError):
        raise
      raise OSError(
        f"the dataset {name} cannot be written to {place} ({error});"
        " point data_dir at a folder that can be written to"
      ) from error
  return folder


def restore(name: str, folder: epath.Path) -> tfds.core.DatasetBuilder:
  """Reads and checks the descriptions of a prepared set.

  Args:
    name: One of `stnjax.data.SETS`.
    folder: Of the version.

  Raises:
    records.DamagedError: If they are missing, damaged, or of another set.
  """
  info, features = folder / _INFO, folder / "features.json"
  for path in (info, features):
    try:
      json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
      what = "cannot be read" if path.exists() else "is missing"
      why = records.reason(error)
      raise records.DamagedError(f"{path} {what} ({why})") from error
  with _restoring(features):
    tfds.features.FeatureConnector.from_config(os.fspath(folder))
  with _restoring(info):
    builder = tfds.builder_from_directory(folder)
    file_format = builder.info.file_format
  if builder.name != name:
    raise records.DamagedError(f"{info} is of dataset {builder.name!r}")
  if file_format not in records.ACCEPTED:
    accepted = ", ".join(each.value for each in records.ACCEPTED)
    raise records.DamagedError(
      f"{info} names the file format {getattr(file_format, 'value', None)};"
      f" accepted: {accepted}"
    )
  try:
    examples.check_features(builder.info.features, name, SETS[name])
  except ValueError as error:
    raise records.DamagedError(f"{features}: {error}") from error
  return builder


@contextlib.contextmanager
def _restoring(path: epath.Path) -> Iterator[None]:
  """Names the file in errors of TFDS, which documents no kinds."""
  try:
    # Stdout is told of damage that TensorFlow would be needed to read.
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  except Exception as error:
    why = records.reason(error)
    raise records.DamagedError(f"{path} is damaged ({why})") from error


def shards(
  builder: tfds.core.DatasetBuilder, split: str
) -> list[tuple[epath.Path, int]]:
  """The files of a split, each with its number of examples.

  Raises:
    records.DamagedError: If the split is empty, a file is missing, or one is
      there that is not in the description.
  """
  info = epath.Path(builder.data_dir) / _INFO
  try:
    counts = builder.info.splits[split].shard_lengths
    paths = builder.info.splits[split].filepaths
    files = list(zip(paths, counts, strict=True))
  except Exception as error:  # of a template of file names
    raise records.DamagedError(
      f"{info} is damaged at split {split!r} ({records.reason(error)})"
    ) from error
  if min(counts, default=0) < 0 or not sum(counts):
    raise records.DamagedError(
      f"{info} says that split {split!r} has no examples, in files of {counts}"
    )
  for path, count in files:
    records.check(path, count)
  suffix = builder.info.file_format.file_suffix
  pattern = rf"{re.escape(f'{builder.name}-{split}.{suffix}')}-\d+-of-\d+"
  known = {path.name for path in paths}
  for path in sorted(info.parent.iterdir()):
    if re.fullmatch(pattern, path.name) and path.name not in known:
      raise records.DamagedError(f"{path} is not in {info}")
  return files


@contextlib.contextmanager
def advice(name: str, data_dir: str | None) -> Iterator[None]:
  """Says what to do about a set that is found to be damaged in the body."""
  try:
    yield
  except records.DamagedError as error:
    what = "remove its folder, and copy or prepare the set again"
    if name in _GENERATED:
      what = "remove its folder, and the set is generated again"
    elif data_dir is None and (EMBEDDED / name).exists():
      what = "install stnjax again"
    raise records.DamagedError(f"{error}; {what}") from error
