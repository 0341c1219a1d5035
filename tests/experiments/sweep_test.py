"""How a sweep chooses its runs, shares them out, and trains side by side."""

import dataclasses
import os
import signal
from unittest import mock

import jax
import pytest

from experiments.lib import hardware, jobs, loading, loop, progress, running
from experiments.lib.signals import Interrupted
from experiments.reporting import sweeping
from stnjax.files import RunError
from stnjax.training import building
from stnjax.training.run_folder import Run
from tests import scripts, toy_sets

TOY = toy_sets.SETTINGS


def test_sweep_lists_networks_by_depth():
  assert jobs.sweep_networks(jobs.DEFAULT_KINDS, [0, 1, 2]) == [
    "CNN", "STN-C0", "STN-C1", "STN-C2", "STN-DL1", "STN-DL2", "STN-SL1",
    "STN-SL2",
  ]  # fmt: skip
  assert jobs.sweep_networks(["SL"], [0, 1]) == ["STN-C0", "STN-SL1"]
  assert jobs.sweep_networks(["GCNN", "SL", "CNN"], [1, 2]) == [
    "GCNN", "STN-SL1", "STN-SL2", "CNN",
  ]  # fmt: skip
  assert jobs.sweep_networks(["UCN", "DEF", "C"], [0, 1]) == [
    "STN-UCN0", "STN-UCN1", "DEF0", "DEF1", "STN-C0", "STN-C1",
  ]  # fmt: skip


def test_shards_share_the_selected_runs_without_overlap():
  every = [
    jobs.Job(dataclasses.replace(TOY, network=name), (0, 1, 2))
    for name in ("CNN", "STN-C0", "STN-C1", "STN-SL1", "STN-SL2")
  ]

  def names(jobs):
    return [s.name for job in jobs for s in job.members()]

  only = jobs.select(every, "STN-C1", "0/1")
  assert only == [every[2]]
  some = jobs.select(every, "STN-(C1|SL1).*seed_[12]", "0/1")
  assert [job.seeds for job in some] == [(1, 2), (1, 2)]
  assert [job.settings.seed for job in some] == [1, 1]
  shards = [jobs.select(every, None, f"{i}/4") for i in range(4)]
  assert sorted(names(sum(shards, []))) == sorted(names(every))
  assert len(set(names(every))) == 15


@pytest.mark.parametrize(
  "networks, seeds, count, expected",
  [
    (5, 2, 2, [[("0", (0, 1)), ("2", (0, 1)), ("4", (0, 1))],
               [("1", (0, 1)), ("3", (0, 1))]]),
    (1, 3, 2, [[("0", (0, 2))], [("0", (1,))]]),
    (1, 1, 2, [None, None]),
    (2, 2, 5, [None] * 5),
  ],
)  # fmt: skip
def test_what_each_process_takes(networks, seeds, count, expected):
  every = [
    jobs.Job(
      dataclasses.replace(TOY, network=f"STN-C{i % 3}", epochs=i + 1),
      tuple(range(seeds)),
    )
    for i in range(networks)
  ]
  for index, share in enumerate(expected):
    mine = jobs.jobs_for_process(every, count, index)
    if mine is not None:
      for job in mine:
        assert job.settings.seed == job.seeds[0]
      mine = [(str(job.settings.epochs - 1), job.seeds) for job in mine]
    assert mine == share


@pytest.mark.parametrize(
  "networks, seeds, devices, splittable, expected",
  [
    (1, 1, 4, True, ["abcd"]),  # a batch
    (1, 1, 4, False, ["a"]),
    (1, 5, 4, True, ["abcd"]),  # of which Trainer takes one
    (2, 1, 4, True, ["ab", "cd"]),
    (3, 1, 8, True, ["ab", "cd", "ef"]),
    (3, 1, 8, False, ["a", "b", "c"]),
    (5, 1, 4, True, ["a", "b", "c"]),  # two rounds, as with four
    (5, 4, 4, True, ["abcd"]),  # 5 rounds, and no device idle
    (5, 5, 4, True, ["a", "b", "c"]),
    (5, 8, 8, False, ["abcdefgh"]),
    (2, 1, 1, True, ["a"]),
  ],
)
def test_groups_of_devices_take_the_least_time(
  networks, seeds, devices, splittable, expected
):
  every = [jobs.Job(TOY, tuple(range(seeds)))] * networks
  groups = jobs.device_groups(every, "abcdefgh"[:devices], splittable)
  assert groups == expected


