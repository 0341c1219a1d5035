"""Analyses of finished runs: what is measured, written and left out."""

import dataclasses
import json
import pathlib
import re

import jax
import numpy as np
import pytest
from scipy import ndimage

from experiments.lib import loading, loop, tables
from experiments.reporting import (
  analysing,
  consistent,
  gradient_norms,
  groups,
  iterating,
  transformed,
)
from stnjax import consistency, transforms
from stnjax.files import RunError
from stnjax.training import building, config, trained
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets

TWICE = dataclasses.replace(toy_sets.SETTINGS, network="STN-SL1x2", epochs=2)
GROWING = dataclasses.replace(TWICE, network="STN-SL1", more_iterations=(1,))
PLAIN = dataclasses.replace(TWICE, network="CNN")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("runs"))
  with toy_sets.loaded():
    for settings in (TWICE, PLAIN):
      loop.train(settings, (0,), folder, devices=jax.devices()[:1])
  return folder


def results(run):
  return json.loads((run.path / "results.json").read_text())


@pytest.mark.slow
def test_as_many_runs_as_in_training_have_the_results_of_the_run(workdir):
  run = Run(workdir, TWICE)
  with toy_sets.loaded():
    found = iterating.measure(run, loading.once(), [-2, -1, 0, 1])
  assert found["trained"] == 2
  assert list(found["by_runs"]) == ["1", "2", "3"]
  kept = results(run)
  same = found["by_runs"]["2"]
  assert same["error"] == pytest.approx(kept["error"])
  residual = kept["alignment"]["rotation"]["std"]
  assert same["alignment"]["rotation"] == pytest.approx(residual, rel=1e-5)
  others = [found["by_runs"][n]["alignment"]["rotation"] for n in ("1", "3")]
  assert len({*others, same["alignment"]["rotation"]}) == 3


@pytest.mark.slow
def test_iterations_added_in_training_count(tmp_path):
  with toy_sets.loaded():
    loop.train(GROWING, (0,), str(tmp_path), devices=jax.devices()[:1])
    run = Run(str(tmp_path), GROWING)
    found = iterating.measure(run, loading.once(), [0])
  assert found["trained"] == 2
  error = found["by_runs"]["2"]["error"]
  assert error == pytest.approx(results(run)["error"])


def test_networks_that_an_analysis_is_not_made_of(tmp_path):
  run = Run(str(tmp_path), PLAIN)
  versions = consistent.Versions("rotation", np.arange(3.0), None)
  with pytest.raises(analysing.NotApplicable, match="CNN has no transformer"):
    iterating.measure(run, loading.once(), [0])
  with pytest.raises(analysing.NotApplicable, match="CNN has no transformer"):
    consistent.measure(run, loading.once(), versions)


@pytest.mark.slow
def test_poses_are_those_of_each_transformed_image(workdir):
  run = Run(workdir, TWICE)
  values = consistency.versions("rotation", 3)
  versions = consistent.Versions("rotation", values, 180.0)
  with toy_sets.loaded():
    found = consistent.measure(run, loading.once(), versions, 5)
  images = toy_sets.load("mnist_subset", "test").images[:5]
  network, preparation = trained.network_of(
    run, building.find(TWICE), toy_sets.load("mnist_subset", "train").images
  )
  spreads = []
  for image in images:
    left = []
    for value in values:
      turned = ndimage.rotate(
        image / 255.0, value, reshape=False, order=1, mode="grid-constant"
      ).astype(np.float32)
      inputs = (turned - preparation.mean[0]) / preparation.std[0]
      pose = network(inputs[None]).pose[0]
      whole = np.asarray(
        transforms.compose(transforms.rotation(np.radians(value)), pose)
      )
      left.append(consistency.rotation_degrees(whole))
    spreads.append(consistency.spread(left, 180.0))
  assert found["mean"] == pytest.approx(np.mean(spreads), rel=1e-3)
  assert found["std"] == pytest.approx(np.std(spreads), rel=1e-2)
  assert found["images"] == 5
  assert found["identity"] == pytest.approx(60.0)


def test_images_are_padded_about_their_centre():
  images = np.ones((2, 3, 4, 1), np.uint8)
  padded = transformed.centred(images, (6, 4, 1))
  assert padded.shape == (2, 6, 4, 1)
  np.testing.assert_array_equal(padded[0, :, 0, 0], [0, 1, 1, 1, 0, 0])


