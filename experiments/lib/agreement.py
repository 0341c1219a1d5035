"""Processes that train a run together must take the same decisions."""

from collections.abc import Sequence

import jax
from jax.experimental import multihost_utils
import numpy as np

from stnjax.training import layout


def largest(devices: Sequence[jax.Device], *values: int) -> tuple[int, ...]:
  """The largest of each value over the processes that train together."""
  if not shared(devices):
    return values
  gathered = multihost_utils.process_allgather(np.array(values, np.int32))
  return tuple(int(value) for value in gathered.max(axis=0))


def shared(devices: Sequence[jax.Device]) -> bool:
  """Whether several processes train each run together."""
  return len(layout.processes(devices)) > 1


def first_local(devices: Sequence[jax.Device]) -> jax.Device:
  """The first of the devices that belongs to this process."""
  return next(d for d in devices if d.process_index == jax.process_index())
