"""Lines through clouds of points."""

from typing import NamedTuple

import numpy as np


class Line(NamedTuple):
  """y = slope * x + intercept."""

  slope: float
  intercept: float


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


@np.errstate(invalid="ignore")
def distance(line: Line, x: np.ndarray, y: np.ndarray) -> float:
  """Root mean square of the distances of points from a line.

  Args:
    line: The line.
    x: Values on the horizontal axis, `[N]`.
    y: Values on the vertical axis, `[N]`.

  Returns:
    The distance along the normal of the line; NaN without points.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  if not x.size:
    return np.nan
  above = y - line.slope * x - line.intercept
  return float(np.sqrt(np.mean(above**2) / (1 + line.slope**2)))
