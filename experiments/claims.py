"""Says which of the paper's claims finished runs bear out.

  python -m experiments.claims --workdir=runs
  python -m experiments.claims --workdir=experiments/results

reads the finished runs of the workdir and of its folders, or the results.json
that reports left of them, and writes claims.md and claims.json there, with the
tables of README. Each claim comes with the comparison that tests it, made
wherever runs allow it: runs that differ in network and seed alone are compared
with each other. A comparison holds, or does not, where the 95 % confidence
interval of its difference over the seeds lies on one side of the bound; else
there are not enough runs. Those of fewer than three seeds are shown, and say
nothing. Damaged runs are left out and named, on stderr too; the exit status is
0 all the same.
"""

from collections.abc import Callable, Iterator, Sequence
import dataclasses
from typing import NamedTuple

from absl import flags
import numpy as np
from scipy import stats

from experiments import report
from experiments.lib import cli
from experiments.reporting import finished
from stnjax import evaluation, files
from stnjax.placement import placements
from stnjax.training import runs

TITLE = "The paper's claims"
_VERDICTS = HOLDS, FAILS, OPEN = "holds", "does not hold", "not enough runs"
_LEAST_SEEDS = 3


class Interval(NamedTuple):
  """A mean over seeds and its 95 % confidence interval (Student's t)."""

  mean: float
  low: float
  high: float
  seeds: int

  def __str__(self):
    if self.seeds < 2:
      return f"{self.mean:.3g} (1 seed)"
    return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}]"


@dataclasses.dataclass(frozen=True)
class Comparison:
  """One test of a claim.

  Attributes:
    where: the data that the runs share.
    what: the comparison in words.
    sides: the compared quantities, by network.
    difference: left minus right, or minus the bound; below 0 if it holds.
    verdict: HOLDS, FAILS or OPEN.
  """

  where: str
  what: str
  sides: dict[str, Interval]
  difference: Interval
  verdict: str


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement of the paper and how it is tested.

  Attributes:
    statement: what the paper says.
    test: what is compared.
    comparisons: makes the comparisons that a group of runs allows.
    any_is_enough: whether one comparison that holds shows it, as for "can".
  """

  statement: str
  test: str
  comparisons: Callable[["Group"], Iterator[Comparison]]
  any_is_enough: bool = False


def interval(values: Sequence[float]) -> Interval:
  """The mean of values and the 95 % confidence interval of it."""
  values = np.asarray(values, np.float64)
  mean, count = float(values.mean()), len(values)
  if count < 2:
    return Interval(mean, -np.inf, np.inf, count)
  reach = stats.t.ppf(0.975, count - 1) * stats.sem(values)
  return Interval(mean, float(mean - reach), float(mean + reach), count)


def welch(left: Sequence[float], right: Sequence[float]) -> Interval:
  """The difference of two means, left - right, with Welch's interval."""
  gap = float(np.mean(left) - np.mean(right))
  count = min(len(left), len(right))
  if count < 2:
    return Interval(gap, -np.inf, np.inf, count)
  if not np.ptp(left) and not np.ptp(right):
    return Interval(gap, gap, gap, count)
  found = stats.ttest_ind(left, right, equal_var=False).confidence_interval()
  return Interval(gap, float(found.low), float(found.high), count)


def verdict(difference: Interval) -> str:
  """Whether a difference is below 0."""
  if difference.seeds < _LEAST_SEEDS or not np.isfinite(difference.mean):
    return OPEN
  if difference.high < 0:
    return HOLDS
  return FAILS if difference.low > 0 else OPEN


