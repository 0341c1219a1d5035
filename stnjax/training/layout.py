"""Distribution of the training of some seeds over devices."""

from collections.abc import Sequence
from typing import NamedTuple

import jax


class Layout(NamedTuple):
  """Distribution of some seeds over devices."""

  devices: list[jax.Device]  # that are used
  parts: int  # of a batch; devices take whole seeds where it has one

  def __str__(self) -> str:
    if len(self.devices) == 1:
      return "on one device"
    shared = "seeds" if self.parts == 1 else "each batch"
    return f"{shared} spread over {len(self.devices)} devices"


def lay_out(
  num_seeds: int, batch_size: int, devices: Sequence[jax.Device]
) -> Layout:
  """Shares the work of some seeds out, see `stnjax.training.trainer.Trainer`.

  Raises:
    ValueError: where devices split a batch that does not divide by them.
  """
  # Other processes' devices hold states that this one could not read.
  if num_seeds > 1 and len(processes(devices)) == 1:
    return Layout(list(devices[: spread(num_seeds, len(devices))]), 1)
  parts = len(devices)
  if batch_size % parts:
    raise ValueError(
      f"batch_size={batch_size} does not divide by the {parts} devices; take a"
      f" multiple of {parts}"
    )
  return Layout(list(devices), parts)


def spread(num_seeds: int, num_devices: int) -> int:
  """Over how many of the devices seeds are spread: as many as divide them."""
  return max(n for n in range(1, num_devices + 1) if num_seeds % n == 0)


def processes(devices: Sequence[jax.Device]) -> list[int]:
  """The indices of the processes that devices belong to."""
  return sorted({device.process_index for device in devices})
