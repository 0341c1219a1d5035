"""Quantities against the amount of a transform of the images."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
import numpy as np

from stnjax.plots import drawing


def values_by_amount(
  amounts: Sequence[float],
  panels: Mapping[str, Mapping[str, np.ndarray]],
  *,
  label: str,
  trained: Sequence[float] | None = None,
) -> Figure:
  """Values against the amount of a transform, one line per network.

  Args:
    amounts: Amounts along the horizontal axis, `[V]`.
    panels: Values by label of the panel's vertical axis and network, `[S, V]`,
      one row per seed.
    label: Label of the horizontal axis.
    trained: Lowest and highest amount in training, which is shaded; None for
      none.

  Returns:
    The figure: a panel for each quantity; means over the seeds, joined, and
    their range as a band.

  Raises:
    ValueError: If there are no panels, or values of another length.
  """
  drawing.require("panels", panels)
  figure = Figure(figsize=(drawing.WIDTH, 3.6), layout="constrained")
  axes = figure.subplots(1, len(panels), squeeze=False).ravel()
  styles = drawing.styles_of(panels.values())
  for axis, (quantity, by_network) in zip(axes, panels.items(), strict=True):
    for name, values in by_network.items():
      values = np.atleast_2d(values)
      if values.shape[1:] != np.shape(amounts):
        raise ValueError(
          f"panels: values of {name} must be [S, {len(amounts)}], got shape"
          f" {values.shape}"
        )
      axis.plot(
        amounts,
        values.mean(axis=0),
        **styles[name],
        ms=3,
        label=drawing.text(name),
      )
      low, high = values.min(axis=0), values.max(axis=0)
      colour = styles[name]["color"]
      axis.fill_between(amounts, low, high, color=colour, alpha=0.15)
    if trained is not None:
      axis.axvspan(*trained, color=drawing.COLOURS[0], alpha=0.12, lw=0)
    axis.set(xlabel=label, ylabel=quantity)
    axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
    axis.grid(alpha=0.3)
  drawing.legend_outside(figure, axes)
  return figure
