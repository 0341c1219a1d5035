"""Gates of a task: whether it can show that the placement matters.

They are passed, or not, before any sweep is run: a task on which no transformer
can gain anything, or none starts to move, decides nothing about placements.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import NamedTuple

from etils import epath
import numpy as np

from experiments.lib import loading
from experiments.lib.jobs import Job
from experiments.lib.tables import Table
from experiments.reporting import localising, page
from experiments.reporting.finished import Finished
from stnjax import files
from stnjax.paper import comparisons
from stnjax.training import settings
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings

NAME = "gates"
LEAST_GAIN = 10.0
"""Least gain of an ideal transformer, in percentage points of the error."""
MOST_ERROR = 5.0
"""Largest error at the true pose, in percent."""
MOST_R2_OF_PIXELS = 0.3
LEAST_R2_OF_FEATURES = 0.6
MOST_SHARE = 0.95
"""Largest residual share of a transformer that has left the identity."""
OUTCOMES = {True: "passed", False: "failed", None: "for information"}
EXPLANATION = (
  "Gates of the task, in order, with thresholds that were set before they were"
  " measured. A task passes if all of them do. Claims about the depth of"
  " localisation are only counted on tasks that did not fail."
)


class Gate(NamedTuple):
  """A question about a task, and its answer.

  Attributes:
    question: What is asked.
    threshold: What must hold.
    measured: What was measured.
    passed: Whether it holds; None for information alone.
  """

  question: str
  threshold: str
  measured: str
  passed: bool | None


class Runs(NamedTuple):
  """Finished runs on a task, one per seed.

  Attributes:
    plain: Of the CNN.
    at_pose: Of the CNN on the task at the true pose.
    pilots: Of networks with transformers.
  """

  plain: Sequence[Finished]
  at_pose: Sequence[Finished]
  pilots: Sequence[Finished]


def headroom(runs: Sequence[Finished], undone: Sequence[Finished]) -> Gate:
  """Whether an ideal transformer would lower the error enough.

  Args:
    runs: Finished runs of the CNN on the task, one per seed.
    undone: The same on the task at the true pose.
  """
  before, after = (
    100 * np.mean([run.results["error"] for run in group])
    for group in (runs, undone)
  )
  gain = before - after
  return Gate(
    "Can a transformer gain anything?",
    f"the error of the CNN falls by at least {LEAST_GAIN:g} points at the true"
    f" pose, to at most {MOST_ERROR:g} %",
    f"{before:.1f} % on whole images, {after:.1f} % at the true pose: a gain of"
    f" {gain:.1f} points",
    bool(gain >= LEAST_GAIN and after <= MOST_ERROR),
  )


def seen(run: Finished, load: loading.Load, count: int) -> Gate:
  """Whether features predict the pose better than pixels.

  Args:
    run: Finished run of the CNN on the task.
    load: Loads the images, see `loading.once`.
    count: Number of test images.
  """
  folder = Run(str(run.folder.parent), run.settings)
  measured = localising.measure(folder, load, count, ["ridge"])
  found = localising.Readouts([measured])

  def mean_r2(state: str) -> dict[str, float]:
    by_axis = [found.by_layer(state, "ridge", axis) for axis in found.units]
    return {
      layer: float(np.mean([axis[layer] for axis in by_axis]))
      for layer in by_axis[0]
    }

  trained, untrained = map(mean_r2, localising.STATES)
  pixels, *blocks = trained.values()
  listed = ", ".join(
    f"{layer} {r2:.2f} ({untrained[layer]:.2f})"
    for layer, r2 in trained.items()
  )
  return Gate(
    "Do features predict the pose better than pixels?",
    "ridge regression reads the pose from pixels with R² below"
    f" {MOST_R2_OF_PIXELS:g}, and from a block of the trained CNN with more"
    f" than {LEAST_R2_OF_FEATURES:g}",
    f"R² by layer (CNN of seed {run.settings.seed}; in brackets untrained):"
    f" {listed}",
    bool(pixels < MOST_R2_OF_PIXELS and max(blocks) > LEAST_R2_OF_FEATURES),
  )


def moved(pilots: Sequence[Finished]) -> Gate:
  """Whether a transformer has left the identity after a tenth of the training.

  Args:
    pilots: Finished runs of networks with transformers on the task.
  """
  shares: dict[str, list[float]] = {}
  for run in pilots:
    line = run.metrics[math.ceil(run.settings.epochs / 10) - 1]
    share = [
      line["alignment"][axis] / run.alignment[axis]["none"]
      for axis in run.alignment
    ]
    shares.setdefault(run.settings.network, []).append(float(np.mean(share)))
  listed = ", ".join(
    f"{name} {np.mean(values):.2f}" for name, values in shares.items()
  )
  means = [np.mean(values) for values in shares.values()]
  least = np.nanmin(means) if np.isfinite(means).any() else np.nan
  return Gate(
    "Does a transformer start to move?",
    "after a tenth of the training, the residual share of one network is below"
    f" {MOST_SHARE:g}",
    f"residual shares: {listed}",
    bool(least < MOST_SHARE),
  )


def power(pilots: Sequence[Finished]) -> Gate:
  """Number of seeds of a sweep, by the paired differences of the pilots.

  Args:
    pilots: Finished runs of networks with transformers on the task.
  """
  errors: dict[str, dict[int, float]] = {}
  for run in pilots:
    by_seed = errors.setdefault(run.settings.network, {})
    by_seed[run.settings.seed] = 100 * run.results["error"]
  plain = errors.pop("STN-C0", {})
  listed = [
    f"{name} {_needed(by_seed, plain)}" for name, by_seed in errors.items()
  ]
  return Gate(
    "How many seeds does a sweep need?",
    "for information: two pilots give a rough spread",
    f"error against STN-C0: {'; '.join(listed) or 'not run'}",
    None,
  )


def _needed(left: Mapping[int, float], right: Mapping[int, float]) -> str:
  seeds = sorted(left.keys() & right.keys())
  differences = [left[seed] - right[seed] for seed in seeds]
  needed = comparisons.seeds_needed(differences)
  if needed is None:
    return "too few pilots"
  gap = f"{np.mean(differences):+.1f} points"
  if needed > comparisons.MOST_SEEDS:
    return f"{gap}, more than {comparisons.MOST_SEEDS:,} seeds"
  return f"{gap}, about {needed:,} seeds"


def check(runs: Runs, load: loading.Load, count: int) -> list[Gate]:
  """All gates of a task, in order.

  Args:
    runs: Finished runs on the task.
    load: Loads the images, see `loading.once`.
    count: Number of test images whose pose is read.
  """
  return [
    headroom(runs.plain, runs.at_pose),
    seen(runs.plain[0], load, count),
    moved(runs.pilots),
    power(runs.pilots),
  ]


def members(runs: Sequence[Finished], job: Job) -> list[Finished]:
  """The finished runs of a job, one per seed."""
  wanted = set(job.members())
  return [run for run in runs if run.settings in wanted]


def write(root: epath.Path, gates: Sequence[Gate], runs: Runs) -> None:
  """Writes gates.md and gates.json to a workdir.

  Args:
    root: The workdir.
    gates: The gates.
    runs: Runs that they were checked on.

  Raises:
    RunError: If a file cannot be written.
  """
  first = runs.plain[0]
  rows = [
    [g.question, g.threshold, g.measured, OUTCOMES[g.passed]] for g in gates
  ]
  heading = ["gate", "threshold", "measured", "outcome"]
  title, parts = first.task.title, [EXPLANATION, Table(heading, rows, 4)]
  section = page.Section(title[:1].upper() + title[1:], parts)
  text = page.markdown("Gates of a task", [section])
  files.write_whole(root / f"{NAME}.md", text)
  values = {
    "settings": dataclasses.asdict(first.settings),
    "seeds": [run.settings.seed for run in runs.plain],
    "passed": all(gate.passed is not False for gate in gates),
    "gates": [gate._asdict() for gate in gates],
  }
  text = files.to_json(values, indent=1) + "\n"
  files.write_whole(root / f"{NAME}.json", text)


def outcomes(root: epath.Path) -> list[tuple[Settings, bool]]:
  """Settings of tasks, and whether they passed their gates.

  Args:
    root: Workdir, in which, and in whose folders, gates.json is looked for.

  Raises:
    Damaged: If a file cannot be read, or two disagree on a task.
  """
  found: dict[Settings, tuple[bool, epath.Path]] = {}
  for folder in (root, *files.subfolders(root)):
    path = folder / f"{NAME}.json"
    if not path.exists():
      continue
    try:
      values = files.read_json(path)
      task = dataclasses.replace(
        settings.from_json(values["settings"]), network="CNN", seed=0
      )
      outcome = bool(values["passed"])
    except files.UNREADABLE as error:
      raise files.Damaged(
        f"{path} is damaged ({error!r}); delete it, or run experiments.gates"
        " again"
      ) from error
    before, other = found.setdefault(task, (outcome, path))
    if before != outcome:
      raise files.Damaged(
        f"{path} and {other} disagree on the gates of one task; delete one"
      )
  return [(task, outcome) for task, (outcome, _) in found.items()]
