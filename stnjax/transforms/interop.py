"""Transforms to and from matrices in pixels, the form of other libraries."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
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
  if align_corners and 1 in shapes[0]:
    raise ValueError(
      "input_shape must have sizes of at least 2 with align_corners=True,"
      f" got {shapes[0]}"
    )
  into, out = (_middle(shape) for shape in shapes)
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
  return frames.recentred(centred, *(_middle(shape) for shape in shapes))


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


def _middle(shape: Sequence[int]) -> np.ndarray:
  """The pixel (x, y) or (x, y, z) of the middle of an image."""
  return (np.array(shape[::-1]) - 1) / 2
