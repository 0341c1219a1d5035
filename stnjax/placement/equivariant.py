"""Placements that warp the input by the pose of an equivariant localiser."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from flax import nnx

from stnjax import checks
from stnjax.nn.equivariant_localisation import (
  EQUIVARIANT_FAMILIES,
  EquivariantLocaliser,
)
from stnjax.nn.spatial_transformer import SpatialTransformer
from stnjax.placement import base, blocks, probing
from stnjax.placement.input_warp import SharedStages

_ORIENTATIONS = 8
_FILTERS = (16, 16)


@base.register
@dataclasses.dataclass(frozen=True)
class EquivariantStages(SharedStages):
  """STN-EQ: the best pose by scores that move with the image.

  As STN-SL, with `nn.EquivariantLocaliser` in place of the backbone's
  localisation net. Behind stages, families with rotations need stages of group
  convolutions, see `Placement.orientations`.
  """

  prefix: ClassVar[str] = "STN-EQ"

  @property
  def orientations(self) -> int:
    """8 behind stages, 1 where pixels alone are read."""
    return _ORIENTATIONS if max(self.depths) > 0 else 1

  def build(self, site: base.Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the transformer.

    Raises:
      ValueError: For a family that is not equivariant, rotations behind stages
        without orientations, or rotations of images that are not square.
    """
    family, backbone = site.family, site.backbone
    checks.option("family", family.name, tuple(EQUIVARIANT_FAMILIES))
    orientations = backbone.orientations if site.depth else 1
    rotates = EQUIVARIANT_FAMILIES[family.name].rotation
    if rotates and site.depth and orientations == 1:
      raise ValueError(
        f"network={self.name!r} reads features behind stage {site.depth} that"
        f" must turn with the image for family={family.name!r}, but the"
        " backbone has orientations=1; accepted: depth 0, a backbone of group"
        " convolutions, or a family without rotations"
      )
    height, width = site.image_shape[:2]
    if rotates and height != width:
      raise ValueError(
        f"network={self.name!r} turns images of {height} x {width} pixels with"
        f" family={family.name!r}; accepted: square images, as rotations in"
        " normalised coordinates shear others"
      )
    localiser = EquivariantLocaliser(
      site.shape,
      family,
      orientations=orientations,
      filters=[blocks.scaled(n, backbone.localisation_width) for n in _FILTERS],
      # A run behind another one at the same depth sees other poses.
      prior=self.depths.count(site.depth) == 1,
      extent=_extent(site),
      rngs=rngs,
    )
    return {"transformer": SpatialTransformer(localiser, family, site.padding)}


def _extent(site: base.Site) -> tuple[float, float]:
  """Width and height of the features at a site, as shares of the image's."""
  geometry = probing.given_geometry(site.backbone)[site.depth]
  if geometry is None:
    return 1.0, 1.0
  step_x, step_y = geometry.step
  (rows, columns), (height, width) = site.shape[:2], site.image_shape[:2]
  return float(step_x) * columns / width, float(step_y) * rows / height
