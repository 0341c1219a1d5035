"""Every figure, made from arrays; nothing here is shown or saved by itself.

Each function returns a `matplotlib.figure.Figure`: display it in a notebook,
or call its `savefig`.
"""

from collections.abc import Mapping, Sequence
import itertools

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
import numpy as np

from stnjax import alignability as audited
from stnjax import coordinates, evaluation

_WIDTH = 9.0  # inches, of a page
_COLOURS = (
  "#777777",
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#000000",
)


def images(panels: Mapping[str, np.ndarray], *, columns: int = 4) -> Figure:
  """Images side by side, each under its name, all on one scale of grey.

  Args:
    panels: by title, images `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, uint8 or
      floating; colours in [0, 1], greys in any range.
    columns: how many to a row.

  Returns:
    The figure.
  """
  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  height, width = np.shape(next(iter(panels.values())))[:2]
  size = _WIDTH / columns
  figure = Figure(
    figsize=(_WIDTH, rows * (size * height / width + 0.3)), layout="constrained"
  )
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  greys = _greys(*panels.values())
  for axis, (name, image) in zip(axes, panels.items(), strict=False):
    _show(axis, image, greys)
    axis.set_title(name, fontsize=10)
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
  greys = _greys(image, warped)
  _show(on_image, image, greys)
  _draw_lines(on_image, points)
  on_image.set_title("grid on the image", fontsize=10)
  _show(result, warped, greys)
  result.set_title("warped", fontsize=10)
  _draw_arrows(arrows, lattice, points)
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
    The figure; the perturbed images are its first panel.
  """
  panels = {"input": before, **after}
  columns = 2 if len(panels) > 2 else len(panels)
  rows = -(-len(panels) // columns)
  draws, classes = before.shape[:2]
  height = rows * (_WIDTH / columns * draws / classes + 0.3)
  figure = Figure(figsize=(_WIDTH, height), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis, (name, images) in zip(axes, panels.items(), strict=False):
    axis.imshow(_mosaic(images), cmap="gray", vmin=0, interpolation="nearest")
    axis.set_title(name, fontsize=10)
  for axis in axes:
    axis.set_axis_off()
  return figure


def pose_density(
  axis: str, true: Mapping[str, np.ndarray], applied: Mapping[str, np.ndarray]
) -> Figure:
  """What transformers do against what was done to the objects, per network.

  Args:
    axis: one of `stnjax.evaluation.UNITS`.
    true: by network, `[N]`, what was done to the objects.
    applied: by network, `[N]`, what the transformer does to them.

  Returns:
    The figure, a density and the Deming line for each network. On the dashed
    line, of slope -1, the perturbation is undone.
  """
  columns = min(4, len(true))
  rows = -(-len(true) // columns)
  size = _WIDTH / columns
  figure = Figure(figsize=(_WIDTH, rows * (size + 0.3)), layout="constrained")
  axes = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  ).ravel()
  low, high = np.ptp(_finite(true)) * np.array([-0.5, 0.5])
  middle = (_finite(true).max() + _finite(true).min()) / 2
  x_range, y_range = (
    np.array([low, high]) + middle,
    1.5 * np.array([low, high]) - middle,
  )
  # Whole pixels get a bin each.
  bins = min(60, len(np.unique(_finite(true))))
  edges = np.linspace(*x_range, bins + 1), np.linspace(*y_range, 91)
  for panel, name in zip(axes, true, strict=False):
    x, y = true[name], applied[name]
    counts, *_ = np.histogram2d(x, y, bins=edges)
    # The root shows the tails beside a sharp ridge.
    panel.pcolormesh(*edges, np.sqrt(counts.T), cmap="Greys", rasterized=True)
    line = evaluation.deming_line(x, y)
    panel.plot(x_range, -x_range, "--", color=_COLOURS[1], lw=1)
    panel.plot(x_range, line.slope * x_range + line.intercept, c=_COLOURS[2])
    panel.set(ylim=y_range)
    panel.set_title(f"{name}: slope {line.slope:.2f}", fontsize=10)
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
    axis.axhline(np.mean(baseline), color=_COLOURS[0], ls="--", label="CNN")
    if len(baseline) > 1:
      spread = np.std(baseline, ddof=1) * np.array([-1, 1])
      axis.axhspan(*(np.mean(baseline) + spread), color=_COLOURS[0], alpha=0.15)
  for colour, (name, by_place) in zip(
    itertools.cycle(_COLOURS[1:]), errors.items(), strict=False
  ):
    places = sorted(by_place)
    means = [np.mean(by_place[place]) for place in places]
    spreads = [
      np.std(by_place[place], ddof=1) if len(by_place[place]) > 1 else 0
      for place in places
    ]
    axis.errorbar(
      places, means, spreads, color=colour, marker="o", capsize=3, label=name
    )
    for place in places:
      dots = by_place[place]
      axis.plot([place] * len(dots), dots, ".", color=colour, alpha=0.35)
  ticks = sorted({place for line in errors.values() for place in line})
  axis.set(xlabel=label, ylabel="error (%)", xticks=ticks)
  axis.grid(alpha=0.3)
  axis.legend(frameon=False, fontsize=9)
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
  """
  figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
  axes = figure.subplots(1, len(panels), squeeze=False).ravel()
  for axis, (vertical, groups) in zip(axes, panels.items(), strict=True):
    for colour, (name, points) in zip(
      itertools.cycle(_COLOURS[1:]), groups.items(), strict=False
    ):
      if not points:
        continue
      x, y, names = zip(*points, strict=True)
      axis.plot(x, y, "o:", color=colour, lw=0.8, label=name)
      for at_x, at_y, text in points:
        axis.annotate(
          text,
          (at_x, at_y),
          (4, 3),
          textcoords="offset points",
          fontsize=7,
          color=colour,
        )
    axis.set(xlabel=label, ylabel=vertical)
    axis.margins(0.12)
    axis.grid(alpha=0.3)
  figure.legend(
    *axes[0].get_legend_handles_labels(),
    loc="outside lower center",
    ncols=2,
    frameon=False,
    fontsize=7,
  )
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
  """
  figure = Figure(figsize=(_WIDTH, 3.2), layout="constrained")
  axes = figure.subplots(1, len(curves), squeeze=False).ravel()
  # A network keeps its colour in panels that lack another.
  names = dict.fromkeys(name for panel in curves.values() for name in panel)
  colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
  for axis, (label, by_network) in zip(axes, curves.items(), strict=True):
    for name, seeds in by_network.items():
      shortest = min(len(values) for values in seeds)
      values = np.stack([values[:shortest] for values in seeds])
      epochs = np.arange(1, shortest + 1)
      colour = colours[name]
      axis.plot(epochs, values.mean(axis=0), color=colour, label=name, lw=1.4)
      axis.fill_between(
        epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2
      )
    axis.set(xlabel="epoch", ylabel=label)
    axis.locator_params(axis="x", integer=True)
    axis.grid(alpha=0.3)
    axis.set_ylim(bottom=0)
  axes[0].legend(frameon=False, fontsize=9)
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
  """
  figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
  axes = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
  for axis, (label, by_name) in zip(axes, lines.items(), strict=True):
    groups = list(dict.fromkeys(name.split(",")[0] for name in by_name))
    drawn = dict.fromkeys(groups, 0)
    for name, line in by_name.items():
      group = name.split(",")[0]
      colour = _COLOURS[1 + groups.index(group) % (len(_COLOURS) - 1)]
      style = (".-", ".--", ".:")[drawn[group] % 3]
      drawn[group] += 1
      place, low, median, high = line.T
      axis.plot(place, median, style, color=colour, label=name, lw=1.4)
      axis.fill_between(place, low, high, color=colour, alpha=0.2)
    place, _, median, _ = next(iter(by_name.values())).T
    proportional = median[-1] / 2 * place / place[-1]
    axis.plot(place, proportional, color=_COLOURS[0], lw=0.8, label="slope 1")
    axis.set(xscale="log", yscale="log", xlabel=label)
    axis.grid(alpha=0.3)
  every = np.concatenate([line for b in lines.values() for line in b.values()])
  axes[0].set(ylabel="ms", ylim=(every[:, 1].min() / 2, every[:, 3].max() * 2))
  handles, labels = axes[0].get_legend_handles_labels()
  figure.legend(
    handles,
    labels,
    loc="outside upper center",
    ncols=len(labels),
    frameon=False,
    fontsize=8,
  )
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
    The figure. A panel for each family: residuals against magnitude, a line
    per layer with its standard deviation over the images; dotted, without any
    warp. The last panel: the share that is undone, against depth.
  """
  shown = next(iter(audits.values()))
  panels = len(shown.families) + 1
  columns = min(3, panels)
  rows = -(-panels // columns)
  figure = Figure(figsize=(_WIDTH, 2.7 * rows), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  deeper = colormaps["viridis"](np.linspace(0, 0.9, len(shown.layers) - 1))
  colours = [_COLOURS[0], *deeper]  # the image, then its layers by depth
  for axis, (name, family) in zip(axes, shown.families.items(), strict=False):
    for colour, (layer, residuals) in zip(
      colours, shown.residuals.items(), strict=True
    ):
      left = getattr(residuals[name], kind)
      mean, spread = np.nanmean(left, axis=1), np.nanstd(left, axis=1)
      axis.plot(family.magnitudes, mean, ".-", color=colour, label=layer)
      band = (mean - spread, mean + spread)
      axis.fill_between(family.magnitudes, *band, color=colour, alpha=0.15)
      before = np.nanmean(residuals[name].unaligned, axis=1)
      axis.plot(family.magnitudes, before, ":", color=colour, lw=1)
    axis.set_title(name, fontsize=10)
    axis.set(xlabel=family.unit, ylabel="residual", xlim=(0, None))
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
  axes[0].legend(frameon=False, fontsize=8)
  profile = axes[panels - 1]
  _draw_profiles(profile, audits, kind)
  spare = axes[panels:]
  for axis in spare:
    axis.set_axis_off()
  where = spare[0] if len(spare) else profile
  names = profile.get_legend_handles_labels()
  where.legend(*names, frameon=False, fontsize=8, loc="center left")
  return figure


def _draw_profiles(
  axis: Axes, audits: Mapping[str, audited.Audit], kind: str
) -> None:
  """The share undone against depth: a colour per family, a style per state."""
  for style, (state, audit) in zip(("-", "--", ":"), audits.items()):
    for colour, (name, profile) in zip(
      itertools.cycle(_COLOURS[1:]), audit.profile(kind).items(), strict=False
    ):
      label = name if style == "-" else None
      axis.plot(
        100 * profile, style, marker=".", color=colour, label=label, lw=1.4
      )
    if len(audits) > 1:
      axis.plot([], style, color=_COLOURS[0], label=state)
  axis.set_title("undone by the warp", fontsize=10)
  axis.set(ylabel="%", xlabel="depth")
  layers = next(iter(audits.values())).layers
  axis.set_xticks(range(len(layers)))
  axis.grid(alpha=0.3)
  axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))


def _finite(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
  values = np.concatenate([np.ravel(array) for array in arrays.values()])
  return values[np.isfinite(values)]


def _greys(*images: np.ndarray) -> tuple[float, float]:
  """The range of all values, so that a grey means one value everywhere."""
  return (
    min(float(np.nanmin(image)) for image in images),
    max(float(np.nanmax(image)) for image in images),
  )


def _show(axis: Axes, image: np.ndarray, greys: tuple[float, float]) -> None:
  image = np.asarray(image)
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  if image.dtype.kind == "f" and image.ndim == 3:
    image = np.clip(image, 0, 1)  # cubic and spline overshoot
  low, high = greys
  axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def _draw_lines(axis: Axes, points: np.ndarray, count: int = 16) -> None:
  """Some of the rows and columns of a grid, its border among them."""
  height, width = points.shape[:2]
  rows = np.unique(np.linspace(0, height - 1, count).round().astype(int))
  columns = np.unique(np.linspace(0, width - 1, count).round().astype(int))
  lines = [*points[rows], *points[:, columns].swapaxes(0, 1)]
  axis.add_collection(LineCollection(lines, colors=_COLOURS[2], linewidths=0.8))
  finite = points[np.isfinite(points).all(axis=-1)]
  low = np.minimum(finite.min(axis=0), [axis.get_xlim()[0], axis.get_ylim()[1]])
  high = np.maximum(
    finite.max(axis=0), [axis.get_xlim()[1], axis.get_ylim()[0]]
  )
  axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))


def _draw_arrows(
  axis: Axes, start: np.ndarray, end: np.ndarray, count: int = 16
) -> None:
  height, width = start.shape[:2]
  every = slice(None, None, max(1, round(max(height, width) / count)))
  start, moved = start[every, every], (end - start)[every, every]
  arrows = axis.quiver(
    *np.moveaxis(start, -1, 0),
    *np.moveaxis(moved, -1, 0),
    np.hypot(moved[..., 0], moved[..., 1]),
    angles="xy",
    scale_units="xy",
    scale=1,
    cmap="viridis",
  )
  axis.figure.colorbar(arrows, ax=axis, shrink=0.7)


def _mosaic(images: np.ndarray) -> np.ndarray:
  """Tiles `[rows, columns, H, W, C]` into one image, a pixel apart."""
  spaced = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
  rows, columns, height, width, channels = spaced.shape
  tiled = spaced.transpose(0, 2, 1, 3, 4)
  tiled = tiled.reshape(rows * height, columns * width, channels)
  return tiled[..., 0] if channels == 1 else tiled
