"""Transform families: the meaning of a spatial transformer's parameters.

A family is one `Family` object in `FAMILIES`; registering another one makes
its name known to everything that takes `family`:

  FAMILIES.register("mirror", Family(
    name="mirror", num_params=lambda num_axes: 1, matrix=mirror_matrix))
"""

from collections.abc import Callable
import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.registry import Registry
from stnjax.transforms import matrices


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """A set of transforms, and the parameters that select one of them.

  Exactly one of `matrix` and `grid` is given. Both are differentiable, and
  zero parameters are the identity.

  Attributes:
    name: Name of the family.
    num_params: From the number of spatial axes, 2 or 3, to the number of
      parameters P.
    matrix: From parameters `[..., P]`, float32 or wider, and the number of
      spatial axes N to matrices `[..., N, N + 1]` or `[..., N + 1, N + 1]`,
      output to input coordinates; None for a family of grids.
    grid: From parameters `[..., P]`, float32 or wider, and the spatial shape
      of the output to a grid `[..., *output_shape, N]` of normalised input
      coordinates; None for a family of matrices.

  Raises:
    ValueError: Unless exactly one of `matrix` and `grid` is given.
  """

  name: str
  num_params: Callable[[int], int]
  matrix: Callable[[jax.Array, int], jax.Array] | None = None
  grid: Callable[[jax.Array, tuple[int, ...]], jax.Array] | None = None

  def __post_init__(self) -> None:
    if (self.matrix is None) == (self.grid is None):
      given = "neither" if self.matrix is None else "both"
      raise ValueError(
        f"family {self.name!r} needs either matrix or grid, got {given}"
      )


FAMILIES: Registry[Family] = Registry("family")
"""Transform families by name."""


def find(family: str | Family) -> Family:
  """The family of that name; a `Family` object is returned as it is.

  Args:
    family: Name of a family in `FAMILIES`, or a `Family`.

  Raises:
    ValueError: For an unknown name.
  """
  if isinstance(family, Family):
    return family
  checks.option("family", family, FAMILIES)
  return FAMILIES[family]


def num_params(family: str | Family, *, num_axes: int = 2) -> int:
  """Number of parameters of a transform family.

  Args:
    family: Name of a family in `FAMILIES`, or a `Family`.
    num_axes: Number of spatial axes: 2 for images, 3 for volumes.

  Raises:
    ValueError: For an unknown family or number of axes.
  """
  family = find(family)
  checks.option("num_axes", num_axes, (2, 3))
  return family.num_params(num_axes)


def checked_params(
  params: ArrayLike, family: Family, num_axes: int
) -> jax.Array:
  """Returns parameters `[..., P]` as float32 or wider, or raises."""
  expected = num_params(family, num_axes=num_axes)
  params = checks.floating("params", params)
  if params.ndim < 1 or params.shape[-1] != expected:
    raise ValueError(
      f"params of family {family.name!r} must be [..., {expected}],"
      f" got shape {params.shape}"
    )
  return params


@promotion.usual
def matrix(
  params: ArrayLike, family: str | Family, *, num_axes: int = 2
) -> jax.Array:
  """Turns parameter vectors into matrices; zeros are the identity.

  Convention, per family (offsets in normalised units, angles in radians):

  - translation: (tx, ty).
  - rotation: (angle); for volumes a vector along the axis of rotation, whose
    length is the angle.
  - scale: (log of the factor on the coordinates); above 0 the object shrinks.
  - rotation_scale: (log of the factor, angle) about the centre; for volumes
    (log of the factor, rotation vector).
  - attention: (log of the factor, tx, ty), a window that moves and zooms, eq. 2
    of Jaderberg et al. 2015; for volumes (log of the factor, tx, ty, tz).
  - similarity: (log of the factor, angle, tx, ty); for volumes (log of the
    factor, rotation vector, tx, ty, tz).
  - affine: six numbers added row by row to the identity `[2, 3]`, as in
    Jaderberg et al. 2015; twelve for volumes.
  - projective: eight numbers added row by row to the identity `[3, 3]`, whose
    last entry stays 1; fifteen for volumes.

  Args:
    params: `[..., num_params(family)]`, real.
    family: Name of a family in `FAMILIES`, or a `Family`, that has matrices.
    num_axes: Number of spatial axes: 2 for images, 3 for volumes.

  Returns:
    `[..., N, N + 1]`, or `[..., N + 1, N + 1]` for "projective", with N =
    `num_axes`; float32 or wider.

  Raises:
    ValueError: For an unknown family, a family of grids, a wrong number of
      parameters or axes.

  >>> matrix(jnp.zeros(6), "affine").tolist()
  [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
  """
  family = find(family)
  params = checked_params(params, family, num_axes)
  if family.matrix is None:
    accepted = ", ".join(repr(f.name) for f in FAMILIES.values() if f.matrix)
    raise ValueError(
      f"family={family.name!r} has grids instead of matrices; accepted:"
      f" {accepted}; see stnjax.sampling.family_grid"
    )
  return family.matrix(params, num_axes)


