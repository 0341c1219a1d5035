"""Trains networks x depths x seeds, and writes the report.

  python -m experiments.sweep

sweeps the placement of the spatial transformer on the embedded digits. Finished
runs are skipped and interrupted ones resumed: rerun the command after an
interruption. A network's seeds are trained in one program.

  python -m experiments.sweep --imports=my_module --dataset=folder \
    --data_dir=pictures --image_size=64 --backbone=my_backbone \
    --perturbation=my_perturbation --networks="CNN STN-C0 STN-C2 STN-SL2"

does the same for objects that your own module registers, and your own pictures.

Several devices split a network's seeds, or train networks side by side,
whichever takes less time; with fewer runs than devices, some split each batch.
Several processes, started as for `train`, split the networks, or the seeds if
there are fewer networks than processes. If there are fewer runs than processes,
all processes train each run together. Processes that are not connected take
--shard=0/2 and --shard=1/2.
"""

from absl import flags

from experiments.lib import cli, jobs, processes, running, selection
from experiments.reporting import sweeping
from stnjax import placement


def flagged() -> list[jobs.Job]:
  """The jobs that the flags of this script name.

  Raises:
    ValueError: for flags that cannot be used.
  """
  names = _NETWORKS.value
  if names is None:
    depths = cli.integers("depths", _DEPTHS.value)
    names = jobs.sweep_networks(_KINDS.value, depths)
  if not names:
    raise ValueError(
      "--networks is empty; accepted: names, separated by spaces"
    )
  if len({placement.parse(name) for name in names}) < len(names):
    raise ValueError(f"--networks must differ, got {' '.join(names)}")
  seeds = cli.seeds(_SEEDS.value)
  return [
    jobs.Job(cli.settings_from_flags(network=name, seed=seeds[0]), seeds)
    for name in names
  ]


def main() -> None:
  every, options = flagged(), cli.training_options()
  with processes.joined():
    chosen = selection.chosen(every, **options)
    errors = sweeping.run_and_report(chosen, **options) if chosen else []
  running.raise_if_any(errors)


if __name__ == "__main__":
  _NETWORKS = flags.DEFINE_spaceseplist(
    "networks",
    None,
    "Names of networks, separated by spaces, instead of kinds x depths.",
  )
  _KINDS = flags.DEFINE_list(
    "kinds",
    list(jobs.DEFAULT_KINDS),
    "Kinds of placement: CNN, C, DL, SL, UCN, DEF, CAN, EQ, GCNN, or a"
    " registered one.",
  )
  _DEPTHS = flags.DEFINE_list("depths", ["0", "1"], "Depths of placement.")
  _SEEDS = flags.DEFINE_list(
    "seeds", ["0"], "Seeds, 0 to 2^32 - 1; each is a run."
  )
  cli.define_training(exclude=("network", "seed"))
  selection.define_selection()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(processes)
  cli.run(main, check=lambda: selection.picked(flagged()))
