"""Whether audits predict: what is compared, and how it is ranked."""

import json

import numpy as np
import pytest
from scipy import stats

from experiments.reporting import correlations
from tests import scripts
from tests.experiments.made_up import grouped, run

PROFILES = (
  {"rotation": [0.9, 0.3, 0.1], "shear": [1.0] * 3},
  {"rotation": [0.7, 0.3, 0.1], "shear": [1.0] * 3},
)
ROTATION = [
  run("CNN", 0, 20.0, undone=PROFILES[0]),
  run("CNN", 1, 40.0, undone=PROFILES[1]),
  run("CNN", 2, 30.0),  # not audited
  run("STN-C0", 0, 6.0, 0.4),
  run("STN-C0", 1, 12.0, 0.6),
  run("STN-C1", 0, 24.0, 0.7),
  run("STN-C2", 0, 27.0, 0.9),
  run("STN-C1x2", 0, 10.0, 0.1),
  run("STN-SL1", 0, 10.0, 0.1),
]
AUDIT, LOCALISABILITY = correlations.PREDICTORS
HOUSES = {"dataset": "street_numbers", "perturbation": "none"}
NUMBERS = [
  run(
    "CNN", 0, 50.0, undone={"rotation": [0.8, 0.4], "shear": [0.6, 0.2]},
    **HOUSES,
  ),
  run("STN-C1", 0, 60.0, **HOUSES),
]  # fmt: skip


def test_points_are_networks_that_warp_features_beside_an_audited_cnn():
  found = list(correlations.points(grouped(*ROTATION, *NUMBERS), AUDIT))
  assert [point.network for point in found] == [
    "STN-C0", "STN-C1", "STN-C2", "STN-C1",
  ]  # fmt: skip
  first, second, *_, numbers = found
  assert first.predictor == pytest.approx(0.8)
  assert first.error == pytest.approx(0.09 / 0.3)
  assert first.residual == pytest.approx(0.5)
  assert (first.seeds, second.seeds) == (2, 1)
  assert numbers.predictor == pytest.approx(0.3)  # of all families
  assert numbers.error == pytest.approx(1.2)
  assert np.isnan(numbers.residual)


def test_networks_that_localise_in_features_beside_a_cnn_whose_poses_are_read():
  cnn = run("CNN", 0, 20.0)
  read = {"translation_x": [0.1, 0.5], "translation_y": [0.3, 0.9]}
  cnn = cnn._replace(results={**cnn.results, "read": read})
  runs = [
    run("STN-C0", 0, 10.0, 0.4),
    run("STN-C1", 0, 15.0, 0.4),
    run("STN-SL1", 0, 5.0, 0.2),
    run("STN-SL2", 0, 5.0, 0.2),  # of a layer that was not read
  ]
  found = list(correlations.points(grouped(cnn, *runs), LOCALISABILITY))
  assert [point.network for point in found] == ["STN-C0", "STN-SL1"]
  np.testing.assert_allclose([point.predictor for point in found], [0.2, 0.7])
  np.testing.assert_allclose([point.error for point in found], [0.5, 0.25])


def test_the_rank_correlation_is_that_of_scipy():
  rng = np.random.default_rng(0)
  x = rng.permutation(30) / 30
  y = -x + 0.3 * rng.normal(size=30)
  points = [
    correlations.Point(f"{i % 3}", "STN-C1", a, b, np.nan, 1)
    for i, (a, b) in enumerate(zip(x, y, strict=True))
  ]
  found = correlations.correlate(points, "error")
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
  assert correlations.correlate(points, "residual") is None
  assert correlations.correlate(points[:2], "error") is None
  alike = [point._replace(predictor=0.5) for point in points]
  assert correlations.correlate(alike, "error") is None


def test_pairs_of_which_the_audit_says_the_same_are_not_ranked():
  points = [
    correlations.Point("", f"STN-C{i}", undone, error, np.nan, 1)
    for i, (undone, error) in enumerate([(0.999, 0.2), (1.0, 0.5), (0.3, 0.9)])
  ]
  found = correlations.correlate(points, "error")
  assert (found.right, found.pairs) == (2, 2)


@pytest.mark.slow
def test_the_script_reads_the_results_that_reports_left(tmp_path):
  (tmp_path / "rotation").mkdir()
  text = json.dumps([run.to_json() for run in ROTATION])
  (tmp_path / "rotation" / "results.json").write_text(text)
  result = scripts.run("prediction", f"--workdir={tmp_path}")
  assert result.returncode == 0, result.stderr
  text = (tmp_path / "prediction.md").read_text()
  assert "| STN-C0 | 80 | 30 | 50 | 2 |" in text
  assert (tmp_path / "prediction_audit.png").stat().st_size > 5000
  kept = json.loads((tmp_path / "prediction.json").read_text())
  for found in kept["audit"]["correlations"].values():
    assert found["rho"] == pytest.approx(-1)
    assert (found["points"], found["right"], found["pairs"]) == (3, 3, 3)
  empty = scripts.run("prediction", f"--workdir={tmp_path / 'none'}")
  assert empty.returncode == 1
  assert "error: " in empty.stderr
