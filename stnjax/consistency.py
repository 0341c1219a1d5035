"""Consistency of a transformer: its residuals for known transforms of an image.

One image is transformed by several members of a family with one parameter, over
the circle of rotations for instance. A transformer that brings all versions to
one pose has the same residual for every transform. `residuals` computes the
residuals, and `spread` their spread over the versions of an image.
"""

from collections.abc import Callable
import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from stnjax import data, transforms
from stnjax.registry import Registry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coordinate:
  """The unit in which members of a family with one parameter are measured.

  Attributes:
    unit: Unit of the values, such as "deg".
    per_unit: Parameter of the family for one unit.
    value: Function from matrices `[..., 2, 3]` to values `[...]`: that of the
      member of the family that is closest.
    low: Usual lowest value of the versions.
    high: Usual highest value of the versions.
    cycle: Values that differ by it are the same transform; None for none.
    period: Usual period of the distance between values; None for none.
  """

  unit: str
  per_unit: float
  value: Callable[[np.ndarray], np.ndarray]
  low: float
  high: float
  cycle: float | None = None
  period: float | None = None


def rotation_degrees(matrix: np.ndarray) -> np.ndarray:
  """Angle of the rotation that is closest to a matrix.

  Args:
    matrix: `[..., 2, 3]`; the closest in the Frobenius norm of the linear part.

  Returns:
    `[...]`, degrees in [-180, 180], as `transforms.rotation` counts them.
  """
  matrix = np.asarray(matrix, np.float64)
  sine = matrix[..., 1, 0] - matrix[..., 0, 1]
  cosine = matrix[..., 0, 0] + matrix[..., 1, 1]
  return np.asarray(np.degrees(np.arctan2(sine, cosine)))


def scale_octaves(matrix: np.ndarray) -> np.ndarray:
  """Logarithm to base 2 of the factor on the coordinates, by the area.

  Args:
    matrix: `[..., 2, 3]`.

  Returns:
    `[...]`, half of the logarithm of the absolute determinant; -inf where it
    is 0.
  """
  linear = np.asarray(matrix, np.float64)[..., :2]
  with np.errstate(divide="ignore"):
    return np.asarray(np.log2(np.abs(np.linalg.det(linear))) / 2)


COORDINATES: Registry[Coordinate] = Registry("family")
"""Coordinates of families with one parameter, by the family's name."""

COORDINATES.register(
  "rotation",
  Coordinate(
    unit="deg",
    per_unit=math.pi / 180,
    value=rotation_degrees,
    low=-180.0,
    high=180.0,
    cycle=360.0,
    period=180.0,
  ),
)
COORDINATES.register(
  "scale",
  Coordinate(
    unit="octaves",
    per_unit=math.log(2),
    value=scale_octaves,
    low=-1.0,
    high=1.0,
  ),
)


def versions(
  family: str, count: int, low: float | None = None, high: float | None = None
) -> np.ndarray:
  """Values of the transforms of an image, evenly spaced over a range.

  Args:
    family: Name of a family in `COORDINATES`.
    count: Number of versions, at least 2.
    low: Lowest value, in the unit of the family; its usual one by default.
    high: Highest value; its usual one by default. Left out if it is the same
      transform as `low`, as 180 and -180 degrees are.

  Returns:
    `[count]`, float64.

  Raises:
    ValueError: For another family, fewer versions, or an empty range.
  """
  coordinate = COORDINATES[family]
  low = coordinate.low if low is None else low
  high = coordinate.high if high is None else high
  if count < 2:
    raise ValueError(f"count must be at least 2, got {count}")
  if not -math.inf < low < high < math.inf:
    raise ValueError(
      f"low must be less than high, and both finite, got {low} and {high}"
    )
  closed = coordinate.cycle and (high - low) % coordinate.cycle == 0
  return np.linspace(low, high, count, endpoint=not closed)


def matrices(family: str, values: np.ndarray) -> np.ndarray:
  """Matrices of members of a family, from values in its unit.

  Args:
    family: Name of a family in `COORDINATES`.
    values: `[V]`, in the unit of the family.

  Returns:
    `[V, 2, 3]`, float32, output to input coordinates, for `stnjax.warp`.

  Raises:
    ValueError: For another family, or one with several parameters.
  """
  params = np.asarray(values) * COORDINATES[family].per_unit
  params = jnp.asarray(params, jnp.float32)[..., None]
  return np.asarray(transforms.matrix(params, family))


def residuals(
  family: str, applied: np.ndarray, poses: np.ndarray
) -> np.ndarray:
  """Residuals of known transforms after the transformer, in the family's unit.

  The transformer samples the transformed image at its pose, so that the whole
  transform of the original is the product of both.

  Args:
    family: Name of a family in `COORDINATES`.
    applied: `[V, 2, 3]`, the transform of each version.
    poses: `[N, V, 2, 3]` or `[N, V, 3, 3]`, the pose of the network for each
      version of each image; of projective ones the affine part at the centre.

  Returns:
    `[N, V]`.

  Raises:
    ValueError: For another family.
  """
  poses = data.affine_part(np.asarray(poses, np.float64))
  applied = np.asarray(applied, np.float64)
  linear = applied[..., :2] @ poses[..., :2]
  offset = applied[..., :2] @ poses[..., 2:] + applied[..., 2:]
  return COORDINATES[family].value(np.concatenate([linear, offset], axis=-1))


def spread(values: np.ndarray, period: float | None = None) -> np.ndarray:
  """Smallest mean distance of one version from the others.

  Args:
    values: `[..., V]`, residual of each version, at least two.
    period: Period of the values, 180 for axes in degrees, whose distances are
      at most half of it; None for none.

  Returns:
    `[...]`: the least over versions of the mean distance to the V - 1 others;
    0 if all versions come to one pose, NaN if a value is not finite.

  Raises:
    ValueError: For fewer than two versions, or a period that is not above 0.

  Reference: The authors' statistic of plankton, Finnveden et al. 2020
  (arXiv:2004.11678), is that of 17 rotations with period 180.
  """
  values = np.asarray(values, np.float64)
  count = values.shape[-1] if values.ndim else 0
  if count < 2:
    raise ValueError(
      f"values must be [..., V] with V of at least 2, got shape {values.shape}"
    )
  if period is not None and not period > 0:
    raise ValueError(f"period must be above 0 or None, got {period}")
  with np.errstate(invalid="ignore"):
    distance = np.abs(values[..., :, None] - values[..., None, :])
    if period is not None:
      distance = distance % period
      distance = np.minimum(distance, period - distance)
  return np.asarray(distance.sum(axis=-1).min(axis=-1) / (count - 1))
