"""The scripts as a user meets them: runs, kills, resumes, reports, mistakes."""

import dataclasses
import json
import os
import pathlib
import re
import signal
import time

import jax
import numpy as np
import pytest

from experiments.lib import loading, loop, training_job
from experiments.lib.signals import Interrupted
from experiments.reporting import finished
from stnjax import data
from stnjax.files import RunError
from stnjax.training import building, config
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets
from tests.scripts import finish, start

TOY = toy_sets.SETTINGS
LONG = dataclasses.replace(TOY, epochs=10, eval_passes=2)  # to be stopped
TWO = dataclasses.replace(TOY, epochs=2, eval_passes=2)
FLAGS = (
  "--network=STN-SL1",
  "--width=0.0625",
  "--epochs=10",
  "--batch_size=24",
  "--learning_rate=0.01",
  "--eval_passes=2",
)


def start_on_toys(*flags, devices=1):
  """Starts `train` on a few made-up images in place of a data set."""
  count = f"--xla_force_host_platform_device_count={devices}"
  return scripts.Script(
    "tests.toy_sets", "train", *flags, env={"XLA_FLAGS": count}
  )


def metrics(workdir, settings=LONG):
  """What a run computed, without how long it took."""
  return scripts.metrics(workdir, settings)


def assert_same(found, expected):
  assert found[:2] == expected[:2]
  for name, array in expected[2].items():
    np.testing.assert_array_equal(found[2][name], array, err_msg=name)


@pytest.fixture
def toys():
  """A few made-up images in place of every data set."""
  with toy_sets.loaded():
    yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
  """The small run, trained at once, in a process like the others."""
  workdir = tmp_path_factory.mktemp("whole")
  code, out, err = finish(start_on_toys(*FLAGS, f"--workdir={workdir}"))
  assert code == 0, err
  assert "epoch 10/10" in out
  assert re.search(r"^STN-SL1.*: [\d,]+ parameters, [\d,]+ of them", out, re.M)
  results = Run(str(workdir), LONG).results()
  assert results["seeds_together"] == 1
  assert results["peak_memory_mb"] > 100  # JAX alone is more
  assert results["seconds_per_epoch"] == pytest.approx(
    results["seconds"] / 10, abs=0.1
  )
  return metrics(workdir)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_run_ends_with_the_same_metrics(
  number, uninterrupted, tmp_path
):
  flags = (*FLAGS, f"--workdir={tmp_path}", "--checkpoint_seconds=0")
  folder = config.folder(str(tmp_path), LONG)
  process = start_on_toys(*flags)
  while not list((folder / "checkpoints").glob("[1-9]?")):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(number)
  code, _, err = finish(process)
  assert not (folder / "DONE").exists()
  assert any((folder / "checkpoints").iterdir())
  if number == signal.SIGTERM:
    assert code == 128 + signal.SIGTERM
    assert re.search(
      r"stopped by SIGTERM after step \d+, and saved.*resume", err
    )
  else:
    assert code == -signal.SIGKILL
  code, out, err = finish(start_on_toys(*flags))
  assert code == 0, err
  assert re.search(r"resumed after step \d+$", out, re.M)
  assert "epoch 1/10" not in out
  assert_same(metrics(tmp_path), uninterrupted)


@pytest.mark.slow
def test_two_seeds_killed_and_resumed_end_as_each_alone(
  uninterrupted, tmp_path
):
  """In one program; resumed, the second seed stands elsewhere at first."""
  flags = (*FLAGS, "--seeds=0,3", "--checkpoint_seconds=0")
  flags += (f"--workdir={tmp_path}",)
  folders = [
    config.folder(str(tmp_path), dataclasses.replace(LONG, seed=seed))
    for seed in (0, 3)
  ]
  process = start_on_toys(*flags)
  while not list((folders[1] / "checkpoints").glob("[1-9]?")):
    assert process.poll() is None, process.communicate()
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  finish(process)
  assert not any((folder / "DONE").exists() for folder in folders)
  code, out, err = finish(start_on_toys(*flags))
  assert code == 0, err
  assert re.search(r"resumed after step \d+$", out, re.M)
  assert_same(metrics(tmp_path), uninterrupted)
  together = metrics(tmp_path, dataclasses.replace(LONG, seed=3))
  assert together[0] != uninterrupted[0]  # losses, which no chance makes equal
  for folder in folders:
    results = json.loads((folder / "results.json").read_text())
    assert 0 < results["seconds_per_epoch"] < results["seconds"]
    assert results["peak_memory_mb"] > 0
    assert results["seeds_together"] in (1, 2)
  # What is done is left alone, whoever else is asked for.
  code, out, err = finish(start_on_toys(*FLAGS, f"--workdir={tmp_path}"))
  assert code == 0, err
  assert "epoch" not in out
  assert "STN-SL1 seed 0: error" in out


