"""Runs a script of this project on Cloud TPUs, or prints how.

  python -m experiments.launch_tpu --name=stn --zone=us-west4-a --type=v5e-8 \
    -- sweep --seeds=0,1,2,3,4 --workdir=gs://bucket/runs

prints the commands that ask for a TPU (a queued resource), install this
checkout's last commit on all of its machines, start the script there, show what
it prints until it ends, and give the TPU back. With --nodry_run it runs them;
they need gcloud, logged in, and are safe to repeat: runs that are finished are
skipped, interrupted ones resumed, also after a spot TPU was taken away. The
script checks its flags on this machine before anything is asked for.

On a slice of several hosts `train` trains one network on all chips. `sweep` and
`paper` train independent networks, each too small to be split: give them
--nodes, as many TPUs of one host, each of which takes its --shard.
"""

from collections.abc import Sequence
from concurrent import futures
import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any, NamedTuple

from absl import flags

from experiments.lib import cli
from stnjax.data.prepared import folders

SCRIPTS = ("train", "sweep", "paper")

_PYTHON = '"$HOME"/stnjax/.venv/bin/python'


class Kind(NamedTuple):
  """A version of TPU, as Google Cloud names it."""

  accelerator: str  # prefix of the accelerator type
  runtime: str  # software version of its machines
  units: int  # of the number in the type, on one host of a slice
  most: int  # of them on a machine that is no slice


# https://cloud.google.com/tpu/docs/runtimes; v4 and v5p count cores, two of a
# chip, the others chips.
KINDS = {
  "v4": Kind("v4", "tpu-ubuntu2204-base", 8, 8),
  "v5p": Kind("v5p", "v2-alpha-tpuv5", 8, 8),
  "v5e": Kind("v5litepod", "v2-alpha-tpuv5-lite", 4, 8),
  "v6e": Kind("v6e", "v2-alpha-tpuv6e", 4, 8),
}


class Tpu(NamedTuple):
  """What a type such as v5e-8 stands for."""

  accelerator: str
  runtime: str
  hosts: int


def parse(text: str) -> Tpu:
  """Reads a type.

  Raises:
    ValueError: for one that there is not.
  """
  match = re.fullmatch(r"(v4|v5p|v5e|v6e)-([0-9]{1,5})", text)
  size = int(match[2]) if match else 0
  # Slices double, from a whole host on; v5e and v6e have smaller machines too.
  least = 8 if match and match[1] in ("v4", "v5p") else 1
  if not match or size < least or size & (size - 1) or size == 2:
    raise ValueError(
      f"--type={text!r} is unknown; accepted: v5e or v6e and a number of chips"
      " (1, 4, 8, 16, ...), v4 or v5p and a number of cores (8, 16, 32, ...)"
    )
  kind = KINDS[match[1]]
  hosts = 1 if size <= kind.most else size // kind.units
  return Tpu(f"{kind.accelerator}-{size}", kind.runtime, hosts)


class Step(NamedTuple):
  """A command for a shell, and what it is for."""

  title: str
  command: str


