"""Matrices of transforms: built, composed, inverted, decomposed."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, promotion
from stnjax.transforms import homogeneous


@promotion.usual
def identity(
  dtype: jax.typing.DTypeLike = jnp.float32, *, num_axes: int = 2
) -> jax.Array:
  """The affine identity.

  Args:
    dtype: Floating dtype of the matrix.
    num_axes: Number of spatial axes: 2 for images, 3 for volumes.

  Returns:
    `[num_axes, num_axes + 1]`.

  Raises:
    ValueError: For an unknown number of axes.
  """
  checks.option("num_axes", num_axes, (2, 3))
  return jnp.eye(num_axes, num_axes + 1, dtype=dtype)


@promotion.usual
def translation(offset: ArrayLike) -> jax.Array:
  """Matrix that adds `offset` `[..., N]` (N = 2 or 3, normalised units).

  Returns:
    `[..., N, N + 1]`.

  Raises:
    ValueError: Where the last axis of `offset` is neither 2 nor 3.
  """
  offset = _axis_values("offset", offset)
  size = offset.shape[-1]
  eye = jnp.eye(size, dtype=offset.dtype)
  linear = jnp.broadcast_to(eye, (*offset.shape, size))
  return jnp.concatenate([linear, offset[..., None]], axis=-1)


@promotion.usual
def scaling(factors: ArrayLike) -> jax.Array:
  """Matrix that multiplies coordinates by `factors` `[..., N]` (N = 2 or 3).

  Factors above 1 read from further out, so that the object shrinks.

  Returns:
    `[..., N, N + 1]`.

  Raises:
    ValueError: Where the last axis of `factors` is neither 2 nor 3.
  """
  factors = _axis_values("factors", factors)
  linear = factors[..., None] * jnp.eye(factors.shape[-1], dtype=factors.dtype)
  return jnp.concatenate([linear, jnp.zeros_like(linear[..., :1])], axis=-1)


@promotion.usual
def rotation(angle: ArrayLike, *, axis: str | None = None) -> jax.Array:
  """Matrix that turns coordinates by `angle` `[...]`, radians.

  The object turns by `-angle`. Normalised coordinates are isotropic only for
  square images and cubic volumes.

  Args:
    angle: `[...]` radians, positive from +x towards +y; about "x" from +y
      towards +z, about "y" from +z towards +x.
    axis: Axis of rotation in a volume: "x", "y" or "z"; None for images.

  Returns:
    `[..., 2, 3]`; `[..., 3, 4]` with an axis.

  Raises:
    ValueError: For an unknown axis.
  """
  angle = checks.floating("angle", angle)
  checks.option("axis", axis, (None, "x", "y", "z"))
  cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
  if axis is None:
    return from_rows([[cos, -sin, zero], [sin, cos, zero]])
  one = jnp.ones_like(angle)
  turn = from_rows([[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]])
  shift = "xyz".index(axis)  # from (x, y, z) to (axis, next, next but one)
  turn = jnp.roll(turn, (shift, shift), axis=(-2, -1))
  return jnp.concatenate([turn, jnp.zeros_like(turn[..., :1])], axis=-1)


@promotion.usual
def shearing(shear: ArrayLike, *, num_axes: int = 2) -> jax.Array:
  """Matrix that adds multiples of later coordinates to earlier ones.

  Args:
    shear: `[...]`, the multiple of y added to x; for volumes `[..., 3]`, those
      of y added to x, of z added to x, and of z added to y.
    num_axes: Number of spatial axes: 2 for images, 3 for volumes.

  Returns:
    `[..., num_axes, num_axes + 1]`.

  Raises:
    ValueError: For an unknown number of axes, or a shear of volumes whose last
      axis is not 3.
  """
  checks.option("num_axes", num_axes, (2, 3))
  shear = checks.floating("shear", shear)
  if num_axes == 2:
    zero, one = jnp.zeros_like(shear), jnp.ones_like(shear)
    return from_rows([[one, shear, zero], [zero, one, zero]])
  if shear.ndim < 1 or shear.shape[-1] != 3:
    raise ValueError(
      f"shear must be [..., 3] with num_axes=3, got shape {shear.shape}"
    )
  xy, xz, yz = jnp.moveaxis(shear, -1, 0)
  zero, one = jnp.zeros_like(xy), jnp.ones_like(xy)
  return from_rows(
    [[one, xy, xz, zero], [zero, one, yz, zero], [zero, zero, one, zero]]
  )


@promotion.usual
def about(matrix: ArrayLike, centre: ArrayLike) -> jax.Array:
  """The same transform about another centre than 0: `centre` is the new 0.

  `from_pixels(about(rotation(angle), centre), shape)` turns a picture about a
  place in pixels, without a shear on a rectangular image; its middle is
  `coordinates.middle(shape)`. `cv2.getRotationMatrix2D(centre, degrees, s)` is
  `about(compose(scaling([s, s]), rotation(-jnp.radians(degrees))), centre)`.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, in any units.
    centre: `[..., N]` place (x, y) or (x, y, z) in these units. Batch axes
      broadcast.

  Returns:
    The matrix with `centre` in the place of 0, in the shape of `matrix`.

  Raises:
    ValueError: For a wrong shape, or batch axes that do not broadcast.

  Gradient: exact.

  >>> about(scaling(jnp.array([2.0, 2.0])), jnp.array([1.0, 3.0])).tolist()
  [[2.0, 0.0, -1.0], [0.0, 2.0, -3.0]]
  """
  checked = checks.matrix("matrix", matrix)
  centre = checks.coordinates("centre", centre, checked.shape[-1] - 1)
  checks.batch("matrix", checked.shape[:-2], "centre", centre.shape[:-1])
  return compose(translation(centre), checked, translation(-centre))


@promotion.usual
def compose(*matrices: ArrayLike) -> jax.Array:
  """The product of transforms: the last one is applied to coordinates first.

  `warp(warp(image, a), b)` samples as `warp(image, compose(a, b))` does, but
  blurs twice.

  Args:
    *matrices: At least one `[..., N, N + 1]` or `[..., N + 1, N + 1]`, for one
      N; batch axes broadcast.

  Returns:
    The product: `[..., N, N + 1]` where all are affine, else
    `[..., N + 1, N + 1]`. Where that would overflow or vanish, a multiple of
    it, which is the same transform.

  Raises:
    ValueError: For no matrix, a wrong shape, or a mix of 2-D and 3-D.
  """
  if not matrices:
    raise ValueError("compose needs at least one matrix, got none")
  checked = [checks.matrix("matrices", m) for m in matrices]
  widths = {m.shape[-1] for m in checked}
  if len(widths) > 1:
    shapes = [m.shape for m in checked]
    raise ValueError(f"matrices must all be 2-D or all 3-D, got {shapes}")
  affine = all(m.shape[-2] < m.shape[-1] for m in checked)
  if affine:
    product = to_homogeneous(checked[0])
    for factor in checked[1:]:
      product = jnp.matmul(
        product, to_homogeneous(factor), precision=jax.lax.Precision.HIGHEST
      )
    return product[..., :-1, :]
  multiple: jax.Array = homogeneous.product(
    [to_homogeneous(matrix) for matrix in checked]
  )
  return multiple


@promotion.usual
def invert(matrix: ArrayLike) -> jax.Array:
  """The inverse transform, in the shape of `matrix`.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`.

  Returns:
    The inverse. NaN in all entries where the matrix is singular, or would be
    if its entries were changed by a few roundings. Of a projective matrix so
    small or large that its inverse overflows or vanishes, a multiple.

  Raises:
    ValueError: For a wrong shape.

  Gradient: exact; zero where the matrix is singular.
  """
  checked = checks.matrix("matrix", matrix)
  inverse: jax.Array
  if checked.shape[-2] < checked.shape[-1]:
    inverse = homogeneous.inverse(to_homogeneous(checked))[..., :-1, :]
  else:
    inverse = homogeneous.projective_inverse(checked)
  return inverse


@promotion.usual
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


def from_rows(rows: list[list[jax.Array]]) -> jax.Array:
  """Stacks entries `[...]`, given row by row, into matrices."""
  return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _axis_values(name: str, values: ArrayLike) -> jax.Array:
  values = checks.floating(name, values)
  if values.ndim < 1 or values.shape[-1] not in (2, 3):
    raise ValueError(
      f"{name} must be [..., 2] or [..., 3], got shape {values.shape}"
    )
  return values
