"""Sampling of label maps: the class with the most linear weight."""

from collections.abc import Callable
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from stnjax.sampling.methods import LINEAR, METHODS, NEAREST

# By the name that was given, for errors.
_PIXEL = dataclasses.replace(NEAREST, name="label")


def _read(
  image: jax.Array,
  points: jax.Array,
  key: None,
  read: Callable[..., jax.Array],
) -> jax.Array:
  """The argmax of linear samples of one-hot images, which are never made."""
  del key
  floor = jnp.floor(points)
  after = points - floor
  after = jnp.where(jnp.isfinite(after), after, 0)
  labels, weights = [], []
  for corner in itertools.product((0, 1), repeat=points.shape[-1]):
    offset = np.array(corner, points.dtype)
    labels.append(read(image, floor + offset, method=_PIXEL))
    weights.append(jnp.where(offset == 1, after, 1 - after).prod(-1)[..., None])
  # Sums in one order, so that those of one label are the same.
  votes = [
    sum(jnp.where(other == label, w, 0) for other, w in zip(labels, weights))
    for label in labels
  ]
  winner, most = labels[0], votes[0]
  for label, vote in zip(labels[1:], votes[1:], strict=True):
    wins = (vote > most) | ((vote == most) & (label < winner))
    winner, most = jnp.where(wins, label, winner), jnp.maximum(most, vote)
  return winner


LABEL = dataclasses.replace(LINEAR, name="label", read=_read, takes_labels=True)
"""The method "label"."""

METHODS.register(LABEL.name, LABEL)
