"""A run: its settings, and the folder that holds all it wrote.

<workdir>/<name of the run>/
  config.json      settings, task, a fingerprint of the training images, and
                   the checksum of the checkpoint of a warm start; a folder
                   with others is refused
  metrics.jsonl    one line per epoch
  gallery.npz      a few images, warped by the network at some epochs; only
                   with a transformer
  checkpoints/     the last states, by step (orbax)
  tensorboard/     event files with the scalars of metrics.jsonl, only with
                   --tensorboard
  evaluation.npz   of the finished run, per test image: label, prediction,
                   pose (and that of the first run of the transformer, if it
                   runs several times), true and predicted position along each
                   axis; and a few images before and after the warp
  results.json     of the finished run: error, invariance, alignment (and as
                   the authors of the perturbation measure it), parameters,
                   time
  DONE             written last, with the checksums of the files above
  FAILED           instead, where numbers were no longer finite: why
  lock             while a process trains it
"""

from collections.abc import Iterator, Sequence
import contextlib
from typing import Any

import jax
import numpy as np

from stnjax import files
from stnjax.files import Damaged as Damaged
from stnjax.files import RunError as RunError
from stnjax.training import (
  checkpoints,
  config,
  gallery,
  layout,
  records,
  steps,
)
from stnjax.training.description import TaskDescription
from stnjax.training.settings import Settings


