"""Comparisons of networks over the seeds of their runs."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from stnjax import placement

VERDICTS = HOLDS, FAILS, OPEN = "holds", "does not hold", "inconclusive"
LEAST_SEEDS = 3
"""Fewest seeds of a comparison that is evaluated."""


class Interval(NamedTuple):
  """Mean over seeds with its 95 % confidence interval, infinite for one seed.

  Attributes:
    mean: Mean over the seeds.
    low: Lower end of the interval.
    high: Upper end of the interval.
    seeds: Number of seeds; of a difference, that of the smaller side.
  """

  mean: float
  low: float
  high: float
  seeds: int

  def __str__(self):
    if self.seeds < 2:
      return f"{self.mean:.3g} (1 seed)"
    return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def interval(values: Sequence[float]) -> Interval:
  """Mean of values with Student's 95 % confidence interval."""
  values = np.asarray(values, np.float64)
  mean, count = float(values.mean()), len(values)
  if count < 2:
    return Interval(mean, -np.inf, np.inf, count)
  reach = stats.t.ppf(0.975, count - 1) * stats.sem(values)
  return Interval(mean, float(mean - reach), float(mean + reach), count)


def welch(left: Sequence[float], right: Sequence[float]) -> Interval:
  """Difference of two means, left - right, with Welch's 95 % interval."""
  gap = float(np.mean(left) - np.mean(right))
  count = min(len(left), len(right))
  if count < 2:
    return Interval(gap, -np.inf, np.inf, count)
  if not np.ptp(left) and not np.ptp(right):
    return Interval(gap, gap, gap, count)
  test = stats.ttest_ind(left, right, equal_var=False).confidence_interval()
  return Interval(gap, float(test.low), float(test.high), count)


def verdict(difference: Interval) -> str:
  """HOLDS if a difference is below 0, FAILS if above, OPEN if not known."""
  if difference.seeds < LEAST_SEEDS or not np.isfinite(difference.mean):
    return OPEN
  if difference.high < 0:
    return HOLDS
  return FAILS if difference.low > 0 else OPEN


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One test of a claim in one group.

  Attributes:
    group: Title of the group.
    statement: Inequality that the claim predicts.
    sides: Compared quantities, by network.
    difference: Left side minus right side or bound; below 0 if the claim
      holds.
    verdict: HOLDS, FAILS or OPEN.
  """

  group: str
  statement: str
  sides: Mapping[str, Interval]
  difference: Interval
  verdict: str

  @property
  def evaluated(self) -> bool:
    """Whether there are enough seeds."""
    return self.difference.seeds >= LEAST_SEEDS


@dataclasses.dataclass(frozen=True)
class GroupResults:
  """Results of runs that differ in network and seed alone.

  Attributes:
    title: Name of the group in tables.
    dataset: Name of the data set.
    perturbation: Name of the perturbation.
    family: Name of the transform family.
    results: By network, the results.json of every seed: a mapping with "error"
      in [0, 1] and, where poses are measured, "alignment".
  """

  title: str
  dataset: str
  perturbation: str
  family: str
  results: Mapping[str, Sequence[Mapping[str, Any]]]

  def num_seeds(self) -> int:
    """Largest number of seeds of a network."""
    return max(map(len, self.results.values()), default=0)

  def errors(self, network: str) -> list[float]:
    """Errors of a network in percent, one per seed."""
    return [100 * result["error"] for result in self.results[network]]

  def is_aligned(self, network: str) -> bool:
    """Whether the poses of a network are measured, for every seed."""
    return all(result.get("alignment") for result in self.results[network])

  def residual_shares(self, network: str) -> list[float]:
    """Residual pose of a network over that of the identity, one per seed.

    Mean over the axes: 0 is perfect alignment, 1 that of no transformer.
    """
    return [
      float(np.mean([a["std"] / a["none"] for a in r["alignment"].values()]))
      for r in self.results[network]
    ]

  def placements(self) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Prefix and depths of the placement of every network."""
    parsed = {name: placement.parse(name) for name in self.results}
    return {name: (p.prefix, tuple(p.depths)) for name, p in parsed.items()}

  def single(self, kind: str, aligned: bool = False) -> dict[int, str]:
    """Networks of a kind with one depth, by depth; or only the measured."""
    by_depth = {
      depths[0]: name
      for name, (k, depths) in self.placements().items()
      if k == kind and len(depths) == 1
      if not aligned or self.is_aligned(name)
    }
    return dict(sorted(by_depth.items()))

  def lower(
    self,
    quantity: Callable[[str], list[float]],
    words: str,
    left: str,
    right: str,
  ) -> Comparison:
    """Tests that a quantity of one network is lower than that of another."""
    difference = welch(quantity(left), quantity(right))
    return Comparison(
      self.title,
      f"{words} of {left} < {right}",
      {name: interval(quantity(name)) for name in (left, right)},
      difference,
      verdict(difference),
    )

  def lower_error(self, left: str, right: str) -> Comparison:
    """Tests that the error of one network is lower than that of another."""
    return self.lower(self.errors, "error", left, right)

  def bounded(self, network: str, bound: float) -> Comparison:
    """Tests that the residual share of a network is below a bound."""
    share = interval(self.residual_shares(network))
    difference = share._replace(
      mean=share.mean - bound, low=share.low - bound, high=share.high - bound
    )
    return Comparison(
      self.title,
      f"residual share of {network} < {bound:g}",
      {network: share},
      difference,
      verdict(difference),
    )
