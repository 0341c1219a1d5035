"""Square matrices of transforms: arithmetic at any scale.

A projective matrix times a number is the same transform, of any size that its
dtype holds in full precision. Functions of many operations are compiled as a
whole, so that a call outside `jit` is one dispatch.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def rescaled(theta: jax.Array) -> jax.Array:
  """A projective matrix times a number, for the same transform.

  Args:
    theta: `[..., N + 1, N + 1]`.

  Returns:
    The matrix over its last entry where that row has no other, so that it is
    affine; else over a power of two, for a last row of about 1.
  """
  last = jax.lax.stop_gradient(theta[..., -1:, :])
  affine = (last[..., :-1] == 0).all(axis=-1, keepdims=True)
  size = jnp.where(affine, last[..., -1:], magnitude(last, axis=-1))
  usable = jnp.isfinite(size) & (size != 0)
  return theta / jnp.where(usable, size, 1)


def magnitude(matrix: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
  """About the largest magnitude along axes, which are kept: a power of two.

  No gradient; 1 where the largest is 0 or not finite.
  """
  largest = jnp.abs(jax.lax.stop_gradient(matrix)).max(axis=axis, keepdims=True)
  info = jnp.finfo(matrix.dtype)
  usable = jnp.isfinite(largest) & (largest > 0)
  # The reciprocals of these bounds are finite, and not subnormal.
  bounded = jnp.clip(largest, info.smallest_normal, 2.0 ** (info.maxexp - 2))
  power = jax.lax.reduce_precision(bounded, info.nexp, 0)
  return jnp.where(usable, power, 1)


@jax.jit
def product(factors: Sequence[jax.Array]) -> jax.Array:
  """The product of projective matrices, or a multiple that is representable."""
  # Factors of about 1, whose powers of two are multiplied apart.
  result, size = _sized(factors[0])
  for factor in factors[1:]:
    factor, more = _sized(factor)
    result, again = _sized(_matmul(result, factor))
    size = _bounded(size * more * again)
  return result * size


@jax.jit
def projective_inverse(matrix: jax.Array) -> jax.Array:
  """The inverse of projective matrices, or a representable multiple; or NaN."""
  unit, size = _sized(matrix)
  result: jax.Array = inverse(unit) / _bounded(size)
  return result


@jax.custom_jvp
@jax.jit
def inverse(matrix: jax.Array) -> jax.Array:
  """The inverse of square matrices; NaN, without gradient, if singular."""
  # Rows and columns of very different sizes would spoil the choice of pivots.
  columns = _uneven(magnitude(matrix, axis=-2))
  rows = _uneven(magnitude(matrix / columns, axis=-1))
  even = matrix / columns / rows
  result = jnp.linalg.inv(even)
  # The relative change of the determinant by relative changes of the entries.
  condition = jnp.sum(jnp.abs(result.mT * even), axis=(-2, -1), keepdims=True)
  regular = condition * (16 * jnp.finfo(matrix.dtype).eps) < 1
  # Which misses zeros that rounding made nonzero: no inverse at all.
  residual = _matmul(result, even) - jnp.eye(even.shape[-1], dtype=even.dtype)
  regular &= jnp.abs(residual).max(axis=(-2, -1), keepdims=True) < 1 / 16
  result = result / columns.mT / rows.mT
  regular &= jnp.isfinite(result).all(axis=(-2, -1), keepdims=True)
  return jnp.where(regular, result, jnp.nan)


@inverse.defjvp
def _inverse_jvp(
  primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  result = inverse(*primals)
  finite = jnp.where(jnp.isfinite(result), result, 0)
  return result, -_matmul(_matmul(finite, tangents[0]), finite)


def _uneven(size: jax.Array) -> jax.Array:
  """Sizes far from 1; others as 1, so that ordinary matrices are kept."""
  return jnp.where((size > 2.0**8) | (size < 2.0**-8), size, 1)


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def _sized(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A matrix with entries of about 1, and the power of two that it is over."""
  size = magnitude(matrix, axis=(-2, -1))
  return matrix / size, size


def _bounded(size: jax.Array) -> jax.Array:
  """Powers of two that leave room for smaller and larger entries, or 1."""
  highest = jnp.finfo(size.dtype).maxexp
  usable = (size > 2.0 ** (24 - highest)) & (size < 2.0 ** (highest - 16))
  return jnp.where(usable, size, 1)
