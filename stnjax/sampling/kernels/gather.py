"""Sampling by gathering whole pixels: one gather per tap."""

from collections.abc import Iterator, Sequence
import functools
import itertools
import math

import jax
import jax.numpy as jnp

from stnjax import checks
from stnjax.sampling.kernels import taps
from stnjax.sampling.kernels.taps import Tap
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding, PaddingPerAxis

_UNROLLED = 64  # combinations of taps, each a gather of a program


def sample(
  image: jax.Array,
  points: jax.Array,
  *,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  batch: int = 1,
) -> jax.Array:
  """Samples one image; batches are made by `vmap`.

  Indexing one image under `vmap`, instead of a flattened batch, does not gather
  sharded batches.

  Args:
    image: `[*shape, C]` with N spatial axes, N >= 1; coefficients for methods
      that prepare them.
    points: `[..., N]` pixel coordinates, last axis (x, y) or (x, y, z).
    method: The method.
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    batch: How many images are read at once, under `vmap`; not used.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider, integers stay
    what they are with "nearest".
  """
  del batch
  sizes = image.shape[-2::-1]
  if jnp.issubdtype(image.dtype, jnp.floating):
    # So that the gradient of a pixel that is read often is summed in it.
    image = image.astype(jnp.promote_types(image.dtype, jnp.float32))
  points, defined = taps.sanitize(points)
  by_axis = [
    taps.taps(
      points[..., axis], size, method, padding.along(axis), align_corners
    )
    for axis, size in enumerate(sizes)
  ]
  return jnp.where(defined, blend(image, by_axis), 0)


def blend(image: jax.Array, by_axis: Sequence[Sequence[Tap]]) -> jax.Array:
  """The weighted sum over all combinations of taps.

  Args:
    image: `[*shape, C]`.
    by_axis: The taps along x, y(, z).

  Returns:
    `[..., C]`.
  """
  *others, along = by_axis
  if math.prod(map(len, by_axis)) > _UNROLLED:
    # One turn of a loop per tap along the last axis: XLA compiles hundreds of
    # gathers for minutes.
    stacked = Tap(*(jnp.stack(jnp.broadcast_arrays(*f)) for f in zip(*along)))
    read = jax.checkpoint(lambda tap: blend(image, [*others, [tap]]))
    return jax.lax.map(read, stacked).sum(axis=0)
  terms = []
  for index, present, weight in corners(by_axis):
    value = _pixels(image, index)
    if present is not True:
      value = jnp.where(present[..., None], value, 0)
    if weight is not None:
      value = weight[..., None] * value
    terms.append(value)
  return sum(terms[1:], terms[0])


def corners(by_axis: Sequence[Sequence[Tap]]) -> Iterator[Tap]:
  """The combinations of taps along x, y(, z).

  Args:
    by_axis: The taps along x, y(, z).

  Yields:
    Taps of the image, whose index is one `[...]` per axis, in array order.
  """
  for corner in itertools.product(*by_axis):
    index = tuple(tap.index for tap in reversed(corner))
    inside = [tap.inside for tap in corner if tap.inside is not True]
    present = functools.reduce(jnp.logical_and, inside) if inside else True
    weighted = corner[0].weight is not None
    weight = math.prod(tap.weight for tap in corner) if weighted else None
    yield Tap(index, present, weight)


def flat_index(index: Sequence[jax.Array], shape: Sequence[int]) -> jax.Array:
  """The index into the pixels of an image in one row."""
  result = index[0]
  for along, size in zip(index[1:], shape[1:], strict=True):
    result = result * size + along
  return result


def _pixels(image: jax.Array, index: Sequence[jax.Array]) -> jax.Array:
  """The pixels `[..., C]` at an index per axis, each within the image."""
  shape = image.shape[:-1]
  # Else the index exceeds 32 bits, or may do so.
  if checks.is_static(*shape) and math.prod(shape) < 2**31:
    image = image.reshape(math.prod(shape), image.shape[-1])
    index = (flat_index(index, shape),)
  return image.at[tuple(index)].get(
    mode="promise_in_bounds", wrap_negative_indices=False
  )
