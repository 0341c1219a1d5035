"""Launching on Cloud TPU, with a stand-in for gcloud that runs it all here."""

import json
import os
import pathlib
import re
import shlex
import sys
import time

from absl.testing import parameterized
import pytest

from experiments import launch_tpu
from tests import scripts

ROOT = pathlib.Path(__file__).parent.parent.parent

# Runs what it is told to run on a machine in the folder of that machine.
GCLOUD = """#!/usr/bin/env python3
import json, os, pathlib, shutil, subprocess, sys
world = pathlib.Path(os.environ["WORLD"])
words = sys.argv[1:]
with (world / "calls").open("a") as file:
  file.write(json.dumps(words) + "\\n")
flags = dict(w[2:].split("=", 1) for w in words if w[:2] == "--" and "=" in w)
assert words[:2] == ["compute", "tpus"] and flags["zone"] == "us-west4-a"
action, name = words[3:5]
state = world / "state"
if action == "create":
  assert not state.exists()
  state.write_text("PROVISIONING")
elif action == "describe":
  if not state.exists():
    sys.exit(1)
  print(state.read_text())
  state.write_text(os.environ.get("NEXT", "ACTIVE"))
elif action == "delete":
  state.unlink(missing_ok=True)
elif action == "scp":
  for host in range(int(os.environ["HOSTS"])):
    shutil.copy(name, world / f"host{host}" / words[5].split(":")[1])
else:
  hosts = range(int(os.environ["HOSTS"]))
  if flags["worker"] != "all":
    hosts = [int(flags["worker"])]
  for host in hosts:
    home = world / f"host{host}"
    done = subprocess.run(
      ["bash", "-c", flags["command"]], env={**os.environ, "HOME": str(home)}
    )
    if done.returncode:
      sys.exit(done.returncode)
"""

# Makes an environment whose Python notes its arguments.
UV = """#!/bin/bash
if [ "$1" = venv ]; then
  mkdir -p "${@: -1}/bin"
  cp "$WORLD/python" "${@: -1}/bin/python"
fi
"""
PYTHON = """#!/usr/bin/env python3
import json, os, pathlib, sys
ran = json.dumps([os.getcwd(), *sys.argv[1:]])
(pathlib.Path.home() / "ran").write_text(ran)
print("trained here", flush=True)
if "SLOW" in os.environ:
  import signal, time
  signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(143)))
  time.sleep(60)
sys.exit(int(os.environ.get("STATUS", 0)))
"""


def executable(path, text):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)
  path.chmod(0o755)


@pytest.fixture
def world(tmp_path, monkeypatch):
  executable(tmp_path / "bin" / "gcloud", GCLOUD)
  executable(tmp_path / "bin" / "sleep", "#!/bin/sh\n")
  # Installing uv; all other calls are what they were.
  executable(
    tmp_path / "bin" / "python3",
    f'#!/bin/bash\n[ "$2" = pip ] || exec {sys.executable} "$@"\n',
  )
  executable(tmp_path / "python", PYTHON)
  for host in range(4):
    executable(tmp_path / f"host{host}" / ".local" / "bin" / "uv", UV)
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("WORLD", str(tmp_path))
  monkeypatch.setenv("HOSTS", "1")
  return tmp_path


def plan(script, kind="v5e-8", **options):
  options = {"zone": "us-west4-a", **options}
  return launch_tpu.steps("stn", launch_tpu.parse(kind), script, **options)


def calls(world):
  lines = (world / "calls").read_text().splitlines()
  return [json.loads(line) for line in lines]


def ran(world, host=0):
  return json.loads((world / f"host{host}" / "ran").read_text())


def test_all_of_it_with_flags_of_any_value(world, capfd):
  awkward = [
    "--only=C[01]$|'x' \"y\" & z",
    "--data_dir=a b",
    "--workdir=~/$HOME",
  ]
  launch_tpu.launch(plan(["sweep", *awkward], spot=True), delete=True)
  where, *arguments = ran(world)
  assert arguments == ["-m", "experiments.sweep", *awkward]
  assert where == str(world / "host0" / "stnjax")
  assert (world / "host0" / "stnjax" / "setup.py").exists()
  assert "trained here" in capfd.readouterr().out
  assert not (world / "state").exists()
  (create,) = (call for call in calls(world) if call[3] == "create")
  assert "--spot" in create
  assert "--accelerator-type=v5litepod-8" in create
  assert "--runtime-version=v2-alpha-tpuv5-lite" in create


