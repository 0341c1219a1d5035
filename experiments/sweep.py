"""Trains networks x depths x seeds, and writes the report.

  python -m experiments.sweep

sweeps where the transformer sits, on the embedded digits. Finished runs are
skipped and interrupted ones resumed, so that the same command goes on after a
stop. A network's seeds are trained in one program.

Several devices share out a network's seeds, or train networks side by side,
whichever takes less time; with fewer runs than devices, some split each batch.
Several processes, started as for `train`, share the networks out; their seeds
too, where there are fewer networks than processes; and where there are fewer
runs than processes, all train each run together. Processes that do not know of
each other are given their shares: --shard=0/2 and --shard=1/2.
"""

from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import functools
import re
import threading
import time
from typing import Any, NamedTuple

from absl import flags
import jax

from experiments import report, train
from experiments.lib import cli, hardware, processes
from stnjax.placement import networks, placements
from stnjax.training import programs, runs

KINDS = ("CNN", "C", "DL", "SL")  # unless others are asked for


def sweep_networks(kinds: Sequence[str], depths: Sequence[int]) -> list[str]:
  """Names of the networks: kinds x depths, each once.

  At depth 0, C, DL and SL are one network: STN-C0.

  Raises:
    ValueError: for none or an unknown kind, a negative depth, or one that is
      given twice.
  """
  cli.each_once("depths", depths)
  if min(depths) < 0:
    raise ValueError(f"--depths must be at least 0, got {min(depths)}")
  names = []
  for kind in cli.each_once("kinds", kinds):
    if kind not in placements.KINDS:
      raise ValueError(
        f"--kinds={kind!r} is unknown; accepted: {placements.KINDS}"
      )
    if kind == "CNN":
      names.append("CNN")
      continue
    for depth in depths:
      same = depth == 0 and kind in ("DL", "SL")
      names.append(f"{placements.prefix('C' if same else kind)}{depth}")
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
    raise ValueError(
      f"--only={only!r} is not a valid regular expression: {error}"
    ) from error
  chosen = [
    Job(dataclasses.replace(job.settings, seed=seeds[0]), seeds)
    for job, seeds in zip(jobs, kept, strict=True)
    if seeds
  ]
  if not chosen:
    total = sum(len(job.seeds) for job in jobs)
    raise ValueError(f"--only={only!r} matches none of the {total} runs")
  match = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", shard)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f"--shard={shard!r} must be i/n with i from 0 to n - 1")
  return chosen[int(match[1]) :: int(match[2])]


