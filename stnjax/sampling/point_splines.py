"""Thin-plate splines through pairs of points anywhere.

The weights of the kernels are orthogonal to affine functions. On that subspace
the matrix of the kernels is positive definite, so that a Cholesky factorisation
serves, and no offset of the points cancels in it. Gradients are those of the
linear system, whatever solved it.
"""

from collections.abc import Callable, Sequence
import functools
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, coordinates, promotion

_CHUNK = 2**22  # most pairs of a point and a control held at once
_ROUNDINGS = 16  # relative size, in roundings, below which a value vanishes


class ThinPlateSpline(NamedTuple):
  """A map of points, made by `fit_tps`; an array of maps with batch axes.

  Attributes:
    controls: `[..., K, N]`, source points about `centre`, over `scale`.
    centre: `[..., 1, N]`, a place in the units of the source points.
    scale: `[..., 1, 1]`, a length in the units of the source points.
    weights: `[..., K, N]`, weights of the kernels.
    affine: `[..., N + 1, N]`, the displacement's constant and slopes.
  """

  controls: jax.Array
  centre: jax.Array
  scale: jax.Array
  weights: jax.Array
  affine: jax.Array

  @promotion.usual
  def __call__(self, points: ArrayLike) -> jax.Array:
    """Maps points.

    Args:
      points: `[..., P, N]` in the units of the source points. Batch axes
        broadcast against those of the spline.

    Returns:
      `[..., P, N]` in the units of the target points, float32 or wider; NaN
      where a point is not finite or the spline is not determined. Largest
      errors in float32, over the extent of the controls, for random points
      without regularisation: 1e-6 for 10 controls, 3e-4 for 100, 1e-2 for 1000
      (1e-6, 3e-6, 7e-5 in volumes); in float64, 1e-10.

    Raises:
      ValueError: For a wrong shape, or batch axes that do not broadcast.
      TypeError: For complex or boolean points.

    Gradient: exact with respect to the points and all that the fit depends on;
      zero where NaN. In volumes, the kernel has a kink at its control point and
      contributes zero there.
    """
    num_axes = self.controls.shape[-1]
    points = checks.coordinates("points", points, num_axes)
    if points.ndim < 2:
      raise ValueError(
        f"points must be [..., P, {num_axes}], got shape {points.shape}"
      )
    checks.batch(
      "points", points.shape[:-2], "the spline", self.controls.shape[:-2]
    )
    kind = jnp.result_type(points, self.weights)
    result: jax.Array = _mapped(self, points.astype(kind))
    return result

  @promotion.usual
  def grid(
    self, output_shape: Sequence[int], *, align_corners: bool = False
  ) -> jax.Array:
    """The sampling grid of a spline of normalised points.

    Args:
      output_shape: Spatial shape of the grid, `(H, W)` or `(D, H, W)`.
      align_corners: Whether -1 and 1 are the centres of the corner pixels
        instead of their outer edges.

    Returns:
      `[..., *output_shape, N]`, for `grid_sample`: the spline at each pixel.

    Raises:
      ValueError: For a wrong number of sizes.
      TypeError: For sizes that are not static.
    """
    *batch, _, num_axes = self.controls.shape
    output_shape = checks.spatial_shape(
      "output_shape", output_shape, num_axes, owner="the spline"
    )
    lattice = coordinates.lattice(
      output_shape, align_corners=align_corners, dtype=self.controls.dtype
    )
    mapped = self(lattice.reshape(math.prod(output_shape), num_axes))
    return mapped.reshape(*batch, *output_shape, num_axes)


