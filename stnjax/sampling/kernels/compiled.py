"""Sampling by compiled code on CPU, whose gradients read anew what they need.

Values and gradients are those of the gather kernel, by operations of JAX that
keep nothing but the image and the points for the backward pass. See
`operations`, `affine_operations`.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from stnjax import primitives, promotion
from stnjax.sampling import rounding
from stnjax.sampling.kernels import affine_operations, gather, operations, plain
from stnjax.sampling.methods import Method
from stnjax.sampling.padding import Padding, PaddingPerAxis


def supports(image: jax.Array, points: jax.Array, method: Method) -> bool:
  """Whether `sample` can read this image: 2-D or 3-D, floating or uint8."""
  return (
    operations.weighting(method) is not None
    and points.shape[-1] in (2, 3)
    and (jnp.issubdtype(image.dtype, jnp.floating) or image.dtype == jnp.uint8)
    # The compiled code counts pixels, and periods, in 32 bits.
    and image.size < 2**30
    and max(image.shape[:-1]) < 2**28
    and primitives.supports(image, points)
  )


def sample(
  image: jax.Array,
  points: jax.Array,
  *,
  method: Method,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  batch: int = 1,
  rounds: bool = False,
  matrix: jax.Array | None = None,
) -> jax.Array:
  """Samples one image as `gather.sample` does.

  Args:
    image: `[H, W, C]` or `[D, H, W, C]`; see `supports`.
    points: `[..., 2]` or `[..., 3]` pixel coordinates, last axis (x, y) or
      (x, y, z).
    method: "nearest", "linear", "cubic" or "spline", or another one with the
      weights of one of these.
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    batch: How many images are read at once, under `vmap`; not used.
    rounds: Whether values of a uint8 image are uint8.
    matrix: `[N, N + 1]`, of which the points are `affine_maps.places`, if they
      are: then the compiled code works them out.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider, uint8 stays uint8
    with "nearest" and `rounds`.

  Gradient: that of `gather.sample`. On CPU in the same order each time,
    whatever the number of threads.
  """
  dtype = functools.reduce(
    jnp.promote_types, (image.dtype, points.dtype), jnp.float32
  )
  kept = dtype
  if method.copies_pixels:  # whatever the coordinates' dtype
    kept = jnp.promote_types(image.dtype, jnp.float32)
  if image.dtype == jnp.uint8 and (rounds or method.copies_pixels):
    kept = image.dtype
  pixels = image
  if kept != jnp.uint8 or dtype != jnp.float32:
    if image.dtype == jnp.uint8 and _few(image, points, method):
      # All pixels would become floats, for a few taps in vain.
      values = gather.sample(
        image,
        points,
        method=method,
        padding=padding,
        align_corners=align_corners,
        batch=batch,
      )
      return rounding.cast(values, kept)
    pixels = image.astype(dtype)
  options: dict[str, Any] = {
    "method": method,
    "padding": padding,
    "align_corners": align_corners,
  }
  shape = points.shape[:-1]
  if matrix is not None and _maps(matrix, dtype, image, shape, padding):
    operands = promotion.match_varying_axes(pixels, matrix)
    values = affine_operations.READ.bind(
      *operands, output_shape=shape, **options
    )
  else:
    places = jnp.unstack(points, axis=-1)
    positions = plain.padded(places, image.shape[:-1], **options)
    operands = promotion.match_varying_axes(
      pixels, *(position.astype(dtype).ravel() for position in positions)
    )
    values = operations.READ.bind(*operands, **options)
  return rounding.cast(values, kept).reshape(*shape, image.shape[-1])


def _maps(
  matrix: jax.Array,
  dtype: jax.typing.DTypeLike,
  image: jax.Array,
  output_shape: tuple[int, ...],
  padding: Padding | PaddingPerAxis,
) -> bool:
  """Whether the compiled code can map pixels by a matrix, and pad points."""
  # Up to two pixels repeat alike whether they are mirrored or not; only the
  # padding knows their gradients at the mirrors.
  alike = [
    size <= 2 and padding.along(axis).repeats
    for axis, size in enumerate(image.shape[-2::-1])
  ]
  # Floats must hold halves of pixels.
  return matrix.dtype == dtype and not any(alike) and max(output_shape) < 2**22


def _few(image: jax.Array, points: jax.Array, method: Method) -> bool:
  """Whether points read fewer pixels than an image has."""
  *shape, num_axes = points.shape
  return math.prod(shape) * method.support**num_axes < math.prod(
    image.shape[:-1]
  )
