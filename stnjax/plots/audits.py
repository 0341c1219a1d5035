"""Audits of alignability: residuals and the share undone at each depth."""

from collections.abc import Mapping, Sequence
import itertools

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
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
    _add_legends(axes[panels], axes[0], profile)
  else:
    _add_legends_below(figure, axes[0], profile)
  return figure


def _by_depth(layers: Sequence[str]) -> dict[str, dict]:
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
  style: Mapping,
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
  hollow = {"ls": ":", "lw": 1, "markerfacecolor": "white"}
  axis.plot(family.magnitudes, before.mean(axis=1), **style, **hollow)


def _entries(residuals: Axes) -> tuple[list, list[str]]:
  """The legend of residuals: the layers, and with and without a warp."""
  layers, names = residuals.get_legend_handles_labels()
  grey = {"color": drawing.COLOURS[0], "marker": "o", "markersize": 4}
  both = [
    Line2D([], [], **grey),
    Line2D([], [], ls=":", lw=1, markerfacecolor="white", **grey),
  ]
  return [*layers, *both], [*names, "with the warp", "without a warp"]


def _add_legends_below(figure: Figure, residuals: Axes, profile: Axes) -> None:
  """Draws the legends below full rows of panels; the figure grows for them."""
  options = {"frameon": False, "fontsize": 7, "title_fontsize": 8}
  handles, labels = _entries(residuals)
  columns = 5 if max(map(len, labels)) <= 14 else 4
  figure.legend(
    handles,
    labels,
    title="residual",
    loc="outside lower left",
    ncols=columns,
    **options,
  )
  undone = profile.get_legend_handles_labels()
  figure.legend(*undone, title="undone", loc="outside lower right", **options)
  lines = max(-(-len(labels) // columns), len(undone[1]))
  figure.set_figheight(figure.get_figheight() + 0.3 + 0.15 * lines)


def _add_legends(axis: Axes, residuals: Axes, profile: Axes) -> None:
  """Draws the legends in an empty panel; that of profiles only if it fits."""
  handles, names = _entries(residuals)
  crowded = len(names) > 14 or max(map(len, names[:-2]), default=0) > 12
  options = {"frameon": False, "fontsize": 7, "ncols": 1 + (len(names) > 14)}
  first = axis.legend(
    handles,
    names,
    title="residual",
    title_fontsize=8,
    loc="upper left",
    **options,
  )
  if crowded:
    drawing.legend_outside(axis.figure, [profile])
    axis.figure.legends[-1].set_title("undone", {"size": 8})
    return
  axis.add_artist(first)  # a second legend would replace it
  axis.legend(
    *profile.get_legend_handles_labels(),
    title="undone",
    title_fontsize=8,
    loc="upper right",
    frameon=False,
    fontsize=7,
  )


def _draw_profiles(
  axis: Axes, audits: Mapping[str, audited.Audit], kind: str
) -> None:
  """The share undone against depth: a colour per family, a style per state."""
  for index, (state, audit) in enumerate(audits.items()):
    dashes = drawing.DASHES[index % len(drawing.DASHES)]
    for style, marker, (name, profile) in zip(
      drawing.styles(),
      itertools.cycle(drawing.MARKERS),
      audit.profile(kind).items(),
      strict=False,
    ):
      label = None if index else drawing.text(name)
      style = {**style, "linestyle": dashes, "marker": marker, "markersize": 4}
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