@promotion.usual
def fit_tps(
  source: ArrayLike, target: ArrayLike, *, regularisation: ArrayLike = 0.0
) -> ThinPlateSpline:
  """The thin-plate spline that takes `source` points to `target` points.

  Convention: **`target = spline(source)`**. A grid maps output to input, so the
  *source is the output*: `fit_tps(output_points, input_points)`, both
  normalised for `ThinPlateSpline.grid`, shows the image's `input_points` at
  `output_points`. `tps_grid` is for a lattice of source points.

  Args:
    source: `[..., K, N]` points (x, y) or (x, y, z), K at least N + 1.
    target: `[..., K, N]` points in the order of `source`. Batch axes broadcast.
    regularisation: Weight of the bending energy against the squared residuals,
      at least 0: a number, or `[..., K]` for a weight at each point. 0, the
      default, goes through all points; infinitely much is the affine fit.

  Returns:
    The spline, float32 or wider. It is NaN where the points do not determine
    it: collinear source points (coplanar ones in volumes), or, without
    regularisation, source points closer than about 1e-3 of their extent in
    float32 (equal ones in float64). Equal source and target points give the
    identity, exactly.

  Raises:
    ValueError: For a wrong shape, too few points, batch axes that do not
      broadcast, or a negative regularisation.
    TypeError: For complex or boolean points.

  Gradient: exact with respect to the points and the regularisation; zero where
    the result is NaN.

  Reference: Bookstein 1989, "Principal warps"; Wahba 1990, "Spline models for
    observational data". Values, kernel r^2 log r and regularisation are those
    of `scipy.interpolate.RBFInterpolator(kernel="thin_plate_spline",
    smoothing=..., degree=1)`; in volumes, with kernel -r, of
    `kernel="linear"`.

  >>> square = jnp.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
  >>> spline = fit_tps(square, square + 0.25)
  >>> spline(jnp.zeros((1, 2))).round(4).tolist()
  [[0.25, 0.25]]
  """
  source, target = (
    _checked(name, points)
    for name, points in (("source", source), ("target", target))
  )
  if source.shape[-2:] != target.shape[-2:]:
    raise ValueError(
      "source and target must hold the same number of points, of as many axes,"
      f" got shapes {source.shape} and {target.shape}"
    )
  checks.batch("source", source.shape[:-2], "target", target.shape[:-2])
  smoothing = _checked_smoothing(regularisation, source, target)
  kind = jnp.result_type(source, target, smoothing)
  batch = jnp.broadcast_shapes(
    source.shape[:-2], target.shape[:-2], smoothing.shape[:-1]
  )
  source, target = (
    jnp.broadcast_to(p, (*batch, *p.shape[-2:])).astype(kind)
    for p in (source, target)
  )
  smoothing = jnp.broadcast_to(smoothing, source.shape[:-1]).astype(kind)
  return ThinPlateSpline(*_fit(source, target, smoothing))


def _checked(name: str, points: ArrayLike) -> jax.Array:
  points = checks.floating(name, points)
  num_axes = points.shape[-1] if points.ndim else 0
  if points.ndim < 2 or num_axes not in (2, 3):
    raise ValueError(
      f"{name} must be [..., K, 2], or [..., K, 3] for volumes, got shape"
      f" {points.shape}"
    )
  if points.shape[-2] <= num_axes:
    raise ValueError(
      f"{name} must hold at least {num_axes + 1} points of {num_axes} axes, got"
      f" shape {points.shape}"
    )
  return points


def _checked_smoothing(
  regularisation: ArrayLike, source: jax.Array, target: jax.Array
) -> jax.Array:
  smoothing = checks.floating("regularisation", regularisation)
  if isinstance(regularisation, int | float) and not regularisation >= 0:
    raise ValueError(f"regularisation must be at least 0, got {regularisation}")
  count = source.shape[-2]
  if smoothing.ndim == 0:
    smoothing = smoothing[None]
  if smoothing.shape[-1] not in (1, count):
    raise ValueError(
      f"regularisation must be a number or [..., {count}], one per point, got"
      f" shape {smoothing.shape}"
    )
  batch = jnp.broadcast_shapes(source.shape[:-2], target.shape[:-2])
  checks.batch("regularisation", smoothing.shape[:-1], "the points", batch)
  return smoothing


# Compiled as a whole, so that a call outside `jit` is one dispatch.
@jax.jit
@functools.partial(
  jnp.vectorize, signature="(k,n),(k,n),(k)->(k,n),(i,n),(i,i),(k,n),(m,n)"
)
def _fit(
  source: jax.Array, target: jax.Array, smoothing: jax.Array
) -> tuple[jax.Array, ...]:
  """The parts of a spline, of points `[K, N]` and smoothing `[K]`."""
  count, num_axes = source.shape
  finite = jnp.isfinite(source).all() & jnp.isfinite(target).all()
  finite &= jnp.isfinite(smoothing).all()
  source, target = (jnp.where(finite, p, 0) for p in (source, target))
  # The spline does not depend on origin and unit of length, but rounding does.
  fixed = lax.stop_gradient(source)
  centre = fixed.mean(0, keepdims=True)
  size = jnp.abs(fixed - centre).max(keepdims=True)
  scale = jnp.where(size > 0, size, 1)
  controls = (source - centre) / scale
  power = 2 if num_axes == 2 else 1
  smoothing = jnp.where(finite, smoothing, 0) / scale[0] ** power
  matrix = _kernels(controls, controls) + jnp.diag(smoothing)
  functions = _with_one(controls)
  solve, determined = _solver(*lax.stop_gradient((matrix, functions)))

  def product(solution: jax.Array) -> jax.Array:
    weights, affine = solution[:count], solution[count:]
    upper = _product("kl,lm->km", matrix, weights)
    upper += _product("kn,nm->km", functions, affine)
    return jnp.concatenate([upper, _product("kn,km->nm", functions, weights)])

  # Of the displacement, so that equal points give the identity exactly.
  values = jnp.pad(target - source, ((0, num_axes + 1), (0, 0)))
  solution = lax.custom_linear_solve(
    product, values, lambda _, b: solve(b), symmetric=True
  )
  solution = jnp.where(finite & determined, solution, jnp.nan)
  return controls, centre, scale, solution[:count], solution[count:]


