"""Taps: which pixels take part in a sample along an axis, and how much."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import checks


class Tap(NamedTuple):
  """A pixel that takes part in a sample, along one axis."""

  index: jax.Array  # [...], int32, clipped into the axis
  inside: jax.Array | bool  # [...], whether the pixel exists
  weight: jax.Array | None  # [...], None for the only tap of "nearest"


def settle(points: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Replaces coordinates that are not numbers.

  Args:
    points: `[..., N]` pixel coordinates.

  Returns:
    The points, all 0 where one of their coordinates is NaN, and `[..., 1]`,
    whether all of a point's coordinates are numbers.
  """
  defined = ~jnp.isnan(points).any(axis=-1, keepdims=True)
  return jnp.where(defined, points, 0), defined


def bound(position: jax.Array, size: int, padding: str) -> jax.Array:
  """Clamps coordinates to finite ones that read the same; NaN stays.

  Args:
    position: `[...]` pixel coordinates.
    size: Pixels of the axis, at most `checks.MAX_SIZE`.
    padding: See `taps`.

  Returns:
    `[...]`. For "zeros" and "border", where all places far outside are alike,
    within the range of int32. Zero gradient where clamped: `lax.clamp` has
    none at or beyond its bounds.
  """
  if padding in ("wrap", "reflection"):
    limit = float(jnp.finfo(position.dtype).max) / 8
  else:
    # Beyond 1 / eps floats are whole numbers: nothing is blended there.
    limit = max(1 / float(jnp.finfo(position.dtype).eps), size + 8)
    limit = min(limit, checks.MAX_SIZE)
  limit = position.dtype.type(limit)
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
    position: `[...]` pixel coordinates, none NaN.
    size: pixels of the axis.
    method: "nearest", "linear", "cubic" or "spline".
    padding: "zeros", "border", "reflection" or "wrap".
    align_corners: whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    One, two or four taps.
  """
  options = size, padding, align_corners
  position = bound(position, size, padding)
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
    rest = _remainder(position, size)
    rest = jnp.where(rest < 0, rest + dtype(size), rest)
    # The sum rounds up to a whole period just below 0.
    return jnp.where(rest < size, rest, rest - dtype(size))
  if padding == "reflection":
    low, high = (0, size - 1) if align_corners else (-0.5, size - 0.5)
    if low == high:
      return jnp.where(jnp.isnan(position), position, 0)
    rest = _remainder(position, 2 * (high - low))
    # Mirrored by the sign of the position, as in torch, whose gradient at the
    # mirrors this gives.
    rest = jnp.where(position < low, dtype(2 * low) - rest, rest)
    position = jnp.where(rest < high, rest, dtype(2 * high) - rest)
  return lax.clamp(dtype(0), position, dtype(size - 1))


def _remainder(position: jax.Array, period: float) -> jax.Array:
  """What whole periods leave, exactly, with the sign of the position.

  Not by the floor of a quotient: XLA multiplies by the rounded reciprocal of a
  constant, so that whole multiples of some periods come out one period off.
  """
  return lax.rem(position, lax.full_like(position, period))


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
