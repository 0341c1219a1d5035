"""The machine in words, and the memory that a run took of it."""

from collections.abc import Sequence
import contextlib
import os
import pathlib
import resource

import jax

from stnjax.placement import networks
from stnjax.training import runs

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


def describe(devices: Sequence[jax.Device]) -> str:
  """The devices in words."""
  device = devices[0]
  cores = f"{os.cpu_count()} cores" if device.platform == "cpu" else ""
  parts = [f"{len(devices)} x {device.device_kind}", cores]
  return ", ".join(p for p in [*parts, f"jax {jax.__version__}"] if p)


def forget_peak_memory() -> None:
  """Lets `peak_memory_mb` count from here on, where the system can."""
  with contextlib.suppress(OSError):
    _CLEAR.write_text("5")  # Linux: resets the peak of the resident set


def peak_memory_mb(device: jax.Device) -> float:
  """The most memory in use so far, in MB (1e6 bytes).

  Of the device where it tells, as GPUs and TPUs do, since the process began;
  else of the process, all that it trains at the time, since
  `forget_peak_memory`.
  """
  statistics = device.memory_stats()
  if statistics and "peak_bytes_in_use" in statistics:
    return statistics["peak_bytes_in_use"] / 1e6
  if _STATUS.exists():
    for line in _STATUS.read_text().splitlines():
      if line.startswith("VmHWM:"):
        return int(line.split()[1]) * 1024 / 1e6
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def check_memory(
  settings: runs.Settings, num_seeds: int, devices: Sequence[jax.Device]
) -> None:
  """Refuses a network that does not fit into memory, before it is made.

  Counts parameters, the optimiser's moments and one gradient, in float32;
  activations come on top.

  Args:
    settings: Settings of the runs.
    num_seeds: Number of runs that are trained together.
    devices: Devices that share the seeds.

  Raises:
    ValueError: if it needs more memory than there is.
  """
  network = runs.abstract_network(settings)
  count = networks.count_parameters(network)["total"]
  limit = (devices[0].memory_stats() or {}).get("bytes_limit")
  if limit is None:  # devices that share the machine's memory
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    seeds = num_seeds
  else:
    seeds = -(-num_seeds // len(devices))
  moments = 2 if settings.optimiser == "adam" else 1
  needed = 4 * count * ((1 + moments) * seeds + 1)
  if needed > limit:
    raise ValueError(
      f"{settings.network} with width={settings.width:g},"
      f" localisation_width={settings.localisation_width:g} and {num_seeds}"
      f" seeds needs at least {needed / 1e9:.3g} GB for its parameters and"
      f" optimiser, and there are {limit / 1e9:.3g} GB; take smaller widths, or"
      " fewer seeds at a time"
    )
