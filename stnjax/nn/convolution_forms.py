"""A convolution of stride 1 and its two gradients, each in two forms.

Images are `[B, H, W, C]`, cotangents of the output `[B, h, w, F]`, kernels
`[kh, kw, C, F]`.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import promotion
from stnjax.nn import banded

Pads = tuple[tuple[int, int], tuple[int, int]]
"""Rows before and after an image, then columns, of zeros."""

# Images, the channels of a convolution for the kernel's gradient: 256 of 18x18
# pixels with 64 channels took three times as long at once.
_PIECE = 64
_MOST_PIECES = 16


# Shapes, of images, kernels and outputs with any axes before these.


def out_size(
  sizes: Sequence[int], window: Sequence[int], pads: Pads
) -> tuple[int, ...]:
  """Of the output, given the kernel; of the kernel, given the output."""
  return tuple(
    size + sum(pad) - w + 1
    for size, w, pad in zip(sizes, window, pads, strict=True)
  )


def out_shape(images: Any, kernel: Any, pads: Pads) -> tuple[int, ...]:
  """Of the output, of the shapes of images and kernel."""
  size = out_size(images[-3:-1], kernel[-4:-2], pads)
  return *images[:-3], *size, kernel[-1]


def image_shape(kernel: Any, cotangent: Any, pads: Pads) -> tuple[int, ...]:
  """Of the images, of the shapes of kernel and output."""
  size = tuple(
    s + w - 1 - sum(pad)
    for s, w, pad in zip(cotangent[-3:-1], kernel[-4:-2], pads, strict=True)
  )
  return *cotangent[:-3], *size, kernel[-2]


def kernel_shape(images: Any, cotangent: Any, pads: Pads) -> tuple[int, ...]:
  """Of the kernel, of the shapes of images and output."""
  window = out_size(images[-3:-1], cotangent[-3:-1], pads)
  return *images[:-4], *window, images[-1], cotangent[-1]


# Forms.


def convolution(images: Any, kernel: Any, pads: Pads) -> jax.Array:
  """The output, by XLA's convolution."""
  result: jax.Array = lax.conv_general_dilated(
    images, kernel, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  return result


def product(images: Any, kernel: Any, pads: Pads) -> jax.Array:
  """The output, by a product with a banded matrix."""
  return banded.banded_conv(jnp.pad(images, [(0, 0), *pads, (0, 0)]), kernel)


def convolution_to_image(
  kernel: jax.Array, cotangent: jax.Array, pads: Pads
) -> jax.Array:
  """The gradient of the images, as a convolution."""
  window = kernel.shape[:2]
  before_after = [
    (size - 1 - before, size - 1 - after)
    for size, (before, after) in zip(window, pads, strict=True)
  ]
  turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
  # XLA would take the turn into the convolution, which is slow then.
  turned = lax.optimization_barrier(turned)
  return convolution(cotangent, turned, (before_after[0], before_after[1]))


def convolution_to_kernel(
  images: jax.Array, cotangent: jax.Array, pads: Pads
) -> jax.Array:
  """The gradient of the kernel, as convolutions."""

  def of(piece: slice) -> jax.Array:
    # Laid out as a convolution takes them, not named as such by its axes.
    by_channel, window = lax.optimization_barrier(
      (
        images[piece].transpose(3, 1, 2, 0),
        cotangent[piece].transpose(1, 2, 0, 3),
      )
    )
    return convolution(by_channel, window, pads).transpose(1, 2, 0, 3)

  batch = images.shape[0]
  if not isinstance(batch, int) or batch <= _PIECE:  # it can be symbolic
    return of(slice(None))
  length = max(_PIECE, -(-batch // _MOST_PIECES))
  pieces = [of(slice(i, i + length)) for i in range(0, batch, length)]
  return functools.reduce(jnp.add, pieces)


def transposed_to_image(
  form: Callable[..., Any],
  kernel: jax.Array,
  cotangent: jax.Array,
  pads: Pads,
) -> jax.Array:
  """The gradient of the images, of a form of the output."""
  shape = image_shape(kernel.shape, cotangent.shape, pads)
  convolve = functools.partial(form, kernel=kernel, pads=pads)
  return _transposed(convolve, shape, cotangent)


def transposed_to_kernel(
  form: Callable[..., Any],
  images: jax.Array,
  cotangent: jax.Array,
  pads: Pads,
) -> jax.Array:
  """The gradient of the kernel, of a form of the output."""
  shape = kernel_shape(images.shape, cotangent.shape, pads)
  convolve = functools.partial(form, images, pads=pads)
  return _transposed(convolve, shape, cotangent)


def _transposed(
  linear: Callable[..., Any], shape: tuple[int, ...], cotangent: jax.Array
) -> jax.Array:
  """The transpose of a linear function of an operand of that shape."""
  # Under `shard_map`, the gradient of one that is the same on all devices
  # would be summed over them.
  operand, _ = promotion.match_varying_axes(
    jnp.zeros(shape, cotangent.dtype), cotangent
  )
  result: jax.Array
  (result,) = jax.vjp(linear, operand)[1](cotangent)
  return result
