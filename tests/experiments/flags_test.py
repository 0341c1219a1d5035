"""Flags that cannot be used: one clear line from every script."""

import json
import re
import sys
from unittest import mock

import pytest

from experiments.lib import cli, jobs
from stnjax.training import building
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import scripts, toy_sets

TRAINING = [
  ("--seeds=", "--seeds is empty"),
  ("--seeds=0,,1", "--seeds must be whole numbers.*got 0,,1"),
  ("--seeds=1e3", "--seeds must be whole numbers"),
  ("--seeds=٣", "--seeds must be whole numbers"),
  ("--seeds=1_0", "--seeds must be whole numbers"),
  ("--seeds=2,1,2", "--seeds must differ, got 2,1,2"),
  ("--seeds=4294967296", "seed must be at most 4,294,967,295"),
  ("--seeds=0,-1", "seed must not be negative, got -1"),
  ("--seeds=" + "9" * 5000, "--seeds must be whole numbers"),
  ("--checkpoint_seconds=nan", "--checkpoint_seconds must be a finite"),
  ("--checkpoint_seconds=inf", "--checkpoint_seconds must be a finite"),
  ("--checkpoint_seconds=-1", "--checkpoint_seconds must be a finite"),
  ("--num_processes=2", "--coordinator, --num_processes and --process_id go"),
  (
    "--coordinator=h:1 --num_processes=2 --process_id=2",
    "--process_id=2 must be less than --num_processes=2",
  ),
  (
    "--coordinator=h:99999 --num_processes=2 --process_id=0",
    "--coordinator='h:99999'; accepted: host:port",
  ),
]
SETTINGS = [
  ("--width=1e300", "width must be at most"),
  ("--width=1e30", "width must be positive and less than 524,288"),
  ("--width=1e4", "parameters; accepted: at most 2,147,483,647"),
  ("--width=nan", "width must be positive and finite, got nan"),
  ("--width=inf", "width must be positive and finite, got inf"),
  ("--width=0", "width must be positive and finite, got 0"),
  ("--width=1e-300", "width must be at least 1.18e-38"),
  ("--localisation_width=1e30", "localisation_width must be positive and less"),
  ("--localisation_width=nan", "localisation_width must be positive"),
  ("--epochs=99999999999999999999", "epochs must be at most 2,147,483,647"),
  ("--epochs=2147483647", "steps; accepted: at most 2,147,483,647 steps"),
  ("--batch_size=99999999999", "batch_size must be at most 2,147,483,647"),
  ("--batch_size=10001", "larger than the training set of 10000"),
  (
    "--batch_size=9001 --use_validation_split",
    "larger than the training set of 9000",
  ),
  ("--eval_passes=10001", "eval_passes must be at most 10,000"),
  ("--learning_rate=nan", "learning_rate must be positive and finite"),
  ("--learning_rate=1e39", "learning_rate must be at most 3.4e.38"),
  ("--downsample=29", "downsample must be at most 28"),
  ("--downsample=4", r"image_shape \(7, 7, 1\) is too small"),
  (
    "--dataset=cifar10 --perturbation=none --downsample=16",
    r"image_shape \(2, 2, 3\) is too small",
  ),
  ("--more_iterations=1,a", "--more_iterations must be whole numbers"),
  ("--more_iterations=2,1", "more_iterations must be positive and rise"),
  ("--parameters=100", "parameters=100 for network='.*': no width makes"),
  ("--parameters=9000 --width=0.5", "parameters=9000 chooses the width"),
  ("--train_images=10001", "train_images must be at most 10000"),
]
OBJECTS = [
  ("--backbone=resnet", "backbone='resnet' is unknown; accepted: .*plain"),
  ("--dataset=fashion", "dataset='fashion' is unknown; accepted: .*tfds:NAME"),
  ("--perturbation=blur", "perturbation='blur' is unknown; accepted: none"),
  ("--family=cubic", "family='cubic' is unknown; accepted: .*affine"),
  ("--dataset=folder --backbone=resnet", "backbone='resnet' is unknown"),
  ("--dataset=folder", "'folder' needs data_dir"),
  ("--image_size=64", "image_size=64 is not accepted .*'mnist_subset'"),
  ("--image_size=0", "image_size must be positive and finite, got 0"),
  ("--image_size=small", "--image_size=small"),
  ("--imports=nosuch", "--imports=nosuch: no such module; accepted"),
  ("--imports=tests.nosuch", "--imports=tests.nosuch: no such module"),
  ("--imports=my/nosuch.py", "--imports=my/nosuch.py: no such file"),
  (
    "--imports=docs/examples/my_objects.py --backbone=three_stages --width=0.5",
    "width=0.5: backbone 'three_stages' takes no width",
  ),
]
NETWORKS = [
  (
    "STN-SL1x1000000000",
    "runs the transformer too often; accepted: at most 32",
  ),
  ("STN-SL1x" + "9" * 5000, "runs the transformer too often"),
  ("STN-C" + ",".join("1" * 33), "runs the transformer too often"),
  ("STN-DL1,99999999999", "deeper than any backbone; accepted: 0 to 99"),
  ("DEF" + "9" * 5000, "deeper than any backbone"),
  ("STN-SL1,3", "depth 3 is deeper than the backbone; accepted: 0 to 2"),
  ("STN-SL٣", "is unknown; accepted: CNN"),
  ("STN-SL01", "is unknown; accepted: CNN"),
]
SELECTION = [
  ("--shard=", "--shard='' must be i/n"),
  ("--shard=1/0", "--shard='1/0' must be i/n"),
  ("--shard=٠/٢", "must be i/n"),
  ("--only=(", "--only='.' is not a valid reg"),
  ("--only=xyz", "matches none of"),
]
SWEEP = [
  ("--networks=", "--networks is empty"),
  ("--networks=STN-SL1 STN-SL1x1", "--networks must differ"),
  ("--networks=STN-C1x2 STN-C1,1", "--networks must differ"),
  ("--kinds=", "--kinds is empty"),
  ("--kinds=C,C", "--kinds must differ, got C,C"),
  ("--depths=", "--depths is empty"),
  ("--depths=1,1", "--depths must differ, got 1,1"),
  ("--depths=-1", "--depths must be at least 0, got -1"),
  ("--depths=1,99999999999", "deeper than any backbone"),
]


