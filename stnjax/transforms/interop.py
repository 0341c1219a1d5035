"""Transforms to and from matrices in pixels, the form of other libraries."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates, promotion
from stnjax.transforms import frames
from stnjax.transforms.matrices import invert


@promotion.usual
def from_pixels(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The transform that a matrix between *pixel* coordinates makes.

  Convention: `matrix` takes pixels (x, y) of the output to pixels of the
  input, 0 at the first pixel's centre, as in scikit-image's
  `warp(image, matrix)`. The matrix of `scipy.ndimage.affine_transform` is in
  array order: reverse its rows, and its columns except that of the offset.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, in pixels.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    output_shape: Spatial shape of the result; `input_shape` by default.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The transform in normalised coordinates, in the shape of `matrix`.

  Raises:
    ValueError: For a wrong shape, or an input axis of size 1 with
      `align_corners=True`, whose normalised coordinates are all one place.

  >>> import jax.numpy as jnp
  >>> from_pixels(jnp.array([[1.0, 0, 2], [0, 1, 0]]), (4, 4)).tolist()
  [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
  """
  pixels = checks.matrix("matrix", matrix)
  shapes = _shapes(pixels, input_shape, output_shape, align_corners)
  frames.check_extent(shapes[0], align_corners)
  into, out = (coordinates.middle(shape) for shape in shapes)
  if pixels.shape[-2] == pixels.shape[-1]:
    pixels = frames.over_last(pixels)
  centred = frames.recentred(pixels, -into, -out)
  return frames.normalised(centred, *shapes, align_corners)


