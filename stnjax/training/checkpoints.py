"""Checkpoints of a run: written by orbax, with checksums.

Orbax compares no checksums, so that a flipped bit comes back as another number.
Each checkpoint has one over its arrays, written with them; and, if it is on
this machine, SHA256SUMS of its files, by which damage is found before orbax
fails in its threads.
"""

from collections.abc import Iterator, Mapping, Sequence
import contextlib
import functools
import hashlib
import logging
import os
import re
import sys
import tempfile
from typing import Any
import warnings

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from stnjax import files
from stnjax.files import Damaged, RunError

_SUMS = "SHA256SUMS"
_KEPT = 2  # the last, and one before in case it is damaged
_SUM, _SECONDS = "sha256", "seconds"  # beside the arrays, whose names begin
# with a dot; checkpoints of older versions have neither.


class Checkpoints:
  """The checkpoints of one run, by step."""

  def __init__(self, folder: epath.Path, name: str, processes: Sequence[int]):
    """Names the folder; nothing is read or made.

    Args:
      folder: Local or `gs://`.
      name: Name of the run, by which processes wait for each other.
      processes: Indices of the processes that train it; the first writes.
    """
    self.folder = folder
    self._name = name
    self._processes = processes

  def last_step(self) -> int:
    """Step of the last checkpoint; 0 if there is none.

    Raises:
      Damaged: If the folder cannot be listed.
    """
    try:
      return max(ocp.utils.checkpoint_steps(self.folder), default=0)
    except (OSError, ValueError) as error:
      raise Damaged(
        f"cannot read {self.folder}: {_reason(error)}; delete it to train the"
        " run from the start"
      ) from error

  def save(
    self, step: int, arrays: Mapping[str, np.ndarray], seconds: float
  ) -> None:
    """Writes a checkpoint, unless the step has one.

    Args:
      step: Step of training.
      arrays: By name, the state after the step.
      seconds: Time trained since the last line of metrics.

    Raises:
      RunError: If it cannot be written, or another process wrote a later one.
    """
    values = {**arrays, _SECONDS: np.asarray(seconds, np.float64)}
    values[_SUM] = checksum(values)
    try:
      self.folder.mkdir(parents=True, exist_ok=True)
      with self._manager() as manager:
        latest = manager.latest_step() or 0
        if latest < step:
          manager.save(step, args=ocp.args.StandardSave(values))
      if latest < step and self._sums_files():
        folder = self.folder / str(step)
        sums = files.checksums(folder, _names(folder))
        files.write_whole(folder / _SUMS, sums)
    except Exception as error:  # orbax raises many kinds
      raise RunError(
        f"cannot write checkpoint {self.folder / str(step)}: {_reason(error)};"
        " the disk may be full, or another process training the same run"
      ) from error
    if latest > step:
      raise RunError(
        f"{self.folder} has a checkpoint of step {latest}, after step {step}:"
        " is another process training the same run?"
      )

  def restore(
    self, step: int, like: Mapping[str, np.ndarray]
  ) -> tuple[dict[str, np.ndarray], float]:
    """Reads a checkpoint and compares its checksum.

    Args:
      step: Step that has a checkpoint.
      like: Arrays of the same names, shapes and types.

    Returns:
      The arrays and the seconds, as they were saved.

    Raises:
      RunError: If the checkpoint cannot be read, does not fit or is damaged.
    """
    seals = {_SECONDS: np.zeros(()), _SUM: np.zeros(32, np.uint8)}
    path = self.folder / str(step)
    try:
      if (path / _SUMS).exists():
        files.compare_checksums(path / _SUMS)
      with self._manager() as manager:
        names = manager.item_metadata(step).tree.keys()
        sealed = not names.isdisjoint(seals)
        wanted = {**like, **seals} if sealed else dict(like)
        values = manager.restore(step, args=ocp.args.StandardRestore(wanted))
      found = {name: np.asarray(values[name]) for name in wanted}
      if sealed:
        kept = found.pop(_SUM)
        if not np.array_equal(kept, checksum(found)):
          raise ValueError("its checksum does not match: it is damaged")
      elif not all(map(is_finite, found.values())):
        raise ValueError("it has numbers that are not finite")
      for name, value in like.items():
        if (found[name].shape, found[name].dtype) != (value.shape, value.dtype):
          raise ValueError(f"{name} has another shape or type")
    except Exception as error:  # orbax raises many kinds
      raise RunError(
        f"checkpoint {path} cannot be read ({_reason(error)}); where another"
        f" version of stnjax wrote it, take another workdir, else delete {path}"
        " to resume from the checkpoint before it, or from the start"
      ) from error
    if not sealed:
      print(
        f"warning: checkpoint {path} has no checksum, as older versions wrote"
        " none: damage to it would not be noticed",
        file=sys.stderr,
        flush=True,
      )
    return found, float(found.pop(_SECONDS, 0.0))

  def read(self, step: int) -> dict[str, np.ndarray]:
    """Reads all arrays of a checkpoint, as `restore` does, whatever they are.

    Args:
      step: Step that has a checkpoint.

    Raises:
      RunError: If the checkpoint cannot be read or is damaged.
    """
    try:
      with self._manager() as manager:
        kept = dict(manager.item_metadata(step).tree)
    except Exception as error:  # orbax raises many kinds
      raise RunError(
        f"checkpoint {self.folder / str(step)} cannot be read"
        f" ({_reason(error)})"
      ) from error
    like = {
      name: np.zeros(array.shape, array.dtype)
      for name, array in kept.items()
      if name not in (_SUM, _SECONDS)
    }
    return self.restore(step, like)[0]

  def _sums_files(self) -> bool:
    """Whether this process writes, and to a disk: a bucket has its own sums."""
    local = not os.fspath(self.folder).startswith("gs://")
    return local and jax.process_index() == self._processes[0]

  @contextlib.contextmanager
  def _manager(self) -> Iterator[ocp.CheckpointManager]:
    _hush_threads()
    among = ocp.options.MultiprocessingOptions(
      primary_host=self._processes[0],
      active_processes=set(self._processes),
      barrier_sync_key_prefix=self._name,
    )
    options = ocp.CheckpointManagerOptions(
      create=False,
      max_to_keep=_KEPT,
      enable_async_checkpointing=False,
      multiprocessing_options=among,
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=among)
    with (
      _without_patterns(self.folder) as folder,
      ocp.CheckpointManager(
        folder, options=options, item_handlers=handler
      ) as manager,
    ):
      yield manager


