"""Held-out shares: a test split for data sets that have none.

A tenth of the images is held out, a tenth of each class as nearly as whole
numbers allow. Which images is decided by hashes of their names or indices, so
it is the same on every machine.
"""

from collections.abc import Sequence
import hashlib

import numpy as np

PART = 10
"""One image in so many is held out."""


def held_out_count(count: int) -> int:
  """Number of images held out of so many."""
  return max(1, count // PART)


def held_out(
  labels: np.ndarray, names: Sequence[str] | None = None
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


def _shares(counts: np.ndarray) -> np.ndarray:
  """How many of each class: whole parts, then the largest remainders."""
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
  return shares
