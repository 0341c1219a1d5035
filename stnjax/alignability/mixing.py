"""Linear mixing of channels, fitted by least squares."""

import functools

import jax
from jax import lax
import jax.numpy as jnp

_FULL_RANK = 1e-6  # least eigenvalue that is used, relative to the largest


def best_mixing(
  features: jax.Array, target: jax.Array, weight: jax.Array
) -> jax.Array:
  """The change of channels that brings features closest to a target.

  The least change in the least-squares sense, through the eigenvectors of the
  channels' second moments: directions without variance are left alone.

  Args:
    features: `[B, h, w, F]`.
    target: `[B, h, w, F]`.
    weight: `[h, w]` or `[B, h, w]`, at least 0.

  Returns:
    `[F, F]`, such that `features + features @ change` is the best fit.
  """
  product = functools.partial(
    jnp.einsum, "bhwc,bhwd->cd", precision=lax.Precision.HIGHEST
  )
  weighted = weight[..., None] * features
  values, vectors = jnp.linalg.eigh(product(weighted, features))
  known = values > _FULL_RANK * values[-1]
  inverse = jnp.where(known, 1 / jnp.where(known, values, 1), 0)
  right = product(weighted, target - features)
  mixing: jax.Array = vectors @ (inverse[:, None] * (vectors.T @ right))
  return mixing
