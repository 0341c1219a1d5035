"""Several processes that work together: joining, waiting, and losing one.

JAX does the work: its coordination service introduces the processes, and ends
all of them where one is lost, within two minutes.
"""

from collections.abc import Iterator
import contextlib
import os
import re
import signal
import threading
from typing import Any

from absl import flags
import jax
import orbax.checkpoint as ocp

from stnjax import files

_DISTRIBUTED = flags.DEFINE_boolean(
  "distributed", False, "Whether to train with all processes of the cluster."
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "Address of process 0, as host:port, to train together."
)
_NUM_PROCESSES = flags.DEFINE_integer(
  "num_processes",
  None,
  "Number of processes that train together.",
  lower_bound=1,
)
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", None, "Index of this process, from 0.", lower_bound=0
)

_SHUTDOWN_SECONDS = 20  # that one which fails waits for the others
_WEEK = 7 * 24 * 3600
_LAST_WORDS = (
  "error: another process was lost, or failed, and this one stopped too; start"
  " all of them again to resume from the last checkpoints\n"
)


@contextlib.contextmanager
def joined() -> Iterator[None]:
  """Joins the processes that the flags name, if any; and waits at the end.

  To be entered before anything asks JAX for devices. A process that leaves with
  an exception does not wait, and the others stop.

  Raises:
    ValueError: for flags that name the processes in part.
    RunError: where the others cannot be reached.
  """
  check()
  named = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
  if not _DISTRIBUTED.value and named == (None, None, None):
    yield
    return
  _leave_last_words()
  try:
    jax.distributed.initialize(
      *named, shutdown_timeout_seconds=_SHUTDOWN_SECONDS
    )
  except RuntimeError as error:
    reason = str(error).splitlines()[0]
    raise files.RunError(
      f"cannot join the other processes: {reason}"
    ) from error
  yield
  wait("the end")


def check() -> None:
  """Checks the flags that name the processes.

  Raises:
    ValueError: for flags that name them in part, or that contradict.
  """
  coordinator, count, index = (
    flag.value for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)
  )
  given = [value is not None for value in (coordinator, count, index)]
  if not _DISTRIBUTED.value and any(given) and not all(given):
    raise ValueError(
      "--coordinator, --num_processes and --process_id go together (or take"
      " --distributed, where the cluster knows them)"
    )
  if count is not None and index is not None and index >= count:
    raise ValueError(
      f"--process_id={index} must be less than --num_processes={count}"
    )
  if coordinator is not None:
    match = re.fullmatch(r"[^\s/]+:([0-9]{1,5})", coordinator)
    if not match or not 0 < int(match[1]) < 2**16:
      raise ValueError(
        f"--coordinator={coordinator!r}; accepted: host:port, such as"
        " 10.0.0.1:1234"
      )


def wait(place: str) -> None:
  """Waits, for hours if necessary, until all processes reach a place.

  SIGTERM or Ctrl-C ends this process at once: its state is saved, and JAX then
  ends the others.
  """
  if jax.process_count() == 1:
    return
  failed: list[BaseException] = []

  def come() -> None:
    try:
      barrier(key=place, timeout_ms=1000 * _WEEK)
    except Exception as error:
      failed.append(error)

  def leave(number: int, frame: Any) -> None:
    os.write(2, f"stopped while waiting for the others ({place})\n".encode())
    os._exit(128 + number)

  barrier = ocp.multihost.get_barrier_sync_fn()
  waiting = threading.Thread(target=come, daemon=True)
  waiting.start()  # in a thread, as nothing interrupts it
  before = {
    number: signal.signal(number, leave)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  while waiting.is_alive():
    waiting.join(0.2)
  for number, handler in before.items():
    signal.signal(number, handler or signal.SIG_DFL)
  if failed:
    raise failed[0]


def _leave_last_words() -> None:
  """Has words to say should JAX abort this process, as where another is lost.

  It does so outside Python, from its own thread, with a list of addresses.
  Python's signal handler, in C, still writes the signal's number into a pipe; a
  small process at its other end reads it.
  """
  ours, its = os.pipe()
  if os.fork():
    os.close(ours)
    os.set_blocking(its, False)  # as `set_wakeup_fd` wants it
    signal.signal(signal.SIGABRT, lambda number, frame: None)
    signal.set_wakeup_fd(its)
    return
  os.close(its)
  for number in (signal.SIGINT, signal.SIGTERM):  # not meant for it
    signal.signal(number, signal.SIG_IGN)
  heard = b""
  while part := os.read(ours, 100):
    heard = part
  if heard[-1:] == bytes([signal.SIGABRT]):
    os.write(2, _LAST_WORDS.encode())
  os._exit(0)
