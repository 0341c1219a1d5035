"""Convolution and pooling in forms whose gradients XLA compiles well on CPU.

On CPU, XLA's gradients of a convolution and of `reduce_window` are 5 to 20
times slower than its matrix products, and more so inside loops. Both
operations here are the usual ones to the last digit but for rounding; on GPU
and TPU the convolution is XLA's own.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

# Weights of the banded matrix above which building it costs more than it wins.
_LARGEST_BAND = 4_000_000


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

  Plain 2-D convolutions (stride 1, no dilation, one group) of small images are
  computed by `banded_conv` where the program is lowered for CPU.

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
  height, width = (
    size + sum(pad) for size, pad in zip(lhs.shape[1:3], padding, strict=True)
  )
  kernel_height, kernel_width, channels, filters = rhs.shape
  outputs = width - kernel_width + 1
  weights = kernel_height * width * channels * outputs * filters
  cropped = min(min(pad) for pad in padding) < 0
  small = weights <= _LARGEST_BAND
  if cropped or height < kernel_height or outputs < 1 or not small:
    return None
  return list(padding)


def banded_conv(images: jax.Array, kernel: jax.Array) -> jax.Array:
  """Convolves without padding, as one matrix product.

  Along a row, a convolution is a product with a banded matrix that holds the
  kernel's row once per output pixel. The `kh` image rows that an output row
  sees stand side by side, their bands below each other.

  Args:
    images: `[B, H, W, C]`.
    kernel: `[kh, kw, C, F]`.

  Returns:
    `[B, H - kh + 1, W - kw + 1, F]`.
  """
  batch, height, width, channels = images.shape
  kernel_height, kernel_width, _, filters = kernel.shape
  out_height, out_width = height - kernel_height + 1, width - kernel_width + 1
  bands = [
    jnp.pad(kernel, ((0, 0), (x, width - kernel_width - x), (0, 0), (0, 0)))
    for x in range(out_width)
  ]
  seen_size = kernel_height * width * channels
  band = jnp.stack(bands, axis=3).reshape(seen_size, out_width * filters)
  rows = images.reshape(batch, height, width * channels)
  seen = jnp.concatenate(
    [rows[:, y : y + out_height] for y in range(kernel_height)], axis=-1
  )
  product = seen.reshape(batch * out_height, seen_size) @ band
  return product.reshape(batch, out_height, out_width, filters)


def max_pool(images: jax.Array, size: int) -> jax.Array:
  """The maximum over `size` x `size` windows that do not overlap.

  Args:
    images: `[B, H, W, C]`; rows and columns beyond whole windows are dropped.
    size: of the window and its stride.

  Returns:
    `[B, H // size, W // size, C]`.

  Gradient: shared evenly where several pixels are the maximum.
  """
  batch, height, width, channels = images.shape
  rows, columns = height // size, width // size
  whole = images[:, : rows * size, : columns * size]
  windows = whole.reshape(batch, rows, size, columns, size, channels)
  return windows.max(axis=(2, 4))
