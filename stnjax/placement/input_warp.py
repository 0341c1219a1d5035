"""Placements that warp the input, and localise in features of deeper stages.

The transformer looks at features of the input, warps the input, and the result
passes through all stages. Poses accumulate, theta <- theta @ theta_i, and the
original is resampled each time, so that blur does not add up.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from flax import nnx
import jax

from stnjax.placement import base
from stnjax.placement.context import Context

if TYPE_CHECKING:
  from stnjax.placement.network import Network


@dataclasses.dataclass(frozen=True)
class InputWarp(base.Placement):
  """Warps the input; subclasses define the stages that localisation reads."""

  @property
  def warps_input(self) -> bool:
    """True."""
    return True

  @property
  def halved_depth(self) -> int:
    """The input."""
    return 0

  def build(self, site: base.Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the transformer."""
    return {"transformer": site.transformer(rngs)}

  def look(
    self, network: Network, depth: int, x: jax.Array, context: Context
  ) -> jax.Array:
    """The features at a depth that the transformer localises in."""
    raise NotImplementedError

  def run(
    self, network: Network, images: jax.Array, context: Context
  ) -> base.Passed:
    """Warps the input once for each depth, then passes it on."""
    x, theta, thetas = images, None, []
    warped = images
    for run, depth in enumerate(self.depths):
      features = self.look(network, depth, x, context)
      theta = network.localise(depth, features, context, theta)
      last = run == len(self.depths) - 1
      warped = network.resample(depth, images, theta, last=last)
      x = network.normalise(run, warped)
      thetas.append(theta)

    def pose(run: int) -> jax.Array:
      transformer = network.transformer(self.depths[run])
      return transformer.pose(thetas[run], images.shape[1:3])

    first = pose(0) if len(thetas) > 1 else None
    features = network.through(x, context)
    return base.Passed(features, tuple(thetas), pose(-1), warped, first)

  def pass_stage(
    self, network: Network, depth: int, x: jax.Array, context: Context
  ) -> jax.Array:
    """Passes features on; the batch norm of the last run is at the input."""
    if depth == 0:
      x = network.normalise(len(self.depths) - 1, x)
    return network.through(x, context, depth, depth + 1)


@base.register
@dataclasses.dataclass(frozen=True)
class OwnStages(InputWarp):
  """STN-DL: localises through its own copy of the stages."""

  prefix: ClassVar[str] = "STN-DL"

  @property
  def looks_through(self) -> int:
    """None of the classifier's stages."""
    return 0

  def build(self, site: base.Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the copy, then the transformer."""
    stages: Sequence[Any] = ()
    if site.backbone.fresh_stages is not None:
      stages = site.backbone.fresh_stages(rngs)
    if len(stages) < site.depth:
      raise ValueError(
        f"{self.name} needs Backbone(fresh_stages=...), a function of rngs that"
        f" returns at least {site.depth} new stages, got"
        f" {site.backbone.fresh_stages and len(stages)}"
      )
    return {
      "stages": nnx.List(list(stages)[: site.depth]),
      **super().build(site, rngs),
    }

  def look(
    self, network: Network, depth: int, x: jax.Array, context: Context
  ) -> jax.Array:
    """Through the copy."""
    for stage in network.sites[str(depth)]["stages"]:
      x = context.apply(stage, x)
    return x


@base.register
@dataclasses.dataclass(frozen=True)
class SharedStages(InputWarp):
  """STN-SL: localises through the classifier's own stages."""

  prefix: ClassVar[str] = "STN-SL"

  def look(
    self, network: Network, depth: int, x: jax.Array, context: Context
  ) -> jax.Array:
    """Through the classifier's stages."""
    return network.through(x, context, 0, depth)
