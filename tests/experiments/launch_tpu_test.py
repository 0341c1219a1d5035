"""Launching on Cloud TPU, with a stand-in for gcloud that runs it all here."""

import json
import os
import pathlib
import re
import shlex
import shutil
import sys
import tarfile
import time

from absl.testing import parameterized
import pytest

from experiments.lib import tpu_launch, tpu_vm
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
  # Installing uv; all other calls are what they were, and faster.
  executable(
    tmp_path / "bin" / "python3",
    f'#!/bin/bash\n[ "$2" = pip ] || exec {sys.executable} -IS "$@"\n',
  )
  executable(
    tmp_path / "bin" / "tail",
    f'#!/bin/bash\nexec {shutil.which("tail")} -s 0.05 "$@"\n',
  )
  executable(tmp_path / "python", PYTHON)
  for host in range(4):
    executable(tmp_path / f"host{host}" / ".local" / "bin" / "uv", UV)
  monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
  monkeypatch.setenv("WORLD", str(tmp_path))
  monkeypatch.setenv("HOSTS", "1")
  return tmp_path


@pytest.fixture
def small_commit(world):
  """Packs one file as the last commit."""
  packed = world / "packed.tar.gz"
  with tarfile.open(packed, "w:gz") as archive:
    archive.add(ROOT / "setup.py", "setup.py")
  copy = f'cp {packed} "$(echo "$*" | sed "s/.*--output=//; s/ HEAD//")"'
  executable(world / "bin" / "git", f"#!/bin/bash\n{copy}\n")


def plan(script, kind="v5e-8", delete=True, **options):
  options = {"zone": "us-west4-a", **options}
  node = tpu_vm.Node(name="stn", tpu=tpu_vm.parse(kind), **options)
  return node.steps(script, delete=delete)


def calls(world):
  lines = (world / "calls").read_text().splitlines()
  return [json.loads(line) for line in lines]


def ran(world, host=0):
  return json.loads((world / f"host{host}" / "ran").read_text())


@pytest.mark.slow
def test_all_of_it_with_flags_of_any_value(world, capfd):
  awkward = [
    "--only=C[01]$|'x' \"y\" & z",
    "--data_dir=a b",
    "--workdir=~/$HOME",
  ]
  tpu_launch.launch(plan(["sweep", *awkward], spot=True), delete=True)
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


@pytest.mark.usefixtures("small_commit")
@pytest.mark.slow
def test_a_slice_runs_on_all_hosts(world, monkeypatch):
  monkeypatch.setenv("HOSTS", "4")
  tpu_launch.launch(plan(["train", "--width=1"], "v4-32"), delete=True)
  for host in range(4):
    assert ran(world, host)[2:] == [
      "experiments.train",
      "--width=1",
      "--distributed",
    ]


@pytest.mark.usefixtures("small_commit")
@pytest.mark.slow
def test_a_script_that_fails_gives_the_tpu_back_and_says_so(world, monkeypatch):
  monkeypatch.setenv("STATUS", "3")
  with pytest.raises(ValueError, match="could not show.*same command"):
    tpu_launch.launch(plan(["train"]), delete=True)
  assert not (world / "state").exists()
  monkeypatch.setenv("STATUS", "0")
  tpu_launch.launch(plan(["train"]), delete=True)


def test_a_tpu_that_is_taken_away_while_it_is_waited_for(world, monkeypatch):
  monkeypatch.setenv("NEXT", "SUSPENDED")
  with pytest.raises(ValueError, match="could not wait"):
    tpu_launch.launch(plan(["train"]), delete=True)
  assert not (world / "state").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small_commit")
def test_a_tpu_that_is_kept_is_used_again(world):
  for _ in range(2):
    tpu_launch.launch(plan(["train"], delete=False), delete=False)
  assert (world / "state").read_text() == "ACTIVE"
  assert [call[3] for call in calls(world)].count("create") == 1


