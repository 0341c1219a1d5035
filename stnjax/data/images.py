"""Decoding pictures into arrays, and fitting them into squares.

Pillow is imported when a picture is decoded.
"""

from collections.abc import Iterator
import contextlib
import io
import pathlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
  from PIL import Image

MAX_PIXELS = 2**26
"""Larger images are not decoded."""

# Of 8 bits a channel or fewer; Pillow would clip others.
_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # of a grey PNG
_GREY = ("1", "L", "LA", *_SIXTEEN_BITS)
_ORIENTATION = 0x0112  # EXIF tag; from 5 on, rows and columns are swapped


class ImageError(ValueError):
  """An image cannot be used; the message is the reason, without its name."""


@contextlib.contextmanager
def open_image(
  file: BinaryIO | pathlib.Path, kind: str, *, sixteen_bits: bool = False
) -> Iterator["Image.Image"]:
  """Opens an image, whose pixels are read in the body.

  Args:
    file: File to read.
    kind: "PNG" or "JPEG".
    sixteen_bits: Whether grey images of 16 bits are accepted.

  Yields:
    The image, of which only the header was read.

  Raises:
    ImageError: If it has more than `MAX_PIXELS` or 8 bits a channel, or cannot
      be opened or, in the body, decoded.
  """
  from PIL import JpegImagePlugin, PngImagePlugin

  # Not `Image.open`, which prints its own warning where images are large.
  opener = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
  }[kind]
  accepted = _EIGHT_BITS + _SIXTEEN_BITS * sixteen_bits
  try:
    with opener(file) as image:
      if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"of more than {MAX_PIXELS:,} pixels")
      if image.mode not in accepted:
        raise ImageError("of more than 8 bits a channel")
      yield image
  except ImageError:
    raise
  except Exception as error:  # decoders raise many kinds
    if isinstance(error, OSError) and error.errno:
      raise ImageError(f"cannot be read ({error.strerror})") from error
    raise ImageError(f"broken {kind}") from error


def kind_of(content: bytes) -> str:
  """The kind of a picture by its first bytes: "JPEG", or else "PNG"."""
  return "JPEG" if content.startswith(b"\xff\xd8") else "PNG"


def is_grey(image: "Image.Image") -> bool:
  """Whether an opened image is grey by its mode or its palette."""
  if image.mode not in ("P", "PA"):
    return image.mode in _GREY
  palette = np.reshape(image.getpalette() or [0, 0, 0], (-1, 3))
  return bool((palette == palette[:, :1]).all())


def upright_size(image: "Image.Image") -> tuple[int, int]:
  """Height and width of an opened image, turned as its EXIF data says."""
  size = image.height, image.width
  return size[::-1] if _orientation(image) >= 5 else size


def _orientation(image: "Image.Image") -> int:
  """The orientation of an image that was opened, but not decoded yet."""
  # Pillow would decode a PNG to look for EXIF data behind its pixels.
  if image.format == "PNG" and "exif" not in image.info:
    return 1
  orientation: int = image.getexif().get(_ORIENTATION, 1)
  return orientation


def pixels(
  image: "Image.Image", channels: int, *, upright: bool = True
) -> np.ndarray:
  """Decodes an opened image of any mode.

  Transparency is put on black, and of 16 bits the upper 8 are kept.

  Args:
    image: Image of `open_image`.
    channels: 1 for grey, 3 for RGB.
    upright: Whether to turn the image as its EXIF data says.

  Returns:
    `[H, W, channels]`, uint8.
  """
  from PIL import Image, ImageOps

  if upright and _orientation(image) != 1:
    image = ImageOps.exif_transpose(image)
  if image.mode in _SIXTEEN_BITS:
    grey = np.asarray(image).astype(np.uint16) >> 8
    image = Image.fromarray(grey.astype(np.uint8))
  if "A" in image.getbands() or "transparency" in image.info:
    image = image.convert("RGBA")
    ground = Image.new("RGBA", image.size, (0, 0, 0, 255))
    image = Image.alpha_composite(ground, image)
  array = np.asarray(image.convert("RGB" if channels == 3 else "L"))
  return array.reshape(*array.shape[:2], channels)


def fit(image: np.ndarray, size: int) -> np.ndarray:
  """Resizes an image into a square, its aspect kept.

  Args:
    image: `[H, W, 1 or 3]`, uint8, of any size.
    size: Height and width of the square in pixels.

  Returns:
    `[size, size, C]`, uint8: resized (bilinear) so that the longest side is
    `size`, centred, zeros around.
  """
  from PIL import Image

  height, width, channels = image.shape
  scale = size / max(height, width)
  new = max(1, round(width * scale)), max(1, round(height * scale))
  resized = _to_pillow(image).resize(new, Image.Resampling.BILINEAR)
  top, left = (size - new[1]) // 2, (size - new[0]) // 2
  fitted = np.zeros((size, size, channels), np.uint8)
  fitted[top : top + new[1], left : left + new[0]] = np.reshape(
    resized, (new[1], new[0], channels)
  )
  return fitted


def png(image: np.ndarray) -> bytes:
  """Encodes an image `[H, W, 1 or 3]`; TFDS needs TensorFlow for arrays."""
  encoded = io.BytesIO()
  _to_pillow(image).save(encoded, "PNG")
  return encoded.getvalue()


def _to_pillow(image: np.ndarray) -> Any:
  from PIL import Image

  return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
