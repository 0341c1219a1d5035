"""Peak memory of each pass of an implementation, in its own process."""

from collections.abc import Callable, Iterator
import concurrent.futures
import contextlib
import multiprocessing
import os
from typing import Any

import jax

from experiments.bench import peers
from experiments.lib import hardware
from stnjax.sampling.kernels import library

_ENVIRONMENT = {
  # The allocator returns freed memory to the system at once.
  "MALLOC_MMAP_THRESHOLD_": "65536",
  "MALLOC_TRIM_THRESHOLD_": "65536",
  "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}


def in_fresh_process(name: str, **case: Any) -> dict[str, float]:
  """Measures the passes of an implementation in a fresh process.

  Args:
    name: "stnjax" or one of `peers.PEERS`.
    **case: Arguments of `peers.build`: shape, method, dtype and padding.

  Returns:
    Peak memory in MiB by pass, beyond what was in use before the pass.
  """
  context = multiprocessing.get_context("spawn")
  start = None if library.is_compiled() else peers.without_compiler
  with (
    _environment(_ENVIRONMENT),
    concurrent.futures.ProcessPoolExecutor(1, context, start) as pool,
  ):
    return pool.submit(here, name, **case).result()


def here(name: str, **case: Any) -> dict[str, float]:
  """As `in_fresh_process`, in this process."""
  passes = peers.build(name, **case)
  in_torch = peers.find(name).package in ("torch", "kornia")
  measure = of_torch_on_gpu if in_torch and not _on_cpu() else of_call
  return {which: measure(call) / 2**20 for which, call in passes.items()}


def of_call(call: Callable) -> float:
  """Peak memory of a call in bytes, beyond what was in use before.

  On GPU it is at least the largest peak of the process before the call.

  Raises:
    OSError: If the system cannot measure it.
  """
  device = jax.devices()[0]
  if not hardware.forget_peak_memory() and _on_cpu():
    raise OSError(
      "the peak memory of a process cannot be measured on this system; skip it"
      " with --nomemory"
    )
  before = hardware.memory_in_use(device)
  call()
  return max(hardware.peak_memory(device) - before, 0.0)


def of_torch_on_gpu(call: Callable) -> float:
  """As `of_call`, of memory that torch allocates on a GPU."""
  import torch

  torch.cuda.reset_peak_memory_stats()
  before = torch.cuda.memory_allocated()
  call()
  return torch.cuda.max_memory_allocated() - before


def _on_cpu() -> bool:
  return jax.default_backend() == "cpu"


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
  """Sets environment variables meanwhile."""
  before = {name: os.environ.get(name) for name in variables}
  os.environ.update(variables)
  try:
    yield
  finally:
    for name, value in before.items():
      os.environ.pop(name)
      if value is not None:
        os.environ[name] = value
