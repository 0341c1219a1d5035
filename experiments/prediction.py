"""Does the audit of a plain CNN tell where a transformer may sit?

  python -m experiments.audit --workdir=runs
  python -m experiments.prediction --workdir=runs
  python -m experiments.prediction --workdir=experiments/results

compares what a warp of the features behind block X of the CNN could undo, see
`stnjax.alignability`, with what STN-CX, which warps those features, came to:
its error against the CNN's, and how much of the perturbation it leaves. It
reads runs as `experiments.claims` does, and writes prediction.md, .json and
.png to the workdir.
"""

from collections.abc import Iterator, Sequence
import itertools
from typing import NamedTuple

from absl import flags
import numpy as np
from scipy import stats

from experiments import claims, report
from experiments.lib import cli
from stnjax import alignability, files, plots
from stnjax.training import runs

_TITLE = "Does the audit predict?"
_LEAST = 3
_RESAMPLES = 2000
_TIE = 0.01  # shares that are less apart are not told apart


class Point(NamedTuple):
  """One network that warps features, against the audit of its CNN.

  Attributes:
    where: the data that the runs share.
    network: STN-CX.
    undone: share of the transform that warps of layer X undo, by the audit;
      mean over the seeds of the CNN.
    error: of the network, divided by the CNN's; means over seeds.
    left: share of the perturbation that the network leaves; NaN where that is
      not known.
    seeds: of the network.
  """

  where: str
  network: str
  undone: float
  error: float
  left: float
  seeds: int


class Correlation(NamedTuple):
  """Spearman's rank correlation, and how pairs of one data set are ranked."""

  rho: float
  low: float  # of the 95 % confidence interval, by bootstrap over the points
  high: float
  points: int
  right: int  # pairs
  pairs: int

  def __str__(self):
    return (
      f"{self.rho:.2f} [{self.low:.2f}, {self.high:.2f}], {self.points} points;"
      f" {self.right} of {self.pairs} pairs of one data set ranked alike"
    )


def points(groups: Sequence[claims.Group]) -> Iterator[Point]:
  """A point for every STN-CX beside a CNN that was audited."""
  for group in groups:
    cnn = group.members.get("CNN", ())
    profiles = [run.results.get("undone") for run in cnn]
    perturbation = group.settings.perturbation
    known = perturbation in alignability.FAMILIES
    shares = [
      [profile[name] for name in ([perturbation] if known else profile)]
      for profile in profiles
      if profile and (not known or perturbation in profile)
    ]
    # Audits of as many layers as the first: old results may have others.
    alike = [share for share in shares if len(share[0]) == len(shares[0][0])]
    if not alike:
      continue
    undone = np.mean([np.mean(share, axis=0) for share in alike], axis=0)
    error = np.mean(group.error("CNN"))
    for depth, name in sorted(group.single("C").items()):
      if depth >= len(undone):
        continue
      yield Point(
        group.where,
        name,
        float(undone[depth]),
        float(np.mean(group.error(name)) / error),
        float(np.mean(group.left(name))) if known else np.nan,
        len(group.members[name]),
      )


def correlate(
  found: Sequence[Point], quantity: str, seed: int = 0
) -> Correlation | None:
  """Ranks a quantity of the networks against what is undone.

  Args:
    found: the points.
    quantity: "error" or "left"; both should fall with what is undone.
    seed: of the bootstrap.

  Returns:
    None for fewer than three points, or points that are all alike.
  """
  known = [
    p
    for p in found
    if np.isfinite(p.undone) and np.isfinite(getattr(p, quantity))
  ]
  x = np.array([p.undone for p in known])
  y = np.array([getattr(p, quantity) for p in known])
  if len(known) < _LEAST or not np.ptp(x) or not np.ptp(y):
    return None
  rng = np.random.default_rng(seed)
  resampled = []
  for _ in range(_RESAMPLES):
    chosen = rng.integers(0, len(x), len(x))
    if np.ptp(x[chosen]) and np.ptp(y[chosen]):
      resampled.append(stats.spearmanr(x[chosen], y[chosen]).statistic)
  low, high = np.quantile(resampled, [0.025, 0.975])
  pairs = [
    (p.undone - q.undone) * (getattr(p, quantity) - getattr(q, quantity)) < 0
    for p, q in itertools.combinations(known, 2)
    if p.where == q.where and abs(p.undone - q.undone) >= _TIE
  ]
  rho = stats.spearmanr(x, y).statistic
  return Correlation(
    float(rho), float(low), float(high), len(x), int(sum(pairs)), len(pairs)
  )


def write(workdir: str) -> dict[str, Correlation]:
  """Writes prediction.md, .json and .png, and returns the correlations.

  Raises:
    RunError: where there are too few runs, or they cannot be read.
  """
  groups, left = claims.read(workdir)
  found = list(points(groups))
  correlations = {
    quantity: correlation
    for quantity in ("error", "left")
    if (correlation := correlate(found, quantity))
  }
  if not correlations:
    raise runs.RunError(
      f"{len(found)} networks that warp features have a CNN that was audited,"
      f" of at least {_LEAST}; see experiments.audit"
    )
  root = files.place("workdir", workdir)
  picture = root / "prediction.png"
  labels = {
    "error": "error, of the CNN's (%)",
    "left": "left of the perturbation (%)",
  }
  panels = {
    label: {
      where: [
        (100 * p.undone, 100 * getattr(p, quantity), p.network)
        for p in of_one
        if np.isfinite(getattr(p, quantity))
      ]
      for where, of_one in itertools.groupby(found, lambda p: p.where)
    }
    for quantity, label in labels.items()
  }
  drawn = plots.labelled_points("undone by the audit (%)", panels)
  files.write_whole(picture, report.png(drawn))
  rows = [
    [
      p.where,
      p.network,
      f"{100 * p.undone:.0f}",
      f"{100 * p.error:.0f}",
      f"{100 * p.left:.0f}" if np.isfinite(p.left) else "–",
      str(p.seeds),
    ]
    for p in found
  ]
  heading = ["runs", "network", "undone (%)", *labels.values(), "seeds"]
  section = report.Section(
    "What the audit says, and what networks came to",
    [
      "Undone: what the best spatial warp of the features behind block X of"
      " the plain CNN undoes of the perturbation (of all families where there"
      " is none), in % of what it changes; of the input (STN-C0), what"
      " interpolation allows.",
      report.Table(heading, rows),
      "Spearman's rank correlation with what is undone, with the 95 %"
      " confidence interval of a bootstrap over the points; -1 is a perfect"
      " prediction. Pairs are networks of one data set of which the audit does"
      " not say the same.",
      *(f"{labels[q]}: {found}." for q, found in correlations.items()),
      report.Picture(picture, "Each network that warps features."),
    ],
  )
  sections = [section, *report.left_out(left)]
  files.write_whole(root / "prediction.md", report.markdown(_TITLE, sections))
  values = {
    "points": [p._asdict() for p in found],
    "correlations": {q: c._asdict() for q, c in correlations.items()},
  }
  text = files.to_json(values, indent=1) + "\n"
  files.write_whole(root / "prediction.json", text)
  return correlations


def main() -> None:
  for quantity, found in write(cli.WORKDIR.value).items():
    print(f"{quantity} against undone: {found}")
  print(f"written: {cli.WORKDIR.value}/prediction.md, .json and .png")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
