"""Extrapolation: error and residual by amount, against loops."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from scipy import ndimage

from experiments.lib import loading, loop, tables
from experiments.reporting import (
  analysing,
  extrapolating,
  groups,
  transformed,
)
from stnjax import transforms
from stnjax.training import building, config, trained
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets

SETTINGS = dataclasses.replace(toy_sets.SETTINGS, epochs=1)
PLAIN = dataclasses.replace(SETTINGS, network="CNN")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("runs"))
  with toy_sets.loaded():
    for settings in (SETTINGS, PLAIN):
      loop.train(settings, (0,), folder, devices=jax.devices()[:1])
  return folder


def measure(run, wanted, count=None):
  with toy_sets.loaded():
    return extrapolating.measure(run, loading.once(), wanted, count)


def test_amounts():
  default = extrapolating.amounts("rotation")
  np.testing.assert_array_equal(default.values, np.arange(-180, 181, 15))
  scales = extrapolating.amounts("scale").values
  np.testing.assert_array_equal(scales, np.arange(-2, 2.51, 0.5))
  few = extrapolating.amounts("rotation", -10, 11, 5)
  np.testing.assert_array_equal(few.values, [-10, -5, 0, 5, 10])


@pytest.mark.parametrize(
  "options, message",
  [
    (("affine",), "family='affine' has no amounts; accepted: rotation, scale"),
    (("rotation", 5, 5), "low must be less than high.*got 5 and 5"),
    (("rotation", 0, np.inf), "both finite, got 0 and inf"),
    (("rotation", 0, 1, 0), "step must be above 0.*got 0"),
    (("rotation", 0, 10_001, 1), "at most 1,000 amounts, got 1"),
  ],
)
def test_amounts_that_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    extrapolating.amounts(*options)


@pytest.mark.slow
def test_errors_are_those_of_each_transformed_image(workdir):
  run = Run(workdir, SETTINGS)
  wanted = extrapolating.amounts("rotation", -60, 180, 120)
  found = measure(run, wanted, 8)
  test = toy_sets.load("mnist_subset", "test")
  network, preparation = trained.network_of(
    run, building.find(SETTINGS), toy_sets.load("mnist_subset", "train").images
  )
  answers, poses = [], []
  for amount in (-60, 60, 180):
    turned = np.stack([
      # scipy turns counterclockwise on the screen.
      ndimage.rotate(
        image / 255.0, -amount, reshape=False, order=1, mode="grid-constant"
      )
      for image in test.images[:8]
    ]).astype(np.float32)  # fmt: skip
    inputs = (turned - preparation.mean[0]) / preparation.std[0]
    output = network(inputs)
    answers.append(np.asarray(output.logits).argmax(axis=1))
    poses.append(np.asarray(output.pose))
  errors = [float(np.mean(answer != test.labels[:8])) for answer in answers]
  assert found["error"] == errors
  assert found["amounts"] == [-60, 60, 180]
  assert found["images"] == 8
  low, high = found["trained"]
  assert -90 <= low < -89 and 89 < high <= 90
  # About the mean of the class over -60 and 60 degrees, within +-90.
  predicted = np.array([
    [-np.degrees(np.arctan2(p[1, 0], p[0, 0])) for p in of_amount]
    for of_amount in np.linalg.inv(np.array(poses)[..., :2])
  ]) * -1  # fmt: skip
  total = predicted + np.array([-60, 60, 180])[:, None]
  left = np.empty_like(total)
  for label in set(test.labels[:8].tolist()):
    of_class = test.labels[:8] == label
    turns = np.exp(1j * np.radians(total[:, of_class]))
    centred = turns / turns[:2].mean()
    left[:, of_class] = np.degrees(np.angle(centred))
  expected = np.sqrt((left**2).mean(axis=1))
  np.testing.assert_allclose(found["residual"], expected, rtol=1e-3)


@pytest.mark.slow
def test_networks_and_families_without_poses(workdir):
  few = extrapolating.amounts("rotation", 0, 30, 30)
  plain = measure(Run(workdir, PLAIN), few, 4)
  assert plain["residual"] is None
  assert plain["trained"][1] > 89
  scaled = measure(
    Run(workdir, SETTINGS), extrapolating.amounts("scale", 0, 1, 1), 4
  )
  assert scaled["trained"] is scaled["residual"] is None
  assert len(scaled["error"]) == 2


@pytest.mark.parametrize("leaves, expected", [(0.0, 0.0), (1.0, None)])
def test_residuals_of_known_poses(tmp_path, monkeypatch, leaves, expected):
  """Of an ideal transformer, and of one that is the identity."""
  wanted = extrapolating.amounts("rotation", -150, 150, 75)

  def predict(network, preparation, images, applied):
    del network, preparation
    turns = np.radians((leaves - 1) * wanted.values)
    # The object is turned by the inverse of theta.
    poses = np.asarray(transforms.rotation(-turns.astype(np.float32)))
    labels = np.zeros((len(images), len(applied)), int)
    return transformed.Predicted(labels, np.stack([poses] * len(images)))

  monkeypatch.setattr(transformed, "predict", predict)
  monkeypatch.setattr(trained, "network_of", lambda *_: (None, None))
  found = measure(Run(str(tmp_path), SETTINGS), wanted, 6)
  if expected is None:
    expected = np.abs(wanted.values)
  np.testing.assert_allclose(found["residual"], expected, atol=1e-4)


def test_tables_and_figures_group_seeds(tmp_path):
  values = {}
  for network, residual in (("CNN", None), ("STN-SL1", [4.0, 5.0, 90.0])):
    for seed, error in ((0, 0.1), (1, 0.3)):
      settings = dataclasses.replace(SETTINGS, network=network, seed=seed)
      run = Run(str(tmp_path), settings)
      toy_sets.finish(run)
      values[run.path] = {
        "family": "rotation",
        "unit": "deg",
        "amounts": [-90.0, 0.0, 180.0],
        "trained": [-89.9, 89.8],
        "error": [error, 0.0, 1.0],
        "residual": residual and [r + seed for r in residual],
      }
  analysed = analysing.analyse(
    str(tmp_path), "", "made_up", lambda run: values[run.path]
  )
  (group,) = groups.group(analysed.runs)
  found = extrapolating.tables(analysed, group)
  error, residual = (tables.markdown(table) for table in found.values())
  assert "| rotation (deg) | CNN | STN-SL1 |" in error
  assert "| -90 (trained) | 20.0 ± 14.1 | 20.0 ± 14.1 |" in error
  assert "| 180 | 100.0 ± 0.0 |" in error
  assert "CNN" not in residual
  assert "| 180 | 90.5 ± 0.7 |" in residual
  panels = extrapolating.figure(analysed, group).axes
  np.testing.assert_allclose(panels[0].lines[1].get_ydata(), [20, 0, 100])
  np.testing.assert_allclose(panels[1].lines[0].get_ydata(), [4.5, 5.5, 90.5])
  assert panels[1].get_ylabel() == "residual (deg)"


@pytest.mark.slow
@pytest.mark.parametrize(
  "flag, message",
  [
    ("--family=affine", "has no amounts; accepted: rotation, scale"),
    ("--step=0", "step must be above 0"),
    ("--only=DEF", "holds no finished run to analyse"),
  ],
)
def test_mistakes(workdir, flag, message):
  process = scripts.Script(
    "tests.toy_sets", "extrapolation", f"--workdir={workdir}", flag, env={}
  )
  code, _, err = scripts.finish(process)
  assert code != 0
  assert "Traceback" not in err
  assert message in err


@pytest.mark.slow
def test_the_script(workdir):
  flags = ("--images=4", "--low=-90", "--high=90", "--step=90")
  process = scripts.Script(
    "tests.toy_sets", "extrapolation", f"--workdir={workdir}", *flags, env={}
  )
  code, out, err = scripts.finish(process)
  assert code == 0, err
  path = config.folder(workdir, SETTINGS) / "rotation_extrapolation.json"
  found = json.loads(path.read_text())
  assert found["amounts"] == [-90, 0, 90]
  page = pathlib.Path(workdir, "rotation_extrapolation.md").read_text()
  assert "| rotation (deg) | CNN | STN-SL1 |" in page
  picture = pathlib.Path(workdir, "rotation_extrapolation_1.png")
  assert picture.read_bytes().startswith(b"\x89PNG")
  assert "rotation_extrapolation.md" in out