@pytest.mark.parametrize(
  "path, name",
  [
    ("stages.0.conv", "block 1 conv"),
    ("stages.10.layers.2", "block 11 layers 3"),
    ("head.hidden.0", "head hidden 1"),
    ("sites.2.stages.1.norm", "depth 2 copy of block 2 norm"),
    ("sites.1.transformer.localiser.convs.0", "depth 1 localiser convs 1"),
    ("sites.0.predictor.head", "depth 0 predictor head"),
  ],
)
def test_names_of_layers(path, name):
  assert gradient_norms.layer_name(path) == name


def script(name, workdir, *flags):
  process = scripts.Script(
    "tests.toy_sets", name, f"--workdir={workdir}", *flags, env={}
  )
  return scripts.finish(process)


@pytest.mark.slow
def test_the_script_of_iterations(workdir):
  code, out, err = script("iterations", workdir, "--more=0,1")
  assert code == 0, err
  assert "CNN has no transformer to repeat" in out
  page = pathlib.Path(workdir, "iterations.md").read_text()
  error = 100 * results(Run(workdir, TWICE))["error"]
  assert f"| STN-SL1x2 | 2 (trained) | {error:.2f} |" in page
  assert "| STN-SL1x2 | 3 |" in page


@pytest.mark.slow
def test_the_script_of_gradients(workdir):
  flags = ("--steps=0,5", "--images=8")
  code, out, err = script("gradients", workdir, *flags)
  assert code == 0, err
  path = config.folder(workdir, TWICE) / "gradients.json"
  found = json.loads(path.read_text())
  assert found["images"] == 8
  assert list(found["states"]) == ["step 0", "step 5", "trained"]
  start, later, end = found["states"].values()
  hidden = "sites.1.transformer.localiser.hidden.0"
  assert start[hidden]["total"] == 0 < later[hidden]["total"]
  for norms in (later, end):
    assert norms["stages.0.conv"]["through_theta"] > 0
    assert norms["stages.1.conv"]["through_theta"] == 0
  page = pathlib.Path(workdir, "gradients.md").read_text()
  (picture,) = re.findall(r"\((gradients_\d_trained.png)\)", page)
  assert pathlib.Path(workdir, picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_script_of_consistency(workdir):
  flags = ("--images=4", "--family=scale", "--count=3")
  code, out, err = script("rotation_consistency", workdir, *flags)
  assert code == 0, err
  path = config.folder(workdir, TWICE) / "scale_consistency.json"
  found = json.loads(path.read_text())
  assert found["values"] == [-1, 0, 1]
  assert f"| STN-SL1x2 | {found['mean']:.2f} |" in out


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, flags, message",
  [
    ("iterations", ["--more="], "--more is empty"),
    ("iterations", ["--only=DEF"], "holds no finished run to analyse"),
    ("iterations", ["--only=CNN"], "CNN has no transformer to repeat"),
    ("gradients", ["--steps=-1"], "--steps must be at least 0, got -1"),
    ("gradients", ["--only=("], "is not a valid regular expression"),
    ("rotation_consistency", ["--family=affine"], "accepted: rotation, scale"),
    ("rotation_consistency", ["--count=1"], "count must be at least 2"),
  ],
)
def test_mistakes(name, flags, message, workdir):
  code, out, err = script(name, workdir, *flags)
  assert code != 0
  assert "Traceback" not in err
  assert message in err


def test_tables_group_seeds(tmp_path):
  values = {}
  runs = []
  for seed, error in ((0, 0.1), (1, 0.3)):
    run = Run(str(tmp_path), dataclasses.replace(TWICE, seed=seed))
    toy_sets.finish(run)
    line = {"error": error, "alignment": {"rotation": 10.0 + seed}}
    values[run.path] = {"trained": 2, "by_runs": {"2": line}}
    runs.append(run)
  analysed = analysing.analyse(
    str(tmp_path), "", "made_up", lambda run: values[run.path]
  )
  assert json.loads((runs[0].path / "made_up.json").read_text())["trained"] == 2
  (group,) = groups.group(analysed.runs)
  text = tables.markdown(iterating.table(analysed, group))
  assert "| STN-SL1x2 | 2 (trained) | 20.00 ± 14.14 (10.00 to 30.00) |" in text
  assert "10.50 ± 0.71" in text


def test_a_run_that_cannot_be_read_does_not_stop_the_others(tmp_path):
  for seed in (0, 1):
    run = Run(str(tmp_path), dataclasses.replace(PLAIN, seed=seed))
    toy_sets.finish(run)

  def measure(run):
    if run.settings.seed:
      raise RunError("its checkpoint is lost")
    return {"seed": 0}

  analysed = analysing.analyse(str(tmp_path), "", "made_up", measure)
  assert [run.settings.seed for run in analysed.runs] == [0]
  assert [str(error) for error in analysed.errors] == ["its checkpoint is lost"]
