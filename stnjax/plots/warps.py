"""Images and warps: originals, results, grids and displacements."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from stnjax import checks, coordinates
from stnjax.plots import drawing

_LARGEST_TILE = 0.8  # inches


def images(panels: Mapping[str, np.ndarray], *, columns: int = 4) -> Figure:
  """Images side by side, each under its name, on one scale of grey.

  Args:
    panels: Images by title, `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, uint8 or
      floating; colours in [0, 1], greys in any range.
    columns: Number of panels in a row.

  Returns:
    The figure, a panel for each image.

  Raises:
    ValueError: If there are no panels.
  """
  drawing.require("panels", panels)
  checks.whole("columns", columns, 1)
  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  height, width = np.shape(next(iter(panels.values())))[:2]
  size = drawing.WIDTH / columns
  figure = Figure(
    figsize=(drawing.WIDTH, rows * (size * height / width + 0.3)),
    layout="constrained",
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
  """A warp: its grid on the image, the warped image, and the displacement.

  Args:
    image: Image that is warped, `[H, W, C]` with 1 or 3 channels, or `[H, W]`;
      uint8 or floating.
    warped: Image sampled at the grid, `[h, w, C]` or `[h, w]`.
    grid: Sampling grid, `[h, w, 2]`, normalised, from `affine_grid`,
      `tps_grid`, `flow_grid` or `velocity_grid`.
    align_corners: Convention of the grid, as it was made.

  Returns:
    The figure, three panels. Arrows lead from each position of the warped
    image to the position of the image that it samples, in pixels of the image;
    their colour is their length.

  Raises:
    ValueError: If the grid is not `[h, w, 2]`.
  """
  if np.ndim(grid) != 3 or np.shape(grid)[-1] != 2:
    raise ValueError(f"grid must be [h, w, 2], got shape {np.shape(grid)}")
  height, width = image.shape[:2]
  identity = coordinates.lattice(grid.shape[:2], align_corners=align_corners)
  points, lattice = (
    np.asarray(
      coordinates.to_pixels(g, (height, width), align_corners=align_corners)
    )
    for g in (jnp.asarray(grid), identity)
  )
  figure = Figure(
    figsize=(drawing.WIDTH, drawing.WIDTH / 3 * height / width + 0.4),
    layout="constrained",
  )
  on_image, result, arrows = figure.subplots(1, 3)
  greys = drawing.greys(image, warped)
  drawing.show(on_image, image, greys)
  drawing.draw_lines(on_image, points)
  on_image.set_title("grid on the image", fontsize=10)
  drawing.show(result, warped, greys)
  result.set_title("warped", fontsize=10)
  _draw_displacement(arrows, lattice, points, (height, width))
  for axis in (on_image, result, arrows):
    axis.set(xticks=[], yticks=[])
  return figure


def _draw_displacement(
  axis: Axes, start: np.ndarray, end: np.ndarray, shape: tuple[int, int]
) -> None:
  """Arrows between pixels of an image of shape `(H, W)`."""
  height, width = shape
  drawing.draw_arrows(axis, start, end)
  axis.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
  axis.set_aspect("equal")
  axis.set_title("displacement (pixels)", fontsize=10)


def before_and_after(
  before: np.ndarray, after: Mapping[str, np.ndarray]
) -> Figure:
  """Perturbed images, and each network's warp of them.

  Each panel has a column per class and a row per perturbation of the same
  image: a network that aligns shows one pose in each column.

  Args:
    before: Perturbed images, `[draws, classes, H, W, C]`, in [0, 1] or uint8.
    after: Warped images by network, `[draws, classes, h, w, C]`.

  Returns:
    The figure, a panel for the perturbed images ("input") and one for each
    network.

  Raises:
    ValueError: If images have another shape, or there are none.
  """
  for name, images in [("before", before), *after.items()]:
    if np.ndim(images) != 5 or not np.size(images):
      raise ValueError(
        f"{name} must be [draws, classes, height, width, channels], at least"
        f" one of each, got shape {np.shape(images)}"
      )
  # A list, as a network may be named "input".
  figure, _ = _tiled([("input", before), *after.items()], labels=0)
  return figure


def warps_by_epoch(
  before: np.ndarray, after: Mapping[str, Mapping[int, np.ndarray]]
) -> Figure:
  """Images, and each network's warps of them while it trains.

  Args:
    before: Perturbed images, `[images, H, W, C]`, in [0, 1] or uint8.
    after: Warped images `[images, h, w, C]` by network and epoch, h <= H and
      w <= W. Smaller ones are enlarged by repeating pixels.

  Returns:
    The figure, a panel for each network: a column per image, the perturbed
    images in the first row, and a row for each epoch.

  Raises:
    ValueError: If images have another shape, or there are none.
  """
  drawing.require("after", after)
  if np.ndim(before) != 4 or not np.size(before):
    raise ValueError(
      "before must be [images, height, width, channels], at least one of each,"
      f" got shape {np.shape(before)}"
    )
  for name, by_epoch in after.items():
    drawing.require(f"after[{name!r}]", by_epoch)
    for epoch, images in by_epoch.items():
      shape, most = np.shape(images), np.shape(before)
      fits = len(shape) == 4 and shape[::3] == most[::3]
      if not fits or not 0 < shape[1] <= most[1] or not 0 < shape[2] <= most[2]:
        raise ValueError(
          f"after[{name!r}][{epoch}] must be [images, h, w, channels], at most"
          f" of the shape of before, {most}, got {shape}"
        )
  panels = {
    name: np.stack(
      [_enlarged(images, before) for images in (before, *by_epoch.values())]
    )
    for name, by_epoch in after.items()
  }
  figure, axes = _tiled([*panels.items()], labels=0.6)
  height = before.shape[1] + 1  # of a row, with its margin
  for axis, by_epoch in zip(axes, after.values(), strict=True):
    rows = ["input", *(f"epoch {epoch}" for epoch in by_epoch)]
    middles = height * np.arange(len(rows)) + (height - 2) / 2
    axis.set_axis_on()
    axis.set_yticks(middles, rows, fontsize=8)
    axis.tick_params(length=0)
    axis.set_xticks([])
    axis.set_frame_on(False)
  return figure


def _enlarged(images: np.ndarray, like: np.ndarray) -> np.ndarray:
  """Images `[N, h, w, C]` at the size of others, with repeated pixels."""
  rows, columns = (
    np.arange(size) * old // size
    for size, old in zip(like.shape[1:3], images.shape[1:3], strict=True)
  )
  return np.asarray(images[:, rows[:, None], columns])


def _tiled(
  panels: Sequence[tuple[str, np.ndarray]], labels: float
) -> tuple[Figure, list[Axes]]:
  """Tiles images `[rows, columns, H, W, C]`, a panel for each name.

  Args:
    panels: Names and images.
    labels: Width of the labels of rows, in inches.

  Returns:
    The figure, and the panels.
  """
  width = min(drawing.WIDTH / 2, labels + _LARGEST_TILE * len(panels[0][1][0]))
  columns = min(len(panels), int(drawing.WIDTH / width))
  rows = -(-len(panels) // columns)
  shapes = [np.shape(drawing.mosaic(images)) for _, images in panels]
  ratio = max(shape[0] / shape[1] for shape in shapes)
  height = rows * ((width - labels) * ratio + 0.3)
  figure = Figure(figsize=(columns * width, height), layout="constrained")
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for axis, (name, images) in zip(axes, panels, strict=False):
    axis.imshow(
      drawing.mosaic(images), cmap="gray", vmin=0, interpolation="nearest"
    )
    axis.set_title(drawing.text(name), fontsize=10)
  for axis in axes:
    axis.set_axis_off()
  return figure, list(axes[: len(panels)])
