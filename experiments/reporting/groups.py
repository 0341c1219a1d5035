"""Finished runs grouped by their settings, with a title for each group."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
from typing import Any

from experiments.reporting import names
from experiments.reporting.finished import Finished
from stnjax.training.description import AxisDescription

_DIFFERING = ("network", "seed")
_UNNAMED = (None, "", ())  # defaults, beside which other values are named


@dataclasses.dataclass(frozen=True)
class Group:
  """Finished runs that differ in network and seed alone.

  Attributes:
    title: Title, which no other group of the same call has.
    settings: Settings that all runs share, by name.
    members: Runs by network, in the order of reports.
  """

  title: str
  settings: Mapping[str, Any]
  members: Mapping[str, Sequence[Finished]]

  @property
  def runs(self) -> list[Finished]:
    """All runs of the group."""
    return [run for runs in self.members.values() for run in runs]

  @property
  def axes(self) -> dict[str, AxisDescription]:
    """Axes along which the alignment of some network is measured, by name."""
    return {
      axis: run.task.axes[axis] for run in self.runs for axis in run.alignment
    }

  def measured(self, axis: str) -> dict[str, Sequence[Finished]]:
    """Runs by network, of networks measured along an axis."""
    return {
      network: runs
      for network, runs in self.members.items()
      if all(axis in run.alignment for run in runs)
    }


def group(finished: Iterable[Finished]) -> list[Group]:
  """Groups runs that differ in network and seed alone, in order of occurrence.

  Args:
    finished: The runs.

  Returns:
    The groups. Where the names of data set, perturbation and family are not
    enough to tell groups apart, their titles name other settings, too.
  """
  runs_by_settings: dict[tuple, list[Finished]] = {}
  for run in finished:
    shared = tuple(
      (field.name, getattr(run.settings, field.name))
      for field in dataclasses.fields(run.settings)
      if field.name not in _DIFFERING
    )
    runs_by_settings.setdefault(shared, []).append(run)
  settings = [dict(shared) for shared in runs_by_settings]
  groups = list(runs_by_settings.values())
  tasks = [runs[0].task.title for runs in groups]
  return [
    Group(title, shared, _by_network(runs))
    for title, shared, runs in zip(
      titles(settings, tasks), settings, groups, strict=True
    )
  ]


def _by_network(runs: Sequence[Finished]) -> dict[str, list[Finished]]:
  by_network: dict[str, list[Finished]] = {}
  for run in runs:
    by_network.setdefault(run.settings.network, []).append(run)
  return {
    name: by_network[name] for name in sorted(by_network, key=names.order)
  }


def titles(
  settings: Sequence[Mapping[str, Any]], tasks: Sequence[str]
) -> list[str]:
  """Titles of groups that differ.

  Args:
    settings: Settings of each group, by name.
    tasks: Titles of their tasks.

  Returns:
    One title per group: that of its task, and those settings, in their order,
    that distinguish it from groups with the same title; left out where they are
    not set.
  """
  found = [
    names.title(task, shared["perturbation"], shared["family"])
    for task, shared in zip(tasks, settings, strict=True)
  ]
  for name in settings[0] if settings else ():
    values: dict[str, set] = {}
    for title, shared in zip(found, settings, strict=True):
      values.setdefault(title, set()).add(shared[name])
    found = [
      f"{title}, {names.setting(name, shared[name])}"
      if len(values[title]) > 1 and shared[name] not in _UNNAMED
      else title
      for title, shared in zip(found, settings, strict=True)
    ]
  return found
