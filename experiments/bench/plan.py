"""A plan of measurements that fits into a given time."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import dataclasses
import os
import signal
import subprocess
import time
from typing import Any

Clock = Callable[[], float]

_GRACE = 20.0  # seconds that a part has to write what it found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """Commands of a plan that run side by side.

  Attributes:
    name: Name of the part.
    minutes: Most minutes that it takes; fewer where the plan has less left.
    commands: The commands, each a list of words.
    environment: Changes of the environment.
  """

  name: str
  minutes: float
  commands: Sequence[Sequence[str]]
  environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


def run(
  parts: Sequence[Part], minutes: float, clock: Clock = time.monotonic
) -> list[dict[str, Any]]:
  """Runs parts in their order until the time is over.

  A part whose time is over is asked to end, as by Ctrl-C, and killed if it does
  not; what it wrote stays.

  Args:
    parts: The parts, the most important first.
    minutes: Minutes that all take together.
    clock: Seconds since some moment.

  Returns:
    For each part "name", "commands", the "seconds" that it took, and "status"
    of each command: "done", "stopped" when its time was over, "failed", or "not
    started".
  """
  end = clock() + 60 * minutes
  outcomes = []
  for part in parts:
    start = clock()
    allowed = min(60 * part.minutes, end - start) - _GRACE
    print(f"{part.name}: at most {max(allowed, 0):.0f} s", flush=True)
    if allowed > 0:
      statuses = _side_by_side(part, allowed)
    else:
      statuses = ["not started"] * len(part.commands)
    outcomes.append(
      {
        "name": part.name,
        "commands": [" ".join(command) for command in part.commands],
        "seconds": round(clock() - start, 1),
        "status": statuses,
      }
    )
    print(f"{part.name}: {', '.join(statuses)}", flush=True)
  return outcomes


def _side_by_side(part: Part, seconds: float) -> list[str]:
  """Runs the commands of a part, and returns how each ended."""
  environment = {**os.environ, **part.environment}
  started = [
    subprocess.Popen(command, env=environment, start_new_session=True)
    for command in part.commands
  ]
  end = time.monotonic() + seconds
  try:
    statuses = [_wait(p, end - time.monotonic()) for p in started]
  finally:  # also of an interrupted plan: nothing keeps the GPU
    _end(started)
  names = {None: "stopped", 0: "done"}
  return [names.get(code, "failed") for code in statuses]


def _end(processes: Sequence[subprocess.Popen]) -> None:
  """Ends what still runs, at first by asking."""
  for process in processes:
    if process.poll() is None:
      _signal(process, signal.SIGTERM)  # SIGINT may be ignored, by nohup
  end = time.monotonic() + _GRACE / 2
  for process in processes:
    if _wait(process, end - time.monotonic()) is None:
      _signal(process, signal.SIGKILL)
      process.wait()


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
  """The exit status of a process, None if it does not end in time."""
  try:
    return process.wait(max(seconds, 0))
  except subprocess.TimeoutExpired:
    return None


def _signal(process: subprocess.Popen, number: int) -> None:
  """Signals a process and those that it started."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(process.pid, number)
