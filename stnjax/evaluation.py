"""Classification errors, and alignment along the axes of a perturbation.

Statistics are NumPy in float64: small arrays, whose results are reported.
"""

from typing import NamedTuple, Protocol

import numpy as np


class Axis(Protocol):
  """An axis along which poses are compared, such as `stnjax.data.Axis`.

  Attributes:
    name: Name of the axis, such as "rotation".
    unit: Unit of its values, such as "deg".
    period: Period after which values repeat, in the unit, such as 360 for
      angles in degrees; None for values that do not repeat.
  """

  name: str
  unit: str
  period: float | None


def error_rate(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Share of images classified wrongly.

  Args:
    predicted: Predicted classes, `[N]` or `[N, heads]`.
    labels: True classes, in the same shape. An image with several heads is
      right only if all of them are.

  Returns:
    A share in [0, 1].
  """
  wrong = np.asarray(predicted) != np.asarray(labels)
  return float(np.mean(wrong.reshape(len(wrong), -1).any(axis=1)))


def residual(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray,
) -> np.ndarray:
  """Residual pose of each image after perturbation and transformer.

  `true_pose + predicted_pose`, less its mean over the image's class: a
  transformer may bring each class to a pose common to the class. Periodic
  values are averaged as directions, so that a class brought to half a period
  is not torn apart.

  Args:
    axis: Axis of the poses.
    true_pose: What the perturbation did to the object, `[N]`, in the axis'
      unit.
    predicted_pose: What the transformer does to the object, `[N]`, in the
      axis' unit.
    labels: Classes, `[N]`.

  Returns:
    `[N]` in the axis' unit; within half a period if the axis has one.

  Raises:
    ValueError: If the period of the axis is not above 0.
  """
  total = _sum(true_pose, predicted_pose)
  residuals = np.empty_like(total)
  for label in np.unique(labels):
    members = np.asarray(labels) == label
    values = total[members]
    residuals[members] = _about(axis, values, _mean(axis, values))
  return residuals


def _sum(true_pose: np.ndarray, predicted_pose: np.ndarray) -> np.ndarray:
  """Pose of the object after the perturbation and the transformer."""
  return np.asarray(true_pose, np.float64) + np.asarray(
    predicted_pose, np.float64
  )


@np.errstate(invalid="ignore")
def _mean(axis: Axis, values: np.ndarray) -> float:
  """The mean along an axis; of periodic values, that of their directions."""
  if not values.size:
    return np.nan
  if axis.period is None:
    return float(values.mean())
  return float(_value(axis, _direction(axis, values).mean()))


@np.errstate(invalid="ignore")
def _about(axis: Axis, values: np.ndarray, middle: float) -> np.ndarray:
  """Values less their middle; periodic ones within half a period."""
  if axis.period is None:
    return values - middle
  return _value(axis, _direction(axis, values - middle))


def _direction(axis: Axis, values: np.ndarray) -> np.ndarray:
  """Periodic values as complex numbers of modulus 1."""
  if not axis.period > 0:
    raise ValueError(
      f"period of axis {axis.name!r} must be above 0 or None, got {axis.period}"
    )
  return np.exp(1j * (values * (2 * np.pi / axis.period)))


def _value(axis: Axis, direction: np.ndarray) -> np.ndarray:
  """The inverse of `_direction`, within half a period."""
  return np.angle(direction) * (axis.period / (2 * np.pi))


class Line(NamedTuple):
  """y = slope * x + intercept."""

  slope: float
  intercept: float


class Response(NamedTuple):
  """Predicted poses against true poses.

  Attributes:
    predicted_pose: `[N]`, less the pose common to the class.
    line: Orthogonal regression of predicted against true poses.
  """

  predicted_pose: np.ndarray
  line: Line


def response(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray | None = None,
) -> Response:
  """Fits a line to predicted against true poses.

  Args:
    axis: Axis of the poses.
    true_pose: What the perturbation did to the object, `[N]`, in the axis'
      unit.
    predicted_pose: What the transformer does to the object, `[N]`, in the
      axis' unit.
    labels: Classes, `[N]`, whose mean of `true_pose + predicted_pose` is
      subtracted from the predicted poses, see `residual`. If None, nothing is
      subtracted, and periodic values are continued past half a period about
      the mean of all.

  Returns:
    Predicted poses and their orthogonal regression, see `deming_line`: slope
    -1 if the transformer undoes the perturbation, 0 if it does nothing.

  Raises:
    ValueError: If the period of the axis is not above 0.
  """
  true_pose = np.asarray(true_pose, np.float64)
  if labels is None:
    total = _sum(true_pose, predicted_pose)
    middle = _mean(axis, total)
    predicted_pose = _about(axis, total, middle) + middle - true_pose
  else:
    predicted_pose = (
      residual(axis, true_pose, predicted_pose, labels) - true_pose
    )
  return Response(predicted_pose, deming_line(true_pose, predicted_pose))


class Alignment(NamedTuple):
  """How well a transformer undoes a perturbation along one axis.

  Attributes:
    std: Standard deviation of the residual in the axis' unit; 0 is perfect.
      Classes with a single pose have no spread and are left out.
    by_class: Standard deviations of the residual by class, in order of label;
      NaN for a class with a single pose.
    slope: Slope of predicted against true poses; -1 is perfect.
    none: Standard deviation of the residual of an identity transformer.
  """

  std: float
  by_class: tuple[float, ...]
  slope: float
  none: float


def alignment(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray,
) -> Alignment:
  """Measures how well a transformer undoes a perturbation along one axis.

  Args:
    axis: Axis of the poses.
    true_pose: What the perturbation did to the object, `[N]`, in the axis'
      unit.
    predicted_pose: What the transformer does to the object, `[N]`, in the
      axis' unit.
    labels: Classes, `[N]`.

  Returns:
    Standard deviations of the residual and the slope; NaN if a pose is NaN or
    infinite, or no class has two poses.

  Raises:
    ValueError: If the period of the axis is not above 0.
  """
  labels = np.asarray(labels)
  residuals = residual(axis, true_pose, predicted_pose, labels)
  untouched = residual(axis, true_pose, np.zeros_like(true_pose), labels)
  classes, counts = np.unique(labels, return_counts=True)
  # A single pose is its own mean: a residual of 0 would look like alignment.
  spread = np.isin(labels, classes[counts > 1])
  by_class = [_rms(residuals[spread & (labels == k)]) for k in classes]
  return Alignment(
    _rms(residuals[spread]),
    tuple(by_class),
    response(axis, true_pose, predicted_pose, labels).line.slope,
    _rms(untouched[spread]),
  )


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(values**2))) if values.size else np.nan


@np.errstate(invalid="ignore")
def deming_line(x: np.ndarray, y: np.ndarray) -> Line:
  """Orthogonal regression: both variables have errors of equal variance.

  Args:
    x: Values on the horizontal axis, `[N]`.
    y: Values on the vertical axis, `[N]`.

  Returns:
    The line through the mean along the direction of largest variance; slope
    and intercept are NaN if `x` and `y` have no variance, are empty or not
    finite.
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
