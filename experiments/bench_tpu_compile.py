"""Compiles warps for TPUs that are not there, and prints what XLA expects.

  pip install -e '.[tpu-aot]'
  python -m experiments.bench_tpu_compile

compiles for a TPU topology, on an x86 machine without one:
- linear warps by affine transforms, for one chip, with the kernel that stnjax
  chooses for TPUs and with the peers that gather;
- whole training steps of the paper's networks, for all chips.
It writes tables, bench_tpu_compile.md, and every number,
bench_tpu_compile.json. About 20 minutes on a CPU core.

There are two estimates of XLA's, and no measurement:
- Time, which is little more than all that is moved, in a core's memory too,
  over the bandwidth. XLA subtracts a second for each operation that it cannot
  estimate, which are counted apart, and counts the body of a loop once: for a
  warp that goes in tiles, the time is that of one tile and, for each further
  one, what a second tile adds; that of a step is too low by all further tiles.
- Cycles of each operation as it is compiled, as often as loops turn. Gathers,
  scatters and gradients of max pooling have none, and are counted apart: a warp
  with such an operation has no sum, and that of a step leaves them out.
What the chips tell each other is in neither.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import functools
import json
import os
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments import paper
from experiments.bench import compiled, timing
from experiments.bench.timing import Shape, shapes
from experiments.lib import cli
import stnjax
from stnjax import data as datasets
from stnjax import files
from stnjax.sampling import grids
from stnjax.sampling.kernels import matmul
from stnjax.training import runs

STEPS = (
  "rotation:STN-SL1",
  "house_numbers:STN-SL3",
  "plankton:STN-SL4",
  "cifar:STN-SL2",
)
KERNELS = ("stnjax", "gather", "map_coordinates")
PASSES = ("forward", "theta", "both")


def warp_fn(kernel: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A warp of `[B, H, W, C]` by `[B, 2, 3]` with a kernel."""
  if kernel == "map_coordinates":
    return _map_coordinates
  implementation = "auto" if kernel == "stnjax" else kernel
  return functools.partial(stnjax.warp, implementation=implementation)


def _map_coordinates(image: jax.Array, theta: jax.Array) -> jax.Array:
  points = grids.affine_pixel_grid(theta, image.shape[1:3], image.shape[1:3])

  def plane(plane, points):
    places = jnp.moveaxis(points[..., ::-1], -1, 0)
    return jax.scipy.ndimage.map_coordinates(plane, places, 1)

  by_channel = jax.vmap(plane, in_axes=(-1, None), out_axes=-1)
  return jax.vmap(by_channel)(image, points)


