"""Sampling by gathering whole pixels: one gather per corner of the cell."""

from collections.abc import Sequence
import itertools
import math

import jax
from jax import lax
import jax.numpy as jnp


def sample(
  image: jax.Array, points: jax.Array, *, method: str, padding: str
) -> jax.Array:
  """Samples one image; batches are made by `vmap`.

  Indexing one image under `vmap`, instead of a flattened batch, is what keeps
  a sharded batch free of collectives.

  Args:
    image: `[*shape, C]` with N spatial axes.
    points: `[..., N]` pixel coordinates, last axis (x, y) or (x, y, z).
    method: "nearest" or "linear".
    padding: "zeros" or "border".

  Returns:
    `[..., C]`: the image's dtype for "nearest", else the wider of image and
    points.
  """
  sizes = image.shape[-2::-1]
  pixels = image.reshape(math.prod(sizes), image.shape[-1])
  defined = ~jnp.isnan(points).any(axis=-1, keepdims=True)
  points = jnp.where(defined, points, 0)
  positions = [
    _clamp(points[..., axis], size, padding) for axis, size in enumerate(sizes)
  ]
  if method == "nearest":
    result = _nearest(pixels, positions, sizes)
  else:
    result = _linear(pixels, positions, sizes)
  return jnp.where(defined, result, 0)


def _clamp(position: jax.Array, size: int, padding: str) -> jax.Array:
  # In float, before the cast to integers, whose range huge coordinates exceed.
  # "zeros" leaves room for the blend over the border. `lax.clamp` has no
  # gradient at or beyond its bounds.
  low, high = (-2, size + 1) if padding == "zeros" else (0, size - 1)
  kind = position.dtype.type  # `lax.clamp` does not promote
  return lax.clamp(kind(low), position, kind(high))


def _nearest(
  pixels: jax.Array, positions: Sequence[jax.Array], sizes: Sequence[int]
) -> jax.Array:
  indices = [jnp.round(p).astype(jnp.int32) for p in positions]
  return _read(pixels, indices, sizes)


def _linear(
  pixels: jax.Array, positions: Sequence[jax.Array], sizes: Sequence[int]
) -> jax.Array:
  taps = []  # per axis: (index, weight) of the pixels at floor and floor + 1
  for position in positions:
    floor = jnp.floor(position)
    lower, fraction = floor.astype(jnp.int32), position - floor
    taps.append([(lower, 1 - fraction), (lower + 1, fraction)])
  corners = []
  for corner in itertools.product(*taps):
    value = _read(pixels, [index for index, _ in corner], sizes)
    weight = math.prod(weight for _, weight in corner)
    corners.append(weight[..., None] * value)
  return sum(corners[1:], corners[0])


def _read(
  pixels: jax.Array, indices: Sequence[jax.Array], sizes: Sequence[int]
) -> jax.Array:
  """Pixels `[..., C]` at per-axis indices; 0 at those outside."""
  flat, stride = 0, 1
  inside = True
  for index, size in zip(indices, sizes, strict=True):
    clipped = jnp.clip(index, 0, size - 1)
    inside &= clipped == index
    flat, stride = flat + clipped * stride, stride * size
  value = pixels.at[flat].get(
    mode="promise_in_bounds", wrap_negative_indices=False
  )
  return jnp.where(inside[..., None], value, 0)
