"""Trainers of tiny networks on made-up images, compiled once for all tests."""

import functools
from unittest import mock

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from stnjax import data, placement
from stnjax.nn import LocalisationConv
from stnjax.paper import backbones, classifiers
from stnjax.paper.classifiers import Conv
from stnjax.training import optimisers, steps, trainer
from stnjax.training.preparation import Preparation

# Batch norm, dropout of both kinds and a leaky nonlinearity.
RICH = classifiers.Classifier(
  convs=(
    Conv(4, 5, pool=2, padding="VALID", batch_norm=True, dropout=0.3),
    Conv(4, 3, pool=2, batch_norm=True),
  ),
  dense=(8,),
  dropout=0.5,
  slope=0.1,
  localisation={
    "small": classifiers.Localisation((LocalisationConv(2, 5),), (4,))
  },
)
BACKBONES = {
  "bare": functools.partial(
    backbones.backbone, classifiers.MNIST.resized(0.0625, 1.0)
  ),
  "rich": functools.partial(backbones.backbone, RICH),
}


def examples(n, seed=0):
  """Bright squares in the quarter that the label names."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 4, n).astype(np.int32)
  images = rng.integers(0, 30, (n, 28, 28, 1)).astype(np.uint8)
  for image, label in zip(images, labels, strict=True):
    y, x = divmod(int(label), 2)
    image[4 + 12 * y : 12 + 12 * y, 4 + 12 * x : 12 + 12 * x] = 220
  return data.Examples(images, labels)


@functools.cache
def network_of(name, backbone, perturbation, batch_norm, heads, family):
  """A network with its initial parameters."""
  drawn = data.PERTURBATIONS[perturbation]
  task = placement.Task(data.output_shape(drawn, (28, 28, 1)), 4, heads)
  network = placement.create(
    BACKBONES.get(backbone, backbone),
    name,
    task,
    batch_norm=batch_norm,
    family=family,
    rngs=nnx.Rngs(0),
  )
  if backbone != "bare":
    leave_identity(network)
  return network


def make_afresh(
  name="STN-SL1",
  *,
  backbone="bare",
  devices=1,
  batch_size=16,
  perturbation="rotation",
  optimiser=None,
  batch_norm=False,
  seeds=(0,),
  heads=1,
  family="affine",
):
  """A trainer, and the states of its seeds, which are equal at the start."""
  drawn = data.PERTURBATIONS[perturbation]
  network = network_of(name, backbone, perturbation, batch_norm, heads, family)
  optimiser = optimiser or optimisers.make_optimiser(
    "adam", 1e-3, 100, network.placement
  )
  parts = steps.split(network)
  spec = steps.TrainSpec(
    parts.graphdef,
    parts.streams,
    optimiser,
    Preparation(drawn, (0.1,), (0.3,)),
    batch_size,
  )
  clutter = examples(8, 3).images if drawn.needs_clutter else None
  built = trainer.Trainer(spec, seeds, clutter, jax.devices()[:devices])
  state = steps.init_state(network, optimiser)
  return built, trainer.stacked(*[state] * len(seeds))


@functools.cache
def _made(name, options):
  return make_afresh(name, **dict(options))


def make(name="STN-SL1", **options):
  """`make_afresh`, compiled once for all tests; options in any spelling."""
  usual = {"devices": 1, "seeds": (0,)}
  given = {k: v for k, v in options.items() if usual.get(k) != v}
  return _made(name, tuple(sorted(given.items())))


def leave_identity(network):
  """Moves a network's transformers off the identity.

  There they sample on the kinks of bilinear sampling, and rounding decides
  between two slopes.
  """
  for site in network.sites.values():
    module = site.get("predictor") or site["transformer"].localiser
    bias = module.head.bias
    bias[...] = jnp.sin(jnp.arange(bias.size) + 1.0) / 40


def localisation_bias(params):
  """The bias of the last layer of the localisation net at depth 1."""
  return params["sites"]["1"]["transformer"]["localiser"]["head"]["bias"]


def of(states, index):
  """The state of one seed, on the host."""
  return jax.tree.map(lambda x: np.asarray(x)[index], states)


def normalised(images):
  """Images without a perturbation, as the network gets them."""
  return (images.astype(np.float32) / 255 - 0.1) / 0.3


def noting_batches(note):
  """Calls `note(images, truth)` with each batch that is prepared."""
  prepare = Preparation.__call__

  def noting(preparation, keys, images, *args, **options):
    result, truth = prepare(preparation, keys, images, *args, **options)
    jax.debug.callback(
      lambda *arrays: note(*jax.tree.map(np.asarray, arrays)), images, truth
    )
    return result, truth

  return mock.patch.object(Preparation, "__call__", noting)


def max_difference(a, b):
  """The largest difference of two pytrees of arrays."""
  gaps = jax.tree.map(
    lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(initial=0), a, b
  )
  # NumPy's maximum of a NaN is one, Python's may not be.
  return np.max(jax.tree.leaves(gaps), initial=0)


def assert_close(a, b):
  """Equal but for rounding, as XLA may compile one seed otherwise than two."""
  for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
