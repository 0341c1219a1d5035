"""From predictions to what a run reports: errors, alignment, example images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from stnjax import data, evaluation
from stnjax.training.steps import Prediction

EXAMPLE_ROWS = 4
"""Rows of example images: perturbations, or images where there is none."""

_COLUMNS = 10


class Positions(NamedTuple):
  """Positions of the objects along one axis, in its unit, `[passes, N]`.

  Attributes:
    true: What the perturbation did to each object.
    predicted: What the transformer does to it.
  """

  true: np.ndarray
  predicted: np.ndarray


def positions(
  perturbation: data.Perturbation,
  passes: Sequence[Prediction],
  image_shape: Sequence[int],
) -> dict[str, Positions]:
  """Positions along each axis of a perturbation; none where it has no truth.

  Args:
    perturbation: Perturbation of the images.
    passes: Predictions of each pass over the images.
    image_shape: `(H, W, C)` of the perturbed images.
  """
  if not passes[0].truth:
    return {}
  shape = (len(passes), -1)
  truth = _truth(passes)
  poses = np.concatenate([p.pose for p in passes])
  return {
    axis.name: Positions(
      np.asarray(axis.true(truth)).reshape(shape),
      np.asarray(axis.predicted(poses, image_shape)).reshape(shape),
    )
    for axis in perturbation.axes
  }


def _truth(passes: Sequence[Prediction]) -> Mapping[str, np.ndarray]:
  """Motions of the objects of all passes, `[passes * N, ...]` each."""
  return {
    name: np.concatenate([p.truth[name] for p in passes])
    for name in passes[0].truth
  }


def authors_alignment(
  perturbation: data.Perturbation,
  passes: Sequence[Prediction],
  labels: np.ndarray,
  image_shape: Sequence[int],
) -> dict[str, dict[str, Any]]:
  """Alignment along the authors' axes of a perturbation, over all passes.

  Args:
    perturbation: Perturbation of the images.
    passes: Predictions of each pass over the images.
    labels: `[N]`, the true classes.
    image_shape: `(H, W, C)` of the perturbed images.

  Returns:
    The unit and the fields of `evaluation.PooledAlignment` by name of the axis,
    of the poses of the transformer's first run; empty without such axes, or
    where the perturbation has no truth.
  """
  if not passes[0].truth or not perturbation.authors_axes:
    return {}
  truth, tiled = _truth(passes), np.tile(labels, len(passes))
  poses = np.concatenate(
    [p.pose if p.first_pose is None else p.first_pose for p in passes]
  )
  found = {}
  for axis in perturbation.authors_axes:
    pooled = evaluation.pooled_alignment(
      axis, axis.true(truth), axis.predicted(poses, image_shape), tiled
    )
    found[axis.name] = {"unit": axis.unit, **pooled._asdict()}
  return found


def summary(
  perturbation: data.Perturbation,
  passes: Sequence[Prediction],
  measured: dict[str, Positions],
  labels: np.ndarray,
  brief: bool = False,
) -> dict[str, Any]:
  """Error, invariance and alignment along each axis, over all passes.

  Args:
    perturbation: Perturbation of the images.
    passes: Predictions of each pass over the images.
    measured: Positions of the objects, see `positions`.
    labels: `[N]` or `[N, heads]`, the true classes.
    brief: Whether to keep only the error and the residual of each axis about
      the class.
  """
  wrong = [evaluation.error_rate(p.label, labels) for p in passes]
  values: dict[str, Any] = {"error": float(np.mean(wrong))}
  if not brief:
    answers = np.stack([p.label for p in passes])
    values["same_answer"] = evaluation.same_answer(answers)
  if not measured:
    return values
  alignment = {
    axis.name: evaluation.alignment(axis, *measured[axis.name], labels)
    for axis in perturbation.axes
  }
  values["alignment"] = {
    name: found.std if brief else found._asdict()
    for name, found in alignment.items()
  }
  return values


def record(
  passes: Sequence[Prediction],
  measured: dict[str, Positions],
  labels: np.ndarray,
  drawn: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
  """The arrays of evaluation.npz: passes first, then images."""
  before, after = (np.stack(images) for images in zip(*drawn, strict=True))
  arrays = {
    "label": np.asarray(labels),
    "predicted": np.stack([p.label for p in passes]).astype(np.int16),
    "pose": np.stack([p.pose for p in passes]),
    "before": to_uint8(before),
    "after": to_uint8(after),
  }
  if passes[0].first_pose is not None:
    arrays["first_pose"] = np.stack([p.first_pose for p in passes])
  for axis, found in measured.items():
    arrays[f"true_{axis}"] = found.true.astype(np.float32)
    arrays[f"predicted_{axis}"] = found.predicted.astype(np.float32)
  return arrays


def example_indices(labels: np.ndarray, row: int) -> np.ndarray:
  """Indices of a row of examples: one image of each of ten classes.

  Of images with several labels, the next ten. A row beyond the images starts
  over.
  """
  if labels.ndim > 1:
    return np.arange(_COLUMNS * row, _COLUMNS * row + _COLUMNS) % len(labels)
  classes = (np.flatnonzero(labels == c) for c in np.unique(labels)[:_COLUMNS])
  return np.array([members[row % len(members)] for members in classes])


def to_uint8(images: np.ndarray) -> np.ndarray:
  """Images with values about [0, 1] as uint8; NaN becomes 0."""
  return np.clip(np.nan_to_num(np.round(images * 255)), 0, 255).astype(np.uint8)


def describe(
  lines: Sequence[dict[str, Any]],
  axes: Sequence[data.Axis],
  epochs: int | None = None,
) -> str:
  """An epoch's metrics, or results, in words: the means over seeds.

  Args:
    lines: Lines of metrics.jsonl, or results, one per seed.
    axes: Axes of the perturbation.
    epochs: Epochs of the run, for a line of metrics.
  """
  parts = []
  if epochs:
    parts.append(f"epoch {lines[0]['epoch']}/{epochs}")
    loss = np.mean([line["train_loss"] for line in lines])
    parts.append(f"train loss {loss:.4f}")
  error = 100 * np.mean([line["error"] for line in lines])
  parts.append(f"error {error:.2f} %")
  for axis in axes:
    if axis.name not in lines[0].get("alignment", {}):
      continue
    stored = [line["alignment"][axis.name] for line in lines]
    std = np.mean([s["std"] if isinstance(s, dict) else s for s in stored])
    name = axis.name.replace("_", " ")
    parts.append(f"{name} residual {std:.3g} {axis.unit}")
  parts.append(f"{sum(line['seconds'] for line in lines):.1f} s")
  return ", ".join(parts)
