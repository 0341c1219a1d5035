"""Receptive fields of stages that do not say theirs, found by probing."""

from collections.abc import Callable, Collection, Sequence
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from stnjax import alignability
from stnjax.nn import receptive_fields
from stnjax.placement import backbone as backbones
from stnjax.placement import shapes
from stnjax.placement.backbone import Backbone, Stage, Task
from stnjax.placement.context import Context

Geometries = tuple[alignability.Geometry | None, ...]
"""Geometry of the features behind 0, 1, ... stages; None where unknown."""

# Pixels added to an image in which receptive fields cannot be told. Powers of
# two, so that features stay where strides put them.
_ADDED = (0, 64, 192)

# Channels that probing looks at, of several draws of parameters if need be.
_CHANNELS, _MOST_DRAWS = 32, 8

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
    stages: With concrete state.
    image_shape: `(H, W, C)` of the images.
    depths: Depths to probe, increasing.
    known: What is known before, by depth.

  Returns:
    `known` with the geometry of the depths; None where it cannot be told.
  """
  found = list(known)
  probed = _probe(stages, image_shape, depths)
  if not probed and len(depths) > 1:  # the first of them may be told
    for depth in depths:
      alone = _probe(stages, image_shape, [depth])
      if not alone:
        break
      probed |= alone
  for depth, geometry in probed.items():
    found[depth] = geometry
  return tuple(found)


def _probe(
  stages: Sequence[Stage], image_shape: Sequence[int], depths: Sequence[int]
) -> dict[int, alignability.Geometry]:
  """The geometry of depths; empty if one of them cannot be inferred."""
  features = jax.jit(_random_features(stages, image_shape, depths))
  try:
    for added in _ADDED:
      if added == _ADDED[1] and _see_all(features, image_shape):
        return {}
      try:
        probed = alignability.probe(features, _noise(image_shape, added))
      except ValueError:
        continue
      return {int(depth): geometry for depth, geometry in probed.items()}
  except TypeError:  # of stages that take no other size
    pass
  return {}


def _noise(image_shape: Sequence[int], added: int) -> np.ndarray:
  """Images of noise, larger than `image_shape` by some pixels."""
  height, width, channels = image_shape
  shape = (4, height + added, width + added, channels)
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _see_all(
  features: Callable[[jax.Array], dict[str, jax.Array]],
  image_shape: Sequence[int],
) -> bool:
  """Whether features at the end of the largest image see its first row."""
  images = _noise(image_shape, _ADDED[-1])
  changed = images.copy()
  changed[:, 0] *= -2
  before, after = (features(jnp.asarray(x)) for x in (images, changed))
  return any(
    bool((before[depth][:, -1] != after[depth][:, -1]).any())
    for depth in before
  )


def _random_features(
  stages: Sequence[Stage], image_shape: Sequence[int], depths: Sequence[int]
) -> Callable[[jax.Array], dict[str, jax.Array]]:
  """Features of stages with several draws of random parameters.

  Receptive fields do not depend on the parameters. The parameters of the stages
  may hide them: branches that start at zero, rectified units that never
  respond.
  """
  passed = _without_statistics(
    Context().prepare(nnx.List(list(stages[: max(depths)])))
  )
  graphdef, params, *rest = nnx.split(passed, nnx.Param, ...)
  sizes = shapes.stage_shapes(passed, image_shape)
  fewest = min(sizes[depth][-1] for depth in depths)
  draws = min(max(_CHANNELS // fewest, 1), _MOST_DRAWS)
  draws = draws if jax.tree.leaves(params) else 1
  rng = np.random.default_rng(0)
  drawn = jax.tree.map(lambda leaf: _draw(rng, leaf, draws), params)

  def once(params: nnx.State[Any, Any], x: jax.Array) -> dict[str, jax.Array]:
    context, seen = Context(), {}
    merged: nnx.List[Stage] = nnx.merge(graphdef, params, *rest)
    for depth, stage in enumerate(merged, 1):
      x = context.apply(stage, x)
      if depth in depths:
        seen[str(depth)] = x
    return seen

  def features(images: jax.Array) -> dict[str, jax.Array]:
    # Counted, too, as there may be no parameters.
    every = jax.lax.map(
      lambda draw: once(draw[1], images), (jnp.arange(draws), drawn)
    )
    return {
      depth: jnp.moveaxis(x, 0, -2).reshape(*x.shape[1:-1], -1)
      for depth, x in every.items()
    }

  return features


def _pointwise(
  norm: nnx.GroupNorm | nnx.InstanceNorm, x: jax.Array, **_: Any
) -> jax.Array:
  """A norm over the places of an image, but for its statistics.

  They make each feature depend on the entire image, if only a little. Positions
  and receptive fields are those of the network with fixed statistics.
  """
  if norm.scale is not None:
    x = x * norm.scale[...]
  return x if norm.bias is None else x + norm.bias[...]


class _LocalGroupNorm(nnx.GroupNorm):
  __call__ = _pointwise


class _LocalInstanceNorm(nnx.InstanceNorm):
  __call__ = _pointwise


_LOCAL: dict[type, type] = {
  nnx.GroupNorm: _LocalGroupNorm,
  nnx.InstanceNorm: _LocalInstanceNorm,
}


def _without_statistics(stages: nnx.List[Stage]) -> nnx.List[Stage]:
  """A copy of stages whose group and instance norms act on each place alone."""
  copied = nnx.clone(stages)
  for _, node in nnx.iter_graph(copied):
    if type(node) in _LOCAL:
      node.__class__ = _LOCAL[type(node)]
  return copied


def _draw(rng: np.random.Generator, leaf: jax.Array, count: int) -> jax.Array:
  """Random kernels `[count, ...]` of unit gain, or scales and biases near 1."""
  noise = rng.normal(size=(count, *leaf.shape))
  if leaf.ndim > 1:
    noise /= math.sqrt(math.prod(leaf.shape[:-1]))
  else:
    noise = 0.5 * (1 + noise)
  return jnp.asarray(noise, leaf.dtype)


def can_probe(module: nnx.Module) -> bool:
  """Whether parameters are concrete, and nothing is being traced."""
  leaves = jax.tree.leaves(nnx.state(module))
  return not isinstance(jnp.zeros(()) + 0, jax.core.Tracer) and all(
    not isinstance(leaf, jax.core.Tracer | jax.ShapeDtypeStruct)
    for leaf in leaves
  )
