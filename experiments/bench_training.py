"""Times training against the same networks in plain torch, on the CPU.

  python -m experiments.bench_training

trains the networks of the README's sweep (experiments.sweep --family=rotation
--epochs=15) with stnjax as that does, in the loop of `stnjax.programs`, and
with torch (which the extra `bench` brings): the same rotations of the images,
drawn afresh, the same normalisation, network, loss, optimiser, schedule, batch
and running sums, on all cores. It checks first that torch's network is the
same: as many parameters, and from the same weights the same logits, with
transforms that are not the identity. It writes a table, bench_training.md, and
every measurement, bench_training.json. About 3 minutes on 2 CPU cores.

Times: of some steps, scaled to an epoch of 10,000 images, without compilation,
evaluation and checkpoints. Both take turns, as in `bench_sampling`; the ratio
is the median over the rounds of stnjax's time over torch's in the same round,
with the quartiles, so that below 1 stnjax is faster. Torch has its fused Adam,
and the memory format channels_last, in which it is faster. Beside other work
its threads, which spin while they wait, take many times as long: the machine
must be quiet. The .json has its load, that of the benchmark itself included.
"""

from collections.abc import Callable, Sequence
import dataclasses
import itertools
import json
import math
import os
import pathlib
import typing
from typing import Any

from absl import app, flags
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments import cli, timing
from stnjax import (
  classifiers,
  datasets,
  localisation,
  networks,
  placements,
  programs,
  runs,
  training,
)

if typing.TYPE_CHECKING:
  import torch

NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1")
LIBRARIES = ("stnjax", "torch")

_EPOCH = 10_000  # images
_TOLERANCE = 1e-4  # of logits


def settings_of(network: str, width: float, batch_size: int) -> runs.Settings:
  """What the README's sweep trains, but for width and batch size.

  Raises:
    ValueError: for a network that is not built in torch here.
  """
  settings = runs.Settings(
    network=network,
    family="rotation",
    epochs=15,
    width=width,
    batch_size=batch_size,
  )
  placement = placements.parse(network)
  if placement.deforms or len(placement.depths) > 1:
    raise ValueError(
      f"network={network!r} has no counterpart in torch; accepted: CNN; STN-C,"
      " STN-DL or STN-SL followed by one depth"
    )
  return settings


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


