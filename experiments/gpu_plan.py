"""Measures what a GPU answers, the most important first, in a given time.

  python -m experiments.gpu_plan --minutes=9 --data_dir=tensorflow_datasets

The parts, which --parts chooses among; each writes what it has found when its
time is over:

  parity    values and gradients of warps: experiments.bench_parity, 1.5 minutes
  sampling  times of warps: experiments.bench_sampling, 2.5 minutes
  training  times of training: experiments.bench_training, 3 minutes
  runs      the networks of README at the paper's width, on all of MNIST, in the
            time that is left; the same command resumes it

Results go to folders of --output named as the parts, and what became of each
part to plan.json. --tiny rehearses it with tiny sizes and the embedded digits,
on a CPU too. Needs the extras gpu, bench and experiments.
"""

import json
import os

from absl import flags

from experiments.bench import gpu_parts, plan
from experiments.lib import cli
from stnjax import files


def main() -> None:
  chosen = cli.each_once("parts", _PARTS.value)
  for name in chosen:
    if name not in gpu_parts.NAMES:
      accepted = ", ".join(gpu_parts.NAMES)
      raise ValueError(f"--parts={name!r} is unknown; accepted: {accepted}")
  cli.seeds(_SEEDS.value)
  folder = files.place("--output", _OUTPUT.value)
  folder.mkdir(parents=True, exist_ok=True)
  output, tiny = os.fspath(folder), _TINY.value
  parts = {
    "parity": gpu_parts.parity(output),
    "sampling": gpu_parts.sampling(output, tiny),
    "training": gpu_parts.training(output, tiny),
    "runs": gpu_parts.runs(
      output,
      tiny,
      epochs=_EPOCHS.value,
      seeds=_SEEDS.value,
      data_dir=_DATA_DIR.value,
      minutes=_MINUTES.value,
    ),
  }
  outcomes = plan.run([parts[name] for name in chosen], _MINUTES.value)
  text = json.dumps(outcomes, indent=1) + "\n"
  files.write_whole(folder / "plan.json", text)


if __name__ == "__main__":
  _MINUTES = flags.DEFINE_float(
    "minutes", 9.0, "Minutes that the plan takes.", lower_bound=0.1
  )
  _PARTS = flags.DEFINE_list(
    "parts", list(gpu_parts.NAMES), "Parts to run, separated by commas."
  )
  _EPOCHS = flags.DEFINE_integer(
    "epochs", 8, "Epochs of the runs.", lower_bound=1
  )
  _SEEDS = flags.DEFINE_list("seeds", list("01234"), "Seeds of the runs.")
  _DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of TFDS, with mnist."
  )
  _TINY = flags.DEFINE_boolean("tiny", False, "Rehearse with tiny sizes.")
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/gpu_plan", "Folder that the results are written to."
  )
  cli.run(main)
