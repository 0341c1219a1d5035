"""Checks whether a task can show that the placement of a transformer matters.

  python -m experiments.gates --perturbation=ringed_digits --family=attention \
    --pilots="STN-C0 STN-SL3" --workdir=runs/ringed_digits

trains the CNN on the task and on the task at its true pose, reads the pose from
its layers, and trains pilots: does an ideal transformer gain anything, do
features predict the pose better than pixels, does a transformer start to move,
how many seeds does a sweep need. Writes gates.md and gates.json to the workdir,
which `experiments.claims` reads. Finished runs are not trained again. The
perturbation must have a registered "..._undone", see `stnjax.data.undone`.
"""

import dataclasses

from absl import flags

from experiments.lib import cli, jobs, loading, planning, running
from experiments.reporting import finished, gates
from stnjax import data, files, placement


def flagged() -> list[jobs.Job]:
  """The CNN on the task, the CNN at the true pose, and the pilots.

  Raises:
    ValueError: For flags that cannot be used.
  """
  seeds = cli.seeds(_SEEDS.value)
  plain = cli.settings_from_flags(network="CNN", seed=seeds[0])
  undone = f"{plain.perturbation}_undone"
  data.PERTURBATIONS[undone]  # raises
  at_pose = dataclasses.replace(plain, perturbation=undone)
  pilots = [dataclasses.replace(plain, network=n) for n in _PILOTS.value]
  for settings in pilots:
    if not placement.parse(settings.network).depths:
      raise ValueError(
        f"--pilots: {settings.network} has no transformer; accepted: networks"
        " with one"
      )
  for settings in (plain, at_pose, *pilots):
    cli.check_network(settings)
  return [jobs.Job(s, seeds) for s in (plain, at_pose, *pilots)]


def main() -> None:
  every = flagged()
  options = cli.training_options()
  plan = planning.make_plan(every)
  plan.check(options["data_dir"])
  running.raise_if_any(
    running.run_all(plan.jobs, device_groups=plan.device_groups, **options)
  )
  root = files.place("workdir", options["workdir"])
  runs, _ = finished.read(root)
  plain, at_pose, *pilots = (gates.members(runs, job) for job in every)
  found = gates.Runs(plain, at_pose, [run for of in pilots for run in of])
  passed = gates.check(found, loading.once(options["data_dir"]), _IMAGES.value)
  gates.write(root, passed, found)
  for gate in passed:
    print(f"{gate.question} {gate.measured}: {gates.OUTCOMES[gate.passed]}")
  print(f"written: {root / 'gates.md'} and gates.json")


if __name__ == "__main__":
  _SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Seeds of all runs.")
  _PILOTS = flags.DEFINE_spaceseplist(
    "pilots",
    ["STN-C0", "STN-SL1"],
    "Networks with transformers to try, separated by spaces.",
  )
  _IMAGES = flags.DEFINE_integer(
    "images", 1000, "Test images whose pose is read.", lower_bound=10
  )
  cli.define_training(exclude=("network", "seed"))
  flags.adopt_module_key_flags(cli)
  cli.run(main, check=flagged)