def test_seeds_are_grouped_by_the_step_they_stand_at(tmp_path, monkeypatch):
  trained = []

  class Job:
    def __init__(self, members, *_):
      self.members = members

    def train(self, signals):
      trained.append([run.settings.seed for run in self.members])
      for run in self.members:
        toy_sets.finish(run, error=run.settings.seed / 10)
      return {run.settings.seed: run.results() for run in self.members}

  monkeypatch.setattr(loop, "TrainingJob", Job)
  steps = {2: 20, 4: 20, 5: 40}
  monkeypatch.setattr(
    Run, "saved_step", lambda run: steps.get(run.settings.seed, 0)
  )
  results = loop.train(
    LONG, (1, 2, 3, 4, 5), str(tmp_path), load=lambda settings: None
  )
  assert sorted(trained) == [[1, 3], [2, 4], [5]]
  assert {seed: r["error"] for seed, r in results.items()} == {
    1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.5,
  }  # fmt: skip
  assert list(results) == [1, 2, 3, 4, 5]
  trained.clear()
  loop.train(LONG, (6, 1, 5), str(tmp_path), load=lambda settings: None)
  assert trained == [[6]]  # the others are done


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.usefixtures("toys")
def test_a_network_that_grows_resumes_before_and_after(
  epoch, tmp_path, monkeypatch
):
  """Killed in an epoch, before or after the switch to more iterations."""
  settings = dataclasses.replace(
    TOY, network="STN-C0", epochs=2, more_iterations=(1,), eval_passes=1
  )
  monkeypatch.setattr(training_job, "_SECONDS_PER_DISPATCH", 0)  # a step each

  def kill(seeds, lines):
    if lines[0]["epoch"] == epoch:
      raise KeyboardInterrupt

  loop.train(settings, (0,), f"{tmp_path}/whole")
  with pytest.raises(KeyboardInterrupt):
    loop.train(
      settings, (0,), f"{tmp_path}/parts", checkpoint_seconds=0, progress=kill
    )
  stood_at = Run(f"{tmp_path}/parts", settings).saved_step()
  assert stood_at == 4 * epoch - 1
  loop.train(settings, (0,), f"{tmp_path}/parts")
  whole, parts = (
    metrics(tmp_path / name, settings) for name in ("whole", "parts")
  )
  assert_same(parts, whole)


