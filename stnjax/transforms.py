"""Transform matrices: from parameters, composed, inverted, taken apart.

A matrix maps output to input coordinates, both normalised (see
`stnjax.coordinates`): `[..., 2, 3]` is affine, `[..., 3, 3]` projective. The
object in the picture therefore moves by the *inverse* of the matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks

_NUM_PARAMS = {
  "translation": 2,
  "rotation": 1,
  "scale": 1,
  "similarity": 4,
  "affine": 6,
  "projective": 8,
}

FAMILIES = tuple(_NUM_PARAMS)
"""Names of the transform families."""


def num_params(family: str) -> int:
  """Number of parameters of a transform family.

  Args:
    family: one of `FAMILIES`.

  Raises:
    ValueError: for an unknown family.
  """
  checks.option("family", family, FAMILIES)
  return _NUM_PARAMS[family]


def matrix(params: ArrayLike, family: str) -> jax.Array:
  """Turns parameter vectors into matrices; zeros are the identity.

  Convention, per family (offsets in normalised units, angles in radians):
    translation: (tx, ty).
    rotation: (angle).
    scale: (log of the factor on the coordinates); above 0 the object shrinks.
    similarity: (log-scale, angle, tx, ty); rotate, scale, then translate.
    affine: six numbers added row by row to the identity `[2, 3]`, as in
      Jaderberg et al. 2015.
    projective: eight numbers added row by row to the identity `[3, 3]`, whose
      last entry stays 1.

  Args:
    params: `[..., num_params(family)]`, real.
    family: one of `FAMILIES`.

  Returns:
    `[..., 2, 3]`, or `[..., 3, 3]` for "projective"; float32 or wider.

  Raises:
    ValueError: for an unknown family or a wrong number of parameters.

  >>> matrix(jnp.zeros(6), "affine").tolist()
  [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
  """
  expected = num_params(family)
  params = checks.floating("params", params)
  if params.ndim < 1 or params.shape[-1] != expected:
    raise ValueError(
      f"params of family {family!r} must be [..., {expected}],"
      f" got shape {params.shape}"
    )
  match family:
    case "translation":
      return translation(params)
    case "rotation":
      return rotation(params[..., 0])
    case "scale":
      return scaling(jnp.exp(params[..., :1]) * jnp.ones(2, params.dtype))
    case "similarity":
      turn = rotation(params[..., 1])[..., :2]
      linear = jnp.exp(params[..., :1, None]) * turn
      return jnp.concatenate([linear, params[..., 2:, None]], axis=-1)
    case "affine":
      return identity(params.dtype) + params.reshape(*params.shape[:-1], 2, 3)
    case _:
      last = jnp.zeros((*params.shape[:-1], 1), params.dtype)
      square = jnp.concatenate([params, last], axis=-1)
      return jnp.eye(3, dtype=params.dtype) + square.reshape(
        *params.shape[:-1], 3, 3
      )


def identity(dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
  """The affine identity, `[2, 3]`."""
  return jnp.eye(2, 3, dtype=dtype)


def translation(offset: ArrayLike) -> jax.Array:
  """Matrix that adds `offset` `[..., N]` (N = 2 or 3, normalised units).

  Returns:
    `[..., N, N + 1]`.

  Raises:
    ValueError: where the last axis of `offset` is neither 2 nor 3.
  """
  offset = _axis_values("offset", offset)
  size = offset.shape[-1]
  eye = jnp.eye(size, dtype=offset.dtype)
  linear = jnp.broadcast_to(eye, (*offset.shape, size))
  return jnp.concatenate([linear, offset[..., None]], axis=-1)


def scaling(factors: ArrayLike) -> jax.Array:
  """Matrix that multiplies coordinates by `factors` `[..., N]` (N = 2 or 3).

  Factors above 1 read from further out, so that the object shrinks.

  Returns:
    `[..., N, N + 1]`.

  Raises:
    ValueError: where the last axis of `factors` is neither 2 nor 3.
  """
  factors = _axis_values("factors", factors)
  linear = factors[..., None] * jnp.eye(factors.shape[-1], dtype=factors.dtype)
  return jnp.concatenate([linear, jnp.zeros_like(linear[..., :1])], axis=-1)


def rotation(angle: ArrayLike) -> jax.Array:
  """Matrix that turns coordinates by `angle` `[...]`, radians, +x towards +y.

  The object turns by `-angle`. Normalised coordinates are isotropic only for
  square images.

  Returns:
    `[..., 2, 3]`.
  """
  angle = checks.floating("angle", angle)
  cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
  return _rows([[cos, -sin, zero], [sin, cos, zero]])


def shearing(shear: ArrayLike) -> jax.Array:
  """Matrix that adds `shear` `[...]` times y to x.

  Returns:
    `[..., 2, 3]`.
  """
  shear = checks.floating("shear", shear)
  zero, one = jnp.zeros_like(shear), jnp.ones_like(shear)
  return _rows([[one, shear, zero], [zero, one, zero]])


def compose(*matrices: ArrayLike) -> jax.Array:
  """The product of transforms: the last one is applied to coordinates first.

  `warp(warp(image, a), b)` samples as `warp(image, compose(a, b))` does, but
  blurs twice.

  Args:
    *matrices: at least one `[..., N, N + 1]` or `[..., N + 1, N + 1]`, for one
      N; batch axes broadcast.

  Returns:
    The product: `[..., N, N + 1]` where all are affine, else
    `[..., N + 1, N + 1]`.

  Raises:
    ValueError: for no matrix, a wrong shape, or a mix of 2-D and 3-D.
  """
  if not matrices:
    raise ValueError("compose needs at least one matrix, got none")
  checked = [checks.matrix("matrices", m) for m in matrices]
  widths = {m.shape[-1] for m in checked}
  if len(widths) > 1:
    shapes = [m.shape for m in checked]
    raise ValueError(f"matrices must all be 2-D or all 3-D, got {shapes}")
  affine = all(m.shape[-2] < m.shape[-1] for m in checked)
  product = to_homogeneous(checked[0])
  for factor in checked[1:]:
    product = jnp.matmul(
      product, to_homogeneous(factor), precision=jax.lax.Precision.HIGHEST
    )
  return product[..., :-1, :] if affine else product


def invert(matrix: ArrayLike) -> jax.Array:
  """The inverse transform, in the shape of `matrix`.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`.

  Returns:
    The inverse; not finite where the matrix is singular.

  Raises:
    ValueError: for a wrong shape.
  """
  checked = checks.matrix("matrix", matrix)
  inverse = jnp.linalg.inv(to_homogeneous(checked))
  return inverse[..., : checked.shape[-2], :]


class Decomposition(NamedTuple):
  """An affine transform taken apart; see `decompose`."""

  rotation: jax.Array  # [...], radians in (-pi, pi]
  scale: jax.Array  # [..., 2], x positive, y negative for a reflection
  shear: jax.Array  # [...]
  translation: jax.Array  # [..., 2], normalised units


def decompose(matrix: ArrayLike) -> Decomposition:
  """Takes an affine matrix apart into translation, rotation, shear and scale.

  `compose(translation(t), rotation(r), shearing(k), scaling(s))` is the matrix
  again. To read off what was done to the *object*, decompose the inverse.

  Args:
    matrix: `[..., 2, 3]`.

  Returns:
    The parts. Scale in x is positive; a reflection shows as a negative scale
    in y. Where the first column vanishes the angle is 0, and where the matrix
    is singular the shear is 0; gradients are finite there.

  Raises:
    ValueError: for a matrix that is not `[..., 2, 3]`.
  """
  checked = checks.floating("matrix", matrix)
  if checked.shape[-2:] != (2, 3):
    raise ValueError(f"matrix must be [..., 2, 3], got shape {checked.shape}")
  a, b = checked[..., 0, 0], checked[..., 0, 1]
  c, d = checked[..., 1, 0], checked[..., 1, 1]
  # Both the input and the output of each division are masked: masking only
  # the output would leave NaN in the gradient.
  square = a * a + c * c
  regular = square > 0
  scale_x = jnp.where(regular, jnp.sqrt(jnp.where(regular, square, 1.0)), 0.0)
  angle = jnp.arctan2(jnp.where(regular, c, 0.0), jnp.where(regular, a, 1.0))
  det = a * d - b * c
  scale_y = jnp.where(regular, det / jnp.where(regular, scale_x, 1.0), d)
  invertible = det != 0
  shear = jnp.where(
    invertible, (a * b + c * d) / jnp.where(invertible, det, 1.0), 0.0
  )
  scale = jnp.stack([scale_x, scale_y], axis=-1)
  return Decomposition(angle, scale, shear, checked[..., 2])


def to_homogeneous(matrix: ArrayLike) -> jax.Array:
  """Appends the row (0, ..., 0, 1) to an affine matrix; keeps a square one.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`.

  Returns:
    `[..., N + 1, N + 1]`.
  """
  checked = checks.matrix("matrix", matrix)
  width = checked.shape[-1]
  if checked.shape[-2] == width:
    return checked
  last = jnp.zeros((*checked.shape[:-2], 1, width), checked.dtype)
  return jnp.concatenate([checked, last.at[..., -1].set(1)], axis=-2)


def _rows(rows: list[list[jax.Array]]) -> jax.Array:
  return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _axis_values(name: str, values: ArrayLike) -> jax.Array:
  values = checks.floating(name, values)
  if values.ndim < 1 or values.shape[-1] not in (2, 3):
    raise ValueError(
      f"{name} must be [..., 2] or [..., 3], got shape {values.shape}"
    )
  return values
