"""Poses: how much of a perturbation a transformer undoes."""

from typing import NamedTuple, Protocol

import numpy as np

from stnjax.evaluation import lines
from stnjax.evaluation.lines import Line


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


def residual(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray,
  passes: np.ndarray | None = None,
) -> np.ndarray:
  """Residual pose of each image after perturbation and transformer.

  `true_pose + predicted_pose`, less its mean over the image's class: a
  transformer may bring each class to a pose common to the class. Periodic
  values are averaged as directions, so that a class brought to half a period
  is not torn apart.

  Args:
    axis: Axis of the poses.
    true_pose: What the perturbation did to the object, `[N]`, or `[P, N]` for P
      passes over the images, in the axis' unit.
    predicted_pose: What the transformer does to the object, `[N]` or `[P, N]`,
      in the axis' unit.
    labels: Classes, `[N]`.
    passes: `[P]`, bool, the passes over whose poses the mean of the class is
      taken; all if None.

  Returns:
    `[N]` or `[P, N]` in the axis' unit; within half a period if the axis has
    one.

  Raises:
    ValueError: If the period of the axis is not above 0, or the shapes do not
      fit.
  """
  total = _sum(true_pose, predicted_pose)
  labels = _checked_labels(labels, total)
  residuals = np.empty_like(total)
  for label in np.unique(labels):
    members = labels == label
    values = total[..., members]
    meant = values if passes is None else values[passes]
    residuals[..., members] = _about(axis, values, _mean(axis, meant))
  return residuals


def _sum(true_pose: np.ndarray, predicted_pose: np.ndarray) -> np.ndarray:
  """Pose of the object after the perturbation and the transformer."""
  true_pose = np.asarray(true_pose, np.float64)
  predicted_pose = np.asarray(predicted_pose, np.float64)
  if true_pose.shape != predicted_pose.shape or true_pose.ndim not in (1, 2):
    raise ValueError(
      "true_pose and predicted_pose must both be [N] or [P, N], got shapes"
      f" {true_pose.shape} and {predicted_pose.shape}"
    )
  return np.asarray(true_pose + predicted_pose)


def _checked_labels(labels: np.ndarray, poses: np.ndarray) -> np.ndarray:
  """Raises unless there is a label for each image."""
  labels = np.asarray(labels)
  if labels.shape != poses.shape[-1:]:
    raise ValueError(
      f"labels must be [N], {poses.shape[-1:]} for poses of shape"
      f" {poses.shape}, got shape {labels.shape}"
    )
  return labels


@np.errstate(invalid="ignore")
def _mean(
  axis: Axis, values: np.ndarray, along: int | None = None
) -> np.ndarray:
  """The mean along an axis; of periodic values, that of their directions."""
  if not values.size:
    return np.full(np.sum(values, along).shape, np.nan)
  if axis.period is None:
    return np.asarray(values.mean(along))
  direction = _direction(axis.name, axis.period, values)
  return _value(axis.period, np.asarray(direction.mean(along)))


@np.errstate(invalid="ignore")
def _about(axis: Axis, values: np.ndarray, middle: np.ndarray) -> np.ndarray:
  """Values less their middle; periodic ones within half a period."""
  if axis.period is None:
    return np.asarray(values - middle)
  direction = _direction(axis.name, axis.period, values - middle)
  return _value(axis.period, direction)


def _direction(name: str, period: float, values: np.ndarray) -> np.ndarray:
  """Periodic values as complex numbers of modulus 1."""
  if not period > 0:
    raise ValueError(
      f"period of axis {name!r} must be above 0 or None, got {period}"
    )
  return np.asarray(np.exp(1j * (values * (2 * np.pi / period))))


def _value(period: float, direction: np.ndarray) -> np.ndarray:
  """The inverse of `_direction`, within half a period."""
  return np.asarray(np.angle(direction) * (period / (2 * np.pi)))


