"""What preparing sets has in common."""

import collections
from collections.abc import Iterator
import contextlib
import errno
import io
import os
import pathlib
import sys
import tempfile
from typing import BinaryIO

import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin
import tensorflow_datasets as tfds

MAX_PIXELS = 2**26
"""Larger images are not decoded: none of the sets has any near that size."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_NAMES = 100  # of files in one line
# Of 8 bits a channel or fewer; Pillow would clip others.
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
# Not `Image.open`, which prints a warning of its own where images are large.
_OPENERS = {
  "PNG": PngImagePlugin.PngImageFile,
  "JPEG": JpegImagePlugin.JpegImageFile,
}


class UnwritableError(OSError):
  """A set cannot be written; the message names its folder."""


def prepare(
  builder: tfds.core.DatasetBuilder, manual_dir: str | None = None
) -> None:
  """Prepares a set that needs no download, unless its version is there.

  Args:
    builder: of the set.
    manual_dir: folder of the files that it is made from, where it needs any.

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


def png(image: np.ndarray) -> bytes:
  """Encodes an image `[H, W, 1 or 3]`; TFDS needs TensorFlow for arrays."""
  encoded = io.BytesIO()
  pixels = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(pixels).save(encoded, "PNG")
  return encoded.getvalue()


class ImageError(ValueError):
  """An image cannot be used; the message says why, without its name."""


@contextlib.contextmanager
def open_image(
  file: BinaryIO | pathlib.Path, kind: str
) -> Iterator[Image.Image]:
  """Opens an image, whose pixels are read in the body.

  Args:
    file: File to read.
    kind: "PNG" or "JPEG".

  Yields:
    The image, of which only the header was read.

  Raises:
    ImageError: If it has more than `MAX_PIXELS` or 8 bits a channel, or cannot
      be opened or, in the body, decoded.
  """
  try:
    with _OPENERS[kind](file) as image:
      if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"of more than {MAX_PIXELS:,} pixels")
      if image.mode not in _MODES:
        raise ImageError("of more than 8 bits a channel")
      yield image
  except ImageError:
    raise
  except Exception as error:  # decoders raise many kinds
    if isinstance(error, OSError) and error.errno:
      raise ImageError(f"cannot be read ({error.strerror})") from error
    raise ImageError(f"broken {kind}") from error


class Notes:
  """Collects what happened to single files, so that nothing is silent."""

  def __init__(self, source: str):
    """Starts without notes.

    Args:
      source: the set or archive that the files are of.
    """
    self._source = source
    self._names: dict[str, list[str]] = collections.defaultdict(list)

  def add(self, what: str, name: str) -> None:
    """Notes `what` was done with the file `name`, and why."""
    self._names[what].append(name)

  def tell(self) -> None:
    """Prints one line for each kind of note, with a count and the names."""
    for what, names in self._names.items():
      rest = len(names) - _NAMES
      more = f" and {rest} more" if rest > 0 else ""
      listed = ", ".join(
        name if name.isprintable() else repr(name) for name in names[:_NAMES]
      )
      print(
        f"{self._source}: {len(names)} {what}: {listed}{more}",
        file=sys.stderr,
      )
