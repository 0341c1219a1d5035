"""Costs of programs compiled for TPUs that are not there."""

from collections.abc import Callable, Sequence
import os
from typing import Any

from experiments.bench import compiled, compiled_warps, training_stnjax

AMOUNTS = ("GFLOP", "MB moved", "temporaries (MB)")
"""Headings of the cells of `amounts`."""


class Compiler:
  """Compiles for a topology: for its first chip, or for all of them."""

  def __init__(self, topology: str):
    """Finds the topology.

    Args:
      topology: Name, such as v5e:2x2.

    Raises:
      ValueError: If JAX cannot compile for it.
    """
    # Else libtpu asks Google's metadata server who it is, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    # Compiling needs no chip that another process could hold.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    try:
      description = topologies.get_topology_desc(
        platform="tpu", topology_name=topology
      )
    except Exception as error:  # the type depends on jaxlib's version
      raise ValueError(
        f"--topology={topology!r} cannot be compiled for: {error}; it needs"
        " libtpu (pip install -e '.[tpu-aot]'), and a name such as v5e:2x2"
      ) from error
    self._devices = list(description.devices)

  @property
  def chips(self) -> int:
    """Number of chips."""
    return len(self._devices)

  def costs(
    self, f: Callable[..., Any], *arguments: Sequence[int]
  ) -> dict[str, Any]:
    """Costs of `f` at float32 arguments of these shapes, on one chip."""
    lowered = compiled_warps.lowered(self._devices[0], f, *arguments)
    return compiled.tpu_costs(lowered.compile())

  def step_costs(self, settings: training_stnjax.Settings) -> dict[str, Any]:
    """Costs of a training step of a run, on all chips."""
    step = training_stnjax.lowered_step(settings, self._devices).compile()
    collectives = compiled.collectives(step.as_text())
    return compiled.tpu_costs(step) | {"collectives": collectives}


def amounts(row: dict[str, Any]) -> list[str]:
  """Cells of a table for the operations and the memory of a program."""
  return [
    f"{row['flops'] / 1e9:.2f}",
    f"{row['bytes'] / 1e6:.0f}",
    f"{row['temporary_bytes'] / 1e6:.1f}",
  ]