def test_a_mistake_found_late_leaves_no_folder_that_is_refused(tmp_path):
  """Loading fails after the steps of runs are looked up: a rerun resumes."""
  settings = dataclasses.replace(LONG, dataset="plankton", network="CNN")
  for _ in range(2):
    with pytest.raises(FileNotFoundError, match="not prepared"):
      loop.train(settings, (0, 1), str(tmp_path / "runs"), "/none")
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  "name, flags, message",
  [
    ("train", ["--network=STN-X1"], "network='STN-X1' is unknown; accepted"),
    (
      "train",
      ["--dataset=svhn", "--perturbation=none", "--data_dir=/none"],
      "'svhn' is not prepared in /none.*stnjax.data",
    ),
    (
      "train",
      ["--more_iterations=1,3", "--epochs=3"],
      "more_iterations must be less than epochs=3",
    ),
    (
      "train",
      ["--dataset=street_numbers", "--perturbation=scale"],
      "perturbation='scale' is measured by class.*street_numbers.*: none",
    ),
    (
      "train",
      ["--dataset=synthetic_digits", "--localisation=large"],
      "localisation='large'.*'small'",
    ),
    ("train", ["--epochs=soon"], "--epochs=soon"),
    ("train", ["--nosuchflag=1"], "nosuchflag"),
    ("train", ["stray"], "unexpected argument 'stray'"),
    ("train", ["--workdir=/dev/null/x"], "/dev/null/x"),
    ("sweep", ["--kinds=CNN,C", "--depths=5"], "depth 5 is deeper"),
    ("sweep", ["--kinds=CNN,Q"], "--kinds='Q' is unknown; accepted"),
    ("sweep", ["--kinds=DEF", "--depths=2"], "depth 2 .*accepted: 0 to 1"),
    (
      "train",
      ["--network=STN-UCN1", "--more_iterations=1"],
      "more_iterations: STN-UCN1 has no transformer to repeat",
    ),
    ("report", ["--workdir=/none"], "holds no finished run"),
  ],
)
def test_a_mistake_is_one_clear_line(name, flags, message, tmp_path):
  where = [] if "workdir" in flags[0] else [f"--workdir={tmp_path}"]
  code, out, err = finish(start(name, *where, *flags))
  assert code != 0
  assert "Traceback" not in err
  told = [line for line in err.splitlines() if re.search(message, line)]
  assert len(told) == 1, err
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_batch_that_devices_do_not_divide(tmp_path):
  flags = ["--network=CNN", "--batch_size=25", f"--workdir={tmp_path}"]
  code, _, err = finish(start_on_toys(*flags, devices=2))
  assert code != 0
  assert err.strip().splitlines()[-1].startswith("error: batch_size=25")
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_a_damaged_checkpoint_is_one_clear_line(tmp_path):
  train_once = dataclasses.replace(LONG, epochs=1)
  loop.train(train_once, (0,), str(tmp_path))
  folder = config.folder(str(tmp_path), train_once)
  (folder / "DONE").unlink()
  for path in pathlib.Path(folder, "checkpoints", "4").rglob("*"):
    if path.is_file():
      os.truncate(path, 1)
  kept = (folder / "metrics.jsonl").read_text()
  flags = [*FLAGS, "--epochs=1", f"--workdir={tmp_path}"]
  code, _, err = finish(start_on_toys(*flags))
  assert code != 0
  assert "Traceback" not in err
  assert re.search("^error: checkpoint .*/4 cannot be read.*delete", err, re.M)
  assert (folder / "metrics.jsonl").read_text() == kept


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_on_four_devices_a_stopped_run_ends_with_the_same_metrics(tmp_path):
  def stop_after_two(seeds, lines):
    assert list(seeds) == [0]
    if lines[0]["epoch"] == 2:
      os.kill(os.getpid(), signal.SIGINT)

  whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
  loop.train(TOY, (0,), whole)
  with pytest.raises(Interrupted, match="SIGINT after step 8"):
    loop.train(TOY, (0,), stopped, progress=stop_after_two)
  epochs = []
  loop.train(
    TOY,
    (0,),
    stopped,
    progress=lambda _, lines: epochs.append(lines[0]["epoch"]),
  )
  assert epochs == [3]
  assert_same(metrics(stopped, TOY), metrics(whole, TOY))
  assert metrics(whole, TOY)[1]["hardware"].startswith("4 x cpu")


@pytest.mark.usefixtures("toys")
@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
  wild = dataclasses.replace(
    TOY, network="CNN", optimiser="sgd", learning_rate=1e38
  )
  for _ in range(2):  # it is not trained again
    with pytest.raises(RunError, match="seed_0: the .* not finite after"):
      loop.train(wild, (0,), str(tmp_path))
  folder = config.folder(str(tmp_path), wild)
  assert not (folder / "DONE").exists()
  _, left = finished.read(folder.parent)
  assert left == [finished.LeftOut(f"{wild.name} (failed)")]


