"""Random transformations of images, drawn on the device from keys.

Each perturbation takes one key and one image `[H, W, C]` with values in [0, 1]
and returns the perturbed image and what was done to the *object* in it; a
batch is made by `perturb`. One key per image makes a batch's perturbations
independent of how the batch is spread over devices.
"""

import functools
import math

import jax
import jax.numpy as jnp

from stnjax import checks, transforms
from stnjax.warping import warp

Truth = dict[str, jax.Array]
"""What was done to the object, by kind; angles in radians."""


def perturb(
  keys: jax.Array, images: jax.Array, name: str
) -> tuple[jax.Array, Truth]:
  """Perturbs every image of a batch, each with its own key.

  Args:
    keys: `[B]` keys, one per image.
    images: `[B, H, W, C]`, floating, in [0, 1].
    name: one of `PERTURBATIONS`.

  Returns:
    The perturbed images, and the truth: `{"rotation": [B]}` for "rotation",
    `{}` for "none".

  Raises:
    ValueError: for an unknown perturbation.
  """
  checks.option("perturbation", name, tuple(PERTURBATIONS))
  return jax.vmap(PERTURBATIONS[name])(keys, images)


def rotate(
  key: jax.Array, image: jax.Array, *, max_degrees: float = 90.0
) -> tuple[jax.Array, Truth]:
  """Rotates the object about the centre, by an angle uniform in +-max_degrees.

  Bilinear, zeros outside: MNIST-R of Finnveden et al. 2020.

  Args:
    key: one key.
    image: `[H, W, C]`.
    max_degrees: bound of the angle.

  Returns:
    The rotated image and `{"rotation": angle}`, in radians, positive clockwise
    on the screen.
  """
  bound = math.radians(max_degrees)
  angle = jax.random.uniform(key, (), jnp.float32, -bound, bound)
  # The warp pulls: the object turns against the matrix.
  return warp(image, transforms.rotation(-angle)), {"rotation": angle}


def _unchanged(key: jax.Array, image: jax.Array) -> tuple[jax.Array, Truth]:
  del key
  return image, {}


PERTURBATIONS = {
  "none": _unchanged,
  "rotation": functools.partial(rotate, max_degrees=90.0),
}
"""The perturbations by name."""
