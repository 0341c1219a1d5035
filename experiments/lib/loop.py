"""Training the unfinished runs of some seeds."""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
from typing import Any

import jax

from experiments.lib import agreement, events, loading
from experiments.lib.signals import Interrupted as Interrupted
from experiments.lib.signals import Signals
from experiments.lib.training_job import Progress, TrainingJob
from stnjax.files import Damaged, RunError
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings


def train(
  settings: Settings,
  seeds: Sequence[int],
  workdir: str,
  data_dir: str | None = None,
  *,
  checkpoint_seconds: float = 30.0,
  progress: Progress = lambda seeds, lines: None,
  devices: Sequence[jax.Device] | None = None,
  signals: Signals | None = None,
  load: loading.Load | None = None,
  tensorboard: bool = False,
) -> dict[int, dict[str, Any]]:
  """Trains and evaluates the unfinished runs of some seeds.

  All seeds that stand at the same step are trained in one program.

  Args:
    settings: of the runs, but for the seed.
    seeds: a run for each.
    workdir: folder of the runs.
    data_dir: Folder of the data, for data sets that are not embedded.
    checkpoint_seconds: time between checkpoints, besides the last.
    progress: called after each epoch with its seeds and their lines of metrics.
    devices: to train on; those of all processes by default, which then all
      call this.
    signals: that the caller notes, as it must where several threads train; by
      default those that come while the runs are trained.
    load: Loads the images instead of reading `data_dir`, see `loading.once`.
    tensorboard: Whether to write event files of TensorBoard, see `events`.

  Returns:
    The results of each seed, as in results.json.

  Raises:
    RunError: for a folder that cannot be used; in the end, for runs that could
      not be finished: damaged ones, those that another process is training,
      and those whose numbers were no longer finite. The others are.
    ValueError: for a workdir or data_dir that is neither local nor `gs://`, or
      event files in a workdir that is not local.
    Interrupted: after a signal, with the state saved.
  """
  if tensorboard:
    events.check(workdir)
  devices = jax.devices() if devices is None else devices
  load = load or loading.once(data_dir)
  errors: list[str] = []
  runs = [
    Run(workdir, dataclasses.replace(settings, seed=seed), devices)
    for seed in _usable(workdir, settings, seeds, errors)
  ]
  results, pending = _finished(runs, errors)
  loaded = load(settings) if pending else None
  with contextlib.ExitStack() as claims:
    claimed = _claim(pending, claims, devices, errors)
    done_meanwhile, left = _finished(claimed, errors)  # by another process
    results.update(done_meanwhile)
    for members in _by_step(left, devices, errors):
      with (
        jax.default_device(agreement.first_local(devices)),
        contextlib.nullcontext(signals) if signals else Signals() as noted,
        _reporting(members, progress, tensorboard) as report,
      ):
        job = TrainingJob(
          members, loaded, devices, checkpoint_seconds, report, errors
        )
        with _collected(errors, devices, RunError):
          results.update(job.train(noted))
  if errors:
    raise RunError("; ".join(errors))
  return {seed: results[seed] for seed in seeds}


@contextlib.contextmanager
def _reporting(
  runs: Sequence[Run], progress: Progress, tensorboard: bool
) -> Iterator[Progress]:
  """`progress`, which also writes event files if they are asked for."""
  if not tensorboard:
    yield progress
    return

  def report(seeds: Sequence[int], lines: Sequence[dict[str, Any]]) -> None:
    written.epoch(seeds, lines)
    progress(seeds, lines)

  with contextlib.closing(events.Events(runs)) as written:
    yield report


def _usable(
  workdir: str, settings: Settings, seeds: Sequence[int], errors: list[str]
) -> list[int]:
  """The seeds whose folders are free or theirs; notes damaged ones."""
  usable = []
  for seed in seeds:
    try:
      Run(workdir, dataclasses.replace(settings, seed=seed))
      usable.append(seed)
    except Damaged as error:
      errors.append(str(error))
  return usable


def _finished(
  runs: Sequence[Run], errors: list[str]
) -> tuple[dict[int, dict[str, Any]], list[Run]]:
  """Results of finished runs by seed, and the runs to train; notes failures."""
  results, pending = {}, []
  for run in runs:
    try:
      if run.done:
        results[run.settings.seed] = run.results()
      elif run.failed:
        errors.append(f"{run.path}: {run.failed}")
      else:
        pending.append(run)
    except Damaged as error:
      errors.append(str(error))
  return results, pending


def _by_step(
  runs: Sequence[Run], devices: Sequence[jax.Device], errors: list[str]
) -> list[list[Run]]:
  """Runs that stand at the same step, together."""
  groups: dict[int, list[Run]] = {}
  for run in runs:
    with _collected(errors, devices, Damaged):
      groups.setdefault(run.saved_step(), []).append(run)
  return list(groups.values())


@contextlib.contextmanager
def _collected(
  errors: list[str], devices: Sequence[jax.Device], kind: type[RunError]
) -> Iterator[None]:
  """Notes an error of some runs, so that the others continue.

  Not where processes train together: the others would wait for this one.
  """
  try:
    yield
  except kind as error:
    if agreement.shared(devices):
      raise
    errors.append(str(error))


def _claim(
  pending: Sequence[Run],
  claims: contextlib.ExitStack,
  devices: Sequence[jax.Device],
  errors: list[str],
) -> list[Run]:
  """Claims runs, until the stack ends; those that no other process trains."""
  claimed = []
  for run in pending:
    reason = ""
    try:
      claims.enter_context(run.claimed())
    except RunError as error:
      reason = str(error)
    if not agreement.largest(devices, bool(reason))[0]:
      claimed.append(run)
    else:
      errors.append(reason or f"{run.path} could not be claimed")
  return claimed
