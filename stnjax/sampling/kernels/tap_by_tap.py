"""Gradients of sampling by many taps, one after the other.

For CPUs where nothing is compiled. XLA would work out all taps at once, and
hold as many copies of the image or of the values.
"""

from collections.abc import Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from stnjax.sampling.kernels import gather, taps
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding, PaddingPerAxis


class _Axis(NamedTuple):
  """The S taps of P points along an axis, `[S, P]`."""

  index: jax.Array
  inside: jax.Array  # whether the pixel exists
  weight: jax.Array
  slope: jax.Array  # of the weight, along the axis


MANY = 2
"""Taps along an axis, beyond which one after the other pays."""


def grad_coords(
  image: jax.Array,
  cotangent: jax.Array,
  *points: jax.Array,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
) -> tuple[jax.Array, ...]:
  """The operation of that name for one image.

  Args:
    image: `[(D,) H, W, C]`.
    cotangent: `[P, C]`, of the values.
    *points: `[P]` coordinates x, y(, z) in pixels, padded.
    method: A method with weights.
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    `[P]` for each coordinate.
  """
  shape = image.shape[:-1]
  pixels = image.reshape(math.prod(shape), image.shape[-1])
  points, defined = _defined(points)
  axes = _axes(points, shape, method, padding, align_corners)

  def add(
    slopes: list[jax.Array], corner: jax.Array
  ) -> tuple[list[jax.Array], None]:
    along = _taps(axes, corner)
    read = pixels.at[_place(along, shape)].get(
      mode="promise_in_bounds", wrap_negative_indices=False
    )
    present = _present(along, defined)
    product = jnp.where(present, (read * cotangent).sum(axis=-1), 0)
    weights = [tap.weight for tap in along]
    return [
      slope
      + product * math.prod([*weights[:axis], tap.slope, *weights[axis + 1 :]])
      for axis, (slope, tap) in enumerate(zip(slopes, along, strict=True))
    ], None

  # Zeros that vary over devices as the points do.
  start = [point - point for point in points]
  return tuple(lax.scan(add, start, _corners(axes))[0])


def grad_image(
  image: jax.Array,
  values: jax.Array,
  *points: jax.Array,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
) -> jax.Array:
  """Adds values `[P, C]` to the pixels of an image that they were read from.

  Args:
    image: `[(D,) H, W, C]`.
    values: `[P, C]`.
    *points: As for `grad_coords`.
    method: As for `grad_coords`.
    padding: As for `grad_coords`.
    align_corners: As for `grad_coords`.
  """
  shape = image.shape[:-1]
  points, defined = _defined(points)
  axes = _axes(points, shape, method, padding, align_corners)

  def add(pixels: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
    along = _taps(axes, corner)
    weight = math.prod(tap.weight for tap in along)
    return pixels.at[_place(along, shape)].add(
      jnp.where(_present(along, defined)[:, None], weight[:, None] * values, 0),
      mode="promise_in_bounds",
      wrap_negative_indices=False,
    ), None

  pixels = image.reshape(math.prod(shape), image.shape[-1])
  return lax.scan(add, pixels, _corners(axes))[0].reshape(image.shape)


def _defined(
  points: Sequence[jax.Array],
) -> tuple[list[jax.Array], jax.Array]:
  """Points, 0 where a coordinate is NaN, and whether none is."""
  stacked, defined = taps.sanitize(jnp.stack(points, axis=-1))
  return list(jnp.unstack(stacked, axis=-1)), defined[:, 0]


def _axes(
  points: Sequence[jax.Array],
  shape: Sequence[int],
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
) -> list[_Axis]:
  """The taps along x, y(, z)."""

  def along(axis: int, size: int, point: jax.Array) -> _Axis:
    options = size, method, padding.along(axis), align_corners
    found = taps.around(point, *options)
    inside = [jnp.broadcast_to(tap.inside, point.shape) for tap in found]
    return _Axis(
      jnp.stack([tap.index for tap in found]),
      jnp.stack(inside),
      jnp.stack([tap.weight for tap in found]),
      jnp.stack(taps.slopes(point, *options)),
    )

  return [
    along(axis, size, point)
    for axis, (size, point) in enumerate(zip(shape[::-1], points, strict=True))
  ]


def _corners(axes: Sequence[_Axis]) -> jax.Array:
  """The number of each combination of taps."""
  return jnp.arange(math.prod(len(axis.index) for axis in axes))


def _taps(axes: Sequence[_Axis], corner: jax.Array) -> list[_Axis]:
  """The taps `[P]` of a combination."""
  found = []
  for axis in axes:
    count = len(axis.index)
    one = (lax.dynamic_index_in_dim(a, corner % count, 0, False) for a in axis)
    found.append(_Axis(*one))
    corner = corner // count
  return found


def _present(along: Sequence[_Axis], defined: jax.Array) -> jax.Array:
  """Whether points read a pixel that exists: others may not be numbers."""
  return functools.reduce(jnp.logical_and, [t.inside for t in along], defined)


def _place(along: Sequence[_Axis], shape: Sequence[int]) -> jax.Array:
  """Which pixels of the image, in one row, the taps are."""
  return gather.flat_index([tap.index for tap in reversed(along)], shape)
