"""Shapes of batches on the command line, such as 256x28x28x1."""

from collections.abc import Sequence
import math
import re

from absl import flags

from experiments.lib import cli

Shape = tuple[int, int, int, int]
"""Batch, height, width, channels."""


def define_flag(default: Sequence[str]) -> flags.FlagHolder[list[str]]:
  """Defines --shapes."""
  return flags.DEFINE_list(
    "shapes", default, "Batches to warp: batch x height x width x channels."
  )


def text(shape: Sequence[int]) -> str:
  """A shape as on the command line."""
  return "x".join(map(str, shape))


def parse(values: Sequence[str]) -> list[Shape]:
  """Reads the values of --shapes.

  Raises:
    ValueError: If there are none, one is given twice, one is not of the form
      256x28x28x1, or a batch has 2^31 elements or more.
  """
  return [_parse(value) for value in cli.each_once("shapes", values)]


def _parse(value: str) -> Shape:
  sizes = value.split("x")
  if len(sizes) != 4 or not all(
    re.fullmatch("[1-9][0-9]{0,9}", size) for size in sizes
  ):
    raise ValueError(
      f"--shapes={value[:40]!r} is not a shape; accepted:"
      " BATCHxHEIGHTxWIDTHxCHANNELS, such as 256x28x28x1"
    )
  batch, height, width, channels = map(int, sizes)
  elements = math.prod((batch, height, width, channels))
  if elements >= 2**31:
    raise ValueError(
      f"--shapes={value!r} has {elements:,} elements; accepted: at most"
      f" {2**31 - 1:,}"
    )
  return batch, height, width, channels
