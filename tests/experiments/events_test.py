"""Event files of TensorBoard, read back by TensorBoard."""

import dataclasses
import importlib.util

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util

from experiments.lib import events, loop
from stnjax.training.run_folder import Run
from tests import toy_sets

TOY = dataclasses.replace(toy_sets.SETTINGS, network="CNN", epochs=2)


def read(run):
  """Steps and values of each scalar in the event files of a run."""
  accumulator = event_accumulator.EventAccumulator(
    str(run.path / events.FOLDER), size_guidance={"tensors": 0}
  )
  accumulator.Reload()
  return {
    tag: [
      (event.step, float(tensor_util.make_ndarray(event.tensor_proto)))
      for event in accumulator.Tensors(tag)
    ]
    for tag in accumulator.Tags()["tensors"]
  }


def expected(run):
  """The same of metrics.jsonl, in single precision."""
  found = {}
  for line in run.metrics():
    alignment = line.get("alignment", {})
    values = {f"alignment/{name}": value for name, value in alignment.items()}
    names = ("train_loss", "train_error", "eval_loss", "error", "seconds")
    values |= {name: line[name] for name in names}
    for name, value in values.items():
      found.setdefault(name, []).append(
        (line["step"], float(np.float32(value)))
      )
  return found


@pytest.mark.slow
def test_without_the_option_there_are_no_event_files(tmp_path):
  with toy_sets.loaded():
    loop.train(TOY, (0,), str(tmp_path))
  assert not (Run(str(tmp_path), TOY).path / events.FOLDER).exists()


@pytest.mark.slow
def test_event_files_hold_the_scalars_of_each_seed(tmp_path):
  settings = dataclasses.replace(TOY, network="STN-C0")
  with toy_sets.loaded():
    loop.train(settings, (0, 1), str(tmp_path), tensorboard=True)
  for seed in (0, 1):
    run = Run(str(tmp_path), dataclasses.replace(settings, seed=seed))
    found = read(run)
    assert found == expected(run)
    assert len(found["error"]) == 2
    assert any(tag.startswith("alignment/") for tag in found)


def test_a_resumed_run_has_each_epoch_once(tmp_path):
  def kill(seeds, lines):
    raise KeyboardInterrupt

  with toy_sets.loaded():
    with pytest.raises(KeyboardInterrupt):  # epoch 1 is logged, not saved
      loop.train(
        TOY,
        (0,),
        str(tmp_path),
        checkpoint_seconds=1e9,
        progress=kill,
        tensorboard=True,
      )
    run = Run(str(tmp_path), TOY)
    assert len(read(run)["error"]) == 1
    loop.train(TOY, (0,), str(tmp_path), tensorboard=True)
  assert read(run) == expected(run)
  assert len(read(run)["error"]) == 2


def test_a_workdir_that_is_not_local_is_refused():
  with pytest.raises(ValueError, match="needs a local --workdir, got gs://b"):
    loop.train(TOY, (0,), "gs://b/runs", tensorboard=True)


def test_a_missing_package_names_its_extra(monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ModuleNotFoundError, match=r"stnjax\[tensorboard\]"):
    loop.train(TOY, (0,), str(tmp_path), tensorboard=True)
