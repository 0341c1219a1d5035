"""The placement that warps features where it localises in them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import TYPE_CHECKING, Any, ClassVar

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from stnjax import transforms
from stnjax.nn import receptive_fields
from stnjax.placement import base
from stnjax.placement.context import Context

if TYPE_CHECKING:
  from stnjax.placement.network import Network


@base.register
@dataclasses.dataclass(frozen=True)
class FeatureWarp(base.Placement):
  """STN-C: warps the features at each depth, on their way through the stages.

  At depth 0, the input.
  """

  prefix: ClassVar[str] = "STN-C"

  def __post_init__(self) -> None:
    super().__post_init__()
    if list(self.depths) != sorted(self.depths):
      raise ValueError(
        f"network={self.name!r}: the depths of STN-C must not decrease, as"
        " features pass through the stages once"
      )

  @property
  def warps_input(self) -> bool:
    """Whether all depths are 0."""
    return not any(self.depths)

  @property
  def geometry_depths(self) -> tuple[int, ...]:
    """Its depths, to express thetas of features as poses of the input."""
    return tuple(sorted(set(self.depths)))

  @property
  def halved_depth(self) -> int:
    """The depth of the last run."""
    return self.depths[-1]

  def build(self, site: base.Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the transformer."""
    # Deep feature maps can be all edge, where clamping has no gradient.
    return {"transformer": site.transformer(rngs, edge_gradient=site.depth > 0)}

  def run(
    self, network: Network, images: jax.Array, context: Context
  ) -> base.Passed:
    """Warps the features at each depth, repeatedly where it is repeated."""
    x, start, pose, first = images, 0, None, None
    thetas: list[jax.Array] = []
    for depth, repeats in itertools.groupby(self.depths):
      x = original = network.through(x, context, start, depth)
      theta, start = None, depth
      for _ in repeats:
        run = len(thetas)
        theta = network.localise(depth, x, context, theta)
        last = run == len(self.depths) - 1
        x = network.resample(depth, original, theta, last=last)
        x = network.normalise(run, x)
        thetas.append(theta)
      size = original.shape[1:3]
      frame = receptive_fields.input_from_features(
        network.receptive_field(depth), size, images.shape[1:3]
      )
      transformer = network.transformer(depth)
      seen = change_frame(frame, transformer.pose(thetas[-1], size))
      if pose is None and len(self.depths) > 1:
        first = change_frame(frame, transformer.pose(thetas[0], size))
      pose = seen if pose is None else transforms.compose(pose, seen)
    features = network.through(x, context, start)
    return base.Passed(features, tuple(thetas), pose, first_pose=first)


def change_frame(frame: jax.Array, theta: jax.Array) -> jax.Array:
  """A transform in other coordinates, `frame theta frame^-1`.

  Args:
    frame: `[2, 3]`, from the coordinates of theta to the others.
    theta: `[..., 2, 3]` or `[..., 3, 3]`.

  Returns:
    As theta; exactly the identity for the identity.
  """
  identity = jnp.eye(3)
  moved = transforms.to_homogeneous(theta) - identity
  there, back = (
    transforms.to_homogeneous(m) for m in (frame, transforms.invert(frame))
  )
  product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
  seen = identity + product(product(there, moved), back)
  return seen[..., : theta.shape[-2], :]
