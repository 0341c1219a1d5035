"""Resizing: a product with one matrix of weights per axis."""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.sampling import complex_images, methods, rounding, warping
from stnjax.sampling.kernels import bands


@promotion.usual
@complex_images.by_parts
def resize(
  image: ArrayLike,
  output_shape: Sequence[int],
  *,
  method: str = "linear",
  antialias: bool = False,
  align_corners: bool = False,
) -> jax.Array:
  """Resizes an image; the whole of it becomes the whole of the result.

  Convention: `stnjax.coordinates`. Without antialiasing, "nearest" aside, the
  result is `warp(image, identity, output_shape=..., padding="border")`.
  Antialiasing stretches the kernel by the factor of each axis that shrinks, as
  in Pillow, `jax.image.resize` and torch; `warp(antialias=True)`, for any
  transform, blurs by a Gaussian of the same variance instead.

  ===================================== ======================================
  elsewhere                             here
  ===================================== ======================================
  torch "bilinear", "trilinear"         "linear"
  torch "bicubic"                       "cubic", with antialias "catmull_rom"
  torch "nearest-exact"                 "nearest"
  torch "area"                          "area", for whole factors
  `jax.image` "linear", "cubic",        "linear", "catmull_rom", "lanczos3",
  "lanczos3" with antialias             with antialias
  OpenCV `INTER_LINEAR`, `INTER_CUBIC`, "linear", "cubic", "lanczos4", "area",
  `INTER_LANCZOS4`, `INTER_AREA`        without antialias
  ===================================== ======================================

  Args:
    image: `[..., H, W, C]`, or `[..., D, H, W, C]` for 3 output sizes.
      Floating or complex, with finite pixels, or integer; boolean for
      "nearest".
    output_shape: Spatial shape of the result, `(H, W)` or `(D, H, W)`.
    method: Kernel. "nearest" (ties to the later pixel); "linear"; "cubic",
      Keys with a = -0.75; "catmull_rom", Keys with a = -0.5; "lanczos3" and
      "lanczos4"; "area", the mean of the pixels that a pixel of the result
      covers, for axes that do not grow.
    antialias: Whether to stretch the kernel where an axis shrinks; weights of
      pixels outside are then left out, and the others scaled to a sum of 1.
      Without, pixels outside are those of the edge.
    align_corners: Whether the centres of the corner pixels stay in place
      instead of their outer edges. A size of 1 reads the middle.

  Returns:
    `[..., *output_shape, C]` in the dtype of `image`; integers are rounded to
    the nearest (ties to even) and saturate. A pixel that is not finite spoils
    its channel around it, where no compiled code runs all of it.

  Raises:
    ValueError: For an unknown method, a wrong shape, `antialias` with "nearest"
      or "area", and for "area" a growing axis or `align_corners`.
    TypeError: For flags that are not True or False, sizes that are not
      integers, a boolean image with another method than "nearest", or symbolic
      sizes of an exported program with `antialias`, "nearest" or "area".

  Gradient: exact; the result is linear in the image.

  Reference: Keys 1981, "Cubic convolution interpolation"; Duchon 1979,
    "Lanczos filtering in one and two dimensions".

  >>> ramp = jnp.arange(4.0).reshape(1, 4, 1)
  >>> resize(ramp, (1, 2)).ravel().tolist()
  [0.5, 2.5]
  """
  output_shape = checks.spatial_shape(
    "output_shape", output_shape, symbolic=True
  )
  num_axes = len(output_shape)
  image = checks.image("image", image, num_axes, symbolic=True)
  checks.channels_last("image", image.shape, num_axes)
  checks.option("method", method, ("nearest", "area", *_KERNELS))
  checks.flag("antialias", antialias)
  checks.flag("align_corners", align_corners)
  shape = image.shape[-num_axes - 1 : -1]
  if antialias or method in ("nearest", "area"):
    purpose = " with antialias=True, method='nearest' or 'area'"
    checks.static("image", shape, purpose)
    checks.static("output_shape", output_shape, purpose)
  elif not checks.is_static(*shape, *output_shape):
    # Matrices of weights are constants of a program.
    return warping.warp(
      image,
      jnp.eye(num_axes, num_axes + 1, dtype=float),
      output_shape=output_shape,
      method=method,
      padding="border",
      align_corners=align_corners,
    )
  _check_options(shape, output_shape, method, antialias, align_corners)
  if method == "nearest":
    for axis, sizes in enumerate(zip(shape, output_shape, strict=True)):
      chosen = np.floor(_positions(*sizes, align_corners) + 0.5).astype(int)
      image = jnp.take(image, chosen, axis=axis - num_axes - 1)
    return image
  if image.dtype == jnp.bool_:
    raise TypeError(
      f"image of dtype bool needs method='nearest', got {method!r}"
    )
  # Products make bytes floating themselves.
  is_bytes = image.dtype == jnp.uint8
  result = image if is_bytes else checks.floating("image", image)
  names = "dhw"[-num_axes:]
  sizes = zip(names, shape, output_shape, strict=True)
  # Axes that shrink most come first: fewer pixels for the others.
  for name, size, count in sorted(sizes, key=lambda axis: axis[2] / axis[1]):
    band = _band(method, size, count, antialias, align_corners)
    axis = result.ndim - 1 - num_axes + names.index(name)
    result = bands.product(result, band, axis)
  return rounding.cast(result, image.dtype)


