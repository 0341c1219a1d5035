"""Taps: which pixels take part in a sample along an axis, and how much."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp


class Tap(NamedTuple):
  """A pixel that takes part in a sample, along one axis."""

  index: jax.Array  # [...], int32, clipped into the axis
  inside: jax.Array | bool  # [...], whether the pixel exists
  weight: jax.Array | None  # [...], None for the only tap of "nearest"


def settle(points: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Makes coordinates safe to be cast to integers.

  Args:
    points: `[..., N]` pixel coordinates.

  Returns:
    The points, finite and within the range of integers, and `[..., 1]`,
    whether all of a point's coordinates were numbers.
  """
  defined = ~jnp.isnan(points).any(axis=-1, keepdims=True)
  return bound(jnp.where(defined, points, 0)), defined


def bound(position: jax.Array) -> jax.Array:
  """Coordinates within the range of integers; NaN stays."""
  # In float, before the cast to integers, whose range huge coordinates exceed.
  # Beyond 1 / eps floats are whole numbers, and there is nothing to blend.
  # `lax.clamp` has no gradient at or beyond its bounds.
  limit = position.dtype.type(min(1 / jnp.finfo(position.dtype).eps, 2**30))
  return lax.clamp(-limit, position, limit)


def taps(
  position: jax.Array,
  size: int,
  method: str,
  padding: str,
  align_corners: bool,
) -> list[Tap]:
  """The taps along one axis.

  Args:
    position: `[...]` pixel coordinates, settled.
    size: pixels of the axis.
    method: "nearest", "linear", "cubic" or "spline".
    padding: "zeros", "border", "reflection" or "wrap".
    align_corners: whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    One, two or four taps.
  """
  options = size, padding, align_corners
  if method in ("nearest", "linear"):
    # The position is folded and not only its taps, so that gradients on the
    # lattice are those of torch: none where "border" clamps.
    position = fold(position, *options)
  if method == "nearest":
    return [_tap(jnp.round(position), None, *options)]
  if method == "linear":
    return linear(position, *options)
  floor = jnp.floor(position)
  weights = {"cubic": _keys, "spline": _b_spline}[method](position - floor)
  return [
    _tap(floor + offset, weight, *options)
    for offset, weight in zip((-1, 0, 1, 2), weights, strict=True)
  ]


def linear(
  position: jax.Array, size: int, padding: str, align_corners: bool
) -> list[Tap]:
  """The two taps of "linear" at a position that is folded already."""
  floor = jnp.floor(position)
  fraction = position - floor
  return [
    _tap(floor, 1 - fraction, size, padding, align_corners),
    _tap(floor + 1, fraction, size, padding, align_corners),
  ]


def _tap(
  place: jax.Array,
  weight: jax.Array | None,
  size: int,
  padding: str,
  align_corners: bool,
) -> Tap:
  index = fold(place, size, padding, align_corners).astype(jnp.int32)
  clipped = jnp.clip(index, 0, size - 1)
  return Tap(clipped, clipped == index if padding == "zeros" else True, weight)


def fold(
  position: jax.Array, size: int, padding: str, align_corners: bool
) -> jax.Array:
  """Brings a coordinate into the image, as the padding says."""
  dtype = position.dtype.type  # `lax.clamp` does not promote
  if padding == "zeros":
    return position
  if padding == "wrap":
    position = position - size * jnp.floor(position / size)
    # Less than nothing, by rounding: a whole period comes out.
    return position - jnp.where(position < size, dtype(0), dtype(size))
  if padding == "reflection":
    low, period = (0, size - 1) if align_corners else (-0.5, size)
    if period == 0:
      return jnp.where(jnp.isnan(position), position, 0)
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
