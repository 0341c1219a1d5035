"""Matrices taken apart into translation, rotation, shear and scale."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.transforms import homogeneous


class Decomposition(NamedTuple):
  """An affine transform taken apart; see `decompose`."""

  rotation: (
    jax.Array
  )  # [...], radians in (-pi, pi]; volumes: [..., 3], a vector
  scale: jax.Array  # [..., N], positive but for a reflection in the last
  shear: jax.Array  # [...]; volumes: [..., 3]
  translation: jax.Array  # [..., N], normalised units


@promotion.usual
def decompose(matrix: ArrayLike) -> Decomposition:
  """Takes an affine matrix apart into translation, rotation, shear and scale.

  `compose(translation(t), rotation(r), shearing(k), scaling(s))` is the matrix
  again; for volumes, with `matrix(r, "rotation", num_axes=3)` and
  `shearing(k, num_axes=3)`. For the motion of the *object*, decompose the
  inverse.

  Args:
    matrix: `[..., 2, 3]`, or `[..., 3, 4]` for volumes.

  Returns:
    The parts; the rotation of volumes is a vector along its axis, whose length
    is the angle, in [0, pi]. Scales are positive; a reflection shows as a
    negative scale in the last axis. Where the first column vanishes, the
    rotation does not turn it; where the matrix is singular, shears along the
    columns that depend on others are 0.

  Raises:
    ValueError: For another shape.

  Gradient: exact where the matrix is invertible and, in volumes, does not turn
    by pi; finite everywhere.
  """
  checked = checks.floating("matrix", matrix)
  if checked.shape[-2:] == (3, 4):
    return _decompose_volume(checked)
  if checked.shape[-2:] != (2, 3):
    raise ValueError(
      "matrix must be [..., 2, 3], or [..., 3, 4] for volumes, got shape"
      f" {checked.shape}"
    )
  linear = checked[..., :2]
  # Each column over a power of two, so that no square over- or underflows.
  sizes = homogeneous.magnitude(linear, axis=-2)
  (a, b), (c, d) = jnp.moveaxis(linear / sizes, (-2, -1), (0, 1))
  # Both the input and the output of each division are masked: masking only
  # the output would leave NaN in the gradient.
  square = a * a + c * c
  regular = square > 0
  length = jnp.where(regular, jnp.sqrt(jnp.where(regular, square, 1.0)), 0.0)
  angle = jnp.arctan2(jnp.where(regular, c, 0.0), jnp.where(regular, a, 1.0))
  det = a * d - b * c
  height = jnp.where(regular, det / jnp.where(regular, length, 1.0), d)
  # Below, the determinant is the rounding of its two products.
  least = jnp.finfo(det.dtype).eps * (jnp.abs(a * d) + jnp.abs(b * c))
  invertible = jnp.abs(det) > least
  shear = jnp.where(
    invertible, (a * b + c * d) / jnp.where(invertible, det, 1.0), 0.0
  )
  scale = jnp.stack([length, height], axis=-1) * sizes[..., 0, :]
  return Decomposition(angle, scale, shear, checked[..., 2])


def _decompose_volume(matrix: jax.Array) -> Decomposition:
  """By Gram-Schmidt: a rotation times an upper triangle."""
  linear = matrix[..., :3]
  # Each column over a power of two, so that no square over- or underflows.
  sizes = homogeneous.magnitude(linear, axis=-2)
  first, second, third = jnp.moveaxis(linear / sizes, -1, 0)
  eye = jnp.eye(3, dtype=matrix.dtype)
  x, length = _unit(first, jnp.abs(first).max(-1), eye[0])
  along = _dot(x, second)
  rest = second - along[..., None] * x
  y, height = _unit(rest, jnp.abs(second).max(-1), _perpendicular(x))
  z = jnp.cross(x, y)
  depth = _dot(z, third)
  flat = jnp.abs(depth) <= _least(third)
  shear = jnp.stack(
    [
      _quotient(along, height, height == 0),
      _quotient(_dot(x, third), depth, flat),
      _quotient(_dot(y, third), depth, flat),
    ],
    axis=-1,
  )
  scale = jnp.stack([length, height, depth], axis=-1) * sizes[..., 0, :]
  turn = _rotation_vector(jnp.stack([x, y, z], axis=-1))
  return Decomposition(turn, scale, shear, matrix[..., 3])


def _unit(
  vector: jax.Array, size: jax.Array, other: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The direction and length of vectors; `other` and 0 where they vanish."""
  square = _dot(vector, vector)
  # Below, the vector is the rounding of the one that it is a part of.
  eps = jnp.finfo(vector.dtype).eps
  regular = square > (4 * eps * jax.lax.stop_gradient(size)) ** 2
  length = jnp.sqrt(jnp.where(regular, square, 1))
  unit = jnp.where(regular[..., None], vector / length[..., None], other)
  return unit, jnp.where(regular, length, 0)


