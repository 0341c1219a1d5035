"""Linear sampling of images, whose gradients read anew what they need.

Values and gradients are those of the gather kernel, by operations of JAX that
keep nothing but the image and the points for the backward pass; on CPU they
are compiled code. See `bilinear_operations`.
"""

import functools

import jax
import jax.numpy as jnp

from stnjax.sampling.kernels import bilinear_operations as operations
from stnjax.sampling.methods import LINEAR, Method
from stnjax.sampling.padding import (
  Padding,
  PaddingPerAxis,
  apply_padding,
)


def supports(image: jax.Array, points: jax.Array, method: Method) -> bool:
  """Whether `sample` can read this image: 2-D, floating, linearly."""
  axes = {*_axis_types(image), *_axis_types(points)}
  return (
    method == LINEAR
    and points.shape[-1] == 2
    and jnp.issubdtype(image.dtype, jnp.floating)
    and image.size < 2**30  # the compiled code counts pixels in 32 bits
    # The operations have no sharding rules.
    and jax.sharding.AxisType.Explicit not in axes
  )


def _axis_types(array: jax.Array) -> tuple[jax.sharding.AxisType, ...]:
  """Axis types of the mesh that an array is known to lie on."""
  return jax.typeof(array).sharding.mesh.axis_types


def sample(
  image: jax.Array,
  points: jax.Array,
  *,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  method: Method = LINEAR,
  batch: int = 1,
) -> jax.Array:
  """Samples one image as `gather.sample` does with method "linear".

  Args:
    image: `[H, W, C]`; see `supports`.
    points: `[..., 2]` pixel coordinates, last axis (x, y).
    padding: How the image continues outside.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    method: "linear".
    batch: How many images are read at once, under `vmap`; not used.

  Returns:
    `[..., C]`, 0 where a coordinate is NaN; float32 or wider.

  Gradient: that of `gather.sample`. On CPU in the same order each time,
    whatever the number of threads.
  """
  del method, batch
  dtype = functools.reduce(
    jnp.promote_types, (image.dtype, points.dtype), jnp.float32
  )
  x, y = (
    apply_padding(position, size, padding.along(axis), align_corners)
    for axis, (position, size) in enumerate(
      zip(jnp.unstack(points, axis=-1), image.shape[1::-1])
    )
  )
  operands = operations.match_varying_axes(
    *(a.astype(dtype) for a in (image, x.ravel(), y.ravel()))
  )
  values = operations.READ.bind(
    *operands, padding=padding, align_corners=align_corners
  )
  return values.reshape(*points.shape[:-1], image.shape[-1])
