"""Runs as groups of the paper's claims, and the verdicts as tables."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import numpy as np

from experiments.lib.tables import Table
from experiments.reporting import groups, metrics, names, page
from experiments.reporting.finished import LeftOut
from experiments.reporting.page import Section
from stnjax.paper.claims import Judged
from stnjax.paper.comparisons import (
  LEAST_SEEDS,
  LEVEL,
  MOST_SEEDS,
  OPEN,
  POWER,
  UNALIGNED,
  VERDICTS,
  Comparison,
  GroupResults,
)
from stnjax.training.settings import Settings

TITLE = "The paper's claims"
_HEADING = (
  "runs",
  "comparison",
  "means",
  "paired difference",
  "seeds",
  "adjusted p",
  "verdict",
)
_EXPLANATION = (
  "Comparisons are paired by seed: the same seed draws the same images. Means"
  " over the seeds with 95 % confidence intervals (Student's t). A comparison"
  " is decided if the p-value of its paired t test, adjusted by Holm's method"
  f" over all comparisons of the claim, is below {LEVEL:g}: it holds if the"
  " difference is negative, and does not hold if it is positive. Otherwise it"
  " is open, with the number of seeds that would decide it with a power of"
  f" {100 * POWER:.0f} % if the measured mean and spread were the true ones."
  " Errors are in percent; the residual share is the residual of the pose over"
  " that of an identity transformer. A claim holds if all of its comparisons"
  " hold (the first: if one holds), and does not hold if one does not."
  f" Comparisons with fewer than {LEAST_SEEDS} paired seeds are not evaluated."
)
_CELLS = (
  f"Groups with at least {LEAST_SEEDS} seeds: error in percent, mean ±"
  " standard deviation over the seeds; in brackets the residual share in"
  " percent: 0 is perfect alignment, 100 that of an identity transformer; and"
  " how many seeds are unaligned (a share of at least"
  f" {100 * UNALIGNED:.0f} %)."
  " All runs are listed at the end."
)


def results_of(
  runs: Sequence[groups.Group],
  passed: Sequence[tuple[Settings, bool]] = (),
) -> list[GroupResults]:
  """Groups of finished runs as groups of results.

  Args:
    runs: Groups of finished runs.
    passed: Settings of tasks, and whether they passed their gates, see
      `gates.outcomes`.
  """
  results = [
    GroupResults(
      group.title,
      group.settings["dataset"],
      group.settings["perturbation"],
      group.settings["family"],
      {
        name: {run.settings.seed: run.results for run in runs_of}
        for name, runs_of in group.members.items()
      },
      _passed(group, passed),
      group.settings["train_images"],
    )
    for group in runs
  ]
  return [
    dataclasses.replace(own, all_images=_with_all_images(group, runs, results))
    for group, own in zip(runs, results, strict=True)
  ]


def _with_all_images(
  group: groups.Group,
  runs: Sequence[groups.Group],
  results: Sequence[GroupResults],
) -> GroupResults | None:
  """The results of the same task with all training images, if there are."""
  if group.settings["train_images"] is None:
    return None
  changes = {"train_images": None, "epochs": None}
  alike = [
    own
    for other, own in zip(runs, results, strict=True)
    if own.train_images is None
    and {**other.settings, **changes} == {**group.settings, **changes}
  ]
  return alike[0] if len(alike) == 1 else None


def _passed(
  group: groups.Group, passed: Sequence[tuple[Settings, bool]]
) -> bool | None:
  """Whether a group's task passed its gates; None if they were not run."""
  for settings, outcome in passed:
    if all(getattr(settings, k) == v for k, v in group.settings.items()):
      return outcome
  return None


def overview(results: Sequence[GroupResults]) -> Table:
  """Errors and residual shares by network, of groups with enough seeds."""
  shown = [g for g in results if g.num_seeds() >= LEAST_SEEDS]
  networks = sorted(
    {n for group in shown for n in group.results}, key=names.order
  )
  rows = [[name, *(_cell(group, name) for group in shown)] for name in networks]
  return Table(["network", *(group.title for group in shown)], rows)


