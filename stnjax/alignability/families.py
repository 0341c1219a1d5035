"""Families of transforms that are applied to the images."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion, registry, transforms
from stnjax.alignability.geometry import Geometry, largest
from stnjax.sampling.warping import warp


class ImageTransforms(NamedTuple):
  """Transforms of images along one parameter, such as rotations.

  Attributes:
    matrix: Function from a magnitude to the matrix of T_h, `[2, 3]` or
      `[3, 3]`: from pixels of the transformed image to pixels of the image,
      `(x, y)` with 0 at the image's centre. None in audits read from JSON.
    magnitudes: Magnitudes to transform by, increasing.
    unit: Unit of the magnitudes.
  """

  matrix: Callable[[jax.Array], jax.Array] | None
  magnitudes: tuple[float, ...]
  unit: str

  def at(self, magnitude: ArrayLike) -> jax.Array:
    """The matrix of T_h at a magnitude.

    Args:
      magnitude: `[]`, in the family's unit.

    Raises:
      ValueError: If the family has no matrix.
    """
    if self.matrix is None:
      raise ValueError("the family has no matrix, as read from JSON")
    return self.matrix(jnp.asarray(magnitude))


FAMILIES: registry.Registry[ImageTransforms] = registry.Registry("family")
"""Families that are audited by default; register one to audit it, too."""

# Multiples of 4 px: a layer with strides is covariant with whole strides only.
FAMILIES.register(
  "translation",  # to the right
  ImageTransforms(
    lambda x: transforms.translation(-jnp.stack([x, 0 * x])),
    (4.0, 8.0, 12.0),
    "px",
  ),
)
FAMILIES.register(
  "rotation",  # clockwise
  ImageTransforms(
    lambda x: transforms.rotation(-jnp.deg2rad(x)),
    (15.0, 30.0, 45.0, 60.0, 90.0),
    "deg",
  ),
)
FAMILIES.register(
  "scale",  # larger
  ImageTransforms(
    lambda x: transforms.scaling(jnp.exp2(-x) * jnp.ones(2, x.dtype)),
    (0.25, 0.5, 0.75, 1.0),
    "octaves",
  ),
)
FAMILIES.register(
  "shear",
  ImageTransforms(transforms.shearing, (0.2, 0.4, 0.6, 0.8), "px/px"),
)


def default_transforms(
  geometry: Mapping[str, Geometry], shape: Sequence[int]
) -> dict[str, ImageTransforms]:
  """`FAMILIES`, with translations by whole strides of every layer.

  Args:
    geometry: Geometry by layer.
    shape: `(H, W)` of the images.

  Returns:
    Families by name. Translations are by 1, 2 and 3 of the largest stride, of
    which those beyond the first are at most half the image.
  """
  step = largest(geometry, "step")
  shifts = [n * step for n in (1, 2, 3) if n == 1 or n * step <= max(shape) / 2]
  translation = FAMILIES["translation"]._replace(magnitudes=tuple(shifts))
  return {**FAMILIES, "translation": translation}


def default_margin(
  geometry: Mapping[str, Geometry], shape: Sequence[int]
) -> int:
  """Margin in which the built-in families keep all features of the image.

  An octave doubles the distance to the centre, not the receptive field; a
  shear by 0.8 px/px widens the receptive field.

  Args:
    geometry: Geometry by layer.
    shape: `(H, W)` of the images.

  Returns:
    The margin in pixels.
  """
  reach = largest(geometry, "reach")
  return math.ceil(max(max(shape) / 2 + reach, 1.8 * reach))


def extended(images: jax.Array, margin: int) -> jax.Array:
  """Images with a margin on every side.

  Args:
    images: `[B, H, W, C]`.
    margin: Width of the margin in pixels, which repeats the edge pixels.

  Returns:
    `[B, H + 2 * margin, W + 2 * margin, C]`.
  """
  checks.whole("margin", margin, 0)
  pads = ((0, 0), (margin, margin), (margin, margin), (0, 0))
  return jnp.pad(images, pads, mode="edge")


@promotion.usual
def transformed(
  images: jax.Array, matrix: jax.Array, method: str = "linear"
) -> jax.Array:
  """Transformed images T_h f.

  Args:
    images: `[B, H, W, C]`.
    matrix: Matrix of T_h about the centre, in pixels, see `ImageTransforms`.
    method: Interpolation, one of `stnjax.sampling.METHODS`.

  Returns:
    `[B, H, W, C]`.
  """
  return warp(images, about_centre(matrix, images.shape[1:3]), method=method)


def about_centre(matrix: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Converts a matrix in pixels about the centre to normalised coordinates.

  Args:
    matrix: `[2, 3]` or `[3, 3]`, see `ImageTransforms`.
    shape: `(H, W)` of the images.
  """
  return transforms.from_pixels(pixels_about_centre(matrix, shape), shape)


def pixels_about_centre(matrix: jax.Array, shape: Sequence[int]) -> jax.Array:
  """Converts a matrix in pixels about the centre to pixels of the image.

  Args:
    matrix: `[2, 3]` or `[3, 3]`, see `ImageTransforms`.
    shape: `(H, W)` of the images, whose first pixel's centre is 0.
  """
  centre = np.array([(size - 1) / 2 for size in shape[::-1]])
  centre = jnp.asarray(centre, matrix.dtype)
  return transforms.compose(
    transforms.translation(centre), matrix, transforms.translation(-centre)
  )