@pytest.mark.slow
@pytest.mark.usefixtures("small_commit")
def test_a_spot_tpu_that_was_taken_away_is_asked_for_anew(world, monkeypatch):
  monkeypatch.setenv("NEXT", "SUSPENDED")
  kept = plan(["train"], delete=False, spot=True)
  with pytest.raises(ValueError, match="could not wait"):
    tpu_launch.launch(kept, delete=False)
  monkeypatch.setenv("NEXT", "ACTIVE")
  tpu_launch.launch(kept, delete=False)
  done = [call[3] for call in calls(world) if call[3] in ("create", "delete")]
  assert done == ["create", "delete", "create"]
  assert ran(world)[2] == "experiments.train"


@pytest.mark.usefixtures("small_commit")
@pytest.mark.slow
def test_a_script_that_still_runs_is_stopped_first(world, monkeypatch):
  monkeypatch.setenv("SLOW", "1")
  *start, _ = plan(["train"], delete=False)
  tpu_launch.launch(start, delete=False)
  monkeypatch.delenv("SLOW")
  log = world / "host0" / "stnjax.log"
  while not log.exists() or "trained" not in log.read_text():
    # Once it trains, it can be stopped.
    time.sleep(0.01)
  install = start[3]
  assert install.title == "install it there"
  tpu_launch.launch([install], delete=False)
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
    found = tpu_vm.parse(text)
    self.assertEqual((found.accelerator, found.hosts), (accelerator, hosts))

  @parameterized.parameters("v5e", "v5e-0", "v5e-2", "v5e-12", "v4-4", "h100-8")
  def test_unknown(self, text):
    with self.assertRaisesRegex(ValueError, f"--type='{text}'.*accepted: v5e"):
      tpu_vm.parse(text)


CLOUD = "--workdir=gs://bucket/runs"


def script(*flags):
  return scripts.run("launch_tpu", *flags)


@pytest.fixture
def checks_here(monkeypatch):
  """Forks instead of starting an interpreter, with all that it would import."""

  def run(command, **_):
    assert command[1] == "-m"
    name = command[2].removeprefix("experiments.")
    done = scripts.run(name, *command[3:])
    assert "Traceback" not in done.stderr
    return done

  monkeypatch.setattr(tpu_launch.subprocess, "run", run)


OWN = "--imports=docs/examples/my_objects.py --backbone=three_stages"


def check(words, kind="v5e-8", name="stn", nodes=1):
  tpu_launch.check(name, tpu_vm.parse(kind), shlex.split(words), nodes, True)


@pytest.mark.parametrize(
  "words, options, message",
  [
    ("", {}, "the script is missing after --"),
    ("claims", {}, "accepted: -- and one of train, sweep"),
    (f"sweep {CLOUD}", {"kind": "v5e-64"}, "one host.*--nodes"),
    (f"train {CLOUD}", {"nodes": 2}, "train has one run"),
    (f"train {CLOUD}", {"name": "A_b"}, "--name='A_b'"),
    (f"sweep {CLOUD} --shard=0/2", {"nodes": 2}, "--nodes gives each TPU its"),
  ],
)
def test_scripts_that_cannot_be_launched(words, options, message):
  with pytest.raises(ValueError, match=message):
    check(words, **options)


@pytest.mark.parametrize(
  "flags, message",
  [
    (["--", "train", CLOUD], "--zone"),
    (["--zone=", "--", "train", CLOUD], "--zone="),
    (["--zone=z", "--nodes=9999", "--", "sweep", CLOUD], "--nodes=9999"),
    (["--zone=z", "--type=v5e-2", "--", "train", CLOUD], "--type='v5e-2'"),
  ],
)
def test_wrong_flags(flags, message):
  result = script(*flags)
  assert result.returncode
  assert message in result.stderr
  assert "Traceback" not in result.stderr