@pytest.mark.usefixtures("toys")
def test_a_run_does_not_go_on_with_other_images(tmp_path):
  settings = dataclasses.replace(TOY, network="CNN", epochs=1)
  images = toy_sets.load("mnist_subset", "train").images.copy()
  images[-1, 0, 0, 0] += 1
  run = Run(str(tmp_path), settings)
  run.start(toy_sets.task_of(settings), config.fingerprint(images))
  with pytest.raises(RunError, match="other images of mnist_subset"):
    loop.train(settings, (0,), str(tmp_path))


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_a_seed_that_diverges_leaves_the_others_alone(tmp_path, monkeypatch):
  build = building.build_trainer

  def build_with_a_bad_seed(members, *args):
    trainer, states = build(members, *args)
    bad = np.array([member.seed == 1 for member in members])

    def poison(x):
      return np.where(bad.reshape(-1, *[1] * (x.ndim - 1)), np.nan, x)

    return trainer, states._replace(params=jax.tree.map(poison, states.params))

  settings = dataclasses.replace(TOY, network="CNN", epochs=1)
  loop.train(settings, (0,), f"{tmp_path}/alone")
  monkeypatch.setattr(building, "build_trainer", build_with_a_bad_seed)
  seen = []
  with pytest.raises(RunError, match="seed_1: the loss is not finite"):
    loop.train(
      settings,
      (1, 0),
      f"{tmp_path}/both",
      progress=lambda seeds, lines: seen.append(list(seeds)),
    )
  assert seen == [[0]]
  (both, alone) = (
    metrics(f"{tmp_path}/{name}", settings) for name in ("both", "alone")
  )
  for name in ("train_loss", "eval_loss", "error"):
    assert both[0][0][name] == pytest.approx(alone[0][0][name], rel=1e-5)
  assert both[1]["error"] == alone[1]["error"]


@pytest.mark.usefixtures("toys")
@pytest.mark.slow
def test_a_signal_at_the_last_checkpoint_is_heard(tmp_path, monkeypatch):
  one = dataclasses.replace(TOY, epochs=1)
  save = Run.save

  def save_and_signal(run, state):
    save(run, state)
    os.kill(os.getpid(), signal.SIGTERM)

  monkeypatch.setattr(Run, "save", save_and_signal)
  with pytest.raises(Interrupted, match="SIGTERM after step 4"):
    loop.train(one, (0,), str(tmp_path))
  monkeypatch.undo()
  assert loop.train(one, (0,), str(tmp_path))[0]["error"] > 0


@pytest.mark.parametrize("name", ["train", "sweep", "report"])
def test_help_lists_the_options(name):
  _, out, _ = finish(start(name, "--help"))
  assert "--workdir" in out
  if name != "report":
    assert "--epochs" in out
    assert "(default: '30')" in out


def test_validation_images_are_none_of_those_to_train_on():
  tune = dataclasses.replace(LONG, use_validation_split=True)
  _, train_data, eval_data = loading.load(tune)
  assert len(train_data.labels) == 9000
  assert len(eval_data.labels) == 1000
  seen = {image.tobytes() for image in train_data.images}
  shared = sum(image.tobytes() in seen for image in eval_data.images)
  assert shared == 0


def test_validation_images_are_of_all_classes_though_sorted(monkeypatch):
  labels = np.sort(np.arange(60) % 3)
  images = np.arange(60, dtype=np.uint8).repeat(4).reshape(60, 2, 2, 1)
  stored = data.Examples(images, labels)
  monkeypatch.setattr(loading, "images", lambda *_: stored)
  tune = dataclasses.replace(LONG, use_validation_split=True)
  _, train_data, eval_data = loading.load(tune)
  np.testing.assert_array_equal(np.sort(eval_data.labels), [0, 0, 1, 1, 2, 2])
  parts = [part.images[:, 0, 0, 0] for part in (train_data, eval_data)]
  np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(60))
  for part in (train_data, eval_data):
    np.testing.assert_array_equal(labels[part.images[:, 0, 0, 0]], part.labels)


