"""Names of networks, tasks, settings and residuals for readers of reports."""

from collections.abc import Sequence
from typing import Any

from stnjax import placement
from stnjax.training.description import AxisDescription


def order(network: str) -> tuple[int, Sequence[int]]:
  """A key to sort networks by: kind of placement, then depths."""
  parsed = placement.parse(network)
  return list(placement.PLACEMENTS).index(parsed.prefix), parsed.depths


def title(task: str, perturbation: str, family: str) -> str:
  """A name for runs on a task, such as "Rotated MNIST (subset)".

  The family is named where it is not that of the perturbation.
  """
  text = task
  if family != perturbation:
    text += f", {in_words(family)} transforms"
  return text[:1].upper() + text[1:]


def in_words(name: str) -> str:
  """A name in code as words."""
  return name.replace("_", " ")


def setting(name: str, value: Any) -> str:
  """A setting and its value in words, such as "without batch norm"."""
  words = in_words(name)
  if name == "warm_start" and not value:
    return f"without {words}"
  if isinstance(value, bool):
    return f"{'with' if value else 'without'} {words}"
  if value == ():
    return f"no {words}"
  if value in (None, ""):
    return f"default {words}"
  return f"{words} {flag_value(value)}"


def flag_value(value: Any) -> str:
  """The value of a setting as a flag takes it."""
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def residual(axis: AxisDescription, about: str) -> str:
  """Column and axis label of the residual along an axis, with its unit.

  Args:
    axis: Axis of the poses.
    about: What has the mean that the residual is about: "class" or "image".
  """
  return f"{in_words(axis.name)} residual by {about} ({axis.unit})"
