"""Alignment as the authors' published code measures it.

Second axes of the paper's perturbations (Finnveden et al. 2020;
github.com/luuf/understanding-STNs, stn/eval.py): other measures of the same
motions than those of `stnjax.data`, to compare with the paper's figures.
docs/metrics.md lists the differences. Signs are those of `data.object_motion`,
which changes no statistic.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stnjax import data


def nearest_rotation(
  poses: np.ndarray, image_shape: Sequence[int]
) -> np.ndarray:
  """Rotation of the object by the rotation nearest to theta.

  Args:
    poses: Thetas `[N, 2, 3]` or `[N, 3, 3]`.
    image_shape: `(H, W, ...)` of the input; not used.

  Returns:
    `[N]`, float64, degrees in [-180, 180], positive clockwise on the screen.
  """
  del image_shape
  (a, b), (c, d) = _linear(poses)
  return np.asarray(np.degrees(np.arctan2(b - c, a + d)))


def shift(poses: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
  """Shift of the object along both axes of the image.

  Args:
    poses: Thetas `[N, 2, 3]` or `[N, 3, 3]`.
    image_shape: `(H, W, ...)` of the input.

  Returns:
    `[N, 2]`, float64, (x, y) in pixels. As in the authors' code, an offset of 1
    is (W - 1) / 2 pixels, instead of W / 2.
  """
  offset = data.affine_part(poses)[..., 2].astype(np.float64)
  height, width = image_shape[:2]
  return np.asarray(-offset * np.array([width - 1, height - 1]) / 2)


def area(poses: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
  """Factor of the object's area.

  Args:
    poses: Thetas `[N, 2, 3]` or `[N, 3, 3]`.
    image_shape: `(H, W, ...)` of the input; not used.

  Returns:
    `[N]`, float64, in octaves, factors of 2; NaN where a theta is singular.
  """
  del image_shape
  (a, b), (c, d) = _linear(poses)
  with np.errstate(divide="ignore"):
    octaves = -np.log2(np.abs(a * d - b * c))
  return np.where(np.isfinite(octaves), octaves, np.nan)


def _linear(poses: np.ndarray) -> np.ndarray:
  """The linear parts of thetas `[N, ...]` as `[2, 2, N]`."""
  linear = data.affine_part(poses)[..., :2].astype(np.float64)
  return np.moveaxis(linear, (-2, -1), (0, 1))


def _times(
  key: str, factor: float
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
  """A truth times a factor."""
  return lambda truth: factor * np.asarray(truth[key], np.float64)


ROTATION = data.Axis(
  name="rotation",
  unit="deg",
  true=_times("rotation", 180 / np.pi),
  predicted=nearest_rotation,
)
"""Rotation by the nearest rotation matrix; residuals are not wrapped."""

TRANSLATION = data.Axis(
  name="translation",
  unit="px",
  true=_times("translation", 1.0),
  predicted=shift,
)
"""Both components of the translation; the spread is that of its norm."""

AREA = data.Axis(
  name="area", unit="octaves", true=_times("scale", 2.0), predicted=area
)
"""Factor of the area, twice the octaves of a uniform scale."""
