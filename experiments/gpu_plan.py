"""Measures what a GPU answers, the most important first, in a given time.

  python -m experiments.gpu_plan --minutes=9 --data_dir=tensorflow_datasets

The parts, which --parts chooses among; each writes what it has found when its
time is over:

  parity    values and gradients of warps (experiments.bench_parity), 1.5 minutes
  sampling  times of warps (experiments.bench_sampling), 2.5 minutes
  training  times of training steps (experiments.bench_training), 3 minutes
  runs      the paper's rotated MNIST at full width, for --epochs epochs, in the
            time that is left; the same command resumes it

Results go to folders of --output named as the parts, and what became of each
part to plan.json. --tiny rehearses it with tiny sizes, on a CPU too, without data
that are not embedded. Needs the extras gpu, bench and experiments.
"""

import json
import pathlib
import sys

from absl import flags

from experiments.bench import plan
from experiments.lib import cli
from stnjax import files
from stnjax.paper.presets import PRESETS

NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1")
SHAPES = (
  "256x28x28x1",
  "128x64x64x3",
  "64x32x32x64",
  "32x224x224x3",
  "256x224x224x3",
  "512x32x32x64",
  "4x96x96x96x1",
)


def script(name: str, *arguments: str) -> list[str]:
  """A command of this project."""
  return [sys.executable, "-m", f"experiments.{name}", *arguments]


def parts(output: str, tiny: bool) -> dict[str, plan.Part]:
  """The parts of the plan by name, in their order.

  Args:
    output: Folder of the results.
    tiny: Whether all sizes are tiny.
  """
  every = [
    plan.Part(
      name="parity",
      minutes=1.5,
      commands=[script("bench_parity", *_place(output, "parity"))],
    ),
    plan.Part(name="sampling", minutes=2.5, commands=[_sampling(output, tiny)]),
    plan.Part(name="training", minutes=3, commands=[_training(output, tiny)]),
    _runs(output, tiny),
  ]
  return {part.name: part for part in every}


def _place(output: str, name: str) -> list[str]:
  return [f"--output={output}/{name}", "--overwrite"]


def _sampling(output: str, tiny: bool) -> list[str]:
  shapes = ("4x8x8x1", "1x6x6x6x1") if tiny else SHAPES
  sizes = [f"--shapes={','.join(shapes)}", f"--rounds={2 if tiny else 9}"]
  peers = "--peers=torch,map_coordinates,copy"
  dtypes = "--dtype=float32", "--dtype=bfloat16"
  place = _place(output, "sampling")
  return script("bench_sampling", *place, *sizes, peers, "--nomemory", *dtypes)


def _training(output: str, tiny: bool) -> list[str]:
  sizes = ["--seeds=10", "--steps=100", "--rounds=5"]
  if tiny:
    sizes = ["--seeds=2", "--steps=1", "--rounds=1", "--width=0.1"]
  protocol = ["--protocol=paper", "--torch_compile"]
  # Those with most to tell come first.
  names = ("STN-SL1", "CNN", "STN-C0", "STN-C1", "STN-DL1")
  return script(
    "bench_training",
    *_place(output, "training"),
    *protocol,
    f"--networks={','.join(names[:1] if tiny else names)}",
    *sizes,
  )


def _runs(output: str, tiny: bool) -> plan.Part:
  """Networks in processes of their own: one compiles while others train."""
  changes = dict(PRESETS["rotation"].full, epochs=_EPOCHS.value)
  if tiny:
    changes |= {"dataset": "mnist_subset", "width": 0.1, "epochs": 1}
  place = [f"--workdir={output}/runs", "--checkpoint_seconds=60"]
  if _DATA_DIR.value is not None:
    place.append(f"--data_dir={_DATA_DIR.value}")
  names = NETWORKS[:2] if tiny else NETWORKS
  sweep = script(
    "sweep",
    *place,
    f"--networks={' '.join(names)}",
    f"--seeds={','.join(_SEEDS.value)}",
    *(f"--{name}={value}" for name, value in changes.items()),
  )
  count = len(names)
  return plan.Part(
    name="runs",
    minutes=_MINUTES.value,
    commands=[[*sweep, f"--shard={k}/{count}"] for k in range(count)],
    environment={"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / count:.2f}"},
  )


def main() -> None:
  cli.seeds(_SEEDS.value)
  output = files.place("--output", _OUTPUT.value)
  every = parts(str(output), _TINY.value)
  chosen = cli.each_once("parts", _PARTS.value or list(every))
  unknown = [name for name in chosen if name not in every]
  if unknown:
    raise ValueError(
      f"--parts={unknown[0]!r} is unknown; accepted: {', '.join(every)}"
    )
  pathlib.Path(output).mkdir(parents=True, exist_ok=True)
  outcomes = plan.run([every[name] for name in chosen], _MINUTES.value)
  files.write_whole(output / "plan.json", json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
  _MINUTES = flags.DEFINE_float(
    "minutes", 9.0, "Minutes that the plan takes.", lower_bound=0.1
  )
  _PARTS = flags.DEFINE_list(
    "parts", None, "Parts to run, separated by commas; all by default."
  )
  _EPOCHS = flags.DEFINE_integer(
    "epochs", 40, "Epochs of the runs; the paper has 640.", lower_bound=1
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
