"""Where the spatial transformer goes in a classifier (Finnveden et al. 2020).

  name      localisation sees                    what is warped
  CNN       -                                    nothing
  STN-C0    the input                            the input
  STN-CX    the features after block X           those features
  STN-DLX   its own copy of blocks 1..X          the input
  STN-SLX   the classifier's own blocks 1..X     the input
  STN-UCNX  the features after block X           of those features, what block
            (X = 0: the input)                   X+1 reads at each place
  DEFX      the same                             the same, tap by tap

"STN-SL0,1" has several entries, run in order; "STN-SL1x2" repeats one, with one
localisation net. STN-UCN and DEF have one entry, see `stnjax.nn.deformation`.
"""

from collections.abc import Sequence
import dataclasses
import re
from typing import Any

KINDS = ("CNN", "C", "DL", "SL", "UCN", "DEF")
"""Kinds of placement, in the order of reports."""

MOST_ITERATIONS = 32
"""Most runs of the transformer in a network; each is compiled anew."""

_DEEPEST = 99  # no classifier has as many blocks
_NUMBER = "(?:0|[1-9][0-9]*)"  # one spelling each, as names are folders


@dataclasses.dataclass(frozen=True)
class Placement:
  """Where the spatial transformer goes.

  Attributes:
    kind: "CNN", "C" (warps features), "DL" (own copy of the layers), "SL"
      (shared layers), "UCN" (warps the patches that a convolution reads) or
      "DEF" (moves each of its taps).
    depths: how many blocks the localisation net looks through, one entry per
      run of the transformer, in order.
  """

  kind: str
  depths: tuple[int, ...]

  @property
  def warps_input(self) -> bool:
    """Whether the input is what is warped, and not features."""
    if self.kind == "C":
      return not any(self.depths)
    return self.kind in ("DL", "SL")

  @property
  def deforms(self) -> bool:
    """Whether a convolution reads at other places, and nothing is resampled."""
    return self.kind in ("UCN", "DEF")

  def iterated(self, more: int) -> "Placement":
    """The same with the last entry repeated `more` times."""
    return Placement(self.kind, self.depths + self.depths[-1:] * more)

  @property
  def looks_through(self) -> int:
    """How many of the classifier's own blocks come before a transformer."""
    return 0 if self.kind == "DL" else max(self.depths, default=0)


def prefix(kind: str) -> str:
  """The name of a network without its depths: "CNN", "STN-C", "DEF", ..."""
  return kind if kind in ("CNN", "DEF") else f"STN-{kind}"


def parse(name: str) -> Placement:
  """Reads the name of a network.

  Args:
    name: "CNN"; "STN-" with "C", "DL" or "SL" and depths, such as "STN-C1",
      "STN-SL0,1" or "STN-DL1x2"; "STN-UCN" or "DEF" with one depth.

  Returns:
    The placement; repeats are written out: "STN-SL1x2" has depths (1, 1).

  Raises:
    ValueError: for any other name, depths of "C" that decrease, a depth above
      99, or more than `MOST_ITERATIONS` runs of the transformer.
  """
  if name == "CNN":
    return Placement("CNN", ())
  deformed = re.fullmatch(f"(STN-UCN|DEF)({_NUMBER})", name)
  if deformed:
    kind = deformed[1].removeprefix("STN-")
    return Placement(kind, (_depth(name, deformed[2]),))
  entry = f"{_NUMBER}(?:x[1-9][0-9]*)?"
  match = re.fullmatch(f"STN-(C|DL|SL)({entry}(?:,{entry})*)", name)
  if not match:
    raise ValueError(
      f"network={_short(name)} is unknown; accepted: CNN; STN-C, STN-DL or"
      " STN-SL followed by depths, such as STN-C1, STN-SL0,1 or STN-SL1x2;"
      " STN-UCN or DEF followed by one depth, such as DEF1"
    )
  entries = [entry.partition("x") for entry in match[2].split(",")]
  repeats = [_bounded(times or "1") for _, _, times in entries]
  if sum(repeats) > MOST_ITERATIONS:
    raise ValueError(
      f"network={_short(name)} runs the transformer too often; accepted: at"
      f" most {MOST_ITERATIONS} times in all"
    )
  depths: list[int] = []
  for (depth, _, _), times in zip(entries, repeats, strict=True):
    depths += [_depth(name, depth)] * times
  if match[1] == "C" and depths != sorted(depths):
    raise ValueError(
      f"network={name!r}: the depths of STN-C must not decrease, as features"
      " pass through the blocks once"
    )
  return Placement(match[1], tuple(depths))


def _depth(name: str, digits: str) -> int:
  """A depth of a network's name."""
  if _bounded(digits) > _DEEPEST:
    raise ValueError(
      f"network={_short(name)}: a placement depth is deeper than any"
      f" classifier; accepted: 0 to {_DEEPEST}"
    )
  return int(digits)


def _bounded(digits: str) -> int:
  """A number; the digits of a huge one are not read, which takes long."""
  return int(digits) if len(digits) < 10 else 10**9


def _short(name: str) -> str:
  """A name in quotes, cut off where it would fill the screen."""
  return repr(name if len(name) <= 60 else f"{name[:57]}...")


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
