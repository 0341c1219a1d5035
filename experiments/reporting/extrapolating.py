"""Error and residual of finished networks by the amount of a transform."""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
import numpy as np

from experiments.lib import loading
from experiments.lib.tables import Table
from experiments.reporting import transformed
from experiments.reporting.analysing import Analysed
from experiments.reporting.groups import Group
from stnjax import consistency, data, evaluation, placement, plots
from stnjax.training import building
from stnjax.training.run_folder import Run

NAME = "extrapolation"
TITLE = "Extrapolation beyond the training range"
_DRAWS = 2000  # of the perturbation, to find its range
_STEPS = {"rotation": 15.0, "scale": 0.5}
_RANGES = {"rotation": (-180.0, 180.0), "scale": (-2.0, 2.5)}


@dataclasses.dataclass(frozen=True)
class Amounts:
  """Motions of the objects.

  Attributes:
    family: Name of a family in `consistency.COORDINATES`.
    values: `[V]`, degrees clockwise on the screen, or octaves of their size.
  """

  family: str
  values: np.ndarray

  @property
  def unit(self) -> str:
    """Unit of the values."""
    return consistency.COORDINATES[self.family].unit


def amounts(
  family: str,
  low: float | None = None,
  high: float | None = None,
  step: float | None = None,
) -> Amounts:
  """Amounts at equal distances, both ends included.

  Args:
    family: "rotation" or "scale".
    low: Lowest amount; -180 deg or -2 octaves by default.
    high: Highest amount; 180 deg or 2.5 octaves by default.
    step: Distance of two amounts; 15 deg or 0.5 octaves by default.

  Raises:
    ValueError: For another family, an empty range, or a step that is not above
      0, or of more than 1,000 amounts.
  """
  if family not in _RANGES:
    raise ValueError(
      f"family={family!r} has no amounts; accepted: {', '.join(_RANGES)}"
    )
  least, most = _RANGES[family]
  low, high = least if low is None else low, most if high is None else high
  step = _STEPS[family] if step is None else step
  if not -np.inf < low < high < np.inf:
    raise ValueError(
      f"low must be less than high, and both finite, got {low} and {high}"
    )
  if not (high - low) / 1000 < step < np.inf:
    raise ValueError(
      f"step must be above 0 and give at most 1,000 amounts, got {step}"
    )
  count = int(np.floor((high - low) / step + 1e-9))
  return Amounts(family, low + step * np.arange(count + 1))


def measure(
  run: Run, load: loading.Load, wanted: Amounts, count: int | None = None
) -> dict[str, Any]:
  """Error and residual by amount.

  Images are transformed with zeros outside, without the run's perturbation;
  where that enlarges images, they are padded about the centre first.

  Args:
    run: Finished run.
    load: Loads the images, see `loading.once`.
    wanted: What is done to the images.
    count: Number of test images, the first ones; all by default.

  Returns:
    "family", "unit", "amounts" and "images" as given; "trained", the lowest and
    highest amount of the run's perturbation, None where it has none; "error",
    the error by amount; "residual", the root mean square of the residual about
    the mean of the class within the training range, by amount, None for a
    network without a transformer or without such a range.

  Raises:
    RunError: If the checkpoint cannot be read.
  """
  loaded = setup, train, _ = load(run.settings)
  # Transforms of coordinates are the inverse of those of objects.
  applied = consistency.matrices(wanted.family, -wanted.values)
  test, found = transformed.of_run(run, loaded, applied, count)
  axes = [
    axis
    for axis in setup.perturbation.axes
    if axis.name.split("_")[0] == wanted.family
  ]
  values = {
    "family": wanted.family,
    "unit": wanted.unit,
    "amounts": wanted.values.tolist(),
    "images": len(test.images),
    "trained": None,
    "error": [
      evaluation.error_rate(found.label[:, i], test.labels)
      for i in range(len(wanted.values))
    ],
    "residual": None,
  }
  if axes:
    trained_range = _range(setup, axes[0], train.images)
    values["trained"] = list(trained_range)
    if placement.parse(run.settings.network).depths:
      shape = test.images.shape[1:]
      values["residual"] = _residuals(
        axes, wanted.values, found.pose, shape, test.labels, trained_range
      )
  return values


