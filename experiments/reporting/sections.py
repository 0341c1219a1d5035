"""Content of a report: tables and figures for each group of runs."""

from collections.abc import Iterator, Mapping, Sequence

from etils import epath
from matplotlib.figure import Figure
import numpy as np

from experiments.lib.tables import Table
from experiments.reporting import auditing, guide, localising, metrics, names
from experiments.reporting import page as pages
from experiments.reporting.figures import figures
from experiments.reporting.groups import Group
from experiments.reporting.metrics import UNKNOWN, spread
from experiments.reporting.page import Folded, Picture, Section
from stnjax import alignability, files, plots

_SHOWN = ("std", "none")


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

  def written(
    name: str, caption: str, figure: Figure, folded: str = ""
  ) -> Picture | Folded:
    path = folder / f"{name}_{number}.png"
    files.write_whole(path, pages.png(figure))
    picture = Picture(path, caption)
    return Folded(folded, picture) if folded else picture

  parts = [
    _settings(group),
    metrics.results(group),
    *metrics.explanations(group),
    *_by_class(group),
    *metrics.authors(group),
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
        f" after that warp.{_about_permuted(audits)}",
        _audit(audits),
        written(f"audit_{network}", caption, plots.alignability(audits)),
      ]
  readouts = localising.kept(group)
  if readouts:
    parts.append(localising.EXPLANATION)
    parts += [written(*drawn) for drawn in localising.figures(readouts)]
    parts.append(localising.table(readouts))
  parts += [written(*drawn) for drawn in guide.figures(group)]
  return Section(group.title, parts)


def summary(groups: Sequence[Group]) -> Section:
  """The main results: a paragraph for each group."""
  return Section("Summary", [_in_short(group) for group in groups])


def _in_short(group: Group) -> str:
  """The network of the lowest error, and those of the lowest residuals."""
  errors = {
    network: 100 * np.mean([run.results["error"] for run in runs])
    for network, runs in group.members.items()
  }
  best = min(errors, key=errors.get)
  plain = f" (CNN: {errors['CNN']:.3g} %)" if "CNN" in errors else ""
  lines = [f"{group.title}: {best} has the lowest error, {errors[best]:.3g} %"]
  lines[0] += f"{plain if best != 'CNN' else ''}."
  for name, axis in group.axes.items():
    found = {
      network: [
        np.mean([run.alignment[name][k] for run in runs]) for k in _SHOWN
      ]
      for network, runs in group.measured(name).items()
    }
    aligned, (left, none) = min(found.items(), key=lambda item: item[1][0])
    lines.append(
      f"{aligned} has the lowest {names.residual(axis, 'class')},"
      f" {left:.3g} (an identity transformer: {none:.3g})."
    )
  return " ".join(lines)


def _settings(group: Group) -> Folded:
  """The settings and the hardware of a group."""
  flags = [f"{k}={names.flag_value(v)}" for k, v in group.settings.items()]
  hardware = sorted({run.results["hardware"] for run in group.runs})
  text = f"{', '.join(flags)}. Hardware: {'; '.join(hardware)}."
  return Folded("Settings", text)


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
    label = names.residual(axis, "class")
    yield f"{label[:1].upper()}{label[1:]}, mean over the seeds:"
    yield Table(["network", *map(task.class_name, classes)], rows)


def _mean(values: Sequence[float]) -> str:
  return spread([np.mean(values)], 2) if values else UNKNOWN


def _about_permuted(audits: Mapping[str, alignability.Audit]) -> str:
  """A sentence about states whose channels are permuted, if there are any."""
  if not any(state.endswith(auditing.PERMUTED) for state in audits):
    return ""
  return (
    ' "Permuted": each warp also shifts the orientations of every filter by the'
    " angle of the transform."
  )


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
