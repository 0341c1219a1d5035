"""Notes on single files, so that none is left out in silence."""

import collections
from collections.abc import Iterable
import functools
import sys

_NAMES = 100  # of files in one line


def listed(names: Iterable[str]) -> str:
  """Names separated by commas; beyond 100, their number."""
  names = list(names)
  rest = len(names) - _NAMES
  more = f" and {rest} more" if rest > 0 else ""
  return (
    ", ".join(
      name if name.isprintable() else repr(name) for name in names[:_NAMES]
    )
    + more
  )


@functools.cache
def announce(message: str) -> None:
  """Prints a message to stderr, once in a process."""
  print(message, file=sys.stderr)


class Notes:
  """Collects what happened to single files."""

  def __init__(self, source: str):
    """Starts without notes.

    Args:
      source: Data set or archive that the files are of.
    """
    self._source = source
    self._names: dict[str, list[str]] = collections.defaultdict(list)

  def add(self, what: str, name: str) -> None:
    """Notes `what` was done with the file `name`, and why."""
    self._names[what].append(name)

  def tell(self, *, once: bool = False) -> None:
    """Prints one line for each kind of note, with a count and the names.

    Args:
      once: Whether to leave out lines that were printed before.
    """
    for what, names in self._names.items():
      line = f"{self._source}: {len(names)} {what}: {listed(names)}"
      if once:
        announce(line)
      else:
        print(line, file=sys.stderr)