def _cell(group: GroupResults, network: str) -> str:
  """Error and residual share of a network."""
  if network not in group.results:
    return ""
  errors = [*group.errors(network).values()]
  cell = f"{np.mean(errors):.1f}"
  if len(errors) > 1:
    cell += f" ± {np.std(errors, ddof=1):.1f}"
  if group.is_aligned(network):
    shares = [*group.residual_shares(network).values()]
    cell += f" ({100 * np.mean(shares):.0f})"
    if unaligned := group.unaligned(network):
      cell += f", {unaligned} unaligned"
  return cell


def verdicts(judged: Sequence[Judged]) -> Table:
  """Verdict of each claim, and its number of comparisons by verdict."""
  rows = []
  for number, (claim, comparisons, verdict) in enumerate(judged, 1):
    counted = [c for c in comparisons if c.counts]
    evaluated = [c.verdict for c in counted if c.evaluated]
    counts = [evaluated.count(kind) for kind in VERDICTS]
    counts.append(len(counted) - len(evaluated))
    counts.append(len(comparisons) - len(counted))
    rows.append([f"{number}. {claim.statement}", verdict, *map(str, counts)])
  heading = ["claim", "verdict", *VERDICTS, "not evaluated", "not counted"]
  return Table(heading, rows)


def content(
  runs: Sequence[groups.Group],
  judged: Sequence[Judged],
  left_out: Sequence[LeftOut] = (),
) -> list[Section]:
  """The verdicts, the comparisons of each claim, and the results of all runs.

  Args:
    runs: Groups of finished runs.
    judged: Verdicts on these groups, see `stnjax.paper.claims.judge`.
    left_out: Runs that are left out.

  Returns:
    The sections of claims.md.
  """
  table = overview(results_of(runs))
  parts = [
    Section("Verdicts", [verdicts(judged), _EXPLANATION]),
    Section("Networks", [table, _CELLS]),
  ]
  for number, (claim, comparisons, verdict) in enumerate(judged, 1):
    rows = [
      [
        c.group,
        c.statement,
        _sides(c),
        str(c.difference),
        str(c.difference.seeds),
        f"{c.adjusted:.2g}" if np.isfinite(c.adjusted) else "",
        _outcome(c),
      ]
      for c in comparisons
    ]
    text = f"Test: {claim.test} Verdict: {verdict}."
    compared = [Table(_HEADING, rows)] if rows else []
    parts.append(Section(f"{number}. {claim.statement}", [text, *compared]))
  listed = [x for g in runs for x in (f"{g.title}:", metrics.results(g))]
  return [*parts, Section("Runs", listed), *page.left_out(left_out)]


def _outcome(comparison: Comparison) -> str:
  """Verdict of a comparison; of an open one, what would decide it."""
  if not comparison.counts:
    return "not counted: the task failed its gates"
  if not comparison.evaluated:
    finite = np.isfinite(comparison.differences).all()
    return "too few seeds" if finite else "not evaluated: a seed is not finite"
  needed = comparison.needed
  if comparison.verdict != OPEN or needed is None:
    return comparison.verdict
  if needed > MOST_SEEDS:
    return f"{OPEN}: more than {MOST_SEEDS:,} seeds needed"
  return f"{OPEN}: about {needed:,} seeds needed"


def _sides(comparison: Comparison) -> str:
  sides = comparison.sides.items()
  return "; ".join(f"{name} {side}" for name, side in sides)


def lines(judged: Sequence[Judged]) -> list[str]:
  """The verdicts and their comparisons as lines of text."""
  text = []
  for number, (claim, comparisons, verdict) in enumerate(judged, 1):
    text += [f"{number}. {claim.statement}", f"   {claim.test}"]
    text += [
      f"     {c.group}: {c.statement}: {_sides(c)}: {_outcome(c)}"
      for c in comparisons
    ]
    text.append(f"   {verdict.upper()}")
  return text


def to_json(judged: Sequence[Judged]) -> list[dict[str, Any]]:
  """The verdicts as written to claims.json."""
  return [
    {
      "claim": claim.statement,
      "test": claim.test,
      "verdict": verdict,
      "comparisons": [
        {
          **dataclasses.asdict(comparison),
          "sides": {k: s._asdict() for k, s in comparison.sides.items()},
          "difference": comparison.difference._asdict(),
          "seeds_needed": comparison.needed,
          "verdict": comparison.verdict,
        }
        for comparison in comparisons
      ],
    }
    for claim, comparisons, verdict in judged
  ]
