"""Pixel and normalised coordinates: the conventions of the whole library.

Images are channels-last, `[..., H, W, C]`; volumes `[..., D, H, W, C]`
(`jnp.moveaxis(image, -3, -1)` moves channels that come first). Shapes are
always given in array order, `(H, W)` or `(D, H, W)`.

Coordinates have a last axis `(x, y)` or `(x, y, z)`: the reverse of the array
order. x grows to the right, y downwards, z into the volume.

Normalised coordinates span [-1, 1] over an axis. With `align_corners=False`,
the default everywhere, -1 and 1 are the outer *edges* of the corner pixels, so
that a coordinate means the same place at every resolution; with
`align_corners=True` they are the *centres* of the corner pixels. On an axis of
size 1 with `align_corners=True`, every coordinate is the one pixel's centre.

Pixel coordinates have integers at the pixel centres, 0 at the first one.

A transform matrix maps *output* to *input* coordinates (it pulls), as theta in
Jaderberg et al. 2015, eq. 1: `[..., 2, 3]` affine, `[..., 3, 3]` projective;
`[..., 3, 4]` and `[..., 4, 4]` for volumes.

Angles are radians, positive from +x towards +y; as y points down, this is
clockwise on the screen. Zero parameters are the identity in every family.

Coordinates are float32 or wider, whatever the dtype of the image; float32
distinguishes up to 2^24 pixels of an axis. A NaN coordinate reads as fill, with
zero gradient.

Pixels are finite. A NaN or infinite pixel makes every sample that it takes part
in NaN or infinite, even where its weight is 0, as in torch and scipy; with
"matmul", every sample of the image. Where pixels are missing, set them to 0,
warp the image and a mask of the valid pixels, and divide.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, promotion


def array_module(*sizes: Any) -> Any:
  """NumPy for arithmetic with sizes, `jax.numpy` if one is symbolic.

  NumPy works in float64, and what it gives is a constant of a program.
  """
  return np if checks.is_static(*sizes) else jnp


def half_extent(size: int, align_corners: bool) -> float:
  """Pixels from the middle of an axis to where its coordinate is 1."""
  return (size - 1) / 2 if align_corners else size / 2


def middle(shape: Sequence[int]) -> np.ndarray:
  """The pixel coordinates of the middle of an image.

  Args:
    shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.

  Returns:
    `[N]`, (x, y) or (x, y, z), float64; 0 is the centre of the first pixel.

  Raises:
    ValueError: Where `shape` is not 2 or 3 positive sizes.

  >>> middle((2, 5)).tolist()
  [2.0, 0.5]
  """
  shape = checks.spatial_shape("shape", shape, symbolic=True)
  pixel: np.ndarray = (array_module(*shape).array(shape[::-1]) - 1) / 2
  return pixel


def half_extents(shape: Sequence[int], align_corners: bool) -> Any:
  """`half_extent` along x, y(, z), `[N]`."""
  return array_module(*shape).array(
    [half_extent(size, align_corners) for size in shape[::-1]]
  )


def pixel_lattice(shape: Sequence[int]) -> Any:
  """Pixel coordinates of the pixels of an image, `[*shape, N]`, (x, y, ...)."""
  xp = array_module(*shape)
  indices = xp.meshgrid(*map(xp.arange, shape), indexing="ij")
  return xp.stack(indices[::-1], axis=-1)


@promotion.usual
def to_pixels(
  coordinates: jax.Array, shape: Sequence[int], *, align_corners: bool = False
) -> jax.Array:
  """Turns normalised coordinates into pixel coordinates.

  Args:
    coordinates: `[..., N]`, last axis (x, y) or (x, y, z), normalised.
    shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., N]` pixel coordinates, 0 at the centre of the first pixel, float32
    or wider.

  Raises:
    ValueError: Where the last axis does not fit `shape`.
  """
  checks.flag("align_corners", align_corners)
  shape = checks.spatial_shape("shape", shape, symbolic=True)
  coordinates = checks.coordinates("coordinates", coordinates, len(shape))
  scale = half_extents(shape, align_corners)
  dtype = coordinates.dtype
  pixels: jax.Array = coordinates * scale.astype(dtype)
  return pixels + middle(shape).astype(dtype)


@promotion.usual
def to_normalised(
  pixels: jax.Array, shape: Sequence[int], *, align_corners: bool = False
) -> jax.Array:
  """Turns pixel coordinates into normalised ones; the inverse of `to_pixels`.

  Args:
    pixels: `[..., N]` pixel coordinates, last axis (x, y) or (x, y, z).
    shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., N]` normalised coordinates, float32 or wider; 0 along an axis of
    size 1 under `align_corners=True`.

  Raises:
    ValueError: Where the last axis does not fit `shape`.
  """
  checks.flag("align_corners", align_corners)
  shape = checks.spatial_shape("shape", shape, symbolic=True)
  pixels = checks.coordinates("pixels", pixels, len(shape))
  scale = units_per_pixel(shape, align_corners)
  dtype = pixels.dtype
  result: jax.Array = (pixels - middle(shape).astype(dtype)) * scale.astype(
    dtype
  )
  return result


def units_per_pixel(shape: Sequence[int], align_corners: bool) -> Any:
  """Normalised units along x, y(, z), `[N]`; 0 where an axis has one place."""
  xp, extents = array_module(*shape), half_extents(shape, align_corners)
  return xp.where(extents > 0, 1 / xp.where(extents > 0, extents, 1), 0)


@promotion.usual
def lattice(
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
  dtype: jax.typing.DTypeLike = jnp.float32,
) -> jax.Array:
  """The normalised coordinates of the pixels of an image: the identity grid.

  Args:
    output_shape: Spatial shape, `(H, W)` or `(D, H, W)`, sizes at least 1.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.
    dtype: Dtype of the result, float32 or float64.

  Returns:
    `[*output_shape, N]`, last axis (x, y) or (x, y, z).

  Raises:
    ValueError: Where `output_shape` is not 2 or 3 positive sizes.
  """
  checks.flag("align_corners", align_corners)
  output_shape = checks.spatial_shape(
    "output_shape", output_shape, symbolic=True
  )
  # NumPy in float64, so that the lattice is rounded to `dtype` once.
  extents = nonzero_half_extents(output_shape, align_corners)
  places = pixel_lattice(output_shape) - middle(output_shape)
  return jnp.asarray(places / extents, dtype)


def nonzero_half_extents(shape: Sequence[int], align_corners: bool) -> Any:
  """`half_extents`, 1 for an axis of one place, whose coordinate is 0."""
  extents = half_extents(shape, align_corners)
  return array_module(*shape).where(extents > 0, extents, 1.0)
