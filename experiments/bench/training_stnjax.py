"""The part of the training benchmark that uses stnjax's training loop."""

from collections.abc import Sequence
import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.training_spec import (
  Block,
  LocalisationSpec,
  NetworkSpec,
  Shape,
  TrainingSpec,
)
from stnjax import placement
import stnjax.data
from stnjax.data import Examples
from stnjax.paper import backbones, classifiers
from stnjax.paper.presets import PRESETS
from stnjax.training import building, loops
from stnjax.training.settings import Settings

_IN_TORCH = ("CNN", "STN-C", "STN-DL", "STN-SL")


def preset_settings(preset: str) -> list[Settings]:
  """The settings of an experiment of the paper in full size, by network.

  Raises:
    ValueError: If there is no such experiment.
  """
  return [Settings(**values) for values in PRESETS[preset].settings("full")]


def examples(settings: Settings, count: int) -> Examples:
  """Training images: the embedded digits again and again, or random ones.

  Args:
    settings: Settings of a run, of whose data set they have the shape.
    count: Number of images.
  """
  known = building.find(settings).dataset
  if known.image_shape == (28, 28, 1):
    data = stnjax.data.load("mnist_subset", "train")
    chosen = np.arange(count) % len(data.labels)
    return Examples(data.images[chosen], data.labels[chosen])
  rng = np.random.default_rng(0)
  heads = (known.heads,) if known.heads > 1 else ()
  images = rng.integers(0, 256, (count, *known.image_shape), np.uint8)
  labels = rng.integers(0, known.num_classes, (count, *heads), np.int32)
  return Examples(images, labels)


def network_spec(settings: Settings) -> NetworkSpec:
  """The network of a run, for other frameworks.

  Raises:
    ValueError: If the network has another placement than one at one depth, or
      layers that have no counterpart.
  """
  parsed = placement.parse(settings.network)
  if parsed.prefix not in _IN_TORCH or len(parsed.depths) > 1:
    raise ValueError(
      f"network={settings.network!r} has no counterpart in torch; accepted:"
      " CNN; STN-C, STN-DL or STN-SL followed by one depth"
    )
  setup = building.find(settings)
  classifier = backbones.CLASSIFIERS[setup.backbone].resized(
    settings.width, settings.localisation_width, settings.dropout
  )
  if classifier.slope or classifier.drop_features or classifier.halves_from:
    raise ValueError(
      f"backbone={setup.backbone!r} has layers without counterpart in torch;"
      " accepted: mnist, cifar, house_numbers"
    )
  heads, classes = setup.task.heads, setup.task.num_classes
  spec = NetworkSpec(
    image_shape=setup.task.image_shape,
    answer=(heads, classes) if heads > 1 else (classes,),
    blocks=[_block(conv) for conv in classifier.convs],
    dense=classifier.dense,
    dropout=classifier.dropout,
    kind=parsed.kind,
    family=settings.family,
    padding=classifier.padding,
  )
  if not parsed.depths:
    return spec
  (depth,) = parsed.depths
  net = classifier.localisation[
    settings.localisation or classifier.default_localisation
  ]
  return dataclasses.replace(
    spec,
    depth=depth,
    localiser=_localiser(net, spec.shapes[depth], spec.image_shape),
  )


def _block(conv: classifiers.Conv) -> Block:
  return Block(
    filters=conv.filters,
    kernel_size=conv.kernel_size,
    padded=conv.padding == "SAME",
    pool=conv.pool,
    batch_norm=conv.batch_norm,
    dropout=conv.dropout,
    drop_channels=conv.drop_channels,
  )


