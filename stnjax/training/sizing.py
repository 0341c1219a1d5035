"""The width with which a network has a given number of parameters."""

from collections.abc import Callable
import math

TOLERANCE = 0.1
"""Largest relative difference from the number that is asked for."""

_START = 0.25
_FACTOR = 1.1  # of widths, until two are found around the target
_FINEST = 1.004  # factor between widths that count as equal
_WIDEST, _NARROWEST = 2.0**12, 2.0**-12


def fit_width(count: Callable[[float], int], target: int) -> float:
  """Chooses the width whose number of parameters is closest to a target.

  Numbers of filters are rounded, so that parameters grow with the width in
  steps: the widths around the step across the target are found by bisection,
  and the closer of both is taken.

  Args:
    count: Function from a width to the number of parameters, which does not
      fall as the width grows.
    target: Number of parameters.

  Returns:
    The width, the same for the same arguments.

  Raises:
    ValueError: If the closest number differs by more than `TOLERANCE`.
  """
  counts = {_START: count(_START)}

  def at(width: float) -> int:
    if width not in counts:
      counts[width] = count(width)
    return counts[width]

  # Weights of a convolution between layers grow with the square.
  guess = _START * math.sqrt(target / max(1, at(_START)))
  low = high = min(max(guess, _NARROWEST), _WIDEST)
  while at(low) > target and low > _NARROWEST:
    high, low = low, low / _FACTOR
  while at(high) <= target and high < _WIDEST:
    low, high = high, high * _FACTOR
  while high / low > _FINEST and at(low) <= target < at(high):
    middle = math.sqrt(low * high)
    low, high = (low, middle) if at(middle) > target else (middle, high)
  width = min(low, high, key=lambda width: abs(at(width) - target))
  if abs(at(width) - target) > TOLERANCE * target:
    raise ValueError(
      f"no width makes a network of {target:,} parameters within"
      f" {TOLERANCE:.0%}; the closest have {at(low):,} (width {low:.3g}) and"
      f" {at(high):,} (width {high:.3g})"
    )
  return width
