"""Comparisons of networks over the seeds of their runs, paired by seed."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import math
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from stnjax import placement

VERDICTS = HOLDS, FAILS, OPEN = "holds", "does not hold", "open"
LEAST_SEEDS = 3
"""Fewest paired seeds of a comparison that is evaluated."""
LEVEL = 0.05
"""Level of significance, two-sided, of all comparisons of a claim together."""
POWER = 0.8
"""Power for which `seeds_needed` counts seeds."""
MOST_SEEDS = 1000
"""Most seeds that `seeds_needed` counts."""
UNALIGNED = 0.95
"""Least residual share of a transformer that aligns no better than the
identity."""
_ROUNDING = 1e-12  # spread of equal differences, relative to them


class Interval(NamedTuple):
  """Mean over seeds with its 95 % confidence interval, infinite for one seed.

  Attributes:
    mean: Mean over the seeds.
    low: Lower end of the interval.
    high: Upper end of the interval.
    seeds: Number of seeds; of a difference, number of pairs.
  """

  mean: float
  low: float
  high: float
  seeds: int

  def __str__(self) -> str:
    if self.seeds < 2:
      return f"{self.mean:.3g} ({self.seeds} seed{'s' * (self.seeds != 1)})"
    return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


def interval(values: Sequence[float]) -> Interval:
  """Mean of values with Student's 95 % confidence interval."""
  values = np.asarray(values, np.float64)
  count = len(values)
  mean = float(values.mean()) if count else np.nan
  if count < 2:
    return Interval(mean, -np.inf, np.inf, count)
  reach = stats.t.ppf(1 - LEVEL / 2, count - 1) * stats.sem(values)
  return Interval(mean, float(mean - reach), float(mean + reach), count)


def p_value(differences: Sequence[float]) -> float:
  """Two-sided p-value of Student's t test that a mean difference is 0.

  Args:
    differences: One difference per seed.

  Returns:
    The p-value; NaN for fewer than two seeds or values that are not finite; 0
    or 1 for differences without spread.
  """
  values = np.asarray(differences, np.float64)
  if len(values) < 2 or not np.isfinite(values).all():
    return np.nan
  if np.ptp(values) <= _ROUNDING * np.abs(values).max():
    return float(values[0] == 0)
  return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
  """Adjusts p-values for multiple comparisons (Holm 1979).

  Args:
    p_values: One p-value per comparison.

  Returns:
    Adjusted p-values, in the same order, at most 1.
  """
  order = np.argsort(p_values, kind="stable")
  adjusted, largest = [0.0] * len(p_values), 0.0
  for rank, index in enumerate(order):
    largest = max(largest, (len(p_values) - rank) * float(p_values[index]))
    adjusted[index] = min(1.0, largest)
  return adjusted


