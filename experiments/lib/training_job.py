"""Runs that differ in their seed alone, trained to their end in one program."""

from collections.abc import Callable, Sequence
import signal
import time
from typing import Any

import jax
import numpy as np

from experiments.lib import agreement, hardware, loading, measuring
from experiments.lib.signals import Interrupted, Signals
from stnjax import data, placement
from stnjax.files import RunError
from stnjax.training import (
  building,
  checkpoints,
  config,
  gallery,
  loops,
  trainer,
  warm_start,
)
from stnjax.training.run_folder import Run
from stnjax.training.steps import Prediction, TrainState

_FEW = 300  # steps, after which a network has learned little
_SECONDS_PER_DISPATCH = 2.0  # how soon a signal is heard

Progress = Callable[[Sequence[int], Sequence[dict[str, Any]]], None]
"""Called after each epoch, with its seeds and their lines of metrics."""


class TrainingJob:
  """Runs that differ in their seed alone, in one program, to their end."""

  def __init__(
    self,
    members: Sequence[Run],
    loaded: loading.Loaded,
    devices: Sequence[jax.Device],
    checkpoint_seconds: float,
    progress: Progress,
    errors: list[str],
  ):
    hardware.forget_peak_memory()
    self._setup, train_data, eval_data = loaded
    self._runs = members
    self._devices = devices
    self._settings = members[0].settings
    self._seeds = [run.settings.seed for run in members]
    self._checkpoint_seconds = checkpoint_seconds
    self._progress = progress
    self._errors = errors
    # The same images, perturbed several times, show the perturbation.
    varied = not self._setup.perturbation.axes
    self._examples = [
      eval_data.images[
        measuring.example_indices(eval_data.labels, row * varied)
      ]
      for row in range(measuring.EXAMPLE_ROWS)
    ]
    self._labels = eval_data.labels
    self._images = train_data.images
    self._per_epoch = loops.steps_per_epoch(
      len(self._images), self._settings.batch_size
    )
    self._trainer, fresh = self._build()
    self._resume(fresh)
    network = building.abstract_network(self._settings, self._setup)
    self._counts = placement.count_parameters(network)
    self._operations = placement.count_operations(network)
    self._train_data, self._eval_data = jax.device_put((train_data, eval_data))

  def _build(self) -> tuple[trainer.Trainer, TrainState]:
    settings = [run.settings for run in self._runs]
    return building.build_trainer(
      settings, self._setup, self._images, self._devices
    )

  def _resume(self, fresh: TrainState) -> None:
    """Reads the last checkpoints; drops runs that cannot continue."""
    task = self._setup.describe()
    images = config.fingerprint(self._images)
    states = [trainer.select_seed(fresh, i) for i in range(len(self._runs))]
    kept = np.ones(len(self._runs), bool)
    for i, run in enumerate(self._runs):
      try:
        begun = warm_start.start(states[i], run.settings, self._setup)
        run.start(task, images, begun.checksum)
        before = len(run.metrics())
        states[i] = run.restore(begun.state)
        step = int(states[i].step)
        if begun.report and not step:
          print(begun.report, flush=True)
        if before and not step:
          print(
            f"{run.path} has no checkpoint: its metrics of {before}"
            f" epoch{'s' * (before > 1)} are dropped, and it is trained from"
            " the start",
            flush=True,
          )
        run.check_metrics(step, step // self._per_epoch)
      except RunError as error:
        if agreement.shared(self._devices):
          raise  # the other processes would wait for this one
        self._errors.append(str(error))
        kept[i] = False
    self._states = trainer.stacked(*states)
    self._keep(kept)

  def _keep(self, kept: np.ndarray) -> None:
    """Drops the other runs."""
    if kept.all():
      return
    self._runs = [run for run, mine in zip(self._runs, kept) if mine]
    self._seeds = [run.settings.seed for run in self._runs]
    if self._runs:
      self._states = jax.tree.map(lambda x: x[kept], self._states)
      self._trainer, _ = self._build()

  @property
  def _name(self) -> str:
    seeds = ",".join(map(str, self._seeds))
    return f"{self._settings.network} seed {seeds}"

  @property
  def _step(self) -> int:
    return int(self._states.step[0])

  def train(self, signals: Signals) -> dict[int, dict[str, Any]]:
    """Trains and evaluates the runs, and writes their results, by seed.

    Runs that cannot be finished are missing; the list of errors has the
    reasons.
    """
    if not self._runs:
      return {}
    resumed = f"; resumed after step {self._step}" if self._step else ""
    steps = self._per_epoch * self._settings.epochs
    few = " (few: raise --epochs or lower --batch_size)" if steps < _FEW else ""
    print(
      f"{self._name}: {self._counts['total']:,} parameters,"
      f" {self._counts['localisation']:,} of them localisation,"
      f" {steps:,} steps{few} {self._trainer.layout}{resumed}",
      flush=True,
    )
    self._fit(signals)
    if not self._runs:
      return {}
    passes = []
    for index in range(self._settings.eval_passes):
      self._check(agreement.largest(self._devices, signals.received)[0])
      passes.append(self._evaluate(index))
    draws = [
      self._trainer.examples(self._states, images, draw)
      for draw, images in enumerate(self._examples)
    ]
    results = {}
    for i, run in enumerate(self._runs):
      predictions = [by_seed[i] for by_seed in passes]
      if not all(map(checkpoints.is_finite, jax.tree.leaves(predictions))):
        self._fail(run, "predictions or poses are not finite")
        continue
      drawn = [by_seed[i] for by_seed in draws]
      results[run.settings.seed] = self._finish(run, predictions, drawn)
    return results

  def _finish(
    self,
    run: Run,
    predictions: Sequence[Prediction],
    drawn: Sequence[tuple[np.ndarray, np.ndarray]],
  ) -> dict[str, Any]:
    """Writes the results of a run."""
    lines = run.metrics()
    seconds = sum(line["seconds"] for line in lines)
    memory = hardware.peak_memory_mb(agreement.first_local(self._devices))
    measured = self._positions(predictions)
    authors = measured and measuring.authors_alignment(
      self._setup.perturbation, predictions, self._labels, self._image_shape
    )
    results = {
      "parameters": self._counts,
      "operations": self._operations,
      **self._summary(predictions, measured),
      **({"authors": authors} if authors else {}),
      "seconds": round(seconds, 2),
      "seconds_per_epoch": round(seconds / len(lines), 3),
      "seeds_together": len(self._runs),
      "peak_memory_mb": round(memory),
      "hardware": hardware.describe(self._devices),
    }
    arrays = measuring.record(predictions, measured, self._labels, drawn)
    run.finish(arrays, results)
    return results

  def _check(self, signal_number: int) -> None:
    """Raises where a signal came, to any process; the state is saved."""
    if signal_number:
      raise Interrupted(
        f"{self._name} stopped by {signal.Signals(signal_number).name} after"
        f" step {self._step}, and saved; run the same command to resume",
        signal_number,
      )

  def _fit(self, signals: Signals) -> None:
    """Trains to the last epoch, logging each and saving now and then."""
    per_epoch = self._per_epoch
    total = per_epoch * self._settings.epochs
    step, dispatch = self._step, 1
    saved = time.monotonic()
    while step < total and self._runs:
      started = time.monotonic()
      num_steps = min(dispatch, per_epoch - step % per_epoch)
      self._states = jax.block_until_ready(
        self._trainer.train(self._states, self._train_data, num_steps)
      )
      took = time.monotonic() - started
      step += num_steps
      for run in self._runs:
        run.seconds += took / len(self._runs)
      self._drop_diverged(step)
      if step % per_epoch == 0 and self._runs:
        self._log(step // per_epoch)
      due = time.monotonic() - saved > self._checkpoint_seconds
      dispatch, due, stop = agreement.largest(
        self._devices,
        max(1, int(_SECONDS_PER_DISPATCH / took * num_steps)),
        due or step == total,
        signals.received,
      )
      if due or stop:
        for i, run in enumerate(self._runs):
          run.save(trainer.select_seed(self._states, i))
        saved = time.monotonic()
      self._check(stop)

  def _drop_diverged(self, step: int) -> None:
    """Marks runs with numbers that are not finite as failed."""
    # On the devices: states may be large, and this is after each dispatch.
    kept = np.asarray(trainer.all_finite(self._states))
    losses = np.asarray(self._states.totals.loss)
    for run, loss, fine in zip(self._runs, losses, kept, strict=True):
      if not fine:
        lost = "parameters are" if np.isfinite(loss) else "loss is"
        self._fail(run, f"{lost} not finite after step {step}")
    self._keep(kept)

  def _fail(self, run: Run, why: str) -> None:
    """Marks a run as failed."""
    why = (
      f"the {why}; try a lower learning_rate or localisation_lr, or delete the"
      " folder to train it again"
    )
    run.fail(why)
    self._errors.append(f"{run.path}: {why}")

  def _log(self, epoch: int) -> None:
    """Adds the epoch to every run's metrics.jsonl."""
    totals = [np.asarray(total, np.float64) for total in self._states.totals]
    lines = []
    for i, once in enumerate(self._evaluate(0)):
      count, loss, wrong = (float(total[i]) for total in totals)
      line = {
        "epoch": epoch,
        "step": self._step,
        "train_loss": loss / count,
        "train_error": wrong / count,
        "eval_loss": float(once.loss.mean(dtype=np.float64)),
        **self._summary([once], self._positions([once]), brief=True),
        "seconds": round(self._runs[i].seconds, 3),
      }
      self._runs[i].append(line)
      lines.append(line)
    if epoch in gallery.epochs_shown(self._settings.epochs):
      self._keep_images(epoch)
    self._progress(self._seeds, lines)

  def _keep_images(self, epoch: int) -> None:
    """Adds images that the networks warp to the folders of the runs."""
    if not self._transforms:
      return
    drawn = self._trainer.examples(self._states, self._examples[0], 0)
    for run, (_, warped) in zip(self._runs, drawn, strict=True):
      run.keep_images(epoch, measuring.to_uint8(warped))

  def _evaluate(self, index: int) -> list[Prediction]:
    return self._trainer.evaluate(self._states, self._eval_data, index)

  def _positions(
    self, passes: Sequence[Prediction]
  ) -> dict[str, measuring.Positions]:
    """Positions along each axis; none for a network without a transformer."""
    if not self._transforms:
      return {}
    return measuring.positions(
      self._setup.perturbation, passes, self._image_shape
    )

  @property
  def _transforms(self) -> bool:
    """Whether the network has a transformer."""
    return bool(placement.parse(self._settings.network).depths)

  @property
  def _image_shape(self) -> tuple[int, int, int]:
    """The shape of the perturbed images."""
    return data.output_shape(
      self._setup.perturbation, self._setup.dataset.image_shape
    )

  def _summary(
    self,
    passes: Sequence[Prediction],
    measured: dict[str, measuring.Positions],
    brief: bool = False,
  ) -> dict[str, Any]:
    return measuring.summary(
      self._setup.perturbation, passes, measured, self._labels, brief
    )
