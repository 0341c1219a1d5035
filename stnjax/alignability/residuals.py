"""Residuals of transforms after warps of the features."""

from collections.abc import Sequence
import functools
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion, transforms
from stnjax.alignability import search
from stnjax.alignability.families import (
  about_centre,
  extended,
  pixels_about_centre,
  transformed,
)
from stnjax.alignability.features import (
  Features,
  checked_features,
  checked_images,
)
from stnjax.alignability.geometry import Geometry, checked_geometry
from stnjax.alignability.mixing import best_mixing
from stnjax.sampling.warping import warp

METHODS = ("linear", "cubic")
"""Interpolations of the warps."""

_INSIDE = 1 - 1e-4  # least interpolated weight of a position inside


class Residuals(NamedTuple):
  """Relative residuals by magnitude and image, `[M, B]`.

  NaN for an image whose features are all zero.

  Attributes:
    unaligned: Without a warp (s = 1), over the features that are valid for it.
    aligned: After the inverse warp, s = h^-1.
    best: After the best affine warp of each image that the search found; h^-1
      and 1 are among its starts. Over the features that are valid for h^-1;
      features that depend on the border read as 0.
    mixed: After the best linear mixing of channels behind h^-1 or the best
      warp, fitted to other images than it is applied to; `best` where that is
      smaller.
    coverage: `[M]`, share of the features inside the image that are valid for
      h^-1: those that do not depend on the border.
  """

  unaligned: jax.Array | np.ndarray
  aligned: jax.Array | np.ndarray
  best: jax.Array | np.ndarray
  mixed: jax.Array | np.ndarray
  coverage: jax.Array | np.ndarray


class Canvas(NamedTuple):
  """Sizes of the images.

  Attributes:
    size: `(H, W)` with the margin.
    frame: `(H, W)` without it.
  """

  size: tuple[int, int]
  frame: tuple[int, int]

  @classmethod
  def of(cls, images: jax.Array, frame: Sequence[int]) -> "Canvas":
    """The canvas of images `[B, H, W, C]` with a margin around a frame."""
    (_, *size, _), (height, width) = images.shape, frame
    return cls((size[0], size[1]), (height, width))


class _Pair(NamedTuple):
  """Features before and after a transform, and the warps between them."""

  before: jax.Array  # [B, h', w', F], those inside the frame
  after: jax.Array  # [B, h, w, F], of the whole canvas, 0 where not valid
  valid: jax.Array  # [h', w'], those of `before` that see no border
  readable: jax.Array  # [h, w], of `after`, with all that a warp reads there
  inverse: jax.Array  # T_s for s = h^-1, from `before` to `after`
  identity: jax.Array  # T_s for s = 1


@promotion.usual
def residual(
  features: Features,
  images: ArrayLike,
  matrix: ArrayLike,
  *,
  geometry: Geometry,
  margin: int = 0,
  method: str = "linear",
) -> jax.Array:
  """Residual of a transform after its inverse warps the features.

  That is, for the theorem's only candidate s = h^-1. It can be compiled and
  differentiated, for instance to train features towards invariance.

  Args:
    features: Function from images `[B, H, W, C]` to features `[B, h, w, F]`.
    images: `[B, H, W, C]`, floating.
    matrix: Matrix of T_h, `[2, 3]` or `[3, 3]`, see `ImageTransforms`.
    geometry: Geometry of the features in images with their margin.
    margin: Pixels by which the images are extended on every side.
    method: Interpolation of the warps, "linear" or "cubic".

  Returns:
    `[B]`; NaN if every feature depends on the border.

  Raises:
    ValueError: For unknown options, or features that are not `[B, h, w, F]`.

  Gradient: With respect to images, matrix, and all that `features` depends on;
    zero where the residual is zero.
  """
  checks.option("method", method, METHODS)
  images = checked_images(images, least=0)
  extended_images = extended(images, margin)
  matrix = checks.matrix("matrix", matrix)
  before, after = (
    checked_features("features", features(f), len(images))
    for f in (extended_images, transformed(extended_images, matrix, method))
  )
  canvas = Canvas.of(extended_images, images.shape[1:3])
  geometry = checked_geometry(geometry)
  pair = _pair(before, after, matrix, geometry, canvas, method)
  weight = _weight(pair, pair.inverse)
  warped = _warped(pair, pair.inverse, method)
  return relative_distance(warped, pair.before, weight)


