"""Writing TFDS directories, with errors that name the folder."""

import contextlib
import errno
import io
import os
import pathlib
import sys
import tempfile

import tensorflow_datasets as tfds

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class UnwritableError(OSError):
  """A set cannot be written; the message names its folder."""


def prepare(
  builder: tfds.core.DatasetBuilder, manual_dir: str | None = None
) -> None:
  """Prepares a set that needs no download, unless its version is there.

  Args:
    builder: Builder of the set.
    manual_dir: Folder that the set is made from, where it needs one.

  Raises:
    UnwritableError: If the disk is full, or the folder cannot be written to.
  """
  folder = builder.data_path
  # TFDS removes its folder unless it is killed.
  for rest in sorted(folder.parent.glob(f"incomplete.*_{folder.name}")):
    print(
      f"{rest} is left from a preparation that was killed; unless one is"
      " running now, remove it",
      file=sys.stderr,
    )
  config = tfds.download.DownloadConfig(
    manual_dir=manual_dir, try_download_gcs=False
  )
  try:
    with (
      # TFDS makes folders for downloads, which would be left in data_dir.
      tempfile.TemporaryDirectory() as downloads,
      # It tells stdout of a download.
      contextlib.redirect_stdout(io.StringIO()),
    ):
      folder.parent.mkdir(parents=True, exist_ok=True)
      builder.download_and_prepare(
        download_dir=downloads, download_config=config
      )
  except (OSError, RuntimeError) as error:
    # The writer of array_record raises RuntimeError.
    if isinstance(error, OSError) and not _is_of(folder, error):
      raise
    why = " ".join(str(error).split())
    raise UnwritableError(
      f"{folder} cannot be written ({why}); make room there, or choose another"
      " data_dir"
    ) from error


def _is_of(folder: pathlib.PurePath, error: OSError) -> bool:
  """Whether an error is of writing a set, not of reading what it is made of."""
  if error.errno in _FULL:
    return True
  if error.filename is None:
    return False
  named = pathlib.Path(os.fsdecode(error.filename))
  return folder.is_relative_to(named) or named.is_relative_to(folder.parent)
