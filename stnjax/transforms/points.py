"""Points that move with the image."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, promotion
from stnjax.transforms import homogeneous, interop
from stnjax.transforms.matrices import invert


@promotion.usual
def apply_to_points(
  matrix: ArrayLike,
  points: ArrayLike,
  *,
  input_shape: Sequence[int] | None = None,
  output_shape: Sequence[int] | None = None,
  pull: bool = False,
  align_corners: bool = False,
) -> jax.Array:
  """Moves points of an image as `warp(image, matrix)` moves the image.

  Convention: **points move by the inverse of the matrix**, which maps output to
  input: a keypoint of the input lands where the output shows it.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, as `warp` takes it.
    points: `[..., K, N]` points (x, y) or (x, y, z) of the input: in pixels (0
      at the first pixel's centre) with `input_shape`, else normalised. Batch
      axes broadcast against the matrix's.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`, for points
      in pixels; None for normalised points.
    output_shape: Spatial shape of the result, for points in pixels;
      `input_shape` by default.
    pull: Whether `points` are those of the output, and the result the places of
      the input that they show: the matrix itself instead of its inverse.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges, for points in pixels.

  Returns:
    `[..., K, N]` points, float32 or wider. NaN where a point is not finite, the
    matrix has no inverse, or the denominator of a projective transform
    vanishes.

  Raises:
    ValueError: For a wrong shape, batch axes that do not broadcast, or
      `output_shape` without `input_shape`.
    TypeError: For complex or boolean values, flags that are not True or False.

  Gradient: exact with respect to matrix and points; zero where NaN.

  >>> half = jnp.array([[0.5, 0, 0], [0, 0.5, 0]])  # zooms in by 2
  >>> apply_to_points(half, jnp.array([[0.25, 0.0]])).tolist()
  [[0.5, 0.0]]
  """
  theta = checks.matrix("matrix", matrix)
  num_axes = theta.shape[-1] - 1
  points = checks.coordinates("points", points, num_axes)
  if points.ndim < 2:
    raise ValueError(
      f"points must be [..., K, {num_axes}], got shape {points.shape}"
    )
  checks.batch("matrix", theta.shape[:-2], "points", points.shape[:-2])
  return transformed(
    theta, points, input_shape, output_shape, pull, align_corners
  )


def transformed(
  theta: jax.Array,
  points: jax.Array,
  input_shape: Sequence[int] | None,
  output_shape: Sequence[int] | None,
  pull: bool,
  align_corners: bool,
) -> jax.Array:
  """As `apply_to_points`, for a matrix and points that are checked."""
  checks.flag("pull", pull)
  checks.flag("align_corners", align_corners)
  if input_shape is not None:
    theta = interop.to_pixels(
      theta, input_shape, output_shape, align_corners=align_corners
    )
  elif output_shape is not None:
    raise ValueError(
      "output_shape needs input_shape, for points in pixels, got"
      f" output_shape={checks.shown(output_shape)} and input_shape=None"
    )
  return multiplied(theta if pull else invert(theta), points)


def multiplied(matrix: jax.Array, points: jax.Array) -> jax.Array:
  """A matrix applied to points `[..., K, N]`."""
  num_axes = points.shape[-1]
  affine = matrix.shape[-2] == num_axes
  if not affine:
    matrix = homogeneous.rescaled(matrix)
  matrix = matrix[..., None, :, :]
  # Factors are masked, and not only the result: NaN has no zero gradient.
  known = jnp.isfinite(matrix).all((-2, -1)) & jnp.isfinite(points).all(-1)
  known = known[..., None]
  matrix = jnp.where(known[..., None], matrix, 0)
  points = jnp.where(known, points, 0)
  terms = matrix[..., :-1] * points[..., None, :]
  result = terms.sum(-1) + matrix[..., -1]
  if affine:
    return jnp.where(known, result, jnp.nan)
  weight = result[..., -1:]
  size = jnp.abs(terms[..., -1:, :]).sum(-1) + jnp.abs(matrix[..., -1:, -1])
  # Below, the weight is the rounding of terms that cancel.
  defined = jnp.abs(weight) > 4 * jnp.finfo(weight.dtype).eps * size
  defined &= known & jnp.isfinite(result).all(-1, keepdims=True)
  quotient = jnp.where(defined, result[..., :-1], 0)
  quotient = quotient / jnp.where(defined, weight, 1)
  return jnp.where(defined, quotient, jnp.nan)
