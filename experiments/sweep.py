"""Trains networks x depths x seeds, one after the other, and writes the report.

  python -m experiments.sweep

sweeps where the transformer sits, on the embedded digits. Finished runs are
skipped and interrupted ones resumed, so that the same command goes on after a
stop. To share the work, start it with --shard=0/2 and --shard=1/2.
"""

from collections.abc import Sequence
import re
import time
from typing import Any

from absl import flags
from flax import nnx

from experiments import cli, report, train
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


def select(
  sweep: Sequence[runs.Settings], only: str | None, shard: str
) -> list[runs.Settings]:
  """The runs that this process takes.

  Args:
    sweep: all runs.
    only: regular expression that a run's name must match somewhere.
    shard: "i/n": every n-th of them, from the i-th, counted from 0.

  Raises:
    ValueError: for an expression or a shard that cannot be read.
  """
  try:
    chosen = [s for s in sweep if re.search(only or "", s.name)]
  except re.error as error:
    raise ValueError(f"--only={only!r} is no pattern: {error}") from error
  if not chosen:
    raise ValueError(f"--only={only!r} matches none of the {len(sweep)} runs")
  match = re.fullmatch(r"(\d+)/(\d+)", shard)
  if not match or int(match[1]) >= int(match[2]):
    raise ValueError(f"--shard={shard!r} must be i/n with i from 0 to n - 1")
  return chosen[int(match[1]) :: int(match[2])]


class Progress:
  """Prints a line per epoch, with the time that is left."""

  def __init__(self, total_epochs: int):
    self._total = total_epochs
    self._finished = 0  # epochs, of this process or before it
    self._trained = 0  # by this process
    self._start = time.monotonic()

  def epoch(self, label: str, epochs: int, line: dict) -> None:
    self._finished += 1
    self._trained += 1
    elapsed = time.monotonic() - self._start
    left = elapsed / self._trained * max(0, self._total - self._finished)
    print(
      f"{label} {train.describe(line, epochs)}"
      f"  [{clock(elapsed)} so far, about {clock(left)} left]",
      flush=True,
    )

  def skip(self, epochs: int) -> None:
    """Counts epochs that were trained before."""
    self._finished += epochs


def clock(seconds: float) -> str:
  """Seconds as h:mm:ss or m:ss."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02d}:{seconds:02d}"
  return f"{minutes}:{seconds:02d}"


def run_all(
  sweep: Sequence[runs.Settings], workdir: str, **options: Any
) -> None:
  """Trains all runs in order, printing progress; options as for `train`."""
  for settings in sweep:  # a mistake shows now, not after hours
    runs.Run(workdir, settings)
    nnx.eval_shape(lambda settings=settings: runs.build_network(settings))
  progress = Progress(sum(settings.epochs for settings in sweep))
  for number, settings in enumerate(sweep, 1):
    label = f"{number}/{len(sweep)} {settings.network} seed {settings.seed}:"
    run = runs.Run(workdir, settings)
    progress.skip(settings.epochs if run.done else len(run.metrics()))
    if run.done:
      print(f"{label} done before", flush=True)
      continue
    results = train.train(
      settings,
      workdir,
      **options,
      progress=lambda line, label=label, epochs=settings.epochs: progress.epoch(
        label, epochs, line
      ),
    )
    print(f"{label} {train.describe(results)}, final", flush=True)


def print_plan(sweep: Sequence[runs.Settings], workdir: str) -> None:
  """Prints each run's name, parameters and state, without training."""
  for settings in sweep:
    count = networks.count_parameters(runs.build_network(settings))["total"]
    run = runs.Run(workdir, settings)
    if run.done:
      state = "done"
    else:
      state = f"{len(run.metrics())}/{settings.epochs} epochs"
    print(f"{settings.name}  {count:,} parameters  {state}")


def main() -> None:
  if _NETWORKS.value:
    names = _NETWORKS.value
  else:
    depths = cli.integers("depths", _DEPTHS.value)
    names = sweep_networks(_KINDS.value, depths)
  seeds = cli.integers("seeds", _SEEDS.value)
  sweep = [
    cli.settings_from_flags(network=name, seed=seed)
    for seed in seeds
    for name in names
  ]
  chosen = select(sweep, _ONLY.value, _SHARD.value)
  workdir = cli.WORKDIR.value
  if _DRY_RUN.value:
    print_plan(chosen, workdir)
    return
  if not chosen:
    print(f"shard {_SHARD.value} of {len(sweep)} runs has none")
    return
  run_all(chosen, **cli.training_options())
  print(f"report: {report.write(workdir)}")


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
  _ONLY = flags.DEFINE_string(
    "only", None, "Only runs whose name matches this regular expression."
  )
  _SHARD = flags.DEFINE_string(
    "shard", "0/1", "i/n: only every n-th run, from the i-th, from 0."
  )
  _DRY_RUN = flags.DEFINE_boolean(
    "dry_run", False, "Only print the runs, their parameters and their state."
  )
  cli.define_training(exclude=("network", "seed"))
  flags.adopt_module_key_flags(cli)
  cli.run(main)
