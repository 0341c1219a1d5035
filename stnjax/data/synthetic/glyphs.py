"""Masks of digits, set in rows, and of the plates that they are on."""

from collections.abc import Sequence
import functools
import pathlib
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from stnjax.data import mnist

HANDWRITTEN = 0.15
"""Share of numbers in handwritten digits rather than in a font."""

FONTS = (
  *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique"),
  *("DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
  *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
  *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol"),
  *("STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10"),
  *("cmti10", "cmtt10"),
)
"""Fonts that Matplotlib brings; both splits use all, as streets would."""

GLYPH_HEIGHT = 48  # of digits before they are projected, in pixels
MARGIN = 40  # around a number for its plate, in pixels before projection


def glyphs_of(rng, digits: Sequence[int], split: str) -> list[np.ndarray]:
  """Masks `[48, w]` of digits in one style: a font, or strokes as thick."""
  if rng.random() >= HANDWRITTEN:
    font = FONTS[rng.integers(len(FONTS))]
    return [font_glyph(font, digit) for digit in digits]
  by_thickness = _handwriting(split)
  thickness = rng.random() + 0.03 * rng.standard_normal(len(digits))
  masks = []
  for digit, at in zip(digits, np.clip(thickness, 0, 0.999), strict=True):
    members = by_thickness[digit]
    masks.append(handwritten_glyph(split, members[int(at * len(members))]))
  return masks


@functools.cache
def font_glyph(font: str, digit: int) -> np.ndarray:
  """Mask `[48, w]` uint8 of a digit, on the line of all of its font."""
  folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
  face = ImageFont.truetype(str(folder / f"{font}.ttf"), 72)
  left, _, right, _ = face.getbbox(str(digit))
  _, top, _, bottom = face.getbbox("0123456789")
  image = Image.new("L", (int(right - left), int(bottom - top)))
  ImageDraw.Draw(image).text((-left, -top), str(digit), fill=255, font=face)
  return _to_height(image)


@functools.cache
def handwritten_glyph(split: str, index: int) -> np.ndarray:
  """Mask `[48, w]` uint8 of one image of the MNIST subset."""
  image = _mnist(split).images[index, ..., 0]
  rows = np.flatnonzero((image > 64).any(1))
  columns = np.flatnonzero((image > 64).any(0))
  image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
  mask = _to_height(Image.fromarray(image)).astype(np.float32)
  # Enlarged strokes are soft; painted ones are not.
  return ((mask - 80) * 2.5).clip(0, 255).astype(np.uint8)


@functools.cache
def _mnist(split: str):
  return mnist.SUBSET.read(split)


@functools.cache
def _handwriting(split: str) -> list[list[int]]:
  """Indices of the MNIST subset by digit, from thin to thick strokes."""
  images, labels = _mnist(split)
  # Integers, so that the order is the same on any machine.
  inks = np.asarray(images)[..., 0].astype(np.int64)
  edges = sum(np.abs(np.diff(inks, axis=axis)).sum((1, 2)) for axis in (1, 2))
  order = np.argsort(inks.sum((1, 2)) / edges, kind="stable")
  labels = np.asarray(labels)
  return [order[labels[order] == digit].tolist() for digit in range(10)]


def _to_height(image: Image.Image) -> np.ndarray:
  width = max(1, round(image.width * GLYPH_HEIGHT / image.height))
  return np.asarray(
    image.resize((width, GLYPH_HEIGHT), Image.Resampling.BICUBIC)
  )


def row_of(rng, glyphs: Sequence[np.ndarray]) -> np.ndarray:
  """Sets glyphs beside each other, in a mask `[h, w]` without margins."""
  gap = rng.uniform(3, 14)
  step = rng.normal(0, 8) if rng.random() < 0.15 else 0.0  # as along stairs
  jitter = rng.uniform(0, 2.5)
  loose = rng.random() < 0.3  # each hangs on its own nail
  turns = rng.uniform(-8, 8, len(glyphs)) * loose
  heights = rng.normal(0, jitter, len(glyphs)) + step * np.arange(len(glyphs))
  heights = (heights - heights.min()).astype(int)
  images = [Image.fromarray(glyph) for glyph in glyphs]
  if loose:
    images = [
      image.rotate(turn, Image.Resampling.BILINEAR, expand=True)
      for image, turn in zip(images, turns, strict=True)
    ]
  width = sum(i.width for i in images) + int(gap) * (len(images) - 1)
  height = max(i.height + at for i, at in zip(images, heights, strict=True))
  row, left = Image.new("L", (width, height)), 0
  for image, at in zip(images, heights, strict=True):
    row.paste(image, (left, int(at)))
    left += image.width + int(gap)
  if rng.random() < 0.25:
    row = row.filter(ImageFilter.MaxFilter(3))
  return np.asarray(row)


def plate_around(rng, shape) -> list[np.ndarray]:
  """Masks of a plate around a row of `shape` and maybe of its frame, if any.

  They have `MARGIN` around the row, as the row then has too.
  """
  kind, framed, across, along, round_, thick = rng.random(6)
  if kind > 0.4:
    return []
  height, width = (length + 2 * MARGIN for length in shape)
  x, y = MARGIN - 6 - 26 * across, MARGIN - 5 - 18 * along
  box, line = [x, y, width - 1 - x, height - 1 - y], int(2 + 3 * thick)
  round_ *= 16  # pixels
  if kind < 0.1 and width < 1.7 * height:  # an ellipse, as that fits around
    box, round_ = [2, 2, width - 3, height - 3], None
  masks = []
  styles: tuple[dict[str, Any], ...] = (
    {"fill": 255},
    {"outline": 255, "width": line},
  )
  for style in styles:
    image = Image.new("L", (width, height))
    if round_ is None:
      ImageDraw.Draw(image).ellipse(box, **style)
    else:
      ImageDraw.Draw(image).rounded_rectangle(box, round_, **style)
    masks.append(np.asarray(image))
  return masks if framed < 0.6 else masks[:1]
