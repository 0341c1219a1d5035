"""Convolution and pooling in forms whose gradients XLA compiles well.

On CPU, XLA's gradients of a convolution and of `reduce_window` are 5 to 30
times slower than its matrix products, more so inside loops, and worse again
under `vmap` over kernels; on an H200, a training step of small networks took 2
to 4 times as long with the convolutions that XLA chose as with products. Both
operations here are the usual ones to the last digit but for rounding; on TPU,
and for large layers on GPU, the convolution is XLA's own, on TPU pooling, too.
"""

import functools
import math

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import promotion

# Output pixels that one band serves. With more, a band is mostly zeros; with
# fewer, the product is narrow. 4 was the fastest, or close, for layers of 1 to
# 256 channels with kernels of 3 to 9 pixels.
_TILE = 4

# On GPU, numbers of the larger factor of the product for an image; 256 images
# take 128 MB.
_MOST_ON_GPU = 2**17


@promotion.usual
def conv(images: jax.Array, kernel: jax.Array, padding: str) -> jax.Array:
  """Convolves with stride 1.

  On CPU, and in small layers on NVIDIA GPUs, by `banded_conv`.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[kh, kw, C, F]`.
    padding: "SAME" or "VALID".

  Returns:
    `[B, h, w, F]`, as `jax.lax.conv_general_dilated`, in the dtype that images
    and kernel promote to.
  """
  dtype = jnp.result_type(images, kernel)  # float32 unless JAX has float64
  images, kernel = images.astype(dtype), kernel.astype(dtype)
  xla = functools.partial(
    lax.conv_general_dilated,
    window_strides=(1, 1),
    padding=padding,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )
  sizes, window = images.shape[1:3], kernel.shape[:2]
  if padding == "VALID" and any(s < w for s, w in zip(sizes, window)):
    return xla(images, kernel)  # of no pixels
  pads = lax.padtype_to_pads(sizes, window, (1, 1), padding)

  def banded(images: jax.Array, kernel: jax.Array) -> jax.Array:
    return banded_conv(jnp.pad(images, [(0, 0), *pads, (0, 0)]), kernel)

  image_size = math.prod(images.shape[1:])  # the batch can be symbolic
  seen = image_size * window[0] * (1 + (window[1] - 1) / _TILE)
  on_gpu = banded if seen <= _MOST_ON_GPU else xla
  result: jax.Array = lax.platform_dependent(
    images, kernel, cpu=banded, cuda=on_gpu, default=xla
  )
  return result


@promotion.usual
def banded_conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves without padding, as one matrix product.

  Along a row, a convolution is a product with a banded matrix that holds the
  kernel's row once per output pixel. Rows are cut into tiles of a few output
  pixels, which all share one band; the `kh` rows that an output row sees stand
  side by side, their bands below each other.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[kh, kw, C, F]`.

  Returns:
    `[B, H - kh + 1, W - kw + 1, F]`.
  """
  batch, height, width, channels = images.shape
  kernel_height, kernel_width, _, filters = kernel.shape
  out_height, out_width = height - kernel_height + 1, width - kernel_width + 1
  tile = min(_TILE, out_width)
  count = -(-out_width // tile)
  seen_width = tile + kernel_width - 1
  bands = [
    jnp.pad(kernel, ((0, 0), (x, tile - 1 - x), (0, 0), (0, 0)))
    for x in range(tile)
  ]
  seen_size = kernel_height * seen_width * channels
  band = jnp.stack(bands, axis=3).reshape(seen_size, tile * filters)
  filled = count * tile + kernel_width - 1 - width
  images = jnp.pad(images, ((0, 0), (0, 0), (0, filled), (0, 0)))
  tiles = [
    images[:, :, x : x + seen_width].reshape(
      batch, height, seen_width * channels
    )
    for x in range(0, count * tile, tile)
  ]
  rows = jnp.stack(tiles, axis=2)
  seen = jnp.concatenate(
    [rows[:, y : y + out_height] for y in range(kernel_height)], axis=-1
  )
  product = seen.reshape(batch * out_height * count, seen_size) @ band
  product = product.reshape(batch, out_height, count * tile, filters)
  return product[:, :, :out_width]


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