def torch_network(settings: runs.Settings) -> "torch.nn.Module":
  """The network of `settings_of`, from `[B, C, H, W]` to logits.

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
    head = nn.Linear(hidden[-1].out_features, 1)
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
      return rotation(localiser["head"](x)[:, 0])

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
  states: training.TrainState,
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


def torch_training(
  settings: runs.Settings,
  recipe: training.Recipe,
  peer: "torch.nn.Module",
  data: datasets.Data,
  steps: int,
) -> Callable[[], None]:
  """The same in torch, in the memory format that the network has.

  Args:
    settings: of the run.
    recipe: of the run in stnjax, which knows how images are normalised.
    peer: the network to train.
    data: to train on.
    steps: of each call.
  """
  import torch

  images = torch.tensor(data.images).permute(0, 3, 1, 2).contiguous()
  labels = torch.tensor(data.labels).long()
  (mean,), (std,) = recipe.mean, recipe.std
  size = settings.batch_size
  per_epoch = programs.steps_per_epoch(len(labels), size)
  optimiser = torch.optim.Adam(
    peer.parameters(), lr=settings.learning_rate, fused=True
  )
  schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
    optimiser, per_epoch * settings.epochs
  )

  def batches():
    while True:
      order = torch.randperm(len(labels))
      yield from order[: per_epoch * size].split(size)

  drawn, totals = batches(), torch.zeros(2)
  bound = math.pi / 2
  peer.train()

  def call() -> None:
    for chosen in itertools.islice(drawn, steps):
      angles = torch.empty(size).uniform_(-bound, bound)
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

  return call


def measure(
  settings: runs.Settings,
  data: datasets.Data,
  steps: int,
  rounds: int,
  channels_last: bool,
) -> list[dict[str, Any]]:
  """Rows, one per library, of a network that is checked first."""
  import torch

  torch.set_num_threads(os.cpu_count() or 1)
  torch.manual_seed(0)
  name = settings.network
  program, states = runs.build_program(
    [settings], data.images, jax.devices("cpu")[:1]
  )
  network, peer = runs.build_network(settings), torch_network(settings)
  parameters = check_same_size(name, network, peer)
  keys = jax.random.split(jax.random.key(0), settings.batch_size)
  some = data.images[: settings.batch_size]
  prepared, _ = program.recipe.prepare(keys, some, None)
  for checked in (turned(network), network):  # the last is what is trained
    copy_weights(checked, peer)
    check_same_logits(name, checked, peer, prepared)
  if channels_last:
    peer.to(memory_format=torch.channels_last)
  calls = {
    "stnjax": stnjax_training(program, states, data, steps),
    "torch": torch_training(settings, program.recipe, peer, data, steps),
  }
  for call in calls.values():
    call()  # compiles
  load, *_ = os.getloadavg()
  epochs = steps / programs.steps_per_epoch(_EPOCH, settings.batch_size)
  return [
    {
      "network": name,
      "parameters": parameters,
      "library": library,
      "load": load,
      "seconds": seconds,
      "seconds_per_epoch": float(np.median(seconds)) / epochs,
    }
    for library, seconds in timing.in_turns(calls, rounds).items()
  ]


def table(rows: Sequence[dict[str, Any]]) -> str:
  """A line for each network, in Markdown."""
  lines = [
    "| network | parameters | stnjax (s/epoch) | torch (s/epoch)"
    " | stnjax / torch |",
    "|---|--:|--:|--:|--:|",
  ]
  found: dict[str, dict[str, dict]] = {}
  for row in rows:
    found.setdefault(row["network"], {})[row["library"]] = row
  for name, by_library in found.items():
    ours, theirs = (by_library[library] for library in LIBRARIES)
    times = [f"{row['seconds_per_epoch']:.3g}" for row in (ours, theirs)]
    ratio = timing.ratio(ours["seconds"], theirs["seconds"])
    cells = [name, f"{ours['parameters']:,}", *times, ratio]
    lines.append("| " + " | ".join(cells) + " |")
  return "\n".join(lines)


def main() -> None:
  names = _NETWORKS.value
  if not names or len(set(names)) < len(names):
    raise app.UsageError(
      f"--networks must name networks, each once, got {','.join(names)!r}"
    )
  if _BATCH_SIZE.value > _EPOCH:
    raise app.UsageError(
      f"--batch_size must be at most {_EPOCH}, got {_BATCH_SIZE.value}"
    )
  every = [settings_of(n, _WIDTH.value, _BATCH_SIZE.value) for n in names]
  output = pathlib.Path(_OUTPUT.value)
  files = output / "bench_training.json", output / "bench_training.md"
  timing.make_folder(files, _OVERWRITE.value)
  jax.config.update("jax_platforms", "cpu")
  data = datasets.load(every[0].dataset, "train")
  rows = []
  for settings in every:
    print(f"{settings.network} ...", flush=True)
    rows += measure(
      settings, data, _STEPS.value, _ROUNDS.value, _CHANNELS_LAST.value
    )
  text = table(rows)
  results = {
    "machine": timing.machine(),
    "settings": {
      name: value
      for name, value in dataclasses.asdict(every[0]).items()
      if name != "network"
    },
    "steps": _STEPS.value,
    "channels_last": _CHANNELS_LAST.value,
    "rows": rows,
  }
  files[0].write_text(json.dumps(results))
  files[1].write_text(text + "\n")
  print(f"{text}\n\nwritten: {files[0]}, {files[1]}")


if __name__ == "__main__":
  _NETWORKS = flags.DEFINE_list(
    "networks",
    list(NETWORKS),
    "Networks: CNN, or STN-C, STN-DL, STN-SL followed by one depth.",
  )
  _WIDTH = flags.DEFINE_float(
    "width",
    runs.Settings.width,
    "Multiplies the filters of the classifier; 1 is the paper's.",
  )
  _BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", runs.Settings.batch_size, "Images of a step.", lower_bound=1
  )
  _STEPS = flags.DEFINE_integer(
    "steps", 20, "Steps of training that are timed at once.", lower_bound=1
  )
  _CHANNELS_LAST = flags.DEFINE_boolean(
    "channels_last", True, "Torch's memory format; else channels first."
  )
  _ROUNDS = flags.DEFINE_integer(
    "rounds", 11, "How often each is timed.", lower_bound=1
  )
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/bench_training", "Folder that the results are written to."
  )
  _OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace results that are there already."
  )
  cli.run(main)
