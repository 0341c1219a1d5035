"""Figures, made from arrays.

Each function returns a `matplotlib.figure.Figure`, neither shown nor saved:
display it in a notebook, or call its `savefig`.
"""

from stnjax import extras

extras.needs("matplotlib", extra="experiments")

from stnjax.plots.amounts import values_by_amount
from stnjax.plots.audits import alignability
from stnjax.plots.classes import MOST_CLASSES, accuracy_by_size, confusion
from stnjax.plots.errors import error_lines, labelled_points, learning_curves
from stnjax.plots.guide import look_and_warp
from stnjax.plots.layers import values_by_layer
from stnjax.plots.poses import pose_density
from stnjax.plots.timings import scaling
from stnjax.plots.warps import before_and_after, images, warp, warps_by_epoch

__all__ = [
  "MOST_CLASSES",
  "accuracy_by_size",
  "alignability",
  "before_and_after",
  "confusion",
  "error_lines",
  "images",
  "labelled_points",
  "learning_curves",
  "look_and_warp",
  "pose_density",
  "scaling",
  "values_by_amount",
  "values_by_layer",
  "warp",
  "warps_by_epoch",
]