@pytest.mark.parametrize(
  "optimiser, seeds, devices, gigabytes",
  [("adam", 1, 1, 1.6), ("sgd", 1, 1, 1.2), ("adam", 4, 2, 2.8)],
)
def test_a_network_must_fit_into_memory(optimiser, seeds, devices, gigabytes):
  # Parameters, moments and a gradient of float32: 0.4 GB each of 100 million.
  counted = mock.patch.object(
    hardware.placement, "count_parameters", lambda _: {"total": 10**8}
  )
  settings = dataclasses.replace(TOY, optimiser=optimiser)
  setup = building.find(settings)
  for room, fits in ((1.001, True), (0.999, False)):
    device = mock.Mock()
    device.memory_stats.return_value = {"bytes_limit": room * gigabytes * 1e9}
    with counted:
      if fits:
        hardware.check_memory(settings, setup, seeds, [device] * devices)
        continue
      with pytest.raises(ValueError, match=f"at least {gigabytes} GB.*smaller"):
        hardware.check_memory(settings, setup, seeds, [device] * devices)


NETWORKS = ("CNN", "STN-C0", "STN-SL1")
JOBS = [
  jobs.Job(dataclasses.replace(TOY, network=name), (0,)) for name in NETWORKS
]


@pytest.mark.slow
def test_side_by_side_is_as_one_after_the_other(tmp_path, capsys):
  short = [
    jobs.Job(dataclasses.replace(job.settings, epochs=1), job.seeds)
    for job in JOBS[:2]
  ]
  with toy_sets.loaded():
    assert not sweeping.run_and_report(short, f"{tmp_path}/groups")
    out = capsys.readouterr().out
    one = [jax.devices()[:1]]
    assert not running.run_all(short, f"{tmp_path}/one", one)
  assert len(jax.devices()) == 4
  assert out.startswith("training 2 jobs, 2 at a time, on 2 devices each\n")
  for job in short:
    found, expected = (
      scripts.metrics(tmp_path / kind, job.settings)
      for kind in ("groups", "one")
    )
    (line,), results, _ = found
    assert line["train_loss"] == pytest.approx(
      expected[0][0]["train_loss"], rel=1e-5
    )
    assert results["error"] == expected[1]["error"]
    assert results["hardware"].startswith("2 x cpu")
  assert f"report: {tmp_path}" in out


@pytest.mark.slow
def test_a_signal_stops_all_groups_with_their_states_saved(tmp_path):
  groups = [[device] for device in jax.devices()[:2]]
  every = [
    jobs.Job(dataclasses.replace(TOY, network="CNN", seed=seed), (seed,))
    for seed in range(3)
  ]
  asked = []

  def stop(*_):
    if not asked:
      asked.append(os.kill(os.getpid(), signal.SIGTERM))

  before = signal.getsignal(signal.SIGTERM)
  with (
    toy_sets.loaded(),
    mock.patch.object(progress.Progress, "epoch", stop),
    pytest.raises(Interrupted, match="SIGTERM after step"),
  ):
    running.run_all(every, str(tmp_path), groups)
  assert signal.getsignal(signal.SIGTERM) == before
  steps = [Run(str(tmp_path), job.settings).saved_step() for job in every]
  assert all(steps[:2]) and not steps[2]


def test_all_groups_train_on_the_same_images_in_memory(tmp_path):
  loaded, given = [], []

  def load(settings, data_dir):
    loaded.append(data_dir)
    return building.find(settings), object(), object()

  def keep(settings, *_, load, **__):
    given.append(load(settings)[1:])
    return {0: {"error": 0.5, "seconds": 1.0}}

  groups = [[device] for device in jax.devices()]
  with (
    mock.patch.object(loading, "load", load),
    mock.patch.object(loop, "train", keep),
  ):
    running.run_all(JOBS, str(tmp_path), groups, "there")
  assert loaded == ["there"]
  assert given == [given[0]] * 3


def test_what_fails_unforeseen_ends_the_other_groups(tmp_path, capsys):
  begun = []

  def fail(settings, *_, **__):
    begun.append(settings.network)
    raise MemoryError(settings.network)

  groups = [[device] for device in jax.devices()[:2]]
  with mock.patch.object(loop, "train", fail), pytest.raises(MemoryError):
    running.run_all(JOBS * 9, str(tmp_path), groups)
  assert len(begun) <= 2
  assert "others end their jobs" in capsys.readouterr().out


def test_a_run_that_cannot_be_finished_leaves_the_others_alone(
  tmp_path, capsys
):
  def train_but_one(settings, *_, **__):
    if settings.network == "STN-C0":
      raise RunError("not finite")
    return {0: {"error": 0.5, "seconds": 1.0}}

  groups = [[device] for device in jax.devices()[:2]]
  with mock.patch.object(loop, "train", train_but_one):
    errors = running.run_all(JOBS, str(tmp_path), groups)
  assert [str(error) for error in errors] == ["not finite"]
  out = capsys.readouterr().out
  assert "2/3 STN-C0 seed 0: not finite" in out
  assert out.count(", final") == 2
