"""Times training against the same networks in plain torch, on CPU or GPU.

  python -m experiments.bench_training
  python -m experiments.bench_training --protocol=paper --seeds=10 --steps=200

trains networks with stnjax, in the loop of `training.programs`, and with torch
(which the extra `bench` brings), where JAX computes: the same perturbation of
the images, drawn afresh, the same normalisation, network, loss, optimiser,
schedule, batch and running sums. The protocols: "sweep", what the README's
first command does (experiments.sweep --family=rotation --epochs=15), on all
cores about 3 minutes for 2 of them; "paper", the paper's rotated MNIST, 64 + 64
filters and 640 epochs (experiments.paper --preset=rotation --size=full), which
is for GPUs. It checks first, on the CPU, that torch's network is the same: as
many parameters, and from the same weights the same logits, with transforms that
are not the identity. It writes a table, bench_training.md, and every
measurement, bench_training.json.

Times: of some steps, scaled to an epoch and to the whole protocol, without
compilation, evaluation and checkpoints. With few steps stnjax looks slower than
it is, as it draws the order of the epoch anew in every dispatch, and a run has
fewer. Images are the embedded digits, as often as an epoch of the protocol
needs them. The libraries take turns, as in `bench_sampling`; the ratio is the
median over the rounds of stnjax's time over torch's in the same round, with the
quartiles, so that below 1 stnjax is faster. With --seeds there is a third turn,
of stnjax with so many seeds in one program, as the sweep trains them. Torch has
its fused optimiser, and the memory format channels_last, in which it is faster;
on GPU it tries convolutions out, as XLA does, and both multiply in TF32. On
CPU, beside other work, torch's threads, which spin while they wait, take many
times as long: the machine must be quiet. The .json has its load, that of the
benchmark itself included.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import json
import math
import os
import typing
from typing import Any

from absl import flags
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments import paper
from experiments.bench import timing
from experiments.lib import cli, hardware
from stnjax import data as datasets
from stnjax import files, transforms
from stnjax.nn import localisation
from stnjax.paper import classifiers
from stnjax.placement import networks, placements
from stnjax.training import programs, runs, steps

if typing.TYPE_CHECKING:
  import torch

NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1")

_TOLERANCE = 1e-4  # of logits


@dataclasses.dataclass(frozen=True)
class Protocol:
  """What is trained, and on how many images.

  Attributes:
    settings: of each network.
    images: of an epoch.
  """

  settings: runs.Settings
  images: int

  def of(self, network: str, **changes: Any) -> runs.Settings:
    """The settings of a network.

    Raises:
      ValueError: for a network that is not built in torch here.
    """
    placement = placements.parse(network)
    if placement.deforms or len(placement.depths) > 1:
      raise ValueError(
        f"network={network!r} has no counterpart in torch; accepted: CNN;"
        " STN-C, STN-DL or STN-SL followed by one depth"
      )
    return dataclasses.replace(self.settings, network=network, **changes)


PROTOCOLS = {
  "sweep": Protocol(runs.Settings(family="rotation", epochs=15), 10_000),
  "paper": Protocol(paper.PRESETS["rotation"]().settings("full")[0], 60_000),
}


def rotation(angles: "torch.Tensor") -> "torch.Tensor":
  """Matrices `[B, 2, 3]` that turn coordinates by angles `[B]`."""
  import torch

  cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
  rows = torch.stack([cos, -sin, zero, sin, cos, zero], dim=-1)
  return rows.unflatten(-1, (2, 3))


def torch_warp(
  images: "torch.Tensor", theta: "torch.Tensor", padding: str
) -> "torch.Tensor":
  """Warps `[B, C, H, W]` by `[B, 2, 3]`."""
  from torch.nn import functional

  grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
  return functional.grid_sample(
    images, grid, padding_mode=padding, align_corners=False
  )


def affine(parameters: "torch.Tensor") -> "torch.Tensor":
  """Matrices `[B, 2, 3]` that differ from the identity by `[B, 6]`."""
  import torch

  return torch.eye(2, 3, device=parameters.device) + parameters.view(-1, 2, 3)


def torch_network(settings: runs.Settings) -> "torch.nn.Module":
  """The network of `Protocol.of`, from `[B, C, H, W]` to logits.

  Its parameters have the names of stnjax's. A dense layer on flattened features
  has their shape `(H, W, C)` as `reads`.
  """
  from torch import nn

  placement = placements.parse(settings.network)
  classifier = classifiers.find(
    settings.dataset, settings.perturbation
  ).resized(settings.width, settings.localisation_width, settings.dropout)
  description = datasets.SETS[settings.dataset]
  shapes = [description.image_shape]
  for layer in classifier.convs:
    height, width, _ = shapes[-1]
    lost = layer.kernel_size - 1
    shapes.append(((height - lost) // 2, (width - lost) // 2, layer.filters))

  def convs(count: int) -> nn.ModuleList:
    return nn.ModuleList(
      nn.Conv2d(shape[-1], layer.filters, layer.kernel_size)
      for shape, layer in zip(shapes[:count], classifier.convs, strict=False)
    )

  def reading(shape: Sequence[int], units: int) -> nn.Linear:
    linear = nn.Linear(math.prod(shape), units)
    linear.reads = tuple(shape)
    return linear

  def localiser(depth: int) -> nn.ModuleDict:
    first, *rest = localisation.sized_for(
      classifier.localisation[settings.localisation], shapes[depth], shapes[0]
    ).dense
    hidden = [reading(shapes[depth], first)]
    for fan_in, fan_out in itertools.pairwise((first, *rest)):
      hidden.append(nn.Linear(fan_in, fan_out))
    outputs = transforms.num_params(settings.family)
    head = nn.Linear(hidden[-1].out_features, outputs)
    return nn.ModuleDict({"hidden": nn.ModuleList(hidden), "head": head})

  class Network(nn.Module):
    """The classifier with its transformer."""

    def __init__(self):
      super().__init__()
      self.blocks = convs(len(classifier.convs))
      self.head = reading(shapes[-1], description.num_classes)
      self.localisers = nn.ModuleDict({str(d): localiser(d) for d in depths})
      copied = depths if placement.kind == "DL" else ()
      self.copies = nn.ModuleDict({str(d): convs(d) for d in copied})

    def forward(self, images):
      x, blocks = images, self.blocks
      for depth in depths:  # one, or none
        seen = self.copies[str(depth)] if self.copies else blocks[:depth]
        x = self.through(seen, images)
        theta = self.theta(depth, x)
        if placement.kind == "C":
          blocks = blocks[depth:]
        else:
          x = images
        x = torch_warp(x, theta, classifier.padding)
      return self.head(self.through(blocks, x).flatten(1))

    def through(self, blocks, x):
      for conv in blocks:
        x = nn.functional.max_pool2d(conv(x), 2).relu()
      return x

    def theta(self, depth, x):
      localiser = self.localisers[str(depth)]
      x = x.flatten(1)
      for layer in localiser["hidden"]:
        x = layer(x).relu()
      parameters = localiser["head"](x)
      if settings.family == "affine":
        return affine(parameters)
      return rotation(parameters[:, 0])

  depths = placement.depths
  return Network()


def copy_weights(network: nnx.Module, peer: "torch.nn.Module") -> None:
  """Gives torch's network the weights of stnjax's."""
  import torch

  values = {}
  for path, leaf in nnx.to_flat_state(nnx.state(network, nnx.Param)):
    value = np.asarray(leaf.get_value())
    name = ".".join(str(part) for part in path[:-1] if part != "conv")
    if value.ndim == 4:
      value = value.transpose(3, 2, 0, 1)
    elif value.ndim == 2:
      reads = getattr(peer.get_submodule(name), "reads", (len(value),))
      value = np.moveaxis(value.reshape(*reads, -1), (-1, -2), (0, 1))
      value = value.reshape(len(value), -1)
    kind = {"kernel": "weight"}.get(path[-1], path[-1])
    values[f"{name}.{kind}"] = torch.tensor(value)
  peer.load_state_dict(values)


def turned(network: nnx.Module) -> nnx.Module:
  """A copy whose localisation nets turn each image, by an angle of its own."""
  network = nnx.clone(network)
  for localiser in network.localisers.values():
    head = localiser.head
    shape = head.kernel[...].shape
    head.kernel[...] = 0.2 * jax.random.normal(jax.random.key(1), shape)
    head.bias[...] = jnp.full_like(head.bias[...], 0.5)
  return network


def check_same_size(
  name: str, network: nnx.Module, peer: "torch.nn.Module"
) -> int:
  """Counts the parameters, and raises where torch's network has others."""
  ours = networks.count_parameters(network)["total"]
  theirs = sum(p.numel() for p in peer.parameters() if p.requires_grad)
  if ours != theirs:
    raise RuntimeError(
      f"{name} in torch is another network: it has {theirs:,} parameters"
      f" instead of {ours:,}"
    )
  return ours


