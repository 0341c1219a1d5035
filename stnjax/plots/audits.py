"""Audits of alignability: residuals and the share undone at each depth."""

from collections.abc import Mapping, Sequence
import itertools

from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
import numpy as np

from stnjax import alignability as audited
from stnjax import checks
from stnjax.plots import drawing


def alignability(
  audits: Mapping[str, audited.Audit], *, kind: str = "best"
) -> Figure:
  """Residuals after spatial warps, and the share undone at each depth.

  Args:
    audits: Audits by state of the network, such as "trained" and "untrained",
      of the same layers and families. Residuals are those of the first.
    kind: Kind of residual, "aligned", "best" or "mixed", see
      `stnjax.alignability.Residuals`.

  Returns:
    The figure. A panel for each family plots residuals against magnitude, with
    a colour and a marker for each layer and a band of the standard deviation
    over the images; dotted, with hollow markers: without a warp. The last
    panel plots the share undone against depth.

  Raises:
    ValueError: If there are no audits, or the kind is unknown.
  """
  drawing.require("audits", audits)
  checks.option("kind", kind, audited.KINDS)
  shown = next(iter(audits.values()))
  panels = len(shown.families) + 1
  columns = min(3, panels + 1)
  rows = -(-panels // columns)
  figure = Figure(figsize=(drawing.WIDTH, 2.7 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  styles = _by_depth(list(shown.residuals))
  for axis, (name, family) in zip(axes, shown.families.items(), strict=False):
    for layer, residuals in shown.residuals.items():
      _draw_residuals(axis, family, residuals[name], kind, layer, styles[layer])
    axis.set_title(drawing.text(name), fontsize=10)
    axis.set(
      xlabel=drawing.text(family.unit), ylabel="residual", xlim=(0, None)
    )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
  profile = axes[panels - 1]
  _draw_profiles(profile, audits, kind)
  for axis in axes[panels:]:
    axis.set_axis_off()
  if panels < len(axes):
    _add_legends(figure, axes[panels], axes[0], profile)
  else:
    _add_legends_below(figure, axes[0], profile)
  return figure


def _by_depth(layers: Sequence[str]) -> dict[str, drawing.Style]:
  """A colour and a marker for each layer: the image, then darkest first."""
  # Beyond 0.64, the map is too bright for lines on white.
  deeper = colormaps["plasma"](np.linspace(0, 0.64, max(1, len(layers) - 1)))
  markers = itertools.cycle(drawing.MARKERS)
  return {
    layer: {"color": colour, "marker": marker, "markersize": 4}
    for layer, colour, marker in zip(
      layers, [drawing.COLOURS[0], *deeper], markers, strict=False
    )
  }


def _draw_residuals(
  axis: Axes,
  family: audited.ImageTransforms,
  residuals: audited.Residuals,
  kind: str,
  layer: str,
  style: drawing.Style,
) -> None:
  """One layer's residuals against magnitude, with a warp and without."""
  after, before = (
    np.ma.masked_invalid(values)  # means of no values are gaps
    for values in (getattr(residuals, kind), residuals.unaligned)
  )
  mean, spread = after.mean(axis=1), after.std(axis=1)
  axis.plot(family.magnitudes, mean, **style, label=drawing.text(layer, 20))
  axis.fill_between(
    family.magnitudes,
    mean - spread,
    mean + spread,
    color=style["color"],
    alpha=0.15,
  )
  dotted: drawing.Style = {**style, "linestyle": ":"}
  axis.plot(family.magnitudes, before.mean(axis=1), **dotted, lw=1, mfc="white")


def _entries(residuals: Axes) -> tuple[list[Artist], list[str]]:
  """The legend of residuals: the layers, and with and without a warp."""
  layers, names = residuals.get_legend_handles_labels()
  grey = drawing.COLOURS[0]
  both = [
    Line2D([], [], color=grey, marker="o", markersize=4),
    Line2D(
      [], [], color=grey, marker="o", markersize=4, linestyle=":",
      linewidth=1, markerfacecolor="white",
    ),
  ]  # fmt: skip
  return [*layers, *both], [*names, "with the warp", "without a warp"]


def _add_legends_below(figure: Figure, residuals: Axes, profile: Axes) -> None:
  """Draws the legends below full rows of panels; the figure grows for them."""
  handles, labels = _entries(residuals)
  columns = 5 if max(map(len, labels)) <= 14 else 4
  left = figure.legend(
    handles,
    labels,
    loc="outside lower left",
    ncols=columns,
    frameon=False,
    fontsize=7,
  )
  undone, names = profile.get_legend_handles_labels()
  right = figure.legend(
    undone, names, loc="outside lower right", frameon=False, fontsize=7
  )
  _set_titles(left, right)
  lines = max(-(-len(labels) // columns), len(names))
  figure.set_figheight(figure.get_figheight() + 0.3 + 0.15 * lines)


def _add_legends(
  figure: Figure, axis: Axes, residuals: Axes, profile: Axes
) -> None:
  """Draws the legends in an empty panel; that of profiles only if it fits."""
  handles, names = _entries(residuals)
  crowded = len(names) > 14 or max(map(len, names[:-2]), default=0) > 12
  first = axis.legend(
    handles,
    names,
    loc="upper left",
    ncols=1 + (len(names) > 14),
    frameon=False,
    fontsize=7,
  )
  if crowded:
    drawing.legend_outside(figure, [profile])
    _set_titles(first, figure.legends[-1])
    return
  axis.add_artist(first)  # a second legend would replace it
  handles, names = profile.get_legend_handles_labels()
  second = axis.legend(
    handles, names, loc="upper right", frameon=False, fontsize=7
  )
  _set_titles(first, second)


def _set_titles(residuals: Legend, undone: Legend) -> None:
  """Titles both legends."""
  size = FontProperties(size=8)
  residuals.set_title("residual", size)
  undone.set_title("undone", size)


def _draw_profiles(
  axis: Axes, audits: Mapping[str, audited.Audit], kind: str
) -> None:
  """The share undone against depth: a colour per family, a style per state."""
  profiles = [audit.profile(kind) for audit in audits.values()]
  styles = drawing.styles_of(profiles)
  for index, (state, by_family) in enumerate(zip(audits, profiles)):
    dashes = drawing.DASHES[index % len(drawing.DASHES)]
    for name, profile in by_family.items():
      label = None if index else drawing.text(name)
      style: drawing.Style = {
        **styles[name],
        "linestyle": dashes,
        "markersize": 4,
      }
      axis.plot(100 * profile, **style, label=label, lw=1.4)
    if len(audits) > 1:
      axis.plot(
        [], ls=dashes, color=drawing.COLOURS[0], label=drawing.text(state)
      )
  axis.set_title("undone by the warp", fontsize=10)
  axis.set(ylabel="%", xlabel="depth")
  drawing.tick(axis, range(len(next(iter(audits.values())).layers)))
  axis.grid(alpha=0.3)
  axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
