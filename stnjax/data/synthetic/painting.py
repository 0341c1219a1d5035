"""Colour, texture, light and camera of the pictures of house numbers.

Images are `[64, 64, 3]` float32, about in [0, 1].
"""

import io
import math

import numpy as np
from PIL import Image, ImageFilter

SIDE = 64  # of the image, in pixels

_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float32) - SIDE / 2
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def random_colour(rng, luma: float) -> np.ndarray:
  """A colour `[3]` of about this luma; few are strong."""
  chroma = rng.standard_normal(3).astype(np.float32)
  chroma -= chroma @ LUMA
  strength = 0.22 if rng.random() < 0.3 else 0.06
  colour = luma + strength * abs(rng.standard_normal()) * chroma
  # Clipping would change the luma, and with it the contrast.
  room = min(luma, 1 - luma) / max(np.abs(colour - luma).max(), 1e-6)
  return (luma + min(1.0, room) * (colour - luma)).astype(np.float32)


def contrasting_colour(rng, surface: np.ndarray, contrast: float) -> np.ndarray:
  """A colour `[3]` whose luma differs from a surface's by `contrast`."""
  luma = float(surface @ LUMA)
  sign = 1 if rng.random() < 0.5 else -1
  if not 0.02 <= luma + sign * contrast <= 0.98:
    sign = 1 if luma < 0.5 else -1
  return random_colour(rng, float(np.clip(luma + sign * contrast, 0.02, 0.98)))


def blend(image: np.ndarray, mask: np.ndarray, colour) -> np.ndarray:
  """Paints a colour `[3]` over an image where a mask `[64, 64]` is 1."""
  return image + mask[..., None] * (colour - image)


def _noise(rng, rows: int, columns: int) -> np.ndarray:
  """Smooth noise `[64, 64]` within about [-1, 1], of so many cells."""
  cells = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
  image = Image.fromarray(cells)
  return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def wall(rng, angle: float, colour, strength: float) -> np.ndarray:
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


def paint(rng, image, mask, ink, contrast: float) -> np.ndarray:
  """Digits, with what shadow, relief and wear they have."""
  if rng.random() < 0.3:  # raised from the wall
    by = rng.integers(-2, 3, 2)
    shadow = _shifted(mask, *by) * rng.uniform(0.2, 0.6)
    image = image * (1 - shadow[..., None] * min(1.0, 2 * contrast))
  if rng.random() < 0.3:  # flaking
    wear = 0.5 + 1.2 * _noise(rng, 20, 20)
    mask = mask * (1 - rng.uniform(0.2, 0.55) * wear.clip(0, 1))
  image = blend(image, mask, ink)
  if rng.random() < 0.25:  # an edge in the light
    edge = mask - _shifted(mask, *rng.choice([-1, 1], 2))
    image = image + 0.3 * contrast * edge[..., None]
  return image


def _shifted(image: np.ndarray, x: int, y: int) -> np.ndarray:
  """Moves `[64, 64, ...]` by whole pixels; the border is repeated."""
  rows = (np.arange(SIDE) - y).clip(0, SIDE - 1)
  columns = (np.arange(SIDE) - x).clip(0, SIDE - 1)
  return image[rows][:, columns]


def light(rng, image: np.ndarray) -> np.ndarray:
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


def photograph(rng, image, contrast: float, high: float) -> np.ndarray:
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
