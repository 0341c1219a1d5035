"""Convolution and pooling in forms whose gradients XLA compiles well.

On CPU, XLA's gradients of a convolution are up to a hundred times slower than
a convolution, and those of `reduce_window` 5 to 30 times slower than products
of matrices, more so inside loops, and worse again under `vmap` over kernels; on
an H200, a training step of small networks took 2 to 4 times as long with the
convolutions that XLA chose as with products. Both operations here are the usual
ones to the last digit but for rounding; on TPU, and for large layers on GPU,
they are XLA's.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import promotion
from stnjax.nn import banded, convolution_operations

banded_conv = banded.banded_conv


@promotion.usual
def conv(images: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
  """Convolves with stride 1.

  On CPU, and in small layers on NVIDIA GPUs, in forms that are fast there, see
  `convolution_operations`.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[kh, kw, C, F]`.
    padding: "SAME" or "VALID".

  Returns:
    `[B, h, w, F]`, as `jax.lax.conv_general_dilated`, in the dtype that images
    and kernel promote to.

  Raises:
    ValueError: If images and kernel do not have four axes each, and as many
      channels.
  """
  channels = images.shape[-1:] == kernel.shape[-2:-1]
  if not (images.ndim == kernel.ndim == 4 and channels):
    raise ValueError(
      "images must be [B, H, W, C] and kernel [kh, kw, C, F], got shapes"
      f" {images.shape} and {kernel.shape}"
    )
  dtype = jnp.result_type(images, kernel)  # float32 unless JAX has float64
  images, kernel = images.astype(dtype), kernel.astype(dtype)
  sizes, window = images.shape[1:3], kernel.shape[:2]
  pads = lax.padtype_to_pads(sizes, window, (1, 1), padding)
  return convolution_operations.convolve(images, kernel, pads)


@promotion.usual
def max_pool(images: jax.Array, size: int, stride: int = 2) -> jax.Array:
  """The maximum over `size` x `size` windows, without padding.

  Args:
    images: `[B, H, W, C]`; rows and columns beyond whole windows are dropped.
    size: of the window.
    stride: from one window to the next.

  Returns:
    `[B, (H - size) // stride + 1, (W - size) // stride + 1, C]`.

  Gradient: where several pixels are the maximum, that of the first on TPU,
    elsewhere shared between them.
  """

  def xla(images: jax.Array) -> jax.Array:
    # `-inf` itself, by which JAX knows a maximum, and its gradient.
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    largest: jax.Array = lax.reduce_window(
      images, -jnp.inf, lax.max, window, strides, "VALID"
    )
    return largest

  by_slices = functools.partial(_max_of_slices, size=size, stride=stride)
  result: jax.Array = lax.platform_dependent(images, tpu=xla, default=by_slices)
  return result


def _max_of_slices(images: jax.Array, size: int, stride: int) -> jax.Array:
  counts = [(length - size) // stride + 1 for length in images.shape[1:3]]
  spans = [max(0, (count - 1) * stride + 1) for count in counts]
  windows = [
    images[:, y : y + spans[0] : stride, x : x + spans[1] : stride]
    for y in range(size)
    for x in range(size)
  ]
  # Not `max` of whole windows: its gradient counts the pixels that equal the
  # maximum, and finds none where XLA computed them twice, with other rounding.
  return functools.reduce(jnp.maximum, windows)


@promotion.usual
def mean_pool(images: jax.Array, size: int) -> jax.Array:
  """The mean over `size` x `size` windows that do not overlap.

  Args:
    images: `[B, H, W, C]`; rows and columns beyond whole windows are dropped.
    size: of the window and its stride.

  Returns:
    `[B, H // size, W // size, C]`.
  """
  batch, height, width, channels = images.shape
  rows, columns = height // size, width // size
  whole = images[:, : rows * size, : columns * size]
  windows = whole.reshape(batch, rows, size, columns, size, channels)
  return windows.mean(axis=(2, 4))