def ends(name, cases, *others):
  """Asserts that a script refuses each of the flags, in one line."""
  for start in range(0, len(cases), 4):
    batch = cases[start : start + 4]
    processes = [
      scripts.start(name, *others, *re.split(" (?=--)", words))
      for words, _ in batch
    ]
    for (words, message), process in zip(batch, processes, strict=True):
      code, out, err = scripts.finish(process, 60)
      assert code, words
      assert "Traceback" not in err, err
      told = [line for line in err.splitlines() if re.search(message, line)]
      assert len(told) == 1, (words[:80], out, err)
      assert len(told[0]) < 500


def test_train(tmp_path):
  workdir = tmp_path / "runs"
  ends("train", TRAINING[:2] + OBJECTS, f"--workdir={workdir}")
  assert not workdir.exists()


@pytest.mark.slow
def test_train_with_other_flags(tmp_path):
  networks = [(f"--network={name}", said) for name, said in NETWORKS[:2]]
  workdir = tmp_path / "runs"
  cases = TRAINING + SETTINGS[2:4] + SETTINGS[10:12] + networks
  ends("train", cases, f"--workdir={workdir}")
  assert not workdir.exists()


def test_sweep(tmp_path):
  workdir = tmp_path / "runs"
  ends("sweep", SELECTION[:2] + SWEEP[:2], f"--workdir={workdir}")
  assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.parametrize("dry", [["--dry_run"], []])
def test_sweep_with_other_flags(dry, tmp_path):
  cases = SELECTION + SWEEP
  if dry:  # refused by the same lines whether it is or not
    named = [(f"--networks={name}", said) for name, said in NETWORKS]
    cases = cases + TRAINING + SETTINGS + named
  workdir = tmp_path / "runs"
  ends("sweep", cases, *dry, f"--workdir={workdir}")
  assert not workdir.exists()


@pytest.mark.slow
def test_paper(tmp_path):
  common = ["--preset=rotation", "--dry_run", f"--workdir={tmp_path}/runs"]
  ends("paper", TRAINING + SELECTION, *common)
  assert not any(tmp_path.iterdir())


