"""Trains networks x depths x seeds, and writes the report.

  python -m experiments.sweep

sweeps where the transformer sits, on the embedded digits. Finished runs are
skipped and interrupted ones resumed, so that the same command goes on after a
stop. A network's seeds are trained together.

Several processes, started as for `train`, share the networks out; their seeds
too, where there are fewer networks than processes; and where there are fewer
runs than processes, all train each run together. Processes that do not know of
each other are given their shares: --shard=0/2 and --shard=1/2.
"""

from collections.abc import Sequence
import dataclasses
import functools
import re
import time
from typing import Any, NamedTuple

from absl import flags
import jax

from experiments import cli, processes, report, train
from stnjax import networks, runs

KINDS = ("CNN", "C", "DL", "SL")


def sweep_networks(kinds: Sequence[str], depths: Sequence[int]) -> list[str]:
  """Names of the networks: kinds x depths, each once.

  At depth 0, C, DL and SL are one network: STN-C0.

  Raises:
    ValueError: for an unknown kind.
  """
  names = []
  for kind in kinds:
    if kind not in KINDS:
      raise ValueError(f"--kinds={kind!r} is unknown; accepted: {KINDS}")
    if kind == "CNN":
      names.append("CNN")
    else:
      names += [f"STN-{kind}{d}" if d else "STN-C0" for d in depths]
  return list(dict.fromkeys(names))


class Job(NamedTuple):
  """Runs that differ in their seed alone, trained together."""

  settings: runs.Settings  # with the first seed
  seeds: tuple[int, ...]

  def members(self) -> list[runs.Settings]:
    return [dataclasses.replace(self.settings, seed=s) for s in self.seeds]


def select(
  jobs: Sequence[Job], only: str | None, shard: str = "0/1"
) -> list[Job]:
  """The jobs that are chosen by name and place.

  Args:
    jobs: all of them.
    only: regular expression that a run's name must match somewhere.
    shard: "i/n": every n-th of them, from the i-th, counted from 0.

  Raises:
    ValueError: for an expression or a shard that cannot be read.
  """
  try:
    kept = [
      tuple(s.seed for s in job.members() if re.search(only or "", s.name))
      for job in jobs
    ]
  except re.error as error:
    raise ValueError(f"--only={only!r} is no pattern: {error}") from error
  chosen = [
    Job(dataclasses.replace(job.settings, seed=seeds[0]), seeds)
    for job, seeds in zip(jobs, kept, strict=True)
    if seeds
  ]
  if not chosen:
    total = sum(len(job.seeds) for job in jobs)
    raise ValueError(f"--only={only!r} matches none of the {total} runs")
  match = re.fullmatch(r"(\d+)/(\d+)", shard)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f"--shard={shard!r} must be i/n with i from 0 to n - 1")
  return chosen[int(match[1]) :: int(match[2])]


def share(
  jobs: Sequence[Job], count: int, index: int, single: bool = True
) -> list[Job] | None:
  """What one of several processes trains on its own.

  Networks of the paper are too small to gain from being split: each process
  takes whole runs where there are enough of them.

  Args:
    jobs: all of them.
    count: of processes.
    index: of the process.
    single: whether a process can split the batches of a single seed.

  Returns:
    Every `count`-th job, of whole networks or, if those are too few, of single
    seeds; None where that is not possible, and all train each together.
  """
  if len(jobs) < count:
    jobs = [Job(m, (m.seed,)) for job in jobs for m in job.members()]
  if len(jobs) < count or not (single or all(job.seeds[1:] for job in jobs)):
    return None
  return jobs[index::count]


class Progress:
  """Prints a line per epoch, with the time that is left."""

  def __init__(self, jobs: Sequence[Job]):
    self._left = sum(job.settings.epochs * len(job.seeds) for job in jobs)
    self._trained = 0  # by this process; both in epochs of one run
    self._start = time.monotonic()

  def epoch(
    self, label: str, epochs: int, seeds: Sequence[int], lines: Sequence[dict]
  ) -> None:
    self.skip(len(seeds))
    self._trained += len(seeds)
    elapsed = time.monotonic() - self._start
    left = elapsed / self._trained * self._left
    print(
      f"{label} {train.describe(lines, epochs)}"
      f"  [{clock(elapsed)} so far, about {clock(left)} left]",
      flush=True,
    )

  def skip(self, epochs: int) -> None:
    """Counts epochs that were trained before."""
    self._left = max(0, self._left - epochs)


