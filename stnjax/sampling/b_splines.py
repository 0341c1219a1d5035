"""Cardinal B-splines: their weights between pixels, and their filter."""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import polynomial


def weights(order: int) -> Callable[[jax.Array], tuple[jax.Array, ...]]:
  """The weights of a B-spline as `Method.weights` has them.

  Args:
    order: Degree of the polynomials, at least 1.

  Returns:
    From the distance to the pixel at or before the place to the weights of
    `support(order)` pixels. Of an even order, one of them is 0: its B-spline
    is centred on the pixel that is nearest.
  """
  pieces = [piece.tolist() for piece in reversed(_pieces(order))]
  if order % 2:
    return lambda t: tuple(_value(piece, t) for piece in pieces)

  def even(t: jax.Array) -> tuple[jax.Array, ...]:
    near = t < 0.5  # to the pixel before
    place = jnp.where(near, t + 0.5, t - 0.5)
    values = [_value(piece, place) for piece in pieces]
    zero = jnp.zeros_like(place)
    before, after = [*values, zero], [zero, *values]
    return tuple(
      jnp.where(near, b, a) for b, a in zip(before, after, strict=True)
    )

  return even


def support(order: int) -> int:
  """Number of pixels along an axis around a place, an even number."""
  return order + 1 + (order % 2 == 0)


@functools.cache
def samples(order: int) -> np.ndarray:
  """The values of the B-spline at whole numbers, the middle one at 0."""
  start = 0.0 if order % 2 else 0.5
  values = [polynomial.polyval(start, piece) for piece in _pieces(order)]
  # The first piece of an odd order starts at the end of the support.
  return np.array(values[order % 2 :])


@functools.cache
def poles(order: int) -> tuple[float, ...]:
  """The poles inside the unit circle of the inverse of `samples`."""
  roots = np.roots(samples(order)).real
  return tuple(sorted(roots[np.abs(roots) < 1].tolist()))


@functools.cache
def beyond(order: int, fills: bool, count: int, reach: int) -> np.ndarray:
  """From the first coefficients to those before them, on a line of samples.

  Before the first, all samples are 0 or the first one. There, the coefficients
  are sums of powers of the poles and a constant, which three of them tell.

  Args:
    order: Degree of the polynomials, from 2 to 5.
    fills: Whether samples before the first are 0.
    count: Number of coefficients; all there are, or at least 3.
    reach: Number of coefficients before the first.

  Returns:
    `[reach, count]`, the nearest first.
  """
  far = reach + 60  # where nothing of the end of the line is left
  total = count + 2 * far
  line = np.eye(total, count, -far)
  if not fills:
    line[:far, 0] = line[far + count :, -1] = 1
  half = len(samples(order)) // 2
  band = sum(
    value * np.eye(total, k=offset)
    for offset, value in enumerate(samples(order), -half)
  )
  coefficients = np.linalg.solve(band, line)
  before = coefficients[far - reach : far][::-1]
  return before @ np.linalg.inv(coefficients[far : far + count])


@functools.cache
def _pieces(order: int) -> list[np.ndarray]:
  """The polynomials of the B-spline between its knots, in [0, 1) each."""
  if order == 0:
    return [np.ones(1)]
  lower = [np.zeros(1), *_pieces(order - 1), np.zeros(1)]
  pieces = []
  for knot in range(order + 1):  # by the recursion of Cox and de Boor
    rising = polynomial.polymul([knot, 1], lower[knot + 1])
    falling = polynomial.polymul([order + 1 - knot, -1], lower[knot])
    pieces.append(np.asarray(polynomial.polyadd(rising, falling)) / order)
  return pieces


def _value(piece: list[float], t: jax.Array) -> jax.Array:
  result = jnp.full_like(t, piece[-1])
  for coefficient in piece[-2::-1]:
    result = result * t + coefficient
  return result
