"""Poses of house numbers, and other digits around them.

Coordinates are pixels, with the corner of the first pixel as origin.
"""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from stnjax.data.synthetic import glyphs
from stnjax.data.synthetic.glyphs import GLYPH_HEIGHT, MARGIN
from stnjax.data.synthetic.painting import SIDE

_MIN_HEIGHT = 13  # of digits in the image; fewer pixels are hard to read


def random_pose(rng, shape) -> tuple[np.ndarray, np.ndarray, float]:
  """Where a row is seen.

  Args:
    rng: where the pose comes from.
    shape: (height, width) of the row.

  Returns:
    `image_from_sign` `[3, 3]`, a homography from the row with `MARGIN` around
    it; the box (left, top, right, bottom) of the row in the image, which
    lies within the image; and the angle in radians.
  """
  height, width = shape
  limit = 30 if rng.random() < 0.2 else 14
  angle = np.deg2rad(rng.uniform(-limit, limit))
  cos, sin = np.cos(angle), np.sin(angle)
  turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
  # SVHN's crops are resized to squares: long numbers become narrow and high.
  stretch = (height / width) ** rng.uniform(0.4, 0.9)
  stretch *= np.exp(rng.uniform(-0.2, 0.2))
  shear = np.clip(rng.normal(0, 0.13), -0.35, 0.35)
  skew = np.array([[stretch, shear, 0], [0, 1, 0], [0, 0, 1]])
  tilt = np.eye(3)
  tilt[2, 0] = np.clip(rng.normal(0, 0.12), -0.3, 0.3) / (width / 2)
  tilt[2, 1] = np.clip(rng.normal(0, 0.08), -0.2, 0.2) / (height / 2)
  middle = np.array([width / 2 + MARGIN, height / 2 + MARGIN])
  matrix = turn @ skew @ tilt @ _shift(-middle)

  corners = np.array([[0, 0], [0, height], [width, 0], [width, height]])
  low, high = _bounds(matrix, corners + MARGIN)
  fit = (SIDE - 2) / (high - low).max()
  least = min(fit, _MIN_HEIGHT / GLYPH_HEIGHT)
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


def digit_height(matrix: np.ndarray, shape) -> float:
  """About how high digits at the middle of a row are in the image."""
  x, y = shape[1] / 2 + MARGIN, shape[0] / 2 + MARGIN
  ends = (
    np.array([[x, y - GLYPH_HEIGHT / 2, 1], [x, y + GLYPH_HEIGHT / 2, 1]])
    @ matrix.T
  )
  ends = ends[:, :2] / ends[:, 2:]
  return float(np.linalg.norm(ends[1] - ends[0]))


def project(mask: np.ndarray, matrix: np.ndarray) -> np.ndarray:
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


def distractors(rng, box, high: float, angle, split) -> Iterator[np.ndarray]:
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
      glyph = glyphs.glyphs_of(rng, [digit], split)[0]
      scale = rng.uniform(0.75, 1.15) * high / GLYPH_HEIGHT
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
      row = np.concatenate(glyphs.glyphs_of(rng, digits, split), 1)
      yield _upright(
        row, (rng.uniform(8, 56), y), size / GLYPH_HEIGHT, angle / 2
      )


def _upright(mask: np.ndarray, at, scale: float, angle: float) -> np.ndarray:
  """Shows a mask `[h, w]` around a point of the image, turned by an angle."""
  cos, sin = scale * np.cos(angle), scale * np.sin(angle)
  turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
  middle = np.array(mask.shape[::-1]) / 2
  return project(mask, _shift(np.array(at)) @ turn @ _shift(-middle))