FLAGS = [
  ("train", "runs would be lost.*gs://"),
  ("sweep --sedes=0", "Unknown command line flag 'sedes'"),
  ("train --flagfile=x", "--flagfile=x does not go with launch_tpu"),
  ("sweep --help", "--help does not go with launch_tpu"),
  ("sweep --dataset=fashion", "dataset='fashion' is unknown; accepted"),
  ("paper --list", "--list does not go with launch_tpu"),
  ("sweep --process_id=0", "--process_id=0 does not go with launch_tpu"),
  ("train --coordinator h:1", "--coordinator does not go with launch_tpu"),
  ("sweep --dataset=mnist", "--dataset=mnist is not on the TPU's disk"),
  ("train --data_dir=/here", "--dataset=mnist_subset is not on the TPU's"),
]
MORE_FLAGS = [
  ("train -- --workdir=runs", "unexpected argument '--workdir=runs'"),
  ("train --width", "Missing value for flag --width"),
  ("sweep --workdir runs", "runs would be lost.*--workdir=runs"),
  ("sweep --seeds=a", "--seeds must be whole numbers"),
  ("sweep --workdir=runs", "runs would be lost.*--workdir=runs"),
  ("sweep --noworkdir", "Unknown command line flag 'noworkdir'"),
  ("train --network=foo", "network='foo' is unknown"),
  ("paper", "--preset is missing"),
  ("sweep --workdir=gs://", "workdir='gs://' is not supported"),
  ("paper --preset=rotation --workdir=gs:///x", "workdir='gs:///x' is not"),
  ("train --data_dir=http://x", "data_dir='http://x' is not supported"),
  ("paper --preset=cifar --size=full", "--dataset=cifar10 is not on the"),
]


@pytest.mark.parametrize(
  "words, message",
  [
    *FLAGS,
    *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_FLAGS),
  ],
)
def test_flags_of_the_script_are_checked_first(words, message, checks_here):
  name, *flags = words.split(" ", 1)
  cloud = [CLOUD] if flags or name == "paper" else []
  with pytest.raises(ValueError, match=message) as error:
    check(" ".join([name, *cloud, *flags]))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  "words",
  [
    f"train {CLOUD} --dataset=mnist --data_dir=gs://b/sets",
    f"train {CLOUD} --dataset=street_digits",
    "sweep --workdir gs://bucket/runs",
    f"train {CLOUD} --dataset=bars --perturbation=lean {OWN}",
  ],
)
def test_scripts_whose_files_the_tpu_reaches(words, checks_here):
  check(words)


GUIDE = (ROOT / "docs" / "cloud_tpu.md").read_text()
COMMANDS = re.findall(r"python -m experiments\.launch_tpu (.+)", GUIDE)


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_scripts_of_the_guide(line, checks_here):
  flags, _, words = line.partition(" -- ")
  values = dict(re.findall("--([a-z]+)=([^ ]+)", flags))
  nodes = int(values.get("nodes", 1))
  check(words, values["type"], values["name"], nodes)


@pytest.mark.slow
@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_guide(line):
  assert "--nodry_run" in line
  result = script(*shlex.split(line.replace("--nodry_run", "--dry_run")))
  assert result.returncode == 0, result.stderr
  name, *flags = shlex.split(line.partition(" -- ")[2])
  assert f"-m experiments.{name} {shlex.join(flags)}" in result.stdout


def test_readme_has_commands():
  assert COMMANDS


@pytest.mark.slow
def test_it_prints_the_commands_of_each_node():
  options = "--zone=us-west4-a", "--nodes=2", "--spot", "--project=p"
  result = script(*options, "--", "sweep", CLOUD)
  assert result.returncode == 0, result.stderr
  expected = []
  for index in range(2):
    node = tpu_vm.Node(
      name=f"stnjax-{index}",
      tpu=tpu_vm.parse("v5e-8"),
      zone="us-west4-a",
      project="p",
      spot=True,
    )
    expected += node.steps(["sweep", CLOUD, f"--shard={index}/2"])
  printed = result.stdout.splitlines()
  assert printed[1::2] == [step.command for step in expected]
  assert printed[::2] == [f"# {step.title}" for step in expected]
