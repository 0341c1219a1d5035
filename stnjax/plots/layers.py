"""Quantities of the layers of networks, such as norms of gradients."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from stnjax.plots import drawing

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Values of the seeds, by network, then by layer."""


def values_by_layer(
  label: str,
  panels: Mapping[str, Values],
  *,
  layers: Sequence[str] | None = None,
  logarithmic: bool = True,
) -> Figure:
  """Values against the layer, one line per network.

  Args:
    label: Label of the vertical axis.
    panels: Values of the seeds by title of the panel, network and layer.
    layers: Names of the layers along the horizontal axis; by default all, in
      the order in which they occur.
    logarithmic: Whether the vertical axis is logarithmic; values that are not
      above 0 are then left out.

  Returns:
    The figure: means over the seeds, joined, and their range as a band.

  Raises:
    ValueError: If there are no panels.
  """
  drawing.require("panels", panels)
  if layers is None:
    layers = _occurring(panels)
  height = 2.6 * len(panels) + 0.09 * max(map(len, layers), default=0)
  figure = Figure(figsize=(drawing.WIDTH, height), layout="constrained")
  axes = figure.subplots(
    len(panels), 1, squeeze=False, sharex=True, sharey=True
  ).ravel()
  places = {layer: place for place, layer in enumerate(layers)}
  styles = drawing.styles_of(panels.values())
  for axis, (title, by_network) in zip(axes, panels.items(), strict=True):
    for name, by_layer in by_network.items():
      x = [places[layer] for layer in layers if layer in by_layer]
      seeds = [by_layer[layer] for layer in layers if layer in by_layer]
      style: drawing.Style = {**styles[name], "markersize": 4}
      style["label"] = drawing.text(name)
      _draw(axis, x, seeds, style, logarithmic)
    axis.set(
      title=title, ylabel=label, yscale="log" if logarithmic else "linear"
    )
    axis.grid(alpha=0.3)
  axes[-1].set_xticks(
    range(len(layers)), [drawing.text(layer) for layer in layers], rotation=90
  )
  drawing.legend_outside(figure, axes)
  return figure


def _occurring(panels: Mapping[str, Values]) -> list[str]:
  """Names of the layers in the order in which they occur."""
  every = (
    layer
    for by_network in panels.values()
    for by_layer in by_network.values()
    for layer in by_layer
  )
  return list(dict.fromkeys(every))


def _draw(
  axis: Axes,
  x: Sequence[int],
  seeds: Sequence[Sequence[float]],
  style: drawing.Style,
  logarithmic: bool,
) -> None:
  """Means over the seeds at each layer, and their range as a band."""
  found = [[np.min(v), np.mean(v), np.max(v)] for v in seeds]
  spread = np.array(found).reshape(-1, 3)
  if logarithmic:
    spread = np.where(spread > 0, spread, np.nan)
  low, mean, high = spread.T
  axis.plot(x, mean, **style)
  axis.fill_between(x, low, high, color=style["color"], alpha=0.15)
