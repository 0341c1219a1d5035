"""Results of a run, written once and read back with checks.

The last file of a finished run, DONE, holds the SHA-256 of the others, one line
each, as `sha256sum` writes and checks them. Runs of older versions have an
empty one; of their files, only the form is checked.
"""

from collections.abc import Collection, Mapping, Sequence
import math
from typing import Any, NamedTuple

from etils import epath
import numpy as np

from stnjax import evaluation, files
from stnjax.files import Damaged
from stnjax.training import config, gallery
from stnjax.training.config import Config

METRICS, EVALUATION, RESULTS = (
  "metrics.jsonl",
  "evaluation.npz",
  "results.json",
)
_SUMMED = (config.NAME, METRICS, EVALUATION, RESULTS)
TRACES = ("DONE", "FAILED", METRICS, EVALUATION, gallery.NAME, "checkpoints")
"""Files that only a run writes: a folder with one should have config.json."""

_NUMBERS = ("error", "seconds", "seconds_per_epoch", "peak_memory_mb")
_MEASURED = ("std", "none", "slope")  # of an alignment; may be unknown
_BY_IMAGE = ("by_image", "none_by_image")  # of newer runs
_LARGEST = 1e30
_PER_EPOCH = ("train_loss", "error", "seconds")
_MOST_SHOWN = 16  # rows, and columns, of images before and after the warp


class Record(NamedTuple):
  """Results of a finished run.

  Attributes:
    config: What the run began with.
    results: Contents of results.json, with NaN for null.
    metrics: Lines of metrics.jsonl, with NaN for null.
    evaluation: Arrays of evaluation.npz.
  """

  config: Config
  results: dict[str, Any]
  metrics: list[dict[str, Any]]
  evaluation: dict[str, np.ndarray]


def finish(
  folder: epath.Path,
  evaluation: Mapping[str, np.ndarray],
  results: Mapping[str, Any],
) -> None:
  """Writes the results of a run, and DONE last.

  Raises:
    RunError: If a file cannot be written.
  """
  files.write_arrays(folder / EVALUATION, evaluation)
  files.write_whole(folder / RESULTS, files.to_json(results, indent=2) + "\n")
  names = [name for name in _summed(folder) if (folder / name).exists()]
  files.write_whole(folder / "DONE", files.checksums(folder, names))


def read(folder: epath.Path) -> Record:
  """Reads back a finished run.

  Args:
    folder: Folder of the run.

  Raises:
    Damaged: If a file is missing or was changed; the message
      names it and how to repair it.
  """
  run = config.read(folder)
  done, path = folder / "DONE", folder / RESULTS
  with files.advising(
    f"delete {done} and train again to evaluate the last checkpoint again, or"
    f" delete {folder} to train the run again"
  ):
    if files.read(done):
      files.compare_checksums(done, _summed(folder))
    metrics = read_metrics(folder)
    check_epochs(folder, metrics, run.settings.epochs, run.axes)
    evaluation = read_evaluation(folder, run)
    results = check_results(path, files.read_json(path), run.axes)
    _compare(path, results, evaluation)
  return Record(run, results, metrics, evaluation)


def _summed(folder: epath.Path) -> tuple[str, ...]:
  """Files of a finished run that have checksums; not every run has images."""
  shown = bool((folder / gallery.NAME).exists())
  return _SUMMED + (gallery.NAME,) * shown


def read_metrics(folder: epath.PathLike) -> list[dict[str, Any]]:
  """The lines of a run's metrics.jsonl; without one cut off by a kill.

  Raises:
    Damaged: If a line is not one of metrics.
  """
  path = epath.Path(folder) / METRICS
  if not path.exists():
    return []
  lines = files.read(path).split(b"\n")
  found = [_with_nan(files.parse_json(path, line)) for line in lines[:-1]]
  step = 0
  for line in found:
    _require(path, isinstance(line, dict), "a line is not a JSON object")
    _require(path, _is_whole(line.get("step"), step + 1), "steps do not rise")
    step = line["step"]
  return found


def check_epochs(
  folder: epath.Path,
  lines: Sequence[dict[str, Any]],
  epochs: int,
  axes: Collection[str],
) -> None:
  """Checks that metrics cover all epochs.

  Args:
    folder: Folder of the run.
    lines: Lines of metrics.jsonl.
    epochs: Number that there must be.
    axes: Names of the axes along which the run measures alignment.

  Raises:
    Damaged: If an epoch, or a number of it, is missing.
  """
  path = folder / METRICS
  _require(
    path, len(lines) == epochs, f"it has {len(lines)} of {epochs} epochs"
  )
  for epoch, line in enumerate(lines, 1):
    _require(path, line.get("epoch") == epoch, f"epoch {epoch} is missing")
    fine = all(_is_number(line.get(name)) for name in _PER_EPOCH)
    _require(path, fine, f"epoch {epoch} lacks numbers")
    found = line.get("alignment", {})
    fits = isinstance(found, dict) and set(found) == set(axes)
    fits = fits and all(map(_is_number, found.values()))
    _require(path, fits, f"alignment of epoch {epoch} is {found!r}")


