"""Times warps against other libraries, on the CPU or GPU that JAX finds.

  python -m experiments.bench_sampling

warps batches by random affine transforms with stnjax and with every peer that
is installed (torch, jax.scipy's map_coordinates, dm_pix, kornia; the extra
`bench` brings them), each in the layout it likes best, and checks first that
all make the same picture. It writes a table, bench_sampling.md, and every
measurement, bench_sampling.json. About 6 minutes on 2 CPU cores.

Times: the implementations take turns, in an order that is drawn anew each
round, after a pause in which the threads of the one before stop spinning; a
ratio is the median over the rounds of the peer's time over ours in the same
round, with the quartiles, so that above 1 stnjax is faster. Memory: the
peak over what was in use before, in a process of its own.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import pathlib
import platform
import time
from typing import Any

from absl import app, flags, logging
import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import transforms

METHODS = ("nearest", "linear", "cubic", "spline")
PASSES = ("forward", "theta", "both")
PEERS = ("torch", "map_coordinates", "dm_pix", "kornia")

_PAUSE = 0.02  # seconds before each call

_SHAPES = flags.DEFINE_list(
  "shapes",
  ["256x28x28x1", "128x64x64x3", "64x32x32x64", "32x224x224x3"],
  "Batches to warp: batch x height x width x channels.",
)
_METHODS = flags.DEFINE_multi_enum(
  "method", ["linear"], METHODS, "Interpolation; may be given several times."
)
_PEERS = flags.DEFINE_list(
  "peers",
  None,
  f"Which peers, of {', '.join(PEERS)}. Default: all that are installed.",
)
_ROUNDS = flags.DEFINE_integer(
  "rounds", 21, "How often each is timed.", lower_bound=1
)
_MEMORY = flags.DEFINE_boolean(
  "memory", True, "Measure peak memory too, a process per implementation."
)
_OUTPUT = flags.DEFINE_string(
  "output", "runs/bench_sampling", "Folder that the results are written to."
)
_OVERWRITE = flags.DEFINE_boolean(
  "overwrite", False, "Replace results that are there already."
)

Case = dict[str, Any]  # shape, method, peer
Passes = dict[str, Callable[[], Any]]  # by pass, a call that waits for its end


def inputs(shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """An image, a theta within a fifth of the identity, and a cotangent."""
  rng = np.random.default_rng(0)
  image, cotangent = rng.uniform(size=(2, *shape)).astype(np.float32)
  theta = np.eye(2, 3) + rng.uniform(-0.2, 0.2, (shape[0], 2, 3))
  return image, theta.astype(np.float32), cotangent


def installed(peer: str) -> bool:
  """Whether a peer can be timed where JAX computes."""
  module = {"map_coordinates": "jax"}.get(peer, peer)
  if importlib.util.find_spec(module) is None:
    return False
  if peer not in ("torch", "kornia") or jax.default_backend() == "cpu":
    return True
  import torch

  return torch.cuda.is_available()


def supports(peer: str, method: str) -> bool:
  """Whether a peer has a method."""
  accepted = {
    "stnjax": METHODS,
    "torch": ("nearest", "linear", "cubic"),
    "kornia": ("nearest", "linear", "cubic"),
    "map_coordinates": ("nearest", "linear"),
    "dm_pix": ("nearest", "linear"),
  }
  return method in accepted[peer]


def build(peer: str, shape: Sequence[int], method: str) -> Passes:
  """The passes of one implementation, compiled by a first call."""
  if peer in ("torch", "kornia"):
    passes = _torch_passes(peer, shape, method)
  else:
    passes = _jax_passes(peer, shape, method)
  if method == "nearest":  # has no gradient to theta
    del passes["theta"]
  for call in passes.values():
    call()
  return passes


def _jax_passes(peer: str, shape: Sequence[int], method: str) -> Passes:
  order = METHODS.index(method)

  def pixels(theta):
    return transforms.to_pixels(theta, shape[1:3])

  def stnjax_warp(image, theta):
    return stnjax.warp(image, theta, method=method)

  def map_coordinates(image, theta):
    lattice = jnp.stack(jnp.meshgrid(*map(jnp.arange, shape[2:0:-1])), -1)
    linear, offset = jnp.split(pixels(theta), [2], axis=-1)
    places = jnp.einsum("bij,hwj->bihw", linear, lattice) + offset[..., None]

    def one(plane, places):
      return jax.scipy.ndimage.map_coordinates(plane, places[::-1], order)

    by_channel = jax.vmap(one, in_axes=(-1, None), out_axes=-1)
    return jax.vmap(by_channel)(image, places)

  def dm_pix_warp(image, theta):
    import dm_pix

    # It takes (y, x, channel) alike.
    linear, offset = jnp.split(pixels(theta), [2], axis=-1)
    matrix = jnp.zeros((len(theta), 3, 4)).at[:, 2, 2].set(1)
    matrix = matrix.at[:, :2, :2].set(linear[:, ::-1, ::-1])
    matrix = matrix.at[:, :2, 3].set(offset[:, ::-1, 0])

    def one(image, matrix):
      return dm_pix.affine_transform(
        image, matrix, order=order, mode="constant"
      )

    return jax.vmap(one)(image, matrix)

  warp = {
    "stnjax": stnjax_warp,
    "map_coordinates": map_coordinates,
    "dm_pix": dm_pix_warp,
  }[peer]
  image, theta, cotangent = map(jnp.asarray, inputs(shape))

  def to_theta(image, theta, cotangent):
    result, pull = jax.vjp(lambda theta: warp(image, theta), theta)
    return result, pull(cotangent)

  def to_both(image, theta, cotangent):
    result, pull = jax.vjp(warp, image, theta)
    return result, pull(cotangent)

  def calling(function, *operands):
    compiled = jax.jit(function)
    return lambda: jax.block_until_ready(compiled(*operands))

  return {
    "forward": calling(warp, image, theta),
    "theta": calling(to_theta, image, theta, cotangent),
    "both": calling(to_both, image, theta, cotangent),
  }


def _torch_passes(peer: str, shape: Sequence[int], method: str) -> Passes:
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  device = "cpu" if jax.default_backend() == "cpu" else "cuda"
  mode = {"linear": "bilinear", "cubic": "bicubic"}.get(method, method)
  image, theta, cotangent = (torch.tensor(a) for a in inputs(shape))
  image, cotangent = (
    a.permute(0, 3, 1, 2).contiguous().to(device) for a in (image, cotangent)
  )
  theta = theta.to(device)
  if peer == "kornia":
    import kornia.geometry.transform

    # It takes the matrix that pushes, in pixels, and inverts it.
    pushing = transforms.to_pixels(
      transforms.invert(theta.cpu().numpy()), shape[1:3]
    )
    theta = torch.tensor(np.asarray(pushing), device=device)

  def warp(image, theta):
    if peer == "kornia":
      return kornia.geometry.transform.warp_affine(
        image, theta, shape[1:3], mode=mode
      )
    functional = torch.nn.functional
    grid = functional.affine_grid(theta, image.shape, align_corners=False)
    return functional.grid_sample(image, grid, mode=mode, align_corners=False)

  def finish(result):
    if device == "cuda":
      torch.cuda.synchronize()
    return result

  def forward():
    with torch.no_grad():
      return finish(warp(image, theta).permute(0, 2, 3, 1))

  def backward(*names):
    def call():
      leaves = {"image": image, "theta": theta}
      leaves |= {n: leaves[n].detach().requires_grad_() for n in names}
      result, wanted = warp(**leaves), [leaves[n] for n in names]
      return finish(torch.autograd.grad(result, wanted, cotangent))

    return call

  return {
    "forward": forward,
    "theta": backward("theta"),
    "both": backward("image", "theta"),
  }


def check_same_picture(
  built: dict[str, Passes], shape: Sequence[int], method: str
) -> None:
  """Raises where a peer makes another picture, edges aside, than stnjax."""
  image, theta, _ = inputs(shape)
  _, mask = stnjax.warp(image, theta, method=method, return_mask=True)
  inside = np.asarray(jnp.abs(mask - 1) < 1e-6)
  pictures = {
    peer: np.asarray(_to_host(passes["forward"]()))[inside]
    for peer, passes in built.items()
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


def time_in_turns(calls: dict[str, Callable], rounds: int) -> dict[str, list]:
  """Seconds of each call in each round, in an order drawn per round."""
  rng = np.random.default_rng(0)
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name in rng.permutation(list(calls)):
      time.sleep(_PAUSE)
      start = time.perf_counter()
      calls[name]()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def peak_memory(case: Case) -> dict[str, float]:
  """MiB that each pass takes at its peak, beyond what was in use before."""
  passes = build(case["peer"], case["shape"], case["method"])
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
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
      return pool.submit(peak_memory, case).result()
  finally:
    for name, value in kept.items():
      os.environ.pop(name)
      if value is not None:
        os.environ[name] = value


def measure(
  shape: tuple[int, ...], method: str, peers: Sequence[str]
) -> Iterator[Case]:
  """Rows, one per implementation and pass."""
  names = ["stnjax", *(peer for peer in peers if supports(peer, method))]
  built = {name: build(name, shape, method) for name in names}
  check_same_picture(built, shape, method)
  memory = {}
  if _MEMORY.value:
    for name in names:
      case = dict(peer=name, shape=shape, method=method)
      memory[name] = memory_elsewhere(case)
  for which in built["stnjax"]:
    calls = {name: passes[which] for name, passes in built.items()}
    for name, seconds in time_in_turns(calls, _ROUNDS.value).items():
      yield {
        "shape": shape,
        "method": method,
        "pass": which,
        "peer": name,
        "seconds": seconds,
        "peak_mib": memory.get(name, {}).get(which),
      }


def tables(rows: Sequence[Case]) -> str:
  """Two tables in Markdown: our time and theirs over ours; peak memory."""
  peers = list(dict.fromkeys(row["peer"] for row in rows))
  found: dict[tuple, dict[str, Case]] = {}
  for row in rows:
    key = ("x".join(map(str, row["shape"])), row["method"], row["pass"])
    found.setdefault(key, {})[row["peer"]] = row
  head = "| batch | method | pass |"
  rule = "|---|---|---|" + "--:|" * len(peers)
  times = [head + " stnjax (ms) |", rule]
  times[0] += "".join(f" {peer} / stnjax |" for peer in peers[1:])
  peaks = [head + "".join(f" {peer} (MiB) |" for peer in peers), rule]
  for key, by_peer in found.items():
    ours = by_peer["stnjax"]["seconds"]
    cells = [*key, f"{1e3 * np.median(ours):.3g}"]
    cells += [_ratio(by_peer.get(peer), ours) for peer in peers[1:]]
    times.append("| " + " | ".join(cells) + " |")
    peak = [by_peer.get(peer, {}).get("peak_mib") for peer in peers]
    cells = [*key, *("–" if p is None else f"{p:.0f}" for p in peak)]
    peaks.append("| " + " | ".join(cells) + " |")
  parts = [times, peaks] if _MEMORY.value else [times]
  return "\n\n".join("\n".join(lines) for lines in parts)


def _ratio(row: Case | None, ours: Sequence[float]) -> str:
  """Median and quartiles of a peer's time over ours, round by round."""
  if row is None:
    return "–"
  ratios = np.divide(row["seconds"], ours)
  low, middle, high = np.percentile(ratios, [25, 50, 75])
  return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def machine() -> dict[str, Any]:
  """What the numbers depend on."""
  packages = ["jax", "jaxlib", "torch", "dm_pix", "kornia"]
  found = [name for name in packages if importlib.util.find_spec(name)]
  return {
    "device": jax.devices()[0].device_kind,
    "backend": jax.default_backend(),
    "processor": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "python": platform.python_version(),
    "packages": {name: importlib.metadata.version(name) for name in found},
  }