def _solver(
  matrix: jax.Array, functions: jax.Array
) -> tuple[Callable[[jax.Array], jax.Array], jax.Array]:
  """Solves for weights and affine part; whether these are determined."""
  count, terms = functions.shape
  basis, upper = jnp.linalg.qr(functions, mode="complete")
  spanning, others = basis[:, :terms], basis[:, terms:]
  inner = _product("kl,lj->kj", matrix, others)
  inner = _product("ki,kj->ij", others, inner)
  lower = jnp.linalg.cholesky(inner)
  eps = jnp.finfo(matrix.dtype).eps
  pivots, slopes = jnp.diag(lower), jnp.abs(jnp.diag(upper))
  # A vanishing pivot is the root of the rounding of what cancels, or NaN.
  least = jnp.sqrt(_ROUNDINGS * eps * jnp.abs(inner).max(initial=0))
  determined = jnp.isfinite(lower).all() & (pivots > least).all()
  determined &= (slopes > _ROUNDINGS * eps * slopes.max()).all()
  lower = jnp.where(
    determined, lower, jnp.eye(count - terms, dtype=lower.dtype)
  )
  upper = jnp.where(
    determined, upper[:terms], jnp.eye(terms, dtype=upper.dtype)
  )

  def solve(right: jax.Array) -> jax.Array:
    values, moments = right[:count], right[count:]
    part = lax.linalg.triangular_solve(
      upper, moments, left_side=True, lower=False, transpose_a=True
    )
    weights = _product("ki,im->km", spanning, part)
    rest = values - _product("kl,lm->km", matrix, weights)
    inside = _product("ki,km->im", others, rest)
    for transpose in (False, True):
      inside = lax.linalg.triangular_solve(
        lower, inside, left_side=True, lower=True, transpose_a=transpose
      )
    weights = weights + _product("ki,im->km", others, inside)
    rest = values - _product("kl,lm->km", matrix, weights)
    affine = lax.linalg.triangular_solve(
      upper, _product("ki,km->im", spanning, rest), left_side=True, lower=False
    )
    return jnp.concatenate([weights, affine])

  return solve, determined


def _kernels(points: jax.Array, controls: jax.Array) -> jax.Array:
  """The kernel of each pair, `[P, K]`; of r^2 log r, or -r in volumes."""
  apart = points[:, None] - controls
  squares = jnp.square(apart).sum(-1)
  safe = jnp.where(squares > 0, squares, 1)
  if points.shape[-1] == 2:
    return 0.5 * safe * jnp.log(safe)
  return jnp.where(squares > 0, -jnp.sqrt(safe), 0)


@jax.jit
def _mapped(spline: ThinPlateSpline, points: jax.Array) -> jax.Array:
  """The spline at points `[..., P, N]`; NaN where either is not finite."""
  parts = spline.weights, spline.affine
  determined = jnp.isfinite(parts[0]).all((-2, -1), keepdims=True)
  weights, affine = (jnp.where(determined, part, 0) for part in parts)
  known = jnp.isfinite(points).all(-1, keepdims=True)
  points = jnp.where(known, points, 0)
  scaled = (points - spline.centre) / spline.scale
  moved = _product("...pn,...nm->...pm", _with_one(scaled), affine)
  moved += jnp.vectorize(_sum_of_kernels, signature="(p,n),(k,n),(k,m)->(p,m)")(
    scaled, spline.controls, weights
  )
  return jnp.where(known & determined, points + moved, jnp.nan)


def _sum_of_kernels(
  points: jax.Array, controls: jax.Array, weights: jax.Array
) -> jax.Array:
  """The weighted kernels `[P, M]`, of so many points at a time."""

  def at_points(some: jax.Array) -> jax.Array:
    return _product("pk,km->pm", _kernels(some, controls), weights)

  count, chunk = len(points), max(1, _CHUNK // len(controls))
  if count <= chunk:
    return at_points(points)
  missing = -count % chunk
  chunks = jnp.pad(points, ((0, missing), (0, 0)))
  chunks = chunks.reshape(-1, chunk, points.shape[-1])
  # The gradient would otherwise keep all pairs.
  result: jax.Array = lax.map(jax.checkpoint(at_points), chunks)
  return result.reshape(-1, weights.shape[-1])[:count]


def _with_one(points: jax.Array) -> jax.Array:
  """The affine functions at points: 1 and the coordinates."""
  return jnp.concatenate([jnp.ones_like(points[..., :1]), points], -1)


def _product(signature: str, left: jax.Array, right: jax.Array) -> jax.Array:
  return jnp.einsum(signature, left, right, precision=lax.Precision.HIGHEST)
