"""Sampling by gathering whole pixels: one gather per tap."""

from collections.abc import Sequence
import functools
import itertools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp


class Tap(NamedTuple):
  """A pixel that takes part in a sample, along one axis."""

  index: jax.Array  # [...], int32, clipped into the axis
  inside: jax.Array | bool  # [...], whether the pixel exists
  weight: jax.Array | None  # [...], None for the only tap of "nearest"


def sample(
  image: jax.Array,
  points: jax.Array,
  *,
  method: str,
  padding: str,
  align_corners: bool,
) -> jax.Array:
  """Samples one image; batches are made by `vmap`.

  Indexing one image under `vmap`, instead of a flattened batch, is what keeps
  a sharded batch free of collectives.

  Args:
    image: `[*shape, C]` with N spatial axes, N >= 1; for "spline", the
      coefficients.
    points: `[..., N]` pixel coordinates, last axis (x, y) or (x, y, z).
    method: "nearest", "linear", "cubic" or "spline".
    padding: "zeros", "border", "reflection" or "wrap".
    align_corners: whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider, integers stay
    what they are with "nearest".
  """
  sizes = image.shape[-2::-1]
  if jnp.issubdtype(image.dtype, jnp.floating):
    # So that the gradient of a pixel that is read often is summed in it.
    image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
  pixels = image.reshape(math.prod(sizes), image.shape[-1])
  defined = ~jnp.isnan(points).any(axis=-1, keepdims=True)
  # In float, before the cast to integers, whose range huge coordinates exceed.
  # Beyond 1 / eps floats are whole numbers, and there is nothing to blend.
  # `lax.clamp` has no gradient at or beyond its bounds.
  limit = points.dtype.type(min(1 / jnp.finfo(points.dtype).eps, 2**30))
  points = lax.clamp(-limit, jnp.where(defined, points, 0), limit)
  taps = [
    _taps(points[..., axis], size, method, padding, align_corners)
    for axis, size in enumerate(sizes)
  ]
  return jnp.where(defined, _blend(pixels, taps, sizes), 0)


def _taps(
  position: jax.Array,
  size: int,
  method: str,
  padding: str,
  align_corners: bool,
) -> list[Tap]:
  """The taps along one axis."""
  fold = functools.partial(
    _fold, size=size, padding=padding, align_corners=align_corners
  )
  if method == "nearest":
    places, weights = [jnp.round(fold(position))], [None]
  elif method == "linear":
    # The position is folded and not only its taps, so that gradients on the
    # lattice are those of torch: none where "border" clamps.
    position = fold(position)
    floor = jnp.floor(position)
    fraction = position - floor
    places, weights = [floor, floor + 1], [1 - fraction, fraction]
  else:
    floor = jnp.floor(position)
    places = [floor + offset for offset in (-1, 0, 1, 2)]
    weights = {"cubic": _keys, "spline": _b_spline}[method](position - floor)
  taps = []
  for place, weight in zip(places, weights, strict=True):
    index = fold(place).astype(jnp.int32)
    clipped = jnp.clip(index, 0, size - 1)
    inside = clipped == index if padding == "zeros" else True
    taps.append(Tap(clipped, inside, weight))
  return taps


def _fold(
  position: jax.Array, *, size: int, padding: str, align_corners: bool
) -> jax.Array:
  """Brings a coordinate into the image, as the padding says."""
  dtype = position.dtype.type  # `lax.clamp` does not promote
  if padding == "zeros":
    return position
  if padding == "wrap":
    return position - size * jnp.floor(position / size)
  if padding == "reflection":
    low, period = (0, size - 1) if align_corners else (-0.5, size)
    if period == 0:
      return jnp.zeros_like(position)
    # Not `abs`, whose gradient vanishes at the mirror.
    distance = jnp.where(position < low, low - position, position - low)
    rest = jnp.fmod(distance, dtype(period))
    there = jnp.floor(distance / period) % 2 == 0
    position = jnp.where(there, rest, period - rest) + low
  return lax.clamp(dtype(0), position, dtype(size - 1))


def _keys(t: jax.Array) -> list[jax.Array]:
  """Weights of the cubic convolution kernel, a = -0.75 (Keys 1981, eq. 15)."""
  a = -0.75

  def near(x: jax.Array) -> jax.Array:
    return ((a + 2) * x - (a + 3)) * x * x + 1

  def far(x: jax.Array) -> jax.Array:
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

  return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _b_spline(t: jax.Array) -> list[jax.Array]:
  """Weights of the cubic B-spline (Unser 1999, eq. 8)."""
  s = 1 - t
  near = [2 / 3 - x * x * (1 - x / 2) for x in (t, s)]
  return [s * s * s / 6, *near, t * t * t / 6]


def _blend(
  pixels: jax.Array, taps: Sequence[Sequence[Tap]], sizes: Sequence[int]
) -> jax.Array:
  """The weighted sum over all combinations of taps."""
  strides = [math.prod(sizes[:axis]) for axis in range(len(sizes))]
  terms = []
  for corner in itertools.product(*taps):
    flat = sum(t.index * s for t, s in zip(corner, strides, strict=True))
    value = pixels.at[flat].get(
      mode="promise_in_bounds", wrap_negative_indices=False
    )
    inside = [tap.inside for tap in corner if tap.inside is not True]
    if inside:
      present = functools.reduce(jnp.logical_and, inside)
      value = jnp.where(present[..., None], value, 0)
    if corner[0].weight is not None:
      weight = math.prod(tap.weight for tap in corner)
      value = weight[..., None] * value
    terms.append(value)
  return sum(terms[1:], terms[0])
