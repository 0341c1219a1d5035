"""Runs an experiment of the paper by its name.

  python -m experiments.paper --preset=rotation --size=quick
  python -m experiments.paper --list

`quick` takes minutes on 2 CPU cores and needs no data but what is embedded or
generated; `full` is the paper's protocol with 10 seeds and needs a GPU or TPU.
Runs go to <workdir>/<preset>-<size>, with a report; the same command resumes.
"""

import os
import textwrap

from absl import flags

from experiments.lib import cli, jobs, processes, running, selection
from experiments.reporting import sweeping
from stnjax import files
from stnjax.paper.presets import PRESETS, SIZES
from stnjax.training.settings import Settings


def describe(name: str) -> str:
  """A preset as text: its purpose, time, results, networks and settings."""
  preset = PRESETS[name]
  lines = [
    f"{preset.title} {preset.purpose}",
    f"Command: python -m experiments.paper --preset={name}",
    f"Time (quick): {preset.minutes or 'unmeasured'} minutes for one seed.",
    f"Result (quick): {preset.result or 'not measured with these networks.'}",
    f"Networks: {' '.join(preset.networks)}.",
  ]
  for size in SIZES:
    changes = preset.quick if size == "quick" else preset.full
    settings = ", ".join(f"{k}={v}" for k, v in changes.items())
    lines.append(f"Settings ({size}): {settings}.")
  if preset.stand_in:
    lines.append(f"Data (quick): {preset.stand_in}.")
  wrapped = textwrap.TextWrapper(
    80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
  )
  return "\n".join([name, *map(wrapped.fill, lines)])


def jobs_from_flags() -> list[jobs.Job]:
  """The jobs that the flags of this script name.

  Raises:
    ValueError: For flags that cannot be used.
  """
  if not _PRESET.value:
    raise ValueError(f"--preset is missing; accepted: {', '.join(PRESETS)}")
  default = ["0"] if _SIZE.value == "quick" else list("0123456789")
  seeds = cli.seeds(default if _SEEDS.value is None else _SEEDS.value)
  return [
    jobs.Job(Settings(seed=seeds[0], **settings), seeds)
    for settings in PRESETS[_PRESET.value].settings(_SIZE.value)
  ]


def main() -> None:
  if _LIST.value:
    print("\n\n".join(map(describe, PRESETS)))
    return
  every, options = jobs_from_flags(), cli.training_options()
  name, size = _PRESET.value, _SIZE.value
  workdir = files.place("workdir", options["workdir"]) / f"{name}-{size}"
  options["workdir"] = os.fspath(workdir)
  if PRESETS[name].stand_in and size == "quick":
    print(f"{name}, quick: runs on {PRESETS[name].stand_in}.", flush=True)
  with processes.joined():
    chosen = selection.chosen(every, **options)
    errors = sweeping.run_and_report(chosen, **options) if chosen else []
  running.raise_if_any(errors)


if __name__ == "__main__":
  _PRESET = flags.DEFINE_enum("preset", None, list(PRESETS), "Experiment.")
  _SIZE = flags.DEFINE_enum("size", "quick", SIZES, "Size of the experiment.")
  _LIST = flags.DEFINE_boolean("list", False, "Only print the presets.")
  _SEEDS = flags.DEFINE_list(
    "seeds", None, "Seeds; by default 0, and 0 to 9 in the full size."
  )
  cli.define_place()
  selection.define_selection()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(processes)
  cli.run(
    main, check=lambda: _LIST.value or selection.picked(jobs_from_flags())
  )
