"""Search for the warp that leaves the least residual."""

from collections.abc import Callable
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import optax

from stnjax import transforms

_LEARNING_RATE = 0.05  # of Adam, in normalised coordinates
_TURNS = (0.5, 1.0, 1.5)  # half turns, of further starts

Residual = Callable[[jax.Array], jax.Array]
"""A function from warps `[B, 3, 3]` to residuals `[B]`."""


def starts(inverse: jax.Array, identity: jax.Array) -> jax.Array:
  """Warps from which the search starts.

  Args:
    inverse: Warp that the theorem predicts, `[2, 3]` or `[3, 3]`.
    identity: Warp that keeps features in place, `[2, 3]` or `[3, 3]`.

  Returns:
    `[6, 3, 3]`: both, their mean, and the inverse after quarter turns.
  """
  inverse, identity = (
    transforms.to_homogeneous(m) for m in (inverse, identity)
  )
  turned = [
    transforms.compose(
      inverse, transforms.to_homogeneous(transforms.rotation(jnp.pi * turn))
    )
    for turn in _TURNS
  ]
  return jnp.stack([inverse, identity, (inverse + identity) / 2, *turned])


def search(
  residual: Residual, starts: jax.Array, count: int, steps: int
) -> tuple[jax.Array, jax.Array]:
  """Finds the warp with the least residual for each image.

  Gradient descent (Adam) from every start, on six affine parameters per image.

  Args:
    residual: Function from warps `[B, 3, 3]` to residuals `[B]`.
    starts: `[S, 3, 3]`, warps to start from.
    count: Number of images B.
    steps: Number of steps; 0 compares the starts alone.

  Returns:
    The least residuals, `[B]`, and their warps, `[B, 3, 3]`. Residuals that
    are NaN for every warp stay NaN.
  """

  def descend(start: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _descend(residual, start, count, steps)

  def only_start(start: jax.Array) -> tuple[jax.Array, jax.Array]:
    thetas = jnp.broadcast_to(start, (count, 3, 3))
    return residual(thetas), thetas

  # One start at a time: features are large.
  best, thetas = lax.map(descend if steps else only_start, starts)
  best = jnp.where(jnp.isinf(best), jnp.nan, best)  # of features all zero
  chosen = best.argmin(axis=0)
  every = jnp.arange(count)
  return best[chosen, every], thetas[chosen, every]


def _descend(
  residual: Residual, start: jax.Array, count: int, steps: int
) -> tuple[jax.Array, jax.Array]:
  """The least residuals that descent from one start meets, and their warps."""
  schedule = optax.cosine_decay_schedule(_LEARNING_RATE, max(steps, 1))
  optimiser = optax.adam(schedule)

  def theta(params: jax.Array) -> jax.Array:
    change = transforms.to_homogeneous(transforms.matrix(params, "affine"))
    return transforms.compose(start, change)

  def loss(params: jax.Array) -> tuple[jax.Array, jax.Array]:
    residuals = residual(theta(params))
    return (residuals**2).sum(), residuals

  def step(carry: Any, _: None) -> tuple[Any, None]:
    params, state, best, best_params = carry
    (_, residuals), gradient = jax.value_and_grad(loss, has_aux=True)(params)
    better = residuals < best
    best = jnp.where(better, residuals, best)
    best_params = jnp.where(better[:, None], params, best_params)
    gradient = jnp.nan_to_num(gradient)
    updates, state = optimiser.update(gradient, state)
    params = optax.apply_updates(params, updates)
    return (params, state, best, best_params), None

  params = jnp.zeros((count, 6), start.dtype)
  worst = jnp.full(count, jnp.inf, start.dtype)
  carry = (params, optimiser.init(params), worst, params)
  (_, _, best, best_params), _ = lax.scan(step, carry, length=steps + 1)
  return best, theta(best_params)
