"""Features by layer, and the checks of features and images."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.typing import ArrayLike

from stnjax import checks

Features = Callable[[jax.Array], Any]
"""A function from images `[B, H, W, C]` to features `[B, h, w, F]`, or to a
mapping from names of layers to features."""

INPUT = "input"
"""Name of the layer that is the image itself."""


def by_layer(features: Features, images: jax.Array) -> dict[str, jax.Array]:
  """Features of images by layer, the images themselves among them.

  Args:
    features: Function from images to features, see `Features`. One layer
      without a name is called "features".
    images: `[B, H, W, C]`, floating.

  Returns:
    The images as `INPUT`, then `[B, h, w, F]` by name of the layer.

  Raises:
    ValueError: If features are not `[B, h, w, F]`, or a layer is named `INPUT`.
  """
  layers = features(images)
  if not isinstance(layers, Mapping):
    layers = {"features": layers}
  if INPUT in layers:
    raise ValueError(
      f"features must not name a layer {INPUT!r}, the name of the image itself"
    )
  checked = {
    str(name): checked_features(f"features {name!r}", value, len(images))
    for name, value in layers.items()
  }
  return {INPUT: images, **checked}


def checked_features(name: str, value: Any, count: int) -> jax.Array:
  """Features of `count` images as a floating array, or a ValueError."""
  value = checks.floating(name, value)
  if value.ndim != 4 or value.shape[0] != count:
    raise ValueError(
      f"{name} must be [B, h, w, F] with B = {count}, got shape {value.shape}"
    )
  return value


def checked_images(images: ArrayLike, least: int = 2) -> jax.Array:
  """At least `least` images as a floating array, or a ValueError."""
  images = checks.floating("images", images)
  if images.ndim != 4 or len(images) < least:
    raise ValueError(
      f"images must be [B, H, W, C] with B of at least {least}, got shape"
      f" {images.shape}"
    )
  return images
