"""Sampling an image at the places of a grid."""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, coordinates
from stnjax.kernels import gather

METHODS = ("nearest", "linear")
"""Accepted values of `method`."""

PADDINGS = ("zeros", "border")
"""Accepted values of `padding`."""


def grid_sample(
  image: ArrayLike,
  grid: ArrayLike,
  *,
  method: str = "linear",
  padding: str = "zeros",
  align_corners: bool = False,
) -> jax.Array:
  """Samples an image at the places of a grid.

  Convention: the grid holds normalised input coordinates, last axis (x, y) or
  (x, y, z); see `stnjax.coordinates`. Values and gradients are those of
  `torch.nn.functional.grid_sample` on channels-last arrays.

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` where the grid's last axis
      is 3. Floating or integer; boolean for "nearest".
    grid: `[..., *shape, N]` with N spatial axes in `shape`, N = 2 or 3. Batch
      axes broadcast against the image's.
    method: "nearest" (ties to the even pixel) or "linear".
    padding: what lies outside the image: "zeros", into which "linear" blends
      over the pixel beyond the last centres, or "border", the nearest pixel.
    align_corners: whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *shape, C]` in the dtype of `image`; integers are rounded to the
    nearest (ties to even). Places with a NaN coordinate are 0.

  Raises:
    ValueError: for an unknown option, a wrong shape, batch axes that do not
      broadcast.
    TypeError: for complex values, or a boolean image with "linear".

  Gradient: "linear" has both. At a pixel centre the derivative with respect to
    the grid is the right-hand one; it is zero where "border" clamps (the edge
    pixels' centres included) and at NaN. "nearest" has the image's only.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), eq. 5.

  >>> ramp = jnp.arange(4.0).reshape(1, 4, 1)
  >>> grid_sample(ramp, jnp.array([[[0.0, 0.0]]])).tolist()
  [[[1.5]]]
  """
  grid = checks.floating("grid", grid)
  num_axes = grid.shape[-1] if grid.ndim else 0
  if num_axes not in (2, 3) or grid.ndim < num_axes + 1:
    raise ValueError(
      "grid must be [..., h, w, 2], or [..., d, h, w, 3] for volumes,"
      f" got shape {grid.shape}"
    )
  image = checks.image("image", image, num_axes)
  shape = image.shape[-num_axes - 1 : -1]
  points = coordinates.to_pixels(grid, shape, align_corners=align_corners)
  return sample_pixels(image, points, method=method, padding=padding)


def sample_pixels(
  image: jax.Array, points: jax.Array, *, method: str, padding: str
) -> jax.Array:
  """As `grid_sample`, at pixel coordinates (0 at the first pixel's centre)."""
  checks.option("method", method, METHODS)
  checks.option("padding", padding, PADDINGS)
  num_axes = points.shape[-1]
  image = checks.image("image", image, num_axes)
  if image.dtype == jnp.bool_ and method != "nearest":
    raise TypeError(
      f"image of dtype bool needs method='nearest', got {method!r}"
    )
  checks.batch(
    "image", image.shape[: -num_axes - 1], "grid", points.shape[: -num_axes - 1]
  )
  return _sample_batch(image, points, method, padding)


# Compiled as a whole, so that a call outside `jit` is one dispatch.
@functools.partial(jax.jit, static_argnames=("method", "padding"))
def _sample_batch(
  image: jax.Array, points: jax.Array, method: str, padding: str
) -> jax.Array:
  sample = functools.partial(gather.sample, method=method, padding=padding)
  inside = ",".join("dhw"[-points.shape[-1] :])
  outside = ",".join("xyz"[: points.shape[-1]])
  signature = f"({inside},c),({outside},n)->({outside},c)"
  result = jnp.vectorize(sample, signature=signature)(image, points)
  if jnp.issubdtype(image.dtype, jnp.integer) and method != "nearest":
    result = jnp.round(result)
  return result.astype(image.dtype)
