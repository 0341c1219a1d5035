"""Shapes of features, found without computing them."""

from collections.abc import Callable, Sequence
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from stnjax.placement.backbone import Backbone, Stage
from stnjax.placement.context import Context


def halved(shape: Sequence[int]) -> tuple[int, ...]:
  """Half of each size, rounded down, at least 1."""
  return tuple(max(1, size // 2) for size in shape)


def stage_shapes(
  stages: Sequence[Stage], image_shape: Sequence[int]
) -> list[tuple[int, ...]]:
  """Shape of one image before the first stage and behind each.

  Raises:
    ValueError: For images that are too small, or a stage that does not return
      feature maps.
  """
  context = Context()
  shapes = [tuple(image_shape)]
  stages = context.prepare(nnx.List(list(stages)))
  for depth, stage in enumerate([*stages, None]):
    if 0 in shapes[-1]:
      raise ValueError(
        f"image_shape {shapes[0]} is too small for the backbone; use larger"
        " images, or a smaller downsample"
      )
    if stage is not None:
      x = jax.ShapeDtypeStruct((1, *shapes[-1]), jnp.float32)
      features = _features(context, stage, depth + 1, x)
      if len(getattr(features, "shape", ())) != 4:
        raise ValueError(
          f"stage {depth + 1} ({type(stage).__name__}) must return features"
          f" [B, h, w, F], got {features}"
        )
      shapes.append(features.shape[1:])
  return shapes


def _features(
  context: Context, stage: Stage, number: int, x: jax.ShapeDtypeStruct
) -> Any:
  """Shapes of the results of a stage; its own errors name the stage."""
  try:
    return jax.eval_shape(lambda x: context.apply(stage, x), x)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f"stage {number} ({type(stage).__name__}) does not take features of shape"
      f" [B, {', '.join(map(str, x.shape[1:]))}]: {error}"
    ) from error


def make_head(
  backbone: Backbone, shape: Sequence[int], outputs: int, rngs: nnx.Rngs
) -> Callable[..., jax.Array]:
  """The head of a backbone, made or checked for features of a shape.

  Raises:
    ValueError: For a head that returns another number of logits.
  """
  if backbone.make_head is not None:
    return backbone.make_head(tuple(shape), rngs=rngs)
  if backbone.head is None:
    raise ValueError("a backbone needs either head or make_head, got neither")
  context = Context()
  head = context.prepare(nnx.List([backbone.head]))[0]
  x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
  logits = jax.eval_shape(lambda x: context.apply(head, x), x)
  if math.prod(logits.shape) != outputs:
    raise ValueError(
      f"head must return {outputs} logits for each image, got shape"
      f" {logits.shape} for one; see Task"
    )
  return backbone.head
