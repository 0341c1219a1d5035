"""Errors and alignment, from what evaluation kept of each image.

Statistics are NumPy in float64: small arrays, whose results are reported.
"""

from typing import NamedTuple

import numpy as np

from stnjax import checks, transforms


def error_rate(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Share of images classified wrongly, in [0, 1]."""
  return float(np.mean(np.asarray(predicted) != np.asarray(labels)))


def predicted_rotation(poses: np.ndarray) -> np.ndarray:
  """The angle by which poses turn the *object*.

  Args:
    poses: thetas `[..., 2, 3]`, or `[..., 3, 3]`, of which the affine part at
      the image's centre is taken.

  Returns:
    `[...]` radians in (-pi, pi], positive clockwise on the screen; NaN where a
    pose is not finite or cannot be inverted.
  """
  poses = np.asarray(poses)
  if poses.shape[-2] == 3:
    poses = _affine_at_centre(poses)
  applied = np.asarray(transforms.invert(poses))
  rotation = np.asarray(transforms.decompose(applied).rotation, np.float64)
  # A pose that cannot be inverted aligns nothing, rather than by 0 degrees.
  return np.where(np.isfinite(applied).all(axis=(-2, -1)), rotation, np.nan)


def rotation_residual(
  true: np.ndarray, predicted: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """What is left of the rotation after the transformer, per image.

  The sum of the true and the predicted angle, less its mean over the image's
  class: any pose common to a class will do. The mean is that of directions,
  so that a class brought to about 180 degrees is not torn apart.

  Args:
    true: `[N]` radians, how the object was rotated.
    predicted: `[N]` radians, how the transformer rotates it.
    labels: `[N]` classes.

  Returns:
    `[N]` degrees in (-180, 180].
  """
  total = np.asarray(true, np.float64) + np.asarray(predicted, np.float64)
  directions = np.exp(1j * total)
  residual = np.empty_like(total)
  for label in np.unique(labels):
    members = np.asarray(labels) == label
    common = np.exp(1j * np.angle(directions[members].mean()))
    residual[members] = np.angle(directions[members] / common)
  return np.degrees(residual)


def alignment_std(
  true: np.ndarray, predicted: np.ndarray, labels: np.ndarray
) -> float:
  """Standard deviation of the residual rotation, in degrees.

  0 is perfect alignment. A transformer that does nothing has the standard
  deviation of the perturbation: 51.96 for +-90 degrees.

  Args:
    true: see `rotation_residual`, as are the others.
    predicted: angles of the transformer.
    labels: classes.
  """
  residual = rotation_residual(true, predicted, labels)
  return float(np.sqrt(np.mean(residual**2)))


class Line(NamedTuple):
  """y = slope * x + intercept."""

  slope: float
  intercept: float


def deming_line(x: np.ndarray, y: np.ndarray) -> Line:
  """Orthogonal regression: both variables err alike.

  Args:
    x: `[N]`.
    y: `[N]`.

  Returns:
    The line through the mean along the direction of largest variance; slope
    and intercept are NaN where `x` and `y` have no variance to go by.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  (xx, xy), (_, yy) = np.cov(x, y, bias=True)
  if xy == 0:
    slope = 0.0 if xx > yy else np.nan
  else:
    slope = (yy - xx + np.hypot(yy - xx, 2 * xy)) / (2 * xy)
  return Line(float(slope), float(y.mean() - slope * x.mean()))


def _affine_at_centre(matrix: np.ndarray) -> np.ndarray:
  """The affine map that a projective one is close to at the origin."""
  checks.matrix("poses", matrix)
  linear, offset = matrix[..., :2, :2], matrix[..., :2, 2:]
  tilt, weight = matrix[..., 2:, :2], matrix[..., 2:, 2:]
  slope = (linear * weight - offset * tilt) / weight**2
  return np.concatenate([slope, offset / weight], axis=-1)