class Group:
  """Finished runs that differ in network and seed alone."""

  def __init__(
    self, settings: runs.Settings, members: dict[str, list[report.Finished]]
  ):
    self.settings = settings
    self.members = members
    self.where = (
      f"{settings.dataset}, {settings.perturbation}, {settings.family}"
    )

  def seeds(self) -> int:
    """The most runs of one network."""
    return max(len(found) for found in self.members.values())

  def error(self, network: str) -> list[float]:
    """Errors in percent, of the seeds."""
    return [100 * run.results["error"] for run in self.members[network]]

  def left(self, network: str) -> list[float]:
    """Share of the perturbation that is left, of the seeds.

    The mean over the axes; 0 is perfect, 1 what no transformer leaves.
    """
    return [
      float(
        np.mean(
          [a["std"] / a["none"] for a in run.results["alignment"].values()]
        )
      )
      for run in self.members[network]
    ]

  def networks(self) -> dict[str, placements.Placement]:
    """The placement of every network."""
    return {name: placements.parse(name) for name in self.members}

  def single(self, *kinds: str) -> dict[int, str]:
    """Networks of a kind with one run of the transformer, by depth."""
    return {
      placement.depths[0]: name
      for name, placement in self.networks().items()
      if placement.kind in kinds and len(placement.depths) == 1
    }

  def measures_alignment(self) -> bool:
    return self.settings.perturbation in evaluation.AXES

  def lower(
    self,
    quantity: Callable[[str], list[float]],
    words: str,
    left: str,
    right: str,
  ) -> Comparison:
    """That a quantity of one network is lower than that of another."""
    sides = {name: interval(quantity(name)) for name in (left, right)}
    difference = welch(quantity(left), quantity(right))
    return Comparison(
      self.where,
      f"{words} of {left} < {right}",
      sides,
      difference,
      verdict(difference),
    )

  def bounded(self, network: str, bound: float) -> Comparison:
    """That a network leaves less than some share of the perturbation."""
    left = interval(self.left(network))
    difference = Interval(
      left.mean - bound, left.low - bound, left.high - bound, left.seeds
    )
    return Comparison(
      self.where,
      f"share left by {network} < {bound:g}",
      {network: left},
      difference,
      verdict(difference),
    )


def _input_aligns(group: Group) -> Iterator[Comparison]:
  if group.measures_alignment():
    for name, placement in group.networks().items():
      if placement.warps_input:
        yield group.bounded(name, 0.5)


def _features_do_not_align(group: Group) -> Iterator[Comparison]:
  yield from _align_less(group, "C")


def _align_less(group: Group, kind: str) -> Iterator[Comparison]:
  """That networks that warp features leave more than one on the input."""
  if group.settings.perturbation in ("rotation", "scale"):
    plain, deep = group.single("C").get(0), group.single(kind)
    for depth, name in sorted(deep.items()):
      if depth and plain:
        yield group.lower(group.left, "share left", plain, name)


def _features_undo_translation(group: Group) -> Iterator[Comparison]:
  if group.settings.perturbation == "translation":
    for depth, name in sorted(group.single("C").items()):
      if depth:
        yield group.bounded(name, 0.5)


def _features_err_more(group: Group) -> Iterator[Comparison]:
  deep = group.single("C")
  if group.settings.perturbation != "translation" and 0 in deep:
    for depth, name in sorted(deep.items()):
      if depth:
        yield group.lower(group.error, "error", deep[0], name)


def _deeper_helps(group: Group) -> Iterator[Comparison]:
  plain = group.single("C").get(0)
  for kind in ("DL", "SL"):
    for depth, name in sorted(group.single(kind).items()):
      if depth and plain:
        yield group.lower(group.error, "error", name, plain)


def _shared_is_stable(group: Group) -> Iterator[Comparison]:
  own, shared = group.single("DL"), group.single("SL")
  both = sorted(own.keys() & shared.keys())
  if both and both[-1] > 1:
    deepest = both[-1]
    yield group.lower(group.error, "error", shared[deepest], own[deepest])


def _shared_wins(group: Group) -> Iterator[Comparison]:
  if group.settings.dataset in ("svhn", "street_numbers"):
    own, features = group.single("DL"), group.single("C")
    for depth, name in group.single("SL").items():
      rivals = ("CNN", features.get(0), features.get(depth), own.get(depth))
      for rival in rivals:
        if depth and rival in group.members:
          yield group.lower(group.error, "error", name, rival)


def _iterations_help(group: Group) -> Iterator[Comparison]:
  names = {p: name for name, p in group.networks().items()}
  for placement, name in names.items():
    more = placement.iterated(1)
    if placement.depths and more in names:
      yield group.lower(group.error, "error", names[more], name)


def _iterations_replace_nothing(group: Group) -> Iterator[Comparison]:
  for name, placement in group.networks().items():
    if len(placement.depths) > 1 and set(placement.depths) == {0}:
      for deep in group.single("SL").values():
        yield group.lower(group.error, "error", deep, name)


def _any_warp(group: Group) -> Iterator[Comparison]:
  """What claim 2 tests, for other families and for deformed convolutions."""
  if group.settings.family != group.settings.perturbation:
    yield from _features_do_not_align(group)
  for kind in ("UCN", "DEF"):
    yield from _align_less(group, kind)


