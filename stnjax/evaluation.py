"""Errors and alignment, from what evaluation kept of each image.

Statistics are NumPy in float64: small arrays, whose results are reported.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from stnjax import checks, promotion, transforms

AXES = {
  "rotation": ("rotation",),
  "translation": ("translation_x", "translation_y"),
  "scale": ("scale_x", "scale_y"),
}
"""What is measured of each kind of perturbation."""

UNITS = {
  "rotation": "deg",
  "translation_x": "px",
  "translation_y": "px",
  "scale_x": "octaves",
  "scale_y": "octaves",
}
"""In what it is measured; an octave is a factor of 2."""


def error_rate(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Share of images classified wrongly, in [0, 1].

  Args:
    predicted: `[N]`, or `[N, heads]`.
    labels: in the same shape. An image with several is right only if all are.
  """
  wrong = np.asarray(predicted) != np.asarray(labels)
  return float(np.mean(wrong.reshape(len(wrong), -1).any(axis=1)))


@promotion.usual
def applied(poses: np.ndarray, image_shape: Sequence[int]) -> dict:
  """What poses do to the *object*, by axis, in the units of `UNITS`.

  The inverse of theta, taken apart into rotation, shear, scale and a
  translation that comes before them: in pixels of the input, and the same
  however the object is scaled afterwards.

  Args:
    poses: thetas `[..., 2, 3]`, or `[..., 3, 3]`, of which the affine part at
      the image's centre is taken.
    image_shape: `(H, W, ...)` of the input.

  Returns:
    By axis, `[...]`: degrees in (-180, 180], positive clockwise on the screen;
    pixels; octaves. NaN where a pose is not finite or cannot be inverted.
  """
  poses = np.asarray(poses)
  if poses.shape[-2] == 3:
    poses = _affine_at_centre(poses)
  inverse, parts = _inverse_in_parts(poses)
  inverse = np.asarray(inverse)
  scale = np.asarray(parts.scale, np.float64)
  height, width = image_shape[:2]
  with np.errstate(divide="ignore"):
    values = {
      "rotation": np.degrees(np.asarray(parts.rotation, np.float64)),
      "translation_x": -poses[..., 0, 2].astype(np.float64) * width / 2,
      "translation_y": -poses[..., 1, 2].astype(np.float64) * height / 2,
      "scale_x": np.log2(scale[..., 0]),
      "scale_y": np.log2(np.abs(scale[..., 1])),
    }
  # A pose that cannot be inverted aligns nothing, rather than by 0.
  fine = np.isfinite(inverse).all(axis=(-2, -1))
  return {axis: np.where(fine, value, np.nan) for axis, value in values.items()}


@jax.jit  # one program, not a compilation for each of its operations
def _inverse_in_parts(
  poses: jax.Array,
) -> tuple[jax.Array, transforms.Decomposition]:
  inverse = transforms.invert(poses)
  return inverse, transforms.decompose(inverse)


