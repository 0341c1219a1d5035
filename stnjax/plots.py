"""Every figure, made from arrays; nothing here is shown or saved by itself.

Each function returns a `matplotlib.figure.Figure`: display it in a notebook,
or call its `savefig`.
"""

from collections.abc import Mapping, Sequence
import itertools

from matplotlib.figure import Figure
import numpy as np

from stnjax import evaluation

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


def before_and_after(
  before: np.ndarray, after: Mapping[str, np.ndarray]
) -> Figure:
  """Perturbed images, and what each network's transformer made of them.

  Each panel has a column per class and a row per perturbation of the same
  image: where a network aligns, a column shows one pose.

  Args:
    before: `[draws, classes, H, W, C]`, values in [0, 1] or uint8.
    after: by network, arrays of the same shape.

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


def angle_density(
  true: Mapping[str, np.ndarray], predicted: Mapping[str, np.ndarray]
) -> Figure:
  """Predicted against true angle, per network, with the Deming line.

  Args:
    true: by network, `[N]` degrees, how the objects were rotated.
    predicted: by network, `[N]` degrees, how the transformer rotates them.

  Returns:
    The figure. On the dashed line, of slope -1, the rotation is undone.
  """
  columns = min(4, len(true))
  rows = -(-len(true) // columns)
  size = _WIDTH / columns
  figure = Figure(figsize=(_WIDTH, rows * (size + 0.3)), layout="constrained")
  axes = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  ).ravel()
  edges = np.linspace(-90, 90, 61), np.linspace(-135, 135, 91)
  ends = np.array([-90.0, 90.0])
  for axis, name in zip(axes, true, strict=False):
    x, y = true[name], predicted[name]
    counts, *_ = np.histogram2d(x, y, bins=edges)
    # The root shows the tails beside a sharp ridge.
    axis.pcolormesh(*edges, np.sqrt(counts.T), cmap="Greys", rasterized=True)
    line = evaluation.deming_line(x, y)
    axis.plot(ends, -ends, "--", color=_COLOURS[1], lw=1)
    axis.plot(ends, line.slope * ends + line.intercept, color=_COLOURS[2])
    axis.set(
      title=f"{name}: slope {line.slope:.2f}",
      xticks=[-90, 0, 90],
      yticks=[-90, 0, 90],
      ylim=(-135, 135),
    )
    axis.title.set_fontsize(10)
  for axis in axes[len(true) :]:
    axis.set_axis_off()
  figure.supxlabel("true rotation (degrees)", fontsize=9)
  figure.supylabel("predicted rotation (degrees)", fontsize=9)
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
    axis.grid(alpha=0.3)
    axis.set_ylim(bottom=0)
  axes[0].legend(frameon=False, fontsize=9)
  return figure


def _mosaic(images: np.ndarray) -> np.ndarray:
  """Tiles `[rows, columns, H, W, C]` into one image, a pixel apart."""
  spaced = np.pad(images, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)))
  rows, columns, height, width, channels = spaced.shape
  tiled = spaced.transpose(0, 2, 1, 3, 4)
  tiled = tiled.reshape(rows * height, columns * width, channels)
  return tiled[..., 0] if channels == 1 else tiled
