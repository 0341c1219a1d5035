"""Times of benchmarks against sizes."""

from collections.abc import Mapping
import itertools

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from stnjax.plots import drawing


def scaling(lines: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
  """Time against sizes, such as that of a batch, on logarithmic scales.

  Args:
    lines: Times by label of the horizontal axis, then by line, `[N, 4]`: the
      size, then the quartiles of the time in milliseconds. Lines whose names
      agree up to a comma share a colour.

  Returns:
    The figure, a panel for each horizontal axis: medians and quartiles. The
    grey line grows in proportion to the size.

  Raises:
    ValueError: If there are no axes.
  """
  drawing.require("lines", lines)
  figure = Figure(figsize=(drawing.WIDTH, 3.0), layout="constrained")
  axes = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
  names = itertools.chain.from_iterable(lines.values())
  groups = dict.fromkeys(name.split(",")[0] for name in names)
  colours = dict(zip(groups, itertools.cycle(drawing.COLOURS[1:])))
  for axis, (label, by_name) in zip(axes, lines.items(), strict=True):
    if by_name:
      _draw_times(axis, by_name, colours)
      axis.set(xscale="log", yscale="log", xlabel=label)
      axis.grid(alpha=0.3)
  axes[0].set(ylabel="ms")
  times = drawing.finite(x[:, 1:] for b in lines.values() for x in b.values())
  if len(times := times[times > 0]):
    axes[0].set(ylim=(times.min() / 2, times.max() * 2))
  drawing.legend_outside(figure, axes, "outside upper center")
  return figure


def _draw_times(
  axis: Axes, by_name: Mapping[str, np.ndarray], colours: Mapping[str, str]
) -> None:
  """Lines of times with quartiles, and one that grows in proportion."""
  drawn = dict.fromkeys(colours, 0)
  for name, line in by_name.items():
    group = name.split(",")[0]
    colour = colours[group]
    style = (".-", ".--", ".:")[drawn[group] % 3]
    drawn[group] += 1
    size, low, median, high = line.T
    label = drawing.text(name)
    axis.plot(size, median, style, color=colour, label=label, lw=1.4)
    axis.fill_between(size, low, high, color=colour, alpha=0.2)
  size, _, median, _ = next(iter(by_name.values())).T
  proportional = median[-1] / 2 * size / size[-1]
  grey = drawing.COLOURS[0]
  axis.plot(size, proportional, color=grey, lw=0.8, label="slope 1")