def read_evaluation(folder: epath.Path, run: Config) -> dict[str, np.ndarray]:
  """The arrays of evaluation.npz.

  Raises:
    Damaged: If one is missing, or they fit neither each other nor the run.
  """
  path = folder / EVALUATION
  arrays = files.read_arrays(path)

  def require(
    name: str, kinds: str, *shapes: tuple[int, ...], finite: bool = True
  ) -> np.ndarray:
    _require(path, name in arrays, f"it has no {name}")
    array = arrays[name]
    fits = array.dtype.kind in kinds and array.shape in shapes
    _require(path, fits, f"{name} is {array.dtype} {array.shape}")
    known = array.dtype.kind in "iu" or not finite
    fine = known or bool(np.isfinite(array).all())
    _require(path, fine, f"{name} is not finite")
    return array

  heads = (run.task.heads,) if run.task.heads > 1 else ()
  count = max(1, len(np.atleast_1d(arrays.get("label", 0))))
  passes = (run.settings.eval_passes, count)
  label = require("label", "iu", (count, *heads))
  for array in (label, require("predicted", "iu", (*passes, *heads))):
    inside = array.min() >= 0 and array.max() < run.task.num_classes
    _require(path, inside, "it has classes that the set has not")
  require("pose", "f", (*passes, 2, 3), (*passes, 3, 3))
  if "first_pose" in arrays:
    require("first_pose", "f", arrays["pose"].shape)
  for axis in run.axes:
    require(f"true_{axis}", "f", passes)
    # NaN for a pose that cannot be inverted.
    require(f"predicted_{axis}", "f", passes, finite=False)
  rows, columns, _ = run.task.image_shape
  most = (_MOST_SHOWN, _MOST_SHOWN, rows, columns, 3)
  none = np.zeros(0)
  shown = [arrays.get(name, none).shape for name in ("before", "after")]
  for name, shape in zip(("before", "after"), shown):
    fits = len(shape) == 5 and all(shape) and shape[:2] == shown[0][:2]
    fits = fits and all(np.array(shape) <= most) and shape[-1] in (1, 3)
    _require(path, fits, f"{name} has shape {shape}")
    require(name, "u", shape)
  return arrays


def check_results(
  path: epath.Path, values: Any, axes: Collection[str] | None = None
) -> dict[str, Any]:
  """Checks the form of a run's results.

  Args:
    path: File that they are from, to name in errors.
    values: Results, parsed.
    axes: Names of the axes along which the run measured alignment; any by
      default.

  Returns:
    The results, with NaN for null.

  Raises:
    Damaged: If something is missing or of another form.
  """
  values = _with_nan(values)
  _require(path, isinstance(values, dict), "it holds no results")
  for name in _NUMBERS:
    fine = _is_number(values.get(name)) and 0 <= values[name] < math.inf
    _require(path, fine, f"{name} is {values.get(name)!r}")
  _require(path, values["error"] <= 1, f"error is {values['error']}")
  hardware, counts = values.get("hardware"), values.get("parameters")
  _require(path, isinstance(hardware, str), f"hardware is {hardware!r}")
  counted = isinstance(counts, dict) and all(
    _is_whole(counts.get(name), 0) for name in ("total", "localisation")
  )
  _require(path, counted, f"parameters is {counts!r}")
  found = values.get("alignment", {})
  fits = isinstance(found, dict) and (axes is None or {*found} == {*axes})
  _require(path, fits, f"alignment is {found!r}")
  for axis, measured in found.items():
    fits = isinstance(measured, dict) and all(
      _is_number(measured.get(name)) for name in _MEASURED
    )
    fits = fits and all(
      _is_number(measured.get(name, math.nan)) for name in _BY_IMAGE
    )
    classes = measured.get("by_class") if fits else None
    fits = isinstance(classes, list) and all(map(_is_number, classes))
    _require(
      path, fits and bool(classes), f"alignment of {axis} is {measured!r}"
    )
  _check_newer(path, values)
  return dict(values)


def _check_newer(path: epath.Path, values: Mapping[str, Any]) -> None:
  """Checks the results that runs of older versions lack."""
  same = values.get("same_answer", math.nan)
  fine = _is_number(same) and not (same < 0 or same > 1)
  _require(path, fine, f"same_answer is {same!r}")
  operations = values.get("operations", 1)
  fine = operations is None or _is_whole(operations, 0)
  _require(path, fine, f"operations is {operations!r}")
  authors = values.get("authors", {})
  _require(path, isinstance(authors, dict), f"authors is {authors!r}")
  for axis, measured in authors.items():
    fits = isinstance(measured, dict) and isinstance(measured.get("unit"), str)
    fits = fits and all(
      _is_number(measured.get(name)) for name in (*_MEASURED, "intercept")
    )
    _require(path, fits, f"authors' {axis} is {measured!r}")


def _compare(
  path: epath.Path,
  results: Mapping[str, Any],
  arrays: Mapping[str, np.ndarray],
) -> None:
  """Compares results with the predictions that they are of."""
  label = arrays["label"]
  wrong = [evaluation.error_rate(one, label) for one in arrays["predicted"]]
  same = abs(np.mean(wrong) - results["error"]) < 1e-6
  _require(path, same, f"error is not that of {EVALUATION}")
  kept = results.get("same_answer", math.nan)
  found = evaluation.same_answer(arrays["predicted"])
  same = math.isnan(kept) or abs(kept - found) < 1e-6
  _require(path, same, f"same_answer is not that of {EVALUATION}")
  for measured in results.get("alignment", {}).values():
    by_class = measured["by_class"]
    same = len(by_class) == len(np.unique(label))
    _require(path, same, f"by_class has {len(by_class)} classes")


def _with_nan(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _with_nan(item) for key, item in value.items()}
  if isinstance(value, list):
    return [_with_nan(item) for item in value]
  return math.nan if value is None else value


def _require(path: epath.Path, fine: bool, why: str) -> None:
  if not fine:
    raise Damaged(f"{path} is damaged: {why[:200]}")


def _is_number(value: Any) -> bool:
  """Whether it is a number of plausible size, or NaN: not known."""
  number = isinstance(value, int | float) and not isinstance(value, bool)
  return number and not abs(value) > _LARGEST


def _is_whole(value: Any, least: int) -> bool:
  return type(value) is int and value >= least
