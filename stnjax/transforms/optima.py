"""Solutions of small optimisation problems, with gradients of the optimum.

Gradients of a decomposition are infinite where its values coincide; those of
the solution are not, as long as it is unique.
"""

import jax
import jax.numpy as jnp

ROUNDINGS = 16  # relative size, in roundings, below which a value vanishes


@jax.custom_jvp
def closest_rotation(moments: jax.Array) -> jax.Array:
  """The rotation `[..., 3, 3]` of largest inner product; NaN if not one."""
  left, values, right = jnp.linalg.svd(moments)
  sign = jnp.sign(jnp.linalg.det(left) * jnp.linalg.det(right))
  signs = jnp.stack([jnp.ones_like(sign), jnp.ones_like(sign), sign], -1)
  turn = _matmul(left * signs[..., None, :], right)
  gap = values[..., 1] + sign * values[..., 2]
  eps = jnp.finfo(moments.dtype).eps
  determined = gap > ROUNDINGS * eps * values[..., 0]
  return jnp.where(determined[..., None, None], turn, jnp.nan)


@closest_rotation.defjvp
def _closest_rotation_jvp(
  primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  # At the optimum turn.T @ moments is symmetric, and stays so: a linear system
  # for the change, which is regular wherever the rotation is unique.
  (moments,), (change,) = primals, tangents
  turn = closest_rotation(moments)
  determined = jnp.isfinite(turn).all((-2, -1), keepdims=True)
  eye = jnp.eye(3, dtype=turn.dtype)
  safe = jnp.where(determined, turn, eye)
  symmetric = _matmul(safe.mT, moments)
  trace = jnp.trace(symmetric, axis1=-2, axis2=-1)[..., None, None]
  system = jnp.where(determined, trace * eye - symmetric, eye)
  skew = _matmul(safe.mT, change)
  skew = jnp.where(determined, skew - skew.mT, 0)
  axis = jnp.stack([skew[..., 2, 1], skew[..., 0, 2], skew[..., 1, 0]], -1)
  x, y, z = jnp.moveaxis(
    jnp.linalg.solve(system, axis[..., None])[..., 0], -1, 0
  )
  zero = jnp.zeros_like(x)
  spin = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1)
  return turn, _matmul(safe, spin.reshape(safe.shape))


@jax.custom_jvp
def null_vector(rows: jax.Array, weights: jax.Array) -> jax.Array:
  """The unit vector `[..., C]` that weighted rows `[..., R, C]` take to least.

  NaN where there are several.
  """
  values, right = _singular(rows, weights)
  determined = _is_determined(values)[..., None]
  return jnp.where(determined, right[..., -1, :], jnp.nan)


def _singular(
  rows: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  scaled = rows * jnp.sqrt(weights)[..., None]
  missing = max(0, rows.shape[-1] - rows.shape[-2])
  pad = [(0, 0)] * (rows.ndim - 2) + [(0, missing), (0, 0)]
  _, values, right = jnp.linalg.svd(jnp.pad(scaled, pad), full_matrices=False)
  return values, right


def _is_determined(values: jax.Array) -> jax.Array:
  gap = values[..., -2] - values[..., -1]
  eps = jnp.finfo(values.dtype).eps
  return gap > ROUNDINGS * eps * values[..., 0]


@null_vector.defjvp
def _null_vector_jvp(
  primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
  # By perturbation of the eigenvector of rows.T @ diag(weights) @ rows, which
  # needs no root of the weights and no gap between the other eigenvalues.
  (rows, weights), (row_change, weight_change) = primals, tangents
  values, right = _singular(rows, weights)
  determined = _is_determined(values)
  vector = right[..., -1, :]

  def times(matrix: jax.Array, column: jax.Array) -> jax.Array:
    return _matmul(matrix, column[..., None])[..., 0]

  residual = times(rows, vector)
  change = (
    times(row_change.mT, weights * residual)
    + times(rows.mT, weights * times(row_change, vector))
    + times(rows.mT, weight_change * residual)
  )
  squares = values * values
  gap = squares[..., -1:] - squares[..., :-1]
  gap = jnp.where(determined[..., None], gap, jnp.inf)
  others = right[..., :-1, :]
  tangent = times(others.mT, times(others, change) / gap)
  result = jnp.where(determined[..., None], vector, jnp.nan)
  return result, tangent


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