def seeds_needed(
  differences: Sequence[float], level: float = LEVEL
) -> int | None:
  """Paired seeds with which a t test has the power `POWER`.

  For a true mean and standard deviation as those of the differences.

  Args:
    differences: One difference per seed.
    level: Level of significance, two-sided.

  Returns:
    The number of seeds; `MOST_SEEDS` + 1 if more are needed; None for fewer
    than two seeds, or values that are not finite.
  """
  values = np.asarray(differences, np.float64)
  if len(values) < 2 or not np.isfinite(values).all():
    return None
  spread = values.std(ddof=1)
  if not spread:
    return 2 if values[0] else MOST_SEEDS + 1
  effect = abs(values.mean()) / spread
  counts = np.arange(2, MOST_SEEDS + 1)
  critical = stats.t.ppf(1 - level / 2, counts - 1)
  centre = effect * np.sqrt(counts)
  power = stats.nct.sf(critical, counts - 1, centre)
  enough = np.flatnonzero(power >= POWER)
  return int(counts[enough[0]]) if enough.size else MOST_SEEDS + 1


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One test of a claim in one group.

  Attributes:
    group: Title of the group.
    statement: Inequality that the claim predicts.
    sides: Compared quantities, by network.
    differences: Left side minus right side or bound, one per paired seed; below
      0 if the claim holds.
    counts: Whether the verdict of the claim depends on it; not on a task that
      failed its gates.
    adjusted: p-value, adjusted for all comparisons of the claim; NaN before
      that, and for a comparison that is not evaluated.
  """

  group: str
  statement: str
  sides: Mapping[str, Interval]
  differences: tuple[float, ...]
  counts: bool = True
  adjusted: float = np.nan

  @property
  def difference(self) -> Interval:
    """Mean difference, with its unadjusted confidence interval."""
    return interval(self.differences)

  @property
  def evaluated(self) -> bool:
    """Whether there are enough seeds, and all values are finite."""
    return len(self.differences) >= LEAST_SEEDS and bool(
      np.isfinite(self.differences).all()
    )

  @property
  def verdict(self) -> str:
    """HOLDS or FAILS if the adjusted p-value is below `LEVEL`, else OPEN."""
    if not self.adjusted < LEVEL:
      return OPEN
    return HOLDS if np.mean(self.differences) < 0 else FAILS

  @property
  def needed(self) -> int | None:
    """Seeds that would decide an open comparison, see `seeds_needed`.

    At the level that the adjustment leaves to it: `LEVEL` times its p-value
    over the adjusted one.
    """
    if self.verdict != OPEN:
      return None
    level = LEVEL
    if self.adjusted > 0:
      level *= p_value(self.differences) / self.adjusted
    return seeds_needed(self.differences, level)


def adjust(comparisons: Sequence[Comparison]) -> list[Comparison]:
  """The comparisons of a claim with p-values adjusted by Holm's method.

  Args:
    comparisons: All comparisons of a claim; those that are not evaluated, or do
      not count, keep NaN.
  """
  tested = [c for c in comparisons if c.evaluated and c.counts]
  values = iter(holm([p_value(c.differences) for c in tested]))
  return [
    dataclasses.replace(c, adjusted=next(values))
    if c.evaluated and c.counts
    else c
    for c in comparisons
  ]


@dataclasses.dataclass(frozen=True)
class GroupResults:
  """Results of runs that differ in network and seed alone.

  Attributes:
    title: Name of the group in tables.
    dataset: Name of the data set.
    perturbation: Name of the perturbation.
    family: Name of the transform family.
    results: By network and seed, results.json: a mapping with "error" in
      [0, 1] and, where poses are measured, "alignment".
    gates: Whether the task passed its gates; None if they were not run.
    train_images: Number of training images; None for all.
    all_images: The group that differs in training images and epochs alone, and
      has all images; None if there is none, or several.
  """

  title: str
  dataset: str
  perturbation: str
  family: str
  results: Mapping[str, Mapping[int, Mapping[str, Any]]]
  gates: bool | None = None
  train_images: int | None = None
  all_images: "GroupResults | None" = None

  def num_seeds(self) -> int:
    """Largest number of seeds of a network."""
    return max(map(len, self.results.values()), default=0)

  def errors(self, network: str) -> dict[int, float]:
    """Errors of a network in percent, by seed."""
    return {s: 100 * r["error"] for s, r in self.results[network].items()}

  def is_aligned(self, network: str) -> bool:
    """Whether the poses of a network are measured, for every seed."""
    found = self.results[network].values()
    return all(result.get("alignment") for result in found)

  def residual_shares(self, network: str) -> dict[int, float]:
    """Residual pose of a network over that of the identity, by seed.

    Mean over the axes: 0 is perfect alignment, 1 that of no transformer.
    """
    return {
      seed: float(
        np.mean(
          [
            a["std"] / a["none"] if a["none"] else np.nan
            for a in result["alignment"].values()
          ]
        )
      )
      for seed, result in self.results[network].items()
    }

  def unaligned(self, network: str) -> int:
    """Number of seeds that align no better than the identity."""
    shares = self.residual_shares(network).values()
    return sum(not share < UNALIGNED for share in shares)

  def cost(self, network: str) -> float:
    """Floating-point operations per image; NaN if they were not counted."""
    found = self.results[network].values()
    return float(np.mean([r.get("operations") or np.nan for r in found]))

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
    statement: str,
    left: Mapping[int, float],
    right: Mapping[int, float],
    sides: tuple[str, str],
  ) -> Comparison:
    """Tests that a quantity is lower than another, seed by seed.

    Args:
      statement: Inequality in words.
      left: Values of the quantity that is claimed to be lower, by seed.
      right: Values of the other quantity, by seed.
      sides: Names of the two, for tables.
    """
    return Comparison(
      self.title,
      statement,
      {
        name: interval([*values.values()])
        for name, values in zip(sides, (left, right), strict=True)
      },
      tuple(left[s] - right[s] for s in sorted(left.keys() & right.keys())),
    )

  def lower_error(self, left: str, right: str) -> Comparison:
    """Tests that the error of one network is lower than that of another."""
    values = self.errors(left), self.errors(right)
    return self.lower(f"error of {left} < {right}", *values, (left, right))

  def lower_residual(self, left: str, right: str) -> Comparison:
    """Tests that the residual share of a network is lower than another's."""
    values = self.residual_shares(left), self.residual_shares(right)
    statement = f"residual share of {left} < {right}"
    return self.lower(statement, *values, (left, right))

  def bounded(self, network: str, bound: float) -> Comparison:
    """Tests that the residual share of a network is below a bound."""
    shares = self.residual_shares(network)
    return Comparison(
      self.title,
      f"residual share of {network} < {bound:g}",
      {network: interval([*shares.values()])},
      tuple(shares[seed] - bound for seed in sorted(shares)),
    )

  def best_on_other_seeds(
    self, networks: Sequence[str]
  ) -> tuple[dict[int, float], str]:
    """Error of the best of some networks, chosen without the seed it is of.

    For each seed, the network with the lowest mean error over the other seeds:
    choosing by the seeds that are compared would favour the larger choice.

    Args:
      networks: Networks to choose from, at least one.

    Returns:
      Errors in percent by seed, of the seeds that all networks have, and the
      network that is chosen most often.
    """
    errors = {name: self.errors(name) for name in networks}
    seeds = sorted(set.intersection(*(set(e) for e in errors.values())))
    best, chosen = {}, []
    for seed in seeds:
      others = [s for s in seeds if s != seed] or seeds
      name = min(
        networks,
        key=lambda n: float(np.mean([errors[n][s] for s in others])),
      )
      best[seed] = errors[name][seed]
      chosen.append(name)
    most = max(networks, key=chosen.count)
    return best, most

  def slopes(
    self,
    quantity: Callable[[str], Mapping[int, float]],
    by_depth: Mapping[int, str],
  ) -> dict[int, float]:
    """Slope of a quantity against the depth of the placement, by seed.

    Args:
      quantity: Function from a network to its values by seed.
      by_depth: Networks by depth, at least two.

    Returns:
      Slope of the least-squares line, in the quantity's unit per block, of the
      seeds that all networks have.
    """
    values = [quantity(name) for name in by_depth.values()]
    seeds = sorted(set.intersection(*(set(v) for v in values)))
    return {
      seed: _slope([*by_depth], [v[seed] for v in values]) for seed in seeds
    }


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
  """Slope of the least-squares line, whatever the version of LAPACK."""
  middle = math.fsum(x) / len(x)
  centred = [value - middle for value in x]
  product = math.fsum(a * b for a, b in zip(centred, y, strict=True))
  return product / math.fsum(a * a for a in centred)
