"""Warping an image by a transform: grid and sampling in one call."""

from collections.abc import Callable, Sequence
import functools
from typing import Any, Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.sampling import (
  antialiasing,
  complex_images,
  grids,
  methods,
  rounding,
  sampler,
)
from stnjax.sampling import padding as paddings
from stnjax.sampling.methods import Method
from stnjax.sampling.options import WarpOptions
from stnjax.sampling.padding import WRAP, ZEROS
from stnjax.transforms import frames


@overload
def warp(
  image: ArrayLike,
  transform: ArrayLike,
  *,
  return_mask: Literal[False] = False,
  **options: Unpack[WarpOptions],
) -> jax.Array: ...


@overload
def warp(
  image: ArrayLike,
  transform: ArrayLike,
  *,
  return_mask: Literal[True],
  **options: Unpack[WarpOptions],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def warp(
  image: ArrayLike,
  transform: ArrayLike,
  *,
  return_mask: bool,
  **options: Unpack[WarpOptions],
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


@promotion.usual
@complex_images.by_parts
def warp(
  image: ArrayLike,
  transform: ArrayLike,
  *,
  output_shape: Sequence[int] | None = None,
  method: str | Method = "linear",
  padding: str | Sequence[str] = "zeros",
  fill_value: ArrayLike = 0.0,
  edge: str = "blend",
  align_corners: bool = False,
  antialias: bool = False,
  return_mask: bool = False,
  prefilter: bool = True,
  key: jax.Array | None = None,
  implementation: str = "auto",
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Warps an image by an affine or projective transform.

  The transform maps *output* to *input* coordinates, both normalised: output
  pixel p shows `image` at `transform @ p`. The object in the picture moves by
  the inverse (`stnjax.transforms.invert`). Zoom by 2: a scale of 0.5. Matrices
  of OpenCV, scikit-image or scipy: `transforms.from_opencv`, `.from_pixels`.

  Convention: `stnjax.coordinates`. Coordinates are worked out in pixels, so
  that the identity and whole-pixel shifts copy pixels exactly, but for splines
  (integers as far as float32 holds them; "nearest" copies any).

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` for a 3-D transform.
      Floating or complex, with finite pixels, or integer; boolean for
      "nearest" and "label".
    transform: `[..., 2, 3]` affine or `[..., 3, 3]` projective; for volumes
      `[..., 3, 4]` or `[..., 4, 4]`. Batch axes broadcast against the image's.
    output_shape: Spatial shape of the result; that of `image` by default.
    method: Interpolation between pixels: "nearest", "linear", "cubic",
      "catmull_rom", "lanczos3", "lanczos4", "spline", "linearised" or "label"
      among others; see `grid_sample`.
    padding: Values outside the image: "zeros", "constant", "border",
      "reflection" or "wrap", or one of them per axis in array order; see
      `grid_sample`.
    fill_value: Value outside the image with padding="constant", a number or
      `[C]`, complex for complex images; 0 by default.
    edge: Transition to the fill, "blend" or "hard"; see `grid_sample`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.
    antialias: Whether to blur `image` first as far as the transform shrinks it
      in any direction: for an affine transform, each axis of the image by its
      own Gaussian; for a projective one, all axes alike, by another Gaussian at
      each pixel.
    return_mask: Whether to return the in-bounds weight of each sample as well.
    prefilter: Whether a spline method computes `spline_coefficients`; False
      where `image` already holds them.
    key: Random key of the displaced samples of method="linearised".
    implementation: Kernel: "auto", "gather", "compiled" or "matmul"; see
      `grid_sample`.

  Returns:
    `[..., *output_shape, C]` in the dtype of `image`; with `return_mask` also
    `[..., *output_shape]`; see `grid_sample`.

  Raises:
    ValueError: For an unknown option, a wrong shape, batch axes that do not
      broadcast, an option that the method or padding does not take.
    TypeError: For a complex transform, a boolean image with another method than
      "nearest" or "label", a floating one with "label", flags that are not True
      or False, sizes that are not integers, symbolic sizes of an exported
      program with `antialias`, a spline or "linearised".

  Gradient: with respect to image, transform and fill, as for `grid_sample`;
    nonzero at the identity. Pixels for which the denominator of a projective
    transform vanishes are the fill with zero gradient. Antialiasing is
    differentiated too, and adds nothing where the transform does not shrink.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), section 3.

  >>> import jax.numpy as jnp
  >>> from stnjax import transforms
  >>> ramp = jnp.arange(4.0).reshape(1, 4, 1)
  >>> warp(ramp, transforms.translation(jnp.array([0.5, 0.0]))).ravel().tolist()
  [1.0, 2.0, 3.0, 0.0]
  """
  theta = checks.matrix("transform", transform)
  num_axes = theta.shape[-1] - 1
  image = checks.image("image", image, num_axes, symbolic=True)
  checks.channels_last("image", image.shape, num_axes)
  batch, shape = image.shape[: -num_axes - 1], image.shape[-num_axes - 1 : -1]
  if output_shape is None:
    output_shape = shape
  output_shape = _checked_shape(image, theta, output_shape)
  volumes = num_axes == 2 and len(batch) >= max(1, theta.ndim - 2)
  checks.batch(
    "image",
    batch,
    "transform",
    theta.shape[:-2],
    "; for volumes, transform must be [..., 3, 4] or [..., 4, 4]"
    if volumes
    else "",
  )
  checks.flag("align_corners", align_corners)
  checks.flag("antialias", antialias)
  checks.flag("return_mask", return_mask)
  checks.flag("prefilter", prefilter)
  method = methods.find(method)
  if antialias and (method.copies_pixels or not prefilter):
    raise ValueError(
      "antialias=True needs a method other than 'nearest' and 'label', and"
      " pixels instead of coefficients,"
      f" got method={method.name!r}, prefilter={prefilter!r}"
    )
  if antialias:
    checks.static("image", shape, " with antialias=True")
    checks.static("output_shape", output_shape, " with antialias=True")
  centred = frames.centred(
    theta, shape, output_shape, align_corners, rescale=True
  )
  sample: Callable[..., Any] = functools.partial(
    sampler.sample_at,
    points=grids.Mapped(centred, shape, output_shape),
    method=method,
    edge=edge,
    align_corners=align_corners,
    prefilter=prefilter,
    key=key,
    implementation=implementation,
  )
  fill: dict[str, Any] = {"padding": padding, "fill_value": fill_value}
  if not antialias:
    warped: jax.Array | tuple[jax.Array, jax.Array]
    warped = sample(image, return_mask=return_mask, **fill)
    return warped
  blurred_sample = functools.partial(
    antialiasing.filtered_sample,
    theta=theta,
    output_shape=output_shape,
    align_corners=align_corners,
  )
  result = _antialiased(image, sample, blurred_sample, num_axes, **fill)
  if not return_mask:
    return result
  return result, sample(image, return_mask=True, **fill)[1]


def _antialiased(
  image: jax.Array,
  sample: Callable[..., jax.Array],
  blurred_sample: Callable[..., jax.Array],
  num_axes: int,
  *,
  padding: str | Sequence[str],
  fill_value: ArrayLike,
) -> jax.Array:
  """Samples of a blurred image."""
  found = paddings.find(padding, num_axes)
  by_axis = [found.along(axis) for axis in range(num_axes)]
  fill: dict[str, Any] = {"padding": padding, "fill_value": fill_value}
  options, pixels = fill, checks.floating("image", image)
  if found.takes_fill_value:
    # The fill is added to samples that know nothing of it: it is not blurred.
    names = [ZEROS.name if p.takes_fill_value else p.name for p in by_axis]
    options = {"padding": names[::-1]}
  result = blurred_sample(
    pixels,
    sample=functools.partial(sample, **options),
    cyclic=[padding == WRAP for padding in by_axis],
  )
  if found.takes_fill_value:
    result = result + sample(jnp.zeros_like(pixels), **fill)
  return rounding.cast(result, image.dtype)


def _checked_shape(
  image: jax.Array, theta: jax.Array, output_shape: Sequence[int]
) -> tuple[int, ...]:
  """The output shape, or an error that names what does not fit."""
  num_axes = theta.shape[-1] - 1
  if np.shape(output_shape) == (5 - num_axes,) and image.ndim > 3:
    kind, layout, other, sizes = {
      2: ("images", "[..., 3, 4] or [..., 4, 4]", "volumes", "(H, W)"),
      3: ("volumes", "[..., 2, 3] or [..., 3, 3]", "images", "(D, H, W)"),
    }[num_axes]
    raise ValueError(
      f"transform is for {kind}, got shape {theta.shape}, but output_shape has"
      f" {5 - num_axes} sizes, got {tuple(output_shape)}; for {other},"
      f" transform must be {layout}, for {kind}, output_shape must be {sizes}"
    )
  return checks.spatial_shape(
    "output_shape",
    output_shape,
    num_axes,
    owner=f"transform of shape {theta.shape}",
    symbolic=True,
  )