def test_audit(tmp_path):
  ends(
    "audit", [("--images=1", "--images=1"), ("--only=(", "is not a valid reg")]
  )


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
  """The current folder, whose modules are forgotten at the end."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", [*sys.path])
  with mock.patch.dict(sys.modules):
    yield tmp_path


@pytest.mark.parametrize("given", ["{stem}", "{stem}.py", "{folder}/{stem}.py"])
def test_own_modules_are_imported(given, own_folder):
  stem = "objects_of_my_own"
  (own_folder / "beside_it.py").write_text("VALUE = 3\n")
  (own_folder / f"{stem}.py").write_text("from beside_it import VALUE\n")
  cli.import_modules([given.format(stem=stem, folder=own_folder)] * 2)
  assert sys.modules[stem].VALUE == 3


@pytest.mark.parametrize(
  "text, message",
  [
    ("import nosuch", "--imports=own.py: ModuleNotFoundError.*'nosuch'"),
    ("VALUE = 1 / 0", "--imports=own.py: ZeroDivisionError: .*verbosity=1"),
    ("def", "--imports=own.py: SyntaxError"),
    (
      "from stnjax import data; data.DATASETS.register('mnist', 3)",
      "--imports=own.py: ValueError: dataset='mnist' is already registered",
    ),
  ],
)
def test_own_modules_that_fail(text, message, own_folder):
  (own_folder / "own.py").write_text(text)
  with pytest.raises(ValueError, match=message):
    cli.import_modules(["own.py"])


def test_own_file_that_has_the_name_of_another_module(own_folder):
  (own_folder / "json.py").write_text("")
  with pytest.raises(ValueError, match="json.py: another module is named"):
    cli.import_modules(["json.py"])


def test_own_objects_are_known_once_imported(tmp_path):
  flags = ["--imports=docs/examples/my_objects.py", "--dataset=bars"]
  flags += ["--backbone=three_stages", "--perturbation=lean"]
  done = scripts.run("train", "--only_check_args", "--image_size=24", *flags)
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout)["datasets"] == {"bars": False}


def test_the_ends_of_the_range_of_seeds_are_accepted():
  assert cli.seeds(["0", "4294967295"]) == (0, 2**32 - 1)
  assert Settings(seed=2**32 - 1).name.endswith("seed_4294967295")


def test_the_narrowest_network_has_one_filter_a_layer():
  settings = Settings(width=1e-9)
  network = building.abstract_network(settings, building.find(settings))
  kernels = [stage.conv.kernel for stage in network.stages]
  assert [kernel.shape[-1] for kernel in kernels] == [1, 1]


@pytest.mark.slow
def test_flags_are_checked_without_a_look_at_files(tmp_path):
  flags = ["--only_check_args", "--workdir=/dev/null/x", "--dataset=svhn"]
  done = scripts.run("sweep", *flags, "--perturbation=none")
  places = {
    "workdir": "/dev/null/x",
    "data_dir": None,
    "datasets": {"svhn": True},
  }
  assert (done.returncode, json.loads(done.stdout)) == (0, places), done.stderr
  done = scripts.run("paper", "--only_check_args", "--list")
  assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_dry_run_shows_and_refuses_what_training_would(tmp_path):
  flags = ["--dry_run", "--networks=CNN STN-C0 STN-C1", f"--workdir={tmp_path}"]

  def dry(*others):
    process = scripts.start("sweep", *flags, *others, devices=4)
    code, out, err = scripts.finish(process)
    assert "Traceback" not in err
    return code, out.splitlines(), err

  code, lines, err = dry()
  assert code == 0, err
  assert [line.split("  ")[-1] for line in lines[:3]] == ["on one device"] * 3
  assert lines[3:] == ["training 3 jobs, 3 at a time, on 1 device each"]
  code, lines, err = dry("--seeds=0,1,2,3")
  assert code == 0, err
  assert lines[0].endswith("seeds spread over 4 devices")
  assert lines[-1] == "training 3 jobs, on 4 devices each"
  code, _, err = dry("--networks=CNN", "--batch_size=30")
  assert code == 1
  assert "batch_size=30 does not divide by the 4 devices" in err
  code, lines, err = dry("--dataset=mnist", f"--data_dir={tmp_path}")
  assert (code, lines) == (1, [])
  assert "dataset 'mnist' is not prepared" in err
  settings = Settings(network="CNN")
  Run(str(tmp_path), settings).start(toy_sets.task_of(settings))
  code, _, err = dry("--epochs=7")
  assert code == 1
  assert "other settings (epochs: 30 there, 7 here)" in err


def test_kinds_of_one_name_are_refused_in_python_too():
  with pytest.raises(ValueError, match="--kinds must differ"):
    jobs.sweep_networks(["C", "C"], [0])
