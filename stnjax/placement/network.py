"""A backbone with a spatial transformer at a placement: a network."""

from collections.abc import Sequence
import math
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp

from stnjax import alignability, checks, promotion, sampling, transforms
from stnjax.nn.spatial_transformer import SpatialTransformer
from stnjax.placement import base, probing, shapes
from stnjax.placement.backbone import Backbone, Task
from stnjax.placement.base import Placement
from stnjax.placement.context import Context
from stnjax.placement.probing import Geometries
from stnjax.transforms import families


class Output(NamedTuple):
  """Result of a network: logits, and the transforms that led to them."""

  logits: jax.Array
  """`[B, classes]`, or `[B, heads, classes]` if there are several heads."""
  thetas: tuple[jax.Array, ...]
  """Accumulated theta of each run of the transformer, `[B, 2, 3]` or
  `[B, 3, 3]`, in normalised coordinates of its input; for a family of
  grids its parameters `[B, P]`."""
  pose: jax.Array
  """The whole transform, `[B, 2, 3]` or `[B, 3, 3]`, in normalised coordinates
  of the input: the identity for a CNN; for warped features the transform that
  moves the input as they were moved, the product over depths if there are
  several; for a family of grids the closest affine transform; for a deformed
  convolution the mean over places, see `deformation.mean_transform`."""
  warped: jax.Array
  """`[B, h, w, C]`, the warped input before a batch norm. For a network that
  warps features, the input resampled at `pose` at its own size."""
  first_pose: jax.Array | None = None
  """As `pose`, for the first run of the transformer alone; None if it runs
  once."""


