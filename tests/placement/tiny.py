"""Small networks for tests, and their parts."""

import dataclasses
import functools

from flax import nnx
import jax.numpy as jnp
import numpy as np

from stnjax import placement
from stnjax.nn import LocalisationConv
from stnjax.paper import backbones, classifiers
from stnjax.paper.classifiers import Conv, Localisation

# MNIST's classifier, with numbers of filters that tell the stages apart.
TINY = dataclasses.replace(
  classifiers.MNIST,
  convs=(
    Conv(3, 9, pool=2, padding="VALID"),
    Conv(4, 7, pool=2, padding="VALID"),
  ),
)
# One that halves what it warps: 28-24-12-10-5, or 14-10-5-3-1 behind it.
HALVING = dataclasses.replace(
  TINY,
  convs=(
    Conv(3, 5, pool=2, padding="VALID"),
    Conv(4, 3, pool=2, padding="VALID"),
  ),
  localisation={"small": Localisation((LocalisationConv(2, 3),), (5,))},
  halves_from=28,
)
IMAGES = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)


def create(
  name,
  classifier=TINY,
  image_shape=(28, 28, 1),
  num_classes=10,
  heads=1,
  **options,
):
  return placement.create(
    functools.partial(backbones.backbone, classifier),
    name,
    placement.Task(image_shape, num_classes, heads),
    rngs=nnx.Rngs(0),
    **options,
  )


def localiser(network, depth):
  """What predicts at a depth: a localisation net, or points."""
  site = network.sites[str(depth)]
  if "predictor" in site:
    return site["predictor"]
  return site["transformer"].localiser


def theta(network, depth, features):
  """What the transformer of a depth says of features."""
  transformer = network.sites[str(depth)]["transformer"]
  return transformer.theta(transformer.localiser(features))


def shake(network, seed=1, scale=0.03):
  """Moves the localisation heads off the identity."""
  rng = np.random.default_rng(seed)
  for depth in network.sites:
    head = localiser(network, depth).head
    head.kernel[...] = jnp.asarray(
      rng.normal(0, scale, head.kernel.shape), jnp.float32
    )
    head.bias[...] = jnp.asarray(
      rng.normal(0, 0.1, head.bias.shape), jnp.float32
    )
  return network


def answer(network, x, depth=0):
  """The logits of a classifier, of features at a depth."""
  for stage in network.stages[depth:]:
    x = stage(x)
  return network.head(x)


def through(stages, x):
  """Features behind some stages."""
  for stage in stages:
    x = stage(x)
  return x
