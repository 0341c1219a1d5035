"""Committed tables are those of the committed measurements."""

import json
import pathlib

import pytest

from experiments.bench import (
  augmenting,
  gpu,
  parity,
  resizing,
  results,
  sampling,
  scaling,
  starting,
  tpu_steps,
  tpu_warps,
  training,
)
from experiments.lib import tables

FOLDER = pathlib.Path(__file__).parents[2] / "experiments" / "results"


def scaling_text(values):
  return tables.markdown(scaling.table(scaling.lines(values["rows"])))


def gpu_text(values):
  title = f"H100, jax {values['jax']}, float32"
  return results.sections({title: gpu.table(values["rows"])})


def tpu_text(values):
  target = f"{values['topology']}, jax {values['jax']}, float32"
  return results.sections(
    {
      f"Warps, one chip of {target}": tpu_warps.table(values["warps"]),
      f"Training steps, all chips of {target}": tpu_steps.table(
        values["steps"]
      ),
    }
  )


TEXTS = {
  "bench_sampling": lambda values: sampling.report(values["rows"]),
  "bench_augmentation": lambda values: tables.markdown(
    augmenting.table(values["rows"])
  ),
  "bench_resizing": lambda values: tables.markdown(
    resizing.table(values["rows"])
  ),
  "bench_start": lambda values: tables.markdown(
    starting.table(values["seconds"])
  ),
  "bench_scaling": scaling_text,
  "bench_training": lambda values: training.report(
    values["rows"], values["settings"]["epochs"]
  ),
  "bench_gpu_compile": gpu_text,
  "bench_parity": parity.report,
  "bench_tpu_compile": tpu_text,
}


def with_tuples(values):
  """The values of a JSON file, with shapes as they were measured."""
  for row in values.get("rows", []) + values.get("warps", []):
    if "shape" in row:
      row["shape"] = tuple(row["shape"])
  return values


@pytest.mark.parametrize("name", TEXTS)
def test_tables_follow_from_measurements(name):
  paths = list(FOLDER.rglob(f"{name}.json"))
  assert paths
  for path in paths:
    values = with_tuples(json.loads(path.read_text()))
    written = path.with_suffix(".md").read_text()
    assert written == TEXTS[name](values) + "\n", path


def test_several_seeds_have_a_column():
  def row(library, seeds, seconds):
    return {
      "network": "CNN",
      "parameters": 1234,
      "library": library,
      "seeds": seeds,
      "seconds": [seconds],
      "seconds_per_epoch": 10 * seconds,
    }

  rows = [row("stnjax", 1, 3.0), row("stnjax", 2, 4.0), row("torch", 1, 6.0)]
  heading, _, cells, *_, total = training.report(rows, 12).splitlines()
  assert heading.count("s/epoch") == 3
  assert "| stnjax, 2 seeds (s/epoch) |" in heading
  assert cells == "| CNN | 1,234 | 30 | 40 | 60 | 0.50 (0.50 to 0.50) |"
  assert "stnjax 6.0; stnjax, 2 seeds 8.0; torch 12.0" in total
