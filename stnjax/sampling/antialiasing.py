"""Low-pass filtering of an image before a warp that shrinks it.

The linear kernel stretched by a factor s has a variance of s^2 / 6 pixels.
Interpolation brings 1 / 6 of it; a Gaussian of the rest makes the same width,
and nothing at all where the warp does not shrink.
"""

from collections.abc import Callable, Sequence
import functools
import math

import jax
from jax import custom_batching, lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax.sampling import grids

_TILE = 64  # pixels along an axis that one product blurs
_WHOLE = 256  # up to this size one product blurs all of an axis


def filtered_sample(
  image: jax.Array,
  theta: jax.Array,
  output_shape: Sequence[int],
  sample: Callable[[jax.Array], jax.Array],
  *,
  cyclic: Sequence[bool],
  align_corners: bool,
) -> jax.Array:
  """Samples an image that is blurred in proportion to how much it shrinks.

  An affine transform shrinks the same everywhere, each axis of the image by
  its own factor. A projective one does not: there the image is blurred by
  powers of two, equally along all axes, and two of them are blended per pixel.

  Args:
    image: `[..., *shape, C]`, float32 or wider.
    theta: `[..., N, N + 1]` or `[..., N + 1, N + 1]`.
    output_shape: Spatial shape of the grid that `sample` reads at.
    sample: From a blurred image to the result `[..., *output_shape, C]`.
    cyclic: Whether the image repeats outside along x, y(, z).
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The result of `sample`.
  """
  num_axes = theta.shape[-1] - 1
  shape = image.shape[-num_axes - 1 : -1]
  image = image.astype(jnp.promote_types(image.dtype, theta.dtype))
  # What is not finite is read as fill, and must not reach the gradient.
  jacobian = jnp.nan_to_num(
    grids.jacobian(theta, shape, output_shape, align_corners=align_corners),
    posinf=0.0,
    neginf=0.0,
  )
  squares = _squared_factors(jacobian)
  if theta.shape[-2] == num_axes:
    return sample(_blur(image, squares, cyclic))
  levels = math.ceil(math.log2(max(shape))) + 1
  square = squares.max(axis=-1)
  level = jnp.log2(lax.clamp(*_kinds(square, 1, 4 ** (levels - 1)))) / 2

  @jax.checkpoint
  def add(total: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
    weight = jnp.maximum(1 - jnp.abs(level - step), 0)[..., None]
    width = jnp.full(num_axes, 4.0**step, image.dtype)
    return total + weight * sample(_blur(image, width, cyclic)), None

  result = jax.eval_shape(sample, image)
  start = jnp.zeros(result.shape, result.dtype)
  steps = jnp.arange(levels, dtype=square.dtype)
  return lax.scan(add, start, steps)[0]


def _squared_factors(jacobian: jax.Array) -> jax.Array:
  """Squared factors `[..., N]` along x, y(, z), enough for every direction.

  The pixels of the result are ellipses J J^T in the image. The sums of its
  rows' magnitudes are those of an ellipse along the axes that contains it
  (Gershgorin), which is itself where the axes of J's ellipse are the image's
  or all equal.
  """
  bound = jnp.sqrt(jnp.finfo(jacobian.dtype).max) / 4  # of what can be squared
  jacobian = lax.clamp(-bound, jacobian, bound)
  ellipse = jnp.einsum(
    "...ik,...jk->...ij", jacobian, jacobian, precision=lax.Precision.HIGHEST
  )
  return jnp.abs(ellipse).sum(axis=-1)


def _blur(
  image: jax.Array, squares: jax.Array, cyclic: Sequence[bool]
) -> jax.Array:
  """Blurs by `[..., N]` squared factors of shrinking along x, y(, z)."""
  num_axes = squares.shape[-1]
  batch = jnp.broadcast_shapes(image.shape[: -1 - num_axes], squares.shape[:-1])
  image = jnp.broadcast_to(image, (*batch, *image.shape[-1 - num_axes :]))
  for axis in range(num_axes):
    size = image.shape[-2 - axis]
    # At the lower bound the neighbour weighs exp(-100): the identity, with
    # neither a division by 0 nor a gradient. Beyond the upper one all is mean.
    variance = lax.clamp(
      *_kinds((squares[..., axis] - 1) / 6, 0.005, float(size) ** 2 * 100)
    ).astype(image.dtype)
    # Along the axis second to last, with the other ones in one before it.
    moved = jnp.moveaxis(image, -2 - axis, -2)
    others = math.prod(moved.shape[len(batch) : -2])
    rows = moved.reshape(*batch, others, size, moved.shape[-1])
    if size > _WHOLE and not cyclic[axis]:
      rows = _along_tiles(rows, variance)
    else:
      rows = _along(rows, variance, cyclic[axis])
    image = jnp.moveaxis(rows.reshape(moved.shape), -2, -2 - axis)
  return image


def _along(rows: jax.Array, variance: jax.Array, cyclic: bool) -> jax.Array:
  """Blurs `[..., R, size, C]` along the sizes, by one product."""
  size = rows.shape[-2]
  distance = np.abs(np.arange(size)[:, None] - np.arange(size))
  if cyclic:
    distance = np.minimum(distance, size - distance)
  weights = _gaussian(distance, variance[..., None, None])
  weights = weights / weights.sum(axis=-1, keepdims=True)
  return _product("...ij,...rjc->...ric", weights, rows)


def _along_tiles(rows: jax.Array, variance: jax.Array) -> jax.Array:
  """As `_along`, by products of tiles whose distance weighs something.

  The work grows with the size times the width of the Gaussian.
  """
  *before, size, channels = rows.shape
  count = -(-size // _TILE)
  filled = [(0, 0)] * len(before) + [(0, count * _TILE - size), (0, 0)]
  tiles = jnp.pad(rows, filled).reshape(*before, count, _TILE, channels)
  # Weights beyond are less than rounding. Known when it runs, it chooses among
  # programs for powers of two.
  eps = float(jnp.finfo(rows.dtype).eps) / 16
  reach = jnp.sqrt(-2 * math.log(eps) * variance.max(initial=0))
  powers = [2**k for k in range((count - 1).bit_length())] + [count - 1]
  farthest = np.unique(np.minimum(powers, count - 1))
  chosen = _largest((_TILE * farthest[:-1] < lax.stop_gradient(reach)).sum())
  total: jax.Array = lax.switch(
    chosen,
    [functools.partial(_near_tiles, far=int(far)) for far in farthest],
    tiles,
    variance,
  )
  total = total.reshape(*before, count * _TILE, channels)[..., :size, :]
  # What the weights of a row within the image sum to.
  sums = _gaussian(np.arange(size), variance[..., None]).cumsum(axis=-1)
  sums = sums + sums[..., ::-1] - 1
  result: jax.Array = total / sums[..., None, :, None]
  return result


@custom_batching.custom_vmap
def _largest(chosen: jax.Array) -> jax.Array:
  """The largest under `vmap`, so that a switch does not become a selection."""
  return chosen


@_largest.def_vmap
def _(
  axis_size: int, in_batched: list[bool], chosen: jax.Array
) -> tuple[jax.Array, bool]:
  del axis_size, in_batched
  return _largest(chosen.max(axis=0, initial=0)), False


def _near_tiles(tiles: jax.Array, variance: jax.Array, far: int) -> jax.Array:
  """Weighted sums over `[..., R, count, _TILE, C]`, of tiles at most `far`."""
  count = tiles.shape[-3]
  beyond = [
    (far, far) if k == tiles.ndim - 3 else (0, 0) for k in range(tiles.ndim)
  ]
  padded = jnp.pad(tiles, beyond)
  within = np.arange(_TILE)
  within = within[:, None] - within

  @jax.checkpoint
  def add(total: jax.Array, apart: jax.Array) -> tuple[jax.Array, None]:
    read = lax.dynamic_slice_in_dim(padded, far + apart, count, axis=-3)
    weights = _gaussian(within - _TILE * apart, variance[..., None, None])
    return total + _product("...ij,...rnjc->...rnic", weights, read), None

  return lax.scan(add, jnp.zeros_like(tiles), jnp.arange(-far, far + 1))[0]


def _product(signature: str, weights: jax.Array, rows: jax.Array) -> jax.Array:
  return jnp.einsum(signature, weights, rows, precision=lax.Precision.HIGHEST)


def _gaussian(
  distance: np.ndarray | jax.Array, variance: jax.Array
) -> jax.Array:
  return jnp.exp(-(distance**2).astype(variance.dtype) / (2 * variance))


def _kinds(
  value: jax.Array, low: float, high: float
) -> tuple[ArrayLike, jax.Array, ArrayLike]:
  """Arguments of `lax.clamp`, which does not promote."""
  return value.dtype.type(low), value, value.dtype.type(high)
