"""Distribution of jobs over processes and devices, before training."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from experiments.lib import hardware, loading
from experiments.lib.jobs import Job, device_groups, jobs_for_process
from stnjax import placement
from stnjax.files import Damaged, RunError
from stnjax.training import building, layout
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings


class Plan(NamedTuple):
  """Distribution of this process's jobs over devices."""

  jobs: list[Job]
  device_groups: list[Sequence[jax.Device]]
  text: str  # the same in words; empty for one process with one device

  def check(self, data_dir: str | None = None) -> None:
    """Raises for jobs that cannot be trained, before anything is allocated.

    Args:
      data_dir: Folder of the data, for data sets that are not embedded.

    Raises:
      ValueError: for a batch that devices cannot split, a network that cannot
        be built or is too large for their memory, or damaged data.
      FileNotFoundError: for a data set that is not there.
    """
    for job in self.jobs:
      setup = loading.check(job.settings, data_dir)
      devices = self.layout(job).devices
      hardware.check_memory(job.settings, setup, len(job.seeds), devices)

  def layout(self, job: Job) -> layout.Layout:
    """Distribution of a job over the first devices."""
    size = job.settings.batch_size
    return layout.lay_out(len(job.seeds), size, self.device_groups[0])


def make_plan(jobs: Sequence[Job]) -> Plan:
  """Shares jobs out: over the processes, and this one's over its devices."""
  count, index = jax.process_count(), jax.process_index()
  own_jobs = jobs_for_process(jobs, count, index)
  if own_jobs is None:
    text = f"{count} processes train each run together\n"
    return Plan(list(jobs), [jax.devices()], text)
  devices = jax.local_devices()
  # The chips of a part of a TPU slice cannot add up their gradients.
  whole = count == 1 or devices[0].platform != "tpu"
  groups = device_groups(own_jobs, devices, splittable=whole)
  if count == 1 and len(groups) == len(groups[0]) == 1:
    return Plan(own_jobs, groups, "")
  who = f"process {index} of {count} trains" if count > 1 else "training"
  what = "1 job" if len(own_jobs) == 1 else f"{len(own_jobs)} jobs"
  at_a_time = f", {len(groups)} at a time" if groups[1:] else ""
  size = len(groups[0])
  on = f", on {size} device{'s' * (size > 1)} each"
  return Plan(own_jobs, groups, f"{who} {what}{at_a_time}{on}\n")


def print_plan(
  jobs: Sequence[Job], workdir: str, data_dir: str | None = None
) -> None:
  """Prints each run's name, parameters, state and devices, without training.

  Raises:
    RunError: for a run folder that cannot be used; for damaged runs, after all
      are printed.
    ValueError: for jobs that cannot be trained.
    FileNotFoundError: for a data set that is not prepared.
  """
  plan = make_plan(jobs)
  plan.check(data_dir)
  lines, damaged = [], []
  for job in plan.jobs:
    setup = building.find(job.settings, data_dir)
    network = building.abstract_network(job.settings, setup)
    count = placement.count_parameters(network)["total"]
    for settings in job.members():
      try:
        state = f"{_state(workdir, settings)}  {plan.layout(job)}"
      except Damaged as error:
        state = f"damaged: {error}"
        damaged.append(settings.name)
      lines.append(f"{settings.name}  {count:,} parameters  {state}")
  print(*lines, plan.text, sep="\n", end="")
  if damaged:
    raise RunError(f"damaged runs: {', '.join(damaged)}")


def _state(workdir: str, settings: Settings) -> str:
  """Progress of a run, as `train` would find it.

  Raises:
    Damaged: for a run that `train` would not resume.
  """
  run = Run(workdir, settings)
  if run.done:
    run.results()  # raises
    return "done"
  if run.failed:
    return "failed"
  run.saved_step()  # raises
  return f"{len(run.metrics())}/{settings.epochs} epochs"
