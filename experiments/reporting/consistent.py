"""Consistency of finished networks under known transforms of test images."""

import dataclasses
from typing import Any

import numpy as np

from experiments.lib import loading
from experiments.lib.tables import Table
from experiments.reporting import transformed
from experiments.reporting.analysing import Analysed, NotApplicable
from experiments.reporting.groups import Group
from experiments.reporting.metrics import spread
from stnjax import consistency, placement
from stnjax.training.run_folder import Run


@dataclasses.dataclass(frozen=True)
class Versions:
  """The versions of each test image, and how their poses are compared.

  Attributes:
    family: Name of a family in `consistency.COORDINATES`.
    values: `[V]`, transforms of the images, in the unit of the family.
    period: Period of the distance between poses; None for none.
  """

  family: str
  values: np.ndarray
  period: float | None

  @property
  def unit(self) -> str:
    """Unit of the values."""
    return consistency.COORDINATES[self.family].unit

  @property
  def identity(self) -> float:
    """The statistic of a transformer that is the identity."""
    return float(consistency.spread(self.values, self.period))


def measure(
  run: Run, load: loading.Load, versions: Versions, count: int | None = None
) -> dict[str, Any]:
  """Mean over test images of the spread of the transformer's residuals.

  Images are transformed with zeros outside, without the run's perturbation;
  where that enlarges images, they are padded about the centre first.

  Args:
    run: Finished run.
    load: Loads the images, see `loading.once`.
    versions: Versions of each image.
    count: Number of test images, the first ones; all by default.

  Returns:
    "family", "values", "period", "unit" and "images" as given; "mean", the mean
    of `consistency.spread` over the images, and "std", its standard deviation;
    "identity", that of an identity transformer.

  Raises:
    NotApplicable: For a network without a transformer.
    RunError: If the checkpoint cannot be read.
  """
  if not placement.parse(run.settings.network).depths:
    raise NotApplicable(f"{run.settings.network} has no transformer")
  applied = consistency.matrices(versions.family, versions.values)
  loaded = load(run.settings)
  test, found = transformed.of_run(run, loaded, applied, count)
  left = consistency.residuals(versions.family, applied, found.pose)
  spreads = consistency.spread(left, versions.period)
  return {
    "family": versions.family,
    "unit": versions.unit,
    "values": versions.values.tolist(),
    "period": versions.period,
    "images": len(test.images),
    "mean": float(spreads.mean()),
    "std": float(spreads.std()),
    "identity": versions.identity,
  }


def explanation(versions: Versions) -> str:
  """The caption of the table of `table`."""
  modulo = f", modulo {versions.period:g}" if versions.period else ""
  low, high = versions.values[[0, -1]]
  return (
    f"{len(versions.values)} versions of each test image, family"
    f" {versions.family}, from {low:g} to {high:g} {versions.unit}: smallest"
    " mean distance of one version from the others after the transformer"
    f"{modulo}, averaged over the images. 0 is perfect; a transformer that is"
    f" the identity has {versions.identity:.3g} {versions.unit}. Mean ±"
    " standard deviation over the seeds, and their range."
  )


def table(analysed: Analysed, group: Group) -> Table:
  """The statistic of each network.

  Args:
    analysed: The analysed runs.
    group: Runs that differ in network and seed alone.
  """
  rows = []
  for network, runs in group.members.items():
    found = analysed.of(runs)
    errors = [100 * run.results["error"] for run in runs]
    means = [one["mean"] for one in found]
    rows.append([network, spread(means, 2), spread(errors, 2)])
  unit = analysed.of(group.runs)[0]["unit"]
  return Table(["network", f"distance ({unit})", "error (%)"], rows)