def _localiser(
  net: classifiers.Localisation, features: Shape, image_shape: Shape
) -> LocalisationSpec:
  halving, shape, blocks = net.halving(features, image_shape), features, []
  if halving:
    shape = (shape[0] // 2, shape[1] // 2, shape[2])
  for conv in net.convs:
    block = Block(
      filters=conv.filters,
      kernel_size=conv.kernel_size,
      padded=conv.pads(min(shape[:2])),
      batch_norm=conv.batch_norm,
    )
    if conv.pools(min(block.shape(shape)[:2])):
      block = dataclasses.replace(block, pool=conv.pool)
    shape = block.shape(shape)
    blocks.append(block)
  return LocalisationSpec(halving=halving, blocks=blocks, hidden=net.dense)


def training_spec(settings: Settings, images: np.ndarray) -> TrainingSpec:
  """The training of a run, for other frameworks.

  Args:
    settings: Settings of the run.
    images: `[N, H, W, C]`, uint8, the training images.

  Raises:
    ValueError: If its perturbation is neither "rotation" nor "none".
  """
  if settings.perturbation not in ("rotation", "none"):
    raise ValueError(
      f"perturbation={settings.perturbation!r} has no counterpart in torch;"
      " accepted: rotation, none"
    )
  dataset = building.find(settings).dataset
  mean, std = dataset.normalisation(settings.perturbation, images)
  return TrainingSpec(
    rotated=settings.perturbation == "rotation",
    batch_size=settings.batch_size,
    total_steps=building.num_steps(settings, len(images)),
    optimiser=settings.optimiser,
    momentum=settings.momentum,
    learning_rate=settings.learning_rate,
    schedule=settings.schedule,
    localisation_lr=settings.localisation_lr,
    pre_transformer_lr=settings.pre_transformer_lr,
    mean=mean,
    std=std,
  )


def build_network(settings: Settings) -> nnx.Module:
  """The network of a run, with its initial weights."""
  return building.build_network(settings, building.find(settings))


def warping(network: nnx.Module) -> nnx.Module:
  """A copy whose localisation net predicts another transform per image."""
  network = nnx.clone(network)
  for depth in network.placement.depths:
    head = network.transformer(depth).localiser.head
    shape = head.kernel[...].shape
    head.kernel[...] = 0.2 * jax.random.normal(jax.random.key(1), shape)
    head.bias[...] = jnp.full_like(head.bias[...], 0.5)
  return network


def weights(network: nnx.Module) -> dict[str, np.ndarray]:
  """The weights of a network, by path.

  Returns:
    "kernel" and "bias" of "blocks.0.conv", "copies.0.conv",
    "localiser.blocks.0.conv", "localiser.hidden.0", "localiser.head",
    "head.last" and so on; "scale" and "bias" of "blocks.0.norm" and so on.
    Kernels are `[H, W, in, out]` or `[in, out]`, of features flattened from
    `[H, W, C]`.
  """
  values = {}
  for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
    names = [str(part) for part in path]
    match names:
      case ["sites", _, "stages", *rest]:
        names = ["copies", *rest]
      case ["sites", _, "transformer", "localiser", *rest]:
        names = ["localiser", *rest]
      case ["stages", *rest]:
        names = ["blocks", *rest]
    match names:
      case ["localiser", "convs", index, *rest]:
        names = ["localiser", "blocks", index, "conv", *rest]
      case ["localiser", "norms", index, *rest]:
        names = ["localiser", "blocks", index, "norm", *rest]
    values[".".join(names)] = np.asarray(leaf.get_value())
  return values


def count_parameters(network: nnx.Module) -> int:
  """Number of parameters of a network."""
  return placement.count_parameters(network)["total"]


def logits(network: nnx.Module, images: np.ndarray) -> np.ndarray:
  """Logits of `[B, H, W, C]`."""
  return np.asarray(network(images).logits)


class Training:
  """Runs that differ in their seed alone, trained together."""

  def __init__(
    self,
    settings: Settings,
    num_seeds: int,
    data: Examples,
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
    self._trainer, self._states = building.build_trainer(
      seeds, building.find(settings), data.images, [device]
    )
    self._data = jax.device_put(data)
    self._per_epoch = steps_per_epoch(settings, data)

  def prepared(self, images: np.ndarray) -> np.ndarray:
    """Perturbed and normalised images `[B, H, W, C]` of uint8 images."""
    keys = jax.random.split(jax.random.key(0), len(images))
    prepared, _ = self._trainer.spec.preparation(keys, images)
    return np.asarray(prepared)

  def run(self, num_steps: int) -> None:
    """Trains for some more steps, as `experiments.train` does, and waits."""
    states, remaining = self._states, num_steps
    while remaining:
      done = int(states.step[0]) % self._per_epoch
      dispatch = min(remaining, self._per_epoch - done)
      states = self._trainer.train(states, self._data, dispatch)
      states = jax.block_until_ready(states)
      remaining -= dispatch
    self._states = states


def steps_per_epoch(settings: Settings, data: Examples) -> int:
  """Steps of an epoch."""
  return loops.steps_per_epoch(len(data.labels), settings.batch_size)


def lowered_step(
  settings: Settings, devices: Sequence[jax.Device]
) -> jax.stages.Lowered:
  """Lowers a training step for devices that need not be there."""
  setup = building.find(settings)
  known = setup.dataset
  count = settings.batch_size
  heads = (known.heads,) if known.heads > 1 else ()
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, *known.image_shape)).astype(np.uint8)
  data = Examples(images, np.zeros((count, *heads), np.int32))
  built, states = building.build_trainer(
    [settings], setup, images, list(devices)
  )
  return built.lower(states, data)
