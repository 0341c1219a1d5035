"""Sampled values in the dtype of an image."""

import jax
import jax.numpy as jnp
import numpy as np


def cast(result: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
  """Turns sampled values into `dtype`: integers round and saturate."""
  if jnp.issubdtype(dtype, jnp.integer) and result.dtype != dtype:
    info, kind = jnp.iinfo(dtype), result.dtype.type
    low, high = info.min, info.max
    if jnp.issubdtype(result.dtype, jnp.integer):
      given = jnp.iinfo(result.dtype)
      low, high = max(low, given.min), min(high, given.max)
    elif int(kind(high)) > high:  # rounded up, beyond the range of the cast
      high = np.nextafter(kind(high), kind(0))
    result = jnp.clip(jnp.round(result), kind(low), kind(high))
  return result.astype(dtype)