def share(jobs: Sequence[Job], count: int, index: int) -> list[Job] | None:
  """What one of several processes trains on its own.

  Networks of the paper are too small to gain from being split: each process
  takes whole runs where there are enough of them.

  Args:
    jobs: all of them.
    count: of processes.
    index: of the process.

  Returns:
    Every `count`-th job, of whole networks or, if those are too few, of some of
    their seeds; None where there are fewer runs than processes, and all train
    each together.
  """
  if len(jobs) < count:
    parts = -(-count // len(jobs))
    jobs = [
      Job(dataclasses.replace(job.settings, seed=seeds[0]), seeds)
      for job in jobs
      for first in range(min(parts, len(job.seeds)))
      if (seeds := job.seeds[first::parts])
    ]
  return jobs[index::count] if len(jobs) >= count else None


def lanes(
  jobs: Sequence[Job], devices: Sequence[jax.Device], splittable: bool = True
) -> list[Sequence[jax.Device]]:
  """Devices that train side by side, each lane a job at a time.

  In as many lanes as take the least time, if every run takes the same: the
  devices of a lane share the seeds of its job out, as `programs.Program` does,
  and a batch that they split is trained no faster, as small as it is.

  Args:
    jobs: to train.
    devices: to share out.
    splittable: whether devices of a lane can split a batch.

  Returns:
    One lane with all devices, or several with as many each.
  """
  seeds = max(len(job.seeds) for job in jobs)

  def rounds(count: int) -> int:
    together = programs.spread(seeds, len(devices) // count)
    return -(-len(jobs) // count) * seeds // together

  count = min(range(1, min(len(jobs), len(devices)) + 1), key=rounds)
  size = len(devices) // count
  if seeds == 1 and not splittable:
    size = 1
  return [devices[i * size : (i + 1) * size] for i in range(count)]


class Progress:
  """Prints a line per epoch, with the time that is left; for all lanes."""

  def __init__(self, jobs: Sequence[Job]):
    self._left = sum(job.settings.epochs * len(job.seeds) for job in jobs)
    self._trained = 0  # by this process; both in epochs of one run
    self._start = time.monotonic()
    self._lock = threading.Lock()

  def epoch(
    self, label: str, epochs: int, seeds: Sequence[int], lines: Sequence[dict]
  ) -> None:
    self.skip(len(seeds))
    with self._lock:
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
    with self._lock:
      self._left = max(0, self._left - epochs)


def clock(seconds: float) -> str:
  """Seconds as h:mm:ss or m:ss."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"


def run_all(
  jobs: Sequence[Job],
  workdir: str,
  lanes: Sequence[Sequence[jax.Device]],
  data_dir: str | None = None,
  **options: Any,
) -> list[runs.RunError]:
  """Trains all jobs, each in the first lane that is free, printing progress.

  Args:
    jobs: to train, in this order.
    workdir: folder of the runs.
    lanes: see `lanes`.
    data_dir: see `train.train`.
    **options: see `train.train`.

  Returns:
    Why jobs could not be finished: the others are trained all the same.
  """
  for job in jobs:  # a mistake shows now, not after hours
    for settings in job.members():
      with contextlib.suppress(runs.Damaged):  # of one run: named in its turn
        runs.Run(workdir, settings)
    runs.abstract_network(job.settings)
  progress, load = Progress(jobs), train.loading(data_dir)
  waiting = enumerate(jobs, 1)  # each lane takes the next
  stopped = threading.Event()

  def work(devices, signals=None):
    errors = []
    how = {"devices": devices, "signals": signals, "load": load, **options}
    for number, job in waiting:
      if stopped.is_set():
        break
      seeds = ",".join(map(str, job.seeds))
      label = f"{number}/{len(jobs)} {job.settings.network} seed {seeds}:"
      try:
        _run(job, workdir, label, progress, **how)
      except runs.RunError as error:
        print(f"{label} {error}", flush=True)
        errors.append(error)
      except Exception as error:
        stopped.set()
        if lanes[1:] and not isinstance(error, cli.Interrupted):
          print(f"{label} {error!r}; others end their jobs", flush=True)
        raise
    return errors

  if len(lanes) == 1:
    return work(lanes[0])
  with (
    train.Signals() as signals,
    futures.ThreadPoolExecutor(len(lanes)) as pool,
  ):
    found = [pool.submit(work, devices, signals) for devices in lanes]
  return [error for future in found for error in future.result()]


def _run(
  job: Job, workdir: str, label: str, progress: Progress, **options: Any
) -> None:
  """Trains one job, or what is left of it."""
  epochs = job.settings.epochs
  done = 0
  for settings in job.members():
    try:
      run = runs.Run(workdir, settings)
      progress.skip(epochs if run.done else len(run.metrics()))
      done += run.done
    except runs.Damaged:  # which `train` names
      progress.skip(epochs)
  results = train.train(
    job.settings,
    job.seeds,
    workdir,
    **options,
    progress=functools.partial(progress.epoch, label, epochs),
  )
  if done == len(job.seeds):
    print(f"{label} done before", flush=True)
    return
  print(f"{label} {train.describe([*results.values()])}, final", flush=True)


class Plan(NamedTuple):
  """How this process's share of the jobs is spread over devices."""

  jobs: list[Job]
  lanes: list[Sequence[jax.Device]]
  text: str  # the same in words; empty for one process with one device

  def check(self) -> None:
    """Raises for jobs that cannot be trained, before anything is allocated.

    Raises:
      ValueError: for a batch that devices cannot split, or a network too large
        for their memory.
    """
    for job in self.jobs:
      size = job.settings.batch_size
      layout = programs.lay_out(len(job.seeds), size, self.lanes[0])
      hardware.check_memory(job.settings, len(job.seeds), layout.devices)


def make_plan(jobs: Sequence[Job]) -> Plan:
  """Shares jobs out: over the processes, and this one's over its devices."""
  count, index = jax.process_count(), jax.process_index()
  mine = share(jobs, count, index)
  if mine is None:
    text = f"{count} processes train each run together\n"
    return Plan(list(jobs), [jax.devices()], text)
  devices = jax.local_devices()
  # The chips of a part of a TPU slice cannot add up their gradients.
  whole = count == 1 or devices[0].platform != "tpu"
  side_by_side = lanes(mine, devices, splittable=whole)
  if count == 1 and len(side_by_side) == len(side_by_side[0]) == 1:
    return Plan(mine, side_by_side, "")
  who = f"process {index} of {count} trains" if count > 1 else "training"
  what = "1 job" if len(mine) == 1 else f"{len(mine)} jobs"
  at_a_time = f", {len(side_by_side)} at a time" if side_by_side[1:] else ""
  size = len(side_by_side[0])
  on = f", on {size} device{'s' * (size > 1)} each"
  return Plan(mine, side_by_side, f"{who} {what}{at_a_time}{on}\n")


def run_and_report(
  jobs: Sequence[Job], workdir: str, **options: Any
) -> list[runs.RunError]:
  """Trains all jobs and writes the report; options as for `train`.

  With several processes, they share the jobs out, and the first one reports.
  Each shares its own out over its devices.

  Returns:
    Why jobs could not be finished; to be raised when the others need this
    process no more.
  """
  plan = make_plan(jobs)
  plan.check()
  print(plan.text, end="", flush=True)
  errors = run_all(plan.jobs, workdir, plan.lanes, **options)
  processes.wait("the report")
  if jax.process_index() == 0:
    try:
      print(f"report: {report.write(workdir)}")
    except runs.RunError as error:
      errors.append(error)
  return errors


def fail_for(errors: Sequence[runs.RunError]) -> None:
  """Raises one error for all, if there are any.

  Raises:
    RunError: which holds what all of them say.
  """
  if errors:
    raise runs.RunError("; ".join(map(str, errors)))


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
  plan.check()
  for job in plan.jobs:
    train.check_data(job.settings, data_dir)
  lines, damaged = [], []
  for job in plan.jobs:
    network = runs.abstract_network(job.settings)
    count = networks.count_parameters(network)["total"]
    size = job.settings.batch_size
    layout = programs.lay_out(len(job.seeds), size, plan.lanes[0])
    for settings in job.members():
      try:
        state = f"{_state(workdir, settings)}  {layout}"
      except runs.Damaged as error:
        state = f"damaged: {error}"
        damaged.append(settings.name)
      lines.append(f"{settings.name}  {count:,} parameters  {state}")
  print(*lines, plan.text, sep="\n", end="")
  if damaged:
    raise runs.RunError(f"damaged runs: {', '.join(damaged)}")


def _state(workdir: str, settings: runs.Settings) -> str:
  """How far a run is, as `train` would find it.

  Raises:
    Damaged: for a run that `train` would not go on with.
  """
  run = runs.Run(workdir, settings)
  if run.done:
    run.results()  # raises
    return "done"
  if run.failed:
    return "failed"
  run.saved_step()  # raises
  return f"{len(run.metrics())}/{settings.epochs} epochs"


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
    "dry_run",
    False,
    "Only print the runs, their parameters, state and devices; refuses what"
    " training would.",
  )


def picked(jobs: Sequence[Job]) -> list[Job]:
  """The jobs that the flags of `define_selection` choose, all fit to be built.

  Raises:
    ValueError: for flags that cannot be used, or a network that cannot be.
  """
  processes.check()
  shard = flags.FLAGS["shard"].value
  if shard is None:
    shard = "0/1"
  mine = select(jobs, flags.FLAGS["only"].value, shard)
  for job in mine:
    runs.abstract_network(job.settings)
  return mine


def chosen(
  jobs: Sequence[Job], workdir: str, data_dir: str | None = None, **_: Any
) -> list[Job]:
  """The jobs to train; none, but a printed plan, for --dry_run."""
  shard = flags.FLAGS["shard"].value
  if shard and jax.process_count() > 1:
    raise ValueError(
      f"--shard={shard} is for processes that do not know of each other; these"
      " share the networks out by themselves"
    )
  mine = picked(jobs)
  if not mine:
    print(f"shard {shard} of {len(jobs)} networks has none")
  elif flags.FLAGS["dry_run"].value:
    print_plan(mine, workdir, data_dir)
    return []
  return mine


def flagged() -> list[Job]:
  """The jobs that the flags of this script name.

  Raises:
    ValueError: for flags that cannot be used.
  """
  names = _NETWORKS.value
  if names is None:
    depths = cli.integers("depths", _DEPTHS.value)
    names = sweep_networks(_KINDS.value, depths)
  if not names:
    raise ValueError(
      "--networks is empty; accepted: names, separated by spaces"
    )
  if len({placements.parse(name) for name in names}) < len(names):
    raise ValueError(f"--networks must differ, got {' '.join(names)}")
  seeds = cli.seeds(_SEEDS.value)
  return [
    Job(cli.settings_from_flags(network=name, seed=seeds[0]), seeds)
    for name in names
  ]


def main() -> None:
  jobs, options = flagged(), cli.training_options()
  with processes.joined():
    mine = chosen(jobs, **options)
    errors = run_and_report(mine, **options) if mine else []
  fail_for(errors)


if __name__ == "__main__":
  _NETWORKS = flags.DEFINE_spaceseplist(
    "networks",
    None,
    "Names of networks, separated by spaces, instead of kinds x depths.",
  )
  _KINDS = flags.DEFINE_list(
    "kinds", list(KINDS), "Kinds of placement: CNN, C, DL, SL, UCN, DEF."
  )
  _DEPTHS = flags.DEFINE_list("depths", ["0", "1"], "Depths of placement.")
  _SEEDS = flags.DEFINE_list(
    "seeds", ["0"], "Seeds, 0 to 2^32 - 1; each is a run."
  )
  cli.define_training(exclude=("network", "seed"))
  define_selection()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(processes)
  cli.run(main, check=lambda: picked(flagged()))
