"""Compiles warps for a GPU that is not there, and counts their operations.

  pip install -e '.[gpu,experiments]'
  python -m experiments.bench_gpu_compile

Compiles linear warps by affine transforms for one H100, on an x86 machine with
Linux and without a GPU: by default, and with sums in one order
(`jax.jit(..., compiler_options={"xla_gpu_deterministic_ops": True})`). Writes
a table, bench_gpu_compile.md, and every number, bench_gpu_compile.json. Takes
about 3 minutes on a CPU core.

Counts kernels, which are launched one after another, sorts and scatters, and
unordered scatters: these add to a pixel in any order, so that the last digits
of a sum differ from call to call. Choices that XLA makes by timing on a GPU are
not made here. For times see `experiments.bench_sampling`, on a GPU.
"""

import itertools

from absl import flags
import jax

from experiments.bench import gpu, peers, results, shapes
from experiments.lib import cli


def main() -> None:
  batches = shapes.parse(_SHAPES.value)
  kernels = cli.each_once("kernel", _KERNELS.value)
  _OUTPUT.prepare()
  rows = []
  for shape, name, kernel, sums in itertools.product(
    batches, peers.PASSES, kernels, gpu.SUMS
  ):
    rows.append(gpu.measure(kernel, shape, name, sums))
    print(results.last_row(gpu.table(rows)), flush=True)
  sections = {f"H100, jax {jax.__version__}, float32": gpu.table(rows)}
  _OUTPUT.write(
    {"gpu": str(gpu.device()), "jax": jax.__version__, "rows": rows},
    results.sections(sections),
  )


if __name__ == "__main__":
  _SHAPES = shapes.define_flag(
    ["256x28x28x1", "128x64x64x3", "64x32x32x64", "32x224x224x3"]
  )
  _KERNELS = flags.DEFINE_multi_enum(
    "kernel",
    list(gpu.KERNELS),
    gpu.KERNELS,
    "Implementation; can be repeated.",
  )
  _OUTPUT = results.Output("bench_gpu_compile")
  cli.run(main)
