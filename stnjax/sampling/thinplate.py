"""Thin-plate splines through a lattice of controls, accurate in float32.

The spline is a sum of kernels whose weights cancel: with 32 x 32 controls the
terms are a thousand times larger than the sum. Only the host forms such sums,
in float64. For small results it makes one matrix from offsets to
displacements. For larger ones it splits the kernel into Gaussians, which
factor into one matrix per axis. Each group of widths gets the weights smoothed
to its width, so that what cancels is gone before anything is rounded.
"""

from collections.abc import Iterator, Sequence
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import coordinates

_DIRECT = 2**22  # most entries of one matrix from offsets to displacements
_WIDEST = {2: 1.0, 3: 2.0}  # width of the widest Gaussian, by number of axes
_SAME = 1e-9  # coordinates that are closer are equal


class _Part(NamedTuple):
  """A part of the linear map from offsets to displacements."""

  solution: np.ndarray  # [modes, controls]
  factors: tuple[np.ndarray, ...]  # per axis [terms, pixels, modes], or none


class _Terms(NamedTuple):
  """The kernel as `sum(heights * exp(-rates * distance**2))`, wide terms first.

  The difference is a function that is smooth at the scale of the widest term.
  """

  rates: np.ndarray
  heights: np.ndarray
  rest: float  # height at distance 0 of all terms that are narrower


def displacement(
  offsets: jax.Array, output_shape: Sequence[int], *, align_corners: bool
) -> jax.Array:
  """The displacement of each pixel, linear in the offsets.

  Args:
    offsets: `[..., *control_shape, N]`, float32 or wider, normalised, at a
      lattice of controls whose outermost points are at -1 and 1.
    output_shape: Spatial shape of the result, N sizes.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, N]`.
  """
  num_axes, dtype = offsets.shape[-1], offsets.dtype
  batch, shape = (
    offsets.shape[: -num_axes - 1],
    offsets.shape[-num_axes - 1 : -1],
  )
  key = (shape, tuple(output_shape), bool(align_corners))
  controls, pixels = (_points(axes) for axes in _axes(*key))
  values = offsets.reshape(math.prod(batch), len(controls), num_axes)
  # The affine part first, from the mean on: constants come back exactly.
  mean = values.mean(axis=1, keepdims=True)
  values = values - mean
  projection = (controls / np.square(controls).sum(axis=0)).astype(dtype)
  slopes = _product("kn,bkc->bnc", projection, values)
  values = values - _product("kn,bnc->bkc", controls.astype(dtype), slopes)
  result = _product("pn,bnc->bpc", pixels.astype(dtype), slopes)
  for part in _parts(*key, np.dtype(dtype).name):
    result = result + _apply(part, values).reshape(result.shape)
  return (result + mean).reshape(*batch, *output_shape, num_axes)


def _apply(part: _Part, values: jax.Array) -> jax.Array:
  """One part of the map, from `[B, controls, C]` to `[B, ..., C]`."""
  result = _product("mk,bkc->bmc", part.solution, values)
  if not part.factors:
    return result
  modes = [factor.shape[-1] for factor in part.factors]
  result = result.reshape(len(values), *modes, values.shape[-1])
  if len(modes) == 2:
    y, x = part.factors
    result = _product("rxq,bpqc->brpxc", x, result)
    return _product("ryp,brpxc->byxc", y, result)
  z, y, x = part.factors
  result = _product("rxq,bopqc->bropxc", x, result)
  result = _product("ryp,bropxc->broyxc", y, result)
  return _product("rzo,broyxc->bzyxc", z, result)


def _product(signature: str, left: ArrayLike, right: ArrayLike) -> jax.Array:
  return jnp.einsum(signature, left, right, precision=jax.lax.Precision.HIGHEST)


