"""Random keys of a run: one stream for each purpose."""

import jax

PURPOSES = ("initialise", "order", "train", "evaluate", "examples")


def random_key(seed: int | jax.Array, purpose: str) -> jax.Array:
  """A separate key for each purpose of a run with this seed.

  Args:
    seed: Seed of the run, 0 to 2^32 - 1.
    purpose: One of `PURPOSES`.
  """
  return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))
