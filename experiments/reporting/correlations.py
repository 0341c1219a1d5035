"""Rank correlations of measurements of the CNN with networks' results."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import NamedTuple

from matplotlib.figure import Figure
import numpy as np
from scipy import stats

from experiments.lib.tables import Table
from experiments.reporting.metrics import UNKNOWN
from experiments.reporting.page import Picture, Section
from stnjax import plots
from stnjax.paper.comparisons import GroupResults

LEAST_POINTS = 3
QUANTITIES = {
  "error": "error relative to the CNN (%)",
  "residual": "residual share (%)",
}
"""Labels of what is correlated with a predictor."""


class Predictor(NamedTuple):
  """A measurement of the layers of the CNN that may rank placements.

  Attributes:
    name: Short name, part of the names of files.
    key: Name in results of a mapping from families to a value per layer.
    kind: Placement whose depth is the layer; at depth 0, STN-C0.
    label: Label of the values, in percent.
    caption: Caption of the figure.
    explanation: What the values are.
  """

  name: str
  key: str
  kind: str
  label: str
  caption: str
  explanation: str


PREDICTORS = (
  Predictor(
    "audit",
    "undone",
    "STN-C",
    "undone by the audit (%)",
    "Error and residual share of each STN-CX against the percentage undone by"
    " the audit. Both fall with it if the audit predicts.",
    "Undone: percentage of the change by the perturbation that the best spatial"
    " warp of the features after block X of the plain CNN undoes (mean over all"
    " audited families if the perturbation is none of them). For the input"
    " (STN-C0), interpolation is the limit.",
  ),
  Predictor(
    "localisability",
    "read",
    "STN-SL",
    "R² of the pose read (%)",
    "Error and residual share of STN-C0 and each STN-SLX against the R² of the"
    " pose that is read from the layer in which it localises. Both fall with it"
    " if localisability predicts.",
    "R²: coefficient of determination, in percent, of the pose that a dense net"
    " reads from the features after block X of the plain CNN, mean over the"
    " axes of the perturbation; from the image for STN-C0.",
  ),
)
_CORRELATION = (
  "Spearman's rank correlation with the predictor, with the 95 %"
  " confidence interval of a bootstrap over the points; -1 is a perfect"
  " prediction. Pairs are networks within a group that the predictor ranks."
)
_RESAMPLES = 2000
_TIE = 0.01  # predictors that differ by less do not rank two networks


class Point(NamedTuple):
  """A network with a transformer, and a predictor of its layer.

  Attributes:
    group: Title of the group of runs.
    network: Name of the network.
    predictor: Value of the predictor at the network's layer, as a share; mean
      over the seeds of the CNN.
    error: Error of the network divided by that of the CNN; means over seeds.
    residual: Residual share of the network; NaN if it is not measured.
    seeds: Number of seeds of the network.
  """

  group: str
  network: str
  predictor: float
  error: float
  residual: float
  seeds: int


class Correlation(NamedTuple):
  """Spearman's rank correlation, and the ranking of pairs within a group.

  Attributes:
    rho: Rank correlation.
    low: Lower end of its 95 % confidence interval, by bootstrap over points.
    high: Upper end of the interval.
    points: Number of points.
    right: Number of pairs ranked as the predictor ranks them.
    pairs: Number of pairs of one group that the predictor ranks.
  """

  rho: float
  low: float
  high: float
  points: int
  right: int
  pairs: int

  def __str__(self):
    return (
      f"{self.rho:.2f} [{self.low:.2f}, {self.high:.2f}], {self.points} points;"
      f" {self.right} of {self.pairs} pairs within a group ranked correctly"
    )


def points(
  groups: Sequence[GroupResults], predictor: Predictor
) -> Iterator[Point]:
  """Yields a point for every network of a group with a measured CNN.

  Args:
    groups: Groups of results.
    predictor: One of `PREDICTORS`.
  """
  for group in groups:
    values = _by_layer(group, predictor)
    plain = group.single("STN-C").get(0)
    networks = {**({0: plain} if plain else {}), **group.single(predictor.kind)}
    for depth, name in networks.items():
      if depth >= len(values):
        continue
      shares = group.residual_shares(name) if group.is_aligned(name) else {}
      yield Point(
        group.title,
        name,
        float(values[depth]),
        _mean(group.errors(name)) / _mean(group.errors("CNN")),
        _mean(shares),
        len(group.results[name]),
      )


def _mean(by_seed: Mapping[int, float]) -> float:
  """The mean over the seeds; NaN for none."""
  return float(np.mean([*by_seed.values()])) if by_seed else np.nan


def _by_layer(group: GroupResults, predictor: Predictor) -> np.ndarray:
  """Values by layer, mean over the seeds of the CNN; may be empty.

  Of the perturbation's family, or of all families if it is not audited.
  """
  key = predictor.key
  profiles = [r[key] for r in group.results.get("CNN", {}).values() if key in r]
  shares = [
    [p[group.perturbation]] if group.perturbation in p else [*p.values()]
    for p in profiles
    if p
  ]
  # Of as many layers as the first: old results may have others.
  alike = [share for share in shares if len(share[0]) == len(shares[0][0])]
  if not alike:
    return np.empty(0)
  return np.mean([np.mean(share, axis=0) for share in alike], axis=0)


def correlate(
  found: Sequence[Point], quantity: str, seed: int = 0
) -> Correlation | None:
  """Correlates a quantity of the networks with the predictor.

  Args:
    found: Points.
    quantity: "error" or "residual"; a perfect prediction is -1 for both.
    seed: Seed of the bootstrap.

  Returns:
    The correlation; None for fewer than three points, or points that are all
    equal.
  """
  known = [
    p
    for p in found
    if np.isfinite(p.predictor) and np.isfinite(getattr(p, quantity))
  ]
  x = np.array([p.predictor for p in known])
  y = np.array([getattr(p, quantity) for p in known])
  if len(known) < LEAST_POINTS or not np.ptp(x) or not np.ptp(y):
    return None
  low, high = _bootstrap(x, y, seed)
  pairs = [
    (p.predictor - q.predictor) * (getattr(p, quantity) - getattr(q, quantity))
    < 0
    for p, q in itertools.combinations(known, 2)
    if p.group == q.group and abs(p.predictor - q.predictor) >= _TIE
  ]
  rho = stats.spearmanr(x, y).statistic
  return Correlation(
    float(rho), float(low), float(high), len(x), int(sum(pairs)), len(pairs)
  )


def correlate_all(found: Sequence[Point]) -> dict[str, Correlation]:
  """The correlations of all quantities that have one, see `correlate`."""
  every = {quantity: correlate(found, quantity) for quantity in QUANTITIES}
  return {quantity: value for quantity, value in every.items() if value}


def _bootstrap(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
  """95 % confidence interval of the rank correlation, over the points."""
  rng = np.random.default_rng(seed)
  count = len(x)
  chosen = np.stack([rng.integers(0, count, count) for _ in range(_RESAMPLES)])
  x, y = (stats.rankdata(values[chosen], axis=1) for values in (x, y))
  x, y = (ranks - (count + 1) / 2 for ranks in (x, y))
  scale = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
  known = scale > 0  # not for points that are all alike
  correlations = (x * y).sum(axis=1)[known] / scale[known]
  return np.quantile(correlations, [0.025, 0.975])


def table(found: Sequence[Point], predictor: Predictor) -> Table:
  """The points, one row each."""
  rows = [
    [
      p.group,
      p.network,
      f"{100 * p.predictor:.0f}",
      f"{100 * p.error:.0f}",
      f"{100 * p.residual:.0f}" if np.isfinite(p.residual) else UNKNOWN,
      str(p.seeds),
    ]
    for p in found
  ]
  labels = [predictor.label, *QUANTITIES.values()]
  heading = ["runs", "network", *labels, "seeds"]
  return Table(heading, rows)


def figure(found: Sequence[Point], predictor: Predictor) -> Figure:
  """The points, one panel per quantity and one colour per group."""
  by_group: dict[str, list[Point]] = {}
  for point in found:
    by_group.setdefault(point.group, []).append(point)
  panels = {
    label: {
      title: [
        (100 * p.predictor, 100 * getattr(p, quantity), p.network)
        for p in of_group
        if np.isfinite(getattr(p, quantity))
      ]
      for title, of_group in by_group.items()
    }
    for quantity, label in QUANTITIES.items()
  }
  return plots.labelled_points(predictor.label, panels)


def section(
  found: Sequence[Point],
  correlations: Mapping[str, Correlation],
  picture: Picture,
  predictor: Predictor,
) -> Section:
  """The points as a table and a picture, and their correlations.

  Args:
    found: Points.
    correlations: Correlations by quantity.
    picture: The written figure of the points.
    predictor: The predictor.

  Returns:
    The section.
  """
  lines = [f"{QUANTITIES[q]}: {value}." for q, value in correlations.items()]
  parts = [predictor.explanation, table(found, predictor), _CORRELATION]
  title = f"Does the {predictor.name} predict {predictor.kind}X?"
  return Section(title, [*parts, *lines, picture])
