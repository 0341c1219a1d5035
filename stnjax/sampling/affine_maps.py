"""Where affine maps take the pixels of a result."""

from collections.abc import Sequence
from typing import Any

import jax

from stnjax import coordinates


def places(
  matrix: jax.Array, input_shape: Sequence[int], output_shape: Sequence[int]
) -> list[jax.Array]:
  """Maps the pixels of a result to those of the input.

  Args:
    matrix: `[..., N, N + 1]` between pixel coordinates from the middles.
    input_shape: Spatial shape of the input.
    output_shape: Spatial shape of the result.

  Returns:
    For x, y(, z) the pixel coordinates `[..., *output_shape]`.
  """
  along = axes(output_shape)
  return [
    row(matrix[..., axis, :], along) + matrix.dtype.type((size - 1) / 2)
    for axis, size in enumerate(input_shape[::-1])
  ]


def axes(shape: Sequence[int]) -> list[Any]:
  """Pixel coordinates along x, y(, z), of which 0 is the middle."""
  return [
    coordinates.array_module(size).arange(size) - (size - 1) / 2
    for size in shape[::-1]
  ]


def row(row: jax.Array, axes: Sequence[Any]) -> jax.Array:
  """One row of a matrix, applied to the lattice of values along x, y(, z)."""
  # Broadcast products instead of a matmul: exact on hardware whose matrix
  # units round their operands, and nothing to store for the lattice.
  per_pixel = (..., *[None] * len(axes))
  result = row[..., -1][per_pixel]
  for place, axis in reversed(list(enumerate(axes))):
    points = axis.astype(row.dtype).reshape(-1, *[1] * place)
    result = row[..., place][per_pixel] * points + result
  return result
