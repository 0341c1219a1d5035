"""Shares of a data set: a test split where there is none, and smaller sets.

`held_out` chooses a tenth of the images, a tenth of each class as nearly as
whole numbers allow. Which images is decided by hashes of their names or
indices, so it is the same on every machine. In `stratified` order, any first
images have all classes in their shares.
"""

from collections.abc import Sequence
import hashlib

import jax
import numpy as np

PART = 10
"""One image in so many is held out."""


def held_out_count(count: int) -> int:
  """Number of images held out of so many."""
  return max(1, count // PART)


def held_out(
  labels: jax.Array | np.ndarray, names: Sequence[str] | None = None
) -> np.ndarray:
  """Chooses the images that are held out.

  Args:
    labels: `[N]` or `[N, heads]` integers, of which the first head counts.
    names: Names of the N images, which decide; their indices if None.

  Returns:
    `[N]`, bool, True for `held_out_count(N)` images; every class keeps one.

  Raises:
    ValueError: If most classes have a single image, so that too few are left.
  """
  first = np.asarray(labels).reshape(len(labels), -1)[:, 0]
  if names is None:
    names = [str(index) for index in range(len(first))]
  _, of_class, counts = np.unique(
    first, return_inverse=True, return_counts=True
  )
  shares = _shares(counts)
  hashes = [hashlib.sha256(name.encode()).digest() for name in names]
  chosen = np.zeros(len(first), bool)
  members: list[list[int]] = [[] for _ in counts]
  for index in sorted(range(len(first)), key=hashes.__getitem__):
    members[of_class[index]].append(index)
  for indices, share in zip(members, shares, strict=True):
    chosen[indices[:share]] = True
  return chosen


def stratified(labels: np.ndarray) -> np.ndarray:
  """Orders images so that classes are mixed in proportion to their sizes.

  Args:
    labels: `[N]` or `[N, heads]` integers, of which the first head counts.

  Returns:
    `[N]`, indices; images of a class keep their order, and the first K hold
    each class as often as its share of K, but for less than one image.
  """
  first = np.asarray(labels).reshape(len(labels), -1)[:, 0]
  order = np.argsort(first, kind="stable")
  _, starts, counts = np.unique(
    first[order], return_index=True, return_counts=True
  )
  place = np.arange(len(first)) - np.repeat(starts, counts)
  share = (place + 0.5) / np.repeat(counts, counts)
  return order[np.argsort(share, kind="stable")]


def _shares(counts: np.ndarray) -> np.ndarray:
  """Number per class: whole parts, then the largest remainders."""
  total = int(counts.sum())
  wanted = held_out_count(total)
  if np.maximum(counts - 1, 0).sum() < wanted:
    raise ValueError(
      f"no test split, and {total} images of {len(counts)} classes are too few"
      " to hold out a tenth of them: most classes have a single image"
    )
  shares = np.minimum(counts * wanted // total, counts - 1)
  order = np.argsort(-(counts * wanted % total), kind="stable")
  while missing := wanted - int(shares.sum()):
    open_classes = order[(shares < counts - 1)[order]]
    shares[open_classes[:missing]] += 1
  return np.asarray(shares)
