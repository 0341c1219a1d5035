"""Sampling an image at the places of a grid."""

from collections.abc import Sequence
from typing import Literal, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates, promotion
from stnjax.sampling import complex_images, grids, kernels, methods, reading
from stnjax.sampling import padding as paddings
from stnjax.sampling.methods import Method
from stnjax.sampling.options import SamplingOptions
from stnjax.sampling.padding import Padding, PaddingPerAxis

EDGES = ("blend", "hard")


@overload
def grid_sample(
  image: ArrayLike,
  grid: ArrayLike,
  *,
  return_mask: Literal[False] = False,
  **options: Unpack[SamplingOptions],
) -> jax.Array: ...


@overload
def grid_sample(
  image: ArrayLike,
  grid: ArrayLike,
  *,
  return_mask: Literal[True],
  **options: Unpack[SamplingOptions],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def grid_sample(
  image: ArrayLike,
  grid: ArrayLike,
  *,
  return_mask: bool,
  **options: Unpack[SamplingOptions],
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


@promotion.usual
@complex_images.by_parts
def grid_sample(
  image: ArrayLike,
  grid: ArrayLike,
  *,
  method: str | Method = "linear",
  padding: str | Sequence[str] = "zeros",
  fill_value: ArrayLike = 0.0,
  edge: str = "blend",
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
  a pixel's centre aside); "spline2", "spline" (3), "spline4" and "spline5" are
  `scipy.ndimage.map_coordinates` of that order.

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` where the grid's last axis
      is 3. Floating or complex, with finite pixels, or integer; boolean for
      "nearest" and "label".
    grid: `[..., *shape, N]` with N spatial axes in `shape`, N = 2 or 3. Batch
      axes broadcast against the image's.
    method: Interpolation between pixels. "nearest" (ties to the even pixel);
      "linear"; "cubic", the convolution of Keys with a = -0.75, and
      "catmull_rom" with a = -0.5; "lanczos3" and "lanczos4", windowed sincs;
      "spline", the cubic B-spline through the pixels, and "spline2", "spline4"
      and "spline5", those of order 2, 4 and 5; "linearised", the values of
      "linear" with a gradient from further around, which takes a `key`;
      "label", for images of classes, the class with the largest weight in
      "linear" (ties to the smallest; the fill is a class); or the name of
      another method in `sampling.METHODS`.
    padding: Values outside the image. "zeros" and "constant", a `fill_value`;
      "border", the nearest pixel; "reflection", mirrored at the outer edges of
      the image, or with `align_corners` at the centres of its outermost pixels;
      "wrap", repeated with a period of the image's size. Or one of these per
      spatial axis, in array order, (y, x) or (z, y, x): `("border", "wrap")`
      for panoramas. "zeros" and "constant" do not go together.
    fill_value: Value outside the image with padding="constant", a number or
      `[C]`, complex for complex images; 0 by default.
    edge: Transition to the fill. "blend": the image is interpolated with the
      fill around it. "hard": places in the image, up to the outer edges of its
      pixels, read as with padding="border", all others the fill, as in Pillow's
      `Image.transform`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.
    return_mask: Whether to return the in-bounds weight of each sample as well.
    prefilter: Whether a spline method computes `spline_coefficients`; False
      where `image` already holds them.
    key: Random key of the displaced samples of method="linearised".
    implementation: Kernel. "gather" reads pixels by their index; "compiled" is
      C++ on CPU, for "nearest", "linear", "cubic" and "spline" of floating or
      uint8 images and volumes; "matmul" multiplies
      with matrices of weights, for images of floating dtype; "auto" is "matmul"
      on TPU and "compiled" elsewhere if they support the image, else "gather".

  Returns:
    `[..., *shape, C]` in the dtype of `image`; integers are rounded to the
    nearest (ties to even) and saturate. Places with a NaN coordinate are the
    fill. With `return_mask` also `[..., *shape]`, float32 or wider: what an
    image of ones would give with padding="zeros" and the same `edge`. It is
    between 0 and 1, but for the overshoot of the methods that reach further
    than "linear"; with edge="hard", 0 or 1. For "label", that of "linear".

  Raises:
    ValueError: For an unknown option, a wrong shape, batch axes that do not
      broadcast, an option that the method or padding does not take, an axis of
      more than 2^30 pixels.
    TypeError: For a complex grid, flags that are not True or False, a boolean
      image with another method than "nearest" or "label", or a floating one
      with "label", and for symbolic image sizes of an exported program with a
      spline or "linearised".

  Gradient: with respect to image, grid and fill, finite for finite pixels,
    whatever the grid and the fill. At a pixel centre the derivative of "linear"
    with respect to the grid is the right-hand one; it is zero where "border"
    clamps (the edge pixels' centres included), at NaN and at infinity; a fill
    that is not finite has none; edge="hard" adds none. "cubic", "catmull_rom"
    and "lanczos" have one continuous derivative, "spline" two, "spline5" four,
    "nearest" and "label" none. "linearised" gives the image the gradient of
    "linear" and the grid the slope of a plane fitted to 8 samples, of which 7
    are displaced at random by about a pixel (more where the grid is coarser
    than the image); it is meant to be differentiated once.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), eq. 5; Keys 1981;
    Duchon 1979; Unser 1999; Jiang et al. 2019 (arXiv:1901.07124).

  >>> ramp = jnp.arange(4.0).reshape(1, 4, 1)
  >>> grid_sample(ramp, jnp.array([[[0.0, 0.0]]])).tolist()
  [[[1.5]]]
  """
  grid, num_axes = checked_grid(grid)
  image = checks.image("image", image, num_axes, symbolic=True)
  checks.channels_last("image", image.shape, num_axes)
  _check_batch(image, "grid", grid)
  shape = image.shape[-num_axes - 1 : -1]
  checks.flag("align_corners", align_corners)
  points = coordinates.to_pixels(grid, shape, align_corners=align_corners)
  return sample_at(
    image,
    points,
    method=method,
    padding=padding,
    fill_value=fill_value,
    edge=edge,
    align_corners=align_corners,
    return_mask=return_mask,
    prefilter=prefilter,
    key=key,
    implementation=implementation,
  )


@overload
def sample_pixels(
  image: ArrayLike,
  points: ArrayLike,
  *,
  return_mask: Literal[False] = False,
  **options: Unpack[SamplingOptions],
) -> jax.Array: ...


@overload
def sample_pixels(
  image: ArrayLike,
  points: ArrayLike,
  *,
  return_mask: Literal[True],
  **options: Unpack[SamplingOptions],
) -> tuple[jax.Array, jax.Array]: ...


@overload
def sample_pixels(
  image: ArrayLike,
  points: ArrayLike,
  *,
  return_mask: bool,
  **options: Unpack[SamplingOptions],
) -> jax.Array | tuple[jax.Array, jax.Array]: ...


@promotion.usual
@complex_images.by_parts
def sample_pixels(
  image: ArrayLike,
  points: ArrayLike,
  *,
  method: str | Method = "linear",
  padding: str | Sequence[str] = "zeros",
  fill_value: ArrayLike = 0.0,
  edge: str = "blend",
  align_corners: bool = False,
  return_mask: bool = False,
  prefilter: bool = True,
  key: jax.Array | None = None,
  implementation: str = "auto",
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """As `grid_sample`, at pixel coordinates (0 at the first pixel's centre).

  `cv2.remap(image, x, y)` is `sample_pixels(image, jnp.stack([x, y], -1))`. The
  grid of such a map for other functions is
  `coordinates.to_normalised(points, image.shape[-3:-1])`.

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` where the points' last axis
      is 3.
    points: `[..., *shape, N]` pixel coordinates with N spatial axes in `shape`,
      last axis (x, y) or (x, y, z). Batch axes broadcast against the image's.
    method: Interpolation between pixels; see `grid_sample`.
    padding: Values outside the image, also per axis; see `grid_sample`.
    fill_value: Value outside the image with padding="constant", a number or
      `[C]`, complex for complex images; 0 by default.
    edge: Transition to the fill, "blend" or "hard"; see `grid_sample`.
    align_corners: Whether padding="reflection" mirrors at the centres of the
      outermost pixels instead of their outer edges.
    return_mask: Whether to return the in-bounds weight of each sample as well.
    prefilter: Whether a spline method computes `spline_coefficients`; False
      where `image` already holds them.
    key: Random key of the displaced samples of method="linearised".
    implementation: Kernel: "auto", "gather", "compiled" or "matmul"; see
      `grid_sample`.

  Returns:
    `[..., *shape, C]` in the dtype of `image`; with `return_mask` also
    `[..., *shape]`; see `grid_sample`.

  Raises:
    ValueError: As `grid_sample`, with the points as `points`.
    TypeError: As `grid_sample`.

  Gradient: as of `grid_sample`, with respect to the points in pixels.
  """
  points, num_axes = checked_grid(points, name="points")
  image = checks.image("image", image, num_axes, symbolic=True)
  _check_batch(image, "points", points)
  return sample_at(
    image,
    points,
    method=method,
    padding=padding,
    fill_value=fill_value,
    edge=edge,
    align_corners=align_corners,
    return_mask=return_mask,
    prefilter=prefilter,
    key=key,
    implementation=implementation,
  )


def sample_at(
  image: ArrayLike,
  points: jax.Array | grids.Mapped,
  *,
  method: str | Method,
  padding: str | Sequence[str],
  edge: str,
  align_corners: bool,
  prefilter: bool,
  key: jax.Array | None,
  implementation: str,
  fill_value: ArrayLike = 0.0,
  return_mask: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
  """`sample_pixels` at points whose shape and batch were checked."""
  num_axes = points.shape[-1]
  method = methods.find(method)
  found = paddings.find(padding, num_axes)
  checks.option("edge", edge, EDGES)
  if edge == "hard" and not found.fills:
    raise ValueError(
      "edge='hard' needs padding='zeros' or 'constant', got"
      f" padding={found.name!r}"
    )
  candidates = kernels.candidates(implementation)
  checks.flag("align_corners", align_corners)
  checks.flag("return_mask", return_mask)
  checks.flag("prefilter", prefilter)
  image = checks.image("image", image, num_axes, symbolic=True)
  _check_dtype(image, method)
  if method.prepare is not None or method.takes_key:
    checks.static(
      "image",
      image.shape[-num_axes - 1 : -1],
      f" with method={method.name!r}",
    )
  if not prefilter and not method.takes_coefficients:
    raise ValueError(
      "prefilter=False needs method='spline', 'spline2', 'spline4' or"
      f" 'spline5', got {method.name!r}"
    )
  result: jax.Array | tuple[jax.Array, jax.Array] = reading.sample(
    image,
    points,
    _checked_fill(fill_value, found, image),
    _checked_key(key, method),
    method=method,
    padding=found,
    edge=edge,
    align_corners=align_corners,
    return_mask=return_mask,
    prefilter=prefilter,
    kernels=candidates,
  )
  return result


def checked_grid(
  grid: ArrayLike, *, name: str = "grid"
) -> tuple[jax.Array, int]:
  """Returns a grid as float32 or wider, and its number of axes, or raises."""
  grid = checks.floating(name, grid)
  num_axes = grid.shape[-1] if grid.ndim else 0
  if num_axes not in (2, 3) or grid.ndim < num_axes + 1:
    raise ValueError(
      f"{name} must be [..., h, w, 2], or [..., d, h, w, 3] for volumes,"
      f" got shape {grid.shape}"
    )
  return grid, num_axes


def _check_batch(image: jax.Array, name: str, grid: jax.Array) -> None:
  num_axes = grid.shape[-1]
  batch, rest = image.shape[: -num_axes - 1], grid.shape[: -num_axes - 1]
  volumes = num_axes == 2 and len(batch) >= max(1, len(rest))
  advice = f"; for volumes, {name} must be [..., d, h, w, 3]" if volumes else ""
  checks.batch("image", batch, name, rest, advice)


def _check_dtype(image: jax.Array, method: Method) -> None:
  if image.dtype == jnp.bool_ and not method.copies_pixels:
    raise TypeError(
      "image of dtype bool needs method='nearest' or 'label', got"
      f" {method.name!r}"
    )
  if method.takes_labels and jnp.issubdtype(image.dtype, jnp.floating):
    raise TypeError(
      f"method={method.name!r} needs an image of integers or booleans, got"
      f" dtype {image.dtype}"
    )


def _checked_fill(
  fill_value: ArrayLike, padding: Padding | PaddingPerAxis, image: jax.Array
) -> jax.Array:
  channels = image.shape[-1]
  fill = checks.real("fill_value", fill_value)
  if fill.dtype == image.dtype == jnp.bool_:
    fill = fill.astype(jnp.float32)
  checks.floating("fill_value", fill)
  if fill.shape not in ((), (channels,)):
    raise ValueError(
      f"fill_value must be a number or [{channels}], one per channel of the"
      f" image, got shape {fill.shape}"
    )
  unused = isinstance(fill_value, int | float | np.generic) and fill_value == 0
  if not padding.takes_fill_value and not unused:
    raise ValueError(
      f"fill_value needs padding='constant', got padding={padding.name!r}"
    )
  return fill


def _checked_key(key: jax.Array | None, method: Method) -> jax.Array | None:
  if not method.takes_key:
    if key is not None:
      raise ValueError(f"key is for method='linearised', got {method.name!r}")
    return None
  if key is None:
    raise ValueError(
      f"method={method.name!r} needs a key, as jax.random.key(0)"
    )
  dtype, shape = getattr(key, "dtype", None), jnp.shape(key)
  typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
  if (typed and shape != ()) or (
    not typed and (dtype != jnp.uint32 or shape != (2,))
  ):
    raise TypeError(f"key must be one jax.random.key, got {checks.shown(key)}")
  return key