def steps(
  name: str,
  tpu: Tpu,
  script: Sequence[str],
  *,
  zone: str,
  project: str | None = None,
  spot: bool = False,
  delete: bool = True,
) -> list[Step]:
  """The commands for one TPU, in order.

  Args:
    name: of the queued resource and of the TPU.
    tpu: what to ask for.
    script: module in `experiments`, and its flags.
    zone: of Google Cloud.
    project: of Google Cloud; gcloud's own by default.
    spot: whether the TPU may be taken away, and costs less.
    delete: whether to give it back in the end.
  """
  place = [f"--zone={zone}"] + ([f"--project={project}"] if project else [])

  def gcloud(*words: str) -> str:
    return shlex.join(["gcloud", "compute", "tpus", *words, *place])

  def remote(command: str, worker: str = "all") -> str:
    return gcloud(
      "tpu-vm", "ssh", name, f"--worker={worker}", f"--command={command}"
    )

  state = gcloud(
    "queued-resources", "describe", name, "--format=value(state.state)"
  )
  create = gcloud(
    "queued-resources",
    "create",
    name,
    f"--node-id={name}",
    f"--accelerator-type={tpu.accelerator}",
    f"--runtime-version={tpu.runtime}",
    *(["--spot"] if spot else []),
  )
  clean = gcloud("queued-resources", "delete", name, "--force", "--quiet")
  # One that was taken away, or failed, never comes back.
  ask = (
    f'case "$({state} 2> /dev/null)" in "") {create};;'
    f" FAILED|SUSPEND*) {clean} && {create};; esac"
  )
  wait = (
    f'unset state; until [ "${{state:=$({state})}}" = ACTIVE ]; do'
    ' case "$state" in ""|FAILED|SUSPEND*) exit 1;; esac;'
    " sleep 30; unset state; done"
  )
  archive = f"/tmp/{name}.tar.gz"
  copy = shlex.join(
    ["git", "archive", "--format=tar.gz", f"--output={archive}", "HEAD"]
  )
  copy += " && " + gcloud(
    "tpu-vm", "scp", archive, f"{name}:stnjax.tar.gz", "--worker=all"
  )
  # Of an earlier call that ended before its script: which first saves.
  stop = (
    'old="$(cat ~/stnjax.pid 2> /dev/null)";'
    ' if grep -qs stnjax.exit "/proc/$old/cmdline";'
    ' then pkill -P "$old"; tail --pid="$old" -f /dev/null; fi; '
  )
  install = (
    "rm -rf ~/stnjax && mkdir ~/stnjax && tar xzf ~/stnjax.tar.gz -C ~/stnjax"
    # The machines' own Python is too old; uv brings one.
    " && python3 -m pip install -q --user uv"
    " && ~/.local/bin/uv venv -q --python=3.12 ~/stnjax/.venv"
    f" && ~/.local/bin/uv pip install -q --python={_PYTHON}"
    ' -e "$HOME/stnjax[tpu,gcs]"'
  )
  module, *arguments = script
  if tpu.hosts > 1:
    arguments.append("--distributed")
  run = f"{_PYTHON} -m {shlex.join([f'experiments.{module}', *arguments])}"
  background = shlex.quote(f"{run}; echo $? > ~/stnjax.exit")
  start = (
    "cd ~/stnjax && rm -f ~/stnjax.exit && { nohup bash -c"
    f" {background} > ~/stnjax.log 2>&1 < /dev/null &"
    " echo $! > ~/stnjax.pid; }"
  )
  watch = (
    'tail --pid="$(cat ~/stnjax.pid)" -n +1 -F ~/stnjax.log'
    ' && exit "$(cat ~/stnjax.exit)"'
  )
  return [
    Step("ask for the TPU", ask),
    Step("wait until it is there", wait),
    Step("copy the last commit to all of its machines", copy),
    Step("install it there", remote(stop + install)),
    Step("start the script on all of them", remote(start)),
    Step("show what the first one prints, until it ends", remote(watch, "0")),
    *([Step("give the TPU back", clean)] if delete else []),
  ]


def check(
  name: str, tpu: Tpu, script: Sequence[str], nodes: int, delete: bool
) -> None:
  """Raises for what would fail, or lose results, on the TPU.

  Raises:
    ValueError: saying what is accepted.
  """
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", name):
    raise ValueError(
      f"--name={name!r}: accepted: lower-case letters, digits and -, from a"
      " letter on"
    )
  if not script or script[0] not in SCRIPTS:
    raise ValueError(
      f"what to run is missing after --, got {shlex.join(script)!r}; accepted:"
      f" -- and one of {', '.join(SCRIPTS)}, with its flags"
    )
  if tpu.hosts > 1 and script[0] != "train":
    raise ValueError(
      f"{script[0]} runs on one host, and {tpu.accelerator} has {tpu.hosts};"
      " take a smaller --type, and --nodes for several of them"
    )
  if nodes > 1 and script[0] == "train":
    raise ValueError("--nodes shares out the runs of sweep or paper, not train")
  for word in script[1:]:
    flag = word.partition("=")[0].lstrip("-") if word.startswith("-") else ""
    if flag in _REFUSED or nodes > 1 and flag == "shard":
      reason = _REFUSED.get(flag, "--nodes gives each TPU its share")
      raise ValueError(f"{word} does not go with launch_tpu: {reason}")
  added = ["--distributed"] if tpu.hosts > 1 else []
  if nodes > 1:
    added.append(f"--shard=0/{nodes}")
  places = checked([*script, *added])
  workdir, data_dir = places["workdir"], places["data_dir"]
  for dataset in places["datasets"]:
    if not (data_dir or "").startswith("gs://") and folders.needs_preparing(
      dataset, data_dir
    ):
      raise ValueError(
        f"--dataset={dataset} is not on the TPU's disk, with --data_dir="
        f"{data_dir}: give the script a --data_dir=gs://... that has it, or"
        " --dataset=mnist_subset, street_numbers, street_digits or drifters,"
        " without --data_dir"
      )
  if not workdir.startswith("gs://") and (delete or tpu.hosts > 1):
    raise ValueError(
      f"runs would be lost with the TPU's disk, in --workdir={workdir}: give"
      " the script a --workdir=gs://... (or, on one host, keep the TPU with"
      " --nodelete)"
    )


