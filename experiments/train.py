"""Trains one network; run it again to resume.

  python -m experiments.train --network=STN-SL1 --seeds=0,1

trains on the embedded digits, each rotated afresh by up to +-90 degrees, and
writes runs/<name of the run> for each seed. The seeds are trained in one
program, and come out as each would alone, but for rounding. It survives being
killed: the same command goes on from the last checkpoint and ends with the
metrics of an uninterrupted run. On SIGTERM or Ctrl-C it saves first.

On several processes, start the same command on each: with --distributed where
the machines know of each other, as those of a Cloud TPU slice do, else with
--coordinator, --num_processes and --process_id. Where one of them is lost, the
others stop; the same commands go on.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import signal
import threading
import time
from typing import Any

from absl import flags
import jax
from jax.experimental import multihost_utils
import numpy as np

from experiments.lib import cli, hardware, processes
from stnjax import data, evaluation, files
from stnjax.data import perturbations
from stnjax.placement import networks
from stnjax.training import checkpoints, programs, runs, steps

_SECONDS_PER_DISPATCH = 2.0  # how soon a signal is heard
_EXAMPLE_ROWS = 4  # of the picture: perturbations, or images if there is none

Progress = Callable[[Sequence[int], Sequence[dict[str, Any]]], None]
Load = Callable[[runs.Settings], tuple[data.Data, data.Data]]


class Signals:
  """Notes SIGTERM and SIGINT, to act on where states are saved."""

  def __init__(self):
    self.received = 0

  def __enter__(self):
    self._before = {
      number: signal.signal(number, self._note)
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number, frame):
    del frame
    self.received = number


def train(
  settings: runs.Settings,
  seeds: Sequence[int],
  workdir: str,
  data_dir: str | None = None,
  *,
  checkpoint_seconds: float = 30.0,
  progress: Progress = lambda seeds, lines: None,
  devices: Sequence[jax.Device] | None = None,
  signals: Signals | None = None,
  load: Load | None = None,
) -> dict[int, dict[str, Any]]:
  """Trains and evaluates the runs of some seeds, or what is left of them.

  All seeds that stand at the same step are trained in one program.

  Args:
    settings: of the runs, but for the seed.
    seeds: a run for each.
    workdir: folder of the runs.
    data_dir: TFDS directory for sets that are not embedded.
    checkpoint_seconds: time between checkpoints, besides the last.
    progress: called after each epoch with its seeds and their lines of metrics.
    devices: to train on; those of all processes by default, which then all
      call this.
    signals: that the caller notes, as it must where several threads train; by
      default those that come while the runs are trained.
    load: see `loading`, instead of `data_dir`.

  Returns:
    The results of each seed, as in results.json.

  Raises:
    RunError: for a folder that cannot be used; in the end, for runs that could
      not be finished: damaged ones, those that another process is training,
      and those whose numbers were no longer finite. The others are.
    ValueError: for a workdir or data_dir that is neither local nor `gs://`.
    cli.Interrupted: after a signal, with the state saved.
  """
  devices = jax.devices() if devices is None else devices
  load = load or loading(data_dir)
  results, pending, errors = {}, [], []
  for seed in seeds:
    try:
      run = runs.Run(workdir, dataclasses.replace(settings, seed=seed), devices)
      if run.done:
        results[seed] = run.results()
      elif run.failed:
        errors.append(f"{run.path}: {run.failed}")
      else:
        pending.append(run)
    except runs.Damaged as error:
      errors.append(str(error))
  if pending:
    train_data, eval_data = load(settings)
  with contextlib.ExitStack() as claims:
    by_step: dict[int, list[runs.Run]] = {}
    for run in _claim(pending, claims, devices, errors):
      try:
        if run.done:  # meanwhile, by another process
          results[run.settings.seed] = run.results()
        else:
          by_step.setdefault(run.saved_step(), []).append(run)
      except runs.Damaged as error:
        if _shared(devices):
          raise  # the other processes would wait for this one
        errors.append(str(error))
    for members in by_step.values():
      with (
        jax.default_device(_first_local(devices)),
        contextlib.nullcontext(signals) if signals else Signals() as noted,
      ):
        job = _Job(
          members,
          train_data,
          eval_data,
          devices,
          checkpoint_seconds,
          progress,
          errors,
        )
        try:
          results.update(job.train(noted))
        except runs.RunError as error:
          if _shared(devices):
            raise
          errors.append(str(error))
  if errors:
    raise runs.RunError("; ".join(errors))
  return {seed: results[seed] for seed in seeds}


def _claim(
  pending: Sequence[runs.Run],
  claims: contextlib.ExitStack,
  devices: Sequence[jax.Device],
  errors: list[str],
) -> list[runs.Run]:
  """Claims runs, until the stack ends; those that no other process trains."""
  claimed = []
  for run in pending:
    reason = ""
    try:
      claims.enter_context(run.claimed())
    except runs.RunError as error:
      reason = str(error)
    if not _agree(devices, bool(reason))[0]:
      claimed.append(run)
    else:
      errors.append(reason or f"{run.path} could not be claimed")
  return claimed


def _agree(devices: Sequence[jax.Device], *values: int) -> tuple[int, ...]:
  """The largest of each value over the processes, which must act alike."""
  if not _shared(devices):
    return values
  gathered = multihost_utils.process_allgather(np.array(values, np.int32))
  return tuple(int(value) for value in gathered.max(axis=0))


def _shared(devices: Sequence[jax.Device]) -> bool:
  """Whether several processes train each run together."""
  return len(programs.processes(devices)) > 1


def _first_local(devices: Sequence[jax.Device]) -> jax.Device:
  return next(d for d in devices if d.process_index == jax.process_index())


def load_data(
  settings: runs.Settings, data_dir: str | None
) -> tuple[data.Data, data.Data]:
  """The images to train on, and those to evaluate on."""
  description = data.SETS[settings.dataset]
  train_data = data.load(settings.dataset, description.train_split, data_dir)
  if not settings.holdout:
    test_data = data.load(settings.dataset, description.test_split, data_dir)
    return train_data, test_data
  cut = len(train_data.labels) * 9 // 10
  return (
    data.Data(train_data.images[:cut], train_data.labels[:cut]),
    data.Data(train_data.images[cut:], train_data.labels[cut:]),
  )


def check_data(settings: runs.Settings, data_dir: str | None) -> None:
  """Checks that a data set is there and fills a batch, without reading it.

  Raises:
    FileNotFoundError: for a set that is not prepared.
    ValueError: for a batch larger than the training set, or too many steps.
  """
  description = data.SETS[settings.dataset]
  for split in (description.train_split, description.test_split):
    count = data.count(settings.dataset, split, data_dir)
    if split == description.train_split and count is not None:
      if settings.holdout:
        count = count * 9 // 10
      runs.num_steps(settings, count)


def loading(data_dir: str | None = None) -> Load:
  """`load_data`, once for all that is on the same images, in all threads.

  Raises:
    ValueError: for a data_dir that is neither local nor `gs://`.
  """
  if data_dir is not None:
    files.place("data_dir", data_dir)  # raises unless accepted
  found: dict[tuple[str, bool], tuple[data.Data, data.Data]] = {}
  lock = threading.Lock()

  def load(settings: runs.Settings) -> tuple[data.Data, data.Data]:
    key = settings.dataset, settings.holdout
    with lock:
      if key not in found:
        found.clear()  # no two sets at a time
        found[key] = load_data(settings, data_dir)
      return found[key]

  return load


class _Job:
  """Runs that differ in their seed alone, in one program, to their end."""

  def __init__(
    self,
    members: Sequence[runs.Run],
    train_data: data.Data,
    eval_data: data.Data,
    devices: Sequence[jax.Device],
    checkpoint_seconds: float,
    progress: Progress,
    errors: list[str],
  ):
    hardware.forget_peak_memory()
    self._runs = members
    self._devices = devices
    self._settings = members[0].settings
    self._seeds = [run.settings.seed for run in members]
    self._checkpoint_seconds = checkpoint_seconds
    self._progress = progress
    self._errors = errors
    varied = self._settings.perturbation == "none"
    self._examples = [
      eval_data.images[_of_each(eval_data.labels, row * varied)]
      for row in range(_EXAMPLE_ROWS)
    ]
    self._labels = eval_data.labels
    self._images = train_data.images
    self._per_epoch = programs.steps_per_epoch(
      len(self._images), self._settings.batch_size
    )
    self._program, fresh = runs.build_program(
      [run.settings for run in members], self._images, devices
    )
    self._resume(fresh)
    self._counts = networks.count_parameters(
      runs.abstract_network(self._settings)
    )
    self._train_data, self._eval_data = jax.device_put((train_data, eval_data))

  def _resume(self, fresh: steps.TrainState) -> None:
    """Reads the last checkpoints; drops runs that cannot go on."""
    data = runs.fingerprint(self._images)
    states = [programs.member(fresh, i) for i in range(len(self._runs))]
    kept = np.ones(len(self._runs), bool)
    for i, run in enumerate(self._runs):
      try:
        run.start(data)
        before = len(run.metrics())
        states[i] = run.restore(states[i])
        step = int(states[i].step)
        if before and not step:
          print(
            f"{run.path} has no checkpoint: its metrics of {before}"
            f" epoch{'s' * (before > 1)} are dropped, and it is trained from"
            " the start",
            flush=True,
          )
        run.check_metrics(step, step // self._per_epoch)
      except runs.RunError as error:
        if _shared(self._devices):
          raise  # the other processes would wait for this one
        self._errors.append(str(error))
        kept[i] = False
    self._states = programs.stacked(*states)
    self._keep(kept)

  def _keep(self, kept: np.ndarray) -> None:
    """Goes on with some of the runs."""
    if kept.all():
      return
    self._runs = [run for run, mine in zip(self._runs, kept) if mine]
    self._seeds = [run.settings.seed for run in self._runs]
    if self._runs:
      self._states = jax.tree.map(lambda x: x[kept], self._states)
      self._program, _ = runs.build_program(
        [run.settings for run in self._runs], self._images, self._devices
      )

  @property
  def _name(self) -> str:
    seeds = ",".join(map(str, self._seeds))
    return f"{self._settings.network} seed {seeds}"

  @property
  def _step(self) -> int:
    return int(self._states.step[0])

  def train(self, signals: Signals) -> dict[int, dict[str, Any]]:
    """Trains, evaluates and writes what the runs found; by seed.

    Runs that cannot be finished are missing, and the list of errors says why.
    """
    if not self._runs:
      return {}
    resumed = f"; resumed after step {self._step}" if self._step else ""
    print(
      f"{self._name}: {self._counts['total']:,} parameters,"
      f" {self._counts['localisation']:,} of them localisation,"
      f" {self._program.layout}{resumed}",
      flush=True,
    )
    self._fit(signals)
    if not self._runs:
      return {}
    passes = []
    for index in range(self._settings.eval_passes):
      self._check(_agree(self._devices, signals.received)[0])
      passes.append(self._evaluate(index))
    draws = [
      self._program.examples(self._states, images, draw)
      for draw, images in enumerate(self._examples)
    ]
    found = {}
    for i, run in enumerate(self._runs):
      mine = [by_seed[i] for by_seed in passes]
      if not all(checkpoints.is_finite(x) for x in jax.tree.leaves(mine)):
        self._fail(run, "predictions or poses are not finite")
        continue
      drawn = [by_seed[i] for by_seed in draws]
      lines = run.metrics()
      seconds = sum(line["seconds"] for line in lines)
      results = {
        "parameters": self._counts,
        **self._summary(mine),
        "seconds": round(seconds, 2),
        "seconds_per_epoch": round(seconds / len(lines), 3),
        "seeds_together": len(self._runs),
        "peak_memory_mb": round(
          hardware.peak_memory_mb(_first_local(self._devices))
        ),
        "hardware": hardware.describe(self._devices),
      }
      run.finish(_record(mine, self._labels, drawn), results)
      found[run.settings.seed] = results
    return found

  def _check(self, signal_number: int) -> None:
    """Raises where a signal came, to any process; the state is saved."""
    if signal_number:
      raise cli.Interrupted(
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
        self._program.train(self._states, self._train_data, num_steps)
      )
      took = time.monotonic() - started
      step += num_steps
      for run in self._runs:
        run.seconds += took / len(self._runs)
      self._drop_diverged(step)
      if step % per_epoch == 0 and self._runs:
        self._log(step // per_epoch)
      due = time.monotonic() - saved > self._checkpoint_seconds
      dispatch, due, stop = _agree(
        self._devices,
        max(1, int(_SECONDS_PER_DISPATCH / took * num_steps)),
        due or step == total,
        signals.received,
      )
      if due or stop:
        for i, run in enumerate(self._runs):
          run.save(programs.member(self._states, i))
        saved = time.monotonic()
      self._check(stop)

  def _drop_diverged(self, step: int) -> None:
    """Marks runs with numbers that are not finite as failed."""
    # On the devices: states may be large, and this is after each dispatch.
    kept = np.asarray(programs.all_finite(self._states))
    losses = np.asarray(self._states.totals.loss)
    for run, loss, fine in zip(self._runs, losses, kept, strict=True):
      if not fine:
        lost = "parameters are" if np.isfinite(loss) else "loss is"
        self._fail(run, f"{lost} not finite after step {step}")
    self._keep(kept)

  def _fail(self, run: runs.Run, why: str) -> None:
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
        **self._summary([once], brief=True),
        "seconds": round(self._runs[i].seconds, 3),
      }
      self._runs[i].append(line)
      lines.append(line)
    self._progress(self._seeds, lines)

  def _evaluate(self, index: int) -> list[steps.Prediction]:
    return self._program.evaluate(self._states, self._eval_data, index)

  def _summary(
    self, passes: Sequence[steps.Prediction], brief: bool = False
  ) -> dict[str, Any]:
    """Error, and alignment where the truth is known, over all passes."""
    wrong = [evaluation.error_rate(p.label, self._labels) for p in passes]
    summary: dict[str, Any] = {"error": float(np.mean(wrong))}
    if passes[0].truth and self._settings.network != "CNN":
      truth = {
        kind: np.concatenate([p.truth[kind] for p in passes])
        for kind in passes[0].truth
      }
      labels = np.tile(self._labels, len(passes))
      poses = np.concatenate([p.pose for p in passes])
      shape = perturbations.output_shape(
        self._settings.perturbation, self._train_data.images.shape[1:]
      )
      applied = evaluation.applied(poses, shape)
      found = {
        axis: evaluation.alignment(axis, true, applied[axis], labels)
        for axis, true in evaluation.true(truth).items()
      }
      summary["alignment"] = {
        axis: measured.std if brief else measured._asdict()
        for axis, measured in found.items()
      }
    return summary


def _of_each(labels: np.ndarray, row: int) -> np.ndarray:
  """Indices of a row of the picture: of each of ten classes one image.

  Of house numbers, the next ten. A row beyond the images starts over.
  """
  if labels.ndim > 1:
    return np.arange(10 * row, 10 * row + 10) % len(labels)
  classes = (np.flatnonzero(labels == c) for c in np.unique(labels)[:10])
  return np.array([members[row % len(members)] for members in classes])


def _record(passes, labels, drawn) -> dict[str, np.ndarray]:
  """What evaluation.npz keeps: passes first, then images."""
  before, after = (np.stack(images) for images in zip(*drawn, strict=True))
  return {
    "label": np.asarray(labels),
    "predicted": np.stack([p.label for p in passes]).astype(np.int16),
    "pose": np.stack([p.pose for p in passes]),
    **{
      f"true_{kind}": np.stack([p.truth[kind] for p in passes])
      for kind in passes[0].truth
    },
    "before": _to_uint8(before),
    "after": _to_uint8(after),
  }


def _to_uint8(images: np.ndarray) -> np.ndarray:
  return np.clip(np.round(images * 255), 0, 255).astype(np.uint8)


def describe(lines: Sequence[dict[str, Any]], epochs: int | None = None) -> str:
  """An epoch's metrics, or results, in words: the means over seeds."""
  parts = []
  if epochs:
    parts.append(f"epoch {lines[0]['epoch']}/{epochs}")
    loss = np.mean([line["train_loss"] for line in lines])
    parts.append(f"train loss {loss:.4f}")
  error = 100 * np.mean([line["error"] for line in lines])
  parts.append(f"error {error:.2f} %")
  for axis in lines[0].get("alignment", ()):
    found = [line["alignment"][axis] for line in lines]
    std = np.mean([f["std"] if isinstance(f, dict) else f for f in found])
    name = axis.replace("_", " ")
    parts.append(f"{name} left {std:.3g} {evaluation.UNITS[axis]}")
  parts.append(f"{sum(line['seconds'] for line in lines):.1f} s")
  return ", ".join(parts)


def flagged() -> tuple[runs.Settings, tuple[int, ...]]:
  """The settings and seeds that the flags of this script name.

  Raises:
    ValueError: for flags that cannot be used.
  """
  processes.check()
  seeds = cli.seeds(_SEEDS.value)
  settings = cli.settings_from_flags(seed=seeds[0])
  runs.abstract_network(settings)  # raises for one that cannot be built
  return settings, seeds


def main() -> None:
  settings, seeds = flagged()
  with processes.joined():
    hardware.check_memory(settings, len(seeds), jax.local_devices())
    results = train(
      settings,
      seeds,
      **cli.training_options(),
      progress=lambda seeds, lines: print(
        describe(lines, settings.epochs), flush=True
      ),
    )
  for seed, result in results.items():
    print(f"{settings.network} seed {seed}: {describe([result])}")


if __name__ == "__main__":
  _SEEDS = flags.DEFINE_list(
    "seeds",
    ["0"],
    "Seeds, 0 to 2^32 - 1; each is a run, and all are trained together.",
  )
  cli.define_training(exclude=("seed",))
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(processes)
  cli.run(main, check=flagged)
