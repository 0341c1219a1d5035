"""Every figure, made from arrays; nothing here is shown or saved by itself.

Each function returns a `matplotlib.figure.Figure`: display it in a notebook,
or call its `savefig`.
"""

from stnjax import extras

extras.needs("matplotlib", extra="experiments")

from collections.abc import Mapping, Sequence
import itertools

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
import numpy as np

from stnjax import alignability as audited
from stnjax import checks, coordinates, evaluation
from stnjax.plots import drawing

_WIDTH = 9.0  # inches, of a page


def images(panels: Mapping[str, np.ndarray], *, columns: int = 4) -> Figure:
  """Images side by side, each under its name, all on one scale of grey.

  Args:
    panels: by title, images `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, uint8 or
      floating; colours in [0, 1], greys in any range.
    columns: how many to a row.

  Returns:
    The figure.

  Raises:
    ValueError: for no panels.
  """
  drawing.require("panels", panels)
  checks.whole("columns", columns, 1)
  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  height, width = np.shape(next(iter(panels.values())))[:2]
  size = _WIDTH / columns
  figure = Figure(
    figsize=(_WIDTH, rows * (size * height / width + 0.3)), layout="constrained"
  )
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  greys = drawing.greys(*panels.values())
  for axis, (name, image) in zip(axes, panels.items(), strict=False):
    drawing.show(axis, image, greys)
    axis.set_title(drawing.text(name), fontsize=10)
  for axis in axes:
    axis.set_axis_off()
  return figure


def warp(
  image: np.ndarray,
  warped: np.ndarray,
  grid: np.ndarray,
  *,
  align_corners: bool = False,
) -> Figure:
  """A warp: where the grid lies on the image, the result, how far it moves.

  Args:
    image: `[H, W, C]` with 1 or 3 channels, or `[H, W]`; as for `images`.
    warped: `[h, w, C]` or `[h, w]`, the image sampled at the grid.
    grid: `[h, w, 2]`, normalised, from `affine_grid`, `tps_grid`, `flow_grid`
      or `velocity_grid`.
    align_corners: as the grid was made.

  Returns:
    The figure, of three panels. Arrows lead from each place of the result to
    the place of the image that it shows, in pixels of the image; colours tell
    their length.

  Raises:
    ValueError: for a grid that is not `[h, w, 2]`.
  """
  if np.ndim(grid) != 3 or np.shape(grid)[-1] != 2:
    raise ValueError(f"grid must be [h, w, 2], got shape {np.shape(grid)}")
  height, width = image.shape[:2]
  points = np.asarray(
    coordinates.to_pixels(grid, (height, width), align_corners=align_corners)
  )
  lattice = np.asarray(
    coordinates.to_pixels(
      coordinates.lattice(grid.shape[:2], align_corners=align_corners),
      (height, width),
      align_corners=align_corners,
    )
  )
  figure = Figure(
    figsize=(_WIDTH, _WIDTH / 3 * height / width + 0.4), layout="constrained"
  )
  on_image, result, arrows = figure.subplots(1, 3)
  greys = drawing.greys(image, warped)
  drawing.show(on_image, image, greys)
  drawing.draw_lines(on_image, points)
  on_image.set_title("grid on the image", fontsize=10)
  drawing.show(result, warped, greys)
  result.set_title("warped", fontsize=10)
  drawing.draw_arrows(arrows, lattice, points)
  arrows.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
  arrows.set_aspect("equal")
  arrows.set_title("displacement (pixels)", fontsize=10)
  for axis in (on_image, result, arrows):
    axis.set(xticks=[], yticks=[])
  return figure


