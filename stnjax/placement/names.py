"""Names of networks: the prefix of a placement, and depths.

"STN-SL0,1" has two depths, run in order; "STN-SL1x2" runs one twice, with one
localisation net.
"""

import re

from stnjax.placement.base import MOST_ITERATIONS, PLACEMENTS, Placement

_DEEPEST = 99  # no backbone has as many stages
_NUMBER = "(?:0|[1-9][0-9]*)"  # one spelling each, as names are folders
_ENTRY = f"{_NUMBER}(?:x[1-9][0-9]*)?"


class UnknownNetwork(ValueError):
  """A name that belongs to no registered placement."""


def parse(name: str) -> Placement:
  """Reads the name of a network.

  Args:
    name: Prefix of a placement in `PLACEMENTS`, followed by its depths:
      "CNN" or "GCNN"; "STN-C1", "STN-SL0,1", "STN-DL1x2" or "STN-EQ0";
      "STN-UCN1", "DEF1" or "STN-CAN0".

  Returns:
    The placement. Repeats are written out: "STN-SL1x2" has depths (1, 1).

  Raises:
    ValueError: For any other name, depths of "STN-C" that decrease, a depth
      above 99, or more than `MOST_ITERATIONS` runs of the transformer.
  """
  if not isinstance(name, str):
    raise ValueError(f"network must be a name, got {name!r}")
  for prefix, kind in PLACEMENTS.items():
    pattern = ("", _NUMBER)[kind.most_depths] if kind.most_depths < 2 else (
      f"{_ENTRY}(?:,{_ENTRY})*"
    )  # fmt: skip
    match = re.fullmatch(f"{re.escape(prefix)}({pattern})", name)
    if match:
      return kind(_depths(name, match[1]))
  raise UnknownNetwork(
    f"network={_short(name)} is unknown; accepted: {_grammar()}"
  )


def _depths(name: str, text: str) -> tuple[int, ...]:
  """The depths in the name of a network, repeats written out."""
  if not text:
    return ()
  entries = [entry.partition("x") for entry in text.split(",")]
  repeats = [_bounded(times or "1") for _, _, times in entries]
  if sum(repeats) > MOST_ITERATIONS:
    raise ValueError(
      f"network={_short(name)} runs the transformer too often; accepted: at"
      f" most {MOST_ITERATIONS} times in all"
    )
  depths: list[int] = []
  for (digits, _, _), times in zip(entries, repeats, strict=True):
    if _bounded(digits) > _DEEPEST:
      raise ValueError(
        f"network={_short(name)}: a placement depth is deeper than any"
        f" backbone; accepted: 0 to {_DEEPEST}"
      )
    depths += [int(digits)] * times
  return tuple(depths)


def _grammar() -> str:
  """The names of all registered placements."""
  parts = []
  for most, suffix in (
    (0, ""),
    (MOST_ITERATIONS, " followed by depths, such as {0}1, {0}0,1 or {0}1x2"),
    (1, " followed by one depth, such as {0}1"),
  ):
    prefixes = [p for p, k in PLACEMENTS.items() if k.most_depths == most]
    if prefixes:
      *others, last = prefixes
      listed = f"{', '.join(others)} or {last}" if others else last
      parts.append(listed + suffix.format(prefixes[0]))
  return "; ".join(parts)


def _bounded(digits: str) -> int:
  """A number; the digits of a huge one are not read, which takes long."""
  return int(digits) if len(digits) < 10 else 10**9


def _short(name: str) -> str:
  """A name in quotes, cut off where it would fill the screen."""
  return repr(name if len(name) <= 60 else f"{name[:57]}...")
