"""How the benchmarks take times, compare them, and say on what."""

from collections.abc import Callable, Sequence
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import time
from typing import Any

from absl import app
import jax
import numpy as np

from stnjax.kernels import bilinear

PAUSE = 0.02
"""Seconds before each turn, until the threads of the last one stop spinning."""


def make_folder(files: Sequence[pathlib.Path], overwrite: bool) -> None:
  """Makes the folder of results, before anything is measured.

  Raises:
    UsageError: where results lie already, unless --overwrite allows it, or
      where there can be no folder.
  """
  folder = files[0].parent
  if not overwrite and any(file.exists() for file in files):
    raise app.UsageError(
      f"--output={folder} holds results; --overwrite replaces them"
    )
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise app.UsageError(f"--output={folder} cannot be made: {error}") from None


def in_turns(calls: dict[str, Callable], rounds: int) -> dict[str, list]:
  """Seconds of each call in each round, in an order drawn per round."""
  rng = np.random.default_rng(0)
  seconds: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(rounds):
    for name in rng.permutation(list(calls)):
      time.sleep(PAUSE)
      calls[name]()  # its own threads wake up
      start = time.perf_counter()
      calls[name]()
      seconds[name].append(time.perf_counter() - start)
  return seconds


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> str:
  """Median and quartiles of theirs over ours, round by round."""
  low, middle, high = np.percentile(np.divide(theirs, ours), [25, 50, 75])
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
    "compiled_sampler": bilinear.is_compiled(),
    "packages": {name: importlib.metadata.version(name) for name in found},
  }
