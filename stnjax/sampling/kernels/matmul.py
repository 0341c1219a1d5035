"""Sampling by matrix products, for TPUs, which gather slowly.

Along each axis the taps become a row of weights per sample, zero but for a few
entries (for "linear" a hat), and two products with them read an image. That is
size times the arithmetic of a gather, on units made for it. Samples of large
images are taken in tiles, each computed anew in the backward pass, so that no
temporary grows with the number of samples times the size of the image.
"""

from collections.abc import Sequence
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from stnjax.sampling.kernels import taps
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding, PaddingPerAxis

_LANES = 128  # a tile is a multiple: what a TPU's vector registers hold abreast
# Numbers of the tiles of a whole batch, and of one, that a TPU's core holds.
_BATCH, _ONE = 2**24, 2**18


def supports(image: jax.Array, points: jax.Array, method: Method) -> bool:
  """Whether `sample` can read this image: 2-D (or 1-D), and floating."""
  del method
  return points.shape[-1] <= 2 and jnp.issubdtype(image.dtype, jnp.floating)


def sample(
  image: jax.Array,
  points: jax.Array,
  *,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  batch: int = 1,
) -> jax.Array:
  """Samples one image as `gather.sample` does; batches are made by `vmap`.

  Where `gather.sample` keeps pixels that are not finite to those that read
  them, here they reach every sample of the image, as 0 times NaN is NaN.

  Args:
    image: `[H, W, C]` or `[W, C]`, floating; see `supports`.
    points: `[..., 2]` or `[..., 1]` pixel coordinates, last axis (x, y).
    method: The method.
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    batch: How many images are read at once, under `vmap`.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider.

  Gradient: that of `gather.sample`, also by matrix products.
  """
  image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
  shape = points.shape[:-1]
  points, defined = taps.sanitize(points.reshape(-1, points.shape[-1]))
  # Recomputed by tile: else weights of all samples would be kept.
  read = jax.checkpoint(
    functools.partial(
      _read, method=method, padding=padding, align_corners=align_corners
    )
  )
  count = len(points)
  tile = tile_size(image.shape, count, batch)
  if count <= tile:
    result = read(image, points)
  else:
    tiles = jnp.pad(points, ((0, -count % tile), (0, 0)))
    tiles = tiles.reshape(-1, tile, points.shape[-1])
    result = lax.map(functools.partial(read, image), tiles)
    result = lax.collapse(result, 0, 2)[:count]
  return jnp.where(defined, result, 0).reshape(*shape, image.shape[-1])


def tile_size(image_shape: Sequence[int], count: int, batch: int = 1) -> int:
  """Samples of each of the fewest tiles that are not too large, evenly.

  Each tile reads the whole image and is a turn of a loop: the larger, the
  better. It may take 16 times what the image takes, and that of a small image
  more, as long as those of the batch stay in the memory of a core.

  Args:
    image_shape: `(H, W, C)` or `(W, C)`.
    count: Number of samples of the image.
    batch: How many images are read at once, under `vmap`.
  """
  *sizes, channels = image_shape
  # The weights of a sample, or the row that they read; not both at once.
  one = max(sum(sizes), sizes[-1] * channels)
  small = min(_ONE, _BATCH // max(1, batch))
  most = max(1, max(16 * math.prod(image_shape), small) // one // _LANES)
  rows = max(1, -(-count // _LANES))  # of as many samples as there are lanes
  tiles = -(-rows // most)
  return _LANES * -(-rows // tiles)


def _read(
  image: jax.Array,
  points: jax.Array,
  *,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
) -> jax.Array:
  """`[T, C]`: the image at `[T, N]`."""
  weights = [
    _weights(
      taps.taps(
        points[:, axis], size, method, padding.along(axis), align_corners
      ),
      size,
      image.dtype,
    )
    for axis, size in enumerate(image.shape[-2::-1])
  ]
  # By default TPUs multiply in bfloat16, which would cost most of the digits.
  einsum = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  if len(weights) == 1:
    return einsum("tx,xc->tc", weights[0], image)
  rows = einsum("ty,yxc->txc", weights[1], image)
  return einsum("tx,txc->tc", weights[0], rows)


def _weights(
  by_tap: list[taps.Tap], size: int, dtype: jax.typing.DTypeLike
) -> jax.Array:
  """`[T, size]`: how much each pixel of an axis takes part in each sample."""
  pixels = jnp.arange(size)
  total = jnp.zeros((), dtype)
  for tap in by_tap:
    hit = tap.index[:, None] == pixels
    if tap.inside is not True:
      hit &= tap.inside[:, None]
    weight = 1 if tap.weight is None else tap.weight[:, None]
    total = total + jnp.where(hit, weight, 0)
  return total