@functools.partial(
  jax.jit, static_argnames=("geometry", "canvas", "method", "steps")
)
def measure(
  before: jax.Array,
  after: jax.Array,
  matrix: jax.Array,
  permutation: jax.Array | None = None,
  *,
  geometry: Geometry,
  canvas: Canvas,
  method: str,
  steps: int,
) -> Residuals:
  """All residuals of one layer under one transform.

  Args:
    before: `[B, h, w, F]`, features of the images with their margin.
    after: `[B, h, w, F]`, features of the transformed images.
    matrix: Matrix of the transform, see `ImageTransforms`.
    permutation: `[F]`, permutation of channels that is undone with every warp,
      see `orientations.Channels`; None for none.
    geometry: Geometry of the features.
    canvas: Sizes of the images.
    method: Interpolation of the warps, "linear" or "cubic".
    steps: Steps of the search for the best warp.

  Returns:
    Residuals, `[B]` each, and the coverage, a scalar.
  """
  pair = _pair(before, after, matrix, geometry, canvas, method)
  unaligned = relative_distance(
    _warped(pair, pair.identity, method),
    pair.before,
    _weight(pair, pair.identity),
  )
  if permutation is not None:
    pair = pair._replace(after=pair.after[..., permutation])
  weight = _weight(pair, pair.inverse)

  def residual_after(theta: jax.Array) -> jax.Array:
    return relative_distance(_warped(pair, theta, method), pair.before, weight)

  starts = search.starts(pair.inverse, pair.identity)
  best, theta = search.search(residual_after, starts, len(before), steps)
  inverse = transforms.to_homogeneous(pair.inverse)
  inverse = jnp.broadcast_to(inverse, theta.shape)
  warped = _warped(pair, jnp.stack([inverse, theta]), method)
  aligned = relative_distance(warped[0], pair.before, weight)
  mixed = jax.vmap(_mixed, (0, None, None))(warped, pair.before, weight)
  mixed = jnp.minimum(mixed.min(axis=0), best)  # unmixed is a mixing, too
  return Residuals(unaligned, aligned, best, mixed, weight.mean())


def relative_distance(
  features: jax.Array, target: jax.Array, weight: jax.Array
) -> jax.Array:
  """Root of the squared distance over the squared norm of the target.

  Args:
    features: `[..., B, h, w, F]`.
    target: `[B, h, w, F]`.
    weight: `[h, w]`, of each position.

  Returns:
    `[..., B]`; NaN where the target is 0 at all positions that count.

  Gradient: zero where the distance is zero.
  """
  weight = weight[..., None]
  distance = (weight * (features - target) ** 2).sum(axis=(-3, -2, -1))
  norm = (weight * target**2).sum(axis=(-3, -2, -1))
  ratio = distance / norm
  positive = ratio > 0
  root = jnp.sqrt(jnp.where(positive, ratio, 1))
  return jnp.where(
    positive | jnp.isnan(ratio), root * jnp.where(positive, 1, ratio), 0
  )


def _mixed(
  features: jax.Array, target: jax.Array, weight: jax.Array
) -> jax.Array:
  """Residuals after the best mixing of channels, `[B]`.

  Least squares over one half of the images, applied to the other half, and the
  other way round.
  """
  odd = jnp.arange(len(features)) % 2
  # In one batch: two eigendecompositions side by side may wait for each other
  # forever, where XLA has two threads.
  halves = jnp.stack([1 - odd, odd]).astype(weight.dtype)
  weights = halves[..., None, None] * weight
  changes = jax.vmap(best_mixing, (None, None, 0))(features, target, weights)
  change = changes[1 - odd]  # fitted to the half that an image is not in
  mixed = features + jnp.einsum("bhwc,bcd->bhwd", features, change)
  return relative_distance(mixed, target, weight)