def _check_options(
  shape: Sequence[int],
  output_shape: Sequence[int],
  method: str,
  antialias: bool,
  align_corners: bool,
) -> None:
  if antialias and method in ("nearest", "area"):
    raise ValueError(
      "antialias=True needs a method other than 'nearest' and 'area', got"
      f" {method!r}"
    )
  if method == "area" and align_corners:
    raise ValueError("method='area' needs align_corners=False, got True")
  grows = any(o > i for i, o in zip(shape, output_shape, strict=True))
  if method == "area" and grows:
    raise ValueError(
      "method='area' needs an output_shape of at most the image's"
      f" {tuple(shape)}, got {tuple(output_shape)}"
    )


class _Kernel(NamedTuple):
  """Weights by distance, and the distance from which on they are 0."""

  weight: Callable[[np.ndarray], np.ndarray]
  radius: int


def _keys(a: float) -> _Kernel:
  near, far = methods.keys_polynomials(a)

  def weight(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    return np.where(x < 1, near(x), np.where(x < 2, far(x), 0))

  return _Kernel(weight, 2)


def _lanczos(radius: int) -> _Kernel:
  def weight(x: np.ndarray) -> np.ndarray:
    inside = np.abs(x) < radius
    return np.where(inside, np.sinc(x) * np.sinc(x / radius), 0)

  return _Kernel(weight, radius)


_KERNELS = {
  "linear": _Kernel(lambda x: np.maximum(1 - np.abs(x), 0), 1),
  "cubic": _keys(-0.75),
  "catmull_rom": _keys(-0.5),
  "lanczos3": _lanczos(3),
  "lanczos4": _lanczos(4),
}


@functools.lru_cache(maxsize=64)  # for calls outside of `jit`
def _band(
  method: str, size: int, count: int, antialias: bool, align_corners: bool
) -> bands.Band:
  """The band of the matrix `[count, size]` of one axis; its rows sum to 1."""
  if method == "area":
    return bands.Band.of(_coverage(size, count))
  kernel = _KERNELS[method]
  weights = _weights(size, count, kernel, antialias, align_corners)
  return bands.Band.of(weights)


def _positions(size: int, count: int, align_corners: bool) -> np.ndarray:
  """The pixel of the input at the centre of each pixel of the result."""
  steps = np.arange(count)
  if not align_corners:
    return ((2 * steps + 1) * size - count) / (2 * count)
  if count == 1:
    return np.array([(size - 1) / 2])
  return steps * (size - 1) / (count - 1)


def _weights(
  size: int, count: int, kernel: _Kernel, antialias: bool, align_corners: bool
) -> np.ndarray:
  """The matrix `[count, size]` of one axis; its rows sum to 1."""
  positions = _positions(size, count, align_corners)[:, None]
  if antialias:
    scale = size / count
    if align_corners:
      scale = (size - 1) / (count - 1) if count > 1 else size
    scale = max(1.0, scale)
    weights = kernel.weight((positions - np.arange(size)) / scale)
  else:
    taps = np.arange(1 - kernel.radius, kernel.radius + 1)
    places = np.floor(positions).astype(int) + taps
    weights = np.zeros((count, size))
    rows = np.arange(count)[:, None]
    read = np.clip(places, 0, size - 1)
    np.add.at(weights, (rows, read), kernel.weight(positions - places))
  result: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
  return result


def _coverage(size: int, count: int) -> np.ndarray:
  """The part of each pixel of the result that a pixel covers."""
  factor = math.gcd(size, count)
  # Whole numbers of a common unit, so that whole factors give equal weights.
  wide, narrow = size // factor, count // factor
  start = np.arange(count)[:, None] * wide
  pixel = np.arange(size) * narrow
  overlap = np.minimum(start + wide, pixel + narrow) - np.maximum(start, pixel)
  covered: np.ndarray = np.maximum(overlap, 0) / wide
  return covered
