"""Seconds over resumes, numbers that are not finite, and two processes."""

import dataclasses
import itertools
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lib import jobs, loop, running, training_job
from stnjax.files import RunError
from stnjax.training import trainer
from stnjax.training.run_folder import Run
from tests import files_test, scripts, toy_sets

TOY = dataclasses.replace(toy_sets.SETTINGS, network="CNN")  # 4 steps an epoch


@pytest.fixture(autouse=True)
def toys():
  with toy_sets.loaded():
    yield


@pytest.fixture
def clock(monkeypatch):
  """A step each dispatch, which takes a second."""
  ticks = itertools.count()
  fake = types.SimpleNamespace(monotonic=lambda: float(next(ticks)))
  monkeypatch.setattr(training_job, "time", fake)
  monkeypatch.setattr(training_job, "_SECONDS_PER_DISPATCH", 0)


def stop_after(monkeypatch, *steps):
  """Has training stop where the first run has saved one of these steps."""
  save = Run.save

  def save_and_stop(run, state):
    save(run, state)
    if int(state.step) in steps:
      raise KeyboardInterrupt

  monkeypatch.setattr(Run, "save", save_and_stop)


@pytest.mark.usefixtures("clock")
@pytest.mark.slow
def test_seconds_are_those_of_all_parts_of_an_epoch(tmp_path, monkeypatch):
  stop_after(monkeypatch, 2, 3, 7)
  for _ in range(3):
    with pytest.raises(KeyboardInterrupt):
      loop.train(TOY, (0,), str(tmp_path), checkpoint_seconds=0)
  found = loop.train(TOY, (0,), str(tmp_path), checkpoint_seconds=0)[0]
  lines = Run(str(tmp_path), TOY).metrics()
  assert [line["seconds"] for line in lines] == [4.0, 4.0, 4.0]
  assert (found["seconds"], found["seconds_per_epoch"]) == (12.0, 4.0)


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_seconds_of_steps_that_were_lost_do_not_count(tmp_path, monkeypatch):
  """Killed two steps after the only checkpoint, they are taken again."""
  stop_after(monkeypatch, 2)
  with pytest.raises(KeyboardInterrupt):
    loop.train(TOY, (0,), str(tmp_path), checkpoint_seconds=0)
  monkeypatch.undo()
  with toy_sets.loaded(), monkeypatch.context() as patch:
    ticks = itertools.count(0, 10)  # ten times as slow
    fake = types.SimpleNamespace(monotonic=lambda: float(next(ticks)))
    patch.setattr(training_job, "time", fake)
    patch.setattr(training_job, "_SECONDS_PER_DISPATCH", 0)

    def kill(seeds, lines):
      raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # nothing saved since step 2
      loop.train(
        TOY, (0,), str(tmp_path), checkpoint_seconds=1e9, progress=kill
      )
    loop.train(TOY, (0,), str(tmp_path), checkpoint_seconds=1e9)
  seconds = [k["seconds"] for k in Run(str(tmp_path), TOY).metrics()]
  assert seconds == [2 + 20, 40, 40]


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_seeds_have_equal_shares_and_keep_their_own_parts(
  tmp_path, monkeypatch
):
  """The first seed was trained alone for half an epoch, both then together."""
  stop_after(monkeypatch, 2)
  for seed in (0, 1):
    with pytest.raises(KeyboardInterrupt):
      loop.train(TOY, (seed,), str(tmp_path), checkpoint_seconds=0)
  monkeypatch.setattr(Run, "save", lambda run, state: None)
  loop.train(TOY, (0, 1), str(tmp_path))
  for seed in (0, 1):
    settings = dataclasses.replace(TOY, seed=seed)
    lines = Run(str(tmp_path), settings).metrics()
    assert [line["seconds"] for line in lines] == [2 + 1, 2, 2]


def poison_after(monkeypatch, part):
  """Has the last step of training leave NaN in a part of the state."""
  step = trainer.Trainer.train

  def train_and_poison(program, states, data, num_steps):
    states = step(program, states, data, num_steps)
    if int(states.step[0]) < 12:
      return states
    leaves, kind = jax.tree.flatten(getattr(states, part))
    first = next(i for i, x in enumerate(leaves) if x.dtype == jnp.float32)
    leaves[first] = leaves[first].at[(0,) * leaves[first].ndim].set(jnp.nan)
    return states._replace(**{part: jax.tree.unflatten(kind, leaves)})

  monkeypatch.setattr(trainer.Trainer, "train", train_and_poison)


