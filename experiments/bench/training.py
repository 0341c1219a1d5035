"""Training with stnjax against the same networks in torch."""

from collections.abc import Callable, Iterator, Sequence
import copy
import dataclasses
import functools
import os
import typing
from typing import Any

import jax
import numpy as np

from experiments.bench import kernels, timing, training_stnjax
from experiments.bench.training_stnjax import Settings
from experiments.lib import hardware
from experiments.lib.tables import Table, markdown
from stnjax.training import building

if typing.TYPE_CHECKING:
  from experiments.bench import training_torch

NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-DL1", "STN-SL1")

_TOLERANCE = 1e-4  # of logits up to 1, and of the largest beyond


@dataclasses.dataclass(frozen=True)
class Protocol:
  """A training protocol.

  Attributes:
    settings: Settings of each network.
    images: Number of images of an epoch.
  """

  settings: Settings
  images: int


PROTOCOLS: dict[str, Callable[[], Protocol]] = {
  "sweep": lambda: Protocol(Settings(family="rotation", epochs=15), 10_000),
  "paper": lambda: Protocol(
    training_stnjax.preset_settings("rotation")[0], 60_000
  ),
  "cifar": lambda: Protocol(
    training_stnjax.preset_settings("cifar_rotation")[0], 10_000
  ),
  # How the learning rate falls takes no time, and torch has no such schedule.
  # From the initial values of torch, logits would hardly depend on the image,
  # and would not tell one network from another.
  "house_numbers": lambda: Protocol(
    dataclasses.replace(
      training_stnjax.preset_settings("house_numbers")[0],
      init=None,
      schedule="constant",
      lr_drop_steps=(),
      localisation_lr=1.0,
      localisation_scheme="group",
    ),
    10_000,
  ),
}


def settings_of(
  protocol: Protocol, networks: Sequence[str], seeds: int, **changes: Any
) -> list[Settings]:
  """The settings of each network.

  Args:
    protocol: Protocol to follow.
    networks: Names of the networks.
    seeds: Seeds to train together.
    **changes: Other settings than the protocol's; None for the protocol's.

  Raises:
    ValueError: If a network cannot be built, here or in torch, or an epoch has
      no whole batch.
  """
  changes = {name: v for name, v in changes.items() if v is not None}
  every = [
    dataclasses.replace(protocol.settings, network=name, **changes)
    for name in networks
  ]
  for settings in every:
    if settings.batch_size > protocol.images:
      raise ValueError(
        f"--batch_size must be at most {protocol.images}, got"
        f" {settings.batch_size}"
      )
    setup = building.find(settings)
    hardware.check_memory(settings, setup, seeds, jax.devices()[:1])
    training_stnjax.network_spec(settings)
  return every


def check_steps(protocol: Protocol, settings: Settings, steps: int) -> None:
  """Checks the steps of a timed call.

  Raises:
    ValueError: If they are more than an epoch has.
  """
  most = protocol.images // settings.batch_size
  if steps > most:
    raise ValueError(f"--steps must be at most {most}, an epoch, got {steps}")


def check_same_size(
  name: str, network: Any, peer: "training_torch.Network"
) -> int:
  """Counts the parameters of a network, and of torch's.

  Raises:
    RuntimeError: If the numbers differ.
  """
  from experiments.bench import training_torch

  ours = training_stnjax.count_parameters(network)
  theirs = training_torch.count_parameters(peer)
  if ours != theirs:
    raise RuntimeError(
      f"{name} in torch is another network: it has {theirs:,} parameters"
      f" instead of {ours:,}"
    )
  return ours


def check_same_logits(
  name: str, network: Any, peer: "training_torch.Network", images: np.ndarray
) -> None:
  """Compares the logits of `[B, H, W, C]`.

  Raises:
    RuntimeError: If they differ.
  """
  from experiments.bench import training_torch

  ours = training_stnjax.logits(network, images)
  theirs = training_torch.logits(peer, images)
  difference = np.abs(ours - theirs).max()
  if not difference <= _TOLERANCE * max(1.0, np.abs(ours).max()):
    raise RuntimeError(
      f"{name} in torch is another network: from the same weights, its logits"
      f" are off by up to {difference:.3g}"
    )


def same_network(
  settings: Settings, prepare: Callable, images: np.ndarray
) -> tuple["training_torch.Network", int]:
  """Torch's network with the initial weights of stnjax's, after checks.

  Args:
    settings: Settings of the network.
    prepare: Function from images to the input of the network.
    images: `[B, H, W, C]`, uint8.

  Returns:
    The network, and its number of parameters.

  Raises:
    RuntimeError: If the networks differ.
  """
  from experiments.bench import training_torch

  name = settings.network
  with jax.default_device(jax.local_devices(backend="cpu")[0]):
    network = training_stnjax.build_network(settings)
    peer = training_torch.Network(training_stnjax.network_spec(settings))
    parameters = check_same_size(name, network, peer)
    prepared = prepare(images)
    # Torch trains from the weights that are checked last.
    for checked in (training_stnjax.warping(network), network):
      training_torch.load_weights(peer, training_stnjax.weights(checked))
      check_same_logits(name, checked, peer, prepared)
  return peer, parameters