@functools.lru_cache(maxsize=8)
def _parts(
  control_shape: tuple[int, ...],
  output_shape: tuple[int, ...],
  align_corners: bool,
  dtype: str,
) -> tuple[_Part, ...]:
  """The parts of the map, each matrix rounded to `dtype` once."""
  controls, pixels = _axes(control_shape, output_shape, align_corners)
  solution = _solution(controls)
  if math.prod(control_shape) * math.prod(output_shape) <= _DIRECT:
    parts = [_Part(_basis(pixels, controls) @ solution, ())]
  else:
    # What is left out is multiplied by weights that are not small.
    eps = float(np.finfo(dtype).eps)
    parts = _split(solution, controls, pixels, eps * 1e-4)
  return tuple(
    _Part(p.solution.astype(dtype), tuple(f.astype(dtype) for f in p.factors))
    for p in parts
  )


def _split(
  solution: np.ndarray,
  controls: list[np.ndarray],
  pixels: list[np.ndarray],
  tolerance: float,
) -> Iterator[_Part]:
  """The map by widths of the Gaussians that make up the kernel."""
  num_axes, count = len(controls), math.prod(map(len, controls))
  sides = [_distances(p, c) for p, c in zip(pixels, controls)]
  nearest = min(side[side > 0].min(initial=1.0) for side in sides)
  spacing = min(control[1] - control[0] for control in controls)
  terms, wide, octave = _terms(num_axes, spacing, nearest, tolerance)
  weights = solution[:count] * (1.0 if num_axes == 2 else -1.0)
  # Within the spacing of the controls the weights do not cancel.
  narrow = _Terms(terms.rates[wide:], terms.heights[wide:], terms.rest)
  yield _Part(weights, tuple(_factor(narrow, side, num_axes) for side in sides))
  for stop in range(wide, 0, -octave):
    group = slice(max(0, stop - octave), stop)
    chosen = _Terms(terms.rates[group], terms.heights[group], 0.0)
    smoothing, factors = zip(
      *(_compress(_factor(chosen, s, num_axes), tolerance) for s in sides)
    )
    yield _Part(functools.reduce(np.kron, smoothing) @ weights, factors)
  # What is left is smooth: known everywhere from few places.
  bandwidth = 2 * math.sqrt(-math.log(tolerance)) / _WIDEST[num_axes]
  nodes = _chebyshev(math.ceil(bandwidth + 4 * bandwidth ** (1 / 3) + 4))
  sides = [_distances(nodes, control) for control in controls]
  terms, *_ = _terms(num_axes, spacing, _SAME, tolerance)
  taken = _sum_of_terms([_factor(terms, side, num_axes) for side in sides])
  left = _basis([nodes] * num_axes, controls) @ solution - taken @ weights
  yield _Part(left, tuple(_interpolation(p, nodes)[None] for p in pixels))


def _terms(
  num_axes: int, spacing: float, nearest: float, tolerance: float
) -> tuple[_Terms, int, int]:
  """The terms, the number wider than `spacing`, and the number per octave.

  Up to sign and a smooth function, the kernel is the integral of
  exp(-t * distance**2) / t**power over log(t), for which the trapezoidal rule
  converges exponentially.
  """
  decay = -math.log(tolerance)
  step = math.pi**2 / decay
  power, scale = (1.0, 1.0) if num_axes == 2 else (0.5, 0.5 / math.pi**0.5)
  wide = max(0, math.ceil(2 * math.log(_WIDEST[num_axes] / spacing) / step))
  # The narrowest is gone at the distance of the nearest pixel.
  last = math.ceil(math.log(decay * (spacing / nearest) ** 2) / step)
  last = max(1, last)
  rates = np.exp(step * np.arange(-wide, last + 1)) / spacing**2
  heights = scale * step * rates**-power
  rest = heights[-1] / (1 - math.exp(-step * power))
  octave = max(1, round(2 * math.log(2) / step))
  return _Terms(rates[:-1], heights[:-1], rest), wide, octave


def _factor(terms: _Terms, side: np.ndarray, num_axes: int) -> np.ndarray:
  """Factors of one axis in each term, `[terms, *side.shape]`."""
  rates, heights = terms.rates[:, None, None], terms.heights[:, None, None]
  factor: np.ndarray = heights ** (1 / num_axes) * np.exp(-rates * side**2)
  if not terms.rest:
    return factor
  same = terms.rest ** (1 / num_axes) * (side == 0)
  return np.concatenate([factor, same[None]])