@pytest.mark.parametrize(
  "part", ["params", pytest.param("optimiser", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_a_state_that_is_not_finite_is_no_end(part, tmp_path, monkeypatch):
  poison_after(monkeypatch, part)
  with pytest.raises(RunError, match="parameters are not finite after"):
    loop.train(TOY, (0,), str(tmp_path))
  run = Run(str(tmp_path), TOY)
  assert run.failed and not run.done
  assert run.saved_step() < 12


@pytest.mark.slow
def test_poses_that_are_not_finite_are_no_end(tmp_path, monkeypatch):
  evaluate = trainer.Trainer.evaluate

  def evaluate_badly(*args):
    return [
      found._replace(
        pose=np.full_like(found.pose, np.nan), loss=found.loss + np.inf
      )
      for found in evaluate(*args)
    ]

  monkeypatch.setattr(trainer.Trainer, "evaluate", evaluate_badly)
  with pytest.raises(RunError, match="poses are not finite"):
    loop.train(TOY, (0,), str(tmp_path))
  run = Run(str(tmp_path), TOY)
  assert run.failed and not run.done
  text = (run.path / "metrics.jsonl").read_text()
  for line in text.splitlines():  # valid JSON nevertheless
    assert json.loads(line, parse_constant=pytest.fail)["eval_loss"] is None


@pytest.mark.slow
def test_a_run_of_another_process_is_one_line_and_the_others_go_on(
  tmp_path, capsys
):
  waiting = [
    jobs.Job(dataclasses.replace(TOY, epochs=1, learning_rate=rate), (0, 1))
    for rate in (0.01, 0.02)
  ]
  taken = Run(str(tmp_path), waiting[0].settings).path
  with files_test.held(taken) as other:
    told = f"another process is training {taken} .process {other.pid} on"
    errors = running.run_all(waiting, str(tmp_path), [jax.devices()[:1]])
    result = scripts.run(
      "train", "--network=CNN", "--epochs=1", "--width=0.0625",
      "--batch_size=24", "--learning_rate=0.01", "--eval_passes=1",
      f"--workdir={tmp_path}",
    )  # fmt: skip
  with pytest.raises(RunError, match=told):
    running.raise_if_any(errors)
  assert len(errors) == 1
  done = [
    Run(str(tmp_path), settings).done
    for job in waiting
    for settings in job.members()
  ]
  assert done == [False, True, True, True]
  assert capsys.readouterr().out.count("another process") == 1
  assert result.returncode == 1
  (line,) = result.stderr.splitlines()
  assert line.startswith("error: another process is training")
  # The other one is dead: its lock is no obstacle.
  assert running.run_all(waiting, str(tmp_path), [jax.devices()[:1]]) == []


@pytest.mark.slow
def test_without_locks_a_second_process_is_noticed_all_the_same(
  tmp_path, monkeypatch
):
  """As in a bucket: the one that is behind stops, and harms nothing."""
  settings = dataclasses.replace(TOY, epochs=1)

  monkeypatch.setattr(Run, "claimed", lambda run: pytest.MonkeyPatch.context())
  append = Run.append

  def append_late(run, line):
    monkeypatch.setattr(Run, "append", append)
    loop.train(settings, (0,), str(tmp_path))
    append(run, line)

  monkeypatch.setattr(Run, "append", append_late)
  with pytest.raises(RunError, match="already has step 4.*another proc"):
    loop.train(settings, (0,), str(tmp_path))
  assert Run(str(tmp_path), settings).results()["error"] > 0


@pytest.mark.slow
def test_metrics_without_a_checkpoint_are_not_dropped_silently(
  tmp_path, capsys
):
  once = dataclasses.replace(TOY, epochs=1)
  loop.train(once, (0,), str(tmp_path))
  path = Run(str(tmp_path), once).path
  assert "no checkpoint" not in capsys.readouterr().out
  shutil.rmtree(path / "checkpoints")
  (path / "DONE").unlink()
  loop.train(once, (0,), str(tmp_path))
  told = f"{path} has no checkpoint: its metrics of 1 epoch"
  assert capsys.readouterr().out.count(told) == 1


@pytest.mark.slow
def test_metrics_that_lack_epochs_are_not_gone_on_from(tmp_path, monkeypatch):
  stop_after(monkeypatch, 8)
  with pytest.raises(KeyboardInterrupt):
    loop.train(TOY, (0,), str(tmp_path), checkpoint_seconds=0)
  monkeypatch.undo()
  path = Run(str(tmp_path), TOY).path / "metrics.jsonl"
  whole = path.read_text()
  for damaged in ("", whole.split("\n")[1] + "\n", "{}\n", "no json\n"):
    path.write_text(damaged)
    with toy_sets.loaded(), pytest.raises(RunError) as caught:
      loop.train(TOY, (0,), str(tmp_path))
    assert "metrics.jsonl" in str(caught.value)
    assert f"delete {path.parent}" in str(caught.value)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--workdir=http://host/runs"], "workdir='http.*accepted: a local"),
    (["--workdir=s3://bucket/runs"], "workdir='s3.*accepted: a local"),
    (["--workdir="], "workdir=''.*accepted: a local"),
    (["--data_dir=ftp://host/sets"], "data_dir='ftp.*accepted: a local"),
    (["--data_dir=file:///sets"], "data_dir='file.*accepted: a local"),
  ],
)
@pytest.mark.slow
def test_places_of_another_kind_are_one_clear_line(flags, message, tmp_path):
  where = [] if "workdir" in flags[0] else [f"--workdir={tmp_path}"]
  for name in ("train", "sweep"):
    result = scripts.run(name, *where, *flags)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in message.split(".*"))
  assert not list(tmp_path.iterdir())
