"""Axes: measures of a perturbation, and of a transformer's poses."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses

import jax
import numpy as np

from stnjax import checks, promotion, transforms

Truth = dict[str, jax.Array]
"""What was done to the object. The built-in perturbations name "rotation" in
radians, positive clockwise on the screen; "translation" `[2]`, (x, y) in
pixels; "scale" as the logarithm to base 2 of the factor."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
  """One number that describes the pose of an object, and its measurement.

  An ideal transformer undoes the perturbation: predicted is minus true, up to a
  constant of the object's class.

  Attributes:
    name: Name of the axis, such as "rotation".
    unit: Unit of the values, such as "deg".
    true: Function from a perturbation's truth, a dict of arrays `[N, ...]`, to
      the motion of the object along the axis, `[N]`; or `[N, D]` among a
      perturbation's `authors_axes`, for D components measured together.
    predicted: Function from poses `[N, 2, 3]` or `[N, 3, 3]` and the shape of
      the image to the object's motion by the transformer along the axis, in
      the shape that `true` returns; see `object_motion`.
    period: Difference of values that are the same, 360 for angles in degrees;
      None if the axis has none.
  """

  name: str
  unit: str
  true: Callable[[Mapping[str, np.ndarray]], np.ndarray]
  predicted: Callable[[np.ndarray, Sequence[int]], np.ndarray]
  period: float | None = None


@promotion.usual
def object_motion(
  poses: np.ndarray, image_shape: Sequence[int]
) -> dict[str, np.ndarray]:
  """The motion of the *object* that poses amount to, by axis.

  The inverse of theta, taken apart into rotation, shear, scale and a
  translation that comes before them: in pixels of the input, and the same
  however the object is scaled afterwards.

  Args:
    poses: Thetas `[..., 2, 3]`, or `[..., 3, 3]`, of which the affine part at
      the image's centre is taken.
    image_shape: `(H, W, ...)` of the input.

  Returns:
    Arrays `[...]`, float64: "rotation" in degrees in (-180, 180], positive
    clockwise on the screen; "translation_x" and "translation_y" in pixels;
    "scale_x" and "scale_y" in octaves, factors of 2. NaN where a pose is not
    finite or cannot be inverted.
  """
  poses = affine_part(poses)
  inverse, parts = _inverse_in_parts(poses)
  inverse = np.asarray(inverse)
  factors = np.asarray(parts.scale, np.float64)
  height, width = image_shape[:2]
  with np.errstate(divide="ignore"):
    values = {
      "rotation": np.degrees(np.asarray(parts.rotation, np.float64)),
      "translation_x": -poses[..., 0, 2].astype(np.float64) * width / 2,
      "translation_y": -poses[..., 1, 2].astype(np.float64) * height / 2,
      "scale_x": np.log2(factors[..., 0]),
      "scale_y": np.log2(np.abs(factors[..., 1])),
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


# At infinity, or of weight 0 there: NaN.
@np.errstate(invalid="ignore", divide="ignore")
def affine_part(poses: np.ndarray) -> np.ndarray:
  """The affine maps that poses are close to at the image's centre.

  Args:
    poses: Thetas `[..., 2, 3]`, which are returned as they are, or projective
      ones `[..., 3, 3]`.

  Returns:
    Thetas `[..., 2, 3]`; NaN where a projective one maps the centre to
    infinity.

  Raises:
    ValueError: For a wrong shape.
  """
  poses = np.asarray(poses)
  checks.matrix("poses", poses)
  if poses.shape[-2] == 2:
    return poses
  linear, offset = poses[..., :2, :2], poses[..., :2, 2:]
  tilt, weight = poses[..., 2:, :2], poses[..., 2:, 2:]
  slope = (linear * weight - offset * tilt) / weight**2
  return np.concatenate([slope, offset / weight], axis=-1)


def _moved(name: str) -> Callable[[np.ndarray, Sequence[int]], np.ndarray]:
  """The part of `object_motion` along one axis."""
  return lambda poses, image_shape: object_motion(poses, image_shape)[name]


def _column(
  key: str, index: int
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
  """One column of a truth `[N, 2]`, or all of one `[N]`."""

  def true(truth: Mapping[str, np.ndarray]) -> np.ndarray:
    values = np.asarray(truth[key], np.float64)
    return values[:, index] if values.ndim == 2 else values

  return true


ROTATION = Axis(
  name="rotation",
  unit="deg",
  true=lambda truth: np.degrees(np.asarray(truth["rotation"], np.float64)),
  predicted=_moved("rotation"),
  period=360.0,
)
"""Rotation in degrees, positive clockwise on the screen."""

TRANSLATION_X = Axis(
  name="translation_x",
  unit="px",
  true=_column("translation", 0),
  predicted=_moved("translation_x"),
)
"""Translation to the right in pixels."""

TRANSLATION_Y = Axis(
  name="translation_y",
  unit="px",
  true=_column("translation", 1),
  predicted=_moved("translation_y"),
)
"""Translation downwards in pixels."""

SCALE_X = Axis(
  name="scale_x",
  unit="octaves",
  true=_column("scale", 0),
  predicted=_moved("scale_x"),
)
"""Scale along x in octaves, factors of 2."""

SCALE_Y = Axis(
  name="scale_y",
  unit="octaves",
  true=_column("scale", 1),
  predicted=_moved("scale_y"),
)
"""Scale along y in octaves, factors of 2."""
