"""Sampling an image at the places of a grid, and the adjoint of that."""

from collections.abc import Sequence
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates, promotion
from stnjax.sampling import kernels, splines
from stnjax.sampling.kernels import bilinear

METHODS = ("nearest", "linear", "cubic", "spline", "linearised")
"""Accepted values of `method`."""

PADDINGS = ("zeros", "constant", "border", "reflection", "wrap")
"""Accepted values of `padding`."""

UNFILLED = ("zeros", "border", "reflection", "wrap")
"""Values of `padding` that take no `fill_value`."""

_AUXILIARY = 7  # displaced samples of "linearised", as in the paper


@promotion.usual
def grid_sample(
  image: ArrayLike,
  grid: ArrayLike,
  *,
  method: str = "linear",
  padding: str = "zeros",
  fill_value: ArrayLike = 0.0,
  align_corners: bool = False,
  return_mask: bool = False,
  prefilter: bool = True,
  key: jax.Array | None = None,
  implementation: str = "auto",
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """Samples an image at the places of a grid.

  Convention: the grid holds normalised input coordinates, last axis (x, y) or
  (x, y, z); see `stnjax.coordinates`. Where
  `torch.nn.functional.grid_sample` has the mode, values and gradients are its
  on channels-last arrays (a coordinate that torch rounds to the other side of
  a pixel's centre aside); "spline" is `scipy.ndimage.map_coordinates` of order
  3.

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` where the grid's last axis
      is 3. Floating, with finite pixels, or integer; boolean for "nearest".
    grid: `[..., *shape, N]` with N spatial axes in `shape`, N = 2 or 3. Batch
      axes broadcast against the image's.
    method: how to read between pixels. "nearest" (ties to the even pixel);
      "linear"; "cubic", the convolution of Keys with a = -0.75; "spline", the
      cubic B-spline through the pixels; "linearised", the values of "linear"
      with a gradient from further around, which takes a `key`.
    padding: what lies outside the image. "zeros" and "constant", a
      `fill_value`, into which the pixels on the edge blend; "border", the
      nearest pixel; "reflection", mirrored at the outer edges of the image, or
      with `align_corners` at the centres of its outermost pixels; "wrap",
      repeated with a period of the image's size.
    fill_value: with padding="constant", a number or `[C]`.
    align_corners: whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.
    return_mask: also return the weight of the result that came from inside.
    prefilter: with method="spline", False where `image` already holds
      `spline_coefficients`.
    key: with method="linearised", the random key of the displaced samples.
    implementation: "gather" reads pixels by their index; "matmul" multiplies
      with matrices of weights, for images (not volumes) of floating dtype;
      "auto" is "matmul" on TPU where it serves, else "gather".

  Returns:
    `[..., *shape, C]` in the dtype of `image`; integers are rounded to the
    nearest (ties to even) and saturate. Places with a NaN coordinate are the
    fill. With `return_mask` also `[..., *shape]`, float32 or wider: what an
    image of ones would give with padding="zeros". It is between 0 and 1, but
    for the overshoot of "cubic" and "spline" next to the edge.

  Raises:
    ValueError: for an unknown option, a wrong shape, batch axes that do not
      broadcast, an option that the method or padding does not take, an axis of
      more than 2^30 pixels.
    TypeError: for complex values, flags that are not True or False, or a
      boolean image with another method than "nearest".

  Gradient: with respect to image, grid and fill, finite for finite pixels,
    whatever the grid and the fill. At a pixel centre the derivative of "linear"
    with respect to the grid is the right-hand one; it is zero where "border"
    clamps (the edge pixels' centres included), at NaN and at infinity; a fill
    that is not finite has none. "cubic" has one continuous derivative,
    "spline" two, "nearest" none. "linearised" gives the image the gradient of
    "linear" and the grid the slope of a plane fitted to 8 samples, of which 7
    are displaced at random by about a pixel (more where the grid is coarser
    than the image); it is meant to be differentiated once.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), eq. 5; Keys 1981; Unser
    1999; Jiang et al. 2019 (arXiv:1901.07124).

  >>> ramp = jnp.arange(4.0).reshape(1, 4, 1)
  >>> grid_sample(ramp, jnp.array([[[0.0, 0.0]]])).tolist()
  [[[1.5]]]
  """
  grid, num_axes = _checked_grid(grid)
  image = checks.image("image", image, num_axes)
  checks.channels_last("image", image.shape, num_axes)
  shape = image.shape[-num_axes - 1 : -1]
  checks.flag("align_corners", align_corners)
  points = coordinates.to_pixels(grid, shape, align_corners=align_corners)
  return sample_pixels(
    image,
    points,
    method=method,
    padding=padding,
    fill_value=fill_value,
    align_corners=align_corners,
    return_mask=return_mask,
    prefilter=prefilter,
    key=key,
    implementation=implementation,
  )


@promotion.usual
def sample_pixels(
  image: jax.Array,
  points: jax.Array,
  *,
  method: str = "linear",
  padding: str = "zeros",
  fill_value: ArrayLike = 0.0,
  align_corners: bool = False,
  return_mask: bool = False,
  prefilter: bool = True,
  key: jax.Array | None = None,
  implementation: str = "auto",
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """As `grid_sample`, at pixel coordinates (0 at the first pixel's centre)."""
  checks.option("method", method, METHODS)
  checks.option("padding", padding, PADDINGS)
  checks.option("implementation", implementation, kernels.IMPLEMENTATIONS)
  checks.flag("align_corners", align_corners)
  checks.flag("return_mask", return_mask)
  checks.flag("prefilter", prefilter)
  num_axes = points.shape[-1]
  image = checks.image("image", image, num_axes)
  if image.dtype == jnp.bool_ and method != "nearest":
    raise TypeError(
      f"image of dtype bool needs method='nearest', got {method!r}"
    )
  if not prefilter and method != "spline":
    raise ValueError(f"prefilter=False needs method='spline', got {method!r}")
  batch, rest = image.shape[: -num_axes - 1], points.shape[: -num_axes - 1]
  volumes = num_axes == 2 and len(batch) >= max(1, len(rest))
  checks.batch(
    "image",
    batch,
    "grid",
    rest,
    "; for volumes, grid must be [..., d, h, w, 3]" if volumes else "",
  )
  return _sample(
    image,
    points,
    _checked_fill(fill_value, padding, image),
    _checked_key(key, method),
    method=method,
    padding=padding,
    align_corners=align_corners,
    return_mask=return_mask,
    prefilter=prefilter,
    implementation=implementation,
  )


@promotion.usual
def splat(
  values: ArrayLike,
  grid: ArrayLike,
  output_shape: Sequence[int],
  *,
  padding: str = "zeros",
  align_corners: bool = False,
) -> jax.Array:
  """Adds values into an image at the places of a grid: forward warping.

  The exact adjoint of linear `grid_sample`: for every image x of
  `output_shape`, `sum(splat(v, grid, output_shape) * x)` is
  `sum(v * grid_sample(x, grid))`. Each value goes to the pixels that
  `grid_sample` would have read, with the same weights; the splat of ones
  counts, and divides to a mean.

  Convention: `stnjax.coordinates`.

  Args:
    values: `[..., *shape, C]`, real and finite.
    grid: `[..., *shape, N]`, where in the result each value goes, normalised.
      Batch axes broadcast against those of `values`.
    output_shape: `(H, W)` or `(D, H, W)`.
    padding: where values go whose place is outside: "zeros" (what falls
      outside is lost), "border", "reflection" or "wrap".
    align_corners: whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, C]`, in the dtype of `values` (float32 for integers).
    Values whose place is NaN are lost.

  Raises:
    ValueError: for an unknown padding, a wrong shape, batch axes that do not
      broadcast.
    TypeError: for complex or boolean values.

  Gradient: with respect to values and grid; for the grid as in `grid_sample`.

  Reference: the transpose of Jaderberg et al. 2015 (arXiv:1506.02025), eq. 5.

  >>> splat(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 2)), (2, 2)).ravel().tolist()
  [0.25, 0.25, 0.25, 0.25]
  """
  checks.option("padding", padding, UNFILLED)
  grid, num_axes = _checked_grid(grid)
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
  result = _splat(values, points, output_shape, padding, align_corners)
  floats = jnp.issubdtype(given.dtype, jnp.floating)
  return result.astype(given.dtype if floats else values.dtype)


def cast(result: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
  """Turns sampled values into `dtype`: integers round and saturate."""
  if jnp.issubdtype(dtype, jnp.integer) and result.dtype != dtype:
    info, kind = jnp.iinfo(dtype), result.dtype.type
    low, high = info.min, info.max
    if jnp.issubdtype(result.dtype, jnp.integer):
      given = jnp.iinfo(result.dtype)
      low, high = max(low, given.min), min(high, given.max)
    elif int(kind(high)) > high:  # rounded up, beyond what the cast may see
      high = np.nextafter(kind(high), kind(0))
    result = jnp.clip(jnp.round(result), kind(low), kind(high))
  return result.astype(dtype)


def outside(mask: jax.Array, fill: jax.Array, reach: jax.Array) -> jax.Array:
  """The part of a sample that is fill.

  Args:
    mask: `[...]`, the weight of the sample that came from inside.
    fill: `[]` or `[C]`.
    reach: `[...]`, below 1 where a fill that is not finite reaches.

  Returns:
    `[..., C]`, or `[..., 1]`. A fill that is not finite has no gradient, and
    gives none to the mask.
  """
  share = 1 - mask[..., None]
  finite = jnp.isfinite(fill)
  bad = jnp.sign(lax.stop_gradient(share)) * lax.stop_gradient(fill)
  bad = jnp.where(reach[..., None] == 1, 0, bad)
  return jnp.where(finite, share * jnp.where(finite, fill, 0), bad)


# Compiled as a whole, so that a call outside `jit` is one dispatch.
@functools.partial(
  jax.jit,
  static_argnames=(
    "method",
    "padding",
    "align_corners",
    "return_mask",
    "prefilter",
    "implementation",
  ),
)
def _sample(
  image: jax.Array,
  points: jax.Array,
  fill: jax.Array,
  key: jax.Array | None,
  *,
  method: str,
  padding: str,
  align_corners: bool,
  return_mask: bool,
  prefilter: bool,
  implementation: str,
) -> jax.Array | tuple[jax.Array, jax.Array]:
  beyond = "zeros" if padding == "constant" else padding
  read = functools.partial(
    _read,
    padding=beyond,
    align_corners=align_corners,
    implementation=implementation,
  )
  if method == "spline":
    result = _read_spline(image, points, read, beyond, align_corners, prefilter)
  elif method == "linearised":
    result = _read_linearised(image, points, key, read)
  else:
    result = read(image, points, method=method)
  if padding != "constant" and not return_mask:
    return cast(result, image.dtype)
  mask = _coverage(points, image.shape, method, implementation)
  if padding == "constant":
    if method == "nearest":  # keeps integers that floats cannot hold
      inside = mask[..., None] > 0
      result = jnp.where(inside, result, cast(fill, image.dtype))
    else:
      reach = mask
      if method == "spline":  # its weights ring on, far inside
        reach = _coverage(points, image.shape, "linear", implementation)
      result = result + outside(mask, fill, reach)
  result = cast(result, image.dtype)
  return (result, mask) if return_mask else result


def _read(
  image: jax.Array,
  points: jax.Array,
  *,
  method: str,
  padding: str,
  align_corners: bool,
  implementation: str,
) -> jax.Array:
  """The kernel over batches."""
  num_axes = points.shape[-1]
  batch = jnp.broadcast_shapes(
    image.shape[: -num_axes - 1], points.shape[: -num_axes - 1]
  )
  known = [n for n in batch if isinstance(n, int)]  # others when exported
  sample = functools.partial(
    kernels.sample,
    implementation=implementation,
    batch=math.prod(known),
    method=method,
    padding=padding,
    align_corners=align_corners,
  )
  inside = ",".join("dhw"[-num_axes:])
  outside = ",".join("xyz"[:num_axes])
  signature = f"({inside},c),({outside},n)->({outside},c)"
  return jnp.vectorize(sample, signature=signature)(image, points)


def _read_spline(image, points, read, padding, align_corners, prefilter):
  num_axes = points.shape[-1]
  coefficients = checks.floating("image", image)
  if prefilter:
    coefficients = splines.solve(coefficients, num_axes, padding, align_corners)
  if padding in ("zeros", "border"):
    coefficients = splines.extend(coefficients, num_axes, padding)
    points = points + splines.margin(coefficients.dtype)
  return read(coefficients, points, method="spline")


def _read_linearised(image, points, key, read):
  """Linear values whose slope is that of a plane fitted to samples around."""
  num_axes = points.shape[-1]
  into = np.array(image.shape[-num_axes - 1 : -1][::-1])
  out = np.array(points.shape[-num_axes - 1 : -1][::-1])
  # The axis of samples stands before all axes of the batch, the image's too.
  missing = max(0, image.ndim - points.ndim)
  points = points.reshape(*[1] * missing, *points.shape)
  # In the paper the displacements are a sum of two: half a pixel of the grid,
  # in units in which image and grid are 2 wide, and one pixel of the image.
  spread = np.hypot(0.25 * into / out, 1).astype(points.dtype)
  centre = lax.stop_gradient(points)
  noise = jax.random.normal(key, (_AUXILIARY, *points.shape), points.dtype)
  offsets = jnp.concatenate([jnp.zeros_like(noise[:1]), noise * spread])
  values = read(lax.stop_gradient(image), centre + offsets, method="linear")
  slope = _plane_slope(offsets, values)
  moved = jnp.where(jnp.isfinite(points), points - centre, 0)
  return read(image, centre, method="linear") + jnp.einsum(
    "...nc,...n->...c", lax.stop_gradient(slope), moved
  )


def _plane_slope(offsets: jax.Array, values: jax.Array) -> jax.Array:
  """Least-squares slopes `[..., N, C]` of `[K, ..., C]` at `[K, ..., N]`."""
  offsets = offsets - offsets.mean(axis=0)
  values = values - values.mean(axis=0)
  precise = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
  moments = precise("k...n,k...m->...nm", offsets, offsets)
  products = precise("k...n,k...c->...nc", offsets, values)
  if moments.shape[-1] == 2:
    (a, b), (_, d) = jnp.moveaxis(moments, (-2, -1), (0, 1))
    rows = [jnp.stack([d, -b], -1), jnp.stack([-b, a], -1)]
    determinant = a * d - b * b
  else:
    u, v, w = jnp.moveaxis(moments, -2, 0)
    rows = [jnp.cross(v, w), jnp.cross(w, u), jnp.cross(u, v)]
    determinant = (u * rows[0]).sum(-1)
  inverse = jnp.stack(rows, axis=-2) / determinant[..., None, None]
  slope = precise("...nm,...mc->...nc", inverse, products)
  return jnp.where(jnp.isfinite(slope), slope, 0)


def _coverage(
  points: jax.Array,
  image_shape: Sequence[int],
  method: str,
  implementation: str,
) -> jax.Array:
  """What an image of ones would give with zeros outside, `[..., *shape]`.

  Such an image is a product over the axes, and so is its sample.
  """
  num_axes = points.shape[-1]
  result = jnp.ones(points.shape[:-1], points.dtype)
  for axis, size in enumerate(image_shape[-num_axes - 1 : -1][::-1]):
    ones, place = jnp.ones((size, 1), points.dtype), points[..., axis, None]
    kernel = "linear" if method == "linearised" else method
    if method == "spline":
      ones = splines.extend(splines.solve(ones, 1, "zeros", False), 1, "zeros")
      place = place + splines.margin(ones.dtype)
    weight = kernels.sample(
      ones,
      place,
      implementation=implementation,
      method=kernel,
      padding="zeros",
      align_corners=False,
    )[..., 0]
    if method != "spline":
      # The weights of taps that are all inside may sum to 1 but for rounding.
      reach = 1 if method == "cubic" else 0
      first, last = reach, size - 1 - reach
      inner = (points[..., axis] >= first) & (points[..., axis] <= last)
      weight = jnp.where(inner, 1, weight)
    result = result * weight
  return result


@functools.partial(
  jax.jit, static_argnames=("output_shape", "padding", "align_corners")
)
def _splat(
  values: jax.Array,
  points: jax.Array,
  output_shape: tuple[int, ...],
  padding: str,
  align_corners: bool,
) -> jax.Array:
  num_axes = points.shape[-1]
  batch = jnp.broadcast_shapes(
    values.shape[: -num_axes - 1], points.shape[: -num_axes - 1]
  )
  dtype = jnp.promote_types(values.dtype, points.dtype)
  values = jnp.broadcast_to(values, (*batch, *values.shape[-num_axes - 1 :]))
  values = values.astype(dtype)
  # Of the values, so that it lies and varies over devices as they do: else the
  # adjoint would be summed over those.
  image = jnp.zeros_like(
    values.sum(axis=tuple(range(-num_axes - 1, -1)), keepdims=True)
  )
  image = jnp.broadcast_to(image, (*batch, *output_shape, values.shape[-1]))
  image, values, points = bilinear.alike(image, values, points)
  read = functools.partial(
    _read,
    points=points,
    method="linear",
    padding=padding,
    align_corners=align_corners,
    implementation="auto",
  )
  return jax.vjp(read, image)[1](values)[0]


def _checked_grid(grid: ArrayLike) -> tuple[jax.Array, int]:
  grid = checks.floating("grid", grid)
  num_axes = grid.shape[-1] if grid.ndim else 0
  if num_axes not in (2, 3) or grid.ndim < num_axes + 1:
    raise ValueError(
      "grid must be [..., h, w, 2], or [..., d, h, w, 3] for volumes,"
      f" got shape {grid.shape}"
    )
  return grid, num_axes


def _checked_fill(
  fill_value: ArrayLike, padding: str, image: jax.Array
) -> jax.Array:
  channels = image.shape[-1]
  if image.dtype == jnp.bool_ and isinstance(fill_value, bool):
    fill_value = float(fill_value)
  checks.floating("fill_value", fill_value)
  fill = checks.real("fill_value", fill_value)
  if fill.shape not in ((), (channels,)):
    raise ValueError(
      f"fill_value must be a number or [{channels}], one per channel of the"
      f" image, got shape {fill.shape}"
    )
  unused = isinstance(fill_value, int | float | np.generic) and fill_value == 0
  if padding != "constant" and not unused:
    raise ValueError(
      f"fill_value needs padding='constant', got padding={padding!r}"
    )
  return fill


def _checked_key(key: jax.Array | None, method: str) -> jax.Array | None:
  if method != "linearised":
    if key is not None:
      raise ValueError(f"key is for method='linearised', got {method!r}")
    return None
  if key is None:
    raise ValueError("method='linearised' needs a key, as jax.random.key(0)")
  dtype, shape = getattr(key, "dtype", None), jnp.shape(key)
  typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
  if (typed and shape != ()) or (
    not typed and (dtype != jnp.uint32 or shape != (2,))
  ):
    raise TypeError(f"key must be one jax.random.key, got {checks.shown(key)}")
  return key
