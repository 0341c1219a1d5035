"""Linear sampling whose gradient sees further than one pixel."""

from collections.abc import Callable
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax.sampling.methods import LINEAR, METHODS

_AUXILIARY = 7  # displaced samples, as in the paper


def _read(
  image: jax.Array,
  points: jax.Array,
  key: jax.Array,
  read: Callable[..., jax.Array],
) -> jax.Array:
  """Linear values with the slope of a plane fitted to samples around."""
  num_axes = points.shape[-1]
  into = np.array(image.shape[-num_axes - 1 : -1][::-1])
  out = np.array(points.shape[-num_axes - 1 : -1][::-1])
  # The axis of samples stands before all axes of the batch, the image's too.
  missing = max(0, image.ndim - points.ndim)
  points = points.reshape(*[1] * missing, *points.shape)
  # In the paper the displacements are a sum of two: half a pixel of the grid,
  # in units in which image and grid are 2 wide, and one pixel of the image.
  spread = np.hypot(0.25 * into / out, 1).astype(points.dtype)
  centre = lax.stop_gradient(points)
  noise = jax.random.normal(key, (_AUXILIARY, *points.shape), points.dtype)
  offsets = jnp.concatenate([jnp.zeros_like(noise[:1]), noise * spread])
  values = read(lax.stop_gradient(image), centre + offsets, method=LINEAR)
  slope = _plane_slope(offsets, values)
  moved = jnp.where(jnp.isfinite(points), points - centre, 0)
  return read(image, centre, method=LINEAR) + jnp.einsum(
    "...nc,...n->...c", lax.stop_gradient(slope), moved
  )


def _plane_slope(offsets: jax.Array, values: jax.Array) -> jax.Array:
  """Least-squares slopes `[..., N, C]` of `[K, ..., C]` at `[K, ..., N]`."""
  offsets = offsets - offsets.mean(axis=0)
  values = values - values.mean(axis=0)
  precise = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  moments = precise("k...n,k...m->...nm", offsets, offsets)
  products = precise("k...n,k...c->...nc", offsets, values)
  if moments.shape[-1] == 2:
    (a, b), (_, d) = jnp.moveaxis(moments, (-2, -1), (0, 1))
    rows = [jnp.stack([d, -b], -1), jnp.stack([-b, a], -1)]
    determinant = a * d - b * b
  else:
    u, v, w = jnp.moveaxis(moments, -2, 0)
    rows = [jnp.cross(v, w), jnp.cross(w, u), jnp.cross(u, v)]
    determinant = (u * rows[0]).sum(-1)
  inverse = jnp.stack(rows, axis=-2) / determinant[..., None, None]
  slope = precise("...nm,...mc->...nc", inverse, products)
  return jnp.where(jnp.isfinite(slope), slope, 0)


LINEARISED = dataclasses.replace(
  LINEAR, name="linearised", read=_read, takes_key=True
)
"""The method "linearised"."""

METHODS.register(LINEARISED.name, LINEARISED)
