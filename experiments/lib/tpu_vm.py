"""Commands that run a script of this project on a Cloud TPU."""

from collections.abc import Sequence
import dataclasses
import re
import shlex
from typing import NamedTuple

_PYTHON = '"$HOME"/stnjax/.venv/bin/python'


class Kind(NamedTuple):
  """A version of TPU, as Google Cloud names it."""

  accelerator: str
  """Prefix of the accelerator type."""
  runtime: str
  """Software version of its machines."""
  units_per_host: int
  """Units of the number in the type on one host of a slice."""
  most_units: int
  """Largest number on a machine that is not a slice."""
  least_units: int
  """Smallest number."""


# https://cloud.google.com/tpu/docs/runtimes; v4 and v5p count cores, two of a
# chip, the others chips.
KINDS = {
  "v4": Kind("v4", "tpu-ubuntu2204-base", 8, 8, 8),
  "v5p": Kind("v5p", "v2-alpha-tpuv5", 8, 8, 8),
  "v5e": Kind("v5litepod", "v2-alpha-tpuv5-lite", 4, 8, 1),
  "v6e": Kind("v6e", "v2-alpha-tpuv6e", 4, 8, 1),
}


class Tpu(NamedTuple):
  """A type of TPU, such as v5e-8."""

  accelerator: str
  """Accelerator type."""
  runtime: str
  """Software version of its machines."""
  hosts: int
  """Number of machines."""


def parse(text: str) -> Tpu:
  """Reads a type of TPU.

  Raises:
    ValueError: If there is no such type.
  """
  match = re.fullmatch(rf"({'|'.join(KINDS)})-([0-9]{{1,5}})", text)
  kind, size = (KINDS[match[1]], int(match[2])) if match else (None, 0)
  # Slices double, from a whole host on.
  doubles = size and not size & (size - 1) and size != 2
  if not kind or size < kind.least_units or not doubles:
    raise ValueError(
      f"--type={text!r} is unknown; accepted: v5e or v6e and a number of chips"
      " (1, 4, 8, 16, ...), v4 or v5p and a number of cores (8, 16, 32, ...)"
    )
  hosts = 1 if size <= kind.most_units else size // kind.units_per_host
  return Tpu(f"{kind.accelerator}-{size}", kind.runtime, hosts)


class Step(NamedTuple):
  """A command of the shell."""

  title: str
  """Purpose, in the imperative."""
  command: str
  """Command."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
  """A TPU, and the commands for it.

  Attributes:
    name: Name of the queued resource and of the TPU.
    tpu: Type of the TPU.
    zone: Zone of Google Cloud.
    project: Project of Google Cloud; gcloud's default if None.
    spot: Whether the TPU may be taken away, at a lower price.
  """

  name: str
  tpu: Tpu
  zone: str
  project: str | None = None
  spot: bool = False

  def steps(self, script: Sequence[str], *, delete: bool = True) -> list[Step]:
    """The commands that run a script, in order.

    Args:
      script: Module in `experiments`, and its flags.
      delete: Whether the last command deletes the TPU.
    """
    install = self._remote(_STOP + _INSTALL)
    start = self._remote(_start(script, self.tpu.hosts))
    show = self._remote(_SHOW, worker="0")
    steps = [
      Step("ask for the TPU", self._ask()),
      Step("wait until it is there", self._wait()),
      Step("copy the last commit to all of its machines", self._copy()),
      Step("install it there", install),
      Step("start the script on all of them", start),
      Step("show what the first one prints, until it ends", show),
    ]
    if delete:
      steps.append(Step("give the TPU back", self._delete()))
    return steps

  def _gcloud(self, *words: str) -> str:
    options = [f"--zone={self.zone}"]
    if self.project:
      options.append(f"--project={self.project}")
    return shlex.join(["gcloud", "compute", "tpus", *words, *options])

  def _remote(self, command: str, worker: str = "all") -> str:
    options = f"--worker={worker}", f"--command={command}"
    return self._gcloud("tpu-vm", "ssh", self.name, *options)

  def _state(self) -> str:
    words = "queued-resources", "describe", self.name
    return self._gcloud(*words, "--format=value(state.state)")

  def _delete(self) -> str:
    words = "queued-resources", "delete", self.name
    return self._gcloud(*words, "--force", "--quiet")

  def _ask(self) -> str:
    create = self._gcloud(
      "queued-resources",
      "create",
      self.name,
      f"--node-id={self.name}",
      f"--accelerator-type={self.tpu.accelerator}",
      f"--runtime-version={self.tpu.runtime}",
      *(["--spot"] if self.spot else []),
    )
    # A request that failed, or whose TPU was taken away, never comes back.
    return (
      f'case "$({self._state()} 2> /dev/null)" in "") {create};;'
      f" FAILED|SUSPEND*) {self._delete()} && {create};; esac"
    )

  def _wait(self) -> str:
    return (
      f'unset state; until [ "${{state:=$({self._state()})}}" = ACTIVE ]; do'
      ' case "$state" in ""|FAILED|SUSPEND*) exit 1;; esac;'
      " sleep 30; unset state; done"
    )

  def _copy(self) -> str:
    archive = f"/tmp/{self.name}.tar.gz"
    pack = f"git archive --format=tar.gz --output={archive} HEAD"
    target = f"{self.name}:stnjax.tar.gz"
    send = self._gcloud("tpu-vm", "scp", archive, target, "--worker=all")
    return f"{pack} && {send}"


# Ends the script of an earlier, interrupted call, which saves first.
_STOP = (
  'old="$(cat ~/stnjax.pid 2> /dev/null)";'
  ' if grep -qs stnjax.exit "/proc/$old/cmdline";'
  ' then pkill -P "$old"; tail --pid="$old" -f /dev/null; fi; '
)
_INSTALL = (
  "rm -rf ~/stnjax && mkdir ~/stnjax && tar xzf ~/stnjax.tar.gz -C ~/stnjax"
  # The machines' own Python is too old; uv brings one.
  " && python3 -m pip install -q --user uv"
  " && ~/.local/bin/uv venv -q --python=3.12 ~/stnjax/.venv"
  f" && ~/.local/bin/uv pip install -q --python={_PYTHON}"
  ' -e "$HOME/stnjax[tpu,gcs,experiments]"'
)
_SHOW = (
  'tail --pid="$(cat ~/stnjax.pid)" -n +1 -F ~/stnjax.log'
  ' && exit "$(cat ~/stnjax.exit)"'
)


def _start(script: Sequence[str], hosts: int) -> str:
  """Starts a script in the background, and notes its process and status."""
  module, *arguments = script
  if hosts > 1:
    arguments.append("--distributed")
  run = f"{_PYTHON} -m {shlex.join([f'experiments.{module}', *arguments])}"
  background = shlex.quote(f"{run}; echo $? > ~/stnjax.exit")
  return (
    "cd ~/stnjax && rm -f ~/stnjax.exit && { nohup bash -c"
    f" {background} > ~/stnjax.log 2>&1 < /dev/null &"
    " echo $! > ~/stnjax.pid; }"
  )
