"""What finished runs leave: it comes back, and what does not fit is named.

Damage to each file, as scripts meet it, is in tests/experiments/finished_test.
"""

import json
import math

from etils import epath
import numpy as np
import pytest

from stnjax.files import Damaged
from stnjax.training import records
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import toy_sets

SETTINGS = Settings(network="STN-SL1", epochs=3, eval_passes=2)


@pytest.fixture
def folder(tmp_path):
  run = Run(str(tmp_path), SETTINGS)
  toy_sets.finish(run, error=0.125)
  return run.path


def change_arrays(folder, **changes):
  """Replaces arrays of evaluation.npz, of a run without checksums."""
  with np.load(folder / "evaluation.npz") as kept:
    arrays = {**{name: kept[name] for name in kept}, **changes}
  results = json.loads((folder / "results.json").read_text())
  arrays = {name: x for name, x in arrays.items() if x is not None}
  records.finish(folder, arrays, results)


def test_a_finished_run_comes_back(folder):
  found = records.read(folder)
  assert found.config.settings == SETTINGS
  assert found.config.task == toy_sets.task_of(SETTINGS)
  assert found.results["error"] == 0.125
  assert [line["epoch"] for line in found.metrics] == [1, 2, 3]
  assert set(found.evaluation) == {
    "label", "predicted", "pose", "before", "after",
    "true_rotation", "predicted_rotation",
  }  # fmt: skip
  assert found.evaluation["true_rotation"].shape == (2, 1000)


def test_every_file_has_a_checksum(folder):
  names = {
    line.split()[1] for line in (folder / "DONE").read_text().splitlines()
  }
  assert names == {
    "config.json", "metrics.jsonl", "evaluation.npz", "results.json",
  }  # fmt: skip


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"true_rotation": None}, "it has no true_rotation"),
    ({"predicted_rotation": None}, "it has no predicted_rotation"),
    ({"true_rotation": np.zeros((1, 1000))}, "true_rotation is float64"),
    ({"true_rotation": np.full((2, 1000), np.nan)}, "is not finite"),
    ({"label": np.full(1000, 10)}, "classes that the set has not"),
    ({"label": np.zeros((1000, 2), int)}, "label is int64"),
    ({"pose": np.zeros((2, 1000, 2, 2))}, "pose is float64"),
    ({"before": np.zeros((4, 10, 60, 60, 1), np.uint8)}, "before has shape"),
    ({"predicted": np.zeros((2, 1000), int)}, "error is not that of"),
  ],
)
def test_arrays_that_do_not_fit_the_task_are_named(changes, message, folder):
  change_arrays(folder, **changes)
  with pytest.raises(Damaged, match=message) as caught:
    records.read(folder)
  assert f"delete {folder / 'DONE'} and train again" in str(caught.value)


def test_a_pose_that_cannot_be_inverted_has_no_position(folder):
  change_arrays(folder, predicted_rotation=np.full((2, 1000), np.nan))
  found = records.read(folder).evaluation["predicted_rotation"]
  assert np.isnan(found).all()


def test_results_that_older_runs_lack_come_back_and_are_checked(folder):
  assert math.isnan(records.read(folder).results.get("same_answer", math.nan))
  results = json.loads((folder / "results.json").read_text())
  with np.load(folder / "evaluation.npz") as kept:
    arrays = {name: kept[name] for name in kept}
  arrays["first_pose"] = arrays["pose"]
  pooled = {"unit": "px", "std": 1.0, "none": 9.0, "slope": None}
  newer = {
    **results,
    "same_answer": 1.0,
    "authors": {"translation": {**pooled, "intercept": 0.5}},
  }
  newer["alignment"]["rotation"] |= {"by_image": 3.0, "none_by_image": None}
  records.finish(folder, arrays, newer)
  found = records.read(folder)
  assert found.results["authors"]["translation"]["std"] == 1
  assert found.results["alignment"]["rotation"]["by_image"] == 3
  assert found.evaluation["first_pose"].shape == (2, 1000, 2, 3)
  for changes, message in (
    ({"same_answer": "all"}, "same_answer is 'all'"),
    ({"same_answer": 1.5}, "same_answer is 1.5"),
    ({"same_answer": 0.5}, "same_answer is not that of evaluation.npz"),
    ({"authors": [1]}, r"authors is \[1\]"),
    ({"authors": {"area": pooled}}, "authors' area is"),
  ):
    records.finish(folder, arrays, {**newer, **changes})
    with pytest.raises(Damaged, match=message):
      records.read(folder)
  records.finish(folder, {**arrays, "first_pose": np.zeros(3)}, newer)
  with pytest.raises(Damaged, match="first_pose is float64"):
    records.read(folder)


def test_null_is_not_known(folder):
  path = folder / "results.json"
  values = json.loads(path.read_text())
  values["alignment"]["rotation"]["slope"] = None
  found = records.check_results(path, values, ["rotation"])
  assert math.isnan(found["alignment"]["rotation"]["slope"])
  with pytest.raises(Damaged, match="alignment is"):
    records.check_results(path, values, ["scale_x"])


@pytest.mark.parametrize(
  "text, message",
  [
    ('{"step": 4}\n{"step": 4}\n', "steps do not rise"),
    ('{"step": 4}\n{"epoch": 2}\n', "steps do not rise"),
    ("[1]\n", "not a JSON object"),
    ("{\n", "cannot read"),
  ],
)
def test_metrics_that_do_not_follow_are_named(text, message, tmp_path):
  (tmp_path / "metrics.jsonl").write_text(text)
  with pytest.raises(Damaged, match=message):
    records.read_metrics(tmp_path)


def test_metrics_cut_off_by_a_kill_lose_their_last_line_alone(tmp_path):
  assert records.read_metrics(tmp_path) == []
  (tmp_path / "metrics.jsonl").write_text('{"step": 4, "a": null}\n{"ste')
  (line,) = records.read_metrics(epath.Path(tmp_path))
  assert line["step"] == 4 and math.isnan(line["a"])


def test_epochs_must_all_be_there(folder):
  lines = records.read_metrics(folder)
  records.check_epochs(folder, lines, 3, ["rotation"])
  for damaged, axes, message in (
    (lines[:2], ["rotation"], "2 of 3 epochs"),
    ([lines[0], lines[2], lines[1]], ["rotation"], "epoch 2 is missing"),
    ([*lines[:2], {**lines[2], "error": None}], ["rotation"], "lacks numbers"),
    (lines, ["scale_x"], "alignment of epoch 1"),
  ):
    with pytest.raises(Damaged, match=message):
      records.check_epochs(folder, damaged, 3, axes)
