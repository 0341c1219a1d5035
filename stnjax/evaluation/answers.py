"""Predicted classes: errors, invariance, confusion."""

import numpy as np


def error_rate(predicted: np.ndarray, labels: np.ndarray) -> float:
  """Share of images classified wrongly.

  Args:
    predicted: Predicted classes, `[N]` or `[N, heads]`.
    labels: True classes, in the same shape. An image with several heads is
      right only if all of them are.

  Returns:
    A share in [0, 1].
  """
  wrong = np.asarray(predicted) != np.asarray(labels)
  return float(np.mean(wrong.reshape(len(wrong), -1).any(axis=1)))


def same_answer(predicted: np.ndarray) -> float:
  """Share of images whose predicted class is the same in all passes.

  It measures whether the *answer* is invariant to the perturbation: an image
  counts as much if it is always wrong in the same way as if it is always
  right.

  Args:
    predicted: Predicted classes of P passes over N images, each pass with
      different perturbations, `[P, N]` or `[P, N, heads]`. An image with
      several heads counts only if all of them stay the same.

  Returns:
    A share in [0, 1]; NaN for a single pass, or no images.

  Raises:
    ValueError: If `predicted` is neither `[P, N]` nor `[P, N, heads]`.
  """
  predicted = np.asarray(predicted)
  if predicted.ndim not in (2, 3):
    raise ValueError(
      "predicted must be [P, N] or [P, N, heads], got shape"
      f" {predicted.shape}; pass predictions of one pass as predicted[None]"
    )
  passes, images = predicted.shape[:2]
  if passes < 2 or not images:
    return np.nan
  same = (predicted == predicted[0]).reshape(passes, images, -1)
  return float(np.mean(same.all(axis=(0, 2))))


def confusion(
  predicted: np.ndarray, labels: np.ndarray, num_classes: int
) -> np.ndarray:
  """Counts predictions by true and predicted class.

  Args:
    predicted: Predicted classes, `[N]`, `[N, heads]`, or with a leading axis of
      passes `[P, N]`, `[P, N, heads]`; integers in [0, num_classes).
    labels: True classes, `[N]` or `[N, heads]`.
    num_classes: Number of classes K.

  Returns:
    Counts `[K, K]`, int64: rows are true classes, columns predicted ones.
    Every head of an image counts once for each pass.

  Raises:
    ValueError: If the shapes do not fit, or a class is not in
      [0, num_classes).
  """
  predicted, labels = np.asarray(predicted), np.asarray(labels)
  if predicted.shape not in (labels.shape, (len(predicted), *labels.shape)):
    raise ValueError(
      "predicted must have the shape of labels, or a leading axis of passes"
      f" before it; got {predicted.shape} and labels of {labels.shape}"
    )
  for name, classes in (("predicted", predicted), ("labels", labels)):
    if classes.size and not 0 <= classes.min() <= classes.max() < num_classes:
      raise ValueError(
        f"{name} must be in [0, num_classes={num_classes}), got"
        f" {classes.min()} to {classes.max()}"
      )
  true = np.broadcast_to(labels, predicted.shape).astype(np.int64)
  pairs = np.ravel(true * num_classes + predicted)
  counts = np.bincount(pairs, minlength=num_classes**2)
  return counts.reshape(num_classes, num_classes)
