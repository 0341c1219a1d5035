"""Costs of warps compiled for TPUs that are not there."""

from collections.abc import Callable, Sequence
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp

from experiments.bench import compiled, compiled_warps, shapes, tpu
from experiments.bench.results import last_row
from experiments.lib.tables import Table
from stnjax.sampling.kernels import matmul
from stnjax.sampling.methods import LINEAR
from stnjax.sampling.padding import ZEROS


def tiles_fn(count: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """The kernel for TPUs on a number of tiles, without its loop over them."""
  read = functools.partial(
    matmul.sample, method=LINEAR, padding=ZEROS, align_corners=False
  )

  def tiles(image, points):
    parts = jnp.split(points, count, axis=1)
    return jnp.concatenate([jax.vmap(read)(image, p) for p in parts], axis=1)

  return tiles


def measure(
  compiler: tpu.Compiler, kernel: str, shape: shapes.Shape, name: str
) -> dict[str, Any]:
  """Costs of one pass of a warp.

  XLA counts the body of a loop once: a further tile costs what a second one
  adds.

  Args:
    compiler: tpu.Compiler to use.
    kernel: One of `compiled_warps.KERNELS`.
    shape: Shape of the batch.
    name: One of `peers.PASSES`.
  """
  batch, height, width, channels = shape
  f = compiled_warps.program(compiled_warps.warp_fn(kernel), name)
  result = compiler.costs(f, shape, (batch, 2, 3), shape)
  points = height * width
  tile = min(points, matmul.tile_size(shape[1:], points, batch))
  count = -(-points // tile)
  if kernel == "stnjax" and count > 1:
    single, double = (
      compiler.costs(
        compiled_warps.program(tiles_fn(n), name),
        shape,
        (batch, n * tile, 2),
        (batch, n * tile, channels),
      )
      for n in (1, 2)
    )
    for key in ("seconds", "flops", "bytes"):
      result[key] = single[key] + (count - 1) * (double[key] - single[key])
    result["unknown"] = single["unknown"]
    result["tiles"] = count
  return {"kernel": kernel, "shape": shape, "pass": name, **result}


def measure_all(
  compiler: tpu.Compiler,
  batches: Sequence[shapes.Shape],
  names: Sequence[str],
  kernels: Sequence[str],
) -> list[dict[str, Any]]:
  """Costs of every combination; prints the row of each.

  Args:
    compiler: Compiler to use.
    batches: Shapes of batches.
    names: Passes, of `peers.PASSES`.
    kernels: Some of `compiled_warps.KERNELS`.
  """
  rows: list[dict[str, Any]] = []
  for shape, name, kernel in itertools.product(batches, names, kernels):
    rows.append(measure(compiler, kernel, shape, name))
    print(last_row(table(rows)), flush=True)
  return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
  """A row for each warp; ratios are to map_coordinates if it is compiled."""
  peer_seconds = {
    (row["shape"], row["pass"]): row["seconds"]
    for row in rows
    if row["kernel"] == "map_coordinates"
  }

  def cells(row):
    peer = peer_seconds.get((row["shape"], row["pass"]))
    total = sum(row["cycles"][work] for work in compiled.WORK)
    return [
      shapes.text(row["shape"]),
      row["pass"],
      row["kernel"],
      f"{1e6 * row['seconds']:.0f}",
      f"{peer / row['seconds']:.1f}" if peer else "–",
      str(row["unknown"]),
      "–" if row["cycles"]["unknown"] else f"{total / 1e3:.0f}",
      str(row.get("tiles", 1)),
      *tpu.amounts(row),
      f"{row['temporary_bytes'] / row['in_and_out_bytes']:.2f}",
      str(row["gathers"]),
      str(row["scatters"]),
    ]

  heading = [
    "batch",
    "pass",
    "implementation",
    "estimate (us)",
    "estimate of map_coordinates / this",
    "operations without estimate",
    "thousand cycles",
    "tiles",
    *tpu.AMOUNTS,
    "temporaries / (inputs + outputs)",
    "gathers",
    "scatters",
  ]
  return Table(heading, [cells(row) for row in rows], text_columns=3)