def _pair(
  before: jax.Array,
  after: jax.Array,
  matrix: jax.Array,
  geometry: Geometry,
  canvas: Canvas,
  method: str,
) -> _Pair:
  """Relates features of images to those of the transformed images.

  Arguments as of `measure`.
  """
  shape = before.shape[1:3]
  rows, columns = _inside_frame(geometry, shape, canvas)
  whole, valid = _valid(matrix, geometry, shape, canvas, method, before.dtype)
  part = before[:, rows, columns]

  # From features in the frame to pixels, to pixels, to features.
  into = geometry.to_pixels((columns.start, rows.start))
  out_of = transforms.invert(geometry.to_pixels())
  moved = transforms.invert(pixels_about_centre(matrix, canvas.size))
  normalised = functools.partial(
    transforms.from_pixels, input_shape=shape, output_shape=part.shape[1:3]
  )
  return _Pair(
    part,
    after * valid[..., None],
    jnp.asarray(whole[rows, columns]),
    _readable(valid, method),
    normalised(transforms.compose(out_of, moved, into)),
    normalised(transforms.compose(out_of, into)),
  )


def _inside_frame(
  geometry: Geometry, shape: Sequence[int], canvas: Canvas
) -> list[slice]:
  """The rows and columns of the features whose centres are in the frame."""
  slices = []
  for along, centre in enumerate(geometry.centres(shape)):
    size, frame = canvas.size[along], canvas.frame[along]
    edge = (size - frame) / 2 - 0.5
    inside = np.flatnonzero((centre > edge) & (centre < size - 1 - edge))
    if not inside.size:
      raise ValueError("geometry puts no feature inside the image")
    slices.append(slice(int(inside[0]), int(inside[-1]) + 1))
  return slices


def _valid(
  matrix: jax.Array,
  geometry: Geometry,
  shape: Sequence[int],
  canvas: Canvas,
  method: str,
  dtype: np.dtype,
) -> tuple[np.ndarray, jax.Array]:
  """Features whose receptive field sees no border, `[h, w]` booleans each.

  Returns:
    Those of the images, and those of the transformed images.
  """
  inside = _readable(jnp.ones(canvas.size, bool), method).astype(dtype)
  inside = warp(inside[..., None], about_centre(matrix, canvas.size))[..., 0]
  fields = geometry.fields(canvas.size, shape)
  whole = np.logical_and.outer(*((f >= 0).all(axis=1) for f in fields))
  valid = inside >= _INSIDE
  for axis, field in enumerate(fields):
    valid = jnp.take(valid, field, axis).all(axis=axis + 1)
  return whole, valid & whole


def _readable(valid: jax.Array, method: str) -> jax.Array:
  """Positions around which all that a warp reads is valid.

  Args:
    valid: `[h, w]`.
    method: "cubic" reads one further on each side than "linear".
  """
  if method == "linear":
    return valid
  readable: jax.Array = lax.reduce_window(
    jnp.pad(valid, 1), True, lax.bitwise_and, (3, 3), (1, 1), "VALID"
  )
  return readable


def _weight(pair: _Pair, theta: jax.Array) -> jax.Array:
  """Features that are valid after a warp, `[h', w']`: 0 or 1."""
  readable = pair.readable.astype(pair.before.dtype)[..., None]
  reached = warp(readable, theta, output_shape=pair.valid.shape)[..., 0]
  return (pair.valid & (reached >= _INSIDE)).astype(pair.before.dtype)


def _warped(pair: _Pair, theta: jax.Array, method: str) -> jax.Array:
  """T_s G(T_h f) at the positions of `pair.before`."""
  return warp(
    pair.after, theta, output_shape=pair.before.shape[1:3], method=method
  )
