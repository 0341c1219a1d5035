"""The finished runs of a workdir, read back; damaged runs are left out, named.

Reports, claims and predictions are made of them. Everything comes from the
folders of the runs: no data set, perturbation or backbone need be registered.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import re
import sys
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from stnjax import alignability, files
from stnjax.alignability import stored
from stnjax.training import config, description, gallery, records, settings
from stnjax.training.description import TaskDescription
from stnjax.training.settings import Settings

AUDIT = "audit.json"
LOCALISABILITY = "localisability.json"


class Finished(NamedTuple):
  """A finished run, read back.

  Attributes:
    settings: Settings of the run.
    task: Task of the run.
    results: Contents of its results.json.
    metrics: Lines of its metrics.jsonl.
    folder: Folder of the run.
    audits: Audits by state of the network.
    readouts: Contents of its localisability.json; empty if it has none.
    classes: Classes of the test images, in the order of `by_class`.
  """

  settings: Settings
  task: TaskDescription
  results: dict[str, Any]
  metrics: Sequence[dict[str, Any]] = ()
  folder: epath.Path | None = None
  audits: Mapping[str, alignability.Audit] = {}
  readouts: Mapping[str, Any] = {}
  classes: Sequence[int] = ()

  @property
  def alignment(self) -> Mapping[str, Mapping[str, Any]]:
    """Measured alignment by axis; empty where none is measured."""
    return self.results.get("alignment", {})

  @property
  def authors(self) -> Mapping[str, Mapping[str, Any]]:
    """Alignment as the perturbation's authors measure it, by axis; or empty."""
    return self.results.get("authors", {})

  def evaluation(self) -> Mapping[str, np.ndarray]:
    """The arrays of its evaluation.npz, see `stnjax.training.run_folder`."""
    run = config.Config(self.settings, self.task)
    return records.read_evaluation(self.folder, run)

  def gallery(self) -> Mapping[int, np.ndarray]:
    """Images that it warped while it trained, by epoch; empty if not kept."""
    return gallery.read(self.folder)

  def to_json(self) -> dict[str, Any]:
    """The entry of a report's results.json, which `read_results` reads."""
    return {
      "settings": dataclasses.asdict(self.settings),
      "task": self.task.to_json(),
      "results": self.results,
    }


class LeftOut(NamedTuple):
  """A run that is not reported.

  Attributes:
    name: Name of the run, or path of the file, with its state in brackets.
    damage: Description of the damage; empty for an unfinished run.
  """

  name: str
  damage: str = ""

  def __str__(self):
    return f"{self.name}: {self.damage}" if self.damage else self.name


def read(root: epath.Path) -> tuple[list[Finished], list[LeftOut]]:
  """Reads the finished runs of a workdir.

  Args:
    root: The workdir.

  Returns:
    The finished runs, and the runs that are damaged or not finished.

  Raises:
    RunError: If the workdir cannot be listed.
  """
  finished, left_out = [], []
  for folder in files.subfolders(root):
    try:
      if not (folder / config.NAME).exists():
        if any((folder / name).exists() for name in records.TRACES):
          raise files.Damaged(
            f"{folder / config.NAME} is missing; {config.retraining(folder)}"
          )
      elif (folder / "DONE").exists():
        finished.append(_read_run(folder))
      else:
        failed = (folder / "FAILED").exists()
        left_out.append(LeftOut(folder.name + (" (failed)" if failed else "")))
    except (files.Damaged, OSError) as error:
      unknown = isinstance(error, config.NotRegistered)
      state = "not registered" if unknown else "damaged"
      left_out.append(LeftOut(f"{folder.name} ({state})", str(error)))
  return finished, left_out


def _read_run(folder: epath.Path) -> Finished:
  run, results, metrics, arrays = records.read(folder)
  audits = read_audits(folder)
  if trained := audits.get("trained"):
    results["undone"] = {
      name: np.round(profile, 4).tolist()
      for name, profile in trained.profile().items()
    }
  readouts = read_readouts(folder)
  if readouts:
    results["read"] = _poses_read(readouts)
  classes = np.unique(arrays["label"]).tolist()
  return Finished(
    run.settings,
    run.task,
    results,
    metrics,
    folder,
    audits,
    readouts,
    classes,
  )


def read_readouts(folder: epath.Path) -> dict[str, Any]:
  """Reads how well poses are read from the layers of a run's network.

  Returns:
    See `localising.measure`; empty if nothing was read.

  Raises:
    Damaged: If the file cannot be read.
  """
  path = folder / LOCALISABILITY
  if not path.exists():
    return {}
  try:
    found = files.read_json(path)
    for state in ("trained", "untrained"):
      for by_axis in found["states"][state].values():
        for axis in found["units"]:
          for readout in by_axis[axis].values():
            float(readout["r2"]), float(readout["error"])
    _poses_read(found)
    return found
  except (*files.UNREADABLE, StopIteration) as error:
    raise files.Damaged(
      f"cannot read {path}: {error!r}; delete it, or run"
      " experiments.localisability again"
    ) from error


