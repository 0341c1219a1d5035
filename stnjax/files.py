"""Paths of users, and files of runs: errors name the file and the reason."""

from stnjax import extras

extras.needs("etils", extra="experiments")

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import socket
from typing import Any
import zipfile

from etils import epath
import numpy as np

UNREADABLE = (
  OSError,
  ValueError,
  TypeError,
  AttributeError,
  LookupError,
  ArithmeticError,
  RecursionError,
)
"""Errors of reading a damaged file, besides those of its format."""

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_BUCKETS = ("gs", "s3", "az", "hf")  # first parts that etils takes for schemes


class RunError(Exception):
  """A run cannot continue; the message gives the reason and a remedy."""


class Damaged(RunError):
  """Files of one run cannot be used; other runs are not concerned."""


@contextlib.contextmanager
def advising(advice: str) -> Iterator[None]:
  """Adds what to do to the messages of damaged files."""
  try:
    yield
  except Damaged as error:
    raise Damaged(f"{error}; {advice}") from error


def place(name: str, path: str) -> epath.Path:
  """Resolves a folder that a user named, the same way everywhere.

  Args:
    name: Argument to name in errors, such as "workdir".
    path: Local path, or `gs://bucket/folder`. `~` is expanded; a relative path
      is made absolute, with `..` and links resolved as the system does.

  Raises:
    ValueError: If the path is empty or of a kind that is not accepted.
  """
  path = os.fspath(path)
  accepted = "accepted: a local folder, or gs://bucket/folder"
  if re.match(r"gs://[^/]", path):
    return epath.Path(path.rstrip("/"))
  if not path.strip() or re.match(r"[a-zA-Z][\w+.-]*://|gs:/", path):
    raise ValueError(f"{name}={path!r} is not supported; {accepted}")
  full = os.path.realpath(os.path.expanduser(path))
  if path.startswith("~") and full == os.path.realpath(path):
    raise ValueError(f"{name}={path!r} names no user's home; {accepted}")
  if full.split("/")[1] in _BUCKETS:  # etils would take it for gs:// or such
    raise ValueError(f"{name}={path!r}: {full} cannot be used; {accepted}")
  return epath.Path(full)


def subfolders(folder: epath.Path) -> list[epath.Path]:
  """The folders in a folder, by name; none if there is no such folder.

  Raises:
    RunError: If it cannot be listed.
  """
  try:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())
  except FileNotFoundError:
    return []
  except OSError as error:
    raise RunError(f"cannot read {folder}: {_reason(error)}") from error


def read(path: epath.Path) -> bytes:
  """Reads a file of a run.

  Raises:
    Damaged: If it is missing or cannot be read.
  """
  try:
    content: bytes = path.read_bytes()
    return content
  except FileNotFoundError:
    raise Damaged(f"{path} is missing") from None
  except OSError as error:
    raise Damaged(f"cannot read {path}: {_reason(error)}") from error


def read_json(path: epath.Path) -> Any:
  """Reads a file of JSON.

  Raises:
    Damaged: If it is missing, cannot be read, or is not JSON.
  """
  return parse_json(path, read(path))


def parse_json(path: epath.Path, text: bytes) -> Any:
  """Parses JSON from a file.

  Raises:
    Damaged: If it is not JSON.
  """
  try:
    return json.loads(text)
  except (ValueError, RecursionError) as error:
    raise Damaged(f"cannot read {path}: {error}") from error


def read_arrays(path: epath.Path) -> dict[str, np.ndarray]:
  """Reads the arrays of an .npz file.

  Raises:
    Damaged: If it is missing or cannot be read.
  """
  content = io.BytesIO(read(path))
  try:
    with np.load(content, allow_pickle=False) as kept:
      return {name: kept[name] for name in kept.files}
  except Exception as error:  # zipfile and NumPy raise many kinds
    raise Damaged(f"{path} is damaged: {error}") from error


def write(path: epath.PathLike, content: str | bytes) -> None:
  """Writes a file.

  Raises:
    RunError: If it cannot be written, for instance to a full disk.
  """
  path = epath.Path(path)
  with writing(path):
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_whole(path: epath.Path, content: str | bytes) -> None:
  """Writes a file completely or not at all; raises as `write` does."""
  partial = path.parent / f"{path.name}.partial"
  write(partial, content)
  with writing(path):
    partial.replace(path)


