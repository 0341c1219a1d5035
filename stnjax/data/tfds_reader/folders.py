"""Finding the folder of a prepared set, and checking its descriptions."""

from collections.abc import Iterator
import contextlib
import io
import json
import os
import pathlib
import re
import sys

from etils import epath
import tensorflow_datasets as tfds

from stnjax import files
from stnjax.data.dataset import DATASETS, Dataset
from stnjax.data.prepared import Prepared
from stnjax.data.tfds_builders import writing
from stnjax.data.tfds_reader import examples, records

EMBEDDED = pathlib.Path(__file__).parent.parent / "embedded"
"""TFDS directory of the sets that this package brings."""

_INFO = "dataset_info.json"
_FEATURES = "features.json"


def root(data_dir: str | os.PathLike[str] | None) -> epath.Path:
  """The TFDS directory of an argument `data_dir`.

  Args:
    data_dir: Local path or `gs://`; TFDS's default if None.

  Raises:
    ValueError: For other addresses, or an empty one.
    NotADirectoryError: For a file.
  """
  if data_dir is None:
    return epath.Path(tfds.core.constants.DATA_DIR).expanduser()
  path = files.place("data_dir", os.fspath(data_dir))
  if path.exists() and not path.is_dir():
    raise NotADirectoryError(
      f"data_dir={os.fspath(data_dir)!r} is a file; accepted: a folder that"
      " holds <dataset>/<version>"
    )
  return path


def find(
  prepared: Prepared, data_dir: str | None, *, generate: bool = True
) -> epath.Path | None:
  """The folder of a set, which is generated first if it is one of those.

  Args:
    prepared: Description of the set.
    data_dir: See `root`; an embedded set needs none.
    generate: Whether to generate a set that is not there yet.

  Returns:
    The folder; None for a set that is yet to be generated.

  Raises:
    FileNotFoundError: If the set is not prepared; the message explains how to
      get it.
    OSError: If a set cannot be generated there.
    records.DamagedError: If files of its description are missing.
  """
  if data_dir is None and prepared.embedded:
    data_root = epath.Path(EMBEDDED)
  else:
    data_root = root(data_dir)
    if prepared.generated:
      return _generated(prepared, data_root, generate)
  parent = data_root / (prepared.folder or prepared.name)
  versions = [
    tfds.core.Version(entry.name)
    for entry in (parent.iterdir() if parent.is_dir() else ())
    if tfds.core.Version.is_valid(entry.name)
    and entry.name == (prepared.version or entry.name)
  ]
  if not versions:
    raise FileNotFoundError(_missing(prepared, data_root))
  return check_whole(parent / str(max(versions)))


def _missing(prepared: Prepared, data_root: epath.Path) -> str:
  """Says that a set is not prepared, and how to get it."""
  if prepared.embedded:
    advice = "leave out data_dir to use the embedded copy"
  else:
    advice = "point data_dir at a TFDS directory that has it, or prepare it"
    options = f" --data_dir={data_root}"
    name = prepared.name
    if prepared.manual_dir:
      options = f" --manual_dir=<{prepared.manual_dir}>{options}"
    else:
      advice += " (which needs pip install 'stnjax[prepare]')"
      if prepared.folder not in ("", name) or name not in DATASETS:
        name = f"tfds:{prepared.folder or name}"
    advice += f": python -m stnjax.data prepare --dataset={name}{options}"
  others = sorted(
    {
      dataset.name
      for dataset in DATASETS.values()
      if isinstance(dataset, Dataset) and not dataset.needs_files(None)
    }
  )
  if others:
    advice += f"; {', '.join(others)} can be read without"
  return f"dataset {prepared.name!r} is not prepared in {data_root}: {advice}"


def check_whole(folder: epath.Path) -> epath.Path:
  """Returns the folder of a version, or raises if it was not finished."""
  if not (folder / _INFO).exists():
    raise records.DamagedError(f"{folder / _INFO} is missing")
  return folder


def _generated(
  prepared: Prepared, data_root: epath.Path, generate: bool
) -> epath.Path | None:
  """The folder of a set that is generated where it is not there."""
  assert prepared.builder is not None, "generated sets have one"
  name, builder_class = prepared.name, prepared.builder()
  folder = data_root / name / str(builder_class.VERSION)
  if folder.is_dir() and any(folder.iterdir()):
    return check_whole(folder)
  if not generate:
    return None
  print(f"generating the dataset {name}, once, in {folder}", file=sys.stderr)
  try:
    writing.prepare(
      builder_class(data_dir=data_root, file_format="array_record")
    )
  except OSError as error:
    # Another process may have been faster.
    if not (folder / _INFO).exists():
      if isinstance(error, writing.UnwritableError):
        raise
      raise OSError(
        f"the dataset {name} cannot be written to {data_root} ({error});"
        " point data_dir at a folder that can be written to"
      ) from error
  return folder


def restore(prepared: Prepared, folder: epath.Path) -> tfds.core.DatasetBuilder:
  """Reads the descriptions of a prepared set, and compares them with ours.

  Args:
    prepared: Description of the set.
    folder: Folder of the version.

  Raises:
    records.DamagedError: If they are missing, damaged, or of another set.
  """
  builder = restore_any(prepared.name, folder)
  try:
    examples.check_features(builder.info.features, prepared)
  except ValueError as error:
    raise records.DamagedError(f"{folder / _FEATURES}: {error}") from error
  return builder


def restore_any(name: str, folder: epath.Path) -> tfds.core.DatasetBuilder:
  """Reads the descriptions of a prepared set of any features.

  Args:
    name: Name of the TFDS builder.
    folder: Folder of the version.

  Raises:
    records.DamagedError: If they are missing, damaged, or of another set.
  """
  info, features = folder / _INFO, folder / _FEATURES
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
def advice(prepared: Prepared, data_dir: str | None) -> Iterator[None]:
  """Adds a remedy to the error of a damaged set that is read in the body."""
  try:
    yield
  except records.DamagedError as error:
    what = "remove its folder, and copy or prepare the set again"
    if prepared.generated:
      what = "remove its folder, and the set is generated again"
    elif prepared.embedded and data_dir is None:
      what = "install stnjax again"
    raise records.DamagedError(f"{error}; {what}") from error
