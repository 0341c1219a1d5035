"""Channels that move in a known way when the image is transformed."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import checks
from stnjax.nn.group_convolution import check_orientations

Channels = Callable[[jax.Array, int], jax.Array]
"""A function from the matrix of T_h, see `ImageTransforms`, and a number of
channels F to a permutation `[F]`: channel i of the features of the image is
channel `permutation[i]` of those of the transformed image."""


def turned_channels(orientations: int) -> Channels:
  """Channels of group convolutions after a rotation of the image.

  A rotation of the image shifts the orientations of each filter, see
  `stnjax.nn.group_convolution`. Of other transforms, the closest rotation
  counts; its angle is rounded to that between orientations.

  Args:
    orientations: Number of orientations G, a multiple of 4: channel `f * G + g`
      is filter f in orientation g.

  Returns:
    The function, for `audit`.

  Raises:
    ValueError: For a number of orientations that is not a multiple of 4; when
      it is called, for channels that are not a multiple of the orientations.

  >>> import jax.numpy as jnp
  >>> from stnjax import transforms
  >>> channels = turned_channels(4)
  >>> channels(transforms.rotation(jnp.pi / 2), 8).tolist()
  [1, 2, 3, 0, 5, 6, 7, 4]
  """
  check_orientations(orientations)
  return functools.partial(_turned, orientations)


def _turned(orientations: int, matrix: jax.Array, count: int) -> jax.Array:
  if count % orientations:
    raise ValueError(
      f"features must have a multiple of orientations={orientations} channels,"
      f" got {count}"
    )
  angle = jnp.arctan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1])
  shift = jnp.round(angle * orientations / (2 * jnp.pi)).astype(int)
  filters, own = np.divmod(np.arange(count), orientations)
  return jnp.asarray(filters * orientations + (own + shift) % orientations)


def checked_permutation(value: jax.Array, count: int) -> np.ndarray:
  """A permutation of so many channels, or a ValueError."""
  found = np.asarray(value)
  if not np.array_equal(np.sort(found, axis=None), np.arange(count)):
    raise ValueError(
      f"channels must return a permutation of 0 to {count - 1}, got"
      f" {checks.shown(found)}"
    )
  return found.astype(np.int32)