def before_and_after(
  before: np.ndarray, after: Mapping[str, np.ndarray]
) -> Figure:
  """Perturbed images, and what each network's transformer made of them.

  Each panel has a column per class and a row per perturbation of the same
  image: where a network aligns, a column shows one pose.

  Args:
    before: `[draws, classes, H, W, C]`, values in [0, 1] or uint8.
    after: by network, `[draws, classes, h, w, C]`.

  Returns:
    The figure; the perturbed images are its first panel, "input".

  Raises:
    ValueError: For images of another shape, or none.
  """
  for name, images in [("before", before), *after.items()]:
    if np.ndim(images) != 5 or not np.size(images):
      raise ValueError(
        f"{name} must be [draws, classes, height, width, channels], at least"
        f" one of each, got shape {np.shape(images)}"
      )
  panels = [("input", before), *after.items()]  # a network may be named so
  columns = 2 if len(panels) > 2 else len(panels)
  rows = -(-len(panels) // columns)
  draws, classes = before.shape[:2]
  height = rows * (_WIDTH / columns * draws / classes + 0.3)
  figure = Figure(figsize=(_WIDTH, height), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis, (name, images) in zip(axes, panels, strict=False):
    axis.imshow(
      drawing.mosaic(images), cmap="gray", vmin=0, interpolation="nearest"
    )
    axis.set_title(drawing.text(name), fontsize=10)
  for axis in axes:
    axis.set_axis_off()
  return figure


def pose_density(
  axis: str,
  true: Mapping[str, np.ndarray],
  applied: Mapping[str, np.ndarray],
  labels: Mapping[str, np.ndarray] | None = None,
) -> Figure:
  """What transformers do against what was done to the objects, per network.

  Args:
    axis: one of `stnjax.evaluation.UNITS`.
    true: by network, `[N]`, what was done to the objects.
    applied: by network, `[N]`, what the transformer does to them.
    labels: By network, `[N]` classes, whose common pose is taken off `applied`;
      see `stnjax.evaluation.response`.

  Returns:
    The figure, a density and the line of orthogonal regression for each
    network, whose slope is that of `stnjax.evaluation.alignment` where there
    are labels. On the dashed line, of slope -1, the perturbation is undone.

  Raises:
    ValueError: For no network, an unknown axis, or values that are missing or
      of another length.
  """
  drawing.require("true", true)
  checks.option("axis", axis, tuple(evaluation.UNITS))
  drawing.require_alike("true", true, "applied", applied)
  if labels is not None:
    drawing.require_alike("true", true, "labels", labels)
  columns = min(4, len(true))
  rows = -(-len(true) // columns)
  size = _WIDTH / columns
  figure = Figure(figsize=(_WIDTH, rows * (size + 0.3)), layout="constrained")
  axes = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  ).ravel()
  every = drawing.finite(true.values())
  low, high = (every.min(), every.max()) if len(every) else (0.0, 0.0)
  middle, half = (low + high) / 2, (high - low) / 2 or 0.5
  x_range = np.array([middle - half, middle + half])
  y_range = 1.5 * np.array([-half, half]) - middle
  # Whole pixels get a bin each.
  bins = min(60, max(1, len(np.unique(every))))
  edges = np.linspace(*x_range, bins + 1), np.linspace(*y_range, 91)
  for panel, name in zip(axes, true, strict=False):
    found = evaluation.response(
      axis, true[name], applied[name], None if labels is None else labels[name]
    )
    x, (y, line) = np.asarray(true[name]), found
    fine = np.isfinite(x) & np.isfinite(y)
    counts, *_ = np.histogram2d(x[fine], y[fine], bins=edges)
    # The root shows the tails beside a sharp ridge.
    panel.pcolormesh(*edges, np.sqrt(counts.T), cmap="Greys", rasterized=True)
    panel.plot(x_range, -x_range, "--", color=drawing.COLOURS[1], lw=1)
    panel.plot(
      x_range, line.slope * x_range + line.intercept, c=drawing.COLOURS[2]
    )
    panel.set(ylim=y_range)
    slope = f"{line.slope:.2f}" if np.isfinite(line.slope) else "none"
    title = f"{drawing.text(name, 30)}: slope {slope}"
    panel.set_title(title, fontsize=10 if len(title) < 25 else 7)
  for panel in axes[len(true) :]:
    panel.set_axis_off()
  name = f"{axis.replace('_', ' ')} ({evaluation.UNITS[axis]})"
  figure.supxlabel(f"{name}, of the perturbation", fontsize=9)
  figure.supylabel("of the transformer", fontsize=9)
  return figure


def error_lines(
  label: str,
  errors: Mapping[str, Mapping[int, Sequence[float]]],
  baseline: Sequence[float] = (),
) -> Figure:
  """Error against depth of placement, or against the number of iterations.

  Args:
    label: of the horizontal axis.
    errors: by line, then by place on the axis, the errors (%) of the seeds.
    baseline: the errors of the seeds without a transformer.

  Returns:
    The figure: means with their standard deviation over the seeds, and every
    seed as a dot.
  """
  figure = Figure(figsize=(5.5, 3.6), layout="constrained")
  axis = figure.subplots()
  if len(baseline):
    axis.axhline(
      np.mean(baseline), color=drawing.COLOURS[0], ls="--", label="CNN"
    )
    if len(baseline) > 1:
      spread = np.std(baseline, ddof=1) * np.array([-1, 1])
      axis.axhspan(
        *(np.mean(baseline) + spread), color=drawing.COLOURS[0], alpha=0.15
      )
  for style, (name, by_place) in zip(
    drawing.styles(), errors.items(), strict=False
  ):
    colour = style["color"]
    places = sorted(place for place, found in by_place.items() if len(found))
    means = [np.mean(by_place[place]) for place in places]
    spreads = [
      np.std(by_place[place], ddof=1) if len(by_place[place]) > 1 else 0
      for place in places
    ]
    axis.errorbar(
      places,
      means,
      spreads,
      **style,
      marker="o",
      capsize=3,
      label=drawing.text(name),
    )
    for place in places:
      dots = by_place[place]
      axis.plot([place] * len(dots), dots, ".", color=colour, alpha=0.35)
  ticks = sorted({place for line in errors.values() for place in line})
  axis.set(xlabel=label, ylabel="error (%)")
  drawing.tick(axis, ticks)
  axis.grid(alpha=0.3)
  drawing.add_legend(figure, axis)
  return figure


def labelled_points(
  label: str,
  panels: Mapping[str, Mapping[str, Sequence[tuple[float, float, str]]]],
) -> Figure:
  """Points with a name each, a colour per group.

  Args:
    label: of the horizontal axis.
    panels: by label of the vertical axis, then by group: x, y and name.

  Returns:
    The figure, one panel per vertical axis.

  Raises:
    ValueError: for no panels.
  """
  drawing.require("panels", panels)
  figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
  axes = figure.subplots(1, len(panels), squeeze=False).ravel()
  for axis, (vertical, groups) in zip(axes, panels.items(), strict=True):
    for style, (name, points) in zip(
      drawing.styles(), groups.items(), strict=False
    ):
      if not points:
        continue
      x, y, names = zip(*points, strict=True)
      colour = style["color"]
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
    axis.set(xlabel=label, ylabel=vertical)
    axis.margins(0.12)
    axis.grid(alpha=0.3)
  drawing.legend_outside(figure, axes)
  return figure


def learning_curves(
  curves: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
) -> Figure:
  """Metrics over epochs: mean over seeds, with their range as a band.

  Args:
    curves: by axis label, then by network, one array per seed with a value
      per epoch; seeds may have different lengths.

  Returns:
    The figure, one panel per metric.

  Raises:
    ValueError: for no metrics.
  """
  drawing.require("curves", curves)
  figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
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


def scaling(lines: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
  """Times along axes such as the size of a batch.

  Args:
    lines: by axis, then by line, `[N, 4]`: the place on the axis, then the
      quartiles of the time in milliseconds. Lines that are named alike up to a
      comma share a colour.

  Returns:
    The figure: a panel for each axis, logarithmic, medians and quartiles, and
    in grey what grows in proportion.

  Raises:
    ValueError: for no axes.
  """
  drawing.require("lines", lines)
  figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
  axes = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
  for axis, (label, by_name) in zip(axes, lines.items(), strict=True):
    groups = list(dict.fromkeys(name.split(",")[0] for name in by_name))
    drawn = dict.fromkeys(groups, 0)
    for name, line in by_name.items():
      group = name.split(",")[0]
      colour = drawing.COLOURS[
        1 + groups.index(group) % (len(drawing.COLOURS) - 1)
      ]
      style = (".-", ".--", ".:")[drawn[group] % 3]
      drawn[group] += 1
      place, low, median, high = line.T
      axis.plot(
        place, median, style, color=colour, label=drawing.text(name), lw=1.4
      )
      axis.fill_between(place, low, high, color=colour, alpha=0.2)
    if not by_name:
      continue
    place, _, median, _ = next(iter(by_name.values())).T
    proportional = median[-1] / 2 * place / place[-1]
    axis.plot(
      place, proportional, color=drawing.COLOURS[0], lw=0.8, label="slope 1"
    )
    axis.set(xscale="log", yscale="log", xlabel=label)
    axis.grid(alpha=0.3)
  axes[0].set(ylabel="ms")
  times = drawing.finite(x[:, 1:] for b in lines.values() for x in b.values())
  if len(times := times[times > 0]):
    axes[0].set(ylim=(times.min() / 2, times.max() * 2))
  drawing.legend_outside(figure, axes, "outside upper center")
  return figure


def alignability(
  audits: Mapping[str, audited.Audit], *, kind: str = "best"
) -> Figure:
  """What spatial warps leave of transforms, layer by layer.

  Args:
    audits: by state of the network, such as "trained" and "untrained", of the
      same layers and families. Residuals are those of the first.
    kind: of residual, see `stnjax.alignability.Residuals`.

  Returns:
    The figure. A panel for each family: residuals against magnitude, a colour
    and a marker per layer, with its standard deviation over the images; dotted,
    with hollow markers, without any warp. The last panel: the share that is
    undone, against depth.

  Raises:
    ValueError: For no audits, or an unknown kind.
  """
  drawing.require("audits", audits)
  checks.option("kind", kind, ("aligned", "best", "mixed"))
  shown = next(iter(audits.values()))
  panels = len(shown.families) + 1
  columns = min(3, panels + 1)
  rows = -(-panels // columns)
  figure = Figure(figsize=(_WIDTH, 2.7 * rows), layout="constrained")
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
    _explain(axes[panels], axes[0], profile)
  else:
    _explain_below(figure, axes[0], profile)
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
  family: audited.Family,
  residuals: audited.Residuals,
  kind: str,
  layer: str,
  style: Mapping,
) -> None:
  """One layer's residuals against magnitude, with a warp and without."""
  left, before = (
    np.ma.masked_invalid(values)  # the means of nothing are gaps
    for values in (getattr(residuals, kind), residuals.unaligned)
  )
  mean, spread = left.mean(axis=1), left.std(axis=1)
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


def _explain_below(figure: Figure, residuals: Axes, profile: Axes) -> None:
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


def _explain(axis: Axes, residuals: Axes, profile: Axes) -> None:
  """Draws the legends in a panel of their own; that of profiles if it fits."""
  handles, names = _entries(residuals)
  crowded = len(names) > 14 or max(map(len, names[:-2]), default=0) > 12
  options = {"frameon": False, "fontsize": 7, "ncols": 1 + (len(names) > 14)}
  left = axis.legend(
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
  axis.add_artist(left)  # a second legend would replace it
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
  for place, (state, audit) in enumerate(audits.items()):
    dashes = drawing.DASHES[place % len(drawing.DASHES)]
    for style, marker, (name, profile) in zip(
      drawing.styles(),
      itertools.cycle(drawing.MARKERS),
      audit.profile(kind).items(),
      strict=False,
    ):
      label = None if place else drawing.text(name)
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
