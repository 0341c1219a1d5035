"""The part of the training benchmark that uses stnjax's training loop."""

from collections.abc import Sequence
import dataclasses
import re

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments import paper
from experiments.bench.training_spec import NetworkSpec, TrainingSpec
from stnjax import data as datasets
from stnjax.nn import localisation
from stnjax.paper import classifiers
from stnjax.placement import networks, placements
from stnjax.training import programs, runs, steps
from stnjax.training.runs import Settings


def preset_settings(preset: str) -> list[Settings]:
  """The settings of an experiment of the paper in full size, by network.

  Raises:
    ValueError: If there is no such experiment.
  """
  if preset not in paper.PRESETS:
    raise ValueError(
      f"preset={preset!r} is unknown; accepted: {', '.join(paper.PRESETS)}"
    )
  return paper.PRESETS[preset]().settings("full")


def digits(count: int) -> datasets.Data:
  """The embedded digits, repeated until there are `count`."""
  data = datasets.load("mnist_subset", "train")
  chosen = np.arange(count) % len(data.labels)
  return datasets.Data(data.images[chosen], data.labels[chosen])


def network_spec(settings: Settings) -> NetworkSpec:
  """The network of a run on MNIST, for other frameworks.

  Raises:
    ValueError: If the network has another placement than one at one depth.
  """
  placement = placements.parse(settings.network)
  if placement.deforms or len(placement.depths) > 1:
    raise ValueError(
      f"network={settings.network!r} has no counterpart in torch; accepted:"
      " CNN; STN-C, STN-DL or STN-SL followed by one depth"
    )
  classifier = classifiers.find(
    settings.dataset, settings.perturbation
  ).resized(settings.width, settings.localisation_width, settings.dropout)
  known = datasets.SETS[settings.dataset]
  spec = NetworkSpec(
    image_shape=known.image_shape,
    num_classes=known.num_classes,
    convs=[(conv.filters, conv.kernel_size) for conv in classifier.convs],
    kind=placement.kind,
    family=settings.family,
    padding=classifier.padding,
  )
  if not placement.depths:
    return spec
  (depth,) = placement.depths
  net = localisation.sized_for(
    classifier.localisation[settings.localisation],
    spec.shapes[depth],
    spec.image_shape,
  )
  return dataclasses.replace(spec, depth=depth, hidden=net.dense)


def training_spec(settings: Settings, images: np.ndarray) -> TrainingSpec:
  """The training of a run on MNIST, for other frameworks.

  Args:
    settings: Settings of the run.
    images: `[N, H, W, 1]`, uint8, the training images.
  """
  (mean,), (std,) = steps.normalisation(
    settings.dataset, settings.perturbation, images
  )
  return TrainingSpec(
    batch_size=settings.batch_size,
    total_steps=runs.num_steps(settings, len(images)),
    optimiser=settings.optimiser,
    learning_rate=settings.learning_rate,
    schedule=settings.schedule,
    localisation_lr=settings.localisation_lr,
    pre_transformer_lr=settings.before_lr,
    mean=mean,
    std=std,
  )


def build_network(settings: Settings) -> nnx.Module:
  """The network of a run, with its initial weights."""
  return runs.build_network(settings)


def warping(network: nnx.Module) -> nnx.Module:
  """A copy whose localisation net predicts another transform per image."""
  network = nnx.clone(network)
  for head in _localisation_heads(network):
    shape = head.kernel[...].shape
    head.kernel[...] = 0.2 * jax.random.normal(jax.random.key(1), shape)
    head.bias[...] = jnp.full_like(head.bias[...], 0.5)
  return network


def _localisation_heads(network: nnx.Module) -> list[nnx.Linear]:
  """The last layers of the localisation nets."""
  return [localiser.head for localiser in network.localisers.values()]


_NAMES = {
  r"^copies\.\d+\.": "copies.",
  r"^localisers\.\d+\.": "localiser.",
  r"\.conv\.": ".",
}
"""Parts of the paths of a network's parameters, and what replaces them; there
is one transformer."""


def weights(network: nnx.Module) -> dict[str, np.ndarray]:
  """The weights of a network, by path.

  Returns:
    "kernel" and "bias" of "blocks.0", "copies.0", "localiser.hidden.0",
    "localiser.head", "head" and so on; kernels are `[H, W, in, out]` or
    `[in, out]`, of features flattened from `[H, W, C]`.
  """
  values = {}
  for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
    name = ".".join(map(str, path))
    for pattern, replacement in _NAMES.items():
      name = re.sub(pattern, replacement, name)
    values[name] = np.asarray(leaf.get_value())
  return values


def count_parameters(network: nnx.Module) -> int:
  """Number of parameters of a network."""
  return networks.count_parameters(network)["total"]


def logits(network: nnx.Module, images: np.ndarray) -> np.ndarray:
  """Logits of `[B, H, W, C]`."""
  return np.asarray(network(images).logits)


class Training:
  """Runs that differ in their seed alone, trained together."""

  def __init__(
    self,
    settings: Settings,
    num_seeds: int,
    data: datasets.Data,
    device: jax.Device,
  ):
    """Builds the networks.

    Args:
      settings: Settings of the runs.
      num_seeds: Number of runs; they have the seeds 0, 1 and so on.
      data: Training set.
      device: Device to train on.
    """
    seeds = [
      dataclasses.replace(settings, seed=seed) for seed in range(num_seeds)
    ]
    self._program, self._states = runs.build_program(
      seeds, data.images, [device]
    )
    self._data = jax.device_put(data)
    self._per_epoch = steps_per_epoch(settings, data)

  def prepared(self, images: np.ndarray) -> np.ndarray:
    """Perturbed and normalised images `[B, H, W, C]` of uint8 images."""
    keys = jax.random.split(jax.random.key(0), len(images))
    prepared, _ = self._program.recipe.prepare(keys, images, None)
    return np.asarray(prepared)

  def run(self, num_steps: int) -> None:
    """Trains for some more steps, as `experiments.train` does, and waits."""
    states, remaining = self._states, num_steps
    while remaining:
      done = int(states.step[0]) % self._per_epoch
      dispatch = min(remaining, self._per_epoch - done)
      states = self._program.train(states, self._data, dispatch)
      states = jax.block_until_ready(states)
      remaining -= dispatch
    self._states = states


def steps_per_epoch(settings: Settings, data: datasets.Data) -> int:
  """Steps of an epoch."""
  return programs.steps_per_epoch(len(data.labels), settings.batch_size)


def lowered_step(
  settings: Settings, devices: Sequence[jax.Device]
) -> jax.stages.Lowered:
  """Lowers a training step for devices that need not be there."""
  known = datasets.SETS[settings.dataset]
  count = settings.batch_size
  heads = (known.heads,) if known.heads > 1 else ()
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, *known.image_shape)).astype(np.uint8)
  data = datasets.Data(images, np.zeros((count, *heads), np.int32))
  program, states = runs.build_program([settings], images, list(devices))
  return program.lower(states, data)
