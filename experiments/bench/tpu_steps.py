"""Costs of training steps compiled for TPUs that are not there."""

import collections
from collections.abc import Sequence
import dataclasses
from typing import Any

from experiments.bench import compiled, tpu, training_stnjax
from experiments.bench.results import last_row
from experiments.lib import cli
from experiments.lib.tables import Table

STEPS = (
  "rotation:STN-SL1",
  "house_numbers:STN-SL3",
  "plankton:STN-SL4",
  "cifar:STN-SL2",
)


def parse(
  values: Sequence[str], batch_size: int
) -> dict[str, training_stnjax.Settings]:
  """Reads the values of --steps.

  Args:
    values: Steps, PRESET:NETWORK each.
    batch_size: Size of the global batch.

  Returns:
    Settings of each step.

  Raises:
    ValueError: If one is given twice, or there is no such network or preset.
  """
  if values:
    cli.each_once("steps", values)
  return {text: step_settings(text, batch_size) for text in values}


def step_settings(text: str, batch_size: int) -> training_stnjax.Settings:
  """The settings of a network of an experiment in full size.

  Args:
    text: Step, PRESET:NETWORK.
    batch_size: Size of the global batch.

  Raises:
    ValueError: If there is no such network or preset.
  """
  preset, _, network = text.partition(":")
  try:
    every = training_stnjax.preset_settings(preset)
  except ValueError:
    every = []
  for settings in every:
    if settings.network == network:
      return dataclasses.replace(settings, batch_size=batch_size)
  raise ValueError(
    f"--steps={text!r} is unknown; accepted: PRESET:NETWORK, see"
    " experiments.paper --list"
  )


def measure_all(
  compiler: tpu.Compiler, values: Sequence[str], batch_per_chip: int
) -> list[dict[str, Any]]:
  """Costs of every step; prints the row of each.

  Args:
    compiler: Compiler to use.
    values: Steps, PRESET:NETWORK each.
    batch_per_chip: Images on each chip.
  """
  rows: list[dict[str, Any]] = []
  batch_size = batch_per_chip * compiler.chips
  for text, settings in parse(values, batch_size).items():
    costs = compiler.step_costs(settings)
    chips = {"chips": compiler.chips, "batch_size": batch_size}
    rows.append({"step": text, **chips, **costs})
    print(last_row(table(rows)), flush=True)
  return rows


def table(rows: Sequence[dict[str, Any]]) -> Table:
  """A row for each training step."""

  def cells(row):
    kinds = collections.Counter(name for name, _ in row["collectives"])
    # Some versions of XLA report no cycles.
    total = max(1, sum(row["cycles"][work] for work in compiled.WORK))
    shares = [row["cycles"][k] / total for k in ("convolutions", "sampling")]
    return [
      *row["step"].split(":"),
      str(row["chips"]),
      str(row["batch_size"] // row["chips"]),
      f"{1e6 * row['seconds']:.0f}",
      str(row["unknown"]),
      f"{total / 1e3:.0f}",
      *(f"{share:.0%}" for share in shares),
      str(row["cycles"]["unknown"]),
      *tpu.amounts(row),
      ", ".join(f"{count} {name}" for name, count in kinds.items()),
      f"{sum(size for _, size in row['collectives']) / 1e6:.3f}",
    ]

  heading = [
    "experiment",
    "network",
    "chips",
    "images per chip",
    "estimate (us)",
    "operations without estimate",
    "thousand cycles",
    "in convolutions",
    "in sampling",
    "operations without cycles",
    *tpu.AMOUNTS,
    "collectives",
    "MB in collectives",
  ]
  return Table(heading, [cells(row) for row in rows], text_columns=2)
