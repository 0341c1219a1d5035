"""Adding values into an image at the places of a grid."""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, coordinates, promotion
from stnjax.sampling import complex_images, kernels, reading, sampler
from stnjax.sampling.methods import LINEAR
from stnjax.sampling.padding import (
  UNFILLED,
  Padding,
  PaddingPerAxis,
  find,
)


@promotion.usual
@complex_images.by_parts
def splat(
  values: ArrayLike,
  grid: ArrayLike,
  output_shape: Sequence[int],
  *,
  padding: str | Sequence[str] = "zeros",
  align_corners: bool = False,
) -> jax.Array:
  """Adds values into an image at the places of a grid: forward warping.

  The exact adjoint of linear `grid_sample`: for every image x of
  `output_shape`, `sum(splat(v, grid, output_shape) * x)` is
  `sum(v * grid_sample(x, grid))`. Each value goes to the pixels that
  `grid_sample` would have read, with the same weights; the splat of ones
  counts the values per pixel, and divides their sum to a mean.

  Convention: `stnjax.coordinates`.

  Args:
    values: `[..., *shape, C]`, real or complex, finite.
    grid: `[..., *shape, N]`, normalised coordinates in the result that each
      value is added at. Batch axes broadcast against those of `values`.
    output_shape: Spatial shape of the result, `(H, W)` or `(D, H, W)`.
    padding: Treatment of values outside the result: "zeros" (they are lost),
      "border", "reflection" or "wrap", or one of them per axis; see
      `grid_sample`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, C]`, in the dtype of `values` (float32 for integers).
    Values whose place is NaN are lost.

  Raises:
    ValueError: For an unknown padding, a wrong shape, batch axes that do not
      broadcast.
    TypeError: For boolean values or a complex grid.

  Gradient: with respect to values and grid; for the grid as in `grid_sample`.

  Reference: the transpose of Jaderberg et al. 2015 (arXiv:1506.02025), eq. 5.

  >>> splat(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 2)), (2, 2)).ravel().tolist()
  [0.25, 0.25, 0.25, 0.25]
  """
  grid, num_axes = sampler.checked_grid(grid)
  found = find(padding, num_axes, accepted=UNFILLED)
  output_shape = checks.spatial_shape("output_shape", output_shape, num_axes)
  given = checks.real("values", values)
  values = checks.floating("values", given)
  if values.shape[-num_axes - 1 : -1] != grid.shape[-num_axes - 1 : -1]:
    raise ValueError(
      "values must have the spatial shape of grid,"
      f" {grid.shape[-num_axes - 1 : -1]}, got shape {values.shape}"
    )
  checks.channels_last("values", values.shape, num_axes)
  checks.flag("align_corners", align_corners)
  checks.batch(
    "values", values.shape[: -num_axes - 1], "grid", grid.shape[: -num_axes - 1]
  )
  points = coordinates.to_pixels(
    grid, output_shape, align_corners=align_corners
  )
  result = _splat(values, points, output_shape, found, align_corners)
  floats = jnp.issubdtype(given.dtype, jnp.floating)
  added: jax.Array = result.astype(given.dtype if floats else values.dtype)
  return added


@functools.partial(
  jax.jit, static_argnames=("output_shape", "padding", "align_corners")
)
def _splat(
  values: jax.Array,
  points: jax.Array,
  output_shape: tuple[int, ...],
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
) -> jax.Array:
  num_axes = points.shape[-1]
  batch = jnp.broadcast_shapes(
    values.shape[: -num_axes - 1], points.shape[: -num_axes - 1]
  )
  dtype = jnp.promote_types(values.dtype, points.dtype)
  values = jnp.broadcast_to(values, (*batch, *values.shape[-num_axes - 1 :]))
  values = values.astype(dtype)
  # Made of the values, so that it varies over devices as they do: else the
  # adjoint would be summed over devices.
  image = jnp.zeros_like(
    values.sum(axis=tuple(range(-num_axes - 1, -1)), keepdims=True)
  )
  image = jnp.broadcast_to(image, (*batch, *output_shape, values.shape[-1]))
  image, values, points = promotion.match_varying_axes(image, values, points)
  read = functools.partial(
    reading.read_batch,
    points=points,
    method=LINEAR,
    padding=padding,
    align_corners=align_corners,
    kernels=kernels.candidates("auto"),
  )
  (result,) = jax.vjp(read, image)[1](values)
  return jnp.asarray(result)
