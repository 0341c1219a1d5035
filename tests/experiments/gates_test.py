"""Gates on made-up runs, and the command on tiny ones."""

import dataclasses
import json

from etils import epath
import numpy as np
import pytest

from experiments.lib import jobs
from experiments.reporting import gates, groups, verdicts
from stnjax.files import Damaged
from stnjax.paper import claims
from stnjax.training.settings import Settings
from tests import scripts
from tests.experiments import made_up
from tests.experiments.made_up import run, seeds


@pytest.mark.parametrize(
  "whole, undone, passed",
  [
    ([30.0, 34.0], [4.0, 5.0], True),
    ([14.0, 13.0], [4.0, 5.0], False),  # little to gain
    ([40.0, 44.0], [9.0, 8.0], False),  # not easy at the true pose
  ],
)
def test_headroom(whole, undone, passed):
  gate = gates.headroom(seeds("CNN", whole), seeds("CNN", undone))
  assert gate.passed is passed
  gain = np.mean(whole) - np.mean(undone)
  assert f"a gain of {gain:.1f} points" in gate.measured


def with_metrics(network, early, late, epochs=20):
  """A run whose residual share changes after two epochs."""
  finished = run(network, 0, 5.0, late, epochs=epochs)
  lines = [
    {"alignment": {"rotation": 52 * (early if epoch <= 2 else late)}}
    for epoch in range(1, epochs + 1)
  ]
  return finished._replace(metrics=lines)


@pytest.mark.parametrize("early, passed", [(0.9, True), (0.99, False)])
def test_movement_after_a_tenth_of_the_training(early, passed):
  stuck = with_metrics("STN-C0", 1.0, 1.0)
  gate = gates.moved([stuck, with_metrics("STN-SL1", early, 0.1)])
  assert gate.passed is passed
  assert f"STN-SL1 {early:.2f}" in gate.measured


def test_seeds_that_a_sweep_needs():
  """Differences of -1 and -2: an effect of 2.1 standard deviations."""
  runs = seeds("STN-C0", [9.0, 9.0]) + seeds("STN-SL1", [8.0, 7.0])
  gate = gates.power(runs)
  assert gate.passed is None
  assert "STN-SL1 -1.5 points, about 5 seeds" in gate.measured
  assert "too few pilots" in gates.power(runs[::2]).measured


def test_failed_gates_do_not_count_for_depth(tmp_path):
  low, high = [4.0, 4.1, 4.2], [8.0, 8.2, 7.9]
  runs = seeds("STN-C0", high) + seeds("STN-SL1", low)
  (group,) = made_up.grouped(*runs)
  for outcome, verdict in ((None, "holds"), (True, "holds"), (False, "open")):
    judged = claims.judge([dataclasses.replace(group, gates=outcome)])
    by_name = {item.claim.name: item for item in judged}
    assert by_name["deeper_helps"].verdict == verdict


def test_outcomes_are_read_from_folders(tmp_path):
  root = epath.Path(tmp_path)
  assert gates.outcomes(root) == []
  (root / "rings").mkdir()
  settings = Settings(network="CNN", epochs=7)
  values = {"settings": dataclasses.asdict(settings), "passed": True}
  (root / "rings" / "gates.json").write_text(json.dumps(values))
  assert gates.outcomes(root) == [(settings, True)]
  (root / "gates.json").write_text(json.dumps({**values, "passed": False}))
  with pytest.raises(Damaged, match="disagree on the gates of one task"):
    gates.outcomes(root)
  (root / "gates.json").write_text("{}")
  with pytest.raises(Damaged, match="gates.json is damaged"):
    gates.outcomes(root)


def test_gates_are_of_one_way_to_train():
  """Gates measured with some settings do not count for others."""
  runs = seeds("STN-C0", [9.0] * 3) + seeds("STN-C0", [9.0] * 3, epochs=7)
  task = Settings(network="CNN", epochs=7)
  found = verdicts.results_of(groups.group(runs), [(task, False)])
  assert [group.gates for group in found] == [None, False]


def test_only_the_seeds_of_a_job_count():
  runs = seeds("CNN", [30.0, 31.0, 32.0])
  job = jobs.Job(Settings(network="CNN", seed=1), (1, 2))
  assert [run.settings.seed for run in gates.members(runs, job)] == [1, 2]


def test_a_pilot_that_diverged_does_not_hide_another():
  lost = with_metrics("STN-C0", np.nan, np.nan)
  assert gates.moved([lost, with_metrics("STN-SL1", 0.5, 0.1)]).passed
  assert gates.moved([lost]).passed is False


@pytest.mark.slow
def test_a_perturbation_that_cannot_be_undone(tmp_path):
  process = scripts.run("gates", f"--workdir={tmp_path}", "--perturbation=none")
  assert process.returncode
  assert "none_undone" in process.stderr


@pytest.mark.slow
def test_the_command(tmp_path):
  options = [
    f"--workdir={tmp_path}",
    "--perturbation=rotation",
    "--family=rotation",
    "--epochs=1",
    "--width=0.05",
    "--eval_passes=2",
    "--pilots=STN-C0 STN-SL1",
    "--images=40",
    "--batch_size=500",
  ]
  process = scripts.run("gates", *options)
  values = json.loads((tmp_path / "gates.json").read_text())
  assert values["settings"]["perturbation"] == "rotation"
  assert values["seeds"] == [0, 1]
  assert values["passed"] is False  # after one epoch
  assert len(values["gates"]) == 4
  text = (tmp_path / "gates.md").read_text()
  for gate in values["gates"]:
    assert gate["question"] in text
    assert gate["question"] in process.stdout
  again = scripts.run("gates", *options)  # trains nothing
  assert "epoch 1/1" not in again.stdout
