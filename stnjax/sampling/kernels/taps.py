"""Taps: the pixels along an axis that take part in a sample, and weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from stnjax.sampling import padding as paddings
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding


class Tap(NamedTuple):
  """A pixel that takes part in a sample, along one axis."""

  index: jax.Array  # [...], int32, clipped into the axis
  inside: jax.Array | bool  # [...], whether the pixel exists
  weight: jax.Array | None  # [...], None for the only tap of "nearest"


def sanitize(points: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Replaces coordinates that are NaN.

  Args:
    points: `[..., N]` pixel coordinates.

  Returns:
    The points, all 0 where one of their coordinates is NaN, and `[..., 1]`,
    whether none of a point's coordinates is NaN.
  """
  defined = ~jnp.isnan(points).any(axis=-1, keepdims=True)
  return jnp.where(defined, points, 0), defined


def taps(
  position: jax.Array,
  size: int,
  method: Method,
  padding: Padding,
  align_corners: bool,
) -> list[Tap]:
  """The taps along one axis.

  Args:
    position: `[...]` pixel coordinates, none NaN.
    size: Pixels of the axis.
    method: The method whose weights the taps have.
    padding: How the axis continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    As many taps as the method's support.
  """
  place = size, padding, align_corners
  if method.pads_position:
    position = paddings.apply_padding(position, *place)
  else:
    position = paddings.near(position, *place, support=method.support)
  return around(position, size, method, padding, align_corners)


def around(
  position: jax.Array,
  size: int,
  method: Method,
  padding: Padding,
  align_corners: bool,
) -> list[Tap]:
  """The taps along one axis around positions that are padded.

  Args:
    position: `[...]` pixel coordinates, none NaN, to which `near` or
      `apply_padding` was applied.
    size: Pixels of the axis.
    method: The method whose weights the taps have.
    padding: How the axis continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    As many taps as the method's support.
  """
  options = size, padding, align_corners
  if method.weights is None:
    return [_tap(_rounded(position), None, *options)]
  floor = jnp.floor(position)
  half = method.support // 2
  weights = method.weights(position - floor)
  return [
    _tap(floor + offset if offset else floor, weight, *options)
    for offset, weight in zip(range(1 - half, 1 + half), weights, strict=True)
  ]


def slopes(
  position: jax.Array,
  size: int,
  method: Method,
  padding: Padding,
  align_corners: bool,
) -> list[jax.Array]:
  """The derivatives `[...]` of the weights of `around`, along the axis."""

  def weights(position: jax.Array) -> list[jax.Array | None]:
    taps = around(position, size, method, padding, align_corners)
    return [tap.weight for tap in taps]

  return jax.jvp(weights, (position,), (jnp.ones_like(position),))[1]


def _rounded(position: jax.Array) -> jax.Array:
  """`jnp.round`, halves to even, by operations that Triton has."""
  floor = jnp.floor(position)
  rest = position - floor
  odd = floor != 2 * jnp.floor(floor / 2)
  up = (rest > 0.5) | ((rest == 0.5) & odd)
  return jnp.where(up, floor + 1, floor)


def _tap(
  place: jax.Array,
  weight: jax.Array | None,
  size: int,
  padding: Padding,
  align_corners: bool,
) -> Tap:
  index = padding.apply(place, size, align_corners).astype(jnp.int32)
  clipped = jnp.clip(index, 0, size - 1)
  return Tap(clipped, clipped == index if padding.fills else True, weight)