def test_a_slice_runs_on_all_hosts(world, monkeypatch):
  monkeypatch.setenv("HOSTS", "4")
  launch_tpu.launch(plan(["train", "--width=1"], "v4-32"), delete=True)
  for host in range(4):
    assert ran(world, host)[2:] == [
      "experiments.train",
      "--width=1",
      "--distributed",
    ]


def test_a_script_that_fails_gives_the_tpu_back_and_says_so(world, monkeypatch):
  monkeypatch.setenv("STATUS", "3")
  with pytest.raises(ValueError, match="could not show.*same command"):
    launch_tpu.launch(plan(["train"]), delete=True)
  assert not (world / "state").exists()
  monkeypatch.setenv("STATUS", "0")
  launch_tpu.launch(plan(["train"]), delete=True)


def test_a_tpu_that_is_taken_away_while_it_is_waited_for(world, monkeypatch):
  monkeypatch.setenv("NEXT", "SUSPENDED")
  with pytest.raises(ValueError, match="could not wait"):
    launch_tpu.launch(plan(["train"]), delete=True)
  assert not (world / "state").exists()


def test_a_tpu_that_is_kept_is_used_again(world):
  for _ in range(2):
    launch_tpu.launch(plan(["train"], delete=False), delete=False)
  assert (world / "state").read_text() == "ACTIVE"
  assert [call[3] for call in calls(world)].count("create") == 1


def test_a_spot_tpu_that_was_taken_away_is_asked_for_anew(world, monkeypatch):
  monkeypatch.setenv("NEXT", "SUSPENDED")
  kept = plan(["train"], delete=False, spot=True)
  with pytest.raises(ValueError, match="could not wait"):
    launch_tpu.launch(kept, delete=False)
  monkeypatch.setenv("NEXT", "ACTIVE")
  launch_tpu.launch(kept, delete=False)
  done = [call[3] for call in calls(world) if call[3] in ("create", "delete")]
  assert done == ["create", "delete", "create"]
  assert ran(world)[2] == "experiments.train"


def test_a_script_that_still_runs_is_stopped_first(world, monkeypatch):
  monkeypatch.setenv("SLOW", "1")
  *start, _ = plan(["train"], delete=False)
  launch_tpu.launch(start, delete=False)
  monkeypatch.delenv("SLOW")
  log = world / "host0" / "stnjax.log"
  while "trained" not in log.read_text():  # it can be stopped now
    time.sleep(0.01)
  install = start[3]
  assert install.title == "install it there"
  launch_tpu.launch([install], delete=False)
  assert "saved" in log.read_text()
  assert (world / "host0" / "stnjax.exit").read_text() == "143\n"


class TypeTest(parameterized.TestCase):
  @parameterized.parameters(
    ("v5e-8", "v5litepod-8", 1),
    ("v5e-4", "v5litepod-4", 1),
    ("v5e-64", "v5litepod-64", 16),
    ("v4-8", "v4-8", 1),
    ("v4-32", "v4-32", 4),
    ("v6e-16", "v6e-16", 4),
    ("v5p-16", "v5p-16", 2),
  )
  def test_known(self, text, accelerator, hosts):
    found = launch_tpu.parse(text)
    self.assertEqual((found.accelerator, found.hosts), (accelerator, hosts))

  @parameterized.parameters("v5e", "v5e-0", "v5e-2", "v5e-12", "v4-4", "h100-8")
  def test_unknown(self, text):
    with self.assertRaisesRegex(ValueError, f"--type='{text}'.*accepted: v5e"):
      launch_tpu.parse(text)


CLOUD = "--workdir=gs://bucket/runs"


def test_a_workdir_may_be_two_words():
  flags = ["--zone=z", "--", "sweep", "--workdir", "gs://bucket/runs"]
  assert script(*flags).returncode == 0


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--zone=z"], "what to run is missing after --"),
    (["--zone=z", "--", "claims"], "accepted: -- and one of train, sweep"),
    (["--", "train", CLOUD], "--zone"),
    (["--zone=z", "--", "train"], "runs would be lost.*gs://"),
    (["--zone=z", "--type=v5e-64", "--", "sweep", CLOUD], "one host.*--nodes"),
    (["--zone=z", "--nodes=2", "--", "train", CLOUD], "not train"),
    (["--zone=z", "--name=A_b", "--", "train", CLOUD], "--name='A_b'"),
    (["--zone=", "--", "train", CLOUD], "--zone="),
    (["--zone=z", "--nodes=9999", "--", "sweep", CLOUD], "--nodes=9999"),
  ],
)
def test_mistakes(flags, message):
  result = script(*flags)
  assert result.returncode
  assert re.search(message, result.stderr), result.stderr