_PRINTS = "it only prints; give it to the script on this machine"
_JOINS = "the hosts of a slice find each other by themselves"
_REFUSED = {
  "flagfile": "the file stays on this machine; write its flags out",
  **dict.fromkeys(
    ("dry_run", "list", "only_check_args", "noonly_check_args"), _PRINTS
  ),
  **dict.fromkeys(("help", "helpshort", "helpfull", "helpxml"), _PRINTS),
  **dict.fromkeys(("coordinator", "num_processes", "process_id"), _JOINS),
}


def checked(script: Sequence[str]) -> dict[str, Any]:
  """Has a script check its own flags, on this machine.

  Args:
    script: Module in `experiments`, and its flags.

  Returns:
    The `workdir`, `data_dir` and `datasets` that it would use.

  Raises:
    ValueError: if it refuses its flags; with what it says.
  """
  module, *arguments = script
  # First, as the last flag could lack a value, and would take it for one.
  command = ["-m", f"experiments.{module}", "--only_check_args", *arguments]
  done = subprocess.run(
    [sys.executable, *command],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )
  printed, said = done.stdout.splitlines(), done.stderr.splitlines()
  if done.returncode or not printed:
    lines = [
      line.strip() for line in said if not line.startswith("Pass --help")
    ]
    told = [re.match("error:|FATAL", line) is not None for line in lines]
    reason = " ".join(lines[told.index(True) :] if any(told) else lines[-1:])
    reason = reason.removeprefix("error: ") or "it prints its help"
    raise ValueError(f"{module} would not start: {reason}")
  return json.loads(printed[-1])


def launch(plan: Sequence[Step], delete: bool) -> None:
  """Runs the commands; the last one, where it gives back, whatever happens.

  Raises:
    ValueError: for a command that failed.
  """
  work, clean = (plan[:-1], plan[-1:]) if delete else (plan, [])
  try:
    for step in work:
      _run(step)
  finally:
    for step in clean:
      _run(step)


def _run(step: Step) -> None:
  print(f"# {step.title}\n{step.command}", flush=True)
  if subprocess.run(["bash", "-c", step.command]).returncode:
    raise ValueError(
      f"could not {step.title}; runs go on from where they stand when the same"
      " command is given again"
    )


def main(arguments: Sequence[str]) -> None:
  tpu, nodes, delete = parse(_TYPE.value), _NODES.value, _DELETE.value
  check(_NAME.value, tpu, arguments, nodes, delete)
  options = {
    "zone": _ZONE.value,
    "project": _PROJECT.value,
    "spot": _SPOT.value,
    "delete": delete,
  }
  plans = [
    steps(
      _NAME.value if nodes == 1 else f"{_NAME.value}-{node}",
      tpu,
      [*arguments, *([f"--shard={node}/{nodes}"] if nodes > 1 else [])],
      **options,
    )
    for node in range(nodes)
  ]
  if _DRY_RUN.value:
    for plan in plans:
      print("\n".join(f"# {step.title}\n{step.command}" for step in plan))
    return
  with futures.ThreadPoolExecutor(nodes) as pool:
    for result in [pool.submit(launch, plan, delete) for plan in plans]:
      result.result()


if __name__ == "__main__":
  _NAME = flags.DEFINE_string("name", "stnjax", "Name of the TPU to make.")
  _TYPE = flags.DEFINE_string(
    "type", "v5e-8", "Type of the TPU, such as v5e-8, v5e-64 or v4-32."
  )
  _ZONE = flags.DEFINE_string("zone", None, "Zone of Google Cloud.")
  _PROJECT = flags.DEFINE_string(
    "project", None, "Project of Google Cloud; gcloud's own by default."
  )
  _SPOT = flags.DEFINE_boolean(
    "spot", False, "A TPU that may be taken away, and costs less."
  )
  _NODES = flags.DEFINE_integer(
    "nodes", 1, "How many such TPUs share the runs out.", 1, 1000
  )
  _DELETE = flags.DEFINE_boolean(
    "delete", True, "Give the TPU back in the end, with its disk."
  )
  _DRY_RUN = flags.DEFINE_boolean("dry_run", True, "Only print the commands.")
  flags.mark_flag_as_required("zone")
  for _flag in ("zone", "project"):
    flags.register_validator(
      _flag,
      lambda value: value is None or re.fullmatch("[-a-z0-9.:]+", value),
      "must be a name of Google Cloud",
    )
  cli.run(main, takes_arguments=True)
