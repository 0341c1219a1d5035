"""Flags that choose some of a script's runs."""

from collections.abc import Sequence
from typing import Any

from absl import flags
import jax

from experiments.lib import cli, planning, processes
from experiments.lib.jobs import Job, select


def define_selection() -> None:
  """Defines the flags that choose some of a script's runs."""
  flags.DEFINE_string(
    "only", None, "Only runs whose name matches this regular expression."
  )
  flags.DEFINE_string(
    "shard",
    None,
    "i/n: only every n-th network, from the i-th, counted from 0. Connected"
    " processes divide the networks without it.",
  )
  flags.DEFINE_boolean(
    "dry_run",
    False,
    "Only print the runs, their parameters, state and devices; raises the"
    " errors that training would raise.",
  )


def define_finished(only: str = "") -> tuple[flags.FlagHolder, ...]:
  """Defines the flags that choose finished runs to analyse, and their data.

  Args:
    only: Default of --only.

  Returns:
    The flags --only and --data_dir.
  """
  return (
    flags.DEFINE_string(
      "only", only, "Runs whose name matches this regular expression."
    ),
    flags.DEFINE_string(
      "data_dir", None, "Folder of the data, for sets that are not embedded."
    ),
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
  selected = select(jobs, flags.FLAGS["only"].value, shard)
  for job in selected:
    cli.check_network(job.settings)
  return selected


def chosen(
  jobs: Sequence[Job], workdir: str, data_dir: str | None = None, **_: Any
) -> list[Job]:
  """The jobs to train; none, but a printed plan, for --dry_run."""
  shard = flags.FLAGS["shard"].value
  if shard and jax.process_count() > 1:
    raise ValueError(
      f"--shard={shard} is for processes that are not connected; these"
      " divide the networks by themselves"
    )
  selected = picked(jobs)
  if not selected:
    print(f"shard {shard} of {len(jobs)} networks has none")
  elif flags.FLAGS["dry_run"].value:
    planning.print_plan(selected, workdir, data_dir)
    return []
  return selected
