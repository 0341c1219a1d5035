"""Axes of poses, with the fields that evaluation and plots read."""

from typing import NamedTuple


class Axis(NamedTuple):
  name: str
  unit: str
  period: float | None


ROTATION = Axis("rotation", "deg", 360.0)
TRANSLATION_X = Axis("translation_x", "px", None)
SCALE_X = Axis("scale_x", "octaves", None)
