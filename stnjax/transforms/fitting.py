"""Transforms fitted to pairs of points by least squares."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, promotion
from stnjax.transforms.optima import ROUNDINGS, closest_rotation, null_vector


@promotion.usual
def from_points(
  source: ArrayLike,
  target: ArrayLike,
  family: str,
  *,
  weights: ArrayLike | None = None,
) -> jax.Array:
  """The matrix of a family that takes `source` points closest to `target`.

  Convention: **`target = matrix @ source`**, in the units of the points. A
  matrix for `warp` maps output to input, so the *source is the output*::

    # Normalised points.
    from_points(output_points, input_points, family)
    # Points in pixels.
    from_pixels(from_points(output_points, input_points, family),
                input_shape, output_shape)
    # Points in pixels, from the input to the output as OpenCV counts.
    from_opencv(from_points(input_points, output_points, family),
                input_shape, output_shape)

  Fit "rigid" and "similarity" in pixels: normalised coordinates are isotropic
  only for square images and cubic volumes.

  Args:
    source: `[..., K, N]` points (x, y) or (x, y, z), N = 2 or 3.
    target: `[..., K, N]` points in the order of `source`. Batch axes broadcast.
    family: "rigid" (rotation and translation), "similarity" (and one scale),
      "affine", or "projective". The first two have no reflections.
    weights: `[..., K]` weights of the squared residuals, at least 0; all 1 by
      default. A point of weight 0 is ignored, even if it is NaN.

  Returns:
    `[..., N, N + 1]`, float32 or wider; `[..., N + 1, N + 1]` for "projective",
    whose last entry is 1 unless it vanishes. NaN in all entries where the
    points do not determine the transform: coincident points, collinear ones for
    "affine" and in volumes, three of four collinear in both sets for
    "projective"; three of four collinear in one set give a singular matrix.

  Raises:
    ValueError: For an unknown family, a wrong shape, too few points.
    TypeError: For complex or boolean points or weights.

  Gradient: exact with respect to points and weights, also where singular
    values coincide; zero where the result is NaN. It grows without bound as
    points approach an undetermined set.

  Reference: Umeyama 1991 for "rigid" and "similarity"; Hartley 1997, "In
    defense of the eight-point algorithm", for "projective": the algebraic
    error of normalised points, as in scikit-image.
    `cv2.findHomography(method=0)` refines the geometric error; both are equal
    for points without noise.

  >>> square = jnp.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
  >>> from_points(square, 2 * square + 1, "affine").round(3).tolist()
  [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]
  """
  source = _checked_points("source", source)
  num_axes = source.shape[-1]
  target = _checked_points("target", target)
  checks.option("family", family, _FITS)
  least = _FITS[family].least(num_axes)
  if source.shape[-2:] != target.shape[-2:]:
    raise ValueError(
      "source and target must hold the same number of points, of as many axes,"
      f" got shapes {source.shape} and {target.shape}"
    )
  if source.shape[-2] < least:
    raise ValueError(
      f"family={family!r} needs at least {least} points of {num_axes} axes,"
      f" got source of shape {source.shape}"
    )
  checks.batch("source", source.shape[:-2], "target", target.shape[:-2])
  weights = _checked_weights(weights, source, target)
  kind = jnp.result_type(source, target, weights)
  batch = jnp.broadcast_shapes(
    source.shape[:-2], target.shape[:-2], weights.shape[:-1]
  )
  # A point that is ignored may be missing.
  used = weights[..., None] > 0
  source, target = (
    jnp.broadcast_to(
      jnp.where(used | jnp.isfinite(p), p, 0), (*batch, *p.shape[-2:])
    )
    for p in (source, target)
  )
  weights = jnp.broadcast_to(weights, (*batch, weights.shape[-1]))
  return _FITS[family].fit(
    *(array.astype(kind) for array in (source, target, weights))
  )


class _Set(NamedTuple):
  """Points about their weighted mean."""

  centred: jax.Array  # [..., K, N]; all 0 where the points coincide
  mean: jax.Array  # [..., N]
  square: jax.Array  # [...], weighted mean of the squared distance to the mean


def _about_mean(points: jax.Array, weights: jax.Array) -> _Set:
  """Points about their mean, for weights that sum to 1 or are all 0."""
  mean = (weights[..., None] * points).sum(-2)
  centred = points - mean[..., None, :]
  size, largest = (
    jnp.where(weights[..., None] > 0, jnp.abs(p), 0).max(
      (-2, -1), keepdims=True
    )
    for p in (centred, points)
  )
  distinct = size > ROUNDINGS * jnp.finfo(points.dtype).eps * largest
  centred = jnp.where(distinct, centred, 0)
  square = (weights[..., None] * centred * centred).sum((-2, -1))
  return _Set(centred, mean, square)


def _normalised_weights(weights: jax.Array) -> jax.Array:
  total = weights.sum(-1, keepdims=True)
  return weights / jnp.where(total > 0, total, 1)


def _with_offset(
  linear: jax.Array, source: _Set, target: _Set, determined: jax.Array
) -> jax.Array:
  """Appends the translation between the means; NaN where undetermined."""
  offset = target.mean - (linear * source.mean[..., None, :]).sum(-1)
  matrix = jnp.concatenate([linear, offset[..., None]], axis=-1)
  return jnp.where(determined[..., None, None], matrix, jnp.nan)


def _affine(
  source: jax.Array, target: jax.Array, weights: jax.Array
) -> jax.Array:
  weights = _normalised_weights(weights)
  before, after = _about_mean(source, weights), _about_mean(target, weights)
  linear, determined = _least_squares(before.centred, after.centred, weights)
  return _with_offset(linear, before, after, determined)


def _least_squares(
  x: jax.Array, y: jax.Array, weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """The `[..., M, N]` with `y = matrix @ x`, and whether it is determined.

  By modified Gram-Schmidt, whose error grows with the condition of the points
  instead of its square. Products are weighted, as the square root of a weight
  of 0 has no gradient.
  """
  columns = list(jnp.moveaxis(x, -1, 0))  # N of [..., K]
  sizes = [(weights * c * c).sum(-1) for c in columns]
  least = (ROUNDINGS * jnp.finfo(x.dtype).eps) ** 2
  upper: dict[tuple[int, int], jax.Array] = {}
  right, determined = [], jnp.ones(x.shape[:-2], bool)
  for i, size in enumerate(sizes):
    square = (weights * columns[i] * columns[i]).sum(-1)
    regular = square > least * size
    determined &= regular
    upper[i, i] = jnp.sqrt(jnp.where(regular, square, 1))
    unit = columns[i] / upper[i, i][..., None]
    for j in range(i + 1, len(columns)):
      upper[i, j] = (weights * unit * columns[j]).sum(-1)
      columns[j] = columns[j] - upper[i, j][..., None] * unit
    right.append(((weights * unit)[..., None] * y).sum(-2))  # [..., M]
    y = y - unit[..., None] * right[i][..., None, :]
  solution: list[jax.Array] = []  # columns of the matrix, last first
  for i in reversed(range(len(columns))):
    rest = right[i]
    for j, column in zip(reversed(range(i + 1, len(columns))), solution):
      rest = rest - upper[i, j][..., None] * column
    solution.append(rest / upper[i, i][..., None])
  return jnp.stack(solution[::-1], axis=-1), determined


def _similarity(
  source: jax.Array, target: jax.Array, weights: jax.Array
) -> jax.Array:
  weights = _normalised_weights(weights)
  before, after = _about_mean(source, weights), _about_mean(target, weights)
  turn, determined = _rotation(before, after, weights, scaled=True)
  return _with_offset(turn, before, after, determined)


def _rigid(
  source: jax.Array, target: jax.Array, weights: jax.Array
) -> jax.Array:
  weights = _normalised_weights(weights)
  before, after = _about_mean(source, weights), _about_mean(target, weights)
  turn, determined = _rotation(before, after, weights, scaled=False)
  return _with_offset(turn, before, after, determined)


def _rotation(
  source: _Set, target: _Set, weights: jax.Array, *, scaled: bool
) -> tuple[jax.Array, jax.Array]:
  """The closest rotation, times the best scale if `scaled`."""
  moments = jnp.einsum(
    "...k,...kn,...km->...nm",
    weights,
    target.centred,
    source.centred,
    precision=jax.lax.Precision.HIGHEST,
  )
  some = source.square > 0
  square = jnp.where(some, source.square, 1)
  if moments.shape[-1] == 2:
    cos = moments[..., 0, 0] + moments[..., 1, 1]
    sin = moments[..., 1, 0] - moments[..., 0, 1]
    determined, length = some, square
    if not scaled:
      length = cos * cos + sin * sin
      least = (ROUNDINGS * jnp.finfo(cos.dtype).eps) ** 2
      determined = length > least * source.square * target.square
      length = jnp.sqrt(jnp.where(determined, length, 1))
    cos, sin = cos / length, sin / length
    rows = [jnp.stack([cos, -sin], -1), jnp.stack([sin, cos], -1)]
    return jnp.stack(rows, -2), determined
  turn = closest_rotation(moments)
  determined = some & jnp.isfinite(turn).all((-2, -1))
  turn = jnp.where(determined[..., None, None], turn, 0)
  if scaled:
    scale = (turn * moments).sum((-2, -1)) / square
    turn = scale[..., None, None] * turn
  return turn, determined


def _projective(
  source: jax.Array, target: jax.Array, weights: jax.Array
) -> jax.Array:
  """The homography of least algebraic error between normalised points."""
  weights = _normalised_weights(weights)
  sets = [_about_mean(p, weights) for p in (source, target)]
  num_axes = source.shape[-1]
  some = (sets[0].square > 0) & (sets[1].square > 0)
  factors = [
    jnp.sqrt(num_axes / jnp.where(some, s.square, 1))[..., None] for s in sets
  ]
  x, y = (s.centred * f[..., None] for s, f in zip(sets, factors, strict=True))
  x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], -1)
  # One equation per axis of a point: y (last row @ x) - (row @ x) = 0.
  blocks = [
    jnp.concatenate(
      [-x if row == axis else jnp.zeros_like(x) for row in range(num_axes)]
      + [y[..., axis, None] * x],
      -1,
    )
    for axis in range(num_axes)
  ]
  vector = null_vector(
    jnp.concatenate(blocks, -2), jnp.concatenate([weights] * num_axes, -1)
  )
  determined = some & jnp.isfinite(vector).all(-1)
  vector = jnp.where(determined[..., None], vector, 0)
  unit = vector.reshape(*vector.shape[:-1], num_axes + 1, num_axes + 1)
  # Between the points as given: (mean, 1 / factor) @ unit @ (factor, -mean).
  linear = unit[..., :-1] * factors[0][..., None]
  terms = linear * sets[0].mean[..., None, :]
  last = unit[..., -1] - terms.sum(-1)
  size = jnp.abs(unit[..., -1, -1]) + jnp.abs(terms[..., -1, :]).sum(-1)
  matrix = jnp.concatenate([linear, last[..., None]], -1)
  top = matrix[..., :-1, :] / factors[1][..., None]
  top = top + sets[1].mean[..., None] * matrix[..., -1:, :]
  matrix = jnp.concatenate([top, matrix[..., -1:, :]], -2)
  corner = matrix[..., -1, -1]
  usable = jnp.abs(corner) > ROUNDINGS * jnp.finfo(x.dtype).eps * size
  size = jnp.where(usable, corner, jax.lax.stop_gradient(size))
  size = jnp.where(determined & (size != 0), size, 1)
  return jnp.where(
    determined[..., None, None], matrix / size[..., None, None], jnp.nan
  )


class _Kind(NamedTuple):
  fit: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
  least: Callable[[int], int]  # from the axes to the number of points needed


_FITS = {
  "rigid": _Kind(_rigid, lambda num_axes: num_axes),
  "similarity": _Kind(_similarity, lambda num_axes: num_axes),
  "affine": _Kind(_affine, lambda num_axes: num_axes + 1),
  "projective": _Kind(_projective, lambda num_axes: num_axes + 2),
}


def _checked_points(name: str, points: ArrayLike) -> jax.Array:
  points = checks.floating(name, points)
  if points.ndim < 2 or points.shape[-1] not in (2, 3):
    raise ValueError(
      f"{name} must be [..., K, 2] or [..., K, 3], got shape {points.shape}"
    )
  return points


def _checked_weights(
  weights: ArrayLike | None, source: jax.Array, target: jax.Array
) -> jax.Array:
  count = source.shape[-2]
  if weights is None:
    return jnp.ones(count, source.dtype)
  weights = checks.floating("weights", weights)
  if weights.ndim < 1 or weights.shape[-1] != count:
    raise ValueError(
      f"weights must be [..., {count}], one per point, got shape"
      f" {weights.shape}"
    )
  for name, points in (("source", source), ("target", target)):
    checks.batch("weights", weights.shape[:-1], name, points.shape[:-2])
  return weights