def test_fewer_training_images_are_the_first_of_each_class(monkeypatch):
  labels = np.array([0, 0, 1, 2, 0, 1, 0, 1, 2, 0, 0, 1])
  images = np.arange(12, dtype=np.uint8).repeat(4).reshape(12, 2, 2, 1)
  stored = data.Examples(images, labels)
  monkeypatch.setattr(loading, "images", lambda *_: stored)
  monkeypatch.setattr(loading, "count", lambda *_: 12)
  few = dataclasses.replace(LONG, train_images=6, batch_size=2)
  _, train_data, eval_data = loading.load(few)
  assert train_data.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
  np.testing.assert_array_equal(train_data.labels, [0, 0, 1, 2, 0, 1])
  assert len(eval_data.labels) == 12
  assert loading.num_training_images(few, 12) == 6
  for settings in (few, dataclasses.replace(few, train_images=None)):
    held_out = dataclasses.replace(settings, use_validation_split=True)
    _, own, validation = loading.load(held_out)
    assert len(own.labels) == (settings.train_images or 10)
    assert validation.images[:, 0, 0, 0].tolist() == [10, 11]
  more = dataclasses.replace(few, train_images=13)
  for check in (loading.load, loading.check):
    with pytest.raises(ValueError, match="train_images must be at most 12.*13"):
      check(more)


@pytest.mark.slow
def test_images_are_loaded_once_for_each_number(monkeypatch):
  load = loading.once()
  counts = [
    len(load(dataclasses.replace(LONG, train_images=count))[1].labels)
    for count in (None, 100, 20)
  ]
  assert counts == [10_000, 100, 20]


@pytest.mark.slow
def test_dry_run_tells_and_touches_nothing(tmp_path):
  flags = [
    "--dry_run",
    "--seeds=0,1",
    "--depths=0,1,2",
    f"--workdir={tmp_path}",
  ]
  code, out, err = finish(start("sweep", *flags))
  assert code == 0, err
  assert len(out.splitlines()) == 16
  assert "STN-SL2-affine-mnist_subset-rotation-lr_0.001-seed_1" in out
  assert "18,912 parameters" in out
  assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_sweep_trains_skips_what_is_done_and_reports(tmp_path):
  flags = [
    "sweep", "--width=0.03125", "--epochs=1", "--batch_size=24",
    "--eval_passes=1", "--kinds=CNN,SL", "--depths=1", "--seeds=0,1",
    "--dataset=mnist", f"--workdir={tmp_path}",
  ]  # fmt: skip
  code, out, err = finish(scripts.Script("tests.toy_sets", *flags, env={}))
  assert code == 0, err
  assert re.search(r"2/2 STN-SL1 seed 0,1: epoch 1/1.*left\]", out)
  page = pathlib.Path(re.search(r"^report: (.+)$", out, re.M)[1])
  html = page.read_text()
  assert not re.search(r'(src|href)="(?!data:)', html)
  assert html.count("data:image/png;base64,") == 6
  text = (page.parent / "report.md").read_text()
  results = [
    json.loads((tmp_path / name / "results.json").read_text())
    for name in sorted(os.listdir(tmp_path))
    if name.startswith("STN-SL1")
  ]
  errors = [100 * r["error"] for r in results]
  row = next(r for r in text.splitlines() if r.startswith("| STN-SL1 "))
  assert (
    f"{sum(errors) / 2:.2f} ± {abs(errors[0] - errors[1]) / 2**0.5:.2f}" in row
  )
  assert f"| {results[0]['parameters']['total']:,} |" in row
  for picture in re.findall(r"\]\((.+?)\)", text):
    assert (page.parent / picture).stat().st_size > 5000
  code, out, err = finish(scripts.Script("tests.toy_sets", *flags, env={}))
  assert code == 0, err
  assert out.count("done before") == 2


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
  """Two runs trained at once in this process, on one device."""
  workdir = str(tmp_path_factory.mktemp("two"))
  train_two(workdir)
  return workdir


def train_two(workdir, **options):
  with toy_sets.loaded():
    loop.train(TWO, (0, 1), workdir, devices=jax.devices()[:1], **options)


