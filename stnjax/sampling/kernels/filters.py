"""Symmetric filters along an axis, as operations of JAX.

`filter`, and `correlate`, the gradient of its weights. Both are linear in two
operands, and each is a gradient of the other. On CPU they are functions of
sampler.cc, where setup.py could compile it, whose work grows with the reach of
each image; for small images, and elsewhere, products with matrices of the
weights.
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
_SMALL = 48  # up to this size that is faster than compiled code


def symmetric(
  images: jax.Array,
  weights: jax.Array,
  reach: jax.Array,
  *,
  axis: int,
  cyclic: bool,
) -> jax.Array:
  """Sums the pixels at each distance from a pixel, weighted.

    w[0] x[i] + w[1] (x[i - 1] + x[i + 1]) + ... up to w[reach]

  Args:
    images: `[*batch, ..., S, ...]`, float32 or float64.
    weights: `[*batch, num_weights(S, cyclic)]` of the distances 0, 1, ..., of
      the same dtype.
    reach: `[*batch]` int32, the largest distance that counts.
    axis: The axis of S, from 0 on.
    cyclic: Whether the images repeat outside, instead of being 0.

  Returns:
    The shape of `images`.
  """
  operands = promotion.match_varying_axes(images, weights, reach)
  options = {"axis": axis, "cyclic": cyclic}
  if not primitives.supports(*operands):
    return _filter(*operands, **options)
  result: jax.Array = _FILTER.bind(*operands, **options)
  return result


def num_weights(size: int, cyclic: bool) -> int:
  """The number of distances between pixels of an axis, 0 included."""
  return size // 2 + 1 if cyclic else size


# The operations by products.


def _filter(
  images: jax.Array,
  weights: jax.Array,
  reach: jax.Array,
  *,
  axis: int,
  cyclic: bool,
) -> jax.Array:
  counted = jnp.arange(weights.shape[-1]) <= reach[..., None]
  weights = jnp.where(counted, weights, 0)
  if cyclic:
    return _product(images, _matrix(_around(weights, images.shape[axis])), axis)
  if images.shape[axis] <= _WHOLE:
    return _product(images, _matrix(_both_sides(weights)), axis)
  return _by_tiles(images, weights, reach.max(initial=0), axis)


def _around(weights: jax.Array, size: int) -> jax.Array:
  """`[*batch, 2 S]` weights of offsets 0 to S - 1, another, -S + 1 to -1.

  The pixel at half the size is met from both sides.
  """
  *batch, count = weights.shape
  forth = jnp.pad(weights, [*[(0, 0)] * len(batch), (0, size - count)])
  back = jnp.flip(forth[..., 1:], axis=-1)
  around = jnp.concatenate([forth[..., :1], forth[..., 1:] + back], axis=-1)
  return jnp.concatenate([around, around], axis=-1)


def _both_sides(weights: jax.Array) -> jax.Array:
  """As `_around`, of images that do not repeat."""
  back = jnp.flip(weights[..., 1:], axis=-1)
  return jnp.concatenate([weights, weights[..., :1], back], axis=-1)


def _matrix(weights: jax.Array) -> jax.Array:
  """`[*batch, S, S]`, whose row i has the weights of the offsets j - i.

  Args:
    weights: `[*batch, 2 S]`, those of offsets from 0 on, then, from the end, of
      those below 0.
  """
  size = weights.shape[-1] // 2
  rows, count = weights[..., None, :], 1
  # Twice as many each time, without a gather: row i has moved by i.
  while count < size:
    rows = jnp.concatenate([rows, jnp.roll(rows, count, axis=-1)], axis=-2)
    count *= 2
  return rows[..., :size, :size]


def _product(images: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
  """The images times a matrix for each, `[*batch, S, S]`, along an axis."""
  axes, row = list(range(images.ndim)), images.ndim
  batch = axes[: matrix.ndim - 2]
  result: jax.Array = jnp.einsum(
    *(matrix, [*batch, row, axis], images, axes),
    [row if a == axis else a for a in axes],
    precision=lax.Precision.HIGHEST,
  )
  return result


def _by_tiles(
  images: jax.Array, weights: jax.Array, reach: jax.Array, axis: int
) -> jax.Array:
  """By products of tiles that are close enough to count.

  The work grows with the size times the reach.
  """
  *before, size = images.shape[: axis + 1]
  after = images.shape[axis + 1 :]
  count = -(-size // _TILE)
  widths = [(0, 0)] * images.ndim
  widths[axis] = (0, count * _TILE - size)
  tiles = jnp.pad(images, widths).reshape(*before, count, _TILE, *after)
  margin = [(0, 0)] * (weights.ndim - 1) + [(0, (count + 1) * _TILE)]
  weights = jnp.pad(weights, margin)
  both = jnp.concatenate([jnp.flip(weights[..., 1:], -1), weights], axis=-1)
  # Known when it runs, the reach chooses among programs for powers of two.
  powers = [2**k for k in range((count - 1).bit_length())] + [count - 1]
  farthest = np.unique(np.minimum(powers, count - 1))
  chosen = _largest((_TILE * farthest[:-1] < reach).sum())
  total: jax.Array = lax.switch(
    chosen,
    [
      functools.partial(_near_tiles, axis=axis, far=int(far))
      for far in farthest
    ],
    tiles,
    both,
  )
  total = total.reshape(*before, count * _TILE, *after)
  return lax.slice_in_dim(total, 0, size, axis=axis)


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


def _near_tiles(
  tiles: jax.Array, weights: jax.Array, *, axis: int, far: int
) -> jax.Array:
  """Weighted sums of tiles at most `far` apart.

  Args:
    tiles: `[*batch, ..., count, _TILE, ...]`.
    weights: `[*batch, 2 K - 1]` of distances to both sides.
    axis: The axis of the count.
    far: Number of tiles.
  """
  count, middle = tiles.shape[axis], weights.shape[-1] // 2
  widths = [(0, 0)] * tiles.ndim
  widths[axis] = (far, far)
  padded = jnp.pad(tiles, widths)

  @jax.checkpoint
  def add(total: jax.Array, apart: jax.Array) -> tuple[jax.Array, None]:
    read = lax.dynamic_slice_in_dim(padded, far + apart, count, axis=axis)
    start = middle + _TILE * apart
    offsets = lax.dynamic_slice_in_dim(weights, start - _TILE, 2 * _TILE, -1)
    matrix = _matrix(jnp.roll(offsets, _TILE, axis=-1))
    return total + _product(read, matrix, axis + 1), None

  return lax.scan(add, jnp.zeros_like(tiles), jnp.arange(-far, far + 1))[0]


def _correlate(
  images: jax.Array,
  cotangent: jax.Array,
  reach: jax.Array,
  *,
  axis: int,
  cyclic: bool,
) -> jax.Array:
  count = num_weights(images.shape[axis], cyclic)
  # Under `shard_map`, the gradient of one that is the same on all devices
  # would be summed over them.
  weights, *_ = promotion.match_varying_axes(
    jnp.zeros((*reach.shape, count), images.dtype), images
  )
  filtered = functools.partial(
    _filter, images, reach=reach, axis=axis, cyclic=cyclic
  )
  (result,) = jax.vjp(filtered, weights)[1](cotangent)
  return result


# The operations.


def _operation(
  name: str, by_products: Callable[..., Any], shapes: Callable[..., Any]
) -> core.Primitive:
  """An operation of JAX, by its form by products, and the shapes of results."""
  primitive = primitives.define(
    f"stnjax_sampler_{name}", shapes, options=("axis", "cyclic")
  )

  def compiled(
    images: jax.Array, second: jax.Array, reach: jax.Array, **options: Any
  ) -> jax.Array:
    (shape,) = shapes(images.shape, second.shape, reach.shape, **options)
    if images.shape[options["axis"]] <= _SMALL:
      return by_products(images, second, reach, **options)
    return primitives.call_compiled(
      *(primitive.name, (images, second, reach), shape, images.dtype),
      axis=np.int64(options["axis"]),
      cyclic=options["cyclic"],
    )

  elsewhere = primitives.lowering(by_products)
  mlir.register_lowering(primitive, elsewhere)
  for_cpu = library.lowering(primitives.lowering(compiled), elsewhere)
  mlir.register_lowering(primitive, for_cpu, platform="cpu")
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
  *,
  axis: int,
  cyclic: bool,
) -> tuple[jax.Array, int]:
  """A new axis is one of the batch."""
  (size,) = {a.shape[d] for a, d in zip(operands, dims) if d is not None}
  moved = [
    jnp.broadcast_to(operand, (size, *operand.shape))
    if dim is None
    else jnp.moveaxis(operand, dim, 0)
    for operand, dim in zip(operands, dims, strict=True)
  ]
  return primitive.bind(*moved, axis=axis + 1, cyclic=cyclic), 0


_FILTER = _operation(
  "filter", _filter, lambda images, *_, axis, cyclic: [images]
)
_CORRELATE = _operation(
  "correlate",
  _correlate,
  lambda images, _, reach, *, axis, cyclic: [
    (*reach, num_weights(images[axis], cyclic))
  ],
)
ad.primitive_transposes[_FILTER] = _transpose_filter
ad.primitive_transposes[_CORRELATE] = _transpose_correlate