_FACTORIALS = np.cumprod([1.0, *range(1, 17)])  # 0! to 16!


def _rotation(params: jax.Array, num_axes: int) -> jax.Array:
  """Rotation by an angle `[..., 1]` or by a rotation vector `[..., 3]`."""
  if num_axes == 2:
    return matrices.rotation(params[..., 0])
  x, y, z = jnp.moveaxis(params, -1, 0)
  zero = jnp.zeros_like(x)
  cross = matrices.from_rows([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
  square = jnp.sum(params * params, axis=-1)
  # Rodrigues: I + sin(a)/a K + (1 - cos(a))/a^2 K^2. Both factors are smooth in
  # a^2, whose root is not: up to 1, their series, to 1e-15.
  small = square < 1
  low, high = jnp.where(small, square, 0.0), jnp.where(small, 1.0, square)
  angle = jnp.sqrt(high)
  signs = (-1.0) ** np.arange(8)
  series = [
    jnp.polyval((signs / factorials).astype(params.dtype)[::-1], low)
    for factorials in (_FACTORIALS[1::2], _FACTORIALS[2::2])
  ]
  first = jnp.where(small, series[0], jnp.sin(angle) / angle)
  second = jnp.where(small, series[1], (1 - jnp.cos(angle)) / high)
  twice = jnp.matmul(cross, cross, precision=jax.lax.Precision.HIGHEST)
  turn = (
    jnp.eye(3, dtype=params.dtype)
    + first[..., None, None] * cross
    + second[..., None, None] * twice
  )
  return jnp.concatenate([turn, jnp.zeros_like(turn[..., :1])], axis=-1)


def _scale(params: jax.Array, num_axes: int) -> jax.Array:
  return matrices.scaling(jnp.exp(params) * jnp.ones(num_axes, params.dtype))


def _attention(params: jax.Array, num_axes: int) -> jax.Array:
  linear = _scale(params[..., :1], num_axes)[..., :-1]
  return jnp.concatenate([linear, params[..., 1:, None]], axis=-1)


def _rotation_scale(params: jax.Array, num_axes: int) -> jax.Array:
  middle = jnp.zeros((*params.shape[:-1], num_axes), params.dtype)
  return _similarity(jnp.concatenate([params, middle], axis=-1), num_axes)


def _similarity(params: jax.Array, num_axes: int) -> jax.Array:
  turn = _rotation(params[..., 1:-num_axes], num_axes)[..., :-1]
  linear = jnp.exp(params[..., :1, None]) * turn
  offset = params[..., -num_axes:, None]
  return jnp.concatenate([linear, offset], axis=-1)


def _affine(params: jax.Array, num_axes: int) -> jax.Array:
  return _plus_identity(params, (num_axes, num_axes + 1))


def _projective(params: jax.Array, num_axes: int) -> jax.Array:
  last = jnp.zeros((*params.shape[:-1], 1), params.dtype)
  square = jnp.concatenate([params, last], axis=-1)
  return _plus_identity(square, (num_axes + 1, num_axes + 1))


def _plus_identity(entries: jax.Array, shape: tuple[int, int]) -> jax.Array:
  eye = jnp.eye(*shape, dtype=entries.dtype)
  return eye + entries.reshape(*entries.shape[:-1], *shape)


def _degrees_of_rotation(num_axes: int) -> int:
  return math.comb(num_axes, 2)


for _family in (
  Family(
    name="translation",
    num_params=lambda num_axes: num_axes,
    matrix=lambda params, num_axes: matrices.translation(params),
  ),
  Family(name="rotation", num_params=_degrees_of_rotation, matrix=_rotation),
  Family(name="scale", num_params=lambda num_axes: 1, matrix=_scale),
  Family(
    name="rotation_scale",
    num_params=lambda num_axes: 1 + _degrees_of_rotation(num_axes),
    matrix=_rotation_scale,
  ),
  Family(
    name="attention",
    num_params=lambda num_axes: 1 + num_axes,
    matrix=_attention,
  ),
  Family(
    name="similarity",
    num_params=lambda num_axes: 1 + _degrees_of_rotation(num_axes) + num_axes,
    matrix=_similarity,
  ),
  Family(
    name="affine",
    num_params=lambda num_axes: num_axes * (num_axes + 1),
    matrix=_affine,
  ),
  Family(
    name="projective",
    num_params=lambda num_axes: (num_axes + 1) ** 2 - 1,
    matrix=_projective,
  ),
):
  FAMILIES.register(_family.name, _family)
