"""No transformer: the classifier alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import jax

from stnjax.placement import base
from stnjax.placement.context import Context

if TYPE_CHECKING:
  from stnjax.placement.network import Network


@base.register
@dataclasses.dataclass(frozen=True)
class NoTransformer(base.Placement):
  """CNN: the stages and the head."""

  prefix: ClassVar[str] = "CNN"
  most_depths: ClassVar[int] = 0

  def run(
    self, network: Network, images: jax.Array, context: Context
  ) -> base.Passed:
    """Passes images through all stages."""
    return base.Passed(network.through(images, context), warped=images)