def measure_all(
  protocol: Protocol, every: Sequence[Settings], **options: Any
) -> Iterator[list[dict[str, Any]]]:
  """Measures networks, see `measure`, and prints each before it starts.

  Args:
    protocol: Protocol to follow.
    every: Settings of each network.
    **options: Options of `measure`.

  Yields:
    All measurements so far, after each network.
  """
  from experiments.bench import training_torch  # torch is optional

  training_torch.set_up()
  data = training_stnjax.examples(protocol.settings, protocol.images)
  rows: list[dict[str, Any]] = []
  for settings in every:
    print(f"{settings.network} ...", flush=True)
    rows += measure(settings, data, **options)
    yield rows


def measure(
  settings: Settings,
  data: Any,
  *,
  seeds: int,
  steps: int,
  rounds: int,
  channels_last: bool,
  torch_compile: bool,
) -> list[dict[str, Any]]:
  """Times the training of a network, after checking that torch's is the same.

  Args:
    settings: Settings of the network.
    data: Training set.
    seeds: Seeds that stnjax also trains together; 1 for one seed alone.
    steps: Steps of a timed call.
    rounds: Number of times each is timed.
    channels_last: Whether torch's memory format is channels_last.
    torch_compile: Whether torch also trains a compiled network.

  Returns:
    A row for stnjax, for stnjax with several seeds, for torch and for compiled
    torch. On GPU those of stnjax have "kernels": names and share of the time of
    the slowest three.
  """
  turns, parameters = _turns(
    settings, data, seeds, steps, channels_last, torch_compile
  )
  for call in turns.values():
    call()  # compiles
  load, *_ = os.getloadavg()
  per_epoch = training_stnjax.steps_per_epoch(settings, data)
  seconds = timing.in_turns(dict(enumerate(turns.values())), rounds)
  slowest = {
    turn: kernels.slowest(call) if turn[0] == "stnjax" else []
    for turn, call in turns.items()
  }
  return [
    {
      "network": settings.network,
      "parameters": parameters,
      "library": library,
      "seeds": count,
      "load": load,
      "seconds": taken,
      "seconds_per_epoch": float(np.median(taken)) * per_epoch / steps,
      "kernels": slowest[library, count],
    }
    for (library, count), taken in zip(turns, seconds.values(), strict=True)
  ]


def _turns(
  settings: Settings,
  data: Any,
  seeds: int,
  steps: int,
  channels_last: bool,
  torch_compile: bool,
) -> tuple[dict[tuple[str, int], Callable[[], None]], int]:
  """Calls that train, by library and number of seeds; number of parameters."""
  import torch

  from experiments.bench import torch_warps, training_torch

  torch.manual_seed(0)
  ours = {
    count: training_stnjax.Training(settings, count, data, jax.devices()[0])
    for count in dict.fromkeys((1, seeds))
  }
  some = data.images[: settings.batch_size]
  peer, parameters = same_network(settings, ours[1].prepared, some)
  peer.to(torch_warps.device())
  if channels_last:
    peer.to(memory_format=torch.channels_last)
  spec = training_stnjax.training_spec(settings, data.images)
  turns: dict[tuple[str, int], Callable[[], None]] = {
    ("stnjax", count): functools.partial(runs.run, steps)
    for count, runs in ours.items()
  }
  turns["torch", 1] = training_torch.training(peer, spec, *data, steps)
  if torch_compile:
    twin = copy.deepcopy(peer)
    forward = torch.compile(twin)
    turns["compiled torch", 1] = training_torch.training(
      twin, spec, *data, steps, forward
    )
  return turns, parameters


def report(rows: Sequence[dict[str, Any]], epochs: int) -> str:
  """A table with a row for each network, and the time of the protocol.

  Args:
    rows: Measurements.
    epochs: Epochs of each network in the protocol.
  """
  networks: dict[str, dict[tuple[str, int], dict]] = {}
  for row in rows:
    turn = row["library"], row["seeds"]
    networks.setdefault(row["network"], {})[turn] = row
  turns = list(next(iter(networks.values())))
  others = [turn for turn in turns if turn[0] != "stnjax"]
  names = [
    library if count == 1 else f"{library}, {count} seeds"
    for library, count in turns
  ]
  cells, minutes = [], dict.fromkeys(turns, 0.0)
  for name, by_turn in networks.items():
    ours = by_turn["stnjax", 1]["seconds"]
    seconds = {turn: by_turn[turn]["seconds_per_epoch"] for turn in turns}
    for turn in turns:
      minutes[turn] += seconds[turn] * epochs / 60
    cells.append(
      [
        name,
        f"{by_turn['stnjax', 1]['parameters']:,}",
        *(f"{seconds[turn]:.3g}" for turn in turns),
        *(timing.ratio(ours, by_turn[turn]["seconds"]) for turn in others),
      ]
    )
  heading = [
    "network",
    "parameters",
    *(f"{name} (s/epoch)" for name in names),
    *(f"stnjax / {library}" for library, _ in others),
  ]
  whole = "; ".join(
    f"{name} {total:,.1f}"
    for name, total in zip(names, minutes.values(), strict=True)
  )
  return (
    f"{markdown(Table(heading, cells))}\n\n"
    f"All of it, {epochs} epochs of each, in minutes: {whole}."
  )
