"""How the time of a warp grows with batch, size and channels, in a figure.

  python -m experiments.bench_scaling

times linear warps by random affine transforms, forward and with both gradients,
along each axis on its own, with stnjax and, where it is installed, torch. A
fixed cost and one per number warped make a line that is first flat and then
straight, of slope 1 on logarithmic axes; the table gives the slope of the upper
half. It writes bench_scaling.md, .png and, with every measurement, .json. About
2 minutes on 2 CPU cores.
"""

from collections.abc import Sequence
import io
import json
from typing import Any

from absl import flags
import numpy as np

from experiments.bench import peers, timing
from experiments.lib import cli
from stnjax import files, plots

PASSES = ("forward", "both")
AXES = {
  "batch": [(2**k, 64, 64, 3) for k in range(9)],
  "pixels": [(8, 2**k, 2**k, 3) for k in range(3, 10)],
  "channels": [(8, 64, 64, 2**k) for k in range(8)],
}
"""Shapes, batch x height x width x channels, along each axis."""


def along(axis: str, shape: Sequence[int]) -> int:
  """Where a shape lies on its axis."""
  batch, height, width, channels = shape
  return {"batch": batch, "pixels": height * width, "channels": channels}[axis]


def measure(
  axis: str,
  shapes: Sequence[Sequence[int]],
  libraries: Sequence[str],
  rounds: int,
) -> list[dict[str, Any]]:
  """Rows, one per shape, library and pass."""
  rows = []
  for shape in shapes:
    built = {peer: peers.build(peer, shape, "linear") for peer in libraries}
    for which in PASSES:
      calls = {peer: passes[which] for peer, passes in built.items()}
      seconds = timing.in_turns(calls, rounds)
      for peer, times in seconds.items():
        place = along(axis, shape)
        rows.append(
          {
            "axis": axis,
            "shape": shape,
            "at": place,
            "peer": peer,
            "pass": which,
            "seconds": times,
          }
        )
  return rows


def lines(rows: Sequence[dict]) -> dict[str, dict[str, np.ndarray]]:
  """By axis and line, `[N, 4]`: place, then quartiles of milliseconds."""
  found: dict[str, dict[str, list]] = {}
  for row in rows:
    line = found.setdefault(row["axis"], {})
    quartiles = 1e3 * np.percentile(row["seconds"], [25, 50, 75])
    name = f"{row['peer']}, {row['pass']}"
    line.setdefault(name, []).append([row["at"], *quartiles])
  return {
    axis: {name: np.array(points) for name, points in line.items()}
    for axis, line in found.items()
  }


def slope(line: np.ndarray) -> float:
  """Of the upper half of a line on logarithmic axes."""
  upper = np.log(line[-max(2, len(line) // 2) :, [0, 2]])
  return float(np.polyfit(*upper.T, 1)[0])


def table(found: dict[str, dict[str, np.ndarray]]) -> str:
  """The first and the last point of each line, and its slope."""
  head = "| along | library, pass | from | ms | to | ms | slope |"
  rows = [head, "|---|---|--:|--:|--:|--:|--:|"]
  for axis, by_name in found.items():
    for name, line in by_name.items():
      first, last = line[0], line[-1]
      rows.append(
        f"| {axis} | {name} | {first[0]:.0f} | {first[2]:.3g} | {last[0]:.0f} |"
        f" {last[2]:.3g} | {slope(line):.2f} |"
      )
  return "\n".join(rows)


def main() -> None:
  names = [f"bench_scaling.{ending}" for ending in ("json", "md", "png")]
  data, text, picture = timing.outputs(_OUTPUT.value, names, _OVERWRITE.value)
  libraries = ["stnjax", *filter(peers.installed, ["torch"])]
  rows = []
  for axis, shapes in AXES.items():
    print(f"{axis} ...", flush=True)
    rows += measure(axis, shapes, libraries, _ROUNDS.value)
  found = lines(rows)
  values = {"machine": timing.machine(), "rows": rows}
  files.write_whole(data, json.dumps(values))
  files.write_whole(text, table(found) + "\n")
  drawn = io.BytesIO()
  plots.scaling(found).savefig(drawn, format="png", dpi=150)
  files.write_whole(picture, drawn.getvalue())
  print(f"{table(found)}\n\nwritten: {data}, {text}, {picture}")


if __name__ == "__main__":
  _ROUNDS = flags.DEFINE_integer(
    "rounds", 11, "How often each is timed.", lower_bound=1
  )
  _OUTPUT = flags.DEFINE_string(
    "output", "runs/bench_scaling", "Folder that the results are written to."
  )
  _OVERWRITE = flags.DEFINE_boolean(
    "overwrite", False, "Replace results that are there already."
  )
  cli.run(main)