def parse_shape(text: str) -> tuple[int, ...]:
  """Reads "256x28x28x1"."""
  try:
    shape = tuple(int(size) for size in text.split("x"))
  except ValueError:
    shape = ()
  if len(shape) != 4 or min(shape) < 1:
    raise app.UsageError(
      "--shapes must be batch x height x width x channels, as 256x28x28x1,"
      f" got {text!r}"
    )
  return shape


def chosen_peers() -> list[str]:
  """The peers of --peers, or all that are installed."""
  if _PEERS.value is None:
    return [peer for peer in PEERS if installed(peer)]
  for peer in _PEERS.value:
    if peer not in PEERS:
      raise app.UsageError(
        f"--peers={peer!r} is unknown; accepted: {', '.join(PEERS)}"
      )
    if not installed(peer):
      raise app.UsageError(f"--peers={peer!r} is not installed for this device")
  return _PEERS.value


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f"unexpected argument {argv[1]!r}")
  if not flags.FLAGS["verbosity"].present:
    logging.set_verbosity(logging.ERROR)  # JAX tells of devices it lacks
  shapes, peers = [parse_shape(text) for text in _SHAPES.value], chosen_peers()
  output = pathlib.Path(_OUTPUT.value)
  files = output / "bench_sampling.json", output / "bench_sampling.md"
  if not _OVERWRITE.value and any(file.exists() for file in files):
    raise app.UsageError(
      f"--output={output} holds results; --overwrite replaces them"
    )
  rows = []
  for shape in shapes:
    for method in _METHODS.value:
      print(f"{'x'.join(map(str, shape))} {method} ...", flush=True)
      rows += measure(shape, method, peers)
  text = tables(rows)
  output.mkdir(parents=True, exist_ok=True)
  files[0].write_text(json.dumps({"machine": machine(), "rows": rows}))
  files[1].write_text(text + "\n")
  print(f"{text}\n\nwritten: {files[0]}, {files[1]}")


if __name__ == "__main__":
  app.run(main)
