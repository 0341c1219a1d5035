"""Norms of the gradient by layer, at the start of training and at its end."""

from collections.abc import Iterator, Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from experiments.lib import loading
from experiments.lib.tables import Table
from experiments.reporting.analysing import Analysed, NotApplicable
from experiments.reporting.finished import Finished
from experiments.reporting.groups import Group
from stnjax import data, placement, plots
from stnjax.training import (
  building,
  gradients,
  loops,
  trained,
  trainer,
  warm_start,
)
from stnjax.training.run_folder import Run

NAME = "gradients"
TITLE = "Gradient norms by layer"
TRAINED = "trained"
PARTS = {
  "direct": "theta held fixed",
  "through_theta": "through the transformer",
}
EXPLANATION = (
  "Norm of the gradient of the mean training loss over a batch, by layer: all"
  " of it, the part with all thetas held fixed, and the part that comes through"
  " theta; and all of it relative to the norm of the layer's parameters. Means"
  " over the seeds. The last layer of localisation starts at zero, so that at"
  " step 0 no gradient reaches the layers below it through theta."
)
CAPTION = (
  "Norm of the gradient by layer, {state}: above with theta held fixed, below"
  " the part through the transformer. Layers that a part does not reach are"
  " left out. Lines are means over the seeds, bands their range."
)


def measure(
  run: Run, load: loading.Load, count: int, steps: Sequence[int]
) -> dict[str, Any]:
  """Gradient norms of a run's network after some steps, and trained.

  Args:
    run: Finished run.
    load: Loads the images, see `loading.once`.
    count: Number of training images, perturbed as in training.
    steps: Steps of training, counted from 0, which are trained again.

  Returns:
    "images", and "states": by state, "step N" or "trained", then by layer the
    fields of `gradients.GradientNorms`.

  Raises:
    RunError: If the checkpoint cannot be read.
  """
  setup, train, _ = load(run.settings)
  chosen = data.Examples(train.images[:count], train.labels[:count])
  keys = jax.random.split(jax.random.key(0), len(chosen.labels))
  perturb_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  clutter = train.images if setup.perturbation.needs_clutter else None
  states, images = {}, None
  for state, network, preparation in _networks(run, setup, train, steps):
    if images is None:
      prepare = jax.jit(functools.partial(preparation, train=True))
      images, _ = prepare(perturb_keys, chosen.images, clutter)
    found = gradients.gradient_norms(
      network, images, jnp.asarray(chosen.labels), dropout_keys
    )
    states[state] = gradients.to_json(found)
  return {"images": len(chosen.labels), "states": states}


def _networks(
  run: Run,
  setup: building.Setup,
  train: data.Examples,
  steps: Sequence[int],
) -> Iterator[tuple[str, placement.Network, Any]]:
  """The networks by name of the state, with their preparation."""
  built, fresh = building.build_trainer(
    [run.settings], setup, train.images, jax.local_devices()[:1]
  )
  begun = warm_start.start(
    trainer.select_seed(fresh, 0), run.settings, setup
  ).state
  states = trainer.stacked(begun)
  per_epoch = loops.steps_per_epoch(len(train.labels), run.settings.batch_size)
  total = per_epoch * run.settings.epochs
  if max(steps, default=0) > total:
    raise NotApplicable(
      f"step {max(steps)} is beyond the {total} steps of its training"
    )
  step = 0
  for wanted in sorted(set(steps)):
    while step < wanted:
      left = min(wanted - step, per_epoch - step % per_epoch)
      states = built.train(states, train, left)
      step += left
    network = built.spec.network(trainer.select_seed(states, 0))
    yield f"step {step}", network, built.spec.preparation
  yield TRAINED, *trained.network_of(run, setup, train.images)


def table(analysed: Analysed, group: Group, state: str) -> Table:
  """Norms by network and layer, means over the seeds.

  Args:
    analysed: The analysed runs.
    group: Runs that differ in network and seed alone.
    state: State of the networks.
  """
  rows = []
  for network, runs in group.members.items():
    for layer, seeds in _by_layer(analysed, runs, state).items():
      values = [
        np.mean([one[part] for one in seeds]) for part in ("total", *PARTS)
      ]
      values.append(np.mean([_relative(one) for one in seeds]))
      cells = [f"{x:.2g}" if np.isfinite(x) else "" for x in values]
      rows.append([network, layer_name(layer), *cells])
  heading = ["network", "layer", "gradient", *PARTS.values()]
  return Table([*heading, "gradient / parameters"], rows, 2)


def figure(analysed: Analysed, group: Group, state: str) -> Figure:
  """Norms against the layer, one line per network.

  Args:
    analysed: The analysed runs.
    group: Runs that differ in network and seed alone.
    state: State of the networks.
  """
  panels: dict[str, dict[str, dict[str, list[float]]]] = {
    title: {
      network: {
        layer_name(layer): [one[part] for one in seeds]
        for layer, seeds in _by_layer(analysed, runs, state).items()
      }
      for network, runs in group.members.items()
    }
    for part, title in PARTS.items()
  }
  layers = sorted(
    {
      layer
      for runs in group.members.values()
      for layer in _by_layer(analysed, runs, state)
    },
    key=gradients.layer_order,
  )
  return plots.values_by_layer(
    "gradient norm", panels, layers=[layer_name(layer) for layer in layers]
  )


def _by_layer(
  analysed: Analysed, runs: Sequence[Finished], state: str
) -> dict[str, list[Mapping[str, float]]]:
  """Norms of the seeds by layer."""
  found = [one["states"][state] for one in analysed.of(runs)]
  return {layer: [one[layer] for one in found] for layer in found[0]}


def _relative(norms: Mapping[str, float]) -> float:
  """Gradient over parameters; NaN for parameters that are all 0."""
  scale = norms["parameters"]
  return norms["total"] / scale if scale else np.nan


def layer_name(path: str) -> str:
  """A layer's path in words: "block 1 conv", "localisation 1 hidden 2"."""
  first, *rest = path.split(".")
  if first == "stages":
    return " ".join([f"block {int(rest[0]) + 1}", *map(_counted, rest[1:])])
  if first == "sites" and rest[1:2] == ["stages"]:
    inner = [f"copy of block {int(rest[2]) + 1}", *map(_counted, rest[3:])]
    return " ".join([f"depth {rest[0]}", *inner])
  if first == "sites":
    kept = [part for part in rest[1:] if part != "transformer"]
    return " ".join([f"depth {rest[0]}", *map(_counted, kept)])
  return " ".join([first, *map(_counted, rest)])


def _counted(part: str) -> str:
  """An index counted from 1; another part of a path as it is."""
  return str(int(part) + 1) if part.isdigit() else part
