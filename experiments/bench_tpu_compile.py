"""Compiles warps and training steps for TPUs that are not there.

  pip install -e '.[tpu-aot]'
  python -m experiments.bench_tpu_compile

Compiles for a TPU topology, on an x86 machine without one:
- linear warps by affine transforms, for one chip, with the kernel that stnjax
  chooses for TPUs and with peers that use gathers;
- whole training steps of the paper's networks, for all chips.
Writes tables, bench_tpu_compile.md, and every number, bench_tpu_compile.json.
Takes about 20 minutes on a CPU core.

Nothing is measured; there are two estimates of XLA's:
- Time, little more than the bytes moved over the bandwidth, within the memory
  of a core too. XLA subtracts a second for each operation that it cannot
  estimate; these are counted separately. It counts the body of a loop once: the
  time of a warp in tiles is that of one tile and, for each further one, what a
  second tile adds; that of a training step lacks all further tiles.
- Cycles of each compiled operation, times the iterations of its loop. Gathers,
  scatters and gradients of max pooling have none, and are counted separately: a
  warp with one has no sum, and the sum of a training step lacks them.
Neither includes communication between chips.
"""

from absl import flags
import jax

from experiments.bench import (
  compiled_warps,
  peers,
  results,
  shapes,
  tpu,
  tpu_steps,
  tpu_warps,
)
from experiments.lib import cli


def main() -> None:
  wanted, steps = _SHAPES.value, _STEPS.value
  if not wanted and not steps:
    raise ValueError(
      "--shapes and --steps are both empty; accepted: at least one of either"
    )
  batches = shapes.parse(wanted) if wanted else []
  tpu_steps.parse(steps, _BATCH_PER_CHIP.value)
  compiler = tpu.Compiler(_TOPOLOGY.value)
  _OUTPUT.prepare()
  kernels, names = _KERNELS.value, _PASSES.value
  warps = tpu_warps.measure_all(compiler, batches, names, kernels)
  steps = tpu_steps.measure_all(compiler, steps, _BATCH_PER_CHIP.value)
  target = f"{_TOPOLOGY.value}, jax {jax.__version__}, float32"
  sections = {
    f"Warps, one chip of {target}": tpu_warps.table(warps),
    f"Training steps, all chips of {target}": tpu_steps.table(steps),
  }
  versions = {"topology": _TOPOLOGY.value, "jax": jax.__version__}
  values = {**versions, "warps": warps, "steps": steps}
  _OUTPUT.write(values, results.sections(sections))


if __name__ == "__main__":
  _TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:2x4", "TPU topology, such as v5e:2x4 or v4:2x2x1."
  )
  _SHAPES = shapes.define_flag(
    ["256x28x28x1", "128x64x64x3", "64x32x32x64", "8x224x224x3"]
  )
  _KERNELS = flags.DEFINE_multi_enum(
    "kernel",
    ["map_coordinates", "stnjax"],
    compiled_warps.KERNELS,
    "Implementation of the warp; can be repeated.",
  )
  _PASSES = flags.DEFINE_multi_enum(
    "pass", list(peers.PASSES), peers.PASSES, "Pass; can be repeated."
  )
  _STEPS = flags.DEFINE_list(
    "steps",
    list(tpu_steps.STEPS),
    "Training steps, PRESET:NETWORK: an experiment of the paper in full size,"
    " and one of its networks.",
  )
  _BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip", 32, "Images of a training step on each chip.", 1
  )
  _OUTPUT = results.Output("bench_tpu_compile")
  cli.run(main)
