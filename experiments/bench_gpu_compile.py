"""Compiles warps for a GPU that is not there, and counts what comes out.

  pip install -e '.[gpu]'
  python -m experiments.bench_gpu_compile

compiles linear warps by affine transforms for one H100, on an x86 machine with
Linux that has none, as they are and where sums must be in one order
(`jax.jit(..., compiler_options={"xla_gpu_deterministic_ops": True})`). It
writes a table, bench_gpu_compile.md, and every number, bench_gpu_compile.json.
About 3 minutes on a CPU core.

It counts kernels, which are launched one after another, sorts and scatters, and
those scatters that add to a pixel in any order, so that the last digit of a sum
differs from call to call. What XLA chooses by trying it out on a GPU it does
not choose here. Times need the GPU: `experiments.bench_sampling`.
"""

from collections.abc import Sequence
import functools
import itertools
import json
import os
import re
from typing import Any

from absl import flags
import jax

from experiments import bench_tpu_compile
from experiments.bench import compiled, peers, timing
from experiments.bench.timing import Shape
from experiments.lib import cli
from stnjax import files

KERNELS = ("stnjax", "map_coordinates")
SUMS = {"any order": {}, "one order": peers.ONE_ORDER}

_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  threads_per_block_limit: 1024
  threads_per_warp: 32
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84942979072
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@functools.cache
def device() -> Any:
  """An H100 to compile for.

  Raises:
    ValueError: where JAX cannot compile for it.
  """
  # Else JAX's plugin wants to ask a GPU for its driver's version.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  from jax.experimental import topologies

  try:
    found = topologies.get_topology_desc(
      platform="cuda",
      topology_name="1x1x1",
      topology="1x1x1",
      target_config=_H100,
    )
  except Exception as error:  # jaxlib raises its own, by version
    raise ValueError(
      f"JAX cannot compile for an H100: {error}; it needs its plugin for CUDA"
      " (pip install -e '.[gpu]')"
    ) from error
  return found.devices[0]


def counts(text: str) -> dict[str, int]:
  """What a program is made of.

  Args:
    text: the compiled program, as XLA prints it.
  """
  text = re.sub(r"/\*.*?\*/", "", text)  # "index=5" in large tuples
  operation = re.compile(r" = (?:\([^=]*?\)|\S+) ([a-z-]+)\(")
  names = operation.findall(text)
  free = ("parameter", "constant", "get-tuple-element", "bitcast", "tuple")
  launched = operation.findall(text[text.index("\nENTRY") :])
  scatters = [line for line in text.splitlines() if " scatter(" in line]
  return {
    "kernels": sum(name not in free for name in launched),
    "sorts": names.count("sort"),
    "scatters": len(scatters),
    "unordered": sum("unique_indices=true" not in line for line in scatters),
  }


def measure(kernel: str, shape: Shape, name: str, sums: str) -> dict[str, Any]:
  """What XLA makes of one pass of one kernel."""
  f = bench_tpu_compile.program(bench_tpu_compile.warp_fn(kernel), name)
  lowered = compiled.lowered(device(), f, shape, (shape[0], 2, 3), shape)
  program = lowered.compile(compiler_options=SUMS[sums])
  return {
    "kernel": kernel,
    "shape": shape,
    "pass": name,
    "sums": sums,
    **counts(program.as_text()),
    **compiled.memory(program),
  }


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table."""
  lines = [
    "| batch | pass | by | sums in | kernels | sorts | scatters |"
    " adding in any order | temporaries (MB) | of in + out |",
    "|---|---|---|---|" + "--:|" * 6,
  ]
  for row in rows:
    cells = [
      "x".join(map(str, row["shape"])),
      row["pass"],
      row["kernel"],
      row["sums"],
      *(str(row[k]) for k in ("kernels", "sorts", "scatters", "unordered")),
      f"{row['temporary_bytes'] / 1e6:.1f}",
      f"{row['temporary_bytes'] / row['in_and_out_bytes']:.2f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def main() -> None:
  wanted = timing.shapes(timing.each_once("shapes", _SHAPES.value))
  names = "bench_gpu_compile.json", "bench_gpu_compile.md"
  outputs = timing.outputs(_OUTPUT.value, names, _OVERWRITE.value)
  rows = []
  for shape, name, kernel, sums in itertools.product(
    wanted, bench_tpu_compile.PASSES, _KERNELS.value, SUMS
  ):
    rows.append(measure(kernel, shape, name, sums))
    print(table(rows).splitlines()[-1], flush=True)
  values = {"gpu": str(device()), "jax": jax.__version__, "rows": rows}
  files.write_whole(outputs[0], json.dumps(values, indent=1) + "\n")
  text = f"H100, jax {jax.__version__}, float32:\n\n{table(rows)}"
  files.write_whole(outputs[1], text)
  print(f"written: {outputs[0]}, {outputs[1]}")


if __name__ == "__main__":
  _SHAPES = flags.DEFINE_list(
    "shapes",
    ["256x28x28x1", "128x64x64x3", "64x32x32x64", "32x224x224x3"],
    "Batches to warp: batch x height x width x channels.",
  )
  _KERNELS = flags.DEFINE_multi_enum(
    "kernel", list(KERNELS), KERNELS, "What to warp with."
  )
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/bench_gpu_compile", "Folder of the results."
  )
  _OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace results that are there already."
  )
  cli.run(main)
