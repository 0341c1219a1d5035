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

  Args:
    text: the compiled program, as XLA prints it.

  Returns:
    Cycles of each of `WORK`: fusions with a convolution, or a product, as of
    dense layers; what reads images at points, its products too; the rest. And
    "unknown": how many fusions, gathers, scatters, sorts and gradients of max
    pooling have no estimate. What moves data beside other work has none either,
    and no collective.

  Raises:
    ValueError: for a program with a loop inside of it whose turns are unknown.
  """
  by_name = _computations(text)
  entry = re.search(r"^ENTRY %?([\w.-]+)", text, re.MULTILINE)[1]

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
    found = dict.fromkeys((*WORK, "unknown"), 0)
    for line in by_name[name]:
      if estimate := re.search(r'"estimated_cycles":"(\d+)"', line):
        found[work(line)] += int(estimate[1])
      elif re.search(_COUNTED, line):
        found["unknown"] += 1
      for condition, body in re.findall(_LOOP, line):
        turns, one = _turns(by_name[condition]), total(body)
        if turns is None and name == entry:
          return one
        if turns is None:
          raise ValueError(f"the turns of {condition} are not known")
        found = {key: found[key] + turns * one[key] for key in found}
    return found

  return total(entry)


_COUNTED = r"[\]})] (?:fusion|select-and-scatter|gather|scatter|sort)\("
_LOOP = r" while\(.*\bcondition=%?([\w.-]+), body=%?([\w.-]+)"


def _computations(text: str) -> dict[str, list[str]]:
  """The operations of each computation of a program, a line each."""
  found: dict[str, list[str]] = {}
  lines: list[str] = []
  for line in text.splitlines():
    if head := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
      lines = found.setdefault(head[1], [])
    elif line.startswith(" "):
      lines.append(line)
  return found


def _turns(condition: Sequence[str]) -> int | None:
  """Where a loop ends that counts from 0, as JAX's do; None for another."""
  text = "\n".join(condition)
  ends = re.findall(r" = s32\[\]\S* constant\((\d+)\)", text)
  below = re.search(r"ROOT \S+ = pred\[\]\S* compare\(.*direction=LT", text)
  return int(ends[0]) if below and len(ends) == 1 else None