def clock(seconds: float) -> str:
  """Seconds as h:mm:ss or m:ss."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"


def run_all(
  jobs: Sequence[Job], workdir: str, **options: Any
) -> list[runs.RunError]:
  """Trains all jobs in order, printing progress; options as for `train`.

  Returns:
    Why jobs could not be finished: the others are trained all the same.
  """
  for job in jobs:  # a mistake shows now, not after hours
    for settings in job.members():
      runs.Run(workdir, settings)
    runs.abstract_network(job.settings)
  progress, errors = Progress(jobs), []
  for number, job in enumerate(jobs, 1):
    members = [runs.Run(workdir, settings) for settings in job.members()]
    seeds = ",".join(str(seed) for seed in job.seeds)
    label = f"{number}/{len(jobs)} {job.settings.network} seed {seeds}:"
    epochs = job.settings.epochs
    for run in members:
      progress.skip(epochs if run.done else len(run.metrics()))
    if all(run.done for run in members):
      print(f"{label} done before", flush=True)
      continue
    try:
      results = train.train(
        job.settings,
        job.seeds,
        workdir,
        **options,
        progress=functools.partial(progress.epoch, label, epochs),
      )
    except runs.RunError as error:
      print(f"{label} {error}", flush=True)
      errors.append(error)
      continue
    print(f"{label} {train.describe([*results.values()])}, final", flush=True)
  return errors


def run_and_report(jobs: Sequence[Job], workdir: str, **options: Any) -> None:
  """Trains all jobs and writes the report; options as for `train`.

  With several processes, they share the jobs out, and the first one reports.

  Raises:
    RunError: in the end, where jobs could not be finished.
  """
  count, index = jax.process_count(), jax.process_index()
  if count > 1:
    # The chips of a part of a TPU slice cannot add up their gradients.
    mine = share(jobs, count, index, jax.devices()[0].platform != "tpu")
    if mine is None:
      print(f"{count} processes train each run together", flush=True)
    else:
      print(f"process {index} of {count} trains {len(mine)} jobs", flush=True)
      jobs, options["devices"] = mine, jax.local_devices()
  errors = run_all(jobs, workdir, **options)
  processes.wait("the report")
  if index == 0:
    print(f"report: {report.write(workdir)}")
  if errors:
    raise runs.RunError("; ".join(map(str, errors)))


def print_plan(jobs: Sequence[Job], workdir: str) -> None:
  """Prints each run's name, parameters and state, without training."""
  for job in jobs:
    network = runs.abstract_network(job.settings)
    count = networks.count_parameters(network)["total"]
    for settings in job.members():
      run = runs.Run(workdir, settings)
      if run.done:
        state = "done"
      else:
        state = f"{len(run.metrics())}/{settings.epochs} epochs"
      print(f"{settings.name}  {count:,} parameters  {state}")


def define_selection() -> None:
  """Defines the flags that choose some of a script's runs."""
  flags.DEFINE_string(
    "only", None, "Only runs whose name matches this regular expression."
  )
  flags.DEFINE_string(
    "shard",
    None,
    "i/n: only every n-th network, from the i-th, from 0; processes that know"
    " of each other share them out by themselves.",
  )
  flags.DEFINE_boolean(
    "dry_run", False, "Only print the runs, their parameters and their state."
  )


def chosen(jobs: Sequence[Job], workdir: str) -> list[Job]:
  """The jobs that the flags of `define_selection` leave to train."""
  shard = flags.FLAGS["shard"].value
  if shard and jax.process_count() > 1:
    raise ValueError(
      f"--shard={shard} is for processes that do not know of each other; these"
      " share the networks out by themselves"
    )
  mine = select(jobs, flags.FLAGS["only"].value, shard or "0/1")
  if flags.FLAGS["dry_run"].value:
    print_plan(mine, workdir)
    return []
  if not mine:
    print(f"shard {shard} of {len(jobs)} networks has none")
  return mine


def main() -> None:
  if _NETWORKS.value:
    names = _NETWORKS.value
  else:
    depths = cli.integers("depths", _DEPTHS.value)
    names = sweep_networks(_KINDS.value, depths)
  seeds = cli.seeds(_SEEDS.value)
  jobs = [
    Job(cli.settings_from_flags(network=name, seed=seeds[0]), seeds)
    for name in names
  ]
  options = cli.training_options()
  with processes.joined():
    mine = chosen(jobs, options["workdir"])
    if mine:
      run_and_report(mine, **options)


if __name__ == "__main__":
  _NETWORKS = flags.DEFINE_spaceseplist(
    "networks",
    None,
    "Names of networks, separated by spaces, instead of kinds x depths.",
  )
  _KINDS = flags.DEFINE_list(
    "kinds", list(KINDS), "Kinds of placement: CNN, C, DL, SL."
  )
  _DEPTHS = flags.DEFINE_list("depths", ["0", "1"], "Depths of placement.")
  _SEEDS = flags.DEFINE_list("seeds", ["0"], "Seeds; each is a run.")
  cli.define_training(exclude=("network", "seed"))
  define_selection()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(processes)
  cli.run(main)
