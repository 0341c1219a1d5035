"""Metrics in reports: new runs, runs of older versions, and class figures."""

import dataclasses

import numpy as np
import pytest

from experiments.reporting import finished, groups, metrics, page, report
from stnjax.training import description
from stnjax.training.run_folder import Run
from tests import toy_sets

TOY = dataclasses.replace(toy_sets.SETTINGS, network="STN-C0", eval_passes=2)
MEASURED = {
  "std": 20.0,
  "none": 52.0,
  "slope": -0.9,
  "by_class": [20.0] * 10,
}
POOLED = {"unit": "deg", "std": 21.5, "none": 52.3, "slope": -0.75}


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
  """Pictures are not drawn, which takes most of the time."""
  monkeypatch.setattr(page, "png", lambda figure: b"a picture")


def finish(workdir, network, newer, seed=0, **settings):
  """Has a run finished, as this version or an older one would."""
  found, results = {**MEASURED}, {}
  if newer:
    found |= {"by_image": 15.5, "none_by_image": 51.9}
    results = {
      "same_answer": 1.0,
      "authors": {"rotation": {**POOLED, "intercept": 1.25}},
    }
  settings = dataclasses.replace(TOY, network=network, seed=seed, **settings)
  toy_sets.finish(
    Run(str(workdir), settings), alignment={"rotation": found}, **results
  )


def table(workdir):
  (group,) = groups.group(finished.read(workdir)[0])
  made = metrics.results(group)
  rows = {row[0]: dict(zip(made.heading, row)) for row in made.rows}
  return rows, " ".join(metrics.explanations(group)), group


def test_invariance_and_both_residuals_are_in_the_main_table(tmp_path):
  finish(tmp_path, "STN-C0", newer=True)
  rows, told, _ = table(tmp_path)
  row = rows["STN-C0"]
  assert row["same answer (%)"] == "100.00"
  assert row["rotation residual by class (deg)"] == "20.00"
  assert row["rotation residual by image (deg)"] == "15.50"
  assert "52 deg" in told and "51.9 deg" in told and "all 2 passes" in told


def test_older_runs_are_reported_beside_newer_ones(tmp_path):
  finish(tmp_path, "STN-C0", newer=True)
  finish(tmp_path, "STN-C0", newer=False, seed=1)
  finish(tmp_path, "STN-SL1", newer=False)
  rows, _, group = table(tmp_path)
  for row in rows.values():
    assert row["same answer (%)"] == "–"
    assert row["rotation residual by image (deg)"] == "–"
    assert row["rotation residual by class (deg)"].startswith("20.00")
  assert not [*metrics.authors(group)]
  report.write(str(tmp_path))
  assert "STN-SL1" in (tmp_path / "report" / "report.md").read_text()


def test_the_authors_statistics_have_a_table_of_their_own(tmp_path):
  finish(tmp_path, "STN-C0", newer=True)
  finish(tmp_path, "STN-SL1", newer=False)
  _, _, group = table(tmp_path)
  text, made = metrics.authors(group)
  assert "52.3 deg" in text
  assert made.heading == [
    "network",
    "rotation spread (deg)",
    "rotation slope",
    "rotation intercept (deg)",
  ]
  assert made.rows == [["STN-C0", "21.50", "-0.75", "1.25"]]


def test_one_pass_has_no_columns_of_several(tmp_path):
  finish(tmp_path, "STN-C0", newer=False, eval_passes=1)
  rows, told, _ = table(tmp_path)
  assert not {"same answer (%)", "rotation residual by image (deg)"} & {
    *rows["STN-C0"]
  }
  assert "Same answer" not in told


@pytest.mark.parametrize(
  "classes, heads, confusion", [(10, 1, True), (21, 1, False), (11, 5, True)]
)
def test_confusions_are_drawn_of_few_classes(
  classes, heads, confusion, tmp_path
):
  axes = {}
  task = description.TaskDescription((8, 8, 1), classes, heads, (), axes, "t")
  run = Run(str(tmp_path), dataclasses.replace(TOY, network="CNN"))
  toy_sets.finish(run, task=task)
  report.write(str(tmp_path))
  assert (tmp_path / "report" / "confusion_1.png").exists() == confusion
  assert not (tmp_path / "report" / "class_sizes_1.png").exists()


def test_accuracies_are_drawn_of_classes_that_differ_in_size(
  tmp_path, monkeypatch
):
  run = Run(str(tmp_path), dataclasses.replace(TOY, network="CNN"))
  make = toy_sets._evaluation

  def uneven(*arguments):
    arrays = make(*arguments)
    moved = arrays["label"] == 3  # all but one become class 4
    for name in ("label", "predicted"):
      arrays[name] = np.where(moved, 4, arrays[name])
    arrays["label"][np.flatnonzero(moved)[0]] = 3
    return arrays

  monkeypatch.setattr(toy_sets, "_evaluation", uneven)
  toy_sets.finish(run)
  kept = run.path / "results.json"
  with np.load(run.path / "evaluation.npz") as arrays:
    error = float(np.mean(arrays["predicted"] != arrays["label"]))
  kept.write_text(kept.read_text().replace("0.25,", f"{error},", 1))
  (run.path / "DONE").write_text("")
  report.write(str(tmp_path))
  text = (tmp_path / "report" / "report.md").read_text()
  assert "class_sizes_1.png" in text and "confusion_1.png" in text
