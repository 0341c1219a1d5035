"""Times warps against other libraries, on the CPU or GPU that JAX finds.

  python -m experiments.bench_sampling

warps batches by random affine transforms with stnjax and with every peer that
is installed (torch, jax.scipy's map_coordinates, dm_pix, kornia; the extra
`bench` brings them), each in the layout it likes best, and checks first that
all make the same picture. It writes a table, bench_sampling.md, and every
measurement, bench_sampling.json. About 6 minutes on 2 CPU cores.

Times: the implementations take turns, in an order that is drawn anew each
round. A turn is a pause, in which the threads of the one before stop spinning,
a call that wakes its own up, and a call that counts. A ratio is the median over
the rounds of the peer's time over ours in the same round, with the quartiles,
so that above 1 stnjax is faster. Two are no libraries: "copy", the copy of the
batch, whose ratio is the share of its bandwidth that a warp reaches forward;
"deterministic", stnjax on GPU where sums must be in one order
(`jax.jit(..., compiler_options={"xla_gpu_deterministic_ops": True})`), whose
ratio is what that costs. Memory: the peak over what was in use before,
in a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import pathlib
from typing import Any

from absl import flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench import peers, timing
from experiments.lib import cli
import stnjax
from stnjax import files
from stnjax.sampling.kernels import bilinear

Case = dict[str, Any]  # shape, method, dtype, peer


def check_same_picture(
  built: dict[str, peers.Passes], shape: Sequence[int], method: str
) -> None:
  """Raises where a peer makes another picture, edges aside, than stnjax."""
  image, theta, _ = peers.inputs(shape)
  _, mask = stnjax.warp(image, theta, method=method, return_mask=True)
  inside = np.asarray(jnp.abs(mask - 1) < 1e-6)
  pictures = {
    peer: np.asarray(_to_host(passes["forward"]()))[inside]
    for peer, passes in built.items()
    if peer != "copy"
  }
  for peer, picture in pictures.items():
    apart = np.abs(picture - pictures["stnjax"])
    # Rounding moves "nearest" to another pixel here and there.
    wrong = (apart > 1e-2).mean()
    if wrong > (1e-3 if method == "nearest" else 0):
      raise RuntimeError(
        f"{peer} makes another picture: {wrong:.2%} of its pixels are off by"
        f" more than 0.01, at most by {apart.max():.3g}"
      )


def _to_host(result: Any) -> Any:
  return result.cpu().numpy() if hasattr(result, "cpu") else result


def peak_memory(case: Case) -> dict[str, float]:
  """MiB that each pass takes at its peak, beyond what was in use before."""
  passes = peers.build(**case)
  return {name: _peak(call, case["peer"]) for name, call in passes.items()}


def _peak(call: Callable, peer: str) -> float:
  if jax.default_backend() == "cpu":
    status = pathlib.Path("/proc/self/status")

    def resident(name: str) -> float:
      lines = status.read_text().splitlines()
      (line,) = [line for line in lines if line.startswith(name + ":")]
      return int(line.split()[1]) / 1024

    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before = resident("VmRSS")
    call()
    return max(resident("VmHWM") - before, 0.0)
  if peer in ("torch", "kornia"):
    import torch

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20
  # JAX keeps the peak of the process: of this pass or one before it.
  stats = jax.devices()[0].memory_stats()
  before = stats["bytes_in_use"]
  call()
  return (jax.devices()[0].memory_stats()["peak_bytes_in_use"] - before) / 2**20


def without_compiler() -> None:
  """Warps from now on as where setup.py finds no compiler."""
  bilinear.is_compiled = lambda: False


def memory_elsewhere(case: Case) -> dict[str, float]:
  """`peak_memory` in a fresh process, whose allocator gives all back."""
  environment = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
  }
  kept = {name: os.environ.get(name) for name in environment}
  os.environ.update(environment)
  try:
    context = multiprocessing.get_context("spawn")
    start = None if bilinear.is_compiled() else without_compiler
    with concurrent.futures.ProcessPoolExecutor(1, context, start) as pool:
      return pool.submit(peak_memory, case).result()
  finally:
    for name, value in kept.items():
      os.environ.pop(name)
      if value is not None:
        os.environ[name] = value


def measure(
  shape: tuple[int, ...],
  method: str,
  dtype: str,
  chosen: Sequence[str],
  rounds: int,
  memory: bool,
) -> Iterator[Case]:
  """Rows, one per implementation and pass."""
  names = ["stnjax", *(peer for peer in chosen if peers.supports(peer, method))]
  case = dict(shape=shape, method=method, dtype=dtype)
  # In float32, as the coordinates of some are too coarse in less.
  exact = {name: peers.build(name, shape, method) for name in names}
  check_same_picture(exact, shape, method)
  built = exact
  if dtype != "float32":
    built = {name: peers.build(name, **case) for name in names}
  peaks = {}
  if memory:
    for name in names:
      peaks[name] = memory_elsewhere(dict(peer=name, **case))
  for which in built["stnjax"]:
    calls = {
      name: passes[which] for name, passes in built.items() if which in passes
    }
    for name, seconds in timing.in_turns(calls, rounds).items():
      yield {
        **case,
        "pass": which,
        "peer": name,
        "seconds": seconds,
        "peak_mib": peaks.get(name, {}).get(which),
      }


def tables(rows: Sequence[Case]) -> str:
  """Two tables in Markdown: our time and theirs over ours; peak memory."""
  names = list(dict.fromkeys(row["peer"] for row in rows))
  found: dict[tuple, dict[str, Case]] = {}
  for row in rows:
    batch = "x".join(map(str, row["shape"]))
    key = batch, row["method"], row["dtype"], row["pass"]
    found.setdefault(key, {})[row["peer"]] = row
  head = "| batch | method | dtype | pass |"
  rule = "|---|---|---|---|" + "--:|" * len(names)
  times = [head + " stnjax (ms) |", rule]
  times[0] += "".join(f" {peer} / stnjax |" for peer in names[1:])
  peaks = [head + "".join(f" {peer} (MiB) |" for peer in names), rule]
  for key, by_peer in found.items():
    ours = by_peer["stnjax"]["seconds"]
    cells = [*key, f"{1e3 * np.median(ours):.3g}"]
    cells += [
      timing.ratio(by_peer[peer]["seconds"], ours) if peer in by_peer else "–"
      for peer in names[1:]
    ]
    times.append("| " + " | ".join(cells) + " |")
    peak = [by_peer.get(peer, {}).get("peak_mib") for peer in names]
    cells = [*key, *("–" if p is None else f"{p:.0f}" for p in peak)]
    peaks.append("| " + " | ".join(cells) + " |")
  measured = any(row["peak_mib"] is not None for row in rows)
  parts = [times, peaks] if measured else [times]
  return "\n\n".join("\n".join(lines) for lines in parts)


def chosen_peers() -> list[str]:
  """Returns the peers of --peers, or all that are installed.

  Raises:
    ValueError: If one is unknown, given twice, or not there.
  """
  if _PEERS.value is None:
    return [peer for peer in peers.PEERS if peers.installed(peer)]
  for peer in timing.each_once("peers", _PEERS.value):
    if peer not in peers.PEERS:
      raise ValueError(
        f"--peers={peer!r} is unknown; accepted: {', '.join(peers.PEERS)}"
      )
    if not peers.installed(peer):
      raise ValueError(
        f"--peers={peer!r} is not there for this device; install it, or leave"
        " it out"
      )
  return _PEERS.value


def main() -> None:
  shapes = timing.shapes(timing.each_once("shapes", _SHAPES.value))
  chosen = chosen_peers()
  methods = timing.each_once("method", _METHODS.value)
  dtypes = timing.each_once("dtype", _DTYPES.value)
  if not _COMPILED.value:
    without_compiler()
  names = "bench_sampling.json", "bench_sampling.md"
  outputs = timing.outputs(_OUTPUT.value, names, _OVERWRITE.value)
  rows = []
  for shape in shapes:
    for method, dtype in itertools.product(methods, dtypes):
      print(f"{'x'.join(map(str, shape))} {method} {dtype} ...", flush=True)
      rows += measure(
        shape, method, dtype, chosen, _ROUNDS.value, _MEMORY.value
      )
  text = tables(rows)
  values = {"machine": timing.machine(), "rows": rows}
  files.write_whole(outputs[0], json.dumps(values))
  files.write_whole(outputs[1], text + "\n")
  print(f"{text}\n\nwritten: {outputs[0]}, {outputs[1]}")


if __name__ == "__main__":
  _SHAPES = flags.DEFINE_list(
    "shapes",
    ["256x28x28x1", "128x64x64x3", "64x32x32x64", "32x224x224x3"],
    "Batches to warp: batch x height x width x channels.",
  )
  _METHODS = flags.DEFINE_multi_enum(
    "method",
    ["linear"],
    peers.METHODS,
    "Interpolation; may be given several times.",
  )
  _DTYPES = flags.DEFINE_multi_enum(
    "dtype",
    ["float32"],
    peers.DTYPES,
    "Of the images; may be given several times.",
  )
  _PEERS = flags.DEFINE_list(
    "peers",
    None,
    f"Which of {', '.join(peers.PEERS)}. Default: all that are installed.",
  )
  _ROUNDS = flags.DEFINE_integer(
    "rounds", 21, "How often each is timed.", lower_bound=1
  )
  _MEMORY = flags.DEFINE_boolean(
    "memory", True, "Measure peak memory too, a process per implementation."
  )
  _COMPILED = flags.DEFINE_boolean(
    "compiled", True, "Use the compiled sampler, where there is one."
  )
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/bench_sampling", "Folder that the results are written to."
  )
  _OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace results that are there already."
  )
  cli.run(main)