class Response(NamedTuple):
  """Predicted poses against true poses.

  Attributes:
    predicted_pose: `[N]` or `[P, N]`, less the pose common to the class.
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
    true_pose: What the perturbation did to the object, `[N]`, or `[P, N]` for P
      passes over the images, in the axis' unit.
    predicted_pose: What the transformer does to the object, `[N]` or `[P, N]`,
      in the axis' unit.
    labels: Classes, `[N]`, whose mean of `true_pose + predicted_pose` is
      subtracted from the predicted poses, see `residual`. If None, nothing is
      subtracted, and periodic values are continued past half a period about
      the mean of all.

  Returns:
    Predicted poses and their orthogonal regression, see `deming_line`: slope
    -1 if the transformer undoes the perturbation, 0 if it does nothing. Over a
    whole period the sum of both has no mean if the transformer does nothing:
    periodic predicted poses are taken about their own mean where the points are
    then closer to their line.

  Raises:
    ValueError: If the period of the axis is not above 0, or the shapes do not
      fit.
  """
  true_pose = np.asarray(true_pose, np.float64)
  undoing = _about_total(axis, true_pose, predicted_pose, labels)
  found = _with_line(true_pose, undoing)
  if axis.period is None:
    return found
  nothing = np.zeros_like(true_pose)
  alone = _about_total(axis, nothing, predicted_pose, labels)
  other = _with_line(true_pose, alone)
  return min(found, other, key=lambda r: _scatter(true_pose, r))


def _about_total(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray | None,
) -> np.ndarray:
  """Predicted poses such that their sum with the true ones is continuous."""
  if labels is not None:
    about_class = residual(axis, true_pose, predicted_pose, labels)
    return np.asarray(about_class - true_pose)
  total = _sum(true_pose, predicted_pose)
  middle = _mean(axis, total)
  return np.asarray(_about(axis, total, middle) + middle - true_pose)


def _with_line(true_pose: np.ndarray, predicted_pose: np.ndarray) -> Response:
  line = lines.deming_line(true_pose.ravel(), predicted_pose.ravel())
  return Response(predicted_pose, line)


def _scatter(true_pose: np.ndarray, found: Response) -> float:
  """Distance of the points from their line; infinite where it is unknown."""
  points = true_pose.ravel(), found.predicted_pose.ravel()
  distance = lines.distance(found.line, *points)
  return distance if np.isfinite(distance) else np.inf


class Alignment(NamedTuple):
  """Measures of how a transformer undoes a perturbation along one axis.

  Attributes:
    std: Standard deviation of the residual about the mean of the class, in the
      axis' unit; 0 if each class is brought to one pose. Classes with a single
      pose have no spread and are left out.
    by_class: Standard deviations of that residual by class, in order of label;
      NaN for a class with a single pose.
    slope: Slope of predicted against true poses; -1 is perfect.
    none: `std` of an identity transformer.
    by_image: Standard deviation of the residual about the mean of the image
      over its passes, in the axis' unit; 0 if all perturbed versions of each
      image are brought to one pose. Differences between images of a class do
      not count. NaN for a single pass.
    none_by_image: What `by_image` is for an identity transformer.
  """

  std: float
  by_class: tuple[float, ...]
  slope: float
  none: float
  by_image: float
  none_by_image: float


