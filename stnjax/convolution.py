"""Convolution and pooling in forms whose gradients XLA compiles well on CPU.

On CPU, XLA's gradients of a convolution and of `reduce_window` are 5 to 30
times slower than its matrix products, more so inside loops, and worse again
under `vmap` over kernels. Both operations here are the usual ones to the last
digit but for rounding; on GPU and TPU the convolution is XLA's own, on TPU
pooling, too.
"""

from collections.abc import Sequence
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

# Output pixels that one band serves. With more, a band is mostly zeros; with
# fewer, the product is narrow. 4 was the fastest, or close, for every layer of
# the paper's networks.
_TILE = 4


def conv_general_dilated(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int] = (1, 1),
  rhs_dilation: Sequence[int] = (1, 1),
  **options: Any,
) -> jax.Array:
  """Drop-in for `jax.lax.conv_general_dilated`, for `flax.nnx.Conv`.

  Plain 2-D convolutions (stride 1, no dilation, one group) are computed by
  `banded_conv` where the program is lowered for CPU.

  Args:
    lhs: `[B, H, W, C]`; any layout where `options` say so.
    rhs: `[kh, kw, C, F]`, likewise.
    window_strides: per axis.
    padding: "SAME", "VALID" or pairs.
    lhs_dilation: per axis.
    rhs_dilation: per axis.
    **options: as for `jax.lax.conv_general_dilated`.

  Returns:
    What `jax.lax.conv_general_dilated` returns.
  """

  def xla(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
      lhs,
      rhs,
      window_strides,
      padding,
      lhs_dilation,
      rhs_dilation,
      **options,
    )

  pads = _plain_padding(
    lhs, rhs, window_strides, padding, lhs_dilation, rhs_dilation, options
  )
  if pads is None:
    return xla(lhs, rhs)

  def banded(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return banded_conv(jnp.pad(lhs, [(0, 0), *pads, (0, 0)]), rhs)

  return lax.platform_dependent(lhs, rhs, cpu=banded, default=xla)


def _plain_padding(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  lhs_dilation: Sequence[int],
  rhs_dilation: Sequence[int],
  options: dict[str, Any],
) -> list[tuple[int, int]] | None:
  """Pixels to pad where `banded_conv` serves this convolution, else None."""
  if lhs.ndim != 4:
    return None
  layouts = [
    lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
    for numbers in (
      options.get("dimension_numbers"),
      ("NHWC", "HWIO", "NHWC"),
    )
  ]
  if (
    layouts[0] != layouts[1]
    or {*window_strides, *lhs_dilation, *rhs_dilation} != {1}
    or options.get("feature_group_count", 1) != 1
    or options.get("batch_group_count", 1) != 1
    or options.get("precision") is not None
    or options.get("preferred_element_type") is not None
  ):
    return None
  if isinstance(padding, str):
    padding = lax.padtype_to_pads(
      lhs.shape[1:3], rhs.shape[:2], window_strides, padding
    )
  sizes = [
    size + sum(pad) for size, pad in zip(lhs.shape[1:3], padding, strict=True)
  ]
  cropped = min(min(pad) for pad in padding) < 0
  empty = any(s < k for s, k in zip(sizes, rhs.shape[:2], strict=True))
  if cropped or empty:
    return None
  return list(padding)


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
    return lax.reduce_window(
      images, -jnp.inf, lax.max, window, strides, "VALID"
    )

  by_slices = functools.partial(_max_of_slices, size=size, stride=stride)
  return lax.platform_dependent(images, tpu=xla, default=by_slices)


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