def script(*flags):
  return scripts.run("launch_tpu", *flags)


@pytest.mark.parametrize(
  "words, message",
  [
    ("sweep --sedes=0", "Unknown command line flag 'sedes'"),
    ("sweep --seeds=a", "--seeds must be whole numbers"),
    ("sweep --workdir=runs", "runs would be lost.*--workdir=runs"),
    ("sweep --workdir runs", "runs would be lost.*--workdir=runs"),
    ("sweep --noworkdir", "Unknown command line flag 'noworkdir'"),
    ("train --network=foo", "network='foo' is unknown"),
    ("train --width", "Missing value for flag --width"),
    ("train -- --workdir=runs", "unexpected argument '--workdir=runs'"),
    ("paper", "--preset is missing"),
    ("train --flagfile=x", "--flagfile=x does not go with launch_tpu"),
    ("sweep --help", "--help does not go with launch_tpu"),
    ("paper --list", "--list does not go with launch_tpu"),
    ("sweep --workdir=gs://", "workdir='gs://' is not supported"),
    ("paper --preset=rotation --workdir=gs:///x", "workdir='gs:///x' is not"),
    ("train --data_dir=http://x", "data_dir='http://x' is not supported"),
    ("sweep --dataset=mnist", "--dataset=mnist is not on the TPU's disk"),
    ("train --data_dir=/here", "--dataset=mnist_subset is not on the TPU's"),
    ("paper --preset=cifar --size=full", "--dataset=cifar10 is not on the"),
    ("sweep --process_id=0", "--process_id=0 does not go with launch_tpu"),
    ("train --coordinator h:1", "--coordinator does not go with launch_tpu"),
  ],
)
def test_flags_of_the_script_are_checked_first(words, message, monkeypatch):
  def run_here(command, **_):
    """Stands in for a new interpreter, with all that it would import."""
    assert command[1] == "-m"
    found = scripts.run(command[2].removeprefix("experiments."), *command[3:])
    assert "Traceback" not in found.stderr
    return found

  monkeypatch.setattr(launch_tpu.subprocess, "run", run_here)
  name, *flags = shlex.split(words)
  tpu = launch_tpu.parse("v5e-8")
  with pytest.raises(ValueError, match=message) as error:
    launch_tpu.check("stn", tpu, [name, CLOUD, *flags], 1, True)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "words",
  ["--dataset=mnist --data_dir=gs://b/sets", "--dataset=street_digits"],
)
def test_sets_that_the_tpu_finds_or_draws_are_accepted(words):
  done = script("--zone=z", "--", "train", CLOUD, *words.split())
  assert done.returncode == 0, done.stderr


def test_a_script_keeps_the_share_that_its_node_gives_it():
  tpu = launch_tpu.parse("v5e-8")
  shard = ["sweep", CLOUD, "--shard=0/2"]
  with pytest.raises(ValueError, match="--nodes gives each TPU its share"):
    launch_tpu.check("stn", tpu, shard, 2, True)


README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
  "line", re.findall(r"python -m experiments\.launch_tpu (.+)", README)
)
def test_commands_of_readme(line):
  """They launch a command, whose flags the script has checked."""
  assert "--nodry_run" in line
  result = script(*shlex.split(line.replace("--nodry_run", "--dry_run")))
  assert result.returncode == 0, result.stderr
  name, *flags = shlex.split(line.partition(" -- ")[2])
  assert f"-m experiments.{name} {shlex.join(flags)}" in result.stdout


def test_readme_shows_each_way_to_run():
  assert len(re.findall("launch_tpu .*--nodry_run", README)) == 3


def test_it_prints_what_it_would_run_by_node():
  result = script(
    "--zone=us-west4-a",
    "--nodes=2",
    "--spot",
    "--project=p",
    "--",
    "sweep",
    CLOUD,
  )
  assert result.returncode == 0, result.stderr
  expected = []
  for node in range(2):
    expected += launch_tpu.steps(
      f"stnjax-{node}",
      launch_tpu.parse("v5e-8"),
      ["sweep", CLOUD, f"--shard={node}/2"],
      zone="us-west4-a",
      project="p",
      spot=True,
    )
  printed = result.stdout.splitlines()
  assert printed[1::2] == [step.command for step in expected]
  assert printed[::2] == [f"# {step.title}" for step in expected]
