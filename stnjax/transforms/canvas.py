"""The shape of a result that holds the whole transformed image."""

from collections.abc import Sequence
import functools
import itertools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.transforms import frames, points
from stnjax.transforms.matrices import invert

_TOLERANCE = 1e-3  # of a pixel, which rounding may add to a size


@promotion.usual
def fit_output(
  matrix: ArrayLike, input_shape: Sequence[int], *, align_corners: bool = False
) -> tuple[jax.Array, tuple[int, ...]]:
  """A transform and an output shape that show the whole transformed image.

  `expand=True` of Pillow and torchvision, for any transform:

    theta, shape = fit_output(theta, image.shape[-3:-1])
    whole = warp(image, theta, output_shape=shape)

  Pixels keep the size that they have in `warp(image, matrix)`; the middle of
  the moved image is the middle of the result.

  Args:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, as `warp` takes it for a
      result of the shape of the image. Its values must be known: call it
      outside `jit` and `vmap`, or on a constant.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The transform, in the shape of `matrix`, and the output shape: the least
    sizes that hold the outer edges of the image, and, of a batch, the largest.
    A part of a pixel below 1/1000 is left out.

  Raises:
    ValueError: For a wrong shape, a matrix without an inverse, a projective
      transform that takes a part of the image to infinity, a result of more
      than 2^30 pixels along an axis, or an input axis of size 1 with
      `align_corners=True`.
    TypeError: For a matrix that is traced.

  Gradient: that of the transform, for a shape that stays.

  >>> from stnjax.transforms import rotation
  >>> fit_output(rotation(jnp.pi / 4), (20, 20))[1]
  (29, 29)
  """
  theta = checks.matrix("matrix", matrix)
  num_axes = theta.shape[-1] - 1
  checks.flag("align_corners", align_corners)
  shape = checks.spatial_shape(
    "input_shape",
    input_shape,
    num_axes,
    owner=f"matrix of shape {theta.shape}",
  )
  frames.check_extent(shape, align_corners)
  with jax.ensure_compile_time_eval():
    known = jax.lax.stop_gradient(jnp.asarray(matrix, theta.dtype))
    if isinstance(known, jax.core.Tracer):
      raise TypeError(
        "matrix must have known values, as the output shape depends on them,"
        " got a traced array; call fit_output outside jit and vmap, or give"
        " warp a static output_shape"
      )
    inverse, low, high = map(np.asarray, _bounds(known, shape, align_corners))
  _check_finite(inverse, _corners(shape))
  sizes = (high - low).astype(np.float64).reshape(-1, num_axes)
  if sizes.size and sizes.max() > checks.MAX_SIZE:
    raise ValueError(
      f"matrix must give a result of at most {checks.MAX_SIZE} pixels along an"
      f" axis, got {sizes.max():.3g}"
    )
  least = np.ceil(sizes.max(0, initial=0) - _TOLERANCE)
  output_shape = tuple(int(s) for s in np.maximum(least, 1)[::-1])
  return _shifted(theta, shape, output_shape, align_corners), output_shape


def _corners(shape: Sequence[int]) -> np.ndarray:
  """The corners of an image `[2^N, N]`, in pixels from its middle."""
  signs = np.array(list(itertools.product((-1, 1), repeat=len(shape))))
  corners: np.ndarray = signs * np.array(shape[::-1]) / 2
  return corners


@functools.partial(jax.jit, static_argnums=(1, 2))
def _bounds(
  theta: jax.Array, shape: tuple[int, ...], align_corners: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """From input to output in pixels from the middles; the moved image's ends."""
  centred = frames.centred(theta, shape, shape, align_corners, rescale=True)
  inverse = invert(centred)
  moved = points.multiplied(inverse, jnp.asarray(_corners(shape), theta.dtype))
  return inverse, moved.min(-2), moved.max(-2)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _shifted(
  theta: jax.Array,
  shape: tuple[int, ...],
  output_shape: tuple[int, ...],
  align_corners: bool,
) -> jax.Array:
  """The transform with the middle of the moved image in the middle."""
  _, low, high = _bounds(theta, shape, align_corners)
  centred = frames.centred(theta, shape, shape, align_corners, rescale=True)
  offset = (centred[..., :-1] * ((low + high) / 2)[..., None, :]).sum(-1)
  centred = centred.at[..., -1].add(offset)
  return frames.normalised(centred, shape, output_shape, align_corners)


def _check_finite(inverse: np.ndarray, corners: np.ndarray) -> None:
  """Raises unless all corners go to finite places, on one side of infinity."""
  if not np.isfinite(inverse).all():
    raise ValueError(
      "matrix must be finite and have an inverse, got a singular or a"
      " non-finite matrix"
    )
  if inverse.shape[-2] < inverse.shape[-1]:
    return
  last = inverse[..., -1:, :]
  weights = (last[..., :-1] * corners).sum(-1) + last[..., -1]
  size = np.abs(weights).max(-1, keepdims=True)
  least = 4 * np.finfo(inverse.dtype).eps * size
  sides = ((weights > least).all(-1)) | ((weights < -least).all(-1))
  if not sides.all():
    raise ValueError(
      "matrix must keep the whole image at finite places, got a projective"
      " transform that takes a part of it to infinity"
    )