def write_arrays(path: epath.Path, arrays: Mapping[str, np.ndarray]) -> None:
  """Writes an .npz file, compressed, completely or not at all.

  Raises:
    RunError: If it cannot be written.
  """
  packed = io.BytesIO()
  with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
    for name, array in arrays.items():
      with archive.open(f"{name}.npy", "w") as file:
        np.lib.format.write_array(file, array, allow_pickle=False)
  write_whole(path, packed.getvalue())


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[None]:
  """Names the path in errors of writing to it.

  Raises:
    RunError: For an OSError, which may name no file.
  """
  try:
    yield
  except OSError as error:
    blocked = isinstance(error, IsADirectoryError | FileExistsError)
    advice = "; delete what is there, or move it away" if blocked else ""
    raise RunError(f"cannot write {path}: {_reason(error)}{advice}") from error


def checksums(folder: epath.Path, names: Iterable[str]) -> str:
  """SHA-256 of files, a line each, as `sha256sum` writes and checks them."""
  return "".join(
    f"{hashlib.sha256(read(folder / name)).hexdigest()}  {name}\n"
    for name in names
  )


def compare_checksums(
  path: epath.Path, names: Iterable[str] | None = None
) -> None:
  """Compares files with what `checksums` wrote.

  Args:
    path: File of checksums, in the folder of the files.
    names: Names of the files that it must list; any by default.

  Raises:
    Damaged: If a file is missing or differs, or others are listed.
  """
  kept: dict[str, str] = {}
  for line in read(path).decode(errors="replace").splitlines():
    checksum, separator, name = line.partition("  ")
    if separator:
      kept[name] = checksum
  if not kept or (names is not None and kept.keys() != set(names)):
    raise Damaged(f"{path} is damaged: it does not list the files there")
  for name, expected in kept.items():
    if hashlib.sha256(read(path.parent / name)).hexdigest() != expected:
      raise Damaged(
        f"{path.parent / name} is damaged: its checksum is not that in"
        f" {path.name}"
      )


def to_json(value: Any, indent: int | None = None) -> str:
  """JSON with null for numbers that are not finite, which JSON lacks."""
  return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
  if isinstance(value, dict):
    return {key: _finite(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_finite(item) for item in value]
  unknown = isinstance(value, float) and not math.isfinite(value)
  return None if unknown else value


@contextlib.contextmanager
def claimed(folder: epath.Path) -> Iterator[None]:
  """Makes a folder, and keeps other processes from claiming it meanwhile.

  The lock is the system's, which drops it when the process dies. Buckets, and
  file systems without locks, are not locked.

  Args:
    folder: Local or `gs://`; removed at the end if it is still empty, with its
      parent if that was not there before.

  Raises:
    RunError: If another process holds it, or it cannot be made.
  """
  with writing(folder):
    made = [folder] if folder.parent.exists() else [folder, folder.parent]
    folder.mkdir(parents=True, exist_ok=True)
  if os.fspath(folder).startswith("gs://"):
    yield
    return
  path = folder / "lock"
  with writing(path):
    lock = _lock(path)
  try:
    yield
  finally:
    with contextlib.suppress(OSError):
      os.unlink(path)  # while it is held, see `_lock`
      for empty in made:
        os.rmdir(empty)
    os.close(lock)


def _lock(path: epath.Path) -> int:
  """Opens and locks a file; the lock lasts as long as the descriptor."""
  while True:
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      if _is_there(lock, path):
        break
    except BlockingIOError:
      holder = os.read(lock, 200).decode(errors="replace").strip()
      os.close(lock)
      raise RunError(
        f"another process is training {path.parent}"
        f" ({holder or 'its lock is held'}); wait for it, or stop it"
      ) from None
    except OSError as error:
      if error.errno in _NO_LOCKS:
        break
      os.close(lock)
      raise
    os.close(lock)
  os.truncate(lock, 0)
  os.write(lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
  return lock


def _is_there(lock: int, path: epath.Path) -> bool:
  """Whether the path still names the open file, or its holder removed it."""
  try:
    return os.path.samestat(os.fstat(lock), os.stat(path))
  except FileNotFoundError:
    return False


def _reason(error: OSError) -> str:
  return error.strerror or str(error)
