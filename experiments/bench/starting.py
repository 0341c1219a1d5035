"""Time until a first warp, in new processes."""

from collections.abc import Mapping, Sequence
import json
import subprocess
import sys

import numpy as np

from experiments.lib.tables import Table

_TEMPLATE = """
import json, time
seconds = {{}}
def measure(name, call):
  start = time.perf_counter()
  result = call()
  seconds[name] = time.perf_counter() - start
  return result
{program}
print(json.dumps(seconds))
"""
_STNJAX = """
def load():
  import jax, stnjax
  return jax, stnjax
jax, stnjax = measure("import", load)
measure("backend", jax.devices)
image = jax.numpy.ones(({side}, {side}, 3))
theta = stnjax.transforms.rotation(0.1)
def warp(image, theta):
  return stnjax.warp(image, theta).block_until_ready()
jitted = jax.jit(stnjax.warp)
{calls}
"""
_EAGER = """
measure("first call", lambda: warp(image, theta))
measure("second call", lambda: warp(image, theta))
"""
_JITTED = """
measure("first call", lambda: jitted(image, theta).block_until_ready())
measure("second call", lambda: jitted(image, theta).block_until_ready())
"""
_TORCH = """
def load():
  import torch
  return torch
torch = measure("import", load)
from torch.nn import functional
image = torch.ones((1, 3, {side}, {side}))
theta = torch.tensor([[[1.0, -0.1, 0.0], [0.1, 1.0, 0.0]]])
def warp():
  grid = functional.affine_grid(theta, image.shape, align_corners=False)
  return functional.grid_sample(image, grid, align_corners=False)
measure("first call", warp)
measure("second call", warp)
"""
_JAX = """
def load():
  import jax
  return jax
jax = measure("import", load)
measure("backend", jax.devices)
"""

STEPS = ("import", "backend", "first call", "second call")
"""What is timed, in order."""

PROGRAMS = {
  "stnjax, eager": _STNJAX.replace("{calls}", _EAGER),
  "stnjax, jitted": _STNJAX.replace("{calls}", _JITTED),
  "jax alone": _JAX,
  "torch": _TORCH,
}
"""Programs that are started, by name."""

Seconds = dict[str, list[dict[str, float]]]


def run(name: str, side: int) -> dict[str, float]:
  """Seconds of each step of a program, in a new process.

  Args:
    name: Name of the program.
    side: Height and width of the image.

  Raises:
    RuntimeError: If the process fails.
  """
  program = PROGRAMS[name].format(side=side)
  finished = subprocess.run(
    [sys.executable, "-c", _TEMPLATE.format(program=program)],
    capture_output=True,
    text=True,
    check=False,
  )
  if finished.returncode:
    raise RuntimeError(f"{name} failed: {finished.stderr.strip()[-2000:]}")
  seconds: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
  return seconds


def measure(names: Sequence[str], rounds: int, side: int) -> Seconds:
  """Starts programs in turns.

  Args:
    names: Names of the programs.
    rounds: Number of processes of each. The order is random in each round.
    side: Height and width of the image.

  Returns:
    Seconds of each step of each process, by program.
  """
  for name in names:  # files are read into memory
    run(name, side)
  rng = np.random.default_rng(0)
  seconds: Seconds = {name: [] for name in names}
  for _ in range(rounds):
    for name in rng.permutation(list(names)):
      seconds[str(name)].append(run(str(name), side))
  return seconds


def table(seconds: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
  """Milliseconds of each step, medians with quartiles."""
  lines = []
  for name, processes in seconds.items():
    cells = [
      _milliseconds([process[step] for process in processes])
      if step in processes[0]
      else "–"
      for step in STEPS
    ]
    lines.append([name, *cells])
  return Table(["program", *(f"{step} (ms)" for step in STEPS)], lines, 1)


def _milliseconds(seconds: Sequence[float]) -> str:
  low, middle, high = (
    f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    for value in 1e3 * np.percentile(seconds, [25, 50, 75])
  )
  return f"{middle} ({low} to {high})"
