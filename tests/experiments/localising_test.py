"""Poses read from layers, and the guide, on networks trained for an epoch."""

import json

import jax
import numpy as np
import pytest

from experiments.lib import loading
from experiments.reporting import localising
from experiments.reporting.analysing import NotApplicable
from stnjax import alignability
from stnjax.training import config, trained
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import scripts

SETTINGS = {
  "perturbation": "rotation",
  "family": "rotation",
  "epochs": 1,
  "eval_passes": 2,
  "batch_size": 500,
  "width": 0.05,
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("runs")
  flags = [f"--{name}={value}" for name, value in SETTINGS.items()]
  process = scripts.run(
    "sweep", f"--workdir={folder}", "--networks=CNN STN-C0 STN-C1", *flags
  )
  assert not process.returncode, process.stderr
  return folder


@pytest.mark.slow
def test_poses_of_the_layers_of_a_run(workdir):
  """Against the network and its images, put together by hand."""
  settings = Settings(network="CNN", **SETTINGS)
  run, load = Run(str(workdir), settings), loading.once()
  found = localising.measure(run, load, 60, ["ridge"])
  assert found["units"] == {"rotation": "deg"}
  setup, train, test = load(settings)
  network, preparation = trained.network_of(run, setup, train.images)
  keys = jax.random.split(jax.random.key(0), 60)
  images, truth = preparation(keys, test.images[:60])
  expected = alignability.read_poses(
    network.features,
    images,
    {"rotation": np.degrees(truth["rotation"])},
    periods={"rotation": 360.0},
    reading=["ridge"],
  )
  assert expected.layers == ("input", "block 1", "block 2")
  by_layer = found["states"]["trained"]["ridge"]["rotation"]
  np.testing.assert_allclose(
    [readout["r2"] for readout in by_layer.values()],
    expected.r2()["rotation"],
    atol=1e-3,
  )
  untrained = found["states"]["untrained"]["ridge"]["rotation"]
  assert untrained["input"] == pytest.approx(by_layer["input"])
  assert untrained["block 2"] != by_layer["block 2"]


@pytest.mark.slow
def test_commands(workdir):
  where = f"--workdir={workdir}"
  process = scripts.run("guide", where)
  assert "run experiments.audit first" in process.stderr
  audit = scripts.run("audit", where, "--images=4", "--steps=2")
  assert not audit.returncode, audit.stderr
  process = scripts.run("guide", where)
  assert "run experiments.localisability first" in process.stderr
  process = scripts.run(
    "localisability", where, "--images=40", "--reader=ridge"
  )
  assert not process.returncode, process.stderr
  folder = config.folder(str(workdir), Settings(network="CNN", **SETTINGS))
  kept = json.loads((folder / "localisability.json").read_text())
  text = (workdir / "localisability.md").read_text()
  r2 = kept["states"]["trained"]["ridge"]["rotation"]["block 1"]["r2"]
  assert f"| CNN | block 1, trained | {r2:.2f} (" in text
  assert (workdir / "localisability_rotation_ridge_1.png").stat().st_size
  page = (workdir / "report" / "report.md").read_text()
  assert f"| CNN | block 1, trained | {r2:.2f} (" in page
  assert (workdir / "report" / "localisability_rotation_ridge_1.png").exists()
  assert (workdir / "report" / "guide_rotation_1.png").exists()
  process = scripts.run("guide", where)
  assert not process.returncode, process.stderr
  results = json.loads((folder / "results.json").read_text())
  row = f"| CNN | {100 * results['error']:.1f} | "
  row += f"{100 * results['same_answer']:.1f} |"
  assert row in (workdir / "guide.md").read_text()
  assert (workdir / "guide_1_rotation.png").stat().st_size


def test_a_perturbation_without_truth(tmp_path):
  run = Run(str(tmp_path), Settings(network="CNN", perturbation="none"))
  with pytest.raises(NotApplicable, match="pose under none is not known"):
    localising.measure(run, loading.once(), 10, ["ridge"])
