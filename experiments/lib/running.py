"""Training all jobs of a sweep, each on the first free group of devices."""

from collections.abc import Sequence
from concurrent import futures
import contextlib
import functools
import threading
from typing import Any

import jax

from experiments.lib import loading, loop, measuring
from experiments.lib.jobs import Job
from experiments.lib.progress import Progress
from experiments.lib.signals import Interrupted, Signals
from stnjax import data
from stnjax.files import Damaged, RunError
from stnjax.training.run_folder import Run


def run_all(
  jobs: Sequence[Job],
  workdir: str,
  device_groups: Sequence[Sequence[jax.Device]],
  data_dir: str | None = None,
  **options: Any,
) -> list[RunError]:
  """Trains all jobs, printing progress.

  Args:
    jobs: Jobs to train, in this order.
    workdir: Folder of the runs.
    device_groups: Groups of devices; each trains a job at a time, the next one
      that waits. See `experiments.lib.jobs.device_groups`.
    data_dir: Folder of the data, see `loop.train`.
    **options: See `loop.train`.

  Returns:
    Why jobs could not be finished: the others are trained all the same.
  """
  for job in jobs:  # a mistake shows now, not after hours
    for settings in job.members():
      with contextlib.suppress(Damaged):  # of one run: named in its turn
        Run(workdir, settings)
  progress, load = Progress(jobs), loading.once(data_dir)
  waiting = enumerate(jobs, 1)  # each group takes the next
  stopped = threading.Event()

  def work(
    devices: Sequence[jax.Device], signals: Signals | None = None
  ) -> list[RunError]:
    errors = []
    context = {"devices": devices, "signals": signals, "load": load, **options}
    for number, job in waiting:
      if stopped.is_set():
        break
      seeds = ",".join(map(str, job.seeds))
      label = f"{number}/{len(jobs)} {job.settings.network} seed {seeds}:"
      try:
        _run(job, workdir, label, progress, **context)
      except RunError as error:
        print(f"{label} {error}", flush=True)
        errors.append(error)
      except Exception as error:
        stopped.set()
        if device_groups[1:] and not isinstance(error, Interrupted):
          print(f"{label} {error!r}; others end their jobs", flush=True)
        raise
    return errors

  if len(device_groups) == 1:
    return work(device_groups[0])
  with (
    Signals() as signals,
    futures.ThreadPoolExecutor(len(device_groups)) as pool,
  ):
    working = [pool.submit(work, devices, signals) for devices in device_groups]
  return [error for future in working for error in future.result()]


def _run(
  job: Job, workdir: str, label: str, progress: Progress, **options: Any
) -> None:
  """Trains the unfinished runs of one job."""
  epochs = job.settings.epochs
  done = 0
  for settings in job.members():
    try:
      run = Run(workdir, settings)
      progress.skip(epochs if run.done else len(run.metrics()))
      done += run.done
    except Damaged:  # which `train` names
      progress.skip(epochs)
  axes = data.PERTURBATIONS[job.settings.perturbation].axes
  results = loop.train(
    job.settings,
    job.seeds,
    workdir,
    **options,
    progress=functools.partial(progress.epoch, label, axes, epochs),
  )
  words = measuring.describe([*results.values()], axes)
  before = done == len(job.seeds)
  print(f"{label} {'done before' if before else f'{words}, final'}", flush=True)


def raise_if_any(errors: Sequence[RunError]) -> None:
  """Raises one error for all, if there are any.

  Raises:
    RunError: which holds what all of them say.
  """
  if errors:
    raise RunError("; ".join(map(str, errors)))
