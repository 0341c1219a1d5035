"""What XLA says of programs that it compiles for devices that are not there."""

from collections.abc import Callable, Sequence
import math
import re
from typing import Any

import jax
import jax.numpy as jnp

WORK = ("convolutions", "sampling", "rest")


def lowered(
  device: jax.Device, f: Callable[..., Any], *arguments: Sequence[int]
) -> jax.stages.Lowered:
  """`f` at float32 arguments, of these shapes, for a device not there."""
  one = jax.sharding.SingleDeviceSharding(device)
  shapes = (
    jax.ShapeDtypeStruct(shape, jnp.float32, sharding=one)
    for shape in arguments
  )
  return jax.jit(f, out_shardings=one).lower(*shapes)


def memory(compiled: jax.stages.Compiled) -> dict[str, int]:
  """Bytes that a program takes, and those of its arguments and results."""
  found = compiled.memory_analysis()
  return {
    "temporary_bytes": found.temp_size_in_bytes,
    "in_and_out_bytes": found.argument_size_in_bytes
    + found.output_size_in_bytes,
  }


def costs(compiled: jax.stages.Compiled) -> dict[str, Any]:
  """What XLA for TPUs says of a program."""
  cost = compiled.cost_analysis()
  estimate = cost["optimal_seconds"]
  unknown = max(0, math.ceil(-estimate))
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
  """What a program's chips tell each other: each operation, and its bytes.

  Args:
    text: the compiled program, as XLA prints it.
  """
  found = re.findall(
    r"^.* = (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|"
    r"collective-permute|collective-broadcast)(?:-start)?\(",
    text,
    re.MULTILINE,
  )
  return [
    (
      name,
      sum(
        int(bits) // 8 * math.prod(map(int, filter(None, sizes.split(","))))
        for bits, sizes in re.findall(r"[fsu](\d+)\[([\d,]*)\]", result)
      ),
    )
    for result, name in found
  ]


def cycles(text: str) -> dict[str, int]:
  """XLA's estimates of each operation for a TPU, by what the work is for.

  A loop counts once per turn. Of a program around a loop whose turns are not
  known when it is compiled, as that of training, the figures are one turn's.
  Gathers, scatters and collectives have no estimate.

  Args:
    text: the compiled program, as XLA prints it.

  Returns:
    Cycles of each of `WORK`: fusions with a convolution, or a product, as of
    dense layers; what reads images at points, its products too; the rest.
  """
  by_name = _computations(text)

  def multiplies(line: str) -> bool:
    inner = re.findall(r"calls=%?([\w.-]+)", line)
    return bool(re.search(r"[\]})] (?:convolution|dot)\(", line)) or any(
      multiplies(line) for name in inner for line in by_name[name]
    )

  def work(line: str) -> str:
    if "jit(_sample)" in line:
      return "sampling"
    return "convolutions" if multiplies(line) else "rest"

  def total(name: str) -> dict[str, int]:
    found = dict.fromkeys(WORK, 0)
    for line in by_name[name]:
      for estimate in re.findall(r'"estimated_cycles":"(\d+)"', line):
        found[work(line)] += int(estimate)
      for condition, body in _loops(line):
        turns, one = _turns(by_name[condition]), total(body)
        if turns is None:
          return one
        found = {key: found[key] + turns * one[key] for key in WORK}
    return found

  return total(re.search(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)[1])


def _computations(text: str) -> dict[str, list[str]]:
  """The operations of each computation of a program, a line each."""
  found: dict[str, list[str]] = {}
  for line in text.splitlines():
    if line.endswith("{") and not line.startswith(" "):
      head = line.removeprefix("ENTRY ").removeprefix("%")
      name = re.match(r"[\w.-]+", head)
      lines = found.setdefault(name[0] if name else head, [])
    elif line.startswith(" "):
      lines.append(line)
  return found


def _loops(line: str) -> list[tuple[str, str]]:
  """Condition and body, where the operation is a loop."""
  return re.findall(
    r" while\(.*\bcondition=%?([\w.-]+), body=%?([\w.-]+)", line
  )


def _turns(condition: Sequence[str]) -> int | None:
  """How often a loop turns that ends at a constant; None for another."""
  ends = [
    int(end)
    for line in condition
    for end in re.findall(r" = s32\[\]\S* constant\((\d+)\)", line)
  ]
  return ends[0] if len(ends) == 1 else None
