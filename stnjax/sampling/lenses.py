"""Grids and points that undo the distortion of a lens."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, coordinates, promotion
from stnjax.sampling import lens_models


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
  checks.flag("align_corners", align_corners)
  height, width = output_shape = checks.spatial_shape(
    "output_shape", output_shape, 2, symbolic=True
  )
  if input_shape is None:
    input_shape = output_shape
  input_shape = checks.spatial_shape(
    "input_shape", input_shape, 2, symbolic=True
  )
  lens = lens_models.checked(camera, coefficients, model, rotation, new_camera)
  kind = lens.camera.dtype
  x = jnp.arange(width, dtype=kind)
  y = jnp.arange(height, dtype=kind)[:, None]
  points, seen = lens.distorted(x, y, 2)
  return coordinates.to_normalised(
    jnp.where(seen[..., None], points, jnp.nan),
    input_shape,
    align_corners=align_corners,
  )


@promotion.usual
def undistort_points(
  points: ArrayLike,
  camera: ArrayLike,
  coefficients: ArrayLike,
  *,
  model: str = "brown_conrady",
  rotation: ArrayLike | None = None,
  new_camera: ArrayLike | None = None,
) -> jax.Array:
  """Moves points of a distorted image as `lens_grid` moves the image.

  Convention: points and cameras are in pixels, 0 at the first pixel's centre.
  `cv2.undistortPoints(points, camera, coefficients, R=rotation, P=new_camera)`
  and `cv2.fisheye.undistortPoints`, solved to rounding: by Newton's method, up
  to 64 roundings of a place in the plane at distance 1 (about 1e-5 in float32,
  1e-14 in float64, times the focal length in pixels).

  Args:
    points: `[..., K, 2]` points (x, y) of the distorted image, in pixels. Batch
      axes broadcast against those of the other arguments.
    camera: `[..., 3, 3]` of the distorted image, in pixels; see `lens_grid`.
    coefficients: `[..., D]` of the model, in OpenCV's order; see `lens_grid`.
    model: "brown_conrady" or "fisheye".
    rotation: `[..., 3, 3]`, from the distorted camera's axes to those of the
      result; the identity by default.
    new_camera: `[..., 3, 3]` of the result, in pixels; `camera` by default. The
      identity gives places in the plane at distance 1, as OpenCV without `P`.

  Returns:
    `[..., K, 2]` points of the undistorted image, in pixels, float32 or wider.
    NaN where a point is not finite, is none that the model distorts to (beyond
    the largest radius), is not in front of the camera of the result, or where
    `camera` is singular.

  Raises:
    ValueError: For an unknown model, a number of coefficients that the model
      does not have, a wrong shape, batch axes that do not broadcast.
    TypeError: For complex or boolean values.

  Gradient: that of the solution, with respect to every array, also on the
    optical axis; zero where NaN.

  >>> camera = jnp.array([[4.0, 0, 1.5], [0, 4, 0], [0, 0, 1]])
  >>> barrel = jnp.array([-0.25, 0.0, 0.0, 0.0])
  >>> point = undistort_points(jnp.array([[4.5, 0]]), camera, barrel)
  >>> [round(x, 3) for x in point[0].tolist()]
  [5.5, 0.0]
  """
  points = _checked(points)
  lens = lens_models.checked(
    camera, coefficients, model, rotation, new_camera, points
  )
  finite, x, y = _coordinates(points, lens)
  found, seen = lens.undistorted(x, y)
  return jnp.where((seen & finite)[..., None], found, jnp.nan)


@promotion.usual
def distort_points(
  points: ArrayLike,
  camera: ArrayLike,
  coefficients: ArrayLike,
  *,
  model: str = "brown_conrady",
  rotation: ArrayLike | None = None,
  new_camera: ArrayLike | None = None,
) -> jax.Array:
  """Places in the distorted image of points of the undistorted one.

  The inverse of `undistort_points`, and what `lens_grid` computes for each
  pixel of its result.

  Convention: points and cameras are in pixels, 0 at the first pixel's centre.

  Args:
    points: `[..., K, 2]` points (x, y) of the undistorted image, in pixels.
      Batch axes broadcast against those of the other arguments.
    camera: `[..., 3, 3]` of the distorted image, in pixels; see `lens_grid`.
    coefficients: `[..., D]` of the model, in OpenCV's order; see `lens_grid`.
    model: "brown_conrady" or "fisheye".
    rotation: `[..., 3, 3]`, from the distorted camera's axes to those of the
      undistorted image; the identity by default.
    new_camera: `[..., 3, 3]` of the undistorted image, in pixels; `camera` by
      default. The identity takes places in the plane at distance 1, as
      `cv2.fisheye.distortPoints`.

  Returns:
    `[..., K, 2]` points of the distorted image, in pixels, float32 or wider.
    NaN where a point is not finite or not in front of the distorted camera, or
    where `new_camera` or `rotation` is singular.

  Raises:
    ValueError: For an unknown model, a number of coefficients that the model
      does not have, a wrong shape, batch axes that do not broadcast.
    TypeError: For complex or boolean values.

  Gradient: exact with respect to every array, also on the optical axis; zero
    where NaN.

  >>> camera = jnp.array([[4.0, 0, 1.5], [0, 4, 0], [0, 0, 1]])
  >>> barrel = jnp.array([-0.25, 0.0, 0.0, 0.0])
  >>> distort_points(jnp.array([[5.5, 0]]), camera, barrel).tolist()
  [[4.5, 0.0]]
  """
  points = _checked(points)
  lens = lens_models.checked(
    camera, coefficients, model, rotation, new_camera, points
  )
  finite, x, y = _coordinates(points, lens)
  found, seen = lens.distorted(x, y, 1)
  return jnp.where((seen & finite)[..., None], found, jnp.nan)


def _checked(points: ArrayLike) -> jax.Array:
  points = checks.coordinates("points", points, 2)
  if points.ndim < 2:
    raise ValueError(f"points must be [..., K, 2], got shape {points.shape}")
  return points


def _coordinates(
  points: jax.Array, lens: lens_models.Lens
) -> tuple[jax.Array, ...]:
  """Whether points are finite, and their x and y, 0 where they are not."""
  points = points.astype(lens.camera.dtype)
  finite = jnp.isfinite(points).all(axis=-1)
  return finite, *jnp.unstack(jnp.where(finite[..., None], points, 0), axis=-1)