def is_finite(array: np.ndarray) -> bool:
  """Whether an array holds neither NaN nor infinities."""
  array = np.asarray(array)
  if array.dtype.kind not in "biufc":  # bfloat16 and its like
    array = array.astype(np.float32)
  return bool(np.isfinite(array).all())


@contextlib.contextmanager
def _without_patterns(folder: epath.Path) -> Iterator[epath.Path]:
  """A path to a folder that orbax, which globs, does not take for a pattern."""
  if not set("*?[") & set(os.fspath(folder)):
    yield folder
    return
  with tempfile.TemporaryDirectory(prefix="stnjax-") as place:
    link = os.path.join(place, "checkpoints")
    os.symlink(folder, link)
    yield epath.Path(link)


@functools.cache
def _hush_threads() -> None:
  """Keeps orbax from printing errors that are raised as well, or do no harm.

  It logs those of its threads, and of metadata that it can do without; it
  leaves tasks behind that failed; and it closes a loop that tensorstore still
  calls, in threads that outlast any block of code here. Once, and to stay.
  """
  printed = sys.unraisablehook

  def without_closed_loops(found: "sys.UnraisableHookArgs") -> None:
    if str(found.exc_value) != "Event loop is closed":
      printed(found)

  sys.unraisablehook = without_closed_loops
  logging.getLogger("absl").addFilter(
    lambda record: (
      record.levelno < logging.ERROR
      and not record.exc_info
      or "orbax" not in record.pathname
    )
  )
  logging.getLogger("asyncio").addFilter(
    lambda record: "orbax" not in record.getMessage()  # where a task is from
  )
  warnings.filterwarnings(
    "ignore", r"coroutine '\w*Handler\.\w+' was never awaited", RuntimeWarning
  )


def _names(folder: epath.Path) -> list[str]:
  """All files of a checkpoint, but for the checksums, relative to it."""
  return sorted(
    os.path.relpath(os.path.join(place, name), folder)
    for place, _, names in os.walk(folder)
    for name in names
    if not name.startswith(_SUMS)
  )


def named_arrays(state: Any) -> dict[str, np.ndarray]:
  """The arrays of a pytree by their path in it: a layout that can be read."""
  return {
    jax.tree_util.keystr(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state)
  }


def checksum(values: Mapping[str, np.ndarray]) -> np.ndarray:
  """SHA-256 of arrays by name: of names, types, shapes and contents.

  Args:
    values: Arrays of any shape by name.

  Returns:
    `[32]`, uint8.
  """
  digest = hashlib.sha256()
  for name, value in sorted(values.items()):
    digest.update(f"{name} {value.dtype.name} {value.shape} ".encode())
    digest.update(np.ascontiguousarray(value).tobytes())
  return np.frombuffer(digest.digest(), np.uint8)


def _reason(error: Exception) -> str:
  """The system's reason, or an error's first line; its kind if unforeseen."""
  if code := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(code[1]))
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  lines = str(error).strip().splitlines() or [""]
  if isinstance(error, RunError):
    return lines[0]
  kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
  return kind + lines[0][:200]
