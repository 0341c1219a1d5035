"""No transformer, and stages of group convolutions."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from stnjax.placement import base
from stnjax.placement.backbone import Backbone
from stnjax.placement.no_transformer import NoTransformer


@base.register
@dataclasses.dataclass(frozen=True)
class GroupCNN(NoTransformer):
  """GCNN: the stages and the head, equivariant to rotations by 45 degrees.

  Reference: Cohen and Welling 2016 (arXiv:1602.07576).
  """

  prefix: ClassVar[str] = "GCNN"

  @property
  def orientations(self) -> int:
    """Eight."""
    return 8

  def check(self, backbone: Backbone) -> None:
    """Raises a ValueError for stages of ordinary convolutions."""
    if backbone.orientations != self.orientations:
      raise ValueError(
        f"network={self.name!r} needs stages with {self.orientations}"
        " orientations, got a Backbone with"
        f" orientations={backbone.orientations}; see"
        " stnjax.nn.group_convolution"
      )
