"""Sampling grids: for each output pixel, the place to read in the input."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates


def affine_grid(
  matrix: ArrayLike,
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The grid of an affine or projective transform.

  Convention: `matrix` maps normalised output coordinates to normalised input
  coordinates; see `stnjax.coordinates`.

  Args:
    matrix: `[..., 2, 3]` or `[..., 3, 3]`; for volumes `[..., 3, 4]` or
      `[..., 4, 4]`.
    output_shape: `(H, W)` or, for volumes, `(D, H, W)`.
    align_corners: whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, N]` normalised coordinates, last axis (x, y) or
    (x, y, z), float32 or wider.

  Raises:
    ValueError: for a wrong shape of either argument.
    TypeError: for complex or boolean matrices, or sizes that are not static.

  Gradient: exact with respect to `matrix`. Where the denominator of a
    projective transform vanishes, the coordinate is NaN (which samplers read
    as fill) and its gradient is zero.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), eq. 1.

  >>> affine_grid(jnp.eye(2, 3), (1, 2)).tolist()
  [[[-0.5, 0.0], [0.5, 0.0]]]
  """
  theta, output_shape = _checked(matrix, output_shape)
  sizes = output_shape[::-1]
  middles = [(s - 1) / 2 for s in sizes]
  extents = [_nonzero_half_extent(s, align_corners) for s in sizes]
  axes = [
    (np.arange(s) - m) / e
    for s, m, e in zip(sizes, middles, extents, strict=True)
  ]
  return _map_axes(theta, axes)


def affine_pixel_grid(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The grid of a transform in *pixel* coordinates of the input.

  Equals `to_pixels(affine_grid(matrix, output_shape), input_shape)`, without
  its rounding: the scale of the axes goes into the matrix, so that the
  identity and whole-pixel shifts give whole numbers, which fall exactly on
  pixel centres.

  Args:
    matrix: as for `affine_grid`.
    input_shape: spatial shape of the image that will be sampled.
    output_shape: spatial shape of the grid.
    align_corners: as for `affine_grid`.

  Returns:
    `[..., *output_shape, N]` pixel coordinates, 0 at the first pixel's centre.

  Raises:
    ValueError: for a wrong shape, or shapes of different dimension.
  """
  theta, output_shape = _checked(matrix, output_shape)
  input_shape = checks.spatial_shape("input_shape", input_shape)
  num_axes = len(output_shape)
  if len(input_shape) != num_axes:
    raise ValueError(
      f"input_shape must have {num_axes} sizes, as the matrix has axes,"
      f" got {input_shape}"
    )
  into = [coordinates.half_extent(s, align_corners) for s in input_shape[::-1]]
  out = [_nonzero_half_extent(s, align_corners) for s in output_shape[::-1]]
  # Equal sizes divide to exactly 1.
  scale = np.array([*into, 1.0])[:, None] / np.array([*out, 1.0])
  axes = [np.arange(s) - (s - 1) / 2 for s in output_shape[::-1]]
  centred = _map_axes(
    theta * scale[: theta.shape[-2]].astype(theta.dtype), axes
  )
  middle = np.array([(s - 1) / 2 for s in input_shape[::-1]])
  return centred + middle.astype(theta.dtype)


def _map_axes(matrix: jax.Array, axes: Sequence[np.ndarray]) -> jax.Array:
  """Applies a matrix to the lattice with the given values along x, y(, z)."""
  num_axes = len(axes)
  # Broadcast products instead of a matmul: exact on hardware whose matrix
  # units round their operands, and nothing to store for the lattice.
  points = [
    axis.astype(matrix.dtype).reshape(-1, *[1] * place)
    for place, axis in enumerate(axes)
  ]

  def row(index: int) -> jax.Array:
    entries = [matrix[..., index, i] for i in range(num_axes + 1)]
    entries = [e.reshape(*e.shape, *[1] * num_axes) for e in entries]
    terms = [e * p for e, p in zip(entries, points, strict=False)]
    return sum(terms[1:], terms[0]) + entries[-1]

  mapped = jnp.stack([row(i) for i in range(num_axes)], axis=-1)
  if matrix.shape[-2] == num_axes:
    return mapped
  weight = row(num_axes)[..., None]
  regular = jnp.abs(weight) > jnp.finfo(matrix.dtype).eps
  return jnp.where(regular, mapped / jnp.where(regular, weight, 1.0), jnp.nan)


def _nonzero_half_extent(size: int, align_corners: bool) -> float:
  # One pixel has no extent between corner centres: its coordinate is 0.
  return coordinates.half_extent(size, align_corners) or 1.0


def _checked(
  matrix: ArrayLike, output_shape: Sequence[int]
) -> tuple[jax.Array, tuple[int, ...]]:
  theta = checks.matrix("matrix", matrix)
  shape = checks.spatial_shape("output_shape", output_shape)
  if len(shape) != theta.shape[-1] - 1:
    raise ValueError(
      f"output_shape must have {theta.shape[-1] - 1} sizes for a matrix of"
      f" shape {theta.shape}, got {shape}"
    )
  return theta, shape
