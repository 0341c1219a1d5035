"""Symmetric filters along an axis, as operations of JAX.

`filter`, and `correlate`, the gradient of its weights. Both are linear in two
operands, and each is a gradient of the other. On CPU they are functions of
sampler.cc, where setup.py could compile it, whose work grows with the reach of
each image; elsewhere products with matrices of the weights.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import custom_batching, lax
from jax.extend import core
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

from stnjax import primitives, promotion
from stnjax.sampling.kernels import library

_TILE = 64  # pixels along the axis that one product filters
_WHOLE = 256  # up to this size one product filters all of it


def symmetric(
  images: jax.Array, weights: jax.Array, reach: jax.Array, *, cyclic: bool
) -> jax.Array:
  """Sums the pixels at each distance from a pixel, weighted.

    w[0] x[i] + w[1] (x[i - 1] + x[i + 1]) + ... up to w[reach]

  Args:
    images: `[B, L, S, M]`, filtered along S; float32 or float64.
    weights: `[B, num_weights(S, cyclic)]` of the distances 0, 1, ..., of the
      same dtype.
    reach: `[B]` int32, the largest distance that counts.
    cyclic: Whether the images repeat outside, instead of being 0.

  Returns:
    `[B, L, S, M]`.
  """
  operands = promotion.match_varying_axes(images, weights, reach)
  if not primitives.supports(*operands):
    return _filter(*operands, cyclic=cyclic)
  result: jax.Array = _FILTER.bind(*operands, cyclic=cyclic)
  return result


def num_weights(size: int, cyclic: bool) -> int:
  """The number of distances between pixels of an axis, 0 included."""
  return size // 2 + 1 if cyclic else size


# The operations by products.


@promotion.usual
def _filter(
  images: jax.Array, weights: jax.Array, reach: jax.Array, *, cyclic: bool
) -> jax.Array:
  counted = jnp.arange(weights.shape[-1]) <= reach[:, None]
  weights = jnp.where(counted, weights, 0)
  size = images.shape[-2]
  if cyclic:
    return _whole(images, _around(weights, size))
  if size <= _WHOLE:
    return _whole(images, _both_sides(weights))
  return _by_tiles(images, weights, reach.max(initial=0))


def _around(weights: jax.Array, size: int) -> jax.Array:
  """`[B, 2 S]` weights of offsets 0 to S - 1, and after another, -S + 1 to -1.

  The pixel at half the size is met from both sides.
  """
  beyond = size - weights.shape[-1]
  forth = jnp.pad(weights, ((0, 0), (0, beyond)))
  back = jnp.flip(forth[:, 1:], axis=-1)
  around = forth.at[:, 1:].add(back)
  return jnp.concatenate([around, around[:, :1], around[:, 1:]], axis=-1)


def _both_sides(weights: jax.Array) -> jax.Array:
  """As `_around`, of images that do not repeat."""
  back = jnp.flip(weights[:, 1:], axis=-1)
  return jnp.concatenate([weights, weights[:, :1], back], axis=-1)


def _matrix(weights: jax.Array) -> jax.Array:
  """`[B, S, S]`, whose row i has the weights of the offsets j - i.

  Args:
    weights: `[B, 2 S]`, those of offsets from 0 on, then, from the end, of
      those below 0.
  """
  batch, double = weights.shape
  size = double // 2
  # Each row is the one before, moved by one: rows of all but one number, of
  # the weights again and again.
  again = jnp.broadcast_to(weights[:, None], (batch, size, double))
  again = again.reshape(batch, size * double)[:, : size * (double - 1)]
  return again.reshape(batch, size, double - 1)[..., :size]


def _whole(images: jax.Array, weights: jax.Array) -> jax.Array:
  return _product("bij,bljm->blim", _matrix(weights), images)


def _by_tiles(
  images: jax.Array, weights: jax.Array, reach: jax.Array
) -> jax.Array:
  """By products of tiles that are close enough to count.

  The work grows with the size times the reach.
  """
  batch, lines, size, inner = images.shape
  count = -(-size // _TILE)
  filled = ((0, 0), (0, 0), (0, count * _TILE - size), (0, 0))
  tiles = jnp.pad(images, filled).reshape(batch, lines, count, _TILE, inner)
  weights = jnp.pad(weights, ((0, 0), (0, (count + 1) * _TILE)))
  both = jnp.concatenate([jnp.flip(weights[:, 1:], -1), weights], axis=-1)
  # Known when it runs, the reach chooses among programs for powers of two.
  powers = [2**k for k in range((count - 1).bit_length())] + [count - 1]
  farthest = np.unique(np.minimum(powers, count - 1))
  chosen = _largest((_TILE * farthest[:-1] < reach).sum())
  total: jax.Array = lax.switch(
    chosen,
    [functools.partial(_near_tiles, far=int(far)) for far in farthest],
    tiles,
    both,
  )
  return total.reshape(batch, lines, count * _TILE, inner)[:, :, :size]


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


def _near_tiles(tiles: jax.Array, weights: jax.Array, far: int) -> jax.Array:
  """Weighted sums over `[B, L, count, _TILE, M]`, of tiles at most `far`.

  Args:
    tiles: Parts of images.
    weights: `[B, 2 K - 1]` of distances to both sides.
    far: Number of tiles.
  """
  count, middle = tiles.shape[2], weights.shape[-1] // 2
  padded = jnp.pad(tiles, ((0, 0), (0, 0), (far, far), (0, 0), (0, 0)))

  @jax.checkpoint
  def add(total: jax.Array, apart: jax.Array) -> tuple[jax.Array, None]:
    read = lax.dynamic_slice_in_dim(padded, far + apart, count, axis=2)
    start = middle + _TILE * apart
    offsets = lax.dynamic_slice_in_dim(weights, start - _TILE, 2 * _TILE, -1)
    matrix = _matrix(jnp.roll(offsets, _TILE, axis=-1))
    return total + _product("bij,blnjm->blnim", matrix, read), None

  return lax.scan(add, jnp.zeros_like(tiles), jnp.arange(-far, far + 1))[0]


def _product(
  signature: str, weights: jax.Array, images: jax.Array
) -> jax.Array:
  return jnp.einsum(signature, weights, images, precision=lax.Precision.HIGHEST)


@promotion.usual
def _correlate(
  images: jax.Array,
  cotangent: jax.Array,
  reach: jax.Array,
  *,
  cyclic: bool,
) -> jax.Array:
  shape = images.shape[0], num_weights(images.shape[-2], cyclic)
  # Under `shard_map`, the gradient of one that is the same on all devices
  # would be summed over them.
  weights, *_ = promotion.match_varying_axes(
    jnp.zeros(shape, images.dtype), images
  )
  filtered = functools.partial(_filter, images, reach=reach, cyclic=cyclic)
  (result,) = jax.vjp(filtered, weights)[1](cotangent)
  return result


# The operations.


def _operation(
  name: str, reference: Callable[..., Any], result: Callable[..., Any]
) -> core.Primitive:
  """An operation of JAX that does what `reference` does.

  Args:
    name: End of the operation's name.
    reference: The operation by other operations.
    result: Shape of its result, in a list, see `primitives.define`.
  """
  primitive = primitives.define(
    f"stnjax_sampler_{name}", result, options=("cyclic",)
  )
  by_products = primitives.lowering(reference)
  call = jax.ffi.ffi_lowering(primitive.name)

  def lower_for_cpu(context: Any, *operands: Any, cyclic: bool) -> Any:
    if library.is_compiled() and library.may_call(context):
      return call(context, *operands, cyclic=cyclic)
    return by_products(context, *operands, cyclic=cyclic)

  mlir.register_lowering(primitive, by_products)
  mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
  ad.primitive_jvps[primitive] = functools.partial(_change, primitive)
  batching.primitive_batchers[primitive] = functools.partial(_batch, primitive)
  return primitive


def _change(
  primitive: core.Primitive,
  operands: Sequence[Any],
  changes: Sequence[Any],
  **options: Any,
) -> tuple[Any, Any]:
  """Value and change of what is linear in its first and second operand."""
  first, second, reach = operands
  value = primitive.bind(first, second, reach, **options)
  parts = []
  if type(changes[0]) is not ad.Zero:
    parts.append(primitive.bind(changes[0], second, reach, **options))
  if type(changes[1]) is not ad.Zero:
    parts.append(primitive.bind(first, changes[1], reach, **options))
  if not parts:
    return value, ad.Zero(jax.typeof(value).to_tangent_aval())
  return value, functools.reduce(jnp.add, parts)


def _transpose_filter(
  cotangent: Any, images: Any, weights: Any, reach: Any, **options: Any
) -> tuple[Any, Any, None]:
  if ad.is_undefined_primal(images):
    return _FILTER.bind(cotangent, weights, reach, **options), None, None
  return None, _CORRELATE.bind(images, cotangent, reach, **options), None


def _transpose_correlate(
  weights: Any, images: Any, cotangent: Any, reach: Any, **options: Any
) -> tuple[Any, Any, None]:
  if ad.is_undefined_primal(images):
    return _FILTER.bind(cotangent, weights, reach, **options), None, None
  return None, _FILTER.bind(images, weights, reach, **options), None


def _batch(
  primitive: core.Primitive,
  operands: Sequence[Any],
  dims: Sequence[int | None],
  **options: Any,
) -> tuple[jax.Array, int]:
  """A new axis is one of the batch."""
  (size,) = {a.shape[d] for a, d in zip(operands, dims) if d is not None}

  def with_axis(operand: Any, dim: int | None) -> Any:
    if dim is None:
      return jnp.broadcast_to(operand, (size, *operand.shape))
    return jnp.moveaxis(operand, dim, 0)

  moved = list(map(with_axis, operands, dims))
  merged = [lax.collapse(operand, 0, 2) for operand in moved]
  result = primitive.bind(*merged, **options)
  return result.reshape(*moved[0].shape[:2], *result.shape[1:]), 0


_FILTER = _operation("filter", _filter, lambda images, *_, cyclic: [images])
_CORRELATE = _operation(
  "correlate",
  _correlate,
  lambda images, *_, cyclic: [(images[0], num_weights(images[2], cyclic))],
)
ad.primitive_transposes[_FILTER] = _transpose_filter
ad.primitive_transposes[_CORRELATE] = _transpose_correlate