@promotion.usual
def true(truth: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """What a perturbation did to the object, by axis, in the units of `UNITS`.

  Args:
    truth: by kind, see `stnjax.data.perturbations.Truth`, `[N]`
      or `[N, 2]` each.
  """
  values = {}
  for kind, value in truth.items():
    value = np.asarray(value, np.float64)
    value = np.degrees(value) if kind == "rotation" else value
    if value.ndim == 1:  # a factor in x is one in y
      value = np.stack([value] * len(AXES[kind]), axis=-1)
    values.update(zip(AXES[kind], value.T, strict=True))
  return values


@promotion.usual
def residual(
  axis: str, true: np.ndarray, applied: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """What is left of the perturbation after the transformer, per image.

  The sum of what was done and what the transformer does, less its mean over
  the image's class: any pose common to a class will do. The mean of angles is
  that of directions, so that a class brought to about 180 degrees is not torn
  apart.

  Args:
    axis: one of `UNITS`.
    true: `[N]`, what was done to the object.
    applied: `[N]`, what the transformer does to it.
    labels: `[N]` classes.

  Returns:
    `[N]` in the unit of the axis; degrees in (-180, 180].
  """
  total = np.asarray(true, np.float64) + np.asarray(applied, np.float64)
  left = np.empty_like(total)
  for label in np.unique(labels):
    members = np.asarray(labels) == label
    left[members] = _about(axis, total[members], _mean(axis, total[members]))
  return left


@np.errstate(invalid="ignore")
def _mean(axis: str, values: np.ndarray) -> float:
  """The mean along an axis; of angles, that of their directions."""
  if not values.size:
    return np.nan
  if axis == "rotation":
    return float(np.angle(np.exp(1j * np.radians(values)).mean(), deg=True))
  return float(values.mean())


@np.errstate(invalid="ignore")
def _about(axis: str, values: np.ndarray, middle: float) -> np.ndarray:
  """Values less their middle; angles in (-180, 180]."""
  if axis == "rotation":
    return np.angle(np.exp(1j * np.radians(values - middle)), deg=True)
  return values - middle


class Line(NamedTuple):
  """y = slope * x + intercept."""

  slope: float
  intercept: float


class Response(NamedTuple):
  """What a transformer does, against what was done to the objects."""

  applied: np.ndarray  # [N], less the pose common to the class
  line: Line  # of applied against true


def response(
  axis: str,
  true: np.ndarray,
  applied: np.ndarray,
  labels: np.ndarray | None = None,
) -> Response:
  """Fits what a transformer does against what was done.

  Args:
    axis: One of `UNITS`.
    true: `[N]`, what was done to the object.
    applied: `[N]`, what the transformer does to it.
    labels: `[N]` classes, whose mean of `true + applied` is taken off
      `applied`, see `residual`. Without them, nothing is taken off, and angles
      are continued past 180 degrees about the mean of all.

  Returns:
    What the transformer does, and the orthogonal regression of it, see
    `deming_line`: slope -1 where the perturbation is undone, 0 where the
    transformer does nothing.
  """
  true = np.asarray(true, np.float64)
  if labels is None:
    total = true + np.asarray(applied, np.float64)
    middle = _mean(axis, total)
    applied = _about(axis, total, middle) + middle - true
  else:
    applied = residual(axis, true, applied, labels) - true
  return Response(applied, deming_line(true, applied))


class Alignment(NamedTuple):
  """How well a transformer undoes a perturbation, along one axis."""

  std: float  # of the residual; 0 is perfect
  by_class: tuple[float, ...]  # the same for the images of each class
  slope: float  # of applied against true; -1 is perfect
  none: float  # what the std would be if nothing were undone


@promotion.usual
def alignment(
  axis: str, true: np.ndarray, applied: np.ndarray, labels: np.ndarray
) -> Alignment:
  """Measures alignment; see `residual` for the arguments."""
  left = residual(axis, true, applied, labels)
  nothing = residual(axis, true, np.zeros_like(true), labels)
  by_class = [_rms(left[labels == k]) for k in np.unique(labels)]
  return Alignment(
    _rms(left),
    tuple(by_class),
    response(axis, true, applied, labels).line.slope,
    _rms(nothing),
  )


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(values**2))) if values.size else np.nan


@np.errstate(invalid="ignore")
def deming_line(x: np.ndarray, y: np.ndarray) -> Line:
  """Orthogonal regression: both variables err alike.

  Args:
    x: `[N]`.
    y: `[N]`.

  Returns:
    The line through the mean along the direction of largest variance; slope
    and intercept are NaN where `x` and `y` have no variance to go by, are
    empty or not finite.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if not x.size:
    return Line(np.nan, np.nan)
  (xx, xy), (_, yy) = np.cov(x, y, bias=True)
  gap = np.hypot(yy - xx, 2 * xy)
  if xx > yy:  # each form is exact where the other cancels
    slope = 2 * xy / (xx - yy + gap)
  else:
    slope = (yy - xx + gap) / (2 * xy) if xy else np.nan
  return Line(float(slope), float(y.mean() - slope * x.mean()))


# At infinity, or of weight 0 there: NaN.
@np.errstate(invalid="ignore", divide="ignore")
def _affine_at_centre(matrix: np.ndarray) -> np.ndarray:
  """The affine map that a projective one is close to at the origin."""
  checks.matrix("poses", matrix)
  linear, offset = matrix[..., :2, :2], matrix[..., :2, 2:]
  tilt, weight = matrix[..., 2:, :2], matrix[..., 2:, 2:]
  slope = (linear * weight - offset * tilt) / weight**2
  return np.concatenate([slope, offset / weight], axis=-1)
