"""Placements: one class for each kind, registered by its prefix."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from flax import nnx
import jax

from stnjax import transforms
from stnjax.nn.spatial_transformer import SpatialTransformer
from stnjax.placement.backbone import Backbone
from stnjax.placement.context import Context
from stnjax.registry import Registry

if TYPE_CHECKING:
  from stnjax.placement.network import Network

MOST_ITERATIONS = 32
"""Most runs of the transformer in a network; each is compiled separately."""

PARTS = ("localisation", "before", "rest")
"""Parts of a network that may have separate learning rates."""


class Site(NamedTuple):
  """A place of a transformer, as a placement sees it.

  Attributes:
    depth: Number of stages before it.
    shape: `(h, w, F)` of the features there.
    image_shape: `(H, W, C)` of the images.
    backbone: The stages and what belongs to them.
    family: Transform family to predict.
    padding: Padding of the transformer.
    localisation: Size of the localisation net; the backbone's default if None.
  """

  depth: int
  shape: tuple[int, ...]
  image_shape: tuple[int, ...]
  backbone: Backbone
  family: transforms.Family
  padding: str
  localisation: str | None

  def localiser(self, num_params: int, rngs: nnx.Rngs) -> Any:
    """Makes the backbone's localisation net for the features at the site."""
    return self.backbone.make_localiser(
      self.shape,
      self.image_shape,
      num_params,
      size=self.localisation,
      rngs=rngs,
    )

  def transformer(
    self, rngs: nnx.Rngs, *, edge_gradient: bool = False
  ) -> SpatialTransformer:
    """Makes a transformer that localises in the features at the site."""
    return SpatialTransformer(
      self.localiser(transforms.num_params(self.family), rngs),
      self.family,
      self.padding,
      edge_gradient=edge_gradient,
    )


class Passed(NamedTuple):
  """Results of passing images through the stages.

  Attributes:
    features: `[B, h, w, F]`, for the head.
    thetas: Accumulated theta of each run of the transformer.
    pose: `[B, 2, 3]` or `[B, 3, 3]`, the whole transform in coordinates of the
      input; None for the identity.
    warped: `[B, h, w, C]`, the warped input; None where the input is warped by
      `pose` to show it.
    first_pose: As `pose`, for the first run of the transformer alone; None if
      it runs once.
  """

  features: jax.Array
  thetas: tuple[jax.Array, ...] = ()
  pose: jax.Array | None = None
  warped: jax.Array | None = None
  first_pose: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Placement:
  """A placement of a transformer; a subclass for each kind.

  A subclass sets `prefix`, defines `build` and `run`, and is registered with
  `register`.

  Attributes:
    depths: Numbers of stages before the transformer, one entry for each run of
      it, in order.
  """

  prefix: ClassVar[str]
  """Name of the kind in names of networks, such as "STN-SL"."""

  most_depths: ClassVar[int] = MOST_ITERATIONS
  """Most entries of `depths`: 0 where no depth follows the prefix, 1 where one
  does, else `MOST_ITERATIONS`."""

  depths: tuple[int, ...] = ()

  def __post_init__(self) -> None:
    least = min(1, self.most_depths)
    if not least <= len(self.depths) <= self.most_depths:
      raise ValueError(
        f"{self.prefix} takes {least} to {self.most_depths} depths, got"
        f" {len(self.depths)}"
      )

  @property
  def kind(self) -> str:
    """Short name of the kind, such as "CNN", "C" or "SL"."""
    return self.prefix.removeprefix("STN-")

  @property
  def name(self) -> str:
    """Name of the network, such as "STN-SL0,1x2"."""
    entries = []
    for depth, runs in itertools.groupby(self.depths):
      times = len(list(runs))
      entries.append(f"{depth}x{times}" if times > 1 else f"{depth}")
    return self.prefix + ",".join(entries)

  @property
  def repeats(self) -> bool:
    """Whether the transformer may run more often, see `iterated`."""
    return self.most_depths > 1

  @property
  def warps_input(self) -> bool:
    """Whether the transformer warps the input, and not features."""
    return False

  @property
  def orientations(self) -> int:
    """Number of orientations of a backbone that is made by name."""
    return 1

  @property
  def looks_through(self) -> int:
    """Number of the classifier's own stages before a transformer."""
    return max(self.depths, default=0)

  @property
  def geometry_depths(self) -> tuple[int, ...]:
    """Depths whose receptive fields `run` needs."""
    return ()

  @property
  def halved_depth(self) -> int | None:
    """Depth whose size `halve_output` halves; None for nowhere."""
    return None

  def deepest(self, num_stages: int) -> int:
    """The greatest depth in a backbone of so many stages."""
    return num_stages

  def iterated(self, more: int) -> Placement:
    """The same with more or fewer runs of the transformer.

    Args:
      more: How often the last run is repeated; if negative, how many of the
        last runs are left out.

    Raises:
      ValueError: Unless 1 to `most_depths` runs are left.
    """
    kept = self.depths[: more if more < 0 else None]
    return dataclasses.replace(self, depths=kept + self.depths[-1:] * more)

  def check(self, backbone: Backbone) -> None:
    """Raises a ValueError for a backbone that cannot be used; none here."""
    del backbone

  def build(self, site: Site, rngs: nnx.Rngs) -> dict[str, Any]:
    """Makes the modules of one depth, all of them localisation's.

    Args:
      site: Where they go.
      rngs: Keys for the initial values.

    Returns:
      Modules, or lists of them, by name; `run` finds them in
      `network.sites[str(depth)]`.
    """
    raise NotImplementedError

  def run(
    self, network: Network, images: jax.Array, context: Context
  ) -> Passed:
    """Passes images through the stages of a network and its transformers."""
    raise NotImplementedError

  def pass_stage(
    self, network: Network, depth: int, x: jax.Array, context: Context
  ) -> jax.Array:
    """Passes features through the stage behind a depth, without transforms.

    The batch norm of the last run at the depth belongs to the stage.
    """
    if depth in self.depths:
      last_run = len(self.depths) - 1 - self.depths[::-1].index(depth)
      x = network.normalise(last_run, x)
    return network.through(x, context, depth, depth + 1)

  def part(self, path: Sequence[Any]) -> str:
    """The part of the network that a parameter belongs to.

    Args:
      path: Attributes and indices that lead to the parameter.

    Returns:
      One of `PARTS`: "localisation", used by localisation only; "before",
      stages before a transformer, or shared with its localisation; "rest".
    """
    if path[0] == "sites":
      return "localisation"
    if path[0] == "stages" and int(path[1]) < self.looks_through:
      return "before"
    return "rest"


PLACEMENTS: Registry[type[Placement]] = Registry("placement")
"""Classes of placement by prefix, in the order of reports."""

_Kind = TypeVar("_Kind", bound=type[Placement])


def register(kind: _Kind) -> _Kind:
  """Registers a subclass of `Placement` under its prefix; a decorator.

  Raises:
    ValueError: If the prefix is taken.
  """
  PLACEMENTS.register(kind.prefix, kind)
  return kind