def alignment(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray,
) -> Alignment:
  """Measures how well a transformer undoes a perturbation along one axis.

  Args:
    axis: Axis of the poses.
    true_pose: What the perturbation did to the object, `[P, N]` for P passes
      over N images, or `[N]` for a single pass, in the axis' unit.
    predicted_pose: What the transformer does to the object, `[P, N]` or `[N]`,
      in the axis' unit.
    labels: Classes, `[N]`.

  Returns:
    Standard deviations of the residual and the slope; NaN if a pose is NaN or
    infinite. `std` and `none` divide by the number of poses, and are NaN if no
    class has two of them. `by_image` and `none_by_image` divide by N (P - 1),
    which makes their squares unbiased.

  Raises:
    ValueError: If the period of the axis is not above 0, or the shapes do not
      fit.
  """
  true_pose = np.atleast_2d(np.asarray(true_pose, np.float64))
  predicted_pose = np.atleast_2d(np.asarray(predicted_pose, np.float64))
  nothing = np.zeros_like(true_pose)
  residuals = residual(axis, true_pose, predicted_pose, labels)
  untouched = residual(axis, true_pose, nothing, labels)
  labels = np.asarray(labels)
  classes, counts = np.unique(labels, return_counts=True)
  # A single pose is its own mean: a residual of 0 would look like alignment.
  spread = np.isin(labels, classes[counts * len(true_pose) > 1])
  by_class = [_rms(residuals[:, spread & (labels == k)]) for k in classes]
  return Alignment(
    _rms(residuals[:, spread]),
    tuple(by_class),
    response(axis, true_pose, predicted_pose, labels).line.slope,
    _rms(untouched[:, spread]),
    _about_images(axis, _sum(true_pose, predicted_pose)),
    _about_images(axis, true_pose),
  )


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(values**2))) if values.size else np.nan


def _about_images(axis: Axis, values: np.ndarray) -> float:
  """Standard deviation of `[P, N]` about the mean of each image."""
  passes, images = values.shape
  if passes < 2 or not images:
    return np.nan
  centred = _about(axis, values, _mean(axis, values, 0))
  return float(np.sqrt(np.sum(centred**2) / (images * (passes - 1))))


class PooledAlignment(NamedTuple):
  """Measures of how a transformer undoes a perturbation, components together.

  Attributes:
    std: Root mean square of the norm of the residual about the mean of the
      class, in the axis' unit; 0 is perfect.
    none: `std` of an identity transformer.
    slope: Slope of the line through predicted against true values, from which
      no mean of a class is subtracted; values of all classes and components are
      pooled. -1 is perfect.
    intercept: Intercept of that line, in the axis' unit.
  """

  std: float
  none: float
  slope: float
  intercept: float


def pooled_alignment(
  axis: Axis,
  true_pose: np.ndarray,
  predicted_pose: np.ndarray,
  labels: np.ndarray,
) -> PooledAlignment:
  """Measures how well a transformer undoes several components together.

  Args:
    axis: Axis of the poses.
    true_pose: What the perturbation did to the object, `[N]`, or `[N, D]` for D
      components, in the axis' unit.
    predicted_pose: What the transformer does to the object, `[N]` or `[N, D]`,
      in the axis' unit.
    labels: Classes, `[N]`.

  Returns:
    The spread of the residual and the line through all poses; NaN if a pose is
    NaN or infinite, or there is none.

  Raises:
    ValueError: If the period of the axis is not above 0, or the shapes do not
      fit.
  """
  true_pose = np.asarray(true_pose, np.float64)
  predicted_pose = np.asarray(predicted_pose, np.float64)
  if true_pose.shape != predicted_pose.shape or true_pose.ndim not in (1, 2):
    raise ValueError(
      "true_pose and predicted_pose must both be [N] or [N, D], got shapes"
      f" {true_pose.shape} and {predicted_pose.shape}"
    )
  count = len(true_pose)

  def spread(true_pose: np.ndarray, predicted_pose: np.ndarray) -> float:
    components = np.atleast_2d(true_pose.T), np.atleast_2d(predicted_pose.T)
    residuals = [
      residual(axis, true, predicted, labels)
      for true, predicted in zip(*components, strict=True)
    ]
    return _rms(np.linalg.norm(residuals, axis=0)) if count else np.nan

  line = lines.deming_line(true_pose.ravel(), predicted_pose.ravel())
  return PooledAlignment(
    spread(true_pose, predicted_pose),
    spread(true_pose, np.zeros_like(true_pose)),
    *line,
  )
