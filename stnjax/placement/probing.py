"""Receptive fields of stages that do not say theirs, found by probing."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from stnjax import alignability
from stnjax.nn import receptive_fields
from stnjax.placement import backbone as backbones
from stnjax.placement.backbone import Backbone, Stage, Task
from stnjax.placement.context import Context

Geometries = tuple[alignability.Geometry | None, ...]
"""Geometry of the features behind 0, 1, ... stages; None where unknown."""

# Pixels added to an image in which receptive fields cannot be told. Powers of
# two, so that features stay where strides put them.
_ADDED = (0, 64, 192)

_INPUT = alignability.Geometry(*receptive_fields.receptive_field(()))


def probe_backbone(
  backbone: str | Callable[..., Backbone],
  task: Task,
  *,
  depths: Collection[int] | None = None,
  **options: Any,
) -> Geometries:
  """Infers the receptive fields of a backbone's stages.

  Receptive fields cannot be probed while `jax.jit` or `nnx.eval_shape` trace
  the construction of a network. Call this before, and pass the result as
  `geometry=` to `create` or `place`.

  Args:
    backbone: Name in `BACKBONES`, or a function such as those.
    task: What to classify.
    depths: Depths to probe, such as `Placement.geometry_depths`; all by
      default.
    **options: Options of the backbone, see `make_backbone`.

  Returns:
    By depth, 0 first. The geometry that the backbone itself gives, where it
    does; None for depths that are not asked for, or cannot be told.

  Raises:
    ValueError: For an unknown name or option.
  """

  def make() -> Backbone:
    return backbones.make_backbone(backbone, task, rngs=nnx.Rngs(0), **options)

  abstract = nnx.eval_shape(make)  # allocates nothing
  known = given_geometry(abstract)
  wanted = range(len(known)) if depths is None else depths
  # Depths beyond the last stage are left to `place`, which refuses them.
  there = [depth for depth in sorted(wanted) if depth < len(known)]
  unknown = [depth for depth in there if known[depth] is None]
  if not unknown:
    return known
  return probe(make().stages, task.image_shape, unknown, known)


def given_geometry(backbone: Backbone) -> Geometries:
  """The geometry that a backbone gives, by depth; None where it does not."""
  count = len(backbone.stages)
  if backbone.geometry is None:
    return (_INPUT, *[None] * count)
  return tuple(backbone.geometry(depth) for depth in range(count + 1))


def probe(
  stages: Sequence[Stage],
  image_shape: Sequence[int],
  depths: Sequence[int],
  known: Geometries,
) -> Geometries:
  """Probes stages, on larger images where these are too small.

  Args:
    stages: With concrete parameters.
    image_shape: `(H, W, C)` of the images.
    depths: Depths to probe.
    known: What is known before, by depth.

  Returns:
    `known` with the geometry of the depths; None where it cannot be told.
  """
  found = list(known)
  stages = Context().prepare(nnx.List(list(stages)))
  for added in _ADDED:
    try:
      probed = _probe(stages, image_shape, depths, added)
    except (TypeError, ValueError):
      continue
    for depth, geometry in probed.items():
      found[depth] = geometry
    return tuple(found)
  for depth in depths if len(depths) > 1 else ():  # some of them can be told
    found[depth] = probe(stages, image_shape, [depth], known)[depth]
  return tuple(found)


def _probe(
  stages: Sequence[Stage],
  image_shape: Sequence[int],
  depths: Sequence[int],
  added: int,
) -> dict[int, alignability.Geometry]:
  height, width, channels = image_shape
  shape = (4, height + added, width + added, channels)
  images = np.random.default_rng(0).normal(size=shape).astype(np.float32)

  def features(x: jax.Array) -> dict[str, jax.Array]:
    context, seen = Context(), {}
    for depth, stage in enumerate(stages[: max(depths)], 1):
      x = context.apply(stage, x)
      if depth in depths:
        seen[str(depth)] = x
    return seen

  probed = alignability.probe(features, images)
  return {int(depth): geometry for depth, geometry in probed.items()}


def can_probe(module: nnx.Module) -> bool:
  """Whether parameters are concrete, and nothing is being traced."""
  leaves = jax.tree.leaves(nnx.state(module))
  return not isinstance(jnp.zeros(()) + 0, jax.core.Tracer) and all(
    not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)
    for leaf in leaves
  )
