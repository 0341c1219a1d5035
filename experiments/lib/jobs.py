"""Jobs of a sweep: which networks and seeds, and who trains which."""

from collections.abc import Sequence
import dataclasses
import re
from typing import NamedTuple

import jax

from experiments.lib import cli
from stnjax import placement
from stnjax.training import layout
from stnjax.training.settings import Settings

DEFAULT_KINDS = ("CNN", "C", "DL", "SL")
"""Kinds of placement that a sweep compares by default."""


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
    prefix = kind if kind in placement.PLACEMENTS else f"STN-{kind}"
    if prefix not in placement.PLACEMENTS:
      accepted = ", ".join(placement.PLACEMENTS)
      raise ValueError(f"--kinds={kind!r} is unknown; accepted: {accepted}")
    if not placement.PLACEMENTS[prefix].most_depths:
      names.append(prefix)
      continue
    for depth in depths:
      same = depth == 0 and prefix in ("STN-DL", "STN-SL")
      names.append(f"{'STN-C' if same else prefix}{depth}")
  return list(dict.fromkeys(names))


class Job(NamedTuple):
  """Runs that differ in their seed alone, trained together."""

  settings: Settings  # with the first seed
  seeds: tuple[int, ...]

  def members(self) -> list[Settings]:
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


def jobs_for_process(
  jobs: Sequence[Job], count: int, index: int
) -> list[Job] | None:
  """The jobs that one of several processes trains by itself.

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


def device_groups(
  jobs: Sequence[Job], devices: Sequence[jax.Device], splittable: bool = True
) -> list[Sequence[jax.Device]]:
  """Groups of devices that train side by side, each a job at a time.

  As many groups as take the least time, if every run takes the same. The
  devices of a group share the seeds of its job, see
  `stnjax.training.trainer.Trainer`; a batch that they split is trained no
  faster, as small as it is.

  Args:
    jobs: Jobs to train.
    devices: Devices to share among the jobs.
    splittable: Whether devices of a group can split a batch.

  Returns:
    One group with all devices, or several of equal size.
  """
  seeds = max(len(job.seeds) for job in jobs)

  def rounds(count: int) -> int:
    together = layout.spread(seeds, len(devices) // count)
    return -(-len(jobs) // count) * seeds // together

  count = min(range(1, min(len(jobs), len(devices)) + 1), key=rounds)
  size = len(devices) // count
  if seeds == 1 and not splittable:
    size = 1
  return [devices[i * size : (i + 1) * size] for i in range(count)]
