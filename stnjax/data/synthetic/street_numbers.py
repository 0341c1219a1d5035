"""Generated house numbers, where Street View's own (SVHN) are not at hand.

Each picture is drawn with NumPy and Pillow from a seed of its own: a wall,
maybe a plate, one number of one to five digits in some pose, light, and a
camera. The label is the number that is complete and largest; other digits are
cut off by the border or less than half as high. The same seed gives the same
pixels with the same versions of NumPy, Pillow and Matplotlib, whose fonts are
used.
"""

from collections.abc import Iterator, Sequence
import functools
import io
import math
import pathlib
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
import tensorflow_datasets as tfds

from stnjax.data import BLANK, load
from stnjax.data.synthetic import generating

SIDE = 64  # of the image, in pixels
MAX_DIGITS = 5
SIZES = {"train": 20_000, "test": 4_000}
SEED = 0

LENGTHS = (0.15, 0.44, 0.29, 0.08, 0.04)
"""How often a number has 1, 2, ... digits; as in SVHN, but for five."""

HANDWRITTEN = 0.15
"""How often a number is in handwritten digits rather than in a font."""

FONTS = (
  *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique"),
  *("DejaVuSans-BoldOblique", "DejaVuSansMono", "DejaVuSansMono-Bold"),
  *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
  *("DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol"),
  *("STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10"),
  *("cmti10", "cmtt10"),
)
"""Fonts that Matplotlib brings; both splits use all, as streets would."""

