"""Runs that start from others: trained to their end, and resumed."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from experiments.lib import loop
from stnjax.files import RunError
from stnjax.training import building, steps, trained, warm_start
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets
from tests.training import toy_trainers

SOURCE = dataclasses.replace(toy_sets.SETTINGS, network="CNN", epochs=1)


def train(settings, workdir, seeds=(0,)):
  with toy_sets.loaded():
    return loop.train(settings, seeds, workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  folder = str(tmp_path_factory.mktemp("runs"))
  train(SOURCE, folder, (0, 1))
  return folder


def params(run):
  images = toy_sets.load("mnist_subset", "train").images
  network, _ = trained.network_of(run, building.find(run.settings), images)
  return steps.split(network).params


@pytest.mark.slow
def test_localisation_is_trained_on_a_finished_classifier(workdir, capsys):
  path = str(Run(workdir, SOURCE).path)
  chosen = dataclasses.replace(
    toy_sets.SETTINGS,
    epochs=1,
    trained="localisation",
    warm_start=path.removesuffix("0") + "{seed}",
  )
  train(chosen, workdir, (0, 1))
  assert "warm start from" in capsys.readouterr().out
  for seed in (0, 1):
    run, source = (
      Run(workdir, dataclasses.replace(each, seed=seed))
      for each in (chosen, SOURCE)
    )
    found, before = params(run), params(source)
    for part in ("stages", "head"):
      assert toy_trainers.max_difference(found[part], before[part]) == 0
    assert np.abs(toy_trainers.localisation_bias(found)[...]).max() > 0
    kept = json.loads((run.path / "config.json").read_text())
    read = warm_start.read(chosen.warm_start, seed)
    assert kept["warm_start_sha256"] == read.checksum


@pytest.mark.slow
def test_a_resumed_run_ends_as_an_uninterrupted_one(workdir, tmp_path):
  path = str(Run(workdir, SOURCE).path)
  chosen = dataclasses.replace(toy_sets.SETTINGS, warm_start=path, epochs=2)
  folders = [str(tmp_path / name) for name in ("whole", "cut")]
  train(chosen, folders[0])

  class Stopped(Exception):
    pass

  def stop(seeds, lines):
    raise Stopped

  with toy_sets.loaded(), pytest.raises(Stopped):
    loop.train(
      chosen,
      (0,),
      folders[1],
      devices=jax.devices()[:1],
      checkpoint_seconds=0.0,
      progress=stop,
    )
  train(chosen, folders[1])
  whole, cut = (scripts.metrics(folder, chosen) for folder in folders)
  assert whole[:2] == cut[:2]


def test_a_run_without_its_source_is_not_trained(tmp_path):
  chosen = dataclasses.replace(
    toy_sets.SETTINGS, warm_start=str(tmp_path / "none")
  )
  with pytest.raises(RunError, match="no run there; accepted: the folder"):
    train(chosen, str(tmp_path / "runs"))
  assert not (tmp_path / "runs").exists()
