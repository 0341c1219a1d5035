"""Several processes on this machine: as one, with one lost, and in a sweep."""

import dataclasses
import os
import re
import shutil
import signal
import socket
import time

import jax
import numpy as np
import pytest

from experiments.lib import loop
from experiments.lib.signals import Interrupted
from stnjax.training import config, records
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import scripts, toy_sets

TOYS = toy_sets.SETTINGS
HOUSE_NUMBERS = dataclasses.replace(
  TOYS,
  network="STN-C0",
  dataset="street_numbers",
  perturbation="none",
  downsample=2,
  optimiser="sgd",  # adam blows up rounding where a gradient vanishes
  learning_rate=0.003,
)


def flags_of(settings, **others):
  """The flags that say these settings, where they are not the defaults."""
  values = {**dataclasses.asdict(settings), **others}
  default = dataclasses.asdict(Settings())
  del values["seed"]
  return [
    f"--{name}={value}"
    for name, value in values.items()
    if value != default.get(name)
  ]


def start_together(module, flags, count, devices=1):
  """Starts a script as so many processes that know of each other."""
  with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
  env = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
  together = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
  return [
    scripts.Script(*module, *flags, *together, f"--process_id={i}", env=env)
    for i in range(count)
  ]


def finish_all(processes):
  """Waits for scripts, none of which may fail; what they printed."""
  ends = [scripts.finish(process) for process in processes]
  for code, _, err in ends:
    assert code == 0, err
  return [out for _, out, _ in ends]


def train_here(settings, workdir):
  """What a run computes in this process, on one device."""
  with toy_sets.loaded():
    loop.train(settings, (0,), str(workdir), devices=jax.devices()[:1])
  return scripts.metrics(workdir, settings)


def assert_close(found, expected):
  """Asserts that two runs have the same results but for rounding."""
  lines, results, arrays = found
  assert len(lines) == len(expected[0])
  for line, other in zip((*lines, results), (*expected[0], expected[1])):
    for name in line.keys() & {
      "train_loss",
      "train_error",
      "eval_loss",
      "error",
    }:
      assert line[name] == pytest.approx(other[name], rel=1e-5), name
  np.testing.assert_allclose(
    arrays["pose"], expected[2]["pose"], rtol=1e-4, atol=1e-4
  )
  for name in set(arrays) - {"pose", "predicted", "before", "after"}:
    rounding = 0.01 * name.startswith("predicted_")  # computed from poses
    rounding += name.startswith("warped")  # a grey level
    np.testing.assert_allclose(
      arrays[name], expected[2][name], rtol=0, atol=rounding
    )


@pytest.fixture(
  scope="module",
  params=["digits", "house_numbers"],
)
def begun(request, tmp_path_factory):
  """A run stopped on four devices, and how it ends on one.

  Its transformer has left the identity, where it would sample on the kinks of
  bilinear sampling, and rounding decide between their slopes.
  """
  settings = TOYS if request.param == "digits" else HOUSE_NUMBERS

  def stop(seeds, lines):
    del seeds, lines
    os.kill(os.getpid(), signal.SIGINT)

  folder = tmp_path_factory.mktemp(request.param)
  with toy_sets.loaded():
    assert len(jax.devices()) == 4
    with pytest.raises(Interrupted, match="after step 4"):
      loop.train(settings, (0,), f"{folder}/begun", progress=stop)
  shutil.copytree(f"{folder}/begun", f"{folder}/one")
  ended = train_here(settings, f"{folder}/one")
  assert np.abs(ended[2]["pose"] - np.eye(2, 3)).min() > 0
  assert ended[1]["hardware"].startswith("1 x cpu")
  return settings, f"{folder}/begun", ended


@pytest.mark.slow
@pytest.mark.parametrize("count, devices", [(1, 4), (2, 2), (4, 1)])
def test_other_devices_and_processes_end_the_same(
  count, devices, begun, tmp_path
):
  settings, folder, ended = begun
  shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
  flags = flags_of(settings, workdir=tmp_path)
  outs = finish_all(
    start_together(["tests.toy_sets", "train"], flags, count, devices)
  )
  for out in outs:
    assert "resumed after step 4" in out
    assert "epoch 1/3" not in out
  found = scripts.metrics(tmp_path, settings)
  assert found[1]["hardware"].startswith(f"{count * devices} x cpu")
  assert_close(found, ended)


