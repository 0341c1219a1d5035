"""Trains one network; run it again to resume.

  python -m experiments.train --network=STN-SL1 --seeds=0,1

trains on the embedded digits, each rotated afresh by up to +-90 degrees, and
writes runs/<name of the run> for each seed. The seeds are trained in one
program, with the results that each would have alone, but for rounding. After a
kill, the same command resumes from the last checkpoint and ends with the
metrics of an uninterrupted run. SIGTERM and Ctrl-C write a checkpoint before
exiting.

On several processes, start the same command on each: with --distributed where
the machines are connected, as in a Cloud TPU slice, otherwise with
--coordinator, --num_processes and --process_id. Where one of them is lost, the
others stop; the same commands resume.
"""

from absl import flags
import jax

from experiments.lib import (
  cli,
  hardware,
  loading,
  loop,
  measuring,
  processes,
)
from stnjax.training.settings import Settings


def flagged() -> tuple[Settings, tuple[int, ...]]:
  """The settings and seeds that the flags of this script name.

  Raises:
    ValueError: for flags that cannot be used.
  """
  processes.check()
  seeds = cli.seeds(_SEEDS.value)
  settings = cli.settings_from_flags(seed=seeds[0])
  cli.check_network(settings)
  return settings, seeds


def main() -> None:
  settings, seeds = flagged()
  options = cli.training_options()
  with processes.joined():
    setup = loading.check(settings, options["data_dir"])
    axes = setup.perturbation.axes
    hardware.check_memory(settings, setup, len(seeds), jax.local_devices())
    results = loop.train(
      settings,
      seeds,
      **options,
      progress=lambda seeds, lines: print(
        measuring.describe(lines, axes, settings.epochs), flush=True
      ),
    )
  for seed, result in results.items():
    words = measuring.describe([result], axes)
    print(f"{settings.network} seed {seed}: {words}")


if __name__ == "__main__":
  _SEEDS = flags.DEFINE_list(
    "seeds",
    ["0"],
    "Seeds, 0 to 2^32 - 1; each is a run, and all are trained together.",
  )
  cli.define_training(exclude=("seed",))
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(processes)
  cli.run(main, check=flagged)
