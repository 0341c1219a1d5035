"""Warping an image by a transform: grid and sampling in one call."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from stnjax import checks, grids, sampling


def warp(
  image: ArrayLike,
  transform: ArrayLike,
  *,
  output_shape: Sequence[int] | None = None,
  method: str = "linear",
  padding: str = "zeros",
  align_corners: bool = False,
) -> jax.Array:
  """Warps an image by an affine or projective transform.

  The transform maps *output* to *input* coordinates, both normalised: output
  pixel p shows `image` at `transform @ p`. The object in the picture moves by
  the inverse (`stnjax.transforms.invert`). Zoom by 2: a scale of 0.5.

  Convention: `stnjax.coordinates`. Coordinates are worked out in pixels, so
  that the identity and whole-pixel shifts copy pixels exactly (integers with
  "linear" as far as float32 holds them; "nearest" copies any).

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` for a 3-D transform.
      Floating or integer; boolean for "nearest".
    transform: `[..., 2, 3]` affine or `[..., 3, 3]` projective; for volumes
      `[..., 3, 4]` or `[..., 4, 4]`. Batch axes broadcast against the image's.
    output_shape: spatial shape of the result; that of `image` by default.
    method: "nearest" or "linear"; see `grid_sample`.
    padding: "zeros" or "border"; see `grid_sample`.
    align_corners: whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, C]` in the dtype of `image`.

  Raises:
    ValueError: for an unknown option, a wrong shape, batch axes that do not
      broadcast.
    TypeError: for complex values, a boolean image with "linear", or sizes that
      are not static.

  Gradient: with respect to image and transform, as for `grid_sample`; nonzero
    at the identity. Pixels for which the denominator of a projective transform
    vanishes are 0 with zero gradient.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), section 3.

  >>> import jax.numpy as jnp
  >>> from stnjax import transforms
  >>> ramp = jnp.arange(4.0).reshape(1, 4, 1)
  >>> warp(ramp, transforms.translation(jnp.array([0.5, 0.0]))).ravel().tolist()
  [1.0, 2.0, 3.0, 0.0]
  """
  theta = checks.matrix("transform", transform)
  num_axes = theta.shape[-1] - 1
  image = checks.image("image", image, num_axes)
  batch, shape = image.shape[: -num_axes - 1], image.shape[-num_axes - 1 : -1]
  if output_shape is None:
    output_shape = shape
  checks.batch("image", batch, "transform", theta.shape[:-2])
  points = grids.affine_pixel_grid(
    theta, shape, output_shape, align_corners=align_corners
  )
  return sampling.sample_pixels(image, points, method=method, padding=padding)
