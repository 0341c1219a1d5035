"""Analyses of finished runs: a JSON file for each, and a page for all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from experiments.reporting import finished, groups, page
from experiments.reporting.finished import Finished
from stnjax import files
from stnjax.files import RunError
from stnjax.training.run_folder import Run

Values = Mapping[str, Any]
"""Measurements of one run, for JSON."""


class NotApplicable(Exception):
  """A network that cannot be analysed; the message gives the reason."""


class Analysed(NamedTuple):
  """Runs that were analysed.

  Attributes:
    root: The workdir.
    runs: Finished runs.
    values: What was measured of each, by folder of the run.
    errors: Why others could not be analysed.
  """

  root: epath.Path
  runs: Sequence[Finished]
  values: Mapping[epath.Path, Values]
  errors: Sequence[RunError]

  def of(self, runs: Sequence[Finished]) -> list[Values]:
    """Measurements of some of the runs."""
    return [self.values[run.folder] for run in runs]


def analyse(
  workdir: str, only: str, name: str, measure: Callable[[Run], Values]
) -> Analysed:
  """Analyses finished runs, and writes `<name>.json` to the folder of each.

  Args:
    workdir: Folder of the runs.
    only: Regular expression that a run's name must match somewhere.
    name: Name of the analysis.
    measure: Function of a run that returns its measurements. Runs that raise
      `NotApplicable` are left out, and named on the terminal.

  Raises:
    ValueError: For an invalid expression, or a workdir that is neither local
      nor `gs://`.
    RunError: If no run is left.
  """
  root = files.place("workdir", workdir)
  pattern = finished.pattern_of(only)
  runs, left_out = finished.read(root)
  finished.announce(left_out)
  values, errors, reasons = {}, [], []
  for run in runs:
    if not pattern.search(run.folder.name):
      continue
    try:
      found = measure(Run(workdir, run.settings))
      text = files.to_json(found, indent=1) + "\n"
      files.write_whole(run.folder / f"{name}.json", text)
      values[run.folder] = found
      print(f"{run.folder.name}: {name}.json", flush=True)
    except (NotApplicable, RunError) as error:
      print(f"{run.folder.name}: left out: {error}", flush=True)
      reasons.append(f"{run.folder.name}: {error}")
      if isinstance(error, RunError):
        errors.append(error)
  if not values:
    why = f"; left out: {'; '.join(reasons)}" if reasons else ""
    raise RunError(f"{root} holds no finished run to analyse{why}")
  kept = [run for run in runs if run.folder in values]
  return Analysed(root, kept, values, errors)


def write_page(
  analysed: Analysed,
  name: str,
  title: str,
  parts: Callable[[groups.Group, int], Sequence[Any]],
) -> epath.Path:
  """Writes `<name>.md` to the workdir, a section for each group of runs.

  Args:
    analysed: The analysed runs.
    name: Name of the analysis.
    title: Title of the page.
    parts: Function of a group and its number, from 1, that returns the parts
      of its section, see `page.Section`.

  Returns:
    The path of the page.
  """
  sections = [
    page.Section(group.title, parts(group, number))
    for number, group in enumerate(groups.group(analysed.runs), 1)
  ]
  path = analysed.root / f"{name}.md"
  files.write_whole(path, page.markdown(title, sections))
  return path
