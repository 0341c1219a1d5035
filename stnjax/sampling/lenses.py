"""Grids that undo the distortion of a lens."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, coordinates, promotion

_SMALL = 0.01  # squared radius below which a series replaces the arctangent

_FARTHEST = 1e4  # largest coordinate in the plane at distance 1


@promotion.usual
def lens_grid(
  camera: ArrayLike,
  coefficients: ArrayLike,
  output_shape: Sequence[int],
  *,
  input_shape: Sequence[int] | None = None,
  model: str = "brown_conrady",
  rotation: ArrayLike | None = None,
  new_camera: ArrayLike | None = None,
  align_corners: bool = False,
) -> jax.Array:
  """The grid that undistorts, and rectifies, the image of a camera.

  Convention: cameras are in pixels, 0 at the first pixel's centre, as in
  OpenCV; the grid is in normalised coordinates of the distorted image.
  `coordinates.to_pixels(grid, input_shape)` are the maps of
  `cv2.initUndistortRectifyMap(camera, coefficients, rotation, new_camera)`.

  Args:
    camera: `[..., 3, 3]` of the distorted image, in pixels: focal lengths on
      the diagonal, skew right of the first, the principal point in the last
      column. The last row is taken to be (0, 0, 1).
    coefficients: `[..., D]`, in OpenCV's order. Brown-Conrady: k1, k2, p1, p2,
      then k3, then k4, k5, k6, then s1 to s4, then the two tilts of the sensor
      in radians; D = 4, 5, 8, 12 or 14. Fisheye: k1 to k4; D = 4.
    output_shape: `(H, W)` of the result.
    input_shape: `(H, W)` of the distorted image; `output_shape` by default.
    model: "brown_conrady" (`cv2.undistort`) or "fisheye" (`cv2.fisheye`, of
      Kannala and Brandt).
    rotation: `[..., 3, 3]`, from the distorted camera's axes to those of the
      result; the identity by default.
    new_camera: `[..., 3, 3]` of the result, in pixels; `camera` by default.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, 2]` normalised coordinates, float32 or wider; NaN,
    which samplers read as fill, for directions that are not in front of the
    distorted camera (at less than 1e-4 radians to its sensor), and everywhere
    if `new_camera` or `rotation` is singular.

  Raises:
    ValueError: For an unknown model, a number of coefficients that the model
      does not have, a wrong shape, batch axes that do not broadcast.
    TypeError: For complex or boolean values.

  Gradient: exact with respect to cameras, coefficients and rotation, also on
    the optical axis; zero where NaN.

  Reference: Brown 1971, "Close-range camera calibration"; Kannala and Brandt
    2006, "A generic camera model"; OpenCV's documentation of
    `calib3d` for the terms. OpenCV takes the skew of `camera` to be 0.

  >>> camera = jnp.array([[4.0, 0, 1.5], [0, 4, 0], [0, 0, 1]])
  >>> lens_grid(camera, jnp.zeros(4), (1, 4)).round(4).tolist()
  [[[-0.75, 0.0], [-0.25, 0.0], [0.25, 0.0], [0.75, 0.0]]]
  """
  checks.option("model", model, _MODELS)
  checks.flag("align_corners", align_corners)
  output_shape = checks.spatial_shape(
    "output_shape", output_shape, 2, symbolic=True
  )
  if input_shape is None:
    input_shape = output_shape
  input_shape = checks.spatial_shape(
    "input_shape", input_shape, 2, symbolic=True
  )
  camera = _checked_matrix("camera", camera)
  if new_camera is None:
    new_camera = camera
  if rotation is None:
    rotation = jnp.eye(3, dtype=camera.dtype)
  new_camera = _checked_matrix("new_camera", new_camera)
  rotation = _checked_matrix("rotation", rotation)
  coefficients = _checked_coefficients(coefficients, model)
  batches = {
    "camera": camera.shape[:-2],
    "coefficients": coefficients.shape[:-1],
    "rotation": rotation.shape[:-2],
    "new_camera": new_camera.shape[:-2],
  }
  for name, batch in batches.items():
    for other, against in batches.items():
      checks.batch(name, batch, other, against)
  kind = jnp.result_type(camera, new_camera, rotation, coefficients)
  points = _points(
    camera.astype(kind),
    new_camera.astype(kind),
    rotation.astype(kind),
    coefficients.astype(kind),
    output_shape,
    model,
  )
  return coordinates.to_normalised(
    points, input_shape, align_corners=align_corners
  )


def _checked_matrix(name: str, matrix: ArrayLike) -> jax.Array:
  matrix = checks.floating(name, matrix)
  if matrix.shape[-2:] != (3, 3):
    raise ValueError(f"{name} must be [..., 3, 3], got shape {matrix.shape}")
  return matrix


def _checked_coefficients(coefficients: ArrayLike, model: str) -> jax.Array:
  coefficients = checks.floating("coefficients", coefficients)
  accepted = _MODELS[model].counts
  if not coefficients.ndim or coefficients.shape[-1] not in accepted:
    counts = " or ".join(map(str, accepted))
    raise ValueError(
      f"coefficients must be [..., D] with D = {counts} for model={model!r},"
      f" got shape {coefficients.shape}"
    )
  return coefficients


def _points(
  camera: jax.Array,
  new_camera: jax.Array,
  rotation: jax.Array,
  coefficients: jax.Array,
  output_shape: tuple[int, ...],
  model: str,
) -> jax.Array:
  """The pixel coordinates `[..., h, w, 2]` of the places to read."""
  height, width = output_shape
  x = jnp.arange(width, dtype=camera.dtype)
  y = jnp.arange(height, dtype=camera.dtype)[:, None]

  def row(terms: jax.Array) -> jax.Array:
    a, b, c = (terms[..., i, None, None] for i in range(3))
    return a * x + (b * y + c)

  to_ray, regular = _inverse(_product(new_camera, rotation))
  ray = [row(to_ray[..., i, :]) for i in range(3)]
  seen = (ray[2] > 0) & regular[..., None, None]
  # Further out, powers of the radius would overflow in float32.
  for part in ray[:2]:
    seen &= jnp.abs(part) < _FARTHEST * ray[2]
  depth = jnp.where(seen, ray[2], 1)
  x, y = (jnp.where(seen, part, 0) / depth for part in ray[:2])
  x, y = _MODELS[model].distort(x, y, coefficients[..., None, None, :])
  first, second = (camera[..., i, None, None, :] for i in range(2))
  pixels = jnp.stack(
    [
      first[..., 0] * x + first[..., 1] * y + first[..., 2],
      second[..., 0] * x + second[..., 1] * y + second[..., 2],
    ],
    axis=-1,
  )
  return jnp.where(seen[..., None], pixels, jnp.nan)


def _brown_conrady(
  x: jax.Array, y: jax.Array, coefficients: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Distorts places of the plane at distance 1 from the camera."""
  missing = 14 - coefficients.shape[-1]
  pad = [(0, 0)] * (coefficients.ndim - 1) + [(0, missing)]
  terms = jnp.moveaxis(jnp.pad(coefficients, pad), -1, 0)
  k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4, tilt_x, tilt_y = terms
  square = x * x + y * y
  radial = 1 + square * (k1 + square * (k2 + square * k3))
  radial = radial / (1 + square * (k4 + square * (k5 + square * k6)))
  mixed = 2 * x * y
  distorted_x = (
    x * radial
    + p1 * mixed
    + p2 * (square + 2 * x * x)
    + square * (s1 + square * s2)
  )
  distorted_y = (
    y * radial
    + p1 * (square + 2 * y * y)
    + p2 * mixed
    + square * (s3 + square * s4)
  )
  if missing:
    return distorted_x, distorted_y
  return _tilted(distorted_x, distorted_y, tilt_x, tilt_y)


def _tilted(
  x: jax.Array, y: jax.Array, tilt_x: jax.Array, tilt_y: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Projects to a sensor that is turned about x, and then about y."""
  cos_x, sin_x = jnp.cos(tilt_x), jnp.sin(tilt_x)
  cos_y, sin_y = jnp.cos(tilt_y), jnp.sin(tilt_y)
  down = cos_x * y + sin_x
  depth = cos_x - sin_x * y
  turned_x = cos_y * x - sin_y * depth
  turned_z = sin_y * x + cos_y * depth
  # The axis of the camera meets the sensor where it does without a tilt.
  axis_x, axis_y, axis_z = -sin_y * cos_x, sin_x, cos_y * cos_x
  defined = jnp.abs(turned_z) > 0
  scale = jnp.where(defined, axis_z, jnp.nan) / jnp.where(defined, turned_z, 1)
  return turned_x * scale - axis_x, down * scale - axis_y


def _fisheye(
  x: jax.Array, y: jax.Array, coefficients: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Distorts places of the plane at distance 1 from the camera."""
  k1, k2, k3, k4 = jnp.moveaxis(coefficients, -1, 0)
  square = x * x + y * y
  # On the axis the radius has no derivative, but angle over radius has one.
  near = square < _SMALL
  radius = jnp.sqrt(jnp.where(near, 1, square))
  series = jnp.zeros_like(square)
  for power in reversed(range(9)):
    series = 1 / (2 * power + 1) - jnp.where(near, square, 0) * series
  ratio = jnp.where(near, series, jnp.arctan(radius) / radius)
  angle = square * ratio * ratio
  scale = 1 + angle * (k1 + angle * (k2 + angle * (k3 + angle * k4)))
  return x * ratio * scale, y * ratio * scale


class _Model(NamedTuple):
  """Distortion of a lens, and accepted numbers of coefficients."""

  distort: Callable[
    [jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
  ]
  counts: tuple[int, ...]


_MODELS = {
  "brown_conrady": _Model(_brown_conrady, (4, 5, 8, 12, 14)),
  "fisheye": _Model(_fisheye, (4,)),
}


def _inverse(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The inverse of `[..., 3, 3]`, and where there is one."""
  rows = matrix[..., 0, :], matrix[..., 1, :], matrix[..., 2, :]
  columns = [
    jnp.cross(rows[i - 2], rows[i - 1]) for i in range(3)
  ]  # of the inverse, times the determinant
  determinant = (rows[0] * columns[0]).sum(-1)
  regular = jnp.isfinite(determinant) & (determinant != 0)
  safe = jnp.where(regular, determinant, 1)
  return jnp.stack(columns, -1) / safe[..., None, None], regular


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
