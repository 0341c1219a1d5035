"""Where the spatial transformer goes in a classifier (Finnveden et al. 2020).

  name      localisation sees                    what is warped
  CNN       -                                    nothing
  STN-C0    the input                            the input
  STN-CX    the features after block X           those features
  STN-DLX   its own copy of blocks 1..X          the input
  STN-SLX   the classifier's own blocks 1..X     the input

"STN-SL0,1" has several entries, run in order; "STN-SL1x2" repeats one, with one
localisation net.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the spatial transformer goes.

  Attributes:
    kind: "CNN", "C" (warps features), "DL" (own copy of the layers) or "SL"
      (shared layers).
    depths: how many blocks the localisation net looks through, one entry per
      run of the transformer, in order.
  """

  kind: str
  depths: tuple[int, ...]

  @property
  def warps_input(self) -> bool:
    """Whether the input is what is warped, and not features."""
    return bool(self.depths) and (self.kind != "C" or not any(self.depths))

  def iterated(self, more: int) -> "Placement":
    """The same with the last entry repeated `more` times."""
    return Placement(self.kind, self.depths + self.depths[-1:] * more)

  @property
  def looks_through(self) -> int:
    """How many of the classifier's own blocks come before a transformer."""
    return 0 if self.kind == "DL" else max(self.depths, default=0)


def parse(name: str) -> Placement:
  """Reads the name of a network.

  Args:
    name: "CNN", or "STN-" with "C", "DL" or "SL" and depths, such as
      "STN-C1", "STN-SL0,1" or "STN-DL1x2".

  Returns:
    The placement; repeats are written out: "STN-SL1x2" has depths (1, 1).

  Raises:
    ValueError: for any other name, or depths of "C" that go back.
  """
  if name == "CNN":
    return Placement("CNN", ())
  match = re.fullmatch(
    r"STN-(C|DL|SL)(\d+(?:x[1-9]\d*)?(?:,\d+(?:x[1-9]\d*)?)*)", name
  )
  if not match:
    raise ValueError(
      f"network={name!r} is unknown; accepted: CNN, or STN-C, STN-DL, STN-SL"
      " followed by depths, such as STN-C1, STN-SL0,1 or STN-SL1x2"
    )
  depths: list[int] = []
  for entry in match[2].split(","):
    depth, _, repeats = entry.partition("x")
    depths += [int(depth)] * int(repeats or 1)
  if match[1] == "C" and depths != sorted(depths):
    raise ValueError(
      f"network={name!r}: the depths of STN-C must not decrease, as features"
      " pass through the blocks once"
    )
  return Placement(match[1], tuple(depths))


PARTS = ("localisation", "before", "rest")


def part(path: Sequence[Any], placement: Placement) -> str:
  """The part of a network that a parameter belongs to, by its path.

  Returns:
    One of `PARTS`: "localisation", what only localisation uses; "before", the
    classifier's blocks that come before a transformer, or that its
    localisation shares; "rest".
  """
  if path[0] in ("localisers", "copies"):
    return "localisation"
  if path[0] == "blocks" and int(path[1]) < placement.looks_through:
    return "before"
  return "rest"
