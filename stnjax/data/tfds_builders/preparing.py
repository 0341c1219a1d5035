"""Preparing a described data set on request."""

import importlib.util
import os
import pathlib

from etils import epath
import tensorflow_datasets as tfds

from stnjax.data.prepared import Prepared
from stnjax.data.tfds_builders import writing
from stnjax.data.tfds_reader import folders


def prepare(
  prepared: Prepared, data_dir: str | None, manual_dir: str | None
) -> str:
  """Prepares a set, see `Prepared.prepare`."""
  root = folders.root(data_dir)
  if prepared.builder is None:
    builder = _of_tfds(prepared, root)
  else:
    builder_class = prepared.builder()
    if builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS:
      instructions = builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS
      manual_dir = _manual_dir(prepared.name, manual_dir, instructions)
    builder = builder_class(data_dir=root, file_format="array_record")
  folder = epath.Path(builder.data_path)
  kept = folder.is_dir() and any(folder.iterdir())
  if not kept and prepared.builder is None:
    builder.download_and_prepare()
  elif not kept:
    writing.prepare(builder, manual_dir)
  with folders.advice(prepared, str(root)):
    restored = folders.restore_any(prepared.name, folder)
    for split in restored.info.splits:
      folders.shards(restored, split)
  splits = ", ".join(
    f"{info.num_examples:,} {split}"
    for split, info in restored.info.splits.items()
  )
  was = "was there already" if kept else "prepared"
  return f"{prepared.name} {was} in {folder}: {splits}"


def _of_tfds(prepared: Prepared, root: epath.Path) -> tfds.core.DatasetBuilder:
  """TFDS's own builder of a set, which needs TensorFlow to prepare it.

  Raises:
    ImportError: Without TensorFlow.
    ValueError: If TFDS has no such set.
  """
  if importlib.util.find_spec("tensorflow") is None:
    raise ImportError(
      f"preparing dataset {prepared.name!r} needs tensorflow: pip install"
      " 'stnjax[prepare]'"
    )
  name = prepared.folder or prepared.name
  if prepared.version:
    name += f":{prepared.version}"
  try:
    return tfds.builder(name, data_dir=root, file_format="array_record")
  except tfds.core.DatasetNotFoundError:
    raise ValueError(
      f"TFDS has no builder {name!r}; see tensorflow_datasets.list_builders()"
    ) from None


def _manual_dir(name: str, given: str | None, instructions: str) -> str:
  """The folder to prepare a set from.

  Raises:
    ValueError: If it is not given, or empty.
    FileNotFoundError: For a folder that is not there, or is empty.
  """
  if not (given or "").strip():
    raise ValueError(
      f"dataset {name!r} needs manual_dir (--manual_dir=...): {instructions}"
    )
  folder = pathlib.Path(os.path.expanduser(given))
  if not folder.is_dir() or not any(folder.iterdir()):
    raise FileNotFoundError(
      f"manual_dir={given!r} is not a folder, or is empty: {instructions}"
    )
  return str(folder)
