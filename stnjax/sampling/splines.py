"""Interpolating cubic B-splines: the coefficients that pass through samples."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.sampling.methods import METHODS, Method
from stnjax.sampling.padding import PADDINGS, Padding

_POLE = np.sqrt(3) - 2  # of the filter [1, 4, 1] / 6


@promotion.usual
def spline_coefficients(
  image: ArrayLike,
  *,
  num_axes: int = 2,
  padding: str = "zeros",
  align_corners: bool = False,
) -> jax.Array:
  """The coefficients of the cubic B-spline through the pixels of an image.

  `grid_sample(spline_coefficients(image), grid, method="spline",
  prefilter=False)` is `grid_sample(image, grid, method="spline")`: filter once
  and sample often. Both calls take the same `padding` and `align_corners`,
  since a spline depends on how its image continues outside.

  Convention: `stnjax.coordinates`.

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` with `num_axes=3`, with
      finite pixels: one that is not reaches all others.
    num_axes: Number of spatial axes before the channels, 2 or 3.
    padding: How the image continues outside: "zeros", "constant", "border",
      "reflection" or "wrap"; see `grid_sample`. For "constant" the coefficients
      are those of "zeros".
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    The coefficients, in the shape of `image`, float32 or wider.

  Raises:
    ValueError: For an unknown option, a wrong shape.
    TypeError: For complex or boolean images.

  Gradient: exact (the filter is linear).

  Reference: Unser 1999, "Splines: a perfect fit for signal and image
    processing", box 2; scipy.ndimage.spline_filter.

  >>> ones = spline_coefficients(jnp.ones((1, 3, 1)), padding="border")
  >>> ones.ravel().round(3).tolist()
  [1.0, 1.0, 1.0]
  """
  checks.option("num_axes", num_axes, (2, 3))
  checks.option("padding", padding, PADDINGS)
  checks.flag("align_corners", align_corners)
  image = checks.floating("image", checks.image("image", image, num_axes))
  checks.channels_last("image", image.shape, num_axes)
  return solve(image, num_axes, PADDINGS[padding], align_corners)


def solve(
  image: jax.Array, num_axes: int, padding: Padding, align_corners: bool
) -> jax.Array:
  """As `spline_coefficients`, for any number of axes, unchecked."""
  mode = padding.pad_mode(align_corners)
  for axis in range(-num_axes - 1, -1):
    image = _filter(image, axis, mode)
  return image


def extend(
  coefficients: jax.Array, num_axes: int, padding: Padding
) -> jax.Array:
  """Adds the coefficients outside the image, `margin` pixels on each side.

  Outside, where all samples are the same, the difference of the coefficients
  from them shrinks by the pole from pixel to pixel.

  Args:
    coefficients: `[..., *shape, C]`.
    num_axes: Number of spatial axes.
    padding: "zeros", "constant" or "border".

  Returns:
    `[..., *(size + 2 * margin), C]`.
  """
  powers = _POLE ** np.arange(1, margin(coefficients.dtype) + 1)
  for axis in range(-num_axes - 1, -1):
    moved = jnp.moveaxis(coefficients, axis, 0)
    before = _beyond(moved, powers, padding)[::-1]
    after = _beyond(moved[::-1], powers, padding)
    joined = jnp.concatenate([before, moved, after])
    coefficients = jnp.moveaxis(joined, 0, axis)
  return coefficients


def margin(dtype: jax.typing.DTypeLike) -> int:
  """Pixels after which powers of the pole are below the rounding of `dtype`."""
  return int(np.ceil(np.log(jnp.finfo(dtype).eps / 2) / np.log(-_POLE)))


def _beyond(
  moved: jax.Array, powers: np.ndarray, padding: Padding
) -> jax.Array:
  """Coefficients before the first one along axis 0, nearest first."""
  powers = powers.astype(moved.dtype).reshape(-1, *[1] * (moved.ndim - 1))
  edge = moved[:1]
  if padding.fills:
    return edge * powers
  # The outermost sample, from coefficients that continue as the last line says.
  sample = ((4 + _POLE) * edge + moved[1:2]) / (5 + _POLE)
  sample = sample if len(moved) > 1 else edge
  return sample + (edge - sample) * powers


def _filter(image: jax.Array, axis: int, mode: str) -> jax.Array:
  """Solves (c[k-1] + 4 c[k] + c[k+1]) / 6 = image[k] along an axis.

  The inverse filter is a causal and an anticausal geometric series of the
  pole; each is summed by doubling, over a row of samples long enough for the
  rest to vanish.
  """
  stages = 4 if image.dtype == jnp.float32 else 5  # pole^16, pole^32
  length = 2**stages - 1
  widths = [(0, 0)] * image.ndim
  widths[axis] = (length, length)
  series = jnp.pad(image, widths, mode=mode)
  for forward in (True, False):
    for stage in range(stages):
      step, size = 2**stage, series.shape[axis]
      early = lax.slice_in_dim(series, 0, size - step, axis=axis)
      late = lax.slice_in_dim(series, step, size, axis=axis)
      new, old = (late, early) if forward else (early, late)
      series = new + _POLE**step * old
  coefficients: jax.Array = -6 * _POLE * series
  return coefficients


def _prepare(
  image: jax.Array,
  points: jax.Array,
  padding: Padding,
  align_corners: bool,
  prefilter: bool,
) -> tuple[jax.Array, jax.Array]:
  """The coefficients, and the points in their pixels."""
  num_axes = points.shape[-1]
  coefficients = checks.floating("image", image)
  if prefilter:
    coefficients = solve(coefficients, num_axes, padding, align_corners)
  if not padding.repeats:
    coefficients = extend(coefficients, num_axes, padding)
    points = points + margin(coefficients.dtype)
  return coefficients, points


def _b_spline(t: jax.Array) -> tuple[jax.Array, ...]:
  """Weights of the cubic B-spline (Unser 1999, eq. 8)."""
  s = 1 - t
  near = [2 / 3 - x * x * (1 - x / 2) for x in (t, s)]
  return s * s * s / 6, *near, t * t * t / 6


SPLINE = Method(name="spline", support=4, weights=_b_spline, prepare=_prepare)
METHODS.register(SPLINE.name, SPLINE)
