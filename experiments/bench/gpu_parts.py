"""The parts of the plan for a GPU: commands of this project."""

from collections.abc import Sequence
import sys

from experiments.bench.plan import Part
from stnjax.paper.presets import PRESETS

NAMES = ("parity", "sampling", "training", "runs")
"""The parts, the most important first."""

NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1")
"""The networks that are trained."""

_SHAPES = (
  "256x28x28x1",
  "256x64x64x3",
  "512x32x32x64",
  "64x224x224x3",
  "4x96x96x96x1",
)


def parity(output: str) -> Part:
  """Values and gradients of warps."""
  command = _script("bench_parity", *_place(output, "parity"))
  return Part(name="parity", minutes=1.5, commands=[command])


def sampling(output: str, tiny: bool) -> Part:
  """Times of warps."""
  shapes = ("4x8x8x1", "1x6x6x6x1") if tiny else _SHAPES
  command = _script(
    "bench_sampling",
    *_place(output, "sampling"),
    f"--shapes={','.join(shapes)}",
    f"--rounds={2 if tiny else 9}",
    "--dtype=float32",
    "--dtype=bfloat16",
    "--peers=torch,map_coordinates,copy",
    "--nomemory",
  )
  return Part(name="sampling", minutes=2.5, commands=[command])


def training(output: str, tiny: bool) -> Part:
  """Times of training."""
  sizes = ["--seeds=5", "--steps=100", "--rounds=5"]
  if tiny:
    sizes = ["--seeds=2", "--steps=1", "--rounds=1", "--width=0.1"]
  # The one with most to tell comes first.
  names = NETWORKS[:1] if tiny else NETWORKS[::-1]
  command = _script(
    "bench_training",
    *_place(output, "training"),
    "--protocol=paper",
    "--torch_compile",
    f"--networks={','.join(names)}",
    *sizes,
  )
  return Part(name="training", minutes=3, commands=[command])


def runs(
  output: str,
  tiny: bool,
  *,
  epochs: int,
  seeds: Sequence[str],
  data_dir: str | None,
  minutes: float,
) -> Part:
  """The networks of README at full width on all of MNIST.

  Each trains in a separate process: one compiles while others train.
  """
  changes = dict(PRESETS["rotation"].quick, dataset="mnist", width=1.0)
  changes["epochs"] = epochs
  if tiny:
    changes |= {"dataset": "mnist_subset", "width": 0.1, "epochs": 1}
  place = [f"--workdir={output}/runs", "--checkpoint_seconds=60"]
  if data_dir is not None:
    place.append(f"--data_dir={data_dir}")
  names = NETWORKS[:2] if tiny else NETWORKS
  sweep = _script(
    "sweep",
    *place,
    f"--networks={' '.join(names)}",
    f"--seeds={','.join(seeds)}",
    *(f"--{name}={value}" for name, value in changes.items()),
  )
  count = len(names)
  return Part(
    name="runs",
    minutes=minutes,
    commands=[[*sweep, f"--shard={k}/{count}"] for k in range(count)],
    environment={"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.75 / count:.2f}"},
  )


def _script(name: str, *arguments: str) -> list[str]:
  return [sys.executable, "-m", f"experiments.{name}", *arguments]


def _place(output: str, name: str) -> list[str]:
  return [f"--output={output}/{name}", "--overwrite"]