CLAIMS = (
  Claim(
    "A spatial transformer on the input can bring transformed images to one"
    " common pose.",
    "A network that warps the input leaves less than half of the perturbation.",
    _input_aligns,
    any_is_enough=True,
  ),
  Claim(
    "A spatial transformer on feature maps does not bring objects to a common"
    " orientation or scale.",
    "It leaves more of a rotation or scaling than one on the input does.",
    _features_do_not_align,
  ),
  Claim(
    "Translations it can undo, as features move with the image.",
    "A network that warps features leaves less than half of a translation.",
    _features_undo_translation,
  ),
  Claim(
    "Networks that warp feature maps err more than those that warp the input.",
    "The error of STN-C0 is lower than that of STN-C deeper down, but for"
    " translations.",
    _features_err_more,
  ),
  Claim(
    "Deeper features help the localisation net, if the input is warped.",
    "The error of STN-DL and STN-SL is lower than that of STN-C0.",
    _deeper_helps,
  ),
  Claim(
    "Own copies of layers become hard to train with depth, shared ones do not.",
    "At the greatest depth of both, the error of STN-SL is lower than of"
    " STN-DL.",
    _shared_is_stable,
  ),
  Claim(
    "Shared layers win on hard data.",
    "On house numbers the error of STN-SL is lower than of the CNN, of STN-C0"
    " and of STN-C and STN-DL at its depth.",
    _shared_wins,
  ),
  Claim(
    "Iterations help.",
    "The error is lower with one more iteration.",
    _iterations_help,
  ),
  Claim(
    "Iterations do not replace deeper features.",
    "The error of STN-SL is lower than that of iterations on the input.",
    _iterations_replace_nothing,
  ),
  Claim(
    "What fails is warping features as such, whatever the warp.",
    "With transforms of other families, too, and where a convolution reads"
    " features deformed (STN-UCN, DEF), feature maps leave more of a rotation"
    " or scaling than the input does.",
    _any_warp,
  ),
)


class Judged(NamedTuple):
  """A claim, its comparisons and what they come to."""

  claim: Claim
  comparisons: list[Comparison]
  verdict: str


def judge(groups: Sequence[Group]) -> list[Judged]:
  """Tests every claim on groups of runs."""
  judged = []
  for claim in CLAIMS:
    found = [c for group in groups for c in claim.comparisons(group)]
    verdicts = {c.verdict for c in found if c.difference.seeds >= _LEAST_SEEDS}
    if claim.any_is_enough and HOLDS in verdicts:
      overall = HOLDS
    elif FAILS in verdicts and not (claim.any_is_enough and OPEN in verdicts):
      overall = FAILS
    else:
      overall = HOLDS if verdicts == {HOLDS} else OPEN
    judged.append(Judged(claim, found, overall))
  return judged


def read(workdir: str) -> tuple[list[Group], list[finished.LeftOut]]:
  """All finished runs below a folder, by what they share.

  Runs that were tuned on images held out are left alone; damaged ones are left
  out, and named on the terminal.

  Returns:
    The groups, and the runs that are left out.

  Raises:
    RunError: where no run is finished.
    ValueError: for a workdir that is neither local nor `gs://`.
  """
  root = files.place("workdir", workdir)
  folders = [root, *files.subfolders(root)]
  found = [finished.read(folder) for folder in folders]
  reports = [
    finished.read_results(folder)
    for folder in folders
    # The report on runs that are here says nothing new, and may be old.
    if not (folder.name == "report" and found[0][0])
  ]
  left = [one for _, others in (*found, *reports) for one in others]
  finished.announce(left)
  # Presets share runs, which come out the same; runs themselves come last.
  every = [run for members, _ in (*reports, *found) for run in members]
  unique: dict[runs.Settings, report.Finished] = {}
  for run in every:
    if not run.settings.holdout:
      before = unique.get(run.settings, run)
      # An audit of one is an audit of all.
      both = {**before.results, **run.results}
      unique[run.settings] = run._replace(results=both)
  if not unique:
    raise finished.none_in(root, left)
  groups = [Group(*group) for group in report.groups([*unique.values()])]
  _tell_apart(groups)
  return groups, left


def _tell_apart(groups: Sequence[Group]) -> None:
  """Adds to names that several groups have what their settings differ in."""
  by_name: dict[str, list[Group]] = {}
  for group in groups:
    by_name.setdefault(group.where, []).append(group)
  for alike in by_name.values():
    values = [dataclasses.asdict(group.settings) for group in alike]
    for name in values[0]:
      if len({value[name] for value in values}) > 1:
        for group, value in zip(alike, values, strict=True):
          group.where += f", {name} {report.plain(value[name]) or 'none'}"


def overview(groups: Sequence[Group]) -> report.Table:
  """Errors, and shares left of the perturbation, by network and group.

  Of the groups with enough seeds to be judged.
  """
  groups = [group for group in groups if group.seeds() >= _LEAST_SEEDS]
  names = {name: None for group in groups for name in group.members}
  rows = [
    [name, *(_found(group, name) for group in groups)]
    for name in sorted(names, key=report.order)
  ]
  return report.Table(["network", *(group.where for group in groups)], rows)


