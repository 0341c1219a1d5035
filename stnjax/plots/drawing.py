"""Shared parts of figures: images, lines, arrows, legends, and styles."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import itertools
from typing import Any, Literal, NotRequired, TypedDict

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.typing import LineStyleType, MarkerType
import numpy as np

COLOURS = (
  "#777777",
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#8c510a",
  "#5e3c99",
  "#000000",
)  # each of a contrast of 3 or more on white
DASHES: tuple[LineStyleType, ...] = (
  "-",
  "--",
  "-.",
  (0, (5, 1, 1, 1, 1, 1)),
  (0, (1, 1)),
)
MARKERS = "osD^vPX*<>"
WIDTH = 9.0  # inches, of a page


Colour = str | tuple[float, float, float, float]


class Style(TypedDict):
  """Arguments of a line in Matplotlib."""

  color: Colour
  linestyle: NotRequired[LineStyleType]
  marker: NotRequired[MarkerType]
  markersize: NotRequired[float]
  label: NotRequired[str]


def styles(colours: Sequence[str] = COLOURS[1:]) -> Iterator[Style]:
  """Colours, then the same with other dashes, for any number of lines."""
  for dashes in itertools.cycle(DASHES):
    for colour in colours:
      yield {"color": colour, "linestyle": dashes}


def styles_of(panels: Iterable[Iterable[str]]) -> dict[str, Style]:
  """A style and marker for each name, the same in all panels that have it."""
  names = dict.fromkeys(itertools.chain.from_iterable(panels))
  return {
    name: {**style, "marker": marker}
    for name, style, marker in zip(names, styles(), itertools.cycle(MARKERS))
  }


def text(name: str, longest: int = 40) -> str:
  """A name for Matplotlib: not read as a formula, shortened if too long."""
  if len(name) > longest:
    half = longest // 2
    name = f"{name[:half]}…{name[-half:]}"
  name = name.replace("$", r"\$")
  return f" {name}" if name.startswith("_") else name  # legends leave those out


def _handles(axes: Iterable[Axes]) -> tuple[list[Artist], list[str]]:
  """Legend entries of several panels, each name once."""
  by_label: dict[str, Artist] = {}
  for axis in axes:
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
      by_label.setdefault(label, handle)
  return list(by_label.values()), list(by_label)


def add_legend(figure: Figure, *axes: Axes) -> None:
  """A legend of all panels: in the first one, or below if it is too large."""
  handles, labels = _handles(axes)
  if len(labels) <= 8 and max(map(len, labels), default=0) <= 16:
    axes[0].legend(handles, labels, frameon=False, fontsize=9)
  else:
    legend_outside(figure, axes)


def legend_outside(
  figure: Figure,
  axes: Iterable[Axes],
  location: Literal[
    "outside lower center", "outside upper center"
  ] = "outside lower center",
) -> None:
  """A legend of all panels beside them, for which the figure grows."""
  handles, labels = _handles(axes)
  columns = _columns(figure, labels)
  figure.legend(
    handles, labels, loc=location, ncols=columns, frameon=False, fontsize=7
  )
  more = max(0, len(labels) / columns - 2)
  figure.set_figheight(figure.get_figheight() + 0.15 * more)


def _columns(figure: Figure, labels: Sequence[str]) -> int:
  """Number of columns of a small legend that fit across a figure."""
  width = 0.45 + 0.075 * max(map(len, labels), default=0)  # inches
  return max(1, min(len(labels), int(figure.get_figwidth() / width)))


def tick(axis: Axes, values: Sequence[int]) -> None:
  """Ticks at all values, or at some of them if all do not fit."""
  width = axis.figure.bbox.width / axis.figure.dpi  # inches
  room = axis.get_position().width * width
  digits = max((len(str(value)) for value in values), default=1)
  if len(values) * (0.08 + 0.09 * digits) <= room:
    axis.set_xticks(values)
  else:
    axis.locator_params(axis="x", integer=True)


def require(name: str, values: Mapping[Any, object]) -> None:
  """Raises for an empty mapping."""
  if not values:
    raise ValueError(f"{name} must not be empty")


def require_alike(
  name: str,
  values: Mapping[str, np.ndarray],
  other: str,
  others: Mapping[str, np.ndarray],
) -> None:
  """Raises unless `others` has an array `[N]` for each of `values`."""
  for key, array in values.items():
    if key not in others:
      raise ValueError(f"{other} lacks {key!r}, which {name} has")
    shapes = np.shape(array), np.shape(others[key])
    if len(shapes[0]) != 1 or shapes[0] != shapes[1]:
      raise ValueError(
        f"{name} and {other} must both be [N] for {key!r}, got shapes"
        f" {shapes[0]} and {shapes[1]}"
      )


def finite(arrays: Iterable[np.ndarray]) -> np.ndarray:
  """All values that are neither NaN nor infinite."""
  values = np.concatenate([np.zeros(0), *map(np.ravel, arrays)])
  return np.asarray(values[np.isfinite(values)])


def greys(*images: np.ndarray) -> tuple[float, float]:
  """The range of all values, so that a grey means one value everywhere."""
  every = finite(images)
  return (float(every.min()), float(every.max())) if len(every) else (0.0, 1.0)


def show(axis: Axes, image: np.ndarray, greys: tuple[float, float]) -> None:
  """Shows an image in colour, or in greys between two values."""
  image = np.asarray(image)
  if image.ndim == 3 and image.shape[-1] == 1:
    image = image[..., 0]
  if image.dtype.kind == "f" and image.ndim == 3:
    image = np.clip(image, 0, 1)  # cubic and spline overshoot
  low, high = greys
  axis.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")


def draw_lines(axis: Axes, points: np.ndarray, count: int = 16) -> None:
  """Some of the rows and columns of a grid, its border among them."""
  height, width = points.shape[:2]
  rows = np.unique(np.linspace(0, height - 1, count).round().astype(int))
  columns = np.unique(np.linspace(0, width - 1, count).round().astype(int))
  lines = [*points[rows], *points[:, columns].swapaxes(0, 1)]
  axis.add_collection(LineCollection(lines, colors=COLOURS[2], linewidths=0.8))
  finite = points[np.isfinite(points).all(axis=-1)]
  if not len(finite):
    return
  low = np.minimum(finite.min(axis=0), [axis.get_xlim()[0], axis.get_ylim()[1]])
  high = np.maximum(
    finite.max(axis=0), [axis.get_xlim()[1], axis.get_ylim()[0]]
  )
  axis.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]))


def draw_arrows(
  axis: Axes, start: np.ndarray, end: np.ndarray, count: int = 16
) -> None:
  """Arrows from some of the start points to their ends, coloured by length."""
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


def mosaic(images: np.ndarray) -> np.ndarray:
  """Tiles `[rows, columns, H, W, C]` into one image, a pixel apart."""
  spaced = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
  rows, columns, height, width, channels = spaced.shape
  tiled = spaced.transpose(0, 2, 1, 3, 4)
  tiled = tiled.reshape(rows * height, columns * width, channels)
  return tiled[..., 0] if channels == 1 else tiled
