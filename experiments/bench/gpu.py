"""Warps compiled for a GPU that is not there."""

from collections.abc import Sequence
import functools
import os
from typing import Any

from experiments.bench import compiled, compiled_warps, peers, shapes
from experiments.lib.tables import Table

KERNELS = ("stnjax", "map_coordinates")
SUMS = {"any order": {}, "one order": peers.ONE_ORDER}
"""Orders of summation, and options of the compiler."""

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
    ValueError: If JAX cannot compile for it.
  """
  # Else JAX's plugin asks a GPU for the version of its driver.
  os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
  from jax.experimental import topologies

  try:
    topology = topologies.get_topology_desc(
      platform="cuda",
      topology_name="1x1x1",
      topology="1x1x1",
      target_config=_H100,
    )
  except Exception as error:  # the type depends on jaxlib's version
    raise ValueError(
      f"JAX cannot compile for an H100: {error}; it needs its plugin for CUDA"
      " (pip install -e '.[gpu]')"
    ) from error
  return topology.devices[0]


def measure(
  kernel: str, shape: shapes.Shape, name: str, sums: str
) -> dict[str, Any]:
  """Compiles one pass of a warp, and counts its operations.

  Args:
    kernel: One of `KERNELS`.
    shape: Shape of the batch.
    name: One of `peers.PASSES`.
    sums: One of `SUMS`.
  """
  f = compiled_warps.program(compiled_warps.warp_fn(kernel), name)
  arguments = shape, (shape[0], 2, 3), shape
  lowered = compiled_warps.lowered(device(), f, *arguments)
  program = lowered.compile(compiler_options=SUMS[sums])
  return {
    "kernel": kernel,
    "shape": shape,
    "pass": name,
    "sums": sums,
    **compiled.gpu_counts(program.as_text()),
    **compiled.memory(program),
  }


def table(rows: Sequence[dict[str, Any]]) -> Table:
  """A row for each program."""
  cells = [
    [
      shapes.text(row["shape"]),
      row["pass"],
      row["kernel"],
      row["sums"],
      *(str(row[k]) for k in ("kernels", "sorts", "scatters", "unordered")),
      f"{row['temporary_bytes'] / 1e6:.1f}",
      f"{row['temporary_bytes'] / row['in_and_out_bytes']:.2f}",
    ]
    for row in rows
  ]
  heading = [
    "batch",
    "pass",
    "implementation",
    "sums in",
    "kernels",
    "sorts",
    "scatters",
    "unordered scatters",
    "temporaries (MB)",
    "temporaries / (inputs + outputs)",
  ]
  return Table(heading, cells, text_columns=4)