def _poses_read(readouts: Mapping[str, Any]) -> dict[str, list[float]]:
  """R² of the layers of the trained network by axis; of the dense net if any.

  Raises:
    StopIteration: If there is no reader.
  """
  readers = readouts["states"]["trained"]
  by_axis = readers.get("dense") or next(iter(readers.values()))
  return {
    axis: [float(readout["r2"]) for readout in layers.values()]
    for axis, layers in by_axis.items()
  }


def read_results(folder: epath.Path) -> tuple[list[Finished], list[LeftOut]]:
  """Reads the runs that a report's results.json holds, if a folder has one.

  They have neither metrics nor evaluation, but can be compared.
  """
  path = folder / records.RESULTS
  is_run = any(
    (folder / name).exists() for name in (config.NAME, *records.TRACES)
  )
  if is_run or not path.exists():  # a run's results.json has another form
    return [], []
  try:
    return [_from_json(path, value) for value in files.read_json(path)], []
  except files.Damaged as error:
    return [], [LeftOut(f"{path} (damaged)", str(error))]
  except files.UNREADABLE as error:
    damage = f"cannot read {path}: {error}"
    return [], [LeftOut(f"{path} (damaged)", damage)]


def _from_json(path: epath.Path, value: Mapping[str, Any]) -> Finished:
  """Reads what `Finished.to_json` made; raises some error if it is damaged."""
  run = config.Config(
    settings.from_json(value["settings"]),
    description.from_json(value["task"]),
  )
  results = records.check_results(path, value["results"], run.axes)
  for key in ("undone", "read"):
    _check_profiles(path, results.get(key, {}))
  return Finished(run.settings, run.task, results)


def _check_profiles(path: epath.Path, profiles: Mapping[str, Any]) -> None:
  """Raises unless these are shares by family or axis, and layer."""
  shares = np.array([*profiles.values()], np.float64)  # raises if ragged
  if profiles and (shares.ndim != 2 or not shares.size):
    raise files.Damaged(f"{path} is damaged: a profile has no layers")


def read_all(root: epath.Path) -> tuple[list[Finished], list[LeftOut]]:
  """Reads the runs of a workdir and of its folders, and what reports kept.

  Runs with the same settings count once, and runs on the validation split, for
  tuning, not at all. Damaged runs are named on stderr.

  Args:
    root: The workdir.

  Returns:
    The finished runs, and the runs and reports that are left out.

  Raises:
    RunError: If no run is finished.
  """
  folders = [root, *files.subfolders(root)]
  runs = [read(folder) for folder in folders]
  reports = [
    read_results(folder)
    for folder in folders
    # A report on runs that are here adds nothing, and may be outdated.
    if not (folder.name == "report" and runs[0][0])
  ]
  left_out = [item for _, others in (*runs, *reports) for item in others]
  unique: dict[Settings, Finished] = {}
  # Runs come last, and replace their results in reports.
  for finished in (run for found, _ in (*reports, *runs) for run in found):
    if not finished.settings.use_validation_split:
      before = unique.get(finished.settings, finished)
      # Presets share runs: an audit of one is an audit of all.
      results = {**before.results, **finished.results}
      unique[finished.settings] = finished._replace(results=results)
  announce(left_out)
  if not unique:
    raise none_in(root, left_out)
  return [*unique.values()], left_out


def pattern_of(only: str) -> re.Pattern[str]:
  """The pattern of --only, which names of runs must match somewhere.

  Raises:
    ValueError: If it is not a valid regular expression.
  """
  try:
    return re.compile(only)
  except re.error as error:
    raise ValueError(
      f"--only={only!r} is not a valid regular expression: {error}"
    ) from error


def announce(left_out: Sequence[LeftOut]) -> None:
  """Names damaged runs on stderr."""
  for item in left_out:
    if item.damage:
      print(f"left out: {item}", file=sys.stderr, flush=True)


def none_in(root: epath.Path, left_out: Sequence[LeftOut]) -> files.RunError:
  """The error of a workdir without finished runs."""
  damaged = [str(item) for item in left_out if item.damage]
  if damaged:
    reason = f"; damaged: {'; '.join(damaged)}"
  elif root.exists():
    reason = ""
  else:
    reason = ": there is no such folder"
  return files.RunError(f"{root} holds no finished run{reason}")


def write_audits(
  folder: epath.Path, audits: Mapping[str, alignability.Audit]
) -> None:
  """Writes audits of a run's network, by its state, to the run's folder.

  Raises:
    RunError: If the file cannot be written.
  """
  files.write_whole(folder / AUDIT, stored.to_json(audits))


def read_audits(folder: epath.Path) -> dict[str, alignability.Audit]:
  """Reads the audits of a run's network; empty if it has none.

  Raises:
    Damaged: If the file cannot be read.
  """
  path = folder / AUDIT
  if not path.exists():
    return {}
  try:
    return stored.from_json(files.read(path).decode())
  except files.UNREADABLE as error:
    raise files.Damaged(
      f"cannot read {path}: {type(error).__name__}: {error}; delete it, or run"
      " experiments.audit again"
    ) from error
