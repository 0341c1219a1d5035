"""Poses of objects: predicted against true ones."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure
import numpy as np

from stnjax import evaluation
from stnjax.plots import drawing


def pose_density(
  axis: evaluation.Axis,
  true_pose: Mapping[str, np.ndarray],
  predicted_pose: Mapping[str, np.ndarray],
  labels: Mapping[str, np.ndarray] | None = None,
) -> Figure:
  """Density of predicted against true poses, for each network.

  Args:
    axis: Axis of the poses, with a name, a unit and a period, such as
      `stnjax.data.ROTATION`.
    true_pose: What the perturbation did to the objects, by network, `[N]`, in
      the axis' unit.
    predicted_pose: What the transformer does to the objects, by network,
      `[N]`, in the axis' unit.
    labels: Classes by network, `[N]`, whose common pose is subtracted from the
      predicted poses, see `stnjax.evaluation.response`. If None, nothing is
      subtracted.

  Returns:
    The figure: for each network a density and its orthogonal regression, whose
    slope is that of `stnjax.evaluation.alignment` if there are labels. On the
    dashed line, of slope -1, the transformer undoes the perturbation.

  Raises:
    ValueError: If there is no network, or values are missing or differ in
      length.
  """
  drawing.require("true_pose", true_pose)
  drawing.require_alike(
    "true_pose", true_pose, "predicted_pose", predicted_pose
  )
  if labels is not None:
    drawing.require_alike("true_pose", true_pose, "labels", labels)
  columns = min(4, len(true_pose))
  rows = -(-len(true_pose) // columns)
  width = drawing.WIDTH * (columns + 1) / 5  # one panel alone is smaller
  height = rows * (width / columns + 0.3)
  figure = Figure(figsize=(width, height), layout="constrained")
  axes = figure.subplots(
    rows, columns, squeeze=False, sharex=True, sharey=True
  ).ravel()
  edges = _edges(drawing.finite(true_pose.values()))
  for panel, name in zip(axes, true_pose, strict=False):
    response = evaluation.response(
      axis,
      true_pose[name],
      predicted_pose[name],
      None if labels is None else labels[name],
    )
    _draw_density(panel, name, np.asarray(true_pose[name]), response, edges)
  for panel in axes[len(true_pose) :]:
    panel.set_axis_off()
  name = axis.name.replace("_", " ")
  name = f"{name} ({axis.unit})" if axis.unit else name
  figure.supxlabel(f"perturbation: {name}", fontsize=9)
  figure.supylabel(f"transformer: {name}", fontsize=9)
  return figure


def _edges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Edges of bins for true poses, and for poses that undo them."""
  low, high = (values.min(), values.max()) if len(values) else (0.0, 0.0)
  middle, half = (low + high) / 2, (high - low) / 2 or 0.5
  # Whole pixels get a bin each.
  bins = min(60, max(1, len(np.unique(values))))
  x = np.linspace(middle - half, middle + half, bins + 1)
  y = np.linspace(-1.5 * half - middle, 1.5 * half - middle, 91)
  return x, y


def _draw_density(
  panel: Axes,
  name: str,
  true_pose: np.ndarray,
  response: evaluation.Response,
  edges: tuple[np.ndarray, np.ndarray],
) -> None:
  """Draws one network's density and regression line."""
  predicted_pose, line = response
  finite = np.isfinite(true_pose) & np.isfinite(predicted_pose)
  counts, *_ = np.histogram2d(
    true_pose[finite], predicted_pose[finite], bins=edges
  )
  # The root shows the tails beside a sharp ridge.
  panel.pcolormesh(*edges, np.sqrt(counts.T), cmap="Greys", rasterized=True)
  x = edges[0][[0, -1]]
  panel.plot(x, -x, "--", color=drawing.COLOURS[1], lw=1)
  panel.plot(x, line.slope * x + line.intercept, c=drawing.COLOURS[2])
  panel.set(ylim=edges[1][[0, -1]])
  slope = f"{line.slope:.2f}" if np.isfinite(line.slope) else "none"
  title = f"{drawing.text(name, 30)}: slope {slope}"
  panel.set_title(title, fontsize=10 if len(title) < 25 else 7)
