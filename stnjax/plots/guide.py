"""Where to look and what to warp, by layer, and the residuals of networks."""

from collections.abc import Mapping, Sequence
import itertools

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from stnjax.plots import drawing


def look_and_warp(
  layers: Sequence[str],
  *,
  undone: np.ndarray,
  read: Mapping[str, np.ndarray],
  residuals: Mapping[str, Sequence[float]],
  none: float,
  unit: str,
) -> Figure:
  """Plots what a warp of each layer undoes, what is read, and residuals.

  Args:
    layers: Names of the layers, the first of which is the image.
    undone: Percentage that the best warp of each layer undoes, `[S, L]`, one
      row per seed.
    read: R² of the pose read from each layer, `[S, L]`, by reader.
    residuals: Residuals by network, one per seed.
    none: Residual of an identity transformer.
    unit: Label of the axis of residuals.

  Returns:
    The figure, of three panels.

  Raises:
    ValueError: If there are no readers or networks.
  """
  drawing.require("read", read)
  drawing.require("residuals", residuals)
  figure = Figure(figsize=(drawing.WIDTH, 3.2), layout="constrained")
  warp, look, found = figure.subplots(1, 3)
  styles = drawing.styles()
  _draw(warp, undone, {**next(styles), "marker": "o"})
  warp.set(title="what to warp", ylabel="undone by the best warp (%)")
  warp.set_ylim(bottom=min(0, warp.get_ylim()[0]))
  markers = itertools.cycle("sD^v")
  for (reader, values), style in zip(read.items(), styles, strict=False):
    _draw(look, values, {**style, "marker": next(markers), "label": reader})
  look.set(title="where to look", ylabel="R² of the pose")
  look.set_ylim(min(0, look.get_ylim()[0]), 1.02)
  look.legend(frameon=False, fontsize=8)
  for axis in (warp, look):
    names = [drawing.text(layer, 12) for layer in layers]
    axis.set_xticks(range(len(layers)), names, rotation=30, ha="right")
    axis.grid(alpha=0.3)
  _draw_residuals(found, residuals, none)
  found.set(title="residual by network", ylabel=unit)
  return figure


def _draw(axis: Axes, values: np.ndarray, style: drawing.Style) -> None:
  """Means over the seeds, joined, and their range as a band."""
  values = np.atleast_2d(values)
  axis.plot(values.mean(axis=0), **style, markersize=4)
  axis.fill_between(
    np.arange(values.shape[1]),
    values.min(axis=0),
    values.max(axis=0),
    color=style["color"],
    alpha=0.15,
  )


def _draw_residuals(
  axis: Axes, residuals: Mapping[str, Sequence[float]], none: float
) -> None:
  """One point per seed, and the mean, by network."""
  for place, (seeds, style) in enumerate(
    zip(residuals.values(), drawing.styles(), strict=False)
  ):
    spread = np.linspace(-0.15, 0.15, len(seeds)) if len(seeds) > 1 else [0]
    colour = style["color"]
    axis.plot(place + np.asarray(spread), seeds, "o", color=colour, ms=3)
    axis.hlines(np.mean(seeds), place - 0.3, place + 0.3, color=colour)
  axis.axhline(none, color=drawing.COLOURS[0], linestyle="--", linewidth=1)
  names = [drawing.text(name) for name in residuals]
  axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
  axis.set_ylim(0, 1.08 * max(none, *map(max, residuals.values())))
  axis.grid(axis="y", alpha=0.3)
