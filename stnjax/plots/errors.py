"""Classification errors against depth, iterations, epochs and others."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from stnjax.plots import drawing


def error_lines(
  label: str,
  errors: Mapping[str, Mapping[int, Sequence[float]]],
  baseline: Sequence[float] = (),
) -> Figure:
  """Error against the depth of a placement, or the number of iterations.

  Args:
    label: Label of the horizontal axis.
    errors: Errors (%) of the seeds, by line, then by value on the horizontal
      axis.
    baseline: Errors (%) of the seeds without a transformer.

  Returns:
    The figure: means, their standard deviation over the seeds, and every seed
    as a dot. The dashed line is the mean of the baseline.
  """
  figure = Figure(figsize=(5.5, 3.6), layout="constrained")
  axis = figure.subplots()
  if len(baseline):
    _draw_baseline(axis, baseline)
  for style, (name, by_value) in zip(
    drawing.styles(), errors.items(), strict=False
  ):
    _draw_errors(axis, name, by_value, style)
  ticks = sorted({value for line in errors.values() for value in line})
  axis.set(xlabel=label, ylabel="error (%)")
  drawing.tick(axis, ticks)
  axis.grid(alpha=0.3)
  drawing.add_legend(figure, axis)
  return figure


def _draw_baseline(axis: Axes, errors: Sequence[float]) -> None:
  """The mean of errors, and a band of their standard deviation."""
  grey = drawing.COLOURS[0]
  axis.axhline(float(np.mean(errors)), color=grey, ls="--", label="CNN")
  if len(errors) > 1:
    spread = np.std(errors, ddof=1) * np.array([-1, 1])
    axis.axhspan(*(np.mean(errors) + spread), color=grey, alpha=0.15)


def _draw_errors(
  axis: Axes,
  name: str,
  by_value: Mapping[int, Sequence[float]],
  style: drawing.Style,
) -> None:
  """Means with standard deviations, and every seed as a dot."""
  values = sorted(value for value, errors in by_value.items() if len(errors))
  means = [np.mean(by_value[value]) for value in values]
  spreads = [
    float(np.std(by_value[value], ddof=1)) if len(by_value[value]) > 1 else 0
    for value in values
  ]
  label = drawing.text(name)
  axis.errorbar(
    values, means, spreads, **style, marker="o", capsize=3, label=label
  )
  for value in values:
    dots = by_value[value]
    axis.plot([value] * len(dots), dots, ".", color=style["color"], alpha=0.35)


def labelled_points(
  label: str,
  panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, str]]]],
) -> Figure:
  """Points with a name each, and a colour for each group.

  Args:
    label: Label of the horizontal axis.
    panels: Points by label of the vertical axis, then by group: x, y and name.

  Returns:
    The figure, a panel for each vertical axis.

  Raises:
    ValueError: If there are no panels.
  """
  drawing.require("panels", panels)
  figure = Figure(figsize=(drawing.WIDTH, 4.2), layout="constrained")
  axes = figure.subplots(1, len(panels), squeeze=False).ravel()
  styles = drawing.styles_of(panels.values())
  for axis, (vertical, groups) in zip(axes, panels.items(), strict=True):
    for name, points in groups.items():
      if points:
        _draw_points(axis, name, points, styles[name]["color"])
    axis.set(xlabel=label, ylabel=vertical)
    axis.margins(0.12)
    axis.grid(alpha=0.3)
  drawing.legend_outside(figure, axes)
  return figure


def _draw_points(
  axis: Axes,
  name: str,
  points: Sequence[tuple[float, float, str]],
  colour: drawing.Colour,
) -> None:
  """One group of points, joined, each with its name beside it."""
  x, y, _ = zip(*points, strict=True)
  axis.plot(x, y, "o:", color=colour, lw=0.8, label=drawing.text(name))
  for at_x, at_y, text in points:
    axis.annotate(
      drawing.text(text, 24),
      (at_x, at_y),
      (4, 3),
      textcoords="offset points",
      fontsize=7,
      color=colour,
    )


def learning_curves(
  curves: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
) -> Figure:
  """Metrics over epochs: mean over seeds, with their range as a band.

  Args:
    curves: Metrics by axis label, then by network: an array for each seed with
      a value per epoch. The shortest array of a network sets its last epoch.

  Returns:
    The figure, a panel for each metric.

  Raises:
    ValueError: If there are no metrics.
  """
  drawing.require("curves", curves)
  figure = Figure(figsize=(drawing.WIDTH, 3.2), layout="constrained")
  axes = figure.subplots(1, len(curves), squeeze=False).ravel()
  # A network keeps its colour in panels that lack another.
  names = dict.fromkeys(name for panel in curves.values() for name in panel)
  styles = dict(zip(names, drawing.styles(drawing.COLOURS), strict=False))
  for axis, (label, by_network) in zip(axes, curves.items(), strict=True):
    for name, seeds in by_network.items():
      if not seeds:
        continue
      shortest = min(len(values) for values in seeds)
      values = np.stack([values[:shortest] for values in seeds])
      epochs = np.arange(1, shortest + 1)
      style, low, high = styles[name], values.min(axis=0), values.max(axis=0)
      mean = values.mean(axis=0)
      axis.plot(epochs, mean, **style, label=drawing.text(name), lw=1.4)
      axis.fill_between(epochs, low, high, color=style["color"], alpha=0.2)
    axis.set(xlabel="epoch", ylabel=label)
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.3)
    axis.set_ylim(bottom=0)
  drawing.add_legend(figure, *axes)
  return figure
