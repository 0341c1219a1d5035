"""Transform matrices: from parameters, composed, inverted, taken apart.

A matrix maps output to input coordinates, both normalised (see
`stnjax.coordinates`): `[..., 2, 3]` is affine, `[..., 3, 3]` projective. The
object in the picture therefore moves by the *inverse* of the matrix.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.transforms import frames, homogeneous

_NUM_PARAMS = {  # family -> number for images, for volumes
  "translation": (2, 3),
  "rotation": (1, 3),
  "scale": (1, 1),
  "similarity": (4, 7),
  "affine": (6, 12),
  "projective": (8, 15),
}

_FACTORIALS = np.cumprod([1.0, *range(1, 17)])  # 0! to 16!

FAMILIES = tuple(_NUM_PARAMS)
"""Names of the transform families."""


def num_params(family: str, *, num_axes: int = 2) -> int:
  """Number of parameters of a transform family.

  Args:
    family: one of `FAMILIES`.
    num_axes: 2 for images, 3 for volumes.

  Raises:
    ValueError: for an unknown family or number of axes.
  """
  checks.option("family", family, FAMILIES)
  checks.option("num_axes", num_axes, (2, 3))
  return _NUM_PARAMS[family][num_axes - 2]


@promotion.usual
def matrix(params: ArrayLike, family: str, *, num_axes: int = 2) -> jax.Array:
  """Turns parameter vectors into matrices; zeros are the identity.

  Convention, per family (offsets in normalised units, angles in radians):
    translation: (tx, ty).
    rotation: (angle); for volumes a vector along the axis of rotation, as long
      as the angle.
    scale: (log of the factor on the coordinates); above 0 the object shrinks.
    similarity: (log-scale, *rotation, *translation); rotate, scale, then
      translate.
    affine: six numbers added row by row to the identity `[2, 3]`, as in
      Jaderberg et al. 2015; twelve for volumes.
    projective: eight numbers added row by row to the identity `[3, 3]`, whose
      last entry stays 1; fifteen for volumes.

  Args:
    params: `[..., num_params(family)]`, real.
    family: one of `FAMILIES`.
    num_axes: 2 for images, 3 for volumes.

  Returns:
    `[..., N, N + 1]`, or `[..., N + 1, N + 1]` for "projective", with N =
    `num_axes`; float32 or wider.

  Raises:
    ValueError: for an unknown family, a wrong number of parameters or axes.

  >>> matrix(jnp.zeros(6), "affine").tolist()
  [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
  """
  expected = num_params(family, num_axes=num_axes)
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
      return _turn(params)
    case "scale":
      return scaling(jnp.exp(params) * jnp.ones(num_axes, params.dtype))
    case "similarity":
      turn = _turn(params[..., 1:-num_axes])[..., :-1]
      linear = jnp.exp(params[..., :1, None]) * turn
      offset = params[..., -num_axes:, None]
      return jnp.concatenate([linear, offset], axis=-1)
    case "affine":
      shape = (num_axes, num_axes + 1)
      return jnp.eye(*shape, dtype=params.dtype) + params.reshape(
        *params.shape[:-1], *shape
      )
    case _:
      last = jnp.zeros((*params.shape[:-1], 1), params.dtype)
      square = jnp.concatenate([params, last], axis=-1)
      width = num_axes + 1
      return jnp.eye(width, dtype=params.dtype) + square.reshape(
        *params.shape[:-1], width, width
      )


@promotion.usual
def identity(
  dtype: jax.typing.DTypeLike = jnp.float32, *, num_axes: int = 2
) -> jax.Array:
  """The affine identity.

  Args:
    dtype: floating dtype of the matrix.
    num_axes: 2 for images, 3 for volumes.

  Returns:
    `[num_axes, num_axes + 1]`.

  Raises:
    ValueError: for an unknown number of axes.
  """
  checks.option("num_axes", num_axes, (2, 3))
  return jnp.eye(num_axes, num_axes + 1, dtype=dtype)


@promotion.usual
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


@promotion.usual
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


@promotion.usual
def rotation(angle: ArrayLike, *, axis: str | None = None) -> jax.Array:
  """Matrix that turns coordinates by `angle` `[...]`, radians.

  The object turns by `-angle`. Normalised coordinates are isotropic only for
  square images and cubic volumes.

  Args:
    angle: `[...]`, positive from +x towards +y; about "x" from +y towards +z,
      about "y" from +z towards +x.
    axis: for volumes, "x", "y" or "z".

  Returns:
    `[..., 2, 3]`; `[..., 3, 4]` with an axis.

  Raises:
    ValueError: for an unknown axis.
  """
  angle = checks.floating("angle", angle)
  checks.option("axis", axis, (None, "x", "y", "z"))
  cos, sin, zero = jnp.cos(angle), jnp.sin(angle), jnp.zeros_like(angle)
  if axis is None:
    return _rows([[cos, -sin, zero], [sin, cos, zero]])
  one = jnp.ones_like(angle)
  turn = _rows([[one, zero, zero], [zero, cos, -sin], [zero, sin, cos]])
  shift = "xyz".index(axis)  # from (x, y, z) to (axis, next, next but one)
  turn = jnp.roll(turn, (shift, shift), axis=(-2, -1))
  return jnp.concatenate([turn, jnp.zeros_like(turn[..., :1])], axis=-1)


@promotion.usual
def shearing(shear: ArrayLike) -> jax.Array:
  """Matrix that adds `shear` `[...]` times y to x.

  Returns:
    `[..., 2, 3]`.
  """
  shear = checks.floating("shear", shear)
  zero, one = jnp.zeros_like(shear), jnp.ones_like(shear)
  return _rows([[one, shear, zero], [zero, one, zero]])


@promotion.usual
def compose(*matrices: ArrayLike) -> jax.Array:
  """The product of transforms: the last one is applied to coordinates first.

  `warp(warp(image, a), b)` samples as `warp(image, compose(a, b))` does, but
  blurs twice.

  Args:
    *matrices: at least one `[..., N, N + 1]` or `[..., N + 1, N + 1]`, for one
      N; batch axes broadcast.

  Returns:
    The product: `[..., N, N + 1]` where all are affine, else
    `[..., N + 1, N + 1]`. Where that would overflow or vanish, a multiple of
    it, which is the same transform.

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
  if affine:
    product = to_homogeneous(checked[0])
    for factor in checked[1:]:
      product = jnp.matmul(
        product, to_homogeneous(factor), precision=jax.lax.Precision.HIGHEST
      )
    return product[..., :-1, :]
  return homogeneous.product([to_homogeneous(m) for m in checked])


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
    ValueError: for a wrong shape.

  Gradient: exact; zero where the matrix is singular.
  """
  checked = checks.matrix("matrix", matrix)
  if checked.shape[-2] < checked.shape[-1]:
    return homogeneous.inverse(to_homogeneous(checked))[..., :-1, :]
  return homogeneous.projective_inverse(checked)


@promotion.usual
def from_pixels(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The transform that a matrix between *pixel* coordinates makes.

  Convention: `matrix` takes pixels (x, y) of the output to pixels of the
  input, 0 at the first pixel's centre. That is what scikit-image's
  `warp(image, matrix)` takes. `scipy.ndimage.affine_transform` takes it in
  array order: reverse its rows and its columns, the offset's place aside.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, in pixels.
    input_shape: spatial shape of the image that will be warped.
    output_shape: spatial shape of the result; `input_shape` by default.
    align_corners: as the transform will be used.

  Returns:
    The transform in normalised coordinates, in the shape of `matrix`.

  Raises:
    ValueError: for a wrong shape; for an input axis of size 1 with
      `align_corners`, on which normalised coordinates tell no places apart.

  >>> from_pixels(jnp.array([[1.0, 0, 2], [0, 1, 0]]), (4, 4)).tolist()
  [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
  """
  pixels = checks.matrix("matrix", matrix)
  shapes = _shapes(pixels, input_shape, output_shape, align_corners)
  if align_corners and 1 in shapes[0]:
    raise ValueError(
      "input_shape must have sizes of at least 2 with align_corners=True,"
      f" got {shapes[0]}"
    )
  into, out = (_middle(shape) for shape in shapes)
  if pixels.shape[-2] == pixels.shape[-1]:
    pixels = frames.over_last(pixels)
  centred = frames.recentred(pixels, -into, -out)
  return frames.normalised(centred, *shapes, align_corners)


@promotion.usual
def to_pixels(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The matrix between pixel coordinates of a transform; see `from_pixels`.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, normalised.
    input_shape: spatial shape of the image that is warped.
    output_shape: spatial shape of the result; `input_shape` by default.
    align_corners: as the transform is used.

  Returns:
    Pixels (x, y) of the output to pixels of the input, in the shape of
    `matrix`.

  Raises:
    ValueError: for a wrong shape.
  """
  theta = checks.matrix("matrix", matrix)
  shapes = _shapes(theta, input_shape, output_shape, align_corners)
  centred = frames.centred(theta, *shapes, align_corners)
  return frames.recentred(centred, *(_middle(shape) for shape in shapes))


@promotion.usual
def from_opencv(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  inverse_map: bool = False,
  align_corners: bool = False,
) -> jax.Array:
  """The transform that `cv2.warpAffine` or `cv2.warpPerspective` makes.

  Convention: OpenCV's matrix takes pixels (x, y) of the *input* to pixels of
  the output (it pushes), unless its flags hold `WARP_INVERSE_MAP`; its `dsize`
  is (width, height), where shapes are (height, width) here.

  Args:
    matrix: `[..., 2, 3]` or `[..., 3, 3]`, as OpenCV takes it.
    input_shape: `(H, W)` of the image that will be warped.
    output_shape: `(H, W)` of the result; `input_shape` by default.
    inverse_map: whether OpenCV is given `WARP_INVERSE_MAP`.
    align_corners: as the transform will be used.

  Returns:
    The transform in normalised coordinates, in the shape of `matrix`.

  Raises:
    ValueError: as for `from_pixels`.

  >>> from_opencv(jnp.array([[1.0, 0, 2], [0, 1, 0]]), (4, 4)).tolist()
  [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
  """
  pixels = checks.matrix("matrix", matrix)
  if pixels.shape[-1] != 3:
    raise ValueError(
      f"matrix must be [..., 2, 3] or [..., 3, 3], got shape {pixels.shape}"
    )
  checks.flag("inverse_map", inverse_map)
  if not inverse_map:
    pixels = invert(pixels)
  return from_pixels(
    pixels, input_shape, output_shape, align_corners=align_corners
  )


class Decomposition(NamedTuple):
  """An affine transform taken apart; see `decompose`."""

  rotation: jax.Array  # [...], radians in (-pi, pi]
  scale: jax.Array  # [..., 2], x positive, y negative for a reflection
  shear: jax.Array  # [...]
  translation: jax.Array  # [..., 2], normalised units


@promotion.usual
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


def _shapes(
  matrix: jax.Array,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None,
  align_corners: bool,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The spatial shapes of an image and of the result, checked."""
  checks.flag("align_corners", align_corners)
  if output_shape is None:
    output_shape = input_shape
  into, out = (
    checks.spatial_shape(
      name,
      shape,
      matrix.shape[-1] - 1,
      owner=f"matrix of shape {matrix.shape}",
    )
    for name, shape in (
      ("input_shape", input_shape),
      ("output_shape", output_shape),
    )
  )
  return into, out


def _middle(shape: Sequence[int]) -> np.ndarray:
  """The pixel (x, y) or (x, y, z) of the middle of an image."""
  return (np.array(shape[::-1]) - 1) / 2


def _turn(params: jax.Array) -> jax.Array:
  """Rotation by an angle `[..., 1]` or by a rotation vector `[..., 3]`."""
  if params.shape[-1] == 1:
    return rotation(params[..., 0])
  x, y, z = jnp.moveaxis(params, -1, 0)
  zero = jnp.zeros_like(x)
  cross = _rows([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
  square = jnp.sum(params * params, axis=-1)
  # Rodrigues: I + sin(a)/a K + (1 - cos(a))/a^2 K^2. Both factors are smooth in
  # a^2, of which the root is not: up to 1, their series, to 1e-15.
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


def _rows(rows: list[list[jax.Array]]) -> jax.Array:
  return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def _axis_values(name: str, values: ArrayLike) -> jax.Array:
  values = checks.floating(name, values)
  if values.ndim < 1 or values.shape[-1] not in (2, 3):
    raise ValueError(
      f"{name} must be [..., 2] or [..., 3], got shape {values.shape}"
    )
  return values
