"""The finished runs of a workdir, read back: damaged ones are left out, named.

Reports, claims and predictions are made of them.
"""

from collections.abc import Mapping, Sequence
import hashlib
import sys
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from stnjax import alignability, files
from stnjax.training import records, runs


class Finished(NamedTuple):
  """A finished run, read back.

  Attributes:
    settings: Settings of the run.
    results: Contents of its results.json.
    metrics: Lines of its metrics.jsonl.
    folder: Where it is.
    audits: By state of the network.
    classes: Those of the test images, in the order of `by_class`.
  """

  settings: runs.Settings
  results: dict[str, Any]
  metrics: list[dict[str, Any]]
  folder: epath.Path
  audits: Mapping[str, alignability.Audit] = {}
  classes: Sequence[int] = ()

  def evaluation(self) -> Mapping[str, np.ndarray]:
    return records.read_evaluation(self.folder, self.settings)


class LeftOut(NamedTuple):
  """A run that is not reported.

  Attributes:
    name: Name of the run, or path of the file, with the state in brackets.
    damage: What is wrong with its files; empty for a run that is not finished.
  """

  name: str
  damage: str = ""

  def __str__(self):
    return f"{self.name}: {self.damage}" if self.damage else self.name


def read(root: epath.Path) -> tuple[list[Finished], list[LeftOut]]:
  """The finished runs of a workdir, and the others.

  Raises:
    RunError: If the workdir cannot be listed.
  """
  finished, left = [], []
  for folder in files.subfolders(root):
    try:
      if not (folder / "config.json").exists():
        if any((folder / name).exists() for name in records.TRACES):
          raise runs.Damaged(
            f"{folder / 'config.json'} is missing; delete {folder} to train the"
            " run anew"
          )
      elif (folder / "DONE").exists():
        finished.append(_read_run(folder))
      else:
        failed = (folder / "FAILED").exists()
        left.append(LeftOut(folder.name + (" (failed)" if failed else "")))
    except (runs.Damaged, OSError) as error:
      left.append(LeftOut(f"{folder.name} (damaged)", str(error)))
  return finished, left


def _read_run(folder: epath.Path) -> Finished:
  settings = runs.read_settings(folder)
  results, metrics, arrays = records.read(folder, settings)
  audits = read_audits(folder)
  if trained := audits.get("trained"):
    results["undone"] = {
      name: np.round(profile, 4).tolist()
      for name, profile in trained.profile().items()
    }
  classes = np.unique(arrays["label"]).tolist()
  return Finished(settings, results, metrics, folder, audits, classes)


def read_results(folder: epath.Path) -> tuple[list[Finished], list[LeftOut]]:
  """The runs of which a report left its results.json in a folder, if any.

  They have no metrics and no evaluation: enough to be compared.
  """
  path = folder / "results.json"
  run = any(
    (folder / name).exists() for name in ("config.json", *records.TRACES)
  )
  if run or not path.exists():  # results.json of a run is its own
    return [], []
  found = []
  try:
    for value in records.parse(path, files.read(path)):
      settings = runs.settings_from_json(value["settings"])
      results = records.check_results(path, value["results"], settings)
      _check_undone(path, results.get("undone", {}))
      found.append(Finished(settings, results, [], folder))
  except runs.Damaged as error:
    return [], [LeftOut(f"{path} (damaged)", str(error))]
  except files.UNREADABLE as error:
    damage = f"cannot read {path}: {error}"
    return [], [LeftOut(f"{path} (damaged)", damage)]
  return found, []


def announce(left: Sequence[LeftOut]) -> None:
  """Names damaged runs on the terminal."""
  for one in left:
    if one.damage:
      print(f"left out: {one}", file=sys.stderr, flush=True)


def none_in(root: epath.Path, left: Sequence[LeftOut]) -> runs.RunError:
  """The error of a workdir without finished runs."""
  damaged = [str(one) for one in left if one.damage]
  but = f"; damaged: {'; '.join(damaged)}" if damaged else ""
  return runs.RunError(f"{root} holds no finished run{but}")


def write_audits(
  folder: epath.Path, audits: Mapping[str, alignability.Audit]
) -> None:
  """Writes audits of a run's network, by its state, to the run's folder.

  Raises:
    RunError: If the file cannot be written.
  """
  values = {
    state: {
      "families": {
        name: {"magnitudes": family.magnitudes, "unit": family.unit}
        for name, family in audit.families.items()
      },
      "geometry": {
        layer: where._asdict() for layer, where in audit.geometry.items()
      },
      "residuals": {
        layer: {
          name: {
            kind: np.round(value.astype(np.float64), 5).tolist()
            for kind, value in residuals._asdict().items()
          }
          for name, residuals in by_family.items()
        }
        for layer, by_family in audit.residuals.items()
      },
    }
    for state, audit in audits.items()
  }
  text = files.to_json({"sha256": _sum(values), "audits": values})
  files.write_whole(folder / "audit.json", text + "\n")


def read_audits(folder: epath.Path) -> dict[str, alignability.Audit]:
  """What `write_audits` wrote; nothing where it did not.

  The families cannot transform any more: their matrices are not kept.

  Raises:
    Damaged: If the file cannot be read.
  """
  path = folder / "audit.json"
  if not path.exists():
    return {}
  try:
    kept = records.parse(path, files.read(path))
    if "sha256" in kept:  # older versions wrote none
      if kept["sha256"] != _sum(kept["audits"]):
        raise ValueError("its checksum does not match")
      kept = kept["audits"]
    audits = {state: _audit(values) for state, values in kept.items()}
    if len({(a.layers, tuple(a.families)) for a in audits.values()}) != 1:
      raise ValueError("its states are not those of one network")
    return audits
  except files.UNREADABLE as error:
    raise runs.Damaged(
      f"cannot read {path}: {type(error).__name__}: {error}; delete it, or run"
      " experiments.audit again"
    ) from error


def _audit(values: Mapping[str, Any]) -> alignability.Audit:
  """An audit from what JSON made of it; raises some error if it is none."""
  audit = alignability.Audit(
    {
      name: alignability.Family(None, tuple(f["magnitudes"]), f["unit"])
      for name, f in values["families"].items()
    },
    {
      layer: alignability.Geometry(*map(tuple, where.values()))
      for layer, where in values["geometry"].items()
    },
    {
      layer: {
        name: alignability.Residuals(
          # NaN for null
          **{k: np.array(value, np.float64) for k, value in residuals.items()}
        )
        for name, residuals in by_family.items()
      }
      for layer, by_family in values["residuals"].items()
    },
  )
  if not audit.layers or set(audit.geometry) != set(audit.layers):
    raise ValueError("its layers are not those of a network")
  for where in audit.geometry.values():
    np.array(where, np.float64).reshape(3, 2)
  for by_family in audit.residuals.values():
    for name, family in audit.families.items():
      *residuals, coverage = by_family[name]
      shape = (len(family.magnitudes), residuals[0].shape[1])
      if coverage.shape != shape[:1] or any(
        r.shape != shape for r in residuals
      ):
        raise ValueError(f"residuals of {name} have other shapes")
      np.array(family.magnitudes, np.float64)
  return audit


def _check_undone(path: epath.Path, profiles: Mapping[str, Any]) -> None:
  """Raises unless these are shares by family and layer."""
  shares = np.array([*profiles.values()], np.float64)  # raises if ragged
  if profiles and (shares.ndim != 2 or not shares.size):
    raise runs.Damaged(f"{path} is damaged: what is undone has no layers")


def _sum(values: Any) -> str:
  return hashlib.sha256(files.to_json(values).encode()).hexdigest()
