"""Costs of compiled programs, read from what XLA reports of them."""

import collections
from collections.abc import Sequence
import math
import re
from typing import Any

import jax

WORK = ("convolutions", "sampling", "rest")

SAMPLING = "jit(sample)"
"""Part of the name of every operation of `stnjax.grid_sample` and `warp`."""


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes of a program's temporaries, and of its inputs and outputs."""
  sizes = compiled.memory_analysis()
  return {
    "temporary_bytes": sizes.temp_size_in_bytes,
    "in_and_out_bytes": sizes.argument_size_in_bytes
    + sizes.output_size_in_bytes,
  }


def gpu_counts(text: str) -> dict[str, int]:
  """Operations of a program for GPUs.

  Args:
    text: Compiled program, as XLA prints it.

  Returns:
    "kernels", which are launched one after another; "sorts"; "scatters"; and
    "unordered", the scatters that add to an element in any order.
  """
  text = re.sub(r"/\*.*?\*/", "", text)  # "index=5" in large tuples
  operation = re.compile(r" = (?:\([^=]*?\)|\S+) ([a-z-]+)\(")
  names = operation.findall(text)
  free = ("parameter", "constant", "get-tuple-element", "bitcast", "tuple")
  launched = operation.findall(text[text.index("\nENTRY") :])
  scatters = [line for line in text.splitlines() if " scatter(" in line]
  return {
    "kernels": sum(name not in free for name in launched),
    "sorts": names.count("sort"),
    "scatters": len(scatters),
    "unordered": sum("unique_indices=true" not in line for line in scatters),
  }


def tpu_costs(compiled: jax.stages.Compiled) -> dict[str, Any]:
  """XLA's estimates for a program for TPUs, and what it consists of.

  Returns:
    "seconds", an estimate without the operations that XLA cannot estimate, and
    "unknown", their number; "flops"; "bytes" moved; the results of `memory`;
    "gathers" and "scatters", their numbers; and "cycles", see `cycles`.
  """
  cost = compiled.cost_analysis()
  estimate = cost["optimal_seconds"]
  unknown = max(0, math.ceil(-estimate))  # XLA subtracts a second for each
  text = compiled.as_text()
  return {
    "seconds": estimate + unknown,
    "unknown": unknown,
    "flops": cost["flops"],
    "bytes": cost["bytes accessed"],
    **memory(compiled),
    "gathers": len(re.findall(r" = \S+ gather\(", text)),
    "scatters": len(re.findall(r" = \S+ scatter\(", text)),
    "cycles": cycles(text),
  }


def collectives(text: str) -> list[tuple[str, int]]:
  """Communication between the devices of a program.

  Args:
    text: Compiled program, as XLA prints it.

  Returns:
    Name and bytes of each operation.
  """
  operations = re.findall(
    r"^.* = (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|"
    r"collective-permute|collective-broadcast)(?:-start)?\(",
    text,
    re.MULTILINE,
  )
  return [(name, _size_in_bytes(result)) for result, name in operations]


def _size_in_bytes(types: str) -> int:
  """Bytes of arrays such as `(f32[2,3]{1,0}, bf16[4]{0})`."""
  return sum(
    int(bits) // 8 * math.prod(map(int, filter(None, sizes.split(","))))
    for bits, sizes in re.findall(r"[fsu](\d+)\[([\d,]*)\]", types)
  )


def cycles(text: str) -> dict[str, int]:
  """XLA's estimates of the cycles of each operation on a TPU, by work.

  A loop counts once per iteration. If the iterations of a loop around the whole
  program are not known when it is compiled, as of training, the result is that
  of one iteration.

  Args:
    text: Compiled program, as XLA prints it.

  Returns:
    Cycles of each of `WORK`: fusions with a convolution or another matrix
    product; operations that sample images, their products included; the rest.
    "unknown" is the number of fusions, gathers, scatters, sorts and gradients
    of max pooling without an estimate. Asynchronous copies and collectives have
    none, and are not counted.

  Raises:
    ValueError: If the iterations of a loop inside the program are not known.
  """
  program = _Computations(text)
  entry = re.search(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)[1]
  return dict(program.cycles(entry, is_entry=True))


_COUNTED = r"[\]})] (?:fusion|select-and-scatter|gather|scatter|sort)\("
_LOOP = r" while\(.*\bcondition=%?([\w.-]+), body=%?([\w.-]+)"


class _Computations:
  """The computations of a program, and the lines of each."""

  def __init__(self, text: str):
    self._lines: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
      if head := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
        lines = self._lines.setdefault(head[1], [])
      elif line.startswith(" "):
        lines.append(line)

  def cycles(self, name: str, is_entry: bool = False) -> collections.Counter:
    """Cycles of a computation, see `cycles`."""
    total = collections.Counter(dict.fromkeys((*WORK, "unknown"), 0))
    for line in self._lines[name]:
      if estimate := re.search(r'"estimated_cycles":"(\d+)"', line):
        total[self._work(line)] += int(estimate[1])
      elif re.search(_COUNTED, line):
        total["unknown"] += 1
      for condition, body in re.findall(_LOOP, line):
        iterations = _iterations(self._lines[condition])
        cost = self.cycles(body)
        if iterations is None and is_entry:
          return cost
        if iterations is None:
          raise ValueError(f"the iterations of {condition} are not known")
        for key, value in cost.items():
          total[key] += iterations * value
    return total

  def _work(self, line: str) -> str:
    if SAMPLING in line:
      return "sampling"
    return "convolutions" if self._multiplies(line) else "rest"

  def _multiplies(self, line: str) -> bool:
    """Whether an operation, or one that it calls, is a matrix product."""
    if re.search(r"[\]})] (?:convolution|dot)\(", line):
      return True
    called = re.findall(r"calls=%?([\w.-]+)", line)
    return any(
      self._multiplies(inner) for name in called for inner in self._lines[name]
    )


def _iterations(condition: Sequence[str]) -> int | None:
  """Iterations of a loop that counts from 0, as JAX's do; None for another."""
  text = "\n".join(condition)
  ends = re.findall(r" = s32\[\]\S* constant\((\d+)\)", text)
  below = re.search(r"ROOT \S+ = pred\[\]\S* compare\(.*direction=LT", text)
  return int(ends[0]) if below and len(ends) == 1 else None