@promotion.usual
def to_pixels(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The matrix between pixel coordinates of a transform; see `from_pixels`.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, normalised.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    output_shape: Spatial shape of the result; `input_shape` by default.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    Pixels (x, y) of the output to pixels of the input, in the shape of
    `matrix`.

  Raises:
    ValueError: For a wrong shape.
  """
  theta = checks.matrix("matrix", matrix)
  shapes = _shapes(theta, input_shape, output_shape, align_corners)
  centred = frames.centred(theta, *shapes, align_corners)
  return frames.recentred(centred, *map(coordinates.middle, shapes))


@promotion.usual
def from_physical(
  matrix: ArrayLike,
  spacing: Sequence[float],
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  output_spacing: Sequence[float] | None = None,
  origin: Sequence[float] | None = None,
  output_origin: Sequence[float] | None = None,
  align_corners: bool = False,
) -> jax.Array:
  """The transform that a matrix between *physical* coordinates makes.

  Convention: `matrix` takes places of the output to places of the input, in
  units of the spacing, as transforms of SimpleITK's `Resample` do. By default
  both images have their middle at 0, so that
  `from_physical(rotation(angle), (1, 1), shape)` turns a rectangular image
  about its middle without a shear, and `from_physical(rotation(angle,
  axis="x"), (0.7, 0.7, 2.5), shape)` a volume of flat voxels.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, in units of the spacing.
    spacing: N distances between the pixels of the input along (x, y) or
      (x, y, z), above 0.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    output_shape: Spatial shape of the result; `input_shape` by default.
    output_spacing: N distances between the pixels of the output, above 0;
      `spacing` by default.
    origin: Place (x, y) or (x, y, z) of the first pixel's centre of the input;
      by default the one for which the middle of the image is at 0.
    output_origin: Place of the first pixel's centre of the output; by default
      `origin`, or without one that for which its middle is at 0.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The transform in normalised coordinates, in the shape of `matrix`.

  Raises:
    ValueError: For a wrong shape, a spacing that is not N finite numbers above
      0, or an input axis of size 1 with `align_corners=True`.

  >>> import jax.numpy as jnp
  >>> shift = jnp.array([[1.0, 0, 3], [0, 1, 0]])
  >>> from_physical(shift, (1.5, 2), (4, 4)).tolist()
  [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
  """
  physical = checks.matrix("matrix", matrix)
  shapes = _shapes(physical, input_shape, output_shape, align_corners)
  num_axes = physical.shape[-1] - 1
  into = _numbers("spacing", spacing, num_axes, positive=True)
  out = into
  if output_spacing is not None:
    out = _numbers("output_spacing", output_spacing, num_axes, positive=True)
  if output_origin is None:
    output_origin = origin
  # Places of the middles, and from there on in pixels.
  places = []
  for name, given, step, shape in (
    ("origin", origin, into, shapes[0]),
    ("output_origin", output_origin, out, shapes[1]),
  ):
    place = np.zeros(num_axes)
    if given is not None:
      first = _numbers(name, given, num_axes)
      place = first + step * coordinates.middle(shape)
    places.append(place)
  if physical.shape[-2] == physical.shape[-1]:
    physical = frames.over_last(physical)
  centred = frames.recentred(physical, -places[0], -places[1])
  rows = np.append(1 / into, 1.0)[: physical.shape[-2], None]
  ratio = rows * np.append(out, 1.0)
  centred = centred * ratio.astype(centred.dtype)
  frames.check_extent(shapes[0], align_corners)
  return frames.normalised(centred, *shapes, align_corners)


@promotion.usual
def from_opencv(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None = None,
  *,
  inverse_map: bool = False,
  align_corners: bool = False,
) -> jax.Array:
  """The transform that `cv2.warpAffine` or `cv2.warpPerspective` makes.

  Convention: OpenCV's matrix takes pixels (x, y) of the *input* to pixels of
  the output (it pushes), unless its flags hold `WARP_INVERSE_MAP`; its `dsize`
  is (width, height), where shapes are (height, width) here.

  Args:
    matrix: `[..., 2, 3]` or `[..., 3, 3]`, as OpenCV takes it.
    input_shape: `(H, W)` of the image.
    output_shape: `(H, W)` of the result; `input_shape` by default.
    inverse_map: Whether OpenCV is given `WARP_INVERSE_MAP`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The transform in normalised coordinates, in the shape of `matrix`.

  Raises:
    ValueError: For a wrong shape, or an input axis of size 1 with
      `align_corners=True`, whose normalised coordinates are all one place.
    TypeError: Where `inverse_map` is not True or False.

  >>> import jax.numpy as jnp
  >>> from_opencv(jnp.array([[1.0, 0, 2], [0, 1, 0]]), (4, 4)).tolist()
  [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0]]
  """
  pixels = checks.matrix("matrix", matrix)
  if pixels.shape[-1] != 3:
    raise ValueError(
      f"matrix must be [..., 2, 3] or [..., 3, 3], got shape {pixels.shape}"
    )
  checks.flag("inverse_map", inverse_map)
  if not inverse_map:
    pixels = invert(pixels)
  return from_pixels(
    pixels, input_shape, output_shape, align_corners=align_corners
  )


def _shapes(
  matrix: jax.Array,
  input_shape: Sequence[int],
  output_shape: Sequence[int] | None,
  align_corners: bool,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
  """The spatial shapes of an image and of the result, checked."""
  checks.flag("align_corners", align_corners)
  if output_shape is None:
    output_shape = input_shape
  into, out = (
    checks.spatial_shape(
      name,
      shape,
      matrix.shape[-1] - 1,
      owner=f"matrix of shape {matrix.shape}",
    )
    for name, shape in (
      ("input_shape", input_shape),
      ("output_shape", output_shape),
    )
  )
  return into, out


def _numbers(
  name: str, values: Sequence[float], num_axes: int, positive: bool = False
) -> np.ndarray:
  """One static number per axis, or an error that names the argument."""
  accepted = f"{num_axes} finite numbers" + (" above 0" if positive else "")
  try:
    numbers = np.asarray(values, np.float64)
  except (TypeError, ValueError):
    raise TypeError(
      f"{name} must be {accepted}, known while tracing, got"
      f" {checks.shown(values)}"
    ) from None
  if (
    numbers.shape != (num_axes,)
    or not np.isfinite(numbers).all()
    or (positive and (numbers <= 0).any())
  ):
    raise ValueError(f"{name} must be {accepted}, got {checks.shown(values)}")
  return numbers
