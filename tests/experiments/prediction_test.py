"""Whether audits predict: what is compared, and how it is ranked."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from experiments import claims, prediction, report
from stnjax.training import runs
from tests import scripts


def finished(network, seed, error, left=None, undone=None, **settings):
  results = {
    "error": error,
    "hardware": "",
    "parameters": {"total": 1, "localisation": 0},
    "seconds": 2.0,
    "seconds_per_epoch": 1.0,
    "peak_memory_mb": 9,
  }
  if left is not None:
    unknown = {"slope": None, "by_class": [None]}
    measured = {"std": 52 * left, "none": 52.0, **unknown}
    results["alignment"] = {"rotation": measured}
  if undone is not None:
    results["undone"] = undone
  settings = {"family": "rotation", **settings}
  return report.Finished(
    runs.Settings(network=network, seed=seed, **settings), results, [], None
  )


ROTATION = [
  finished(
    "CNN", 0, 0.2, undone={"rotation": [0.9, 0.3, 0.1], "shear": [1] * 3}
  ),
  finished(
    "CNN", 1, 0.4, undone={"rotation": [0.7, 0.3, 0.1], "shear": [1] * 3}
  ),
  finished("CNN", 2, 0.3),  # not audited
  finished("STN-C0", 0, 0.06, 0.4),
  finished("STN-C0", 1, 0.12, 0.6),
  finished("STN-C1", 0, 0.24, 0.7),
  finished("STN-C2", 0, 0.27, 0.9),
  finished("STN-C1x2", 0, 0.1, 0.1),
  finished("STN-SL1", 0, 0.1, 0.1),
]
HOUSES = {"dataset": "street_numbers", "perturbation": "none"}
NUMBERS = [
  finished(
    "CNN",
    0,
    0.5,
    undone={"rotation": [0.8, 0.4], "shear": [0.6, 0.2]},
    **HOUSES,
  ),
  finished("STN-C1", 0, 0.6, **HOUSES),
]


def groups(*finished):
  return [claims.Group(*group) for group in report.groups(finished)]


def test_points_are_networks_that_warp_features_beside_an_audited_cnn():
  found = list(prediction.points(groups(*ROTATION, *NUMBERS)))
  assert [point.network for point in found] == [
    "STN-C0", "STN-C1", "STN-C2", "STN-C1",
  ]  # fmt: skip
  first, second, *_, numbers = found
  assert first.undone == pytest.approx(0.8)
  assert first.error == pytest.approx(0.09 / 0.3)
  assert first.left == pytest.approx(0.5)
  assert (first.seeds, second.seeds) == (2, 1)
  assert numbers.undone == pytest.approx(0.3)  # of all families
  assert numbers.error == pytest.approx(1.2)
  assert np.isnan(numbers.left)


def test_the_rank_correlation_is_that_of_scipy():
  rng = np.random.default_rng(0)
  x = rng.permutation(30) / 30
  y = -x + 0.3 * rng.normal(size=30)
  points = [
    prediction.Point(f"{i % 3}", "STN-C1", a, b, np.nan, 1)
    for i, (a, b) in enumerate(zip(x, y, strict=True))
  ]
  found = prediction.correlate(points, "error")
  assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
  assert found.low < found.rho < found.high < 0
  assert found.points == 30
  assert found.pairs == 3 * 45
  concordant = sum(
    (x[i] - x[j]) * (y[i] - y[j]) < 0
    for i in range(30)
    for j in range(i)
    if i % 3 == j % 3
  )
  assert found.right == concordant
  assert prediction.correlate(points, "left") is None
  assert prediction.correlate(points[:2], "error") is None
  alike = [point._replace(undone=0.5) for point in points]
  assert prediction.correlate(alike, "error") is None


def test_pairs_of_which_the_audit_says_the_same_are_not_ranked():
  points = [
    prediction.Point("", f"STN-C{i}", undone, error, np.nan, 1)
    for i, (undone, error) in enumerate([(0.999, 0.2), (1.0, 0.5), (0.3, 0.9)])
  ]
  found = prediction.correlate(points, "error")
  assert (found.right, found.pairs) == (2, 2)


def test_the_script_reads_the_results_that_reports_left(tmp_path):
  (tmp_path / "rotation").mkdir()
  values = [
    {"settings": dataclasses.asdict(run.settings), "results": run.results}
    for run in ROTATION
  ]
  (tmp_path / "rotation" / "results.json").write_text(json.dumps(values))
  result = scripts.run("prediction", f"--workdir={tmp_path}")
  assert result.returncode == 0, result.stderr
  assert "error against undone: -1.00" in result.stdout
  assert "3 points; 3 of 3 pairs" in result.stdout
  text = (tmp_path / "prediction.md").read_text()
  assert "| STN-C0 | 80 | 30 | 50 | 2 |" in text
  assert (tmp_path / "prediction.png").stat().st_size > 5000
  kept = json.loads((tmp_path / "prediction.json").read_text())
  assert kept["correlations"]["left"]["rho"] == pytest.approx(-1)
  empty = scripts.run("prediction", f"--workdir={tmp_path / 'none'}")
  assert empty.returncode == 1
  assert "error: " in empty.stderr
