"""Launching scripts on Cloud TPUs: checks of flags, then the commands."""

from collections.abc import Sequence
from concurrent import futures
import json
import os
import re
import shlex
import subprocess
import sys
from typing import Any

from experiments.lib import tpu_vm
from stnjax import data

SCRIPTS = ("train", "sweep", "paper")

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
"""Flags of scripts that a launched script cannot have, and why."""


def check(
  name: str, tpu: tpu_vm.Tpu, script: Sequence[str], nodes: int, delete: bool
) -> None:
  """Checks what would fail, or lose results, on the TPU.

  Args:
    name: Name of the TPU.
    tpu: Type of the TPU.
    script: Module in `experiments`, and its flags.
    nodes: Number of TPUs.
    delete: Whether the TPU is deleted at the end.

  Raises:
    ValueError: If anything would fail; the message lists what is accepted.
  """
  _check_node(name, tpu, script, nodes)
  _check_flags(script[1:], nodes)
  added = ["--distributed"] if tpu.hosts > 1 else []
  if nodes > 1:
    added.append(f"--shard=0/{nodes}")
  reads = checked_by_script([*script, *added])
  workdir, data_dir = reads["workdir"], reads["data_dir"]
  for dataset, needs_files in reads["datasets"].items():
    if needs_files and not (data_dir or "").startswith("gs://"):
      raise _missing(dataset, data_dir)
  if not workdir.startswith("gs://") and (delete or tpu.hosts > 1):
    raise ValueError(
      f"runs would be lost with the TPU's disk, in --workdir={workdir}: give"
      " the script a --workdir=gs://... (or, on one host, keep the TPU with"
      " --nodelete)"
    )


def _check_node(
  name: str, tpu: tpu_vm.Tpu, script: Sequence[str], nodes: int
) -> None:
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", name):
    raise ValueError(
      f"--name={name!r} is not a name of Google Cloud; accepted: a lower-case"
      " letter, followed by lower-case letters, digits and -"
    )
  if not script or script[0] not in SCRIPTS:
    raise ValueError(
      f"the script is missing after --, got {shlex.join(script)!r}; accepted:"
      f" -- and one of {', '.join(SCRIPTS)}, with its flags"
    )
  if tpu.hosts > 1 and script[0] != "train":
    raise ValueError(
      f"{script[0]} runs on one host, and {tpu.accelerator} has {tpu.hosts};"
      " take a smaller --type, and --nodes for several of them"
    )
  if nodes > 1 and script[0] == "train":
    raise ValueError(
      "--nodes distributes the runs of sweep or paper; train has one run"
    )


def _check_flags(words: Sequence[str], nodes: int) -> None:
  refused = dict(_REFUSED)
  if nodes > 1:
    refused["shard"] = "--nodes gives each TPU its shard"
  for word in words:
    flag = word.partition("=")[0].lstrip("-") if word.startswith("-") else ""
    if flag in refused:
      raise ValueError(f"{word} does not go with launch_tpu: {refused[flag]}")


def _missing(dataset: str, data_dir: str | None) -> ValueError:
  """The error for a data set whose files are not on the TPU's disk."""
  others = [
    name
    for name, known in data.DATASETS.items()
    if isinstance(known, data.Dataset) and not known.needs_files(None)
  ]
  return ValueError(
    f"--dataset={dataset} is not on the TPU's disk, with --data_dir={data_dir}:"
    " give the script a --data_dir=gs://... that has it, or, without"
    f" --data_dir, one of --dataset={', '.join(others)}"
  )


def checked_by_script(script: Sequence[str]) -> dict[str, Any]:
  """Runs a script on this machine to check its own flags.

  Args:
    script: Module in `experiments`, and its flags.

  Returns:
    The `workdir` and `data_dir` that it would use, and for each of the
    `datasets` whether it needs files.

  Raises:
    ValueError: If it rejects its flags, with its message.
  """
  module, *arguments = script
  # First, as a last flag without a value would take it for one.
  command = ["-m", f"experiments.{module}", "--only_check_args", *arguments]
  done = subprocess.run(
    [sys.executable, *command],
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
  )
  printed = done.stdout.splitlines()
  if done.returncode or not printed:
    reason = _error(done.stderr) or "it prints its help"
    raise ValueError(f"{module} would not start: {reason}")
  return json.loads(printed[-1])


def _error(stderr: str) -> str:
  """The error that a script printed, as one line."""
  lines = [
    line.strip()
    for line in stderr.splitlines()
    if not line.startswith("Pass --help")
  ]
  starts = [
    index for index, line in enumerate(lines) if re.match("error:|FATAL", line)
  ]
  message = lines[starts[0] :] if starts else lines[-1:]
  return " ".join(message).removeprefix("error: ")


def print_steps(plans: Sequence[Sequence[tpu_vm.Step]]) -> None:
  """Prints the commands of each TPU."""
  for plan in plans:
    print("\n".join(map(_text, plan)))


def launch_all(plans: Sequence[Sequence[tpu_vm.Step]], *, delete: bool) -> None:
  """Runs the commands of all TPUs at the same time, see `launch`."""
  with futures.ThreadPoolExecutor(len(plans)) as pool:
    for result in [pool.submit(launch, plan, delete) for plan in plans]:
      result.result()


def launch(plan: Sequence[tpu_vm.Step], delete: bool) -> None:
  """Runs the commands of a TPU.

  Args:
    plan: Commands, in order.
    delete: Whether the last one deletes the TPU, and runs even if another
      fails.

  Raises:
    ValueError: If a command fails.
  """
  work, clean = (plan[:-1], plan[-1:]) if delete else (plan, [])
  try:
    for step in work:
      _run(step)
  finally:
    for step in clean:
      _run(step)


def _run(step: tpu_vm.Step) -> None:
  print(_text(step), flush=True)
  if subprocess.run(["bash", "-c", step.command]).returncode:
    raise ValueError(
      f"could not {step.title}; rerun the same command to resume the runs"
    )


def _text(step: tpu_vm.Step) -> str:
  return f"# {step.title}\n{step.command}"