def _range(
  setup: building.Setup, axis: data.Axis, clutter_images: np.ndarray
) -> tuple[float, float]:
  """Lowest and highest amount that a perturbation draws."""
  keys = jax.random.split(jax.random.key(0), _DRAWS)

  @jax.jit
  def truth(keys: jax.Array, clutter: jax.Array) -> data.Truth:
    blank = jnp.zeros((_DRAWS, *setup.dataset.image_shape))
    return data.perturb(keys, blank, setup.perturbation, clutter)[1]

  drawn = axis.true(jax.device_get(truth(keys, clutter_images[:1])))
  return float(drawn.min()), float(drawn.max())


def _residuals(
  axes: Sequence[data.Axis],
  values: np.ndarray,
  poses: np.ndarray,
  shape: Sequence[int],
  labels: np.ndarray,
  trained_range: tuple[float, float],
) -> list[float] | None:
  """Root mean squares over images and axes, by amount."""
  low, high = trained_range
  slack = 0.01 * (high - low)  # the ends are never drawn
  within = (low - slack <= values) & (values <= high + slack)
  if not within.any():
    return None
  true = np.broadcast_to(values[:, None], (len(values), len(labels)))
  squares = []
  for axis in axes:
    flat = poses.reshape(-1, *poses.shape[2:])
    predicted = axis.predicted(flat, shape).reshape(len(labels), len(values)).T
    left = evaluation.residual(axis, true, predicted, labels, within)
    squares.append((left**2).mean(axis=1))
  return np.sqrt(np.mean(squares, axis=0)).tolist()


def explanation(wanted: Amounts) -> str:
  """The caption of the tables of `tables`."""
  done = {"rotation": "turned clockwise", "scale": "scaled"}[wanted.family]
  return (
    f"Test images, all {done} by the same amount ({wanted.unit}), without"
    " clutter. Residual: root mean square of the amount plus that of the"
    " transformer, about the mean of the class over amounts within the training"
    " range, marked (trained). Mean ± standard deviation over the seeds."
  )


CAPTION = (
  "Error and residual against the amount of a {family} of the test images."
  " Lines are means over the seeds, bands their range; shaded: the range of the"
  " training images. A network that generalises stays level outside of it."
)


def tables(analysed: Analysed, group: Group) -> dict[str, Table]:
  """Error and, where it is measured, residual by amount and network.

  Args:
    analysed: The analysed runs.
    group: Runs that differ in network and seed alone.
  """
  first = analysed.of(group.runs)[0]
  low, high = first["trained"] or (np.nan, np.nan)
  slack = 0.01 * (high - low)
  names = [
    f"{amount:g}" + " (trained)" * (low - slack <= amount <= high + slack)
    for amount in first["amounts"]
  ]
  found = {}
  for label, by_network in _panels(analysed, group).items():
    heading = [f"{first['family']} ({first['unit']})", *by_network]
    rows = [
      [name, *(_cell(seeds[:, i]) for seeds in by_network.values())]
      for i, name in enumerate(names)
    ]
    found[label] = Table(heading, rows)
  return found


def figure(analysed: Analysed, group: Group) -> Figure:
  """The figure of a group, see `plots.values_by_amount`."""
  first = analysed.of(group.runs)[0]
  return plots.values_by_amount(
    first["amounts"],
    _panels(analysed, group),
    label=f"{first['family']} ({first['unit']})",
    trained=first["trained"],
  )


def _panels(
  analysed: Analysed, group: Group
) -> Mapping[str, Mapping[str, np.ndarray]]:
  """Values `[S, V]` of the seeds by quantity and network."""
  of = {name: analysed.of(runs) for name, runs in group.members.items()}
  unit = analysed.of(group.runs)[0]["unit"]
  panels = {
    "error (%)": {
      name: 100 * np.array([one["error"] for one in found])
      for name, found in of.items()
    },
    f"residual ({unit})": {
      name: np.array([one["residual"] for one in found])
      for name, found in of.items()
      if all(one["residual"] for one in found)
    },
  }
  return {label: values for label, values in panels.items() if values}


def _cell(values: np.ndarray) -> str:
  """Mean ± standard deviation."""
  if len(values) == 1:
    return f"{values[0]:.1f}"
  return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
