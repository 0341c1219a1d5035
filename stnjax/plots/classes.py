"""Predictions by class: confusion, and accuracy against class size."""

from collections.abc import Mapping, Sequence

from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
import numpy as np

from stnjax.plots import drawing

MOST_CLASSES = 20
"""Most classes whose confusions are legible."""

_MOST_WRITTEN = 12  # classes for which shares fit into their cells


def confusion(
  counts: Mapping[str, np.ndarray], class_names: Sequence[str]
) -> Figure:
  """Confusion matrices: which classes are taken for which.

  Args:
    counts: Predictions by network, `[K, K]`: rows are true classes, columns
      predicted ones, see `stnjax.evaluation.confusion`. A panel for each.
    class_names: Names of the K classes.

  Returns:
    The figure: shares of each true class in percent, whose rows sum to 100. The
    scale of grey is that of their square roots, as most confusions are rare. A
    class without images has an empty row.

  Raises:
    ValueError: If there is no network, or counts are not `[K, K]`.
  """
  drawing.require("counts", counts)
  shape = (len(class_names),) * 2
  for name, matrix in counts.items():
    if np.shape(matrix) != shape:
      raise ValueError(
        f"counts of {name!r} must be [K, K] for the {len(class_names)} class"
        f" names, {shape}, got shape {np.shape(matrix)}"
      )
  columns = min(3, len(counts))
  rows = -(-len(counts) // columns)
  width = drawing.WIDTH * (columns + 1) / 4  # one panel alone is half a page
  height = 0.4 + rows * (0.88 * width / columns + 0.15)
  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for panel, (name, matrix) in zip(axes, counts.items(), strict=False):
    image = _draw_confusion(panel, np.asarray(matrix), class_names)
    title = drawing.text(name, 30)
    panel.set_title(title, fontsize=10 if len(title) < 25 else 7)
  for panel in axes[len(counts) :]:
    panel.set_axis_off()
  bar = figure.colorbar(image, ax=list(axes), shrink=0.7, pad=0.02)
  bar.set_label("share of the true class (%)", fontsize=8)
  bar.ax.tick_params(labelsize=7)
  figure.supxlabel("predicted class", fontsize=9)
  figure.supylabel("true class", fontsize=9)
  return figure


def _draw_confusion(
  panel: Axes, counts: np.ndarray, class_names: Sequence[str]
) -> AxesImage:
  """Draws the shares of one network."""
  totals = counts.sum(axis=1, keepdims=True)
  shares = 100 * counts / np.where(totals, totals, 1)
  scale = colors.PowerNorm(0.5, 0, 100)
  image = panel.imshow(shares, cmap="Greys", norm=scale)
  every = range(len(class_names))
  names = [drawing.text(name, 12) for name in class_names]
  upright = len(names) * max(map(len, names), default=0) > 40
  panel.set_xticks(every, names, fontsize=6, rotation=90 * upright)
  panel.set_yticks(every, names, fontsize=6)
  panel.tick_params(length=0)
  if len(class_names) <= _MOST_WRITTEN:
    for row, column in zip(*np.nonzero(np.round(shares)), strict=True):
      share = shares[row, column]
      colour = "white" if scale(share) > 0.5 else "black"
      panel.text(
        column, row, f"{share:.0f}", ha="center", va="center", color=colour,
        fontsize=min(8, 50 / len(names)),
      )  # fmt: skip
  return image


def accuracy_by_size(
  sizes: Mapping[str, np.ndarray], accuracies: Mapping[str, np.ndarray]
) -> Figure:
  """Accuracy of each class against its size, for each network.

  Args:
    sizes: Images of each class by network, `[K]`; classes without images are
      left out.
    accuracies: Share of the images of each class classified correctly by
      network, `[K]`, in [0, 1].

  Returns:
    The figure: a dot for each class, on a logarithmic axis of sizes, and a line
    through the mean accuracy of the classes of each octave of sizes.

  Raises:
    ValueError: If there is no network, or values are missing or differ in
      length.
  """
  drawing.require("sizes", sizes)
  drawing.require_alike("sizes", sizes, "accuracies", accuracies)
  columns = min(3, len(sizes))
  rows = -(-len(sizes) // columns)
  width = drawing.WIDTH * (columns + 1) / 4
  height = 0.4 + rows * (0.75 * width / columns + 0.2)
  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  ).ravel()
  for panel, name in zip(axes, sizes, strict=False):
    size, accuracy = np.asarray(sizes[name]), np.asarray(accuracies[name])
    some = size > 0
    _draw_accuracies(panel, size[some], 100 * accuracy[some])
    title = drawing.text(name, 30)
    panel.set_title(title, fontsize=10 if len(title) < 25 else 7)
  for above, panel in zip(axes[len(sizes) - columns :], axes[len(sizes) :]):
    panel.set_axis_off()
    above.tick_params(labelbottom=True)
  figure.supxlabel("test images of the class", fontsize=9)
  figure.supylabel("accuracy (%)", fontsize=9)
  return figure


def _draw_accuracies(
  panel: Axes, sizes: np.ndarray, accuracies: np.ndarray
) -> None:
  """Draws a dot for each class, and the means of octaves."""
  panel.plot(sizes, accuracies, ".", color=drawing.COLOURS[1], ms=4, alpha=0.6)
  octaves = np.floor(np.log2(sizes))
  means = [
    (
      2 ** np.log2(sizes[octaves == octave]).mean(),
      accuracies[octaves == octave].mean(),
    )
    for octave in np.unique(octaves)
  ]
  if means:
    panel.plot(*zip(*means, strict=True), color=drawing.COLOURS[2], lw=1.4)
  panel.set_xscale("log", base=2)
  panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
  panel.set_ylim(-3, 103)
  panel.grid(alpha=0.3)