def tiles_fn(count: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
  """A read of so many tiles of the kernel for TPUs, without its loop."""
  read = functools.partial(
    matmul.sample, method="linear", padding="zeros", align_corners=False
  )

  def tiles(image, points):
    parts = jnp.split(points, count, axis=1)
    return jnp.concatenate([jax.vmap(read)(image, p) for p in parts], axis=1)

  return tiles


def program(f: Callable[..., jax.Array], name: str) -> Callable[..., Any]:
  """A pass of `f(image, parameters)`, also of the cotangent of its result."""
  if name == "forward":
    return lambda image, parameters, cotangent: f(image, parameters)

  def pulled(image, parameters, cotangent):
    if name == "theta":
      _, vjp = jax.vjp(functools.partial(f, image), parameters)
    else:
      _, vjp = jax.vjp(f, image, parameters)
    return vjp(cotangent)

  return pulled


class Compiler:
  """Compiles for a topology: for its first chip, or for all of them."""

  def __init__(self, topology: str):
    # Else libtpu asks Google's metadata server who it is, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Compiling needs no chip that another process could hold.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
      found = topologies.get_topology_desc(
        platform="tpu", topology_name=topology
      )
    except Exception as error:  # jaxlib raises its own, by version
      raise ValueError(
        f"--topology={topology!r} cannot be compiled for: {error}; it needs"
        " libtpu (pip install -e '.[tpu-aot]'), and a name such as v5e:2x2"
      ) from error
    self._devices = list(found.devices)

  def costs(
    self, f: Callable[..., Any], *arguments: Sequence[int]
  ) -> dict[str, Any]:
    """What XLA says of `f` at float32 arguments, of these shapes, on a chip."""
    lowered = compiled.lowered(self._devices[0], f, *arguments)
    return compiled.costs(lowered.compile())

  def step_costs(self, settings: runs.Settings) -> dict[str, Any]:
    """What XLA says of a training step of a run, on all chips."""
    known = datasets.SETS[settings.dataset]
    count = settings.batch_size
    heads = (known.heads,) if known.heads > 1 else ()
    rng = np.random.default_rng(0)
    data = datasets.Data(
      rng.integers(0, 256, (count, *known.image_shape)).astype(np.uint8),
      np.zeros((count, *heads), np.int32),
    )
    training, states = runs.build_program(
      [settings], data.images, self._devices
    )
    step = training.lower(states, data).compile()
    collectives = compiled.collectives(step.as_text())
    return compiled.costs(step) | {"collectives": collectives}

  @property
  def chips(self) -> int:
    return len(self._devices)


def measure(
  compiler: Compiler, kernel: str, shape: Shape, name: str
) -> dict[str, Any]:
  """The costs of one pass of one kernel."""
  batch, height, width, channels = shape
  result = compiler.costs(
    program(warp_fn(kernel), name), shape, (batch, 2, 3), shape
  )
  points = height * width
  tile = min(points, matmul.tile_size(shape[1:], points, batch))
  count = -(-points // tile)
  if kernel == "stnjax" and count > 1:
    one, two = (
      compiler.costs(
        program(tiles_fn(n), name),
        shape,
        (batch, n * tile, 2),
        (batch, n * tile, channels),
      )
      for n in (1, 2)
    )
    for key in ("seconds", "flops", "bytes"):
      result[key] = one[key] + (count - 1) * (two[key] - one[key])
    result["unknown"] = one["unknown"]
    result["tiles"] = count
  return {"kernel": kernel, "shape": shape, "pass": name, **result}


def step_settings(text: str, batch_size: int) -> runs.Settings:
  """The settings of a network of an experiment, as its full size has them.

  Args:
    text: `<preset>:<network>`.
    batch_size: of the global batch.

  Raises:
    ValueError: for one that there is not.
  """
  preset, _, network = text.partition(":")
  full = (
    paper.PRESETS[preset]().settings("full") if preset in paper.PRESETS else ()
  )
  found = [settings for settings in full if settings.network == network]
  if not found:
    raise ValueError(
      f"--steps={text!r}; accepted: PRESET:NETWORK, of experiments.paper --list"
    )
  return dataclasses.replace(found[0], batch_size=batch_size)


def step_table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table of training steps."""
  lines = [
    "| experiment | network | chips | images of each | estimate (us) |"
    " not estimated | thousand cycles | in convolutions | in sampling |"
    " without cycles | GFLOP | MB moved | temporaries (MB) | collectives |"
    " MB in them |",
    "|---|---|" + "--:|" * 13,
  ]
  for row in rows:
    kinds = collections.Counter(name for name, _ in row["collectives"])
    # Another version of XLA may say nothing of cycles.
    cycles = max(1, sum(row["cycles"][work] for work in compiled.WORK))
    cells = [
      *row["step"].split(":"),
      str(row["chips"]),
      str(row["batch_size"] // row["chips"]),
      f"{1e6 * row['seconds']:.0f}",
      str(row["unknown"]),
      f"{cycles / 1e3:.0f}",
      *(
        f"{row['cycles'][work] / cycles:.0%}"
        for work in ("convolutions", "sampling")
      ),
      str(row["cycles"]["unknown"]),
      f"{row['flops'] / 1e9:.2f}",
      f"{row['bytes'] / 1e6:.0f}",
      f"{row['temporary_bytes'] / 1e6:.1f}",
      ", ".join(f"{count} {name}" for name, count in kinds.items()),
      f"{sum(size for _, size in row['collectives']) / 1e6:.3f}",
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A Markdown table; ratios are to map_coordinates where that was compiled."""
  times = {
    (row["shape"], row["pass"]): row["seconds"]
    for row in rows
    if row["kernel"] == "map_coordinates"
  }
  lines = [
    "| batch | pass | kernel | estimate (us) | map_coordinates / it |"
    " not estimated | thousand cycles | tiles | GFLOP | MB moved |"
    " temporaries (MB) | of in + out | gathers | scatters |",
    "|---|---|---|" + "--:|" * 11,
  ]
  for row in rows:
    peer = times.get((row["shape"], row["pass"]))
    cycles = sum(row["cycles"][work] for work in compiled.WORK)
    cells = [
      "x".join(map(str, row["shape"])),
      row["pass"],
      row["kernel"],
      f"{1e6 * row['seconds']:.0f}",
      f"{peer / row['seconds']:.1f}" if peer else "–",
      str(row["unknown"]),
      "–" if row["cycles"]["unknown"] else f"{cycles / 1e3:.0f}",
      str(row.get("tiles", 1)),
      f"{row['flops'] / 1e9:.2f}",
      f"{row['bytes'] / 1e6:.0f}",
      f"{row['temporary_bytes'] / 1e6:.1f}",
      f"{row['temporary_bytes'] / row['in_and_out_bytes']:.2f}",
      str(row["gathers"]),
      str(row["scatters"]),
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def main() -> None:
  if not _SHAPES.value and not _STEPS.value:
    raise ValueError(
      "--shapes and --steps are both empty; accepted: at least one of either"
    )
  wanted = shapes(_SHAPES.value)
  if wanted:
    timing.each_once("shapes", _SHAPES.value)
  if _STEPS.value:
    timing.each_once("steps", _STEPS.value)
  for text in _STEPS.value:
    step_settings(text, _BATCH_PER_CHIP.value)
  compiler = Compiler(_TOPOLOGY.value)
  batch_size = _BATCH_PER_CHIP.value * compiler.chips
  settings = [step_settings(text, batch_size) for text in _STEPS.value]
  names = "bench_tpu_compile.json", "bench_tpu_compile.md"
  outputs = timing.outputs(_OUTPUT.value, names, _OVERWRITE.value)
  warps, steps = [], []
  for shape in wanted:
    for name in _PASSES.value:
      for kernel in _KERNELS.value:
        warps.append(measure(compiler, kernel, shape, name))
        print(table(warps).splitlines()[-1], flush=True)
  for text, one in zip(_STEPS.value, settings, strict=True):
    here = {"step": text, "chips": compiler.chips, "batch_size": batch_size}
    steps.append(here | compiler.step_costs(one))
    print(step_table(steps).splitlines()[-1], flush=True)
  values = {
    "topology": _TOPOLOGY.value,
    "jax": jax.__version__,
    "warps": warps,
    "steps": steps,
  }
  where = f"{_TOPOLOGY.value}, jax {jax.__version__}, float32"
  parts = []
  if warps:
    parts.append(f"Warps, one chip of {where}:\n\n{table(warps)}")
  if steps:
    parts.append(
      f"Training steps, all chips of {where}:\n\n{step_table(steps)}"
    )
  files.write_whole(outputs[0], json.dumps(values, indent=1) + "\n")
  files.write_whole(outputs[1], "\n".join(parts))
  print(f"written: {outputs[0]}, {outputs[1]}")


if __name__ == "__main__":
  _TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:2x4", "Name of the TPU topology, as v5e:2x4 or v4:2x2x1."
  )
  _SHAPES = flags.DEFINE_list(
    "shapes",
    ["256x28x28x1", "128x64x64x3", "64x32x32x64", "8x224x224x3"],
    "Batches to warp: batch x height x width x channels.",
  )
  _KERNELS = flags.DEFINE_multi_enum(
    "kernel", ["map_coordinates", "stnjax"], KERNELS, "What to warp with."
  )
  _PASSES = flags.DEFINE_multi_enum(
    "pass", list(PASSES), PASSES, "Which passes of a warp to compile."
  )
  _STEPS = flags.DEFINE_list(
    "steps",
    list(STEPS),
    "Training steps: an experiment of the paper, in its full size, and one of"
    " its networks.",
  )
  _BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip",
    32,
    "Images of a training step on each chip.",
    lower_bound=1,
  )
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/bench_tpu_compile", "Folder of the results."
  )
  _OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace results that are there already."
  )
  cli.run(main)
