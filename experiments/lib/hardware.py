"""The machine: its description, and the memory that a run uses."""

from collections.abc import Sequence
from importlib import metadata
import importlib.util
import os
import pathlib
import platform
import resource
from typing import Any

import jax

from stnjax import placement
from stnjax.sampling.kernels import library
from stnjax.training import building
from stnjax.training.settings import Settings

_STATUS = pathlib.Path("/proc/self/status")
_CLEAR = pathlib.Path("/proc/self/clear_refs")


def machine(
  devices: Sequence[jax.Device], packages: Sequence[str] = ("jax", "jaxlib")
) -> dict[str, Any]:
  """Describes the machine that measurements depend on.

  Args:
    devices: Devices that compute, at least one.
    packages: Packages whose versions are listed if they are installed.

  Returns:
    Values for JSON: "device", the kind of the first device; "devices", their
    number; "backend", such as "cpu"; "processor"; "cores" of the CPU; "python"
    and "packages", the versions; "compiled_sampler", whether the C++ sampler
    is active.
  """
  installed = [name for name in packages if importlib.util.find_spec(name)]
  of_package = metadata.packages_distributions()  # cv2 has another name
  return {
    "device": devices[0].device_kind,
    "devices": len(devices),
    "backend": devices[0].platform,
    "processor": platform.processor() or platform.machine(),
    "cores": os.cpu_count(),
    "python": platform.python_version(),
    "compiled_sampler": library.is_compiled(),
    "packages": {
      name: metadata.version(of_package.get(name, [name])[0])
      for name in installed
    },
  }


def describe(devices: Sequence[jax.Device]) -> str:
  """The machine in one line, such as "1 x cpu, 2 cores, jax 0.10.2"."""
  facts = machine(devices)
  cores = f", {facts['cores']} cores" if facts["backend"] == "cpu" else ""
  jax_version = facts["packages"]["jax"]
  return f"{len(devices)} x {facts['device']}{cores}, jax {jax_version}"


def forget_peak_memory() -> bool:
  """Resets the peak memory of the process.

  Returns:
    Whether the system supports it, as Linux does.
  """
  try:
    _CLEAR.write_text("5")  # the peak of the resident set
  except OSError:
    return False
  return True


def memory_in_use(device: jax.Device) -> float:
  """Bytes in use now: of a GPU or TPU, else of the process.

  Raises:
    OSError: If the system does not report the memory of the process.
  """
  statistics = device.memory_stats()
  if statistics and "bytes_in_use" in statistics:
    return statistics["bytes_in_use"]
  return _resident("VmRSS")


def peak_memory(device: jax.Device) -> float:
  """Largest number of bytes in use so far.

  Of a GPU or TPU, since the process began; else of the process, since
  `forget_peak_memory`.
  """
  statistics = device.memory_stats()
  if statistics and "peak_bytes_in_use" in statistics:
    return statistics["peak_bytes_in_use"]
  try:
    return _resident("VmHWM")
  except OSError:  # no Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory_mb(device: jax.Device) -> float:
  """`peak_memory` in MB (1e6 bytes)."""
  return peak_memory(device) / 1e6


def _resident(name: str) -> int:
  """A size of the process in bytes, as Linux names it: VmRSS, VmHWM."""
  for line in _STATUS.read_text().splitlines():
    if line.startswith(f"{name}:"):
      return int(line.split()[1]) * 1024
  raise OSError(f"{_STATUS} does not report {name}")


def check_memory(
  settings: Settings,
  setup: building.Setup,
  num_seeds: int,
  devices: Sequence[jax.Device],
) -> None:
  """Rejects a network that does not fit into memory, before it is built.

  Counts parameters, the optimiser's moments and one gradient, in float32, and
  no activations.

  Args:
    settings: Settings of the runs.
    setup: Objects that the settings name.
    num_seeds: Number of runs that are trained together.
    devices: Devices that share the seeds.

  Raises:
    ValueError: if it needs more memory than there is.
  """
  network = building.abstract_network(settings, setup)
  count = placement.count_parameters(network)["total"]
  limit = (devices[0].memory_stats() or {}).get("bytes_limit")
  if limit is None:  # devices that share the machine's memory
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    seeds = num_seeds
  else:
    seeds = -(-num_seeds // len(devices))
  sgd = settings.optimiser == "sgd"
  moments = int(settings.momentum > 0) if sgd else 2
  needed = 4 * count * ((1 + moments) * seeds + 1)
  if needed > limit:
    width = building.sized(settings, setup).width
    raise ValueError(
      f"{settings.network} with width={width:g},"
      f" localisation_width={settings.localisation_width:g} and {num_seeds}"
      f" seeds needs at least {needed / 1e9:.3g} GB for its parameters and"
      f" optimiser, and there are {limit / 1e9:.3g} GB; take smaller widths, or"
      " fewer seeds at a time"
    )
