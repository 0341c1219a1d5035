"""Where to look, what to warp, and the residuals: one figure, one table."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib

from matplotlib.figure import Figure
import numpy as np

from experiments.lib.tables import Table
from experiments.reporting import finished, localising, names
from experiments.reporting.figures import Captioned
from experiments.reporting.finished import Finished
from experiments.reporting.groups import Group
from experiments.reporting.metrics import spread
from stnjax import alignability, plots
from stnjax.files import RunError

CAPTION = (
  "Left: percentage of the change by a {axis} of the image that the best"
  " spatial warp of each layer of the CNN undoes: what to warp. Middle: R² of"
  " the {axis} that ridge regression and a dense net read from each layer:"
  " where to look. Right: residual of the {axis} about each image's own mean,"
  " by network, one point per seed; dashed: an identity transformer. Lines are"
  " means over the seeds of the CNN, bands their range."
)


def figure(group: Group, axis: str) -> Figure:
  """The figure of a group.

  Args:
    group: Runs that differ in network and seed alone, of which a CNN is audited
      and has its poses read, see `experiments.audit` and
      `experiments.localisability`.
    axis: Name of the axis of the perturbation, which is a family of the audit.

  Raises:
    RunError: If the CNN lacks either, or no network was measured.
  """
  audited = [run for run in group.members.get("CNN", ()) if run.audits]
  if not audited:
    raise RunError("no CNN has an audit; run experiments.audit first")
  known = [run for run in audited if run.readouts]
  if not known:
    path = audited[0].folder / finished.LOCALISABILITY
    raise RunError(f"{path} is missing; run experiments.localisability first")
  undone = [_undone(run.audits, axis) for run in known]
  read = localising.Readouts([run.readouts for run in known])
  measured = {
    network: [run.alignment[axis] for run in runs]
    for network, runs in group.measured(axis).items()
    if all("by_image" in run.alignment[axis] for run in runs)
  }
  if not measured:
    raise RunError("no network has a residual by image")
  return plots.look_and_warp(
    audited[0].audits["trained"].layers,
    undone=100 * np.array(undone),
    read={
      reader: np.array([*read.by_layer("trained", reader, axis).values()]).T
      for reader in read.readers
    },
    residuals={
      name: [found["by_image"] for found in seeds]
      for name, seeds in measured.items()
    },
    none=float(
      np.mean(
        [f["none_by_image"] for seeds in measured.values() for f in seeds]
      )
    ),
    unit=f"{names.in_words(axis)} residual by image ({group.axes[axis].unit})",
  )


def figures(group: Group) -> Iterator[Captioned]:
  """The figures of all axes for which a group has the measurements."""
  for axis in group.axes:
    with contextlib.suppress(RunError):
      yield Captioned(
        f"guide_{axis}",
        CAPTION.format(axis=names.in_words(axis)),
        figure(group, axis),
      )


def _undone(
  audits: Mapping[str, alignability.Audit], family: str
) -> np.ndarray:
  profile = audits["trained"].profile()
  if family not in profile:
    raise RunError(f"the audit has no family {family!r}")
  return profile[family]


def table(group: Group, axis: str) -> Table:
  """Error, same answer and residuals by network.

  Args:
    group: Runs that differ in network and seed alone.
    axis: Name of the axis.
  """
  unit = group.axes[axis].unit
  rows = [
    [network, *_cells(runs, axis, unit)]
    for network, runs in group.members.items()
  ]
  return Table(
    [
      "network",
      "error (%)",
      "same answer (%)",
      f"residual by class ({unit})",
      f"residual by image ({unit})",
      "seeds",
    ],
    rows,
  )


def _cells(runs: Sequence[Finished], axis: str, unit: str) -> list[str]:
  results = [run.results for run in runs]
  digits = 1 if unit == "deg" else 2  # octaves and shares are small
  found = [run.alignment.get(axis, {}) for run in runs]
  return [
    _short([100 * r["error"] for r in results], 1),
    _short([100 * r.get("same_answer", np.nan) for r in results], 1),
    _short([f.get("std", np.nan) for f in found], digits),
    _short([f.get("by_image", np.nan) for f in found], digits),
    str(len(runs)),
  ]


def _short(values: Sequence[float], digits: int) -> str:
  """Mean ± standard deviation, without the range."""
  return spread(values, digits).split(" (")[0]
