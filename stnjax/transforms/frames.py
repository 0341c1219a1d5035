"""Transform matrices in normalised units and in pixels from the middle.

Between pixel coordinates whose 0 is the middle of the image, a matrix of whole
numbers takes pixels to pixels at every pair of sizes. Float32 cannot hold all
of these in normalised units: 15.5 pixels of 28 come back as 15.500001. The
conversions here agree on which normalised number stands for them.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, coordinates
from stnjax.transforms import homogeneous


# Compiled as a whole, so that a call outside `jit` is one dispatch.
@functools.partial(
  jax.jit,
  static_argnames=("input_shape", "output_shape", "align_corners", "rescale"),
)
def centred(
  theta: jax.Array,
  input_shape: tuple[int, ...],
  output_shape: tuple[int, ...],
  align_corners: bool,
  *,
  rescale: bool = False,
) -> jax.Array:
  """A normalised matrix between pixel coordinates from the middles.

  Args:
    theta: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, checked.
    input_shape: Spatial shape of the image.
    output_shape: Spatial shape of the result.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.
    rescale: Whether projective matrices go through `homogeneous.rescaled`.

  Returns:
    The matrix in the shape of `theta`. An entry that is the nearest to a
    multiple of half a pixel is that multiple; its gradient is not affected.
  """
  into, out = _extents(theta, input_shape, output_shape, align_corners)
  ratio = (into[:, None] / out)[: theta.shape[-2]]
  given: jax.Array = theta
  rounded: jax.Array | np.ndarray = np.zeros((), bool)
  if rescale and theta.shape[-2] == theta.shape[-1]:
    theta = homogeneous.rescaled(given)
    rounded = given[..., -1:, -1:] != theta[..., -1:, -1:]
  pixels: jax.Array = theta * ratio.astype(theta.dtype)
  static = isinstance(ratio, np.ndarray)
  xp: Any = np if static else jnp
  exact = xp.frexp(ratio)[0] == 0.5  # products with powers of two
  exact |= ratio == 0
  if static and exact.all() and given is theta:
    return pixels
  halves, close = _halves(pixels)
  rows = into[: theta.shape[-2], None]
  meant = _product(halves, out, xp.where(rows == 0, out, rows)) == theta
  meant &= ~exact
  return _replace(pixels, halves, meant | rounded & close)


def normalised(
  pixels: jax.Array,
  input_shape: Sequence[int],
  output_shape: Sequence[int],
  align_corners: bool,
) -> jax.Array:
  """The inverse of `centred`, for input sizes that have extents."""
  into, out = _extents(pixels, input_shape, output_shape, align_corners)
  return _product(pixels, out, into[: pixels.shape[-2], None])


def recentred(
  matrix: jax.Array, input_middle: np.ndarray, output_middle: np.ndarray
) -> jax.Array:
  """A matrix between coordinates whose 0 is moved.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`.
    input_middle: `[N]`, added to the result of the matrix.
    output_middle: `[N]`, subtracted from the coordinates of the output.

  Returns:
    The matrix of both steps, in the shape of `matrix`.
  """
  num_axes, kind = len(input_middle), matrix.dtype
  before = output_middle.astype(kind)
  offset = matrix[..., -1] - (matrix[..., :-1] * before).sum(axis=-1)
  matrix = jnp.concatenate([matrix[..., :-1], offset[..., None]], axis=-1)
  after = input_middle[:, None].astype(kind)
  if matrix.shape[-2] == num_axes:
    return matrix.at[..., -1:].add(after)
  moved = matrix[..., :-1, :] + after * matrix[..., -1:, :]
  return jnp.concatenate([moved, matrix[..., -1:, :]], axis=-2)


def over_last(pixels: jax.Array) -> jax.Array:
  """An affine matrix in projective form, over its last entry; others as given.

  Entries that are multiples of half a pixel but for rounding become these.
  """
  last = pixels[..., -1:, :]
  affine = (last[..., :-1] == 0).all(axis=-1, keepdims=True)
  usable = affine & jnp.isfinite(last[..., -1:]) & (last[..., -1:] != 0)
  divisor = jnp.where(usable, last[..., -1:], 1)
  result = pixels / divisor
  halves, close = _halves(result)
  return _replace(result, halves, close & (divisor != 1))


def check_extent(input_shape: tuple[int, ...], align_corners: bool) -> None:
  """Raises where all normalised coordinates of an axis are one place."""
  if align_corners and 1 in input_shape:
    raise ValueError(
      "input_shape must have sizes of at least 2 with align_corners=True,"
      f" got {input_shape}"
    )


def _extents(
  matrix: jax.Array,
  input_shape: Sequence[int],
  output_shape: Sequence[int],
  align_corners: bool,
) -> tuple[Any, Any]:
  """Pixels per normalised unit, along x, y(, z) and of the last coordinate."""
  num_axes = matrix.shape[-1] - 1
  input_shape, output_shape = (
    checks.spatial_shape(name, shape, num_axes, symbolic=True)
    for name, shape in (
      ("input_shape", input_shape),
      ("output_shape", output_shape),
    )
  )
  xp = coordinates.array_module(*input_shape, *output_shape)
  into = coordinates.half_extents(input_shape, align_corners)
  out = coordinates.nonzero_half_extents(output_shape, align_corners)
  return xp.append(into, 1.0), xp.append(out, 1.0)


def _product(matrix: jax.Array, over: Any, under: Any) -> jax.Array:
  """A product with exact ratios, rounded correctly for whole numbers."""
  kind = matrix.dtype
  bits = (jnp.finfo(kind).nmant + 1) // 2
  xp: Any = np if isinstance(over, np.ndarray) else jnp
  mantissa, exponent = xp.frexp(over / under)
  # Few enough bits for an exact product with a multiple of half a pixel.
  high = xp.ldexp(xp.round(xp.ldexp(mantissa, bits)), exponent - bits)
  low = (over - high * under) / under
  product: jax.Array = matrix * high.astype(kind) + matrix * low.astype(kind)
  return product


def _halves(pixels: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The nearest multiples of half a pixel; which are that but for rounding."""
  pixels = jax.lax.stop_gradient(pixels)
  halves = jnp.round(2 * pixels) / 2
  rounding = 4 * jnp.finfo(pixels.dtype).eps * jnp.abs(halves)
  close = jnp.abs(pixels - halves) <= rounding
  return halves, close & jnp.isfinite(rounding)


@jax.custom_jvp
def _replace(
  value: jax.Array, replacement: jax.Array, where: jax.Array
) -> jax.Array:
  """Where given, the replacement; the gradient is that of the value."""
  return jnp.where(where, replacement, value)


@_replace.defjvp
def _replace_jvp(
  primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  return _replace(*primals), tangents[0]