@pytest.mark.slow
def test_resumed_in_an_epoch_two_seeds_end_with_the_same_metrics(
  two_seeds, tmp_path, monkeypatch
):
  def save_and_signal(run, state):
    save(run, state)
    if state.step == 5:
      os.kill(os.getpid(), signal.SIGTERM)

  before, save = signal.getsignal(signal.SIGTERM), Run.save
  monkeypatch.setattr(training_job, "_SECONDS_PER_DISPATCH", 0)  # a step each
  monkeypatch.setattr(Run, "save", save_and_signal)
  with pytest.raises(Interrupted, match="SIGTERM after step 6"):
    train_two(str(tmp_path), checkpoint_seconds=0)
  assert signal.getsignal(signal.SIGTERM) == before
  monkeypatch.undo()
  for seed in (0, 1):
    run = Run(str(tmp_path), dataclasses.replace(TWO, seed=seed))
    assert run.saved_step() == 6
  train_two(str(tmp_path))
  for seed in (0, 1):
    settings = dataclasses.replace(TWO, seed=seed)
    assert_same(metrics(tmp_path, settings), metrics(two_seeds, settings))


def test_the_last_images_of_the_gallery_are_of_the_trained_network(two_seeds):
  _, _, arrays = metrics(two_seeds, TWO)
  first, last = (arrays[f"warped after epoch {epoch}"] for epoch in (1, 2))
  np.testing.assert_array_equal(last, arrays["after"][0])
  assert (first != last).any()


def test_results_are_what_the_kept_predictions_say(two_seeds):
  lines, results, arrays = metrics(two_seeds, TWO)
  wrong = arrays["predicted"] != arrays["label"]
  assert wrong.shape == (2, 40)
  assert results["error"] == pytest.approx(wrong.mean())
  labels = np.tile(arrays["label"], 2)
  assert arrays["true_rotation"].shape == (2, 40)
  true = arrays["true_rotation"].ravel()
  # theta is a turn and more: that of its inverse's first column.
  poses = np.concatenate(arrays["pose"])
  first = np.linalg.inv(poses[:, :, :2])[:, :, 0]
  predicted = np.degrees(np.arctan2(first[:, 1], first[:, 0]))
  kept = arrays["predicted_rotation"].ravel()
  np.testing.assert_allclose(
    np.exp(1j * np.radians(kept - predicted)), 1, atol=1e-4
  )

  def residuals(angles, labels):
    """Deviations in degrees from the mean direction of each class."""
    deviations = np.empty(len(angles))
    for label in set(labels):
      directions = np.exp(1j * np.radians(angles[labels == label]))
      common = np.angle(directions.mean())
      deviations[labels == label] = np.degrees(
        np.angle(directions * np.exp(-1j * common))
      )
    return deviations

  def rms(values):
    return pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-3)

  residual = residuals(true + predicted, labels)
  (axis,) = results["alignment"]
  assert axis == "rotation"
  measured = results["alignment"]["rotation"]
  assert measured["std"] == rms(residual)
  for value, label in zip(measured["by_class"], np.unique(labels), strict=True):
    assert value == rms(residual[labels == label])
  assert measured["none"] == rms(residuals(true, labels))
  # About each image, whose passes are 40 apart.
  about = residuals(true + predicted, np.tile(np.arange(40), 2))
  assert measured["by_image"] == pytest.approx(
    np.sqrt(np.sum(about**2) / 40), rel=1e-3
  )
  same = np.mean(arrays["predicted"][0] == arrays["predicted"][1])
  assert results["same_answer"] == pytest.approx(same)
  assert "same_answer" not in lines[-1]
  # The authors' angle: of the nearest rotation, and not wrapped.
  (a, b), (c, d) = np.moveaxis(poses[:, :, :2], 0, -1)
  total = true + np.degrees(np.arctan2(b - c, a + d))
  for label in set(labels):
    total[labels == label] -= total[labels == label].mean()
  authors = results["authors"]["rotation"]
  assert authors["std"] == rms(total) and authors["unit"] == "deg"
  of_one_pass = residuals((true + predicted)[:40], labels[:40])
  assert lines[-1]["alignment"]["rotation"] == rms(of_one_pass)
