"""The part of the training benchmark in torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import itertools
import math
import os

import jax
import numpy as np
import torch
from torch import nn

from experiments.bench import torch_warps
from experiments.bench.training_spec import (
  Block,
  LocalisationSpec,
  NetworkSpec,
  Shape,
  TrainingSpec,
  shapes_behind,
)

LARGEST_ANGLE = math.pi / 2
"""Bound of the random rotations of images."""


def set_up() -> None:
  """Makes torch compute on the same device and as precisely as JAX.

  Raises:
    ValueError: If it cannot.
  """
  torch.set_num_threads(os.cpu_count() or 1)
  platform = jax.default_backend()
  if platform == "cpu":
    return
  if platform != "gpu" or not torch.cuda.is_available():
    raise ValueError(
      f"torch finds no GPU, and JAX computes on {jax.devices()[0]}; accepted:"
      " JAX_PLATFORMS=cpu, or a GPU for both"
    )
  if jax.config.jax_platforms and "cpu" not in jax.config.jax_platforms:
    raise ValueError(
      f"JAX_PLATFORMS={jax.config.jax_platforms} leaves out the CPU, on which"
      " networks are compared; accepted: cuda,cpu"
    )
  torch.set_float32_matmul_precision("high")  # TF32, as XLA by default
  torch.backends.cudnn.benchmark = True


def rotation(angles: torch.Tensor) -> torch.Tensor:
  """Matrices `[B, 2, 3]` that rotate coordinates by angles `[B]`, radians."""
  cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
  rows = torch.stack([cos, -sin, zero, sin, cos, zero], dim=-1)
  return rows.unflatten(-1, (2, 3))


def affine(parameters: torch.Tensor) -> torch.Tensor:
  """Matrices `[B, 2, 3]`: the identity plus `[B, 6]`."""
  return torch.eye(2, 3, device=parameters.device) + parameters.view(-1, 2, 3)


FAMILIES = {
  "affine": (6, affine),
  "rotation": (1, lambda parameters: rotation(parameters[:, 0])),
}
"""Number of parameters and the matrices of each transform family."""


class FeatureLinear(nn.Linear):
  """A dense layer on flattened features `[B, C, H, W]`.

  Attributes:
    features: `(H, W, C)` of the features.
  """

  def __init__(self, features: Sequence[int], units: int):
    super().__init__(math.prod(features), units)
    self.features = tuple(features)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    return super().forward(x.flatten(1))


def dense_layers(features: Shape, widths: Sequence[int]) -> nn.ModuleList:
  """Dense layers of those widths, on features."""
  layers: list[nn.Module] = [FeatureLinear(features, w) for w in widths[:1]]
  for fan_in, fan_out in itertools.pairwise(widths):
    layers.append(nn.Linear(fan_in, fan_out))
  return nn.ModuleList(layers)


class ConvBlock(nn.Module):
  """A block of a specification."""

  def __init__(self, channels: int, spec: Block):
    super().__init__()
    padding = "same" if spec.padded else "valid"
    self.spec = spec
    self.conv = nn.Conv2d(
      channels, spec.filters, spec.kernel_size, padding=padding
    )
    self.norm = nn.BatchNorm2d(spec.filters) if spec.batch_norm else None

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    x, spec = self.conv(x), self.spec
    if self.norm is not None:
      x = self.norm(x.relu())
    if spec.pool:
      x = nn.functional.max_pool2d(x, spec.pool, stride=2)
    if self.norm is None:
      x = x.relu()
    if not spec.dropout:
      return x
    functional = nn.functional
    drop = functional.dropout2d if spec.drop_channels else functional.dropout
    return drop(x, spec.dropout, self.training)


def conv_blocks(channels: int, specs: Sequence[Block]) -> nn.ModuleList:
  """Blocks, one after the other."""
  before = [channels, *(spec.filters for spec in specs)]
  return nn.ModuleList(map(ConvBlock, before, specs))


class LocalisationNet(nn.Module):
  """From features to the matrix of each image."""

  def __init__(self, features: Shape, spec: LocalisationSpec, family: str):
    super().__init__()
    self.halving = spec.halving
    if spec.halving:
      height, width, channels = features
      features = (height // 2, width // 2, channels)
    self.blocks = conv_blocks(features[-1], spec.blocks)
    count, self.matrices = FAMILIES[family]
    flat = shapes_behind(features, spec.blocks)[-1]
    self.hidden = dense_layers(flat, spec.hidden)
    self.head = nn.Linear(spec.hidden[-1], count)

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    if self.halving == "max":
      x = nn.functional.max_pool2d(x, 2)
    elif self.halving == "mean":
      x = nn.functional.avg_pool2d(x, 2)
    x = through(self.blocks, x)
    for layer in self.hidden:
      x = layer(x).relu()
    return self.matrices(self.head(x))


class DenseHead(nn.Module):
  """Dense layers, each with ReLU and dropout, and one for the logits."""

  def __init__(self, features: Shape, spec: NetworkSpec):
    super().__init__()
    self.spec = spec
    *widths, last = *spec.dense, math.prod(spec.answer)
    self.hidden = dense_layers(features, widths)
    self.last = (
      nn.Linear(widths[-1], last) if widths else FeatureLinear(features, last)
    )

  def forward(self, x: torch.Tensor) -> torch.Tensor:
    for layer in self.hidden:
      x = layer(x).relu()
      x = nn.functional.dropout(x, self.spec.dropout, self.training)
    return self.last(x).unflatten(-1, tuple(self.spec.answer))


class Network(nn.Module):
  """A network of a specification, from `[B, C, H, W]` to logits."""

  def __init__(self, spec: NetworkSpec):
    super().__init__()
    self.spec = spec
    shapes = spec.shapes
    channels = spec.image_shape[-1]
    self.blocks = conv_blocks(channels, spec.blocks)
    self.head = DenseHead(shapes[-1], spec)
    self.localiser = None
    if spec.localiser is not None:
      self.localiser = LocalisationNet(
        shapes[spec.depth], spec.localiser, spec.family
      )
    copied = spec.depth if spec.kind == "DL" else 0
    self.copies = conv_blocks(channels, spec.blocks[:copied])

  def forward(self, images: torch.Tensor) -> torch.Tensor:
    x, blocks, spec = images, self.blocks, self.spec
    if self.localiser is not None:
      seen = self.copies if spec.kind == "DL" else blocks[: spec.depth]
      features = through(seen, images)
      theta = self.localiser(features)
      if spec.kind == "C":
        x, blocks = features, blocks[spec.depth :]
      x = torch_warps.torch_warp(x, theta, padding=spec.padding)
    return self.head(through(blocks, x))

  def part(self, name: str) -> str:
    """Part that a parameter belongs to, for the optimiser.

    Args:
      name: Name of the parameter, with dots.

    Returns:
      "localisation", "pre_transformer" or "rest".
    """
    root, index, *_ = name.split(".")
    if root in ("localiser", "copies"):
      return "localisation"
    shared = self.spec.depth if self.spec.kind in ("C", "SL") else 0
    if root == "blocks" and int(index) < shared:
      return "pre_transformer"
    return "rest"


def through(blocks: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
  """Applies blocks, one after the other."""
  for block in blocks:
    x = block(x)
  return x


def load_weights(network: Network, weights: Mapping[str, np.ndarray]) -> None:
  """Gives a network weights, see `training_stnjax.weights`."""
  values = {}
  for name, value in weights.items():
    module, _, kind = name.rpartition(".")
    if value.ndim == 4:
      value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
      layer = network.get_submodule(module)
      value = value.reshape(*getattr(layer, "features", value.shape[:1]), -1)
      value = np.moveaxis(value, (-1, -2), (0, 1)).reshape(len(layer.bias), -1)
    kind = "weight" if kind in ("kernel", "scale") else kind
    values[f"{module}.{kind}"] = torch.tensor(value)
  # Batch norms also have running averages, which begin alike.
  known = dict(network.named_parameters())
  if known.keys() != values.keys():
    raise ValueError(f"not its weights: {known.keys() ^ values.keys()}")
  network.load_state_dict(values, strict=False)


def count_parameters(network: Network) -> int:
  """Number of parameters of a network."""
  return sum(parameter.numel() for parameter in network.parameters())


def logits(network: Network, images: np.ndarray) -> np.ndarray:
  """Logits of `[B, H, W, C]`."""
  with torch.no_grad():
    return network.eval()(torch.tensor(images).permute(0, 3, 1, 2)).numpy()


def make_optimiser(
  network: Network, spec: TrainingSpec
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
  """The optimiser and its schedule."""
  rates = {
    "localisation": spec.localisation_lr,
    "pre_transformer": spec.pre_transformer_lr,
    "rest": 1.0,
  }
  parts: dict[str, list] = {name: [] for name in rates}
  for name, parameter in network.named_parameters():
    parts[network.part(name)].append(parameter)
  groups = [
    {"params": parts[name], "lr": spec.learning_rate * rate}
    for name, rate in rates.items()
    if parts[name]
  ]
  if spec.optimiser == "adam":
    optimiser = torch.optim.Adam(groups, fused=True)
  else:
    optimiser = torch.optim.SGD(groups, momentum=spec.momentum, fused=True)
  schedules = torch.optim.lr_scheduler
  if spec.schedule == "constant":
    return optimiser, schedules.LambdaLR(optimiser, lambda step: 1.0)
  if spec.schedule == "cosine":
    return optimiser, schedules.CosineAnnealingLR(optimiser, spec.total_steps)
  drops = [spec.total_steps // 2, spec.total_steps * 3 // 4]
  return optimiser, schedules.MultiStepLR(optimiser, drops)


def training(
  network: Network,
  spec: TrainingSpec,
  images: np.ndarray,
  labels: np.ndarray,
  steps: int,
  forward: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Callable[[], None]:
  """A call that trains for some more steps, and waits for the last one.

  Args:
    network: Network to train, on its device and in its memory format.
    spec: How it is trained.
    images: `[N, H, W, C]`, uint8.
    labels: `[N]`, or `[N, heads]`.
    steps: Steps of each call.
    forward: What computes the network's logits instead of it, such as the
      network when it is compiled.
  """
  device = network.head.last.weight.device
  images = torch.tensor(images, device=device).permute(0, 3, 1, 2).contiguous()
  labels = torch.tensor(labels, device=device).long()
  optimiser, schedule = make_optimiser(network, spec)
  batches = _batches(len(labels), spec.batch_size, device)
  totals = torch.zeros(2, device=device)
  mean, std = (
    torch.tensor(values, dtype=torch.float32, device=device).view(-1, 1, 1)
    for values in (spec.mean, spec.std)
  )
  network.train()
  forward = network if forward is None else forward

  def call() -> None:
    for chosen in itertools.islice(batches, steps):
      perturbed = images[chosen] / 255
      if spec.rotated:
        angles = torch.empty(len(chosen), device=device)
        theta = rotation(angles.uniform_(-LARGEST_ANGLE, LARGEST_ANGLE))
        perturbed = torch_warps.torch_warp(perturbed, theta)
      predicted = forward((perturbed - mean) / std)
      losses = nn.functional.cross_entropy(
        predicted.movedim(-1, 1), labels[chosen], reduction="none"
      )
      optimiser.zero_grad()
      losses.mean().backward()
      optimiser.step()
      schedule.step()
      with torch.no_grad():
        wrong = predicted.argmax(dim=-1) != labels[chosen]
        totals.add_(torch.stack([losses.sum(), wrong.sum()]))
    torch_warps.finish()

  return call


def _batches(count: int, size: int, device: torch.device):
  """Indices of whole batches, in a new random order each epoch, for ever."""
  while True:
    order = torch.randperm(count, device=device)
    yield from order[: count // size * size].split(size)
