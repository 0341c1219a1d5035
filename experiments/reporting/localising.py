"""Accuracy of the pose read from each layer of finished networks."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Any

import jax
import numpy as np

from experiments.lib import loading
from experiments.lib.tables import Table
from experiments.reporting import names
from experiments.reporting.analysing import NotApplicable
from experiments.reporting.figures import Captioned
from experiments.reporting.groups import Group
from experiments.reporting.metrics import spread
from stnjax import alignability, plots
from stnjax.training import trained
from stnjax.training.run_folder import Run

NAME = "localisability"
TITLE = "Poses read from each layer"
STATES = ("trained", "untrained")
EXPLANATION = (
  "How well the true pose of perturbed test images is read from the features of"
  " each layer, by ridge regression and by a dense net with two layers of 32"
  " hidden units, which reads all axes at once; five-fold cross-validation. R²:"
  " 1 is perfect, 0 as good as the mean pose. In brackets the root mean square"
  " error. Means over the seeds."
)
_CAPTION = (
  "R² of the {axis} read from each layer, {reader}. Lines are means over the"
  " seeds, bands their range. A transformer can only use a pose that its"
  " localisation net can read from the layer that it looks at."
)


def measure(
  run: Run, load: loading.Load, count: int, reading: Sequence[str]
) -> dict[str, Any]:
  """Reads the poses of a run's test images from its layers.

  Args:
    run: Finished run.
    load: Loads the images, see `loading.once`.
    count: Number of test images, each perturbed once; all if there are fewer.
    reading: Readers, of `alignability.READERS`.

  Returns:
    "images"; "units" by axis; and "states": for each of `STATES`, then reader,
    axis and layer, the fields of `alignability.Readout`.

  Raises:
    NotApplicable: If the truth of the perturbation is not known.
    RunError: If the checkpoint cannot be read.
  """
  setup, train, evaluation = load(run.settings)
  perturbation, count = setup.perturbation, min(count, len(evaluation.labels))
  if not perturbation.axes:
    raise NotApplicable(f"the pose under {perturbation.name} is not known")
  clutter = train.images if perturbation.needs_clutter else None
  keys = jax.random.split(jax.random.key(0), count)
  states: dict[str, Any] = {}
  for state in STATES:
    network, preparation = trained.network_of(
      run, setup, train.images, trained=state == "trained"
    )
    images, truth = jax.jit(preparation)(
      keys, evaluation.images[:count], clutter
    )
    truth = jax.device_get(truth)
    found = alignability.read_poses(
      network.features,
      images,
      {axis.name: np.asarray(axis.true(truth)) for axis in perturbation.axes},
      periods={axis.name: axis.period for axis in perturbation.axes},
      reading=reading,
    )
    states[state] = {
      reader: {
        axis: {layer: readout._asdict() for layer, readout in layers.items()}
        for axis, layers in by_axis.items()
      }
      for reader, by_axis in found.readouts.items()
    }
  units = {axis.name: axis.unit for axis in perturbation.axes}
  return {"images": count, "units": units, "states": states}


@dataclasses.dataclass(frozen=True)
class Readouts:
  """Readouts of the runs of a network.

  Attributes:
    values: Measurements of each run, see `measure`.
  """

  values: Sequence[Mapping[str, Any]]

  @property
  def units(self) -> Mapping[str, str]:
    """Units of the axes, by name."""
    return self.values[0]["units"]

  @property
  def readers(self) -> list[str]:
    """Readers."""
    return list(self.values[0]["states"][STATES[0]])

  def by_layer(
    self, state: str, reader: str, axis: str, field: str = "r2"
  ) -> dict[str, list[float]]:
    """A field of the readouts by layer, one value per run."""
    found = [value["states"][state][reader][axis] for value in self.values]
    return {layer: [f[layer][field] for f in found] for layer in found[0]}


def kept(group: Group) -> dict[str, Readouts]:
  """Readouts of a group by network; of those networks that were analysed."""
  found = {
    network: Readouts([run.readouts for run in runs if run.readouts])
    for network, runs in group.members.items()
  }
  return {network: read for network, read in found.items() if read.values}


def table(readouts: Mapping[str, Readouts]) -> Table:
  """R² and error by network, state and layer.

  Args:
    readouts: Readouts by network.
  """
  columns = _columns(readouts)
  units = next(iter(readouts.values())).units
  rows = []
  for network, found in readouts.items():
    for state in STATES:
      cells = {column: _cells(found, state, *column) for column in columns}
      for layer in cells[columns[0]]:
        rows.append(
          [network, f"{layer}, {state}", *(cells[c][layer] for c in columns)]
        )
  heading = [
    f"{names.in_words(axis)}, {reader}: R² (error in {units[axis]})"
    for axis, reader in columns
  ]
  return Table(["network", "layer", *heading], rows, 2)


def _cells(
  found: Readouts, state: str, axis: str, reader: str
) -> dict[str, str]:
  r2 = found.by_layer(state, reader, axis)
  error = found.by_layer(state, reader, axis, "error")
  return {
    layer: f"{spread([np.mean(r2[layer])], 2)} ({np.mean(error[layer]):.2g})"
    for layer in r2
  }


def figures(readouts: Mapping[str, Readouts]) -> Iterator[Captioned]:
  """R² against the layer: a line for each network, a panel for each state.

  Args:
    readouts: Readouts by network.

  Yields:
    A figure for each axis and reader.
  """
  for axis, reader in _columns(readouts):
    panels = {
      state: {
        network: found.by_layer(state, reader, axis)
        for network, found in readouts.items()
      }
      for state in STATES
    }
    yield Captioned(
      f"{NAME}_{axis}_{reader}",
      _CAPTION.format(axis=names.in_words(axis), reader=reader),
      plots.values_by_layer("R²", panels, logarithmic=False),
    )


def _columns(readouts: Mapping[str, Readouts]) -> list[tuple[str, str]]:
  """Axes and readers that all runs have."""
  found = [
    {(axis, reader) for axis in one["units"] for reader in one["states"][state]}
    for network in readouts.values()
    for one in network.values
    for state in STATES
  ]
  first = next(iter(readouts.values()))
  columns = [(axis, reader) for axis in first.units for reader in first.readers]
  return [column for column in columns if column in set.intersection(*found)]
