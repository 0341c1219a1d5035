"""Boxes: crops of them, and boxes that move with the image."""

from collections.abc import Sequence
import itertools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates, promotion
from stnjax.transforms import frames, matrices, points

# What a box adds to its first and last corner for its outer edges, in pixels
# whose 0 is the centre of the first one.
_TO_EDGES = {"edges": (-0.5, -0.5), "centres": (-0.5, 0.5)}


@promotion.usual
def from_boxes(
  boxes: ArrayLike,
  input_shape: Sequence[int],
  *,
  corners: str = "edges",
  align_corners: bool = False,
) -> jax.Array:
  """The transforms that crop boxes out of an image.

  `warp(images[:, None], from_boxes(boxes, shape), output_shape=(7, 7))` takes
  `[B, H, W, C]` and boxes `[B, K, 4]` to crops `[B, K, 7, 7, C]`. With
  `method="linear"` and `padding="border"` these are the values of
  `torchvision.ops.roi_align(aligned=True, sampling_ratio=1)` for boxes inside
  the image; with `antialias=True` a large box is smoothed first.

  Args:
    boxes: `[..., 4]` in pixels, (x1, y1, x2, y2); for volumes `[..., 6]`, (x1,
      y1, z1, x2, y2, z2). A box with x2 below x1 is mirrored.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    corners: What coordinates of corners count. "edges": outer edges of pixels,
      so that (0, 0, W, H) is the whole image; "centres": indices of the first
      and last pixel, so that (0, 0, W - 1, H - 1) is the whole image.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges. If so, the corner pixels of the crop are at
      the centres of the corner pixels of the box, as in
      `tf.image.crop_and_resize`.

  Returns:
    `[..., N, N + 1]` transforms, output to input coordinates, float32 or wider;
    `[B, K, 4]` gives `[B, K, 2, 3]`.

  Raises:
    ValueError: For a wrong shape, an unknown option, or an input axis of size 1
      with `align_corners=True`.
    TypeError: For complex or boolean boxes, flags that are not True or False.

  Gradient: exact; linear in the boxes.

  Reference: He et al. 2017 (arXiv:1703.06870), RoIAlign.

  >>> from_boxes(jnp.array([0.0, 0, 2, 4]), (4, 4)).tolist()
  [[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]]
  """
  checks.flag("align_corners", align_corners)
  shape = checks.spatial_shape("input_shape", input_shape)
  frames.check_extent(shape, align_corners)
  checks.option("corners", corners, _TO_EDGES)
  low, high = _edges(_checked(boxes, len(shape)), len(shape), corners)
  inset = 0.5 if align_corners else 0
  sizes = shape[::-1]
  extents = np.array([coordinates.half_extent(s, align_corners) for s in sizes])
  extents = extents.astype(low.dtype)
  middle = coordinates.middle(shape).astype(low.dtype)
  scale = ((high - low) / 2 - inset) / extents
  offset = ((low + high) / 2 - middle) / extents
  linear = matrices.scaling(scale)[..., :-1]
  return jnp.concatenate([linear, offset[..., None]], axis=-1)


@promotion.usual
def apply_to_boxes(
  matrix: ArrayLike,
  boxes: ArrayLike,
  *,
  input_shape: Sequence[int] | None = None,
  output_shape: Sequence[int] | None = None,
  corners: str = "edges",
  pull: bool = False,
  align_corners: bool = False,
) -> jax.Array:
  """Boxes around what boxes of an image hold after `warp(image, matrix)`.

  Convention: **boxes move by the inverse of the matrix**, which maps output to
  input; see `apply_to_points`. The result is the smallest upright box around
  the moved corners, and may reach outside the output.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, as `warp` takes it.
    boxes: `[..., K, 4]`, (x1, y1, x2, y2) of the input; for volumes
      `[..., K, 6]`. In pixels with `input_shape`, else normalised. Batch axes
      broadcast against the matrix's.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`, for boxes
      in pixels; None for normalised boxes.
    output_shape: Spatial shape of the result, for boxes in pixels;
      `input_shape` by default.
    corners: What coordinates of corners count, for boxes in pixels. "edges":
      outer edges of pixels; "centres": indices of the first and last pixel. See
      `from_boxes`.
    pull: Whether `boxes` are those of the output, and the result lies in the
      input: the matrix itself instead of its inverse.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges, for boxes in pixels.

  Returns:
    `[..., K, 2 * N]` boxes, first corner at or below the last, float32 or
    wider. NaN where a corner is; see `apply_to_points`.

  Raises:
    ValueError: For a wrong shape, an unknown option, batch axes that do not
      broadcast, or `output_shape` without `input_shape`.
    TypeError: For complex or boolean values, flags that are not True or False.

  Gradient: that of the corners that touch the box, their mean where several do;
    zero where NaN.

  >>> half = jnp.array([[0.5, 0, 0], [0, 0.5, 0]])  # zooms in by 2
  >>> apply_to_boxes(half, jnp.array([[-0.5, -0.5, 0, 0.25]])).tolist()
  [[-1.0, -1.0, 0.0, 0.5]]
  """
  theta = checks.matrix("matrix", matrix)
  num_axes = theta.shape[-1] - 1
  boxes = _checked(boxes, num_axes, batched=True)
  checks.batch("matrix", theta.shape[:-2], "boxes", boxes.shape[:-2])
  checks.option("corners", corners, _TO_EDGES)
  in_pixels = input_shape is not None
  ends = (boxes[..., :num_axes], boxes[..., num_axes:])
  if in_pixels:
    ends = _edges(boxes, num_axes, corners)
  picks = np.array(list(itertools.product((0, 1), repeat=num_axes)), bool)
  found = jnp.where(picks, ends[1][..., None, :], ends[0][..., None, :])
  count, each = found.shape[-3:-1]
  moved = points.transformed(
    theta,
    found.reshape(*found.shape[:-3], count * each, num_axes),
    input_shape,
    output_shape,
    pull,
    align_corners,
  )
  moved = moved.reshape(*moved.shape[:-2], count, each, num_axes)
  # The minimum of NaN would have a NaN gradient.
  missing = jnp.isnan(moved)
  moved = jnp.where(missing, 0, moved)
  low, high = (
    jnp.where(missing.any(-2), jnp.nan, end)
    for end in (moved.min(-2), moved.max(-2))
  )
  if in_pixels:
    before, after = _TO_EDGES[corners]
    low, high = low - before, high - after
  return jnp.concatenate([low, high], axis=-1)


def _edges(
  boxes: jax.Array, num_axes: int, corners: str
) -> tuple[jax.Array, jax.Array]:
  """The outer edges of boxes, in pixels whose 0 is the first one's centre."""
  before, after = _TO_EDGES[corners]
  low, high = boxes[..., :num_axes], boxes[..., num_axes:]
  mirrored = high < low  # then the outer edge of the first corner lies after it
  return (
    low + jnp.where(mirrored, after, before),
    high + jnp.where(mirrored, before, after),
  )


def _checked(
  boxes: ArrayLike, num_axes: int, batched: bool = False
) -> jax.Array:
  boxes = checks.floating("boxes", boxes)
  if boxes.ndim < 1 + batched or boxes.shape[-1] != 2 * num_axes:
    kind = "volumes" if num_axes == 3 else "images"
    layout = (
      f"[..., K, {2 * num_axes}]" if batched else f"[..., {2 * num_axes}]"
    )
    raise ValueError(
      f"boxes must be {layout} for {kind}, got shape {boxes.shape}"
    )
  return boxes
