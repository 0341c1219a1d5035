"""Placements that deform a convolution instead of resampling features.

The convolution of the stage behind the depth reads its features elsewhere at
each place, see `stnjax.nn.deformation`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from flax import nnx
import jax

from stnjax import transforms
from stnjax.nn import deformation, predictors
from stnjax.placement import base
from stnjax.placement.context import Context

if TYPE_CHECKING:
  from stnjax.placement.network import Network


@runtime_checkable
class Deformable(Protocol):
  """A stage that begins with a convolution of stride 1 that can be deformed.

  Attributes:
    kernel_size: Pixels along a side of the convolution's kernel.
    padding: "VALID" or "SAME", of the convolution.
    slope: Negative slope of the leaky ReLU of what predicts the points.
  """

  kernel_size: int
  padding: str
  slope: float

  def read_at(
    self, x: jax.Array, points: jax.Array, context: Context
  ) -> jax.Array:
    """The stage with its convolution reading at points.

    Args:
      x: `[B, H, W, C]`.
      points: `[B, h, w, kh, kw, 2]`, see `deformation.deformed_conv`.
      context: Of the pass.
    """


@dataclasses.dataclass(frozen=True)
class Deformed(base.Placement):
  """Deforms the convolution of the stage behind the depth."""

  most_depths: ClassVar[int] = 1

  def deepest(self, num_stages: int) -> int:
    """A stage must follow."""
    return num_stages - 1

  def build(self, site: base.Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the predictor, with about the parameters of an STN-C there."""
    stage = site.backbone.stages[site.depth]
    if not isinstance(stage, Deformable):
      raise ValueError(
        f"{self.name} deforms the convolution of stage {site.depth + 1}, but"
        f" {type(stage).__name__} is not placement.Deformable; accepted: stages"
        " with kernel_size, padding, slope and read_at, such as"
        " placement.ConvBlock"
      )
    return {"predictor": self.predictor(site, stage, rngs)}

  def predictor(
    self, site: base.Site, stage: Deformable, rngs: nnx.Rngs
  ) -> predictors.PointPredictor:
    """Makes what predicts the points."""
    raise NotImplementedError

  def run(
    self, network: Network, images: jax.Array, context: Context
  ) -> base.Passed:
    """Passes images on; the pose is the mean over places."""
    (depth,) = self.depths
    features = network.through(images, context, 0, depth)
    points = self._points(network, depth, features, context)
    x = self._read(network, depth, features, points, context)
    predictor = network.sites[str(depth)]["predictor"]
    regular = predictor.regular(features.shape[1:3])
    theta, pose = (
      deformation.mean_transform(points, regular, seen.shape[1:3])
      for seen in (features, images)
    )
    x = network.through(x, context, depth + 1)
    return base.Passed(x, (theta,), pose)

  def pass_stage(
    self, network: Network, depth: int, x: jax.Array, context: Context
  ) -> jax.Array:
    """Passes features on, through the deformed convolution at its depth."""
    if depth not in self.depths:
      return network.through(x, context, depth, depth + 1)
    points = self._points(network, depth, x, context)
    return self._read(network, depth, x, points, context)

  def _points(
    self, network: Network, depth: int, features: jax.Array, context: Context
  ) -> jax.Array:
    predictor = network.sites[str(depth)]["predictor"]
    return network.scale_gradient(context.apply(predictor, features))

  def _read(
    self,
    network: Network,
    depth: int,
    features: jax.Array,
    points: jax.Array,
    context: Context,
  ) -> jax.Array:
    read = network.normalise(0, features)
    stage_context = network.classifier_context(context)
    stage = network.stages[depth]
    assert isinstance(stage, Deformable), "as checked when it is placed"
    return stage.read_at(read, points, stage_context)


@base.register
@dataclasses.dataclass(frozen=True)
class PatchDeformed(Deformed):
  """STN-UCN: transforms the patch that a convolution reads at each place."""

  prefix: ClassVar[str] = "STN-UCN"

  def predictor(
    self, site: base.Site, stage: Deformable, rngs: nnx.Rngs
  ) -> predictors.PointPredictor:
    """Makes what predicts a theta for each place."""
    return predictors.PatchPredictor(
      site.shape[-1],
      stage.kernel_size,
      stage.padding,
      family=site.family,
      num_parameters=_num_parameters(site),
      slope=stage.slope,
      rngs=rngs,
    )


@base.register
@dataclasses.dataclass(frozen=True)
class TapDeformed(Deformed):
  """DEF: moves each tap of a convolution at each place."""

  prefix: ClassVar[str] = "DEF"

  def predictor(
    self, site: base.Site, stage: Deformable, rngs: nnx.Rngs
  ) -> predictors.PointPredictor:
    """Makes what predicts an offset for each tap."""
    return predictors.OffsetPredictor(
      site.shape[-1],
      stage.kernel_size,
      stage.padding,
      num_parameters=_num_parameters(site),
      slope=stage.slope,
      rngs=rngs,
    )


def _num_parameters(site: base.Site) -> int:
  """Number of parameters that a localisation net would have at a site."""
  count = transforms.num_params(site.family)
  net = nnx.eval_shape(lambda: site.localiser(count, nnx.Rngs(0)))
  leaves = jax.tree.leaves(nnx.state(net, nnx.Param))
  return sum(math.prod(leaf.shape) for leaf in leaves)
