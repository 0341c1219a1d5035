"""Comparisons that test claims on equivariant localisers.

They are not the paper's claims: its transformers regress the pose, and STN-EQ
is compared with them.
"""

from collections.abc import Iterator, Mapping
import dataclasses

import numpy as np

from stnjax.nn import EQUIVARIANT_FAMILIES
from stnjax.paper.comparisons import LEAST_SEEDS, Comparison, GroupResults

_EQUIVARIANT = "STN-EQ"
_REGRESSED = ("STN-C", "STN-DL", "STN-SL")
_ROTATIONS = tuple(
  name for name, parts in EQUIVARIANT_FAMILIES.items() if parts.rotation
)
_WHOLE_GROUP = ("full_rotation", "similarity")  # perturbations, all angles

ONE_POSE = 1 / 4
"""Bound on residuals by image of STN-EQ, as a share of those of STN-SL."""
LESS_ERROR = 0.8
"""Bound on errors of STN-EQ, as a share of those of the paper's best."""


def one_pose(group: GroupResults) -> Iterator[Comparison]:
  """Tests that versions of an image come to one pose."""
  if group.family not in _ROTATIONS:
    return
  regressed = _by_image(group, "STN-SL")
  for name, residuals in _by_image(group, _EQUIVARIANT).items():
    for other, larger in regressed.items():
      yield _below(
        group,
        f"rotation residual by image of {name} < {ONE_POSE:g} of {other}'s",
        residuals,
        larger,
        (name, other),
        ONE_POSE,
      )


def less_error(group: GroupResults) -> Iterator[Comparison]:
  """Tests that errors are a fifth less where the whole group occurs."""
  best, most = _best_regressed(group)
  whole = group.perturbation in _WHOLE_GROUP and group.family in _ROTATIONS
  if not whole or group.train_images or not best:
    return
  for name in _of_kinds(group, _EQUIVARIANT):
    yield _below(
      group,
      f"error of {name} < {LESS_ERROR:g} of the best of the paper's (chosen on"
      f" the other seeds, mostly {most})",
      group.errors(name),
      best,
      (name, "best of the paper's"),
      LESS_ERROR,
    )


def fewer_images(group: GroupResults) -> Iterator[Comparison]:
  """Tests that fewer training images cost less.

  In groups with fewer training images, for which there is one with all.
  """
  whole = group.all_images
  if whole is None or not group.train_images:
    return
  few_best, _ = _best_regressed(group)
  all_best, _ = _best_regressed(whole)
  if not few_best or not all_best:
    return
  paper = "best of the paper's"
  for name in _of_kinds(group, _EQUIVARIANT):
    if name not in whole.results:
      continue
    few, most = group.errors(name), whole.errors(name)
    yield group.lower(
      f"error of {name} < {paper}", few, few_best, (name, paper)
    )
    yield group.lower(
      f"rise of the error of {name} over all images < that of the {paper}",
      _differences(few, most),
      _differences(few_best, all_best),
      (f"rise of {name}", f"rise of the {paper}"),
    )


def _of_kinds(group: GroupResults, *kinds: str) -> list[str]:
  """Networks of some kinds of placement."""
  return [n for n, (kind, _) in group.placements().items() if kind in kinds]


def _best_regressed(group: GroupResults) -> tuple[dict[int, float], str]:
  """Errors of the best of the paper's transformers, and which it mostly is.

  Chosen on the other seeds, of those with enough seeds if there are any; empty
  without such a network.
  """
  names = _of_kinds(group, *_REGRESSED)
  enough = [n for n in names if len(group.results[n]) >= LEAST_SEEDS]
  if not names:
    return {}, ""
  return group.best_on_other_seeds(enough or names)


def _by_image(group: GroupResults, kind: str) -> dict[str, dict[int, float]]:
  """Rotation residuals by image of networks of a kind, by seed."""
  found = {}
  for name in _of_kinds(group, kind):
    measured = {
      seed: result.get("alignment", {}).get("rotation", {})
      for seed, result in group.results[name].items()
    }
    if all("by_image" in one for one in measured.values()):
      found[name] = {
        seed: np.nan if one["by_image"] is None else one["by_image"]
        for seed, one in measured.items()
      }
  return found


def _differences(
  left: Mapping[int, float], right: Mapping[int, float]
) -> dict[int, float]:
  return {seed: left[seed] - right[seed] for seed in left.keys() & right.keys()}


def _below(
  group: GroupResults,
  statement: str,
  left: Mapping[int, float],
  right: Mapping[int, float],
  sides: tuple[str, str],
  share: float,
) -> Comparison:
  """Tests that a quantity is below a share of another, seed by seed."""
  scaled = {seed: share * value for seed, value in right.items()}
  found = group.lower(statement, left, right, sides)
  bounded = group.lower(statement, left, scaled, sides)
  return dataclasses.replace(found, differences=bounded.differences)
