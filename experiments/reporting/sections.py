"""Content of a report: tables and figures for each group of runs."""

from collections.abc import Iterator, Mapping, Sequence

from etils import epath
from matplotlib.figure import Figure
import numpy as np

from experiments.lib.tables import Table
from experiments.reporting import names
from experiments.reporting import page as pages
from experiments.reporting.figures import figures
from experiments.reporting.finished import Finished
from experiments.reporting.groups import Group
from experiments.reporting.page import Picture, Section
from stnjax import alignability, files, plots
from stnjax.training.description import AxisDescription

UNKNOWN = "–"


def section(group: Group, folder: epath.Path, number: int) -> Section:
  """Tables and figures of a group; writes the figures.

  Args:
    group: Runs that differ in network and seed alone.
    folder: Folder of the figures.
    number: Number of the group, part of the names of its files.

  Returns:
    The section.

  Raises:
    RunError: If a figure cannot be written.
  """

  def written(name: str, caption: str, figure: Figure) -> Picture:
    path = folder / f"{name}_{number}.png"
    files.write_whole(path, pages.png(figure))
    return Picture(path, caption)

  parts = [
    _settings(group),
    results(group),
    "Mean ± standard deviation over the seeds, and their range."
    + _explanation(group),
    *_by_class(group),
  ]
  parts += [written(*drawn) for drawn in figures(group)]
  for network, runs in group.members.items():
    audits = next((run.audits for run in runs if run.audits), None)
    if audits:
      caption = (
        f"{network}: residual after the best spatial warp of each layer,"
        " relative to the features (dotted: without a warp), mean and standard"
        " deviation over images; last panel: percentage undone against depth."
        " For the input, interpolation is the limit."
      )
      parts += [
        f"{network}: percentage of the change by a transform of the image that"
        " a spatial warp of each layer's features undoes: by the inverse"
        " transform / by the best warp found / with the best mixing of channels"
        " after that warp.",
        _audit(audits),
        written(f"audit_{network}", caption, plots.alignability(audits)),
      ]
  return Section(group.title, parts)


def _settings(group: Group) -> str:
  """The settings and the hardware of a group, in a sentence each."""
  flags = [f"{k}={names.flag_value(v)}" for k, v in group.settings.items()]
  hardware = sorted({run.results["hardware"] for run in group.runs})
  return f"Settings: {', '.join(flags)}. Hardware: {'; '.join(hardware)}."


def results(group: Group) -> Table:
  """Parameters, errors, residuals and times, one row per network."""
  axes = group.axes
  heading = [
    "network",
    "parameters",
    "localisation parameters",
    "error (%)",
    *map(names.residual, axes.values()),
    "seeds",
    "seconds per epoch",
    "peak memory (MB)",
  ]
  return Table(heading, [_row(*item, axes) for item in group.members.items()])


def _row(
  network: str, runs: Sequence[Finished], axes: Mapping[str, AxisDescription]
) -> list[str]:
  found = [run.results for run in runs]
  parameters = found[0]["parameters"]
  residuals = [
    spread([run.alignment[axis]["std"] for run in runs], 2)
    if all(axis in run.alignment for run in runs)
    else UNKNOWN
    for axis in axes
  ]
  return [
    network,
    f"{parameters['total']:,}",
    f"{parameters['localisation']:,}",
    spread([100 * results["error"] for results in found], 2),
    *residuals,
    str(len(runs)),
    f"{np.mean([results['seconds_per_epoch'] for results in found]):.1f}",
    f"{max(results['peak_memory_mb'] for results in found):,}",
  ]


def _explanation(group: Group) -> str:
  """What the columns of residuals mean, where there are any."""
  several = len(group.axes) > 1
  identity = {
    f"{run.alignment[name]['none']:.3g} {axis.unit}"
    + f" ({names.in_words(name)})" * several: None
    for name, axis in group.axes.items()
    for run in group.runs
    if name in run.alignment
  }
  if not identity:
    return ""
  return (
    " Residual: standard deviation of the pose after the transformer, about the"
    " mean of the class. 0 is perfect alignment; an identity transformer scores"
    f" {' or '.join(identity)}."
  )


def _by_class(group: Group) -> Iterator[str | Table]:
  """Residuals of each class: means over the seeds that have it."""
  for name, axis in group.axes.items():
    by_network = {
      network: [
        dict(zip(run.classes, run.alignment[name]["by_class"])) for run in runs
      ]
      for network, runs in group.measured(name).items()
    }
    classes = sorted(
      {
        k
        for seeds in by_network.values()
        for by_class in seeds
        for k in by_class
      }
    )
    rows = [
      [network, *(_mean([s[k] for s in seeds if k in s]) for k in classes)]
      for network, seeds in by_network.items()
    ]
    task = group.runs[0].task
    label = names.residual(axis)
    yield f"{label[:1].upper()}{label[1:]} by class, mean over the seeds:"
    yield Table(["network", *map(task.class_name, classes)], rows)


def _mean(values: Sequence[float]) -> str:
  return spread([np.mean(values)], 2) if values else UNKNOWN


def _audit(audits: Mapping[str, alignability.Audit]) -> Table:
  """Percentage undone of each family, per state and layer."""
  families = list(next(iter(audits.values())).families)
  rows = []
  for state, audit in audits.items():
    profiles = [audit.profile(kind) for kind in ("aligned", "best", "mixed")]
    for depth, layer in enumerate(audit.layers):
      cells = [
        " / ".join(f"{100 * profile[name][depth]:.0f}" for profile in profiles)
        for name in families
      ]
      rows.append([f"{layer}, {state}", *cells])
  return Table(["layer", *(f"{name} (%)" for name in families)], rows)


def spread(values: Sequence[float], digits: int) -> str:
  """Values in a cell: mean ± standard deviation (lowest to highest).

  Args:
    values: Values, one per seed.
    digits: Number of decimals.

  Returns:
    The text: of one value, that value; a dash if a value is not finite.
  """
  if not np.isfinite(values).all():
    return UNKNOWN
  if len(values) == 1:
    return f"{values[0]:.{digits}f}"
  low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
  deviation = np.std(values, ddof=1)
  return (
    f"{np.mean(values):.{digits}f} ± {deviation:.{digits}f} ({low} to {high})"
  )
