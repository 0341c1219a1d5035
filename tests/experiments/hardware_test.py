"""The description of the machine, and its memory."""

import json

import jax
import numpy as np

from experiments.lib import hardware


def test_one_line_and_values_agree():
  devices = jax.devices()[:2]
  values = hardware.machine(devices, ("jax", "no_such_package"))
  assert json.loads(json.dumps(values)) == values
  assert (values["backend"], values["devices"]) == ("cpu", 2)
  assert values["packages"] == {"jax": jax.__version__}
  line = hardware.describe(devices)
  assert line.startswith(f"2 x {values['device']}, {values['cores']} cores")
  assert line.endswith(f"jax {jax.__version__}")


def test_peak_memory_counts_from_where_it_is_reset():
  device = jax.devices()[0]
  np.ones(64 * 2**20, np.uint8)
  assert hardware.forget_peak_memory()
  before = hardware.memory_in_use(device)
  assert hardware.peak_memory(device) - before < 8e6
  np.ones(32 * 2**20, np.uint8)
  peak = hardware.peak_memory(device)
  assert abs(peak - before - 32 * 2**20) < 8e6
  assert hardware.peak_memory_mb(device) >= peak / 1e6
