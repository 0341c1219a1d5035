"""Event files of TensorBoard, with the scalars of metrics.jsonl."""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import shutil
from typing import Any

import numpy as np

from stnjax import extras, files
from stnjax.training.run_folder import Run

FOLDER = "tensorboard"
"""Folder of the event files in that of a run."""

_POSITION = ("epoch", "step")  # of a line, not what it measures


def check(workdir: str) -> None:
  """Checks that event files can be written.

  Args:
    workdir: Folder of the runs.

  Raises:
    ModuleNotFoundError: If TensorBoard is not installed.
    ValueError: For a workdir that is not local.
  """
  extras.needs("tensorboard", extra="tensorboard")
  if workdir.startswith("gs://"):
    raise ValueError(f"--tensorboard needs a local --workdir, got {workdir}")


class Events:
  """Writes the scalars of runs while they train.

  Files are rewritten when training resumes, so that they always hold the
  lines of metrics.jsonl, each once.
  """

  def __init__(self, runs: Sequence[Run]):
    """Writes nothing yet.

    Args:
      runs: Runs that differ in their seed alone, in a local folder.
    """
    self._runs = {run.settings.seed: run for run in runs if run.writes}
    self._writers: dict[int, Any] = {}

  def epoch(self, seeds: Sequence[int], lines: Sequence[dict]) -> None:
    """Adds the lines of metrics.jsonl of an epoch, one per seed.

    Raises:
      RunError: If a file cannot be written.
    """
    for seed, line in zip(seeds, lines, strict=True):
      run = self._runs.get(seed)
      if run is None:
        continue
      with files.writing(run.path):
        if seed in self._writers:
          self._add(seed, line)
        else:
          self._start(run)
        self._writers[seed].flush()

  def close(self) -> None:
    """Closes the files."""
    while self._writers:
      self._writers.popitem()[1].close()

  def _start(self, run: Run) -> None:
    """Opens a new file with all epochs so far."""
    from tensorboard import summary  # only where it is asked for

    folder = run.path / FOLDER
    with contextlib.suppress(FileNotFoundError):
      shutil.rmtree(folder)
    seed = run.settings.seed
    self._writers[seed] = summary.Writer(str(folder))
    for line in run.metrics():
      self._add(seed, line)

  def _add(self, seed: int, line: Mapping[str, Any]) -> None:
    for tag, value in scalars(line):
      self._writers[seed].add_scalar(tag, np.float32(value), line["step"])


def scalars(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple]:
  """The numbers of a line of metrics.jsonl, with their names.

  Args:
    line: An epoch of metrics.jsonl.
    prefix: Name of the group that `line` is part of, with a slash.

  Yields:
    Names and numbers; in groups such as alignment, `alignment/rotation`.
  """
  for name, value in line.items():
    if isinstance(value, Mapping):
      yield from scalars(value, f"{prefix}{name}/")
    elif isinstance(value, int | float) and name not in _POSITION:
      yield f"{prefix}{name}", value