def _sum_of_terms(factors: Sequence[np.ndarray]) -> np.ndarray:
  """The sum of Kronecker products, `[P, K]`, of factors `[terms, p, k]`."""
  *others, last = factors
  left = others[0]
  for factor in others[1:]:
    left = left[:, :, None, :, None] * factor[:, None, :, None, :]
    left = left.reshape(len(left), left.shape[1] * left.shape[2], -1)
  total = np.tensordot(left, last, (0, 0)).swapaxes(1, 2)
  return total.reshape(total.shape[0] * total.shape[1], -1)


def _compress(
  factor: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
  """Matrices `[modes, K]` and `[terms, P, modes]` whose product is a factor."""
  terms, points, controls = factor.shape
  left, values, right = np.linalg.svd(
    factor.reshape(terms * points, controls), full_matrices=False
  )
  kept = values > tolerance * values[0]
  left = left[:, kept].reshape(terms, points, -1)
  return values[kept, None] * right[kept], left


def _axes(
  control_shape: Sequence[int], output_shape: Sequence[int], align_corners: bool
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Places along each axis, in array order, of the controls and the pixels."""
  controls = [np.linspace(-1, 1, size) for size in control_shape]
  pixels = [
    (np.arange(size) - (size - 1) / 2)
    / (coordinates.half_extent(size, align_corners) or 1.0)
    for size in output_shape
  ]
  return controls, pixels


def _points(axes: Sequence[np.ndarray]) -> np.ndarray:
  """The lattice of some axes, `[P, N]`, last axis (x, y) or (x, y, z)."""
  lattice = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
  return lattice.reshape(-1, len(axes))


def _distances(points: np.ndarray, controls: np.ndarray) -> np.ndarray:
  apart = np.abs(points[:, None] - controls)
  return np.where(apart < _SAME, 0.0, apart)


def _basis(
  axes: Sequence[np.ndarray], controls: Sequence[np.ndarray]
) -> np.ndarray:
  """Values `[P, K + N + 1]` on a lattice: the kernels, 1, the coordinates."""
  squares = np.zeros((1, 1))
  for axis, control in zip(axes, controls):
    side = _distances(axis, control) ** 2
    squares = squares[:, None, :, None] + side[:, None]
    squares = squares.reshape(squares.shape[0] * squares.shape[1], -1)
  safe = np.where(squares > 0, squares, 1)
  kernel = safe * np.log(safe) if len(axes) == 2 else np.sqrt(safe)
  points = _points(axes)
  return np.concatenate(
    [np.where(squares > 0, kernel, 0), np.ones_like(points[:, :1]), points],
    axis=-1,
  )


def _solution(controls: Sequence[np.ndarray]) -> np.ndarray:
  """From values at the controls to weights of the basis, `[K + N + 1, K]`."""
  basis = _basis(controls, controls)
  count, total = basis.shape
  system = np.zeros((total, total))
  system[:count] = basis
  system[count:, :count] = basis[:, count:].T
  return np.linalg.inv(system)[:, :count]


def _chebyshev(count: int) -> np.ndarray:
  return np.cos(np.pi * (np.arange(count) + 0.5) / count)


def _interpolation(points: np.ndarray, nodes: np.ndarray) -> np.ndarray:
  """Polynomial interpolation from Chebyshev nodes, `[points, nodes]`."""
  places = np.arange(len(nodes))
  sines = np.sin(np.pi * (places + 0.5) / len(nodes))
  apart = points[:, None] - nodes
  same = np.abs(apart) < 1e-14
  weights = (-1.0) ** places * sines / np.where(same, 1, apart)
  weights = np.where(same.any(axis=1, keepdims=True), same, weights)
  result: np.ndarray = weights / weights.sum(axis=1, keepdims=True)
  return result
