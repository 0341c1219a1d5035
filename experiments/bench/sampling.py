"""Times and peak memory of warps, against other libraries."""

from collections.abc import Iterator, Mapping, Sequence
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments.bench import memory, peers, shapes, timing
from experiments.lib import cli
from experiments.lib.tables import Table, markdown
import stnjax

_CASE_KEYS = ("shape", "method", "dtype", "padding")

Row = dict[str, Any]
"""A measurement: the case, see `measure`, pass, peer, seconds and peak_mib."""


def check_same_picture(
  built: dict[str, peers.Passes], shape: Sequence[int], method: str
) -> None:
  """Checks that implementations warp alike, apart from edges.

  Args:
    built: Passes by implementation, "stnjax" among them.
    shape: Shape of the batch.
    method: Method of interpolation.

  Raises:
    RuntimeError: If the result of one differs from that of stnjax.
  """
  image, theta, _ = peers.inputs(shape)
  _, mask = stnjax.warp(image, theta, method=method, return_mask=True)
  inside = np.asarray(jnp.abs(mask - 1) < 1e-6)
  pictures = {
    name: _to_numpy(passes["forward"]())[inside]
    for name, passes in built.items()
    if peers.find(name).is_warp
  }
  # Rounding moves "nearest" to another pixel here and there.
  accepted = 1e-3 if method == "nearest" else 0
  for name, picture in pictures.items():
    difference = np.abs(picture - pictures["stnjax"])
    wrong = (difference > 1e-2).mean()
    if wrong > accepted:
      raise RuntimeError(
        f"{name} makes another picture: {wrong:.2%} of its pixels are off by"
        f" more than 0.01, at most by {difference.max():.3g}"
      )


def _to_numpy(result: Any) -> np.ndarray:
  return np.asarray(result.cpu() if hasattr(result, "cpu") else result)


def measure_all(
  batches: Sequence[shapes.Shape],
  methods: Sequence[str],
  dtypes: Sequence[str],
  paddings: Sequence[str],
  chosen: Sequence[str],
  *,
  rounds: int,
  in_a_row: int,
  with_memory: bool,
) -> Iterator[list[Row]]:
  """Measures every combination, and prints each before it starts.

  Args:
    batches: Shapes to warp.
    methods: Methods of interpolation.
    dtypes: Data types of the images.
    paddings: What is outside.
    chosen: Names in `peers.PEERS`.
    rounds: Number of times each pass is timed.
    in_a_row: Number of times that a call computes the warp.
    with_memory: Whether peak memory is measured.

  Yields:
    All measurements so far, after each combination.
  """
  rows: list[Row] = []
  for values in itertools.product(batches, methods, dtypes, paddings):
    shape, *rest = values
    print(f"{shapes.text(shape)} {' '.join(rest)} ...", flush=True)
    case = dict(zip(_CASE_KEYS, values, strict=True))
    rows += measure(case, chosen, rounds, in_a_row, with_memory)
    yield rows


def measure(
  case: dict[str, Any],
  chosen: Sequence[str],
  rounds: int,
  in_a_row: int,
  with_memory: bool,
) -> Iterator[Row]:
  """Measures one combination, see `measure_all`, after checking results.

  Args:
    case: Shape, method, dtype and padding.
    chosen: Names in `peers.PEERS`; those without the method are left out.
    rounds: Number of times each pass is timed.
    in_a_row: Number of times that a call computes the warp.
    with_memory: Whether peak memory is measured.
  """
  shape, method = case["shape"], case["method"]
  supporting = [n for n in chosen if peers.find(n).supports(**case)]
  names = ["stnjax", *supporting]
  # Some compute coordinates too coarsely in other types than float32.
  checked = {**case, "dtype": "float32"}
  built = {n: peers.build(n, **checked, in_a_row=in_a_row) for n in names}
  check_same_picture(built, shape, method)
  if case != checked:
    built = {n: peers.build(n, **case, in_a_row=in_a_row) for n in names}
  peaks: dict[str, dict[str, float]] = {}
  if with_memory:
    peaks = {name: memory.in_fresh_process(name, **case) for name in names}
  for which in built["stnjax"]:
    calls = {
      name: passes[which] for name, passes in built.items() if which in passes
    }
    for name, seconds in timing.in_turns(calls, rounds).items():
      yield {
        **case,
        "pass": which,
        "peer": name,
        "seconds": [second / in_a_row for second in seconds],
        "peak_mib": peaks.get(name, {}).get(which),
      }


def report(rows: Sequence[Row]) -> str:
  """Tables of times and, where it was measured, of peak memory."""
  names = list(dict.fromkeys(row["peer"] for row in rows))
  by_case: dict[tuple, dict[str, Row]] = {}
  for row in rows:
    batch, method = shapes.text(row["shape"]), row["method"]
    padding = row.get("padding", "zeros")  # older measurements have no others
    if padding != "zeros":
      method = f"{method}, {padding}"
    case = batch, method, row["dtype"], row["pass"]
    by_case.setdefault(case, {})[row["peer"]] = row
  tables = [times(names, by_case)]
  if any(row["peak_mib"] is not None for row in rows):
    tables.append(peaks(names, by_case))
  return "\n\n".join(map(markdown, tables))


_CASE = ("batch", "method", "dtype", "pass")


def times(names: Sequence[str], by_case: dict[tuple, dict[str, Row]]) -> Table:
  """Our time, and theirs over ours, of each case and peer."""
  heading = [*_CASE, "stnjax (ms)"]
  heading += [f"{peer} / stnjax" for peer in names[1:]]
  rows = []
  for case, by_peer in by_case.items():
    ours = by_peer["stnjax"]["seconds"]
    ratios = [
      timing.ratio(by_peer[peer]["seconds"], ours) if peer in by_peer else "–"
      for peer in names[1:]
    ]
    rows.append([*case, f"{1e3 * np.median(ours):.3g}", *ratios])
  return Table(heading, rows, len(_CASE))


def peaks(names: Sequence[str], by_case: dict[tuple, dict[str, Row]]) -> Table:
  """Peak memory of each case and implementation."""
  rows = []
  for case, by_peer in by_case.items():
    values = [by_peer.get(peer, {}).get("peak_mib") for peer in names]
    rows.append([*case, *("–" if v is None else f"{v:.0f}" for v in values)])
  heading = [*_CASE, *(f"{peer} (MiB)" for peer in names)]
  return Table(heading, rows, len(_CASE))


def chosen_peers(
  names: Sequence[str] | None, known: Mapping[str, Any] = peers.PEERS
) -> list[str]:
  """The peers to compare with.

  Args:
    names: Value of --peers; None for all that are available.
    known: Peers by name, with a method `available`.

  Raises:
    ValueError: If there are none, one is given twice, unknown or not available.
  """
  if names is None:
    return [name for name, peer in known.items() if peer.available()]
  for name in cli.each_once("peers", names):
    if not known[name].available():
      raise ValueError(
        f"--peers={name!r} is not available for this device; install it, or"
        " leave it out"
      )
  return list(names)
