"""The type of presets, and the settings that quick sizes share."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from stnjax import checks
from stnjax.registry import Registry

SIZES = ("quick", "full")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
  """An experiment: its networks, and how each size trains all of them.

  Attributes:
    name: Name of the preset.
    title: Data and what varies, in one line.
    purpose: Claims that it tests, see `stnjax.paper.claims`, and remarks.
    networks: Names of the networks.
    quick: Settings of the quick size that differ from the defaults, by name.
    full: Settings of the full size that differ from the defaults, by name.
    stand_in: Data of the quick size in place of the paper's.
    minutes: Time of the quick size for one seed on 2 cores of an AMD EPYC
      shared with other work, in minutes; 0 if it was not measured.
    result: Results of the quick size, means over 5 seeds; empty where they were
      not measured with the current networks.
  """

  name: str
  title: str
  purpose: str
  networks: Sequence[str]
  quick: Mapping[str, Any]
  full: Mapping[str, Any]
  stand_in: str = ""
  minutes: int = 0
  result: str = ""

  def settings(self, size: str) -> list[dict[str, Any]]:
    """Settings of every network by name, for `stnjax.training`.

    Args:
      size: "quick" or "full".

    Returns:
      One mapping per network, of the settings that differ from the defaults.

    Raises:
      ValueError: For another size.
    """
    checks.option("size", size, SIZES)
    changes = self.quick if size == "quick" else self.full
    return [{"network": name, **changes} for name in self.networks]


PRESETS: Registry[Preset] = Registry("preset")
"""Presets by name."""

# Tuned on a validation split with one or two networks of each preset. The batch
# norm after the transformer, an option of the paper, lies between blocks in
# networks that warp features, and before all blocks in the others: it may help
# the former to learn.
QUICK: dict[str, Any] = {
  "localisation_width": 0.5,
  "batch_norm": True,
  "batch_size": 32,
  "localisation_lr": 0.3,
}


def register(*presets: Preset) -> None:
  """Registers presets under their names."""
  for preset in presets:
    PRESETS.register(preset.name, preset)
