"""How the benchmarks take times, compare them, and say on what."""

from collections.abc import Callable, Sequence
import importlib.metadata
import importlib.util
import math
import os
import platform
import re
import time
from typing import Any

from etils import epath
import jax
import numpy as np

from stnjax import files
from stnjax.sampling.kernels import bilinear

PAUSE = 0.02
"""Seconds before each turn, until the threads of the last one stop spinning."""


def outputs(
  output: str, names: Sequence[str], overwrite: bool
) -> list[epath.Path]:
  """Makes the folder of results, before anything is measured.

  Args:
    output: Value of --output, the folder.
    names: Names of the files that hold the results.
    overwrite: Whether the files may be there already.

  Returns:
    The paths of the files.

  Raises:
    ValueError: If results are there already and may not be replaced, or the
      folder cannot be made.
  """
  folder = files.place("--output", output)
  paths = [folder / name for name in names]
  if not overwrite and any(path.exists() for path in paths):
    raise ValueError(
      f"--output={output} holds results; --overwrite replaces them"
    )
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    why = error.strerror or str(error)
    raise ValueError(
      f"--output={output} cannot be made ({why}); choose another folder"
    ) from None
  return paths


def each_once(flag: str, values: Sequence[str]) -> Sequence[str]:
  """Returns the values of a flag, which are some and differ.

  Raises:
    ValueError: If there are none, or one is given twice.
  """
  if not values or len(set(values)) < len(values):
    raise ValueError(
      f"--{flag} must name at least one, each once, got {','.join(values)!r}"
    )
  return values


Shape = tuple[int, int, int, int]


def shapes(values: Sequence[str]) -> list[Shape]:
  """Reads shapes such as "256x28x28x1".

  Raises:
    ValueError: for anything else, or a batch of 2^31 elements or more.
  """
  found = []
  for value in values:
    sizes = value.split("x")
    known = all(re.fullmatch("[1-9][0-9]{0,9}", size) for size in sizes)
    if len(sizes) != 4 or not known:
      raise ValueError(
        "--shapes must be batch x height x width x channels, not"
        f" --shapes={value[:40]!r}; accepted: BATCHxHEIGHTxWIDTHxCHANNELS, as"
        " 256x28x28x1"
      )
    found.append(tuple(map(int, sizes)))
    if math.prod(found[-1]) >= 2**31:
      raise ValueError(
        f"--shapes={value!r} has {math.prod(found[-1]):,} elements; accepted:"
        f" at most {2**31 - 1:,}"
      )
  return found


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
