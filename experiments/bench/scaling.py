"""Times of warps along the batch, the pixels and the channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.bench import peers, timing
from experiments.lib.tables import Table

PASSES = ("forward", "both")
AXES = {
  "batch": [(2**k, 64, 64, 3) for k in range(9)],
  "pixels": [(8, 2**k, 2**k, 3) for k in range(3, 10)],
  "channels": [(8, 64, 64, 2**k) for k in range(8)],
  "antialiased pixels": [(1, 2**k, 2**k, 1) for k in range(6, 12)],
}
"""Shapes, batch x height x width x channels, along each axis."""

Lines = dict[str, dict[str, np.ndarray]]
"""By axis, then by library and pass: `[N, 4]`, the position on the axis and the
quartiles of the time in milliseconds."""


def position(axis: str, shape: Sequence[int]) -> int:
  """Size of a shape along an axis."""
  batch, height, width, channels = shape
  positions = {"batch": batch, "channels": channels}
  return positions.get(axis, height * width)


def libraries(axis: str) -> list[str]:
  """The implementations to compare: stnjax, and torch if it can be."""
  if axis == "antialiased pixels":
    return ["antialiased"]
  return ["stnjax", *(["torch"] if peers.find("torch").available() else [])]


def measure(
  axis: str,
  shapes: Sequence[Sequence[int]],
  names: Sequence[str],
  rounds: int,
) -> list[dict[str, Any]]:
  """Times linear warps: a row for each shape, pass and implementation.

  Args:
    axis: Name of the axis.
    shapes: Shapes along the axis.
    names: Implementations, see `peers.find`.
    rounds: Number of times each pass is timed.
  """
  rows = []
  for shape in shapes:
    built = {name: peers.build(name, shape, "linear") for name in names}
    for which in PASSES:
      calls = {name: passes[which] for name, passes in built.items()}
      for name, seconds in timing.in_turns(calls, rounds).items():
        rows.append(
          {
            "axis": axis,
            "shape": shape,
            "at": position(axis, shape),
            "peer": name,
            "pass": which,
            "seconds": seconds,
          }
        )
  return rows


def lines(rows: Sequence[dict[str, Any]]) -> Lines:
  """The lines through the measurements, see `Lines`."""
  points: dict[str, dict[str, list]] = {}
  for row in rows:
    quartiles = 1e3 * np.percentile(row["seconds"], [25, 50, 75])
    line = points.setdefault(row["axis"], {})
    name = f"{row['peer']}, {row['pass']}"
    line.setdefault(name, []).append([row["at"], *quartiles])
  return {
    axis: {name: np.array(line) for name, line in by_name.items()}
    for axis, by_name in points.items()
  }


def slope(line: np.ndarray) -> float:
  """Slope of the upper half of a line on logarithmic axes."""
  upper = np.log(line[-max(2, len(line) // 2) :, [0, 2]])
  return float(np.polyfit(*upper.T, 1)[0])


def table(found: Lines) -> Table:
  """The first and the last point of each line, and its slope."""
  rows = []
  for axis, by_name in found.items():
    for name, line in by_name.items():
      (first, _, fastest, _), (last, _, slowest, _) = line[0], line[-1]
      rows.append(
        [
          axis,
          name,
          f"{first:.0f}",
          f"{fastest:.3g}",
          f"{last:.0f}",
          f"{slowest:.3g}",
          f"{slope(line):.2f}",
        ]
      )
  heading = ["along", "library, pass", "from", "ms", "to", "ms", "slope"]
  return Table(heading, rows, text_columns=2)