class Run:
  """The folder of one run.

  Several processes may hold the same run; only the first of them writes, but
  for checkpoints, which orbax coordinates.

  Attributes:
    settings: of the run.
    path: the folder.
    writes: whether this process writes the files, but for checkpoints.
    seconds: time trained since the last line of metrics, which checkpoints
      keep: whoever trains adds to it.
  """

  def __init__(
    self,
    workdir: str,
    settings: Settings,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Names the folder of a run, and checks its content.

    Args:
      workdir: folder of all runs, local or `gs://`.
      settings: of this run.
      devices: that train it; those of all processes by default.

    Raises:
      RunError: where the folder belongs to a run with other settings, or is
        no run folder.
      Damaged: where it is a run's whose config.json is missing or unreadable.
    """
    self.settings = settings
    self.path = config.folder(workdir, settings)
    self.seconds = 0.0
    self._config: config.Config | None = None
    devices = jax.devices() if devices is None else devices
    processes = layout.processes(devices)
    self.writes = jax.process_index() == processes[0]
    self._checkpoints = checkpoints.Checkpoints(
      self.path / "checkpoints", settings.name, processes
    )
    self._check()

  @property
  def done(self) -> bool:
    """Whether the run is finished."""
    return bool((self.path / "DONE").exists())

  @property
  def failed(self) -> str:
    """Why the run failed; empty where it did not."""
    path = self.path / "FAILED"
    if not path.exists():
      return ""
    with files.advising(config.retraining(self.path)):
      reason = files.read(path)
    return reason.decode(errors="replace").strip() or "it failed"

  def metrics(self) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, one per epoch.

    Raises:
      Damaged: where a line is not one of metrics.
    """
    with files.advising(config.retraining(self.path)):
      return records.read_metrics(self.path)

  def check_metrics(self, step: int, epochs: int) -> None:
    """Checks that metrics up to a step cover as many epochs.

    Raises:
      Damaged: where an epoch, or a number of it, is missing.
    """
    lines = [line for line in self.metrics() if line["step"] <= step]
    with files.advising(config.retraining(self.path)):
      # Another process may still be writing config.json.
      axes = (self._config or config.read(self.path)).axes
      records.check_epochs(self.path, lines, epochs, axes)

  def results(self) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
      Damaged: where a file of the run was changed.
    """
    return records.read(self.path).results

  @contextlib.contextmanager
  def claimed(self) -> Iterator[None]:
    """Keeps other processes from training the run meanwhile.

    Raises:
      RunError: where one does, or the folder cannot be written.
    """
    with files.claimed(self.path) if self.writes else contextlib.nullcontext():
      yield

  def start(
    self, task: TaskDescription, images: str = "", source: str = ""
  ) -> None:
    """Makes the folder, if it is not there.

    Args:
      task: Task of the run.
      images: Fingerprint of the training images, see `config.fingerprint`.
      source: Checksum of the checkpoint that the run starts from, see
        `warm_start.start`; empty without one.

    Raises:
      RunError: where it cannot be written, or where the run began on other
        images, with another task, or from another checkpoint.
    """
    self._config = config.Config(self.settings, task, images, source)
    if not self.writes:
      return
    with files.writing(self.path):
      self.path.mkdir(parents=True, exist_ok=True)
    if (self.path / config.NAME).exists():
      before = config.read(self.path)
      same_images = not images or before.images in ("", images)
      if not same_images or before.task != task:
        what = "another task" if same_images else "other images"
        raise RunError(
          f"{self.path} began on {what} of {self.settings.dataset} than those"
          " that are there now, perhaps of another version; choose another"
          " workdir, or delete the folder to train it again"
        )
      if before.source != source:
        raise RunError(
          f"{self.path} began from another checkpoint than"
          f" warm_start={self.settings.warm_start!r} has now; choose another"
          " workdir, or delete the folder to train it again"
        )
    self._write(config.NAME, self._config.to_json())

  def append(self, line: dict[str, Any]) -> None:
    """Adds one epoch to metrics.jsonl and resets `seconds`.

    Raises:
      RunError: where it has the epoch, which another process must have added.
    """
    self.seconds = 0.0
    if not self.writes:
      return
    lines = self.metrics()
    if lines and lines[-1]["step"] >= line["step"]:
      raise RunError(
        f"{self.path} already has step {line['step']}: is another process"
        " training the same run?"
      )
    self._write_metrics([*lines, line])

  def keep_images(self, epoch: int, images: np.ndarray) -> None:
    """Adds the warped images of an epoch to gallery.npz.

    Args:
      epoch: Number of the epoch, the highest so far.
      images: `[N, H, W, C]`, uint8, the same images in every epoch.

    Raises:
      RunError: where the file cannot be read or written.
    """
    if self.writes:
      kept = gallery.read(self.path)
      gallery.write(self.path, {**kept, epoch: images})

  def saved_step(self) -> int:
    """Step of the last checkpoint; 0 where there is none.

    Raises:
      Damaged: where the folder of checkpoints cannot be listed.
    """
    return self._checkpoints.last_step()

  def save(self, state: steps.TrainState) -> None:
    """Writes a checkpoint of the state, unless its step has one.

    Raises:
      RunError: where it cannot be written.
    """
    self._checkpoints.save(
      int(state.step), checkpoints.named_arrays(state), self.seconds
    )

  def restore(self, fresh: steps.TrainState) -> steps.TrainState:
    """Reads the last checkpoint; returns `fresh` if there is none.

    Metrics and images of epochs after the checkpoint are taken back, as they
    will be computed again, the same.

    Args:
      fresh: a state of this run's shapes.

    Raises:
      RunError: where the checkpoint cannot be read or does not fit.
    """
    state = self.last_state(fresh)
    step = int(state.step)
    if self.writes:
      lines = self.metrics()  # without one that a kill cut off
      lines = [line for line in lines if line["step"] <= step]
      self._write_metrics(lines)
      with files.advising(f"delete {self.path / gallery.NAME}"):
        kept = gallery.read(self.path)
      kept = {k: images for k, images in kept.items() if k <= len(lines)}
      gallery.write(self.path, kept)
    return state

  def last_state(self, fresh: steps.TrainState) -> steps.TrainState:
    """The state of the last checkpoint, and its `seconds`; writes nothing.

    Args:
      fresh: a state of this run's shapes; returned where there is none.

    Raises:
      RunError: where the checkpoint cannot be read or does not fit.
    """
    step = self.saved_step()
    if not step:
      return fresh
    leaves = checkpoints.named_arrays(fresh)
    found, self.seconds = self._checkpoints.restore(step, leaves)
    values = [found[name] for name in leaves]
    structure = jax.tree.structure(fresh)
    state: steps.TrainState = jax.tree.unflatten(structure, values)
    return state

  def finish(
    self, evaluation: dict[str, np.ndarray], results: dict[str, Any]
  ) -> None:
    """Writes the results of a finished run, and marks it done.

    Raises:
      RunError: where a file cannot be written.
    """
    if self.writes:
      records.finish(self.path, evaluation, results)

  def fail(self, why: str) -> None:
    """Marks the run as one that cannot be finished."""
    if self.writes:
      self._write("FAILED", why)

  def _check(self) -> None:
    """Raises unless the folder is this run's, or free."""
    try:
      names = {entry.name for entry in self.path.iterdir()}
    except FileNotFoundError:
      return
    except OSError as error:
      if not self.path.parent.is_dir():  # no run's fault, but the workdir's
        raise RunError(f"cannot use {self.path}: {error}") from error
      raise Damaged(
        f"cannot use {self.path}: {error.strerror};"
        f" {config.retraining(self.path)}"
      ) from error
    if config.NAME not in names:
      if names & {*records.TRACES, records.RESULTS}:
        raise Damaged(
          f"{self.path / config.NAME} is missing;"
          f" {config.retraining(self.path)}"
        )
      if names - {f"{config.NAME}.partial", "lock"}:  # a kill can leave those
        raise RunError(
          f"{self.path} is not a run folder (no {config.NAME}), and not empty;"
          " choose another workdir"
        )
      return
    changes = config.changes(config.read(self.path), self.settings)
    if changes:
      raise RunError(
        f"{self.path} holds a run with other settings ({changes}); choose"
        " another workdir"
      )

  def _write(self, name: str, text: str) -> None:
    files.write_whole(self.path / name, text)

  def _write_metrics(self, lines: list[dict[str, Any]]) -> None:
    # Whole, as gs:// has no appending.
    self._write(
      "metrics.jsonl", "".join(files.to_json(k) + "\n" for k in lines)
    )
