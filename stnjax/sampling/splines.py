"""Interpolating B-splines: the coefficients that pass through samples."""

from collections.abc import Sequence
import functools

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.sampling import b_splines, complex_images
from stnjax.sampling.methods import METHODS, Method
from stnjax.sampling.padding import Padding, PaddingPerAxis, find

ORDERS = (2, 3, 4, 5)


@promotion.usual
@complex_images.by_parts
def spline_coefficients(
  image: ArrayLike,
  *,
  order: int = 3,
  num_axes: int = 2,
  padding: str | Sequence[str] = "zeros",
  align_corners: bool = False,
) -> jax.Array:
  """The coefficients of the B-spline through the pixels of an image.

  `grid_sample(spline_coefficients(image), grid, method="spline",
  prefilter=False)` is `grid_sample(image, grid, method="spline")`: filter once
  and sample often. Both calls take the same `padding` and `align_corners`,
  since a spline depends on how its image continues outside.

  Convention: `stnjax.coordinates`.

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` with `num_axes=3`, with
      finite pixels: one that is not reaches all others.
    order: Order of the spline: 3 for method="spline", or 2, 4 or 5 for
      "spline2", "spline4" or "spline5".
    num_axes: Number of spatial axes before the channels, 2 or 3.
    padding: How the image continues outside: "zeros", "constant", "border",
      "reflection" or "wrap", or one of them per axis; see `grid_sample`. For
      "constant" the coefficients are those of "zeros"; for edge="hard", those
      of "border".
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    The coefficients, in the shape of `image`, float32 or wider, or complex.

  Raises:
    ValueError: For an unknown option, a wrong shape.
    TypeError: For boolean images.

  Gradient: exact (the filter is linear).

  Reference: Unser 1999, "Splines: a perfect fit for signal and image
    processing", box 2; scipy.ndimage.spline_filter.

  >>> ones = spline_coefficients(jnp.ones((1, 3, 1)), padding="border")
  >>> ones.ravel().round(3).tolist()
  [1.0, 1.0, 1.0]
  """
  checks.option("order", order, ORDERS)
  checks.option("num_axes", num_axes, (2, 3))
  found = find(padding, num_axes)
  checks.flag("align_corners", align_corners)
  image = checks.floating("image", checks.image("image", image, num_axes))
  checks.channels_last("image", image.shape, num_axes)
  return solve(image, num_axes, found, align_corners, order)


def solve(
  image: jax.Array,
  num_axes: int,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  order: int = 3,
) -> jax.Array:
  """As `spline_coefficients`, for any number of axes, unchecked."""
  for axis in range(num_axes):
    mode = padding.along(axis).pad_mode(align_corners)
    image = _filter(image, -2 - axis, mode, order)
  return image


def extend(
  coefficients: jax.Array, axis: int, padding: Padding, order: int
) -> jax.Array:
  """Adds the coefficients outside along an axis, `margin` on each side.

  Outside, where all samples are the same, the difference of the coefficients
  from them vanishes with the powers of the poles.

  Args:
    coefficients: `[..., *shape, C]`.
    axis: Axis of the array.
    padding: "zeros", "constant" or "border".
    order: Order of the spline.

  Returns:
    The coefficients, of size `size + 2 * margin` along the axis.
  """
  moved = jnp.moveaxis(coefficients, axis, 0)
  count, reach = min(3, len(moved)), margin(coefficients.dtype, order)
  weights = b_splines.beyond(order, padding.fills, count, reach)
  beyond = functools.partial(
    jnp.einsum,
    "mk,k...->m...",
    weights.astype(moved.dtype),
    precision=lax.Precision.HIGHEST,
  )
  before, after = beyond(moved[:count])[::-1], beyond(moved[::-1][:count])
  return jnp.moveaxis(jnp.concatenate([before, moved, after]), 0, axis)


def margin(dtype: jax.typing.DTypeLike, order: int) -> int:
  """Pixels after which powers of the poles are below rounding."""
  return max(_terms(pole, dtype) for pole in b_splines.poles(order))


def _terms(pole: float, dtype: jax.typing.DTypeLike) -> int:
  """The power of a pole that is below the rounding of `dtype`."""
  return int(np.ceil(np.log(jnp.finfo(dtype).eps / 2) / np.log(-pole)))


def _filter(image: jax.Array, axis: int, mode: str, order: int) -> jax.Array:
  """Solves for the coefficients along an axis.

  For order 3: (c[k-1] + 4 c[k] + c[k+1]) / 6 = image[k]. The inverse filter is
  a causal and an anticausal geometric series of each pole; each is summed by
  doubling, over a row of samples long enough for the rest to vanish.
  """
  poles = b_splines.poles(order)
  stages = [int(np.ceil(np.log2(_terms(pole, image.dtype)))) for pole in poles]
  length = sum(2**count - 1 for count in stages)
  widths = [(0, 0)] * image.ndim
  widths[axis] = (length, length)
  series = jnp.pad(image, widths, mode=mode)
  for pole, count in zip(poles, stages, strict=True):
    for forward in (True, False):
      for stage in range(count):
        step, size = 2**stage, series.shape[axis]
        early = lax.slice_in_dim(series, 0, size - step, axis=axis)
        late = lax.slice_in_dim(series, step, size, axis=axis)
        new, old = (late, early) if forward else (early, late)
        series = new + pole**step * old
    series = (1 - pole) ** 2 * series
  return series


def _prepare(
  order: int,
  image: jax.Array,
  points: jax.Array,
  padding: Padding | PaddingPerAxis,
  align_corners: bool,
  prefilter: bool,
) -> tuple[jax.Array, jax.Array]:
  """The coefficients, and the points in their pixels."""
  num_axes = points.shape[-1]
  coefficients = checks.floating("image", image)
  if prefilter:
    coefficients = solve(coefficients, num_axes, padding, align_corners, order)
  shifts = np.zeros(num_axes)
  for axis in range(num_axes):
    if not padding.along(axis).repeats:
      along = padding.along(axis)
      coefficients = extend(coefficients, -2 - axis, along, order)
      shifts[axis] = margin(coefficients.dtype, order)
  return coefficients, points + shifts.astype(points.dtype)


def _cubic(t: jax.Array) -> tuple[jax.Array, ...]:
  """Weights of the cubic B-spline (Unser 1999, eq. 8)."""
  s = 1 - t
  near = [2 / 3 - x * x * (1 - x / 2) for x in (t, s)]
  return s * s * s / 6, *near, t * t * t / 6


def _method(order: int) -> Method:
  return Method(
    name="spline" if order == 3 else f"spline{order}",
    support=b_splines.support(order),
    weights=_cubic if order == 3 else b_splines.weights(order),
    prepare=functools.partial(_prepare, order),
  )


SPLINE2, SPLINE, SPLINE4, SPLINE5 = map(_method, ORDERS)

for _spline in (SPLINE2, SPLINE, SPLINE4, SPLINE5):
  METHODS.register(_spline.name, _spline)