def _perpendicular(unit: jax.Array) -> jax.Array:
  """A direction across, the y axis for the x axis; without gradient."""
  unit = jax.lax.stop_gradient(unit)
  eye = jnp.eye(3, dtype=unit.dtype)
  upright = jnp.abs(unit[..., 1]) < 0.8
  axis = jnp.where(upright[..., None], eye[1], eye[2])
  across = axis - _dot(axis, unit)[..., None] * unit
  return across / jnp.sqrt(_dot(across, across))[..., None]


def _quotient(
  numerator: jax.Array, divisor: jax.Array, vanishes: jax.Array
) -> jax.Array:
  return jnp.where(vanishes, 0, numerator / jnp.where(vanishes, 1, divisor))


def _least(vector: jax.Array) -> jax.Array:
  largest = jnp.abs(jax.lax.stop_gradient(vector)).max(-1)
  return 4 * jnp.finfo(vector.dtype).eps * largest


def _rotation_vector(turn: jax.Array) -> jax.Array:
  """The vector of a rotation `[..., 3, 3]`, by its quaternion."""
  (a, b, c), (d, e, f), (g, h, i) = (
    jnp.moveaxis(turn[..., row, :], -1, 0) for row in range(3)
  )
  # Four times the products of the quaternion's entries, the real one first.
  products = jnp.stack(
    [
      jnp.stack([1 + a + e + i, h - f, c - g, d - b], -1),
      jnp.stack([h - f, 1 + a - e - i, b + d, c + g], -1),
      jnp.stack([c - g, b + d, 1 - a + e - i, f + h], -1),
      jnp.stack([d - b, c + g, f + h, 1 - a - e + i], -1),
    ],
    -2,
  )
  # The row of the largest entry, which is at least 1/2, has no cancellation.
  squares = jnp.diagonal(products, axis1=-2, axis2=-1)
  place = jnp.argmax(squares, axis=-1)[..., None]
  row = jnp.take_along_axis(products, place[..., None], axis=-2)[..., 0, :]
  quaternion = row / (2 * jnp.sqrt(jnp.take_along_axis(squares, place, -1)))
  quaternion = jnp.where(quaternion[..., :1] < 0, -quaternion, quaternion)
  real, vector = quaternion[..., 0], quaternion[..., 1:]
  square = _dot(vector, vector)
  small = square < 2.0**-9
  # The angle is 2 atan(length / real); near 0 its series, in the square.
  low = jnp.where(small, square, 0) / jnp.where(small, real, 1) ** 2
  signs = (-1.0) ** np.arange(8) / (2 * np.arange(8) + 1)
  series = jnp.polyval(jnp.asarray(signs[::-1], low.dtype), low)
  length = jnp.sqrt(jnp.where(small, 1, square))
  factor = jnp.where(
    small,
    2 * series / jnp.where(small, real, 1),
    2 * jnp.arctan2(length, jnp.where(small, 1, real)) / length,
  )
  return factor[..., None] * vector


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
  return (left * right).sum(-1)