def check_same_logits(
  name: str, network: nnx.Module, peer: "torch.nn.Module", images: jax.Array
) -> None:
  """Raises where torch's network makes other logits of `[B, H, W, C]`."""
  import torch

  ours = np.asarray(network(images).logits)
  with torch.no_grad():
    channels_first = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)
    theirs = peer.eval()(channels_first).numpy()
  apart = np.abs(ours - theirs).max()
  if not apart <= _TOLERANCE:
    raise RuntimeError(
      f"{name} in torch is another network: from the same weights, its logits"
      f" are off by up to {apart:.3g}"
    )


def stnjax_training(
  program: programs.Program,
  states: steps.TrainState,
  data: datasets.Data,
  steps: int,
) -> Callable[[], None]:
  """A call that trains for some steps more, as `experiments.train` does."""
  data = jax.device_put(data)
  per_epoch = programs.steps_per_epoch(
    len(data.labels), program.recipe.batch_size
  )

  def call() -> None:
    nonlocal states
    left = steps
    while left:
      dispatch = min(left, per_epoch - int(states.step[0]) % per_epoch)
      states = jax.block_until_ready(program.train(states, data, dispatch))
      left -= dispatch

  return call


def torch_optimiser(
  settings: runs.Settings, peer: "torch.nn.Module", total_steps: int
) -> tuple["torch.optim.Optimizer", "torch.optim.lr_scheduler.LRScheduler"]:
  """What `stnjax.training.steps.make_optimiser` makes for the same settings."""
  import torch

  placement = placements.parse(settings.network)
  rates = {
    "localisation": settings.localisation_lr,
    "before": settings.before_lr,
    "rest": 1.0,
  }
  groups: dict[str, list] = {name: [] for name in rates}
  for path, parameter in peer.named_parameters():
    groups[placements.part(path.split("."), placement)].append(parameter)
  groups = [
    {"params": groups[name], "lr": settings.learning_rate * rate}
    for name, rate in rates.items()
    if groups[name]
  ]
  if settings.optimiser == "adam":
    optimiser = torch.optim.Adam(groups, fused=True)
  else:
    optimiser = torch.optim.SGD(groups, momentum=0.9, fused=True)
  schedules = torch.optim.lr_scheduler
  if settings.schedule == "cosine":
    schedule = schedules.CosineAnnealingLR(optimiser, total_steps)
  else:
    drops = [total_steps // 2, total_steps * 3 // 4]
    schedule = schedules.MultiStepLR(optimiser, drops)
  return optimiser, schedule


def torch_training(
  settings: runs.Settings,
  recipe: steps.Recipe,
  peer: "torch.nn.Module",
  data: datasets.Data,
  steps: int,
) -> Callable[[], None]:
  """The same in torch, where the network is and in its memory format.

  Args:
    settings: of the run.
    recipe: of the run in stnjax, which knows how images are normalised.
    peer: the network to train.
    data: to train on.
    steps: of each call.
  """
  import torch

  device = peer.head.weight.device
  images = torch.tensor(data.images, device=device)
  images = images.permute(0, 3, 1, 2).contiguous()
  labels = torch.tensor(data.labels, device=device).long()
  (mean,), (std,) = recipe.mean, recipe.std
  size = settings.batch_size
  per_epoch = programs.steps_per_epoch(len(labels), size)
  optimiser, schedule = torch_optimiser(
    settings, peer, per_epoch * settings.epochs
  )

  def batches():
    while True:
      order = torch.randperm(len(labels), device=device)
      yield from order[: per_epoch * size].split(size)

  drawn, totals = batches(), torch.zeros(2, device=device)
  bound = math.pi / 2
  peer.train()

  def call() -> None:
    for chosen in itertools.islice(drawn, steps):
      angles = torch.empty(size, device=device).uniform_(-bound, bound)
      perturbed = torch_warp(images[chosen] / 255, rotation(angles), "zeros")
      logits = peer((perturbed - mean) / std)
      losses = torch.nn.functional.cross_entropy(
        logits, labels[chosen], reduction="none"
      )
      optimiser.zero_grad()
      losses.mean().backward()
      optimiser.step()
      schedule.step()
      with torch.no_grad():
        wrong = logits.argmax(dim=-1) != labels[chosen]
        totals.add_(torch.stack([losses.sum(), wrong.sum()]))
    if device.type == "cuda":
      torch.cuda.synchronize()

  return call


def same_network(
  settings: runs.Settings, prepare: Callable, images: np.ndarray
) -> tuple["torch.nn.Module", int]:
  """Torch's network with the weights of stnjax's, and its parameters' count.

  Args:
    settings: of the network.
    prepare: what makes the network's input of images, see `steps.Recipe`.
    images: `[B, H, W, C]`, uint8.

  Raises:
    RuntimeError: where it is another network.
  """
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    network, peer = runs.build_network(settings), torch_network(settings)
    parameters = check_same_size(settings.network, network, peer)
    keys = jax.random.split(jax.random.key(0), len(images))
    prepared, _ = prepare(keys, images, None)
    for checked in (turned(network), network):  # the last is what is trained
      copy_weights(checked, peer)
      check_same_logits(settings.network, checked, peer, prepared)
  return peer, parameters


def measure(
  settings: runs.Settings,
  data: datasets.Data,
  *,
  seeds: int,
  steps: int,
  rounds: int,
  channels_last: bool,
) -> list[dict[str, Any]]:
  """Rows of a network that is checked first: one for each that takes turns.

  Args:
    settings: of the network.
    data: an epoch's.
    seeds: to train at once with stnjax, beside one; 1 for none beside.
    steps: that are timed at once.
    rounds: how often.
    channels_last: torch's memory format.
  """
  import torch

  torch.manual_seed(0)
  device = jax.devices()[0]
  counts = dict.fromkeys((1, seeds))
  built = {
    count: runs.build_program(
      [dataclasses.replace(settings, seed=seed) for seed in range(count)],
      data.images,
      [device],
    )
    for count in counts
  }
  program, _ = built[1]
  some = data.images[: settings.batch_size]
  peer, parameters = same_network(settings, program.recipe.prepare, some)
  peer.to("cpu" if device.platform == "cpu" else "cuda")
  if channels_last:
    peer.to(memory_format=torch.channels_last)
  turns = {
    ("stnjax", count): stnjax_training(*built[count], data, steps)
    for count in counts
  }
  turns["torch", 1] = torch_training(
    settings, program.recipe, peer, data, steps
  )
  for call in turns.values():
    call()  # compiles
  load, *_ = os.getloadavg()
  per_epoch = programs.steps_per_epoch(len(data.labels), settings.batch_size)
  seconds = timing.in_turns(dict(enumerate(turns.values())), rounds)
  return [
    {
      "network": settings.network,
      "parameters": parameters,
      "library": library,
      "seeds": count,
      "load": load,
      "seconds": taken,
      "seconds_per_epoch": float(np.median(taken)) * per_epoch / steps,
    }
    for (library, count), taken in zip(turns, seconds.values(), strict=True)
  ]


def table(rows: Sequence[dict[str, Any]], epochs: int) -> str:
  """A line for each network, and one of whole protocols, in Markdown."""
  found: dict[str, dict[tuple[str, int], dict]] = {}
  for row in rows:
    turn = row["library"], row["seeds"]
    found.setdefault(row["network"], {})[turn] = row
  turns = list(next(iter(found.values())))
  names = [
    library if count == 1 else f"{library}, {count} seeds"
    for library, count in turns
  ]
  lines = [
    "| network | parameters |"
    + "".join(f" {name} (s/epoch) |" for name in names)
    + " stnjax / torch |",
    "|---|" + "--:|" * (len(turns) + 2),
  ]
  for name, by_turn in found.items():
    ours, theirs = by_turn["stnjax", 1], by_turn["torch", 1]
    cells = [
      name,
      f"{ours['parameters']:,}",
      *(f"{by_turn[turn]['seconds_per_epoch']:.3g}" for turn in turns),
      timing.ratio(ours["seconds"], theirs["seconds"]),
    ]
    lines.append("| " + " | ".join(cells) + " |")
  minutes = [
    sum(by_turn[turn]["seconds_per_epoch"] for by_turn in found.values())
    * epochs
    / 60
    for turn in turns
  ]
  whole = "; ".join(
    f"{n} {m:,.1f}" for n, m in zip(names, minutes, strict=True)
  )
  lines += ["", f"All of it, {epochs} epochs of each, in minutes: {whole}."]
  return "\n".join(lines)


def epoch_of(count: int) -> datasets.Data:
  """The embedded digits, repeated until there are `count`."""
  digits = datasets.load("mnist_subset", "train")
  chosen = np.arange(count) % len(digits.labels)
  return datasets.Data(digits.images[chosen], digits.labels[chosen])


def set_up_torch() -> None:
  """Lets torch compute where and as JAX does.

  Raises:
    ValueError: where it cannot.
  """
  import torch

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


def main() -> None:
  names = timing.each_once("networks", _NETWORKS.value)
  protocol = PROTOCOLS[_PROTOCOL.value]
  changes = {"width": _WIDTH.value, "batch_size": _BATCH_SIZE.value}
  changes = {k: v for k, v in changes.items() if v is not None}
  every = [protocol.of(name, **changes) for name in names]
  if every[0].batch_size > protocol.images:
    raise ValueError(
      f"--batch_size must be at most {protocol.images}, got"
      f" {every[0].batch_size}"
    )
  most = protocol.images // every[0].batch_size
  if _STEPS.value > most:
    raise ValueError(
      f"--steps must be at most {most}, an epoch, got {_STEPS.value}"
    )
  for settings in every:  # raises for one that cannot be built
    hardware.check_memory(settings, _SEEDS.value, jax.devices()[:1])
  written = "bench_training.json", "bench_training.md"
  outputs = timing.outputs(_OUTPUT.value, written, _OVERWRITE.value)
  set_up_torch()
  data = epoch_of(protocol.images)
  rows = []
  for settings in every:
    print(f"{settings.network} ...", flush=True)
    rows += measure(
      settings,
      data,
      seeds=_SEEDS.value,
      steps=_STEPS.value,
      rounds=_ROUNDS.value,
      channels_last=_CHANNELS_LAST.value,
    )
  text = table(rows, every[0].epochs)
  results = {
    "machine": timing.machine(),
    "settings": {
      name: value
      for name, value in dataclasses.asdict(every[0]).items()
      if name != "network"
    },
    "protocol": _PROTOCOL.value,
    "images": protocol.images,
    "steps": _STEPS.value,
    "channels_last": _CHANNELS_LAST.value,
    "rows": rows,
  }
  files.write_whole(outputs[0], json.dumps(results))
  files.write_whole(outputs[1], text + "\n")
  print(f"{text}\n\nwritten: {outputs[0]}, {outputs[1]}")


if __name__ == "__main__":
  _NETWORKS = flags.DEFINE_list(
    "networks",
    list(NETWORKS),
    "Networks: CNN, or STN-C, STN-DL, STN-SL followed by one depth.",
  )
  _PROTOCOL = flags.DEFINE_enum(
    "protocol", "sweep", list(PROTOCOLS), "What is trained, see above."
  )
  _WIDTH = flags.DEFINE_float(
    "width",
    None,
    "Multiplies the filters of the classifier; 1 is the paper's. Default: the"
    " protocol's.",
  )
  _BATCH_SIZE = flags.DEFINE_integer(
    "batch_size",
    None,
    "Images of a step. Default: the protocol's.",
    lower_bound=1,
  )
  _SEEDS = flags.DEFINE_integer(
    "seeds",
    1,
    "Seeds that stnjax also trains at once, beside one; at most 1,000.",
    1,
    1000,
  )
  _STEPS = flags.DEFINE_integer(
    "steps", 50, "Steps of training that are timed at once.", lower_bound=1
  )
  _CHANNELS_LAST = flags.DEFINE_boolean(
    "channels_last", True, "Torch's memory format; else channels first."
  )
  _ROUNDS = flags.DEFINE_integer(
    "rounds", 9, "How often each is timed.", lower_bound=1
  )
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/bench_training", "Folder that the results are written to."
  )
  _OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace results that are there already."
  )
  cli.run(main)