def _found(group: Group, name: str) -> str:
  """What the runs of a network found, in a cell."""
  if name not in group.members:
    return ""
  errors = group.error(name)
  cell = f"{np.mean(errors):.1f}"
  if len(errors) > 1:
    cell += f" ± {np.std(errors, ddof=1):.1f}"
  if all("alignment" in run.results for run in group.members[name]):
    cell += f" ({100 * np.mean(group.left(name)):.0f})"
  return cell


def verdicts(judged: Sequence[Judged]) -> report.Table:
  """Each claim, what the runs say of it, and how many comparisons do."""
  rows = []
  for number, item in enumerate(judged, 1):
    enough = [c for c in item.comparisons if c.difference.seeds >= _LEAST_SEEDS]
    counts = [sum(c.verdict == v for c in enough) for v in _VERDICTS]
    counts.append(len(item.comparisons) - len(enough))
    name = f"{number}. {item.claim.statement}"
    rows.append([name, item.verdict, *map(str, counts)])
  heading = ["claim", "verdict", "hold", "do not", "open", "too few seeds"]
  return report.Table(heading, rows)


def sections(
  groups: Sequence[Group],
  judged: Sequence[Judged],
  left: Sequence[finished.LeftOut] = (),
) -> list[report.Section]:
  """The verdicts, the comparisons of each claim, and what all runs found."""
  parts = [
    report.Section("Verdicts", [verdicts(judged), _EXPLANATION]),
    report.Section("Networks", [overview(groups), _CELLS]),
  ]
  for number, item in enumerate(judged, 1):
    rows = [
      [
        c.where,
        c.what,
        "; ".join(f"{name} {side}" for name, side in c.sides.items()),
        str(c.difference),
        str(c.difference.seeds),
        c.verdict,
      ]
      for c in item.comparisons
    ]
    title = f"{number}. {item.claim.statement}"
    content: list = [f"Test: {item.claim.test} Verdict: {item.verdict}."]
    if rows:
      content.append(report.Table(_HEADING, rows))
    parts.append(report.Section(title, content))
  tables = [
    part
    for group in groups
    for part in (f"{group.where}:", report.table(group.members))
  ]
  runs_found = report.Section("Runs", tables)
  return [*parts, runs_found, *report.left_out(left)]


_HEADING = ("runs", "comparison", "means", "difference", "seeds", "verdict")
_EXPLANATION = (
  "Means over the seeds with 95 % confidence intervals (Student's t, Welch's"
  " for differences; not corrected for their number). A comparison holds, or"
  " does not, where the interval of the difference lies below, or above, 0; it"
  " is open where it contains 0. Errors are in percent; the share left is the"
  " standard deviation of what is left of the perturbation over what no"
  " transformer leaves. A claim holds if all of its comparisons do (the first:"
  f" if one does), and does not if one does not; those of fewer than"
  f" {_LEAST_SEEDS} seeds say nothing."
)

_CELLS = (
  f"Of groups with {_LEAST_SEEDS} seeds or more: error in percent, mean ±"
  " standard deviation over the seeds; in brackets the share left of the"
  " perturbation, in percent: 0 is perfect, 100 what no transformer leaves. All"
  " runs are at the end."
)


def write(workdir: str) -> list[Judged]:
  """Judges all claims, and writes claims.md and claims.json."""
  groups, left = read(workdir)
  judged = judge(groups)
  root = files.place("workdir", workdir)
  text = report.markdown(TITLE, sections(groups, judged, left))
  files.write_whole(root / "claims.md", text)
  values = [
    {
      "claim": item.claim.statement,
      "test": item.claim.test,
      "verdict": item.verdict,
      "comparisons": [
        {
          **dataclasses.asdict(c),
          "sides": {k: side._asdict() for k, side in c.sides.items()},
          "difference": c.difference._asdict(),
        }
        for c in item.comparisons
      ],
    }
    for item in judged
  ]
  files.write_whole(
    root / "claims.json", files.to_json(values, indent=1) + "\n"
  )
  return judged


def main() -> None:
  for number, item in enumerate(write(cli.WORKDIR.value), 1):
    print(f"{number}. {item.claim.statement}\n   {item.claim.test}")
    for c in item.comparisons:
      sides = "; ".join(f"{name} {side}" for name, side in c.sides.items())
      print(f"     {c.where}: {c.what}: {sides}: {c.verdict}")
    print(f"   {item.verdict.upper()}")
  print(f"written: {cli.WORKDIR.value}/claims.md and claims.json")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