@pytest.mark.slow
@pytest.mark.parametrize(
  "lost, seconds",
  [(0, 30), (1, 150)],
)
def test_one_that_is_lost_ends_the_other_and_both_go_on(
  lost, seconds, tmp_path
):
  """The first one coordinates: without it the other hears at once."""
  settings = dataclasses.replace(TOYS, network="CNN", epochs=10)
  module = ["tests.toy_sets", "train"]
  flags = flags_of(settings, workdir=tmp_path / "lost", checkpoint_seconds=0.01)
  both = start_together(module, flags, 2)
  checkpoints = config.folder(f"{tmp_path}/lost", settings) / "checkpoints"
  while not list(checkpoints.glob("[1-9]?")):
    assert both[0].poll() is None, both[0].communicate()
    time.sleep(0.01)
  both[lost].send_signal(signal.SIGKILL)
  code, _, err = scripts.finish(both[1 - lost], timeout=seconds)
  assert code == -signal.SIGABRT
  assert scripts.finish(both[lost])[0] == -signal.SIGKILL
  for _ in range(100):  # its last words come after it
    if "error:" in err:
      break
    time.sleep(0.1)
    err = both[1 - lost].communicate()[1]
  assert err.endswith(
    "start all of them again to resume from the last checkpoints\n"
  )
  outs = finish_all(start_together(module, flags, 2))
  assert re.search(r"resumed after step \d\d", outs[0])
  assert_close(
    scripts.metrics(tmp_path / "lost", settings),
    train_here(settings, tmp_path / "whole"),
  )


@pytest.mark.slow
def test_a_sweep_is_shared_out(tmp_path):
  settings = dataclasses.replace(TOYS, epochs=1, network="CNN")
  flags = flags_of(settings, network="STN-SL1", workdir=tmp_path / "two")
  flags += ["--kinds=CNN,C", "--depths=0,1"]
  outs = finish_all(start_together(["tests.toy_sets", "sweep"], flags, 2, 2))
  assert "process 0 of 2 trains 2 jobs" in outs[0]
  assert "process 1 of 2 trains 1 job, on 2 devices each" in outs[1]
  assert "CNN" in outs[0] and "STN-C1" in outs[0] and "STN-C0" in outs[1]
  assert "report: " in outs[0] and "report: " not in outs[1]
  report = (tmp_path / "two" / "report" / "report.md").read_text()
  assert all(f"| {name} |" in report for name in ("CNN", "STN-C0", "STN-C1"))
  two = scripts.metrics(tmp_path / "two", settings)
  assert two[1]["hardware"].startswith("1 x cpu")
  assert_close(two, train_here(settings, tmp_path / "one"))
  split = dataclasses.replace(settings, network="STN-C0")  # on two devices
  assert scripts.metrics(tmp_path / "two", split)[1]["hardware"][0] == "2"


@pytest.mark.slow
def test_a_run_that_failed_fails_its_process_alone(tmp_path):
  settings = dataclasses.replace(TOYS, epochs=1, network="STN-C0")
  broken = Run(str(tmp_path), settings)
  broken.start(toy_sets.task_of(settings))
  broken.fail("the loss is not finite")
  flags = [*flags_of(settings, workdir=tmp_path, network="STN-SL1")]
  flags += ["--networks=CNN STN-C0"]
  both = start_together(["tests.toy_sets", "sweep"], flags, 2)
  (code, out, err), (failed, _, message) = map(scripts.finish, both)
  assert code == 0, err
  assert "report: " in out
  assert failed == 1
  assert message.rstrip().endswith("the loss is not finite")
  assert "another process" not in err + message


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_waits_can_be_stopped(number, tmp_path):
  settings = dataclasses.replace(TOYS, epochs=500, network="CNN")
  flags = flags_of(settings, workdir=tmp_path, network="STN-SL1")
  flags += ["--networks=STN-C0 CNN"]
  done = Run(str(tmp_path), dataclasses.replace(settings, network="STN-C0"))
  toy_sets.finish(done)
  first, other = start_together(["tests.toy_sets", "sweep"], flags, 2)
  folder = config.folder(str(tmp_path), settings)
  while len(records.read_metrics(folder)) < 3:
    time.sleep(0.05)
  first.send_signal(number)
  code, _, err = scripts.finish(first, timeout=30)
  assert code == 128 + number
  assert "stopped while waiting for the others (the report)" in err
  assert scripts.finish(other, timeout=60)[0] == -signal.SIGABRT


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--num_processes=2"], "--coordinator, --num_processes and --process_id"),
    (["--process_id=-1"], "--process_id=-1"),
  ],
)
def test_mistakes(flags, message, tmp_path):
  process = scripts.start("train", *flags, f"--workdir={tmp_path}")
  code, _, err = scripts.finish(process)
  assert code != 0
  assert "Traceback" not in err
  assert message in err
  assert not list(tmp_path.iterdir())


def test_a_shard_is_refused_for_connected_processes(tmp_path):
  flags = ["--shard=0/2", f"--workdir={tmp_path}"]
  for process in start_together(["experiments.sweep"], flags, 2):
    code, _, err = scripts.finish(process)
    assert code != 0
    assert "error: --shard=0/2 is for processes that are not connected" in err