class Network(nnx.Module):
  """Stages and a head, with a spatial transformer at a placement.

  Attributes:
    stages: Of the backbone.
    head: Of the backbone.
    sites: The modules of each depth of the placement, see `Placement.build`.
    norms: A batch norm for each run of the transformer, or none at all.
    placement: Where the transformer goes.
    padding: Padding of the transformer.
    halve_output: Whether the last run of the transformer halves its output.
    orientations: Number of orientations of the features of every stage, see
      `Backbone`.
    theta_gradient: Factor on the gradient at theta.
    classifier_frozen: Whether the stages, the head and the batch norms behind
      transformers behave in training as in evaluation: batch norms use their
      running averages and do not update them, and dropout drops nothing. The
      modules of the sites, copied stages included, do not. False at first.
  """

  def __init__(
    self,
    backbone: Backbone,
    placement: Placement,
    task: Task,
    *,
    family: str | transforms.Family = "affine",
    localisation: str | None = None,
    padding: str | None = None,
    batch_norm: bool = False,
    norm_average: float | None = None,
    theta_gradient: float = 1.0,
    geometry: Geometries | None = None,
    rngs: nnx.Rngs,
  ):
    """Takes the stages and the head, then makes the sites; see `place`."""
    family = families.find(family)
    self.padding = backbone.padding if padding is None else padding
    checks.option("padding", self.padding, sampling.UNFILLED)
    _check_placement(placement, backbone, family)
    self.placement = placement
    self.orientations = backbone.orientations
    self.theta_gradient = theta_gradient
    self.classifier_frozen = False
    self.halve_output = backbone.halve_output
    self.image_shape = tuple(task.image_shape)
    heads, classes = task.heads, task.num_classes
    self.answer = (heads, classes) if heads > 1 else (classes,)
    self.stages = backbone.stages
    sizes = shapes.stage_shapes(self.stages, self.image_shape)
    self.head = shapes.make_head(
      backbone, self._last_shape(sizes), math.prod(self.answer), rngs
    )
    # Keyed by depth: an iteration repeats a depth and shares its modules.
    self.sites: nnx.Dict[nnx.Dict[Any]] = nnx.Dict()
    for depth in sorted(set(placement.depths)):
      site = base.Site(
        depth,
        sizes[depth],
        self.image_shape,
        backbone,
        family,
        self.padding,
        localisation,
      )
      self.sites[str(depth)] = nnx.Dict(placement.build(site, rngs))
    # Each run warps what differs from the others in its statistics.
    self.norms: nnx.List[nnx.BatchNorm] = nnx.List()
    for depth in placement.depths if batch_norm else ():
      warped = self.image_shape if placement.warps_input else sizes[depth]
      self.norms.append(
        nnx.BatchNorm(warped[-1], use_bias=False, use_scale=False, rngs=rngs)
      )
    if norm_average is not None:
      self._keep_averages(norm_average)
    self._geometry = self._known_geometry(backbone, geometry)

  @property
  def num_stages(self) -> int:
    """Number of stages of the backbone."""
    return len(self.stages)

  @promotion.usual
  def __call__(
    self,
    images: jax.Array,
    *,
    train: bool = False,
    keys: jax.Array | None = None,
  ) -> Output:
    """Classifies a batch of images.

    Args:
      images: `[B, H, W, C]`, normalised.
      train: Whether batch norms use and update the statistics of the batch,
        and dropout drops.
      keys: `[B]`, a random key for each image, to train with dropout.
        `nnx.Dropout` and other users of `nnx.RngStream` draw from the first.

    Returns:
      See `Output`.

    Raises:
      ValueError: In training with dropout and without keys.
    """
    context = Context(train, keys)
    network = context.prepare(self)
    if self.classifier_frozen:
      for name in ("stages", "norms", "head"):
        (fixed,) = Context().prepare(nnx.List([getattr(network, name)]))
        setattr(network, name, fixed)
    passed = self.placement.run(network, images, context)
    logits = self.classifier_context(context).apply(
      network.head, passed.features
    )
    pose, warped = passed.pose, passed.warped
    if pose is None:
      pose = jnp.broadcast_to(transforms.identity(), (len(images), 2, 3))
    if warped is None:
      shape = images.shape[1:3]
      if self.halve_output and self.placement.warps_input:
        shape = shapes.halved(shape)
      warped = sampling.warp(
        images, pose, output_shape=shape, padding=self.padding
      )
    logits = logits.reshape(len(images), *self.answer)
    return Output(logits, passed.thetas, pose, warped, passed.first_pose)

  @promotion.usual
  def features(self, images: jax.Array) -> dict[str, jax.Array]:
    """The features behind each stage, of images that nothing transforms.

    Batch norms behind transformers, and deformed convolutions, count as parts
    of the stages.

    Args:
      images: `[B, H, W, C]`, normalised, of any size that the stages take.

    Returns:
      "block 1" for the first stage, and so on, `[B, h, w, F]` each.
    """
    context = Context()
    network = context.prepare(self)
    by_stage, x = {}, images
    for depth in range(self.num_stages):
      x = self.placement.pass_stage(network, depth, x, context)
      by_stage[f"block {depth + 1}"] = x
    return by_stage

  def geometry(self) -> dict[str, alignability.Geometry]:
    """Positions in the image of the `features` of each stage.

    Stages whose geometry is not known are probed. Deformed convolutions count
    as undeformed.

    Raises:
      ValueError: For a stage whose receptive field cannot be inferred, or
        while the network is traced.
    """
    depths = range(1, self.num_stages + 1)
    known = self._probed(self._geometry, depths)
    return {
      f"block {depth}": field
      for depth in depths
      if (field := known[depth]) is not None
    }

  def with_iterations(self, more: int, **changes: Any) -> "Network":
    """A copy whose transformer runs more or less often, with the same values.

    Args:
      more: Number of runs to add at the last depth; if negative, number of
        runs to leave out, the last ones.
      **changes: Attributes of the network to change, such as theta_gradient.

    Raises:
      ValueError: For a placement without a transformer to repeat, with a batch
        norm for each run, and unless 1 to `placement.MOST_ITERATIONS` runs are
        left.
    """
    if self.norms:
      raise ValueError(
        "batch_norm=True cannot be combined with more iterations: each run of"
        " the transformer has a batch norm, and added ones would have no"
        " statistics; accepted: batch_norm=False"
      )
    if (
      not self.placement.repeats
      or self.transformer(self.placement.depths[-1]).family.grid
    ):
      raise ValueError(
        f"network={self.placement.name!r} has no transformer to repeat;"
        " accepted: placements that resample, with a family of matrices"
      )
    larger = nnx.clone(self)
    larger.placement = self.placement.iterated(more)
    for name, value in changes.items():
      setattr(larger, name, value)
    return larger

  # For placements.

  def through(
    self,
    x: jax.Array,
    context: Context,
    start: int = 0,
    stop: int | None = None,
  ) -> jax.Array:
    """Passes features at depth `start` on to depth `stop`, the end if None."""
    context = self.classifier_context(context)
    for stage in self.stages[start:stop]:
      x = context.apply(stage, x)
    return x

  def classifier_context(self, context: Context) -> Context:
    """The context of the stages and the head: of evaluation if frozen."""
    return Context() if self.classifier_frozen else context

  def transformer(self, depth: int) -> SpatialTransformer:
    """The spatial transformer of a depth of the placement.

    Raises:
      ValueError: If there is none, as for deformed convolutions.
    """
    transformer = self.sites[str(depth)].get("transformer")
    if not isinstance(transformer, SpatialTransformer):
      raise ValueError(
        f"network={self.placement.name!r} has no spatial transformer"
      )
    return transformer

  def localise(
    self,
    depth: int,
    features: jax.Array,
    context: Context,
    theta: jax.Array | None = None,
  ) -> jax.Array:
    """Theta of features at a depth, behind an earlier theta if there is one."""
    transformer = self.transformer(depth)
    parameters = context.apply(transformer.localiser, features)
    step = self.scale_gradient(transformer.theta(parameters))
    return step if theta is None else transforms.compose(theta, step)

  def scale_gradient(self, predicted: jax.Array) -> jax.Array:
    """The same values, with `theta_gradient` times their gradient."""
    if self.theta_gradient == 1:
      return predicted
    fixed = lax.stop_gradient(predicted)
    return fixed + self.theta_gradient * (predicted - fixed)

  def resample(
    self, depth: int, original: jax.Array, theta: jax.Array, *, last: bool
  ) -> jax.Array:
    """Resamples images or features; the last run may halve their size."""
    shape = original.shape[1:3]
    shape = shapes.halved(shape) if self.halve_output and last else shape
    return self.transformer(depth).resample(original, theta, shape)

  def normalise(self, run: int, warped: jax.Array) -> jax.Array:
    """Applies the batch norm of a run of the transformer, if there is one.

    Args:
      run: Index of the run in `placement.depths`.
      warped: `[B, h, w, C]`, what it warped.
    """
    return self.norms[run](warped) if self.norms else warped

  def receptive_field(self, depth: int) -> alignability.Geometry:
    """Positions in the image of the features at a depth of the placement."""
    known = self._geometry[depth]
    assert known is not None, "probed for the depths of the placement"
    return known

  def _keep_averages(self, share: float) -> None:
    """Sets the share of their averages that batch norms keep in a step."""
    if not 0 < share < 1:
      raise ValueError(f"norm_average must be between 0 and 1, got {share}")
    for _, node in nnx.iter_graph(self):
      if isinstance(node, nnx.BatchNorm):
        node.momentum = share

  def _last_shape(self, sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of one image behind all stages, and a transformer that halves."""
    depth = self.placement.halved_depth
    if not self.halve_output or depth is None:
      return sizes[-1]
    start = (*shapes.halved(sizes[depth][:2]), sizes[depth][-1])
    return shapes.stage_shapes(self.stages[depth:], start)[-1]

  def _known_geometry(
    self, backbone: Backbone, geometry: Geometries | None
  ) -> Geometries:
    """The geometry by depth; that of `geometry_depths` is known."""
    known = probing.given_geometry(backbone)
    if geometry is not None:
      if len(geometry) != len(known):
        raise ValueError(
          f"geometry must have {len(known)} entries, one for each depth, got"
          f" {len(geometry)}"
        )
      known = tuple(
        given if given is not None else own
        for given, own in zip(geometry, known, strict=True)
      )
    return self._probed(known, self.placement.geometry_depths)

  def _probed(self, known: Geometries, depths: Sequence[int]) -> Geometries:
    """The geometry with that of the depths, probed where it is not known."""
    unknown = [depth for depth in depths if known[depth] is None]
    if not unknown:
      return known
    if not probing.can_probe(self.stages):
      raise ValueError(
        f"network={self.placement.name!r} needs the receptive field behind"
        f" stage {unknown[0]}, which cannot be probed while the network is"
        " traced; pass geometry=placement.probe_backbone(...), called before"
      )
    known = probing.probe(self.stages, self.image_shape, unknown, known)
    for depth in unknown:
      if known[depth] is None:
        raise ValueError(
          f"the receptive field behind stage {depth} could not be inferred, as"
          " where features depend on the entire image (attention, squeeze and"
          " excitation) or do not move with it; pass Backbone(geometry=...), a"
          " function of the depth that returns an alignability.Geometry"
        )
    return known


def _check_placement(
  placement: Placement, backbone: Backbone, family: transforms.Family
) -> None:
  """Raises unless a backbone takes a placement, and a family its runs."""
  if family.grid and len(placement.depths) > 1:
    raise ValueError(
      f"network={placement.name!r} runs the transformer"
      f" {len(placement.depths)} times, but grids of family={family.name!r}"
      " do not accumulate; accepted: one run"
    )
  placement.check(backbone)
  deepest = placement.deepest(len(backbone.stages))
  if max(placement.depths, default=0) > deepest:
    raise ValueError(
      f"network={placement.name!r}: placement depth {max(placement.depths)} is"
      f" deeper than the backbone; accepted: 0 to {deepest}"
    )