_GLYPH = 48  # height of digits before they are projected, in pixels
_MIN_HEIGHT = 13  # of digits in the image; fewer pixels are hard to read
_ROOM = 40  # around a number for its plate, in pixels before projection
_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class StreetNumbers(generating.Generated):
  """Generated house numbers with the labels of SVHN's full numbers."""

  VERSION = tfds.core.Version("2.0.0")
  RELEASE_NOTES = {
    "2.0.0": "Numbers are stretched towards the square, as SVHN's crops are.",
    "1.0.0": "20,000 + 4,000 images.",
  }

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "Generated pictures of house numbers of one to five digits, in the"
        " fonts that Matplotlib brings and in handwritten digits of MNIST,"
        " those of the training split in train, those of the test split in"
        " test. Labels are padded with 10."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIDE, SIDE, 3)),
          "label": tfds.features.Tensor(shape=(MAX_DIGITS,), dtype=np.int64),
        }
      ),
      supervised_keys=("image", "label"),
      # The handwritten digits are MNIST's.
      license="CC BY-SA 3.0",
    )

  @property
  def sizes(self) -> dict[str, int]:
    return SIZES

  def example(self, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    return draw(rng_of(split, index), split)


def rng_of(split: str, index: int) -> np.random.Generator:
  """Random numbers of one example, whatever is drawn before it."""
  return generating.rng_of(SEED, split, index)


def draw(
  rng: np.random.Generator,
  split: str = "train",
  *,
  number: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Draws one picture of a house number.

  Args:
    rng: where all that varies comes from.
    split: "train" or "test", whose handwritten digits are used.
    number: its one to five digits; random where None.

  Returns:
    The image `[64, 64, 3]` uint8, and the label `[5]` int64, the digits
    followed by `BLANK`.

  Raises:
    ValueError: for a number that is too long, or of anything but digits.
  """
  some = random_number(rng)
  digits = some if number is None else list(number)
  if not 1 <= len(digits) <= MAX_DIGITS or not set(digits) <= set(range(10)):
    raise ValueError(f"number={number!r}; accepted: one to five digits")
  label = np.full(MAX_DIGITS, BLANK, np.int64)
  label[: len(digits)] = digits
  return picture(rng, digits, split)[0], label


def random_number(rng: np.random.Generator) -> list[int]:
  """Digits of a house number; it starts with 0 only where that is all."""
  length = rng.choice(MAX_DIGITS, p=LENGTHS) + 1
  digits = rng.integers(10, size=length)
  if length > 1:
    digits[0] = rng.integers(1, 10)
  return digits.tolist()


def picture(
  rng: np.random.Generator, digits: Sequence[int], split: str
) -> tuple[np.ndarray, np.ndarray]:
  """Draws from back to front: wall, other digits, plate, number, light.

  Args:
    rng: where all that varies comes from.
    digits: of the number.
    split: "train" or "test", whose handwritten digits are used.

  Returns:
    The image `[64, 64, 3]` uint8, and the box (left, top, right, bottom) of
    the number in it, in pixels.
  """
  row = _row(rng, _glyphs(rng, digits, split))
  matrix, box, angle = _pose(rng, row.shape)
  layers = [np.pad(row, _ROOM), *_plate(rng, row.shape)]
  mask, *plate = (_project(layer, matrix) for layer in layers)
  high = _digit_height(matrix, row.shape)
  others = _distractors(rng, box, high, angle, split)

  contrast = 0.35 + 0.5 * rng.beta(1.1, 1.8)
  wall = surface = _colour(rng, rng.uniform(0.15, 0.95))
  if plate:
    surface = _colour(rng, rng.uniform(0.08, 0.95))
  ink = _contrasting(rng, surface, contrast)
  # Without a plate, what the wall has must not drown the digits.
  strength = 0.3 if plate else min(0.8 * contrast, 0.3)
  image = _wall(rng, angle, wall, strength)
  for other in others:
    colour = ink if rng.random() < 0.5 else _contrasting(rng, wall, contrast)
    image = _over(image, other, colour)
  for layer, colour in zip(plate, (surface, ink), strict=False):
    image = _over(image, layer, colour)
  image = _light(rng, _paint(rng, image, mask, ink, contrast))
  return _camera(rng, image, contrast, high), box


# Digits and plates, before projection.


def _glyphs(rng, digits: Sequence[int], split: str) -> list[np.ndarray]:
  """Masks `[48, w]` of digits in one style: a font, or strokes as thick."""
  if rng.random() >= HANDWRITTEN:
    font = FONTS[rng.integers(len(FONTS))]
    return [font_glyph(font, digit) for digit in digits]
  by_thickness = _handwriting(split)
  thickness = rng.random() + 0.03 * rng.standard_normal(len(digits))
  glyphs = []
  for digit, at in zip(digits, np.clip(thickness, 0, 0.999), strict=True):
    members = by_thickness[digit]
    glyphs.append(handwritten_glyph(split, members[int(at * len(members))]))
  return glyphs


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
  return load("mnist_subset", split)


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
  width = max(1, round(image.width * _GLYPH / image.height))
  return np.asarray(image.resize((width, _GLYPH), Image.Resampling.BICUBIC))


def _row(rng, glyphs: Sequence[np.ndarray]) -> np.ndarray:
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


def _plate(rng, shape) -> list[np.ndarray]:
  """Masks of a plate around a row of `shape` and maybe of its frame, if any.

  They have `_ROOM` around the row, as the row then has too.
  """
  kind, framed, across, along, round_, thick = rng.random(6)
  if kind > 0.4:
    return []
  height, width = (length + 2 * _ROOM for length in shape)
  x, y = _ROOM - 6 - 26 * across, _ROOM - 5 - 18 * along
  box, line = [x, y, width - 1 - x, height - 1 - y], int(2 + 3 * thick)
  round_ *= 16  # pixels
  if kind < 0.1 and width < 1.7 * height:  # an ellipse, as that fits around
    box, round_ = [2, 2, width - 3, height - 3], None
  masks = []
  styles: tuple[dict[str, Any], ...] = (
    {"fill": 255},
    {"outline": 255, "width": line},
  )
  for how in styles:
    image = Image.new("L", (width, height))
    if round_ is None:
      ImageDraw.Draw(image).ellipse(box, **how)
    else:
      ImageDraw.Draw(image).rounded_rectangle(box, round_, **how)
    masks.append(np.asarray(image))
  return masks if framed < 0.6 else masks[:1]


# Geometry, in pixels with the corner of the first pixel as origin.


def _pose(rng, shape) -> tuple[np.ndarray, np.ndarray, float]:
  """Where a row is seen.

  Args:
    rng: where the pose comes from.
    shape: (height, width) of the row.

  Returns:
    `image_from_sign` `[3, 3]`, a homography from the row with `_ROOM` around
    it; the box (left, top, right, bottom) of the row in the image, which
    lies within the image; and the angle in radians.
  """
  height, width = shape
  limit = 30 if rng.random() < 0.2 else 14
  angle = np.deg2rad(rng.uniform(-limit, limit))
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
  # SVHN's crops are resized to squares: long numbers come out narrow and high.
  stretch = (height / width) ** rng.uniform(0.4, 0.9)
  stretch *= np.exp(rng.uniform(-0.2, 0.2))
  shear = np.clip(rng.normal(0, 0.13), -0.35, 0.35)
  skew = np.array([[stretch, shear, 0], [0, 1, 0], [0, 0, 1]])
  tilt = np.eye(3)
  tilt[2, 0] = np.clip(rng.normal(0, 0.12), -0.3, 0.3) / (width / 2)
  tilt[2, 1] = np.clip(rng.normal(0, 0.08), -0.2, 0.2) / (height / 2)
  middle = np.array([width / 2 + _ROOM, height / 2 + _ROOM])
  matrix = turn @ skew @ tilt @ _shift(-middle)

  corners = np.array([[0, 0], [0, height], [width, 0], [width, height]])
  low, high = _bounds(matrix, corners + _ROOM)
  fit = (SIDE - 2) / (high - low).max()
  least = min(fit, _MIN_HEIGHT / _GLYPH)
  scale = max(least, fit * rng.uniform(0.55, 1))
  room = SIDE - 2 - scale * (high - low)
  start = 1 + room * rng.beta(1.6, 1.6, 2)
  matrix = _shift(start) @ np.diag([scale, scale, 1]) @ _shift(-low) @ matrix
  box = np.concatenate([start, start + scale * (high - low)])
  return matrix, box, float(angle)


def _shift(by: np.ndarray) -> np.ndarray:
  return np.array([[1, 0, by[0]], [0, 1, by[1]], [0, 0, 1.0]])


def _bounds(matrix, points) -> tuple[np.ndarray, np.ndarray]:
  """Least and greatest (x, y) of points `[N, 2]` seen through a homography."""
  seen = np.c_[points, np.ones(len(points))] @ matrix.T
  seen = seen[:, :2] / seen[:, 2:]
  return seen.min(0), seen.max(0)


def _digit_height(matrix: np.ndarray, shape) -> float:
  """About how high digits at the middle of a row are in the image."""
  x, y = shape[1] / 2 + _ROOM, shape[0] / 2 + _ROOM
  ends = np.array([[x, y - _GLYPH / 2, 1], [x, y + _GLYPH / 2, 1]]) @ matrix.T
  ends = ends[:, :2] / ends[:, 2:]
  return float(np.linalg.norm(ends[1] - ends[0]))


def _project(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
  """Shows a mask `[h, w]` uint8 in one `[64, 64]` float within [0, 1]."""
  sign_from_image = np.linalg.inv(np.diag([2, 2, 1.0]) @ matrix)
  sign_from_image /= sign_from_image[2, 2]
  # Twice as fine, then averaged, as bilinear samples alone would alias.
  image = Image.fromarray(mask).transform(
    (2 * SIDE, 2 * SIDE),
    Image.Transform.PERSPECTIVE,
    sign_from_image.ravel()[:8].tolist(),
    Image.Resampling.BILINEAR,
  )
  return np.asarray(image.reduce(2), np.float32) / 255


def _distractors(rng, box, high: float, angle, split) -> Iterator[np.ndarray]:
  """Masks `[64, 64]` of digits that do not count, where there is room.

  Args:
    rng: where they come from.
    box: of the number, (left, top, right, bottom).
    high: height of the number's digits.
    angle: of the number.
    split: whose handwritten digits are used.

  Yields:
    Neighbours at most half of which are in the picture, and lines of digits
    less than half as high, above or below.
  """
  left, top, right, bottom = box
  for side, room in enumerate((left, SIDE - right)):
    if rng.random() < 0.3 and room > 5:
      # Half a 1, or of a 4, looks like a whole 1.
      digit = rng.choice([0, 2, 3, 5, 6, 7, 8, 9])
      glyph = _glyphs(rng, [digit], split)[0]
      scale = rng.uniform(0.75, 1.15) * high / _GLYPH
      lean = angle + rng.normal(0, 0.05)
      extent = np.abs([np.cos(lean), np.sin(lean)]) @ glyph.shape[::-1] * scale
      seen = min(extent * rng.uniform(0.2, 0.5), room - 2)
      x = seen - extent / 2
      y = (top + bottom) / 2 + rng.normal(0, 0.1) * high
      yield _upright(glyph, (SIDE - x if side else x, y), scale, lean)
  for y, room in ((top / 2, top), ((bottom + SIDE) / 2, SIDE - bottom)):
    size = min(0.42 * high, room - 4)
    if rng.random() < 0.12 and size > 5:
      digits = rng.integers(10, size=rng.integers(1, 4))
      row = np.concatenate(_glyphs(rng, digits, split), 1)
      yield _upright(row, (rng.uniform(8, 56), y), size / _GLYPH, angle / 2)


def _upright(mask: np.ndarray, at, scale: float, angle: float) -> np.ndarray:
  """Shows a mask `[h, w]` around a point of the image, turned by an angle."""
  cos, sin = scale * np.cos(angle), scale * np.sin(angle)
  turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
  middle = np.array(mask.shape[::-1]) / 2
  return _project(mask, _shift(np.array(at)) @ turn @ _shift(-middle))


# Colour and texture; images are `[64, 64, 3]` float32, about in [0, 1].


def _colour(rng, luma: float) -> np.ndarray:
  """A colour `[3]` of about this luma; few are strong."""
  chroma = rng.standard_normal(3).astype(np.float32)
  chroma -= chroma @ _LUMA
  strength = 0.22 if rng.random() < 0.3 else 0.06
  colour = luma + strength * abs(rng.standard_normal()) * chroma
  # Clipping would change the luma, and with it the contrast.
  room = min(luma, 1 - luma) / max(np.abs(colour - luma).max(), 1e-6)
  return (luma + min(1.0, room) * (colour - luma)).astype(np.float32)


def _contrasting(rng, surface: np.ndarray, contrast: float) -> np.ndarray:
  """A colour `[3]` whose luma differs from a surface's by `contrast`."""
  luma = float(surface @ _LUMA)
  sign = 1 if rng.random() < 0.5 else -1
  if not 0.02 <= luma + sign * contrast <= 0.98:
    sign = 1 if luma < 0.5 else -1
  return _colour(rng, float(np.clip(luma + sign * contrast, 0.02, 0.98)))


def _over(image: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
  return image + mask[..., None] * (colour - image)


def _noise(rng, rows: int, columns: int) -> np.ndarray:
  """Smooth noise `[64, 64]` within about [-1, 1], of so many cells."""
  cells = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
  image = Image.fromarray(cells)
  return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _wall(rng, angle: float, colour, strength: float) -> np.ndarray:
  """Plaster, bricks or planks, about as level as the number is.

  Args:
    rng: where the texture comes from.
    angle: of the number.
    colour: `[3]` of the wall.
    strength: bound on how much lighter or darker parts of it are.

  Returns:
    The image.
  """
  angle = 0.7 * angle + (np.pi / 2 if rng.random() < 0.3 else 0)
  cos, sin = math.cos(angle), math.sin(angle)
  x = cos * _X + sin * _Y + rng.uniform(500, 600)
  y = cos * _Y - sin * _X + rng.uniform(500, 600)
  shade = 0.3 * _noise(rng, 3, 3) + rng.uniform(0, 0.4) * _noise(rng, 24, 24)
  kind = rng.random()
  if kind < 0.3:  # bricks
    high = rng.uniform(6, 15)
    wide = high * rng.uniform(1.8, 3.2)
    line = np.floor(y / high)
    x = x + (line % 2) * wide / 2
    shade = shade + _each(rng, line, np.floor(x / wide))
    joint = np.minimum(y % high, x % wide) < rng.uniform(0.8, 2.2)
    shade = np.where(joint, float(rng.choice([-1.2, 1.2])), shade)
  elif kind < 0.55:  # planks
    wide = rng.uniform(7, 24)
    board = np.floor(y / wide)
    grain = _each(rng, np.floor(y), np.floor(x / 16))
    shade = shade + 0.5 * _each(rng, board, board) + 0.3 * grain
    shade = shade - 1.2 * np.maximum(0, 1 - (y % wide) / 1.5)
  shade = shade * strength * rng.uniform(0.15, 0.6)
  return colour + shade[..., None].astype(np.float32)


def _each(rng, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
  """A random shade within [-1, 1] for each part of a wall."""
  shades = rng.uniform(-1, 1, (64, 64)).astype(np.float32)
  return shades[rows.astype(int) % 64, columns.astype(int) % 64]


def _paint(rng, image, mask, ink, contrast: float) -> np.ndarray:
  """Digits, with what shadow, relief and wear they have."""
  if rng.random() < 0.3:  # raised from the wall
    by = rng.integers(-2, 3, 2)
    shadow = _shifted(mask, *by) * rng.uniform(0.2, 0.6)
    image = image * (1 - shadow[..., None] * min(1.0, 2 * contrast))
  if rng.random() < 0.3:  # flaking
    wear = 0.5 + 1.2 * _noise(rng, 20, 20)
    mask = mask * (1 - rng.uniform(0.2, 0.55) * wear.clip(0, 1))
  image = _over(image, mask, ink)
  if rng.random() < 0.25:  # an edge in the light
    edge = mask - _shifted(mask, *rng.choice([-1, 1], 2))
    image = image + 0.3 * contrast * edge[..., None]
  return image


def _shifted(image: np.ndarray, x: int, y: int) -> np.ndarray:
  """Moves `[64, 64, ...]` by whole pixels; the border is repeated."""
  rows = (np.arange(SIDE) - y).clip(0, SIDE - 1)
  columns = (np.arange(SIDE) - x).clip(0, SIDE - 1)
  return image[rows][:, columns]


def _light(rng, image: np.ndarray) -> np.ndarray:
  """A gradient of light, and the shadow of something outside the picture."""
  way = rng.uniform(0, 2 * np.pi)
  along = (math.cos(way) * _X + math.sin(way) * _Y) / SIDE
  light = 1 + rng.uniform(0, 0.6) * (along - 0.3)
  if rng.random() < 0.2:
    way, edge = rng.uniform(0, 2 * np.pi), rng.uniform(-20, 20)
    along = math.cos(way) * _X + math.sin(way) * _Y - edge
    soft = (along / rng.uniform(0.5, 5)).clip(-0.5, 0.5) + 0.5
    light = light * (1 - rng.uniform(0.15, 0.4) * soft)
  return image * light[..., None].astype(np.float32)


def _camera(rng, image, contrast: float, high: float) -> np.ndarray:
  """Blur, coarse pixels, noise and JPEG, bounded so that digits are readable.

  Args:
    rng: where they come from.
    image: to be taken.
    contrast: of the digits; noise is less.
    high: height of the digits in pixels; blur is much less.

  Returns:
    The image `[64, 64, 3]` uint8.
  """
  image = _moved(rng, image, high)
  picture = Image.fromarray((255 * image).clip(0, 255).astype(np.uint8))
  if rng.random() < 0.6:
    radius = rng.uniform(0.2, min(1.8, 0.055 * high))
    picture = picture.filter(ImageFilter.GaussianBlur(radius))
  if rng.random() < 0.25:
    least = SIDE * max(0.4, min(0.9, 11 / high))
    side = round(rng.uniform(least, SIDE))
    picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
  image = np.asarray(picture, np.float32)
  grain = rng.uniform(0, min(14.0, 36 * contrast))
  if rng.random() < 0.5:  # grey
    noise = rng.standard_normal((SIDE, SIDE, 1), np.float32)
  else:
    noise = rng.standard_normal((SIDE, SIDE, 3), np.float32)
  image = (image + grain * noise).clip(0, 255).astype(np.uint8)
  if rng.random() < 0.4:
    stored = io.BytesIO()
    quality = int(rng.integers(30, 90))
    Image.fromarray(image).save(stored, "JPEG", quality=quality)
    image = np.asarray(Image.open(stored))
  return image


def _moved(rng, image: np.ndarray, high: float) -> np.ndarray:
  """The mean over a straight movement of the camera; mostly it is still."""
  if rng.random() > 0.2:
    return image
  way, length = rng.uniform(0, np.pi), rng.uniform(1, min(4.0, 0.14 * high))
  steps = np.linspace(-length / 2, length / 2, 5)
  shifts = np.rint(np.outer(steps, [np.cos(way), np.sin(way)])).astype(int)
  return np.mean([_shifted(image, x, y) for x, y in shifts], 0)
