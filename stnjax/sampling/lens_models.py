"""Cameras whose lens distorts: models, and places through the lens."""

from collections.abc import Callable
import functools
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks

FARTHEST = 1e4
"""Largest coordinate in the plane at distance 1."""

_SMALL = 0.01  # squared radius below which a series replaces the arctangent

_STEPS = 30  # of Newton's method
_ROUNDINGS = 64  # of a place that is solved for


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
  square = x * x + y * y
  # On the axis the radius has no derivative, but angle over radius has one.
  near = square < _SMALL
  radius = jnp.sqrt(jnp.where(near, 1, square))
  series = jnp.zeros_like(square)
  for power in reversed(range(9)):
    series = 1 / (2 * power + 1) - jnp.where(near, square, 0) * series
  ratio = jnp.where(near, series, jnp.arctan(radius) / radius)
  return _fisheye_bend(x * ratio, y * ratio, coefficients)


def _fisheye_bend(
  x: jax.Array, y: jax.Array, coefficients: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Distorts places whose distance from the centre is the angle of the ray."""
  k1, k2, k3, k4 = jnp.moveaxis(coefficients, -1, 0)
  angle = x * x + y * y
  scale = 1 + angle * (k1 + angle * (k2 + angle * (k3 + angle * k4)))
  return x * scale, y * scale


def _from_angles(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
  """Places of the plane of rays that lie at an angle; whether they do."""
  square = x * x + y * y
  ahead = square < math.atan(FARTHEST) ** 2
  near = square < _SMALL
  angle = jnp.sqrt(jnp.where(near | ~ahead, 1, square))
  sine = cosine = jnp.zeros_like(square)
  for power in reversed(range(7)):
    term = jnp.where(near, square, 0)
    sine = 1 / math.factorial(2 * power + 1) - term * sine
    cosine = 1 / math.factorial(2 * power) - term * cosine
  ratio = jnp.where(near, sine / cosine, jnp.tan(angle) / angle)
  return x * ratio, y * ratio, ahead


def _on_plane(x: jax.Array, y: jax.Array) -> tuple[jax.Array, ...]:
  return x, y, (jnp.abs(x) < FARTHEST) & (jnp.abs(y) < FARTHEST)


Distortion = Callable[
  [jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
]


class Model(NamedTuple):
  """The distortion of a lens.

  Attributes:
    distort: From places x, y of the plane at distance 1 from the camera and
      coefficients `[..., D]` to distorted places.
    counts: Accepted numbers of coefficients.
    bend: As `distort`, from places of another map of the directions in which
      the distortion is easily inverted.
    unbent: From places of that map to x, y on the plane, and whether they are
      there.
  """

  distort: Distortion
  counts: tuple[int, ...]
  bend: Distortion
  unbent: Callable[[jax.Array, jax.Array], tuple[jax.Array, ...]]


MODELS = {
  "brown_conrady": Model(
    _brown_conrady, (4, 5, 8, 12, 14), _brown_conrady, _on_plane
  ),
  "fisheye": Model(_fisheye, (4,), _fisheye_bend, _from_angles),
}


class Lens(NamedTuple):
  """A camera, its distortion, and the camera of the undistorted image."""

  camera: jax.Array  # [..., 3, 3], as all matrices
  coefficients: jax.Array  # [..., D]
  rotation: jax.Array
  new_camera: jax.Array
  model: Model

  def distorted(
    self, x: jax.Array, y: jax.Array, num_axes: int
  ) -> tuple[jax.Array, jax.Array]:
    """Where the distorted image shows places of the undistorted one.

    Args:
      x: Places in pixels that broadcast to `[..., *points]`.
      y: As `x`.
      num_axes: Number of axes of the points.

    Returns:
      `[..., *points, 2]` pixels, 0 where they are not seen, and whether they
      are.
    """
    to_ray, regular = _inverse(_product(self.new_camera, self.rotation))
    ray = _rows(to_ray, x, y, num_axes)
    seen = (ray[2] > 0) & regular[(..., *[None] * num_axes)]
    # Further out, powers of the radius would overflow in float32.
    for part in ray[:2]:
      seen &= jnp.abs(part) < FARTHEST * ray[2]
    depth = jnp.where(seen, ray[2], 1)
    x, y = (jnp.where(seen, part, 0) / depth for part in ray[:2])
    x, y = self.model.distort(x, y, self.each(num_axes))
    return jnp.stack(_rows(self.camera, x, y, num_axes)[:2], axis=-1), seen

  def undistorted(
    self, x: jax.Array, y: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Where the undistorted image shows places `[..., K]` of the distorted one.

    Returns:
      `[..., K, 2]` pixels, 0 where there are none, and whether there are.
    """
    camera = self.camera.at[..., 2, :].set(np.array([0, 0, 1]))
    to_plane, regular = _inverse(camera)
    x, y, _ = _rows(to_plane, x, y, 1)
    (x, y), seen = _unbent(self.model.bend, x, y, self.each(1))
    x, y, ahead = self.model.unbent(x, y)
    seen &= ahead & regular[..., None]
    x, y = (jnp.where(seen, part, 0) for part in (x, y))
    ray = _rows(_product(self.new_camera, self.rotation), x, y, 1)
    seen &= ray[2] > 0
    depth = jnp.where(seen, ray[2], 1)
    pixels = jnp.stack([part / depth for part in ray[:2]], axis=-1)
    return pixels, seen

  def each(self, num_axes: int) -> jax.Array:
    """The coefficients, for points of some axes."""
    return self.coefficients[(..., *[None] * num_axes, slice(None))]


def checked(
  camera: ArrayLike,
  coefficients: ArrayLike,
  model: str,
  rotation: ArrayLike | None,
  new_camera: ArrayLike | None,
  points: jax.Array | None = None,
) -> Lens:
  """The arguments of a lens in one dtype, or an error that names one.

  Points are only checked against their batch axes and dtype.
  """
  checks.option("model", model, MODELS)
  camera = _checked_matrix("camera", camera)
  if new_camera is None:
    new_camera = camera
  if rotation is None:
    rotation = jnp.eye(3, dtype=camera.dtype)
  arrays = {
    "camera": camera,
    "coefficients": _checked_coefficients(coefficients, model),
    "rotation": _checked_matrix("rotation", rotation),
    "new_camera": _checked_matrix("new_camera", new_camera),
  }
  batches = {
    name: array.shape[: -1 if name == "coefficients" else -2]
    for name, array in arrays.items()
  }
  kind = jnp.result_type(*arrays.values())
  if points is not None:
    batches["points"] = points.shape[:-2]
    kind = jnp.result_type(kind, points)
  for name, batch in batches.items():
    for other, against in batches.items():
      checks.batch(name, batch, other, against)
  matched = {name: array.astype(kind) for name, array in arrays.items()}
  return Lens(**matched, model=MODELS[model])


def _checked_matrix(name: str, matrix: ArrayLike) -> jax.Array:
  matrix = checks.floating(name, matrix)
  if matrix.shape[-2:] != (3, 3):
    raise ValueError(f"{name} must be [..., 3, 3], got shape {matrix.shape}")
  return matrix


def _checked_coefficients(coefficients: ArrayLike, model: str) -> jax.Array:
  coefficients = checks.floating("coefficients", coefficients)
  accepted = MODELS[model].counts
  if not coefficients.ndim or coefficients.shape[-1] not in accepted:
    counts = " or ".join(map(str, accepted))
    raise ValueError(
      f"coefficients must be [..., D] with D = {counts} for model={model!r},"
      f" got shape {coefficients.shape}"
    )
  return coefficients


def _rows(
  matrix: jax.Array, x: jax.Array, y: jax.Array, num_axes: int
) -> list[jax.Array]:
  """The rows of matrices `[..., 3, 3]`, applied to (x, y, 1)."""
  rows = []
  for i in range(3):
    terms = (matrix[..., i, k] for k in range(3))
    a, b, c = (term[(..., *[None] * num_axes)] for term in terms)
    rows.append(a * x + (b * y + c))
  return rows


Places = tuple[jax.Array, jax.Array]


def _unbent(
  bend: Distortion, x: jax.Array, y: jax.Array, coefficients: jax.Array
) -> tuple[Places, jax.Array]:
  """Places that a distortion takes to given ones, and whether there are any.

  By Newton's method with steps that are halved while they lead nowhere, from
  the given places. The derivative is that of the solution.
  """
  shape = jnp.broadcast_shapes(x.shape, y.shape, coefficients.shape[:-1])
  x, y = (jnp.broadcast_to(part, shape) for part in (x, y))
  near = (jnp.abs(x) < FARTHEST) & (jnp.abs(y) < FARTHEST)  # false for NaN
  target = jnp.where(near, x, 0), jnp.where(near, y, 0)

  def residual(place: Places) -> Places:
    bent = bend(*place, coefficients)
    return bent[0] - target[0], bent[1] - target[1]

  def newton(function: Callable[[Places], Places], start: Places) -> Places:
    def step(_: int, state: tuple[Places, jax.Array]) -> Any:
      place, length = state
      value, push = jax.linearize(function, place)
      change, _ = _divided(push, value)
      moved = jax.tree.map(lambda p, c: p - length * c, place, change)
      better = _size(function(moved)) < _size(value)
      kept = jax.tree.map(functools.partial(jnp.where, better), moved, place)
      return kept, jnp.where(better, jnp.minimum(1, 2 * length), length / 2)

    start_and_length = start, jnp.ones(shape, kind)
    place: Places
    place, _ = lax.fori_loop(0, _STEPS, step, start_and_length)
    return place

  kind = target[0].dtype
  solution: Places = lax.custom_root(
    residual, target, newton, lambda push, value: _divided(push, value)[0]
  )
  fixed, goal = lax.stop_gradient((solution, target))
  value, push = jax.linearize(residual, fixed)
  rounding = _ROUNDINGS * jnp.finfo(kind).eps
  solved = _size(value) <= (rounding * (1 + jnp.sqrt(_size(goal)))) ** 2
  solved &= near & _divided(push, value)[1]
  return solution, lax.stop_gradient(solved)


def _size(place: Places) -> jax.Array:
  return place[0] * place[0] + place[1] * place[1]


def _divided(
  push: Callable[[Places], Places], value: Places
) -> tuple[Places, jax.Array]:
  """Solves for each point what a linear function takes to a value.

  Returns:
    The solution, 0 where the function is singular or mirrors, and whether it
    is neither.
  """
  one, zero = jnp.ones_like(value[0]), jnp.zeros_like(value[0])
  (a, c), (b, d) = push((one, zero)), push((zero, one))
  determinant = a * d - b * c
  regular = jnp.isfinite(determinant) & (determinant > 0)
  safe = jnp.where(regular, determinant, 1)
  solution = (d * value[0] - b * value[1], a * value[1] - c * value[0])
  x, y = (jnp.where(regular, part, 0) / safe for part in solution)
  return (x, y), regular


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
