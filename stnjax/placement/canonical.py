"""The placement that warps the input to the best-scored of several poses.

A `nn.PoseSearch` chooses the pose, and a transformer refines it from the copy
of the input at that pose. The original is resampled once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from stnjax.nn.canonicalisation import POSES, PoseSearch, score_net
from stnjax.placement import base
from stnjax.placement.context import Context
from stnjax.placement.input_warp import InputWarp

if TYPE_CHECKING:
  from stnjax.placement.network import Network


@base.register
@dataclasses.dataclass(frozen=True)
class Canonicalised(InputWarp):
  """STN-CAN: scores copies of the input, then refines the best pose.

  Scores are read from features behind the classifier's own stages, at depth 0
  from pixels. Versions of an image whose copies are the same, see
  `nn.PoseSearch`, come to one pose whatever the parameters are: the refinement
  sees the same copy of each. The copies of other versions differ by the error
  of interpolation and by what leaves the image, and so may the refinement.

  Reference: Kaba et al. 2023 (arXiv:2211.06489).
  """

  prefix: ClassVar[str] = "STN-CAN"
  most_depths: ClassVar[int] = 1

  def build(self, site: base.Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the search of the pose, and the transformer that refines it.

    Raises:
      ValueError: For a family without poses to choose from.
    """
    if site.family.name not in POSES:
      raise ValueError(
        f"network={self.name!r} chooses among poses, and there are none for"
        f" family={site.family.name!r}; accepted: {', '.join(POSES)}; register"
        " those of other families in stnjax.nn.canonicalisation.POSES"
      )
    scorer = score_net(site.shape, rngs=rngs)
    return {
      "search": PoseSearch(scorer, site.family, padding=site.padding),
      **super().build(site, rngs),
    }

  def run(
    self, network: Network, images: jax.Array, context: Context
  ) -> base.Passed:
    """Chooses a pose, refines it, warps the input, and passes it on."""
    (depth,) = self.depths
    search = network.sites[str(depth)]["search"]
    copies = search.copies(images)
    count = copies.shape[1]
    own = context.of_copies(count)
    features = network.through(lax.collapse(copies, 0, 2), own, 0, depth)
    best = search.choose(search.score(features, own.apply))
    features = features.reshape(-1, count, *features.shape[1:])
    number = best.number[:, None, None, None, None]
    chosen = jnp.take_along_axis(features, number, axis=1)[:, 0]
    theta = network.scale_gradient(best.theta)
    theta = network.localise(depth, chosen, context, theta)
    warped = network.resample(depth, images, theta, last=True)
    features = network.through(network.normalise(0, warped), context)
    pose = network.transformer(depth).pose(theta, images.shape[1:3])
    return base.Passed(features, (theta,), pose, warped)
