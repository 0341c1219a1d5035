"""Shapes of batches on the command line: 256x28x28x1, or 2x64x64x64x1."""

from collections.abc import Sequence
import math
import re

from absl import flags

from experiments.lib import cli

Shape = tuple[int, ...]
"""Batch, height, width, channels; with a depth before the height, volumes."""


def define_flag(default: Sequence[str]) -> flags.FlagHolder[list[str]]:
  """Defines --shapes."""
  return flags.DEFINE_list(
    "shapes",
    default,
    "Batches to warp: batch x height x width x channels, or batch x depth x"
    " height x width x channels for volumes.",
  )


def text(shape: Sequence[int]) -> str:
  """A shape as on the command line."""
  return "x".join(map(str, shape))


def parse(values: Sequence[str], *, volumes: bool = False) -> list[Shape]:
  """Reads the values of --shapes.

  Args:
    values: Sizes of each batch, joined by "x".
    volumes: Whether batches of volumes are accepted.

  Raises:
    ValueError: If there are none, one is given twice, one is not of the form
      256x28x28x1, or a batch has 2^31 elements or more.
  """
  return [_parse(value, volumes) for value in cli.each_once("shapes", values)]


def _parse(value: str, volumes: bool) -> Shape:
  sizes = value.split("x")
  if len(sizes) not in ((4, 5) if volumes else (4,)) or not all(
    re.fullmatch("[1-9][0-9]{0,9}", size) for size in sizes
  ):
    raise ValueError(
      f"--shapes={value[:40]!r} is not a shape; accepted:"
      " BATCHxHEIGHTxWIDTHxCHANNELS, such as 256x28x28x1"
      + (", or with DEPTH before HEIGHT, such as 2x64x64x64x1" * volumes)
    )
  shape = tuple(map(int, sizes))
  elements = math.prod(shape)
  if elements >= 2**31:
    raise ValueError(
      f"--shapes={value!r} has {elements:,} elements; accepted: at most"
      f" {2**31 - 1:,}"
    )
  return shape
