"""The paper's claims, and the comparisons of networks that test them.

The last three are ours, on equivariant localisers, see `pose_claims`.

`judge` takes the results of runs, grouped by their common settings, and
returns a verdict for each of `CLAIMS`. Every claim is tested in every group
that has the networks it compares. Comparisons are paired by seed: Student's t
test of the differences, adjusted by Holm's method over all comparisons of the
claim. Nothing here reads files.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
from typing import NamedTuple

from stnjax.paper import pose_claims
from stnjax.paper.comparisons import (
  FAILS,
  HOLDS,
  LEAST_SEEDS,
  OPEN,
  Comparison,
  GroupResults,
  adjust,
)

_HARD = ("svhn", "street_numbers", "ringed_digits")
"""Data sets and perturbations that count as difficult data."""


def _warps_input(kind: str, depths: Sequence[int]) -> bool:
  return kind in ("STN-DL", "STN-SL") or (kind == "STN-C" and not any(depths))


def _input_aligns(group: GroupResults) -> Iterator[Comparison]:
  for name, (kind, depths) in group.placements().items():
    if _warps_input(kind, depths) and group.is_aligned(name):
      yield group.bounded(name, 0.5)


def _features_do_not_align(group: GroupResults) -> Iterator[Comparison]:
  yield from _align_less(group, "STN-C")


def _align_less(group: GroupResults, kind: str) -> Iterator[Comparison]:
  """Tests that warps of features leave more than one of the input."""
  plain = group.single("STN-C", aligned=True).get(0)
  if plain and group.perturbation in ("rotation", "scale"):
    for depth, name in group.single(kind, aligned=True).items():
      if depth:
        yield group.lower_residual(plain, name)


def _features_undo_translation(group: GroupResults) -> Iterator[Comparison]:
  if group.perturbation == "translation":
    for depth, name in group.single("STN-C", aligned=True).items():
      if depth:
        yield group.bounded(name, 0.5)


def _features_err_more(group: GroupResults) -> Iterator[Comparison]:
  by_depth = group.single("STN-C")
  if group.perturbation != "translation" and 0 in by_depth:
    for depth, name in by_depth.items():
      if depth:
        yield group.lower_error(by_depth[0], name)


def _deeper_helps(group: GroupResults) -> Iterator[Comparison]:
  plain = group.single("STN-C").get(0)
  deep = [*_enough(group, group.single("STN-SL")).values()]
  if not plain or not deep:
    return
  best, most = group.best_on_other_seeds(deep)
  choice = f" (depth chosen on the other seeds, mostly {most})"
  comparison = group.lower(
    f"error of the best STN-SL < {plain}" + choice * (len(deep) > 1),
    best,
    group.errors(plain),
    ("best STN-SL", plain),
  )
  # Without headroom for a transformer, depth cannot matter.
  yield dataclasses.replace(comparison, counts=group.gates is not False)


def _enough(group: GroupResults, by_depth: Mapping[int, str]) -> dict[int, str]:
  """Networks behind the input; only those with enough seeds, if there are any.

  One with fewer would leave its seeds alone to all that it is compared with.
  """
  deep = {depth: name for depth, name in by_depth.items() if depth}
  enough = {
    depth: name
    for depth, name in deep.items()
    if len(group.results[name]) >= LEAST_SEEDS
  }
  return enough or deep


def _shared_is_stable(group: GroupResults) -> Iterator[Comparison]:
  own = _enough(group, group.single("STN-DL"))
  shared = _enough(group, group.single("STN-SL"))
  depths = sorted(own.keys() & shared.keys())
  if not depths or depths[-1] < 2:
    return
  own, shared = ({d: names[d] for d in depths} for names in (own, shared))
  yield group.lower_error(shared[depths[-1]], own[depths[-1]])
  if len(depths) > 1:
    yield _flatter(group, group.errors, "error (%)", shared, own)
    if all(map(group.is_aligned, (*own.values(), *shared.values()))):
      shares = group.residual_shares
      yield _flatter(group, shares, "residual share", shared, own)


def _flatter(
  group: GroupResults,
  quantity: Callable[[str], Mapping[int, float]],
  words: str,
  shared: Mapping[int, str],
  own: Mapping[int, str],
) -> Comparison:
  """Tests that a quantity rises less with depth for shared layers."""
  return group.lower(
    f"slope of the {words} with depth of STN-SL < STN-DL",
    group.slopes(quantity, shared),
    group.slopes(quantity, own),
    ("slope of STN-SL", "slope of STN-DL"),
  )


def _shared_wins(group: GroupResults) -> Iterator[Comparison]:
  if group.dataset not in _HARD and group.perturbation not in _HARD:
    return
  own, features = group.single("STN-DL"), group.single("STN-C")
  for depth, name in group.single("STN-SL").items():
    rivals = ("CNN", features.get(0), features.get(depth), own.get(depth))
    for rival in rivals:
      if depth and rival and rival in group.results:
        yield group.lower_error(name, rival)


def _iterations_help(group: GroupResults) -> Iterator[Comparison]:
  by_placement = {where: name for name, where in group.placements().items()}
  for (kind, depths), name in by_placement.items():
    more = by_placement.get((kind, depths + depths[-1:]))
    if depths and more:
      yield group.lower_error(more, name)
      if group.is_aligned(more) and group.is_aligned(name):
        yield group.lower_residual(more, name)


def _iterations_replace_nothing(group: GroupResults) -> Iterator[Comparison]:
  iterated = {
    len(depths): name
    for name, (kind, depths) in group.placements().items()
    if kind == "STN-C" and len(depths) > 1 and not any(depths)
  }
  for depth, deep in group.single("STN-SL").items():
    if depth and iterated:
      yield group.lower_error(deep, _as_costly(group, iterated, deep))


def _as_costly(
  group: GroupResults, iterated: Mapping[int, str], deep: str
) -> str:
  """The most iterated network of at most the cost of another, else the least.

  The most iterated one where costs are not known.
  """
  limit = 1.01 * group.cost(deep)
  affordable = [
    runs for runs, name in iterated.items() if not group.cost(name) > limit
  ]
  return iterated[max(affordable, default=min(iterated))]


def _any_warp(group: GroupResults) -> Iterator[Comparison]:
  """Tests claim 2 for other families and for deformed convolutions."""
  if group.family != group.perturbation:
    yield from _features_do_not_align(group)
  for kind in ("STN-UCN", "DEF"):
    yield from _align_less(group, kind)


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement of the paper, or on its subject, and its test.

  Attributes:
    name: Short name.
    statement: The claim in words.
    test: Description of the comparisons.
    comparisons: Returns the comparisons that a group allows.
    any_is_enough: Whether one comparison that holds is enough, as for "can".
  """

  name: str
  statement: str
  test: str
  comparisons: Callable[[GroupResults], Iterator[Comparison]]
  any_is_enough: bool = False


CLAIMS = (
  Claim(
    "input_aligns",
    "A spatial transformer of the input can align perturbed images to a common"
    " pose.",
    "The residual share of a network that warps the input is below 0.5.",
    _input_aligns,
    any_is_enough=True,
  ),
  Claim(
    "features_do_not_align",
    "A spatial transformer of feature maps does not align orientation or"
    " scale.",
    "For rotations and scalings, the residual share of STN-C0 is lower than"
    " that of deeper STN-C.",
    _features_do_not_align,
  ),
  Claim(
    "features_undo_translation",
    "A spatial transformer of feature maps can undo translations.",
    "For translations, the residual share of STN-C is below 0.5 at every"
    " depth.",
    _features_undo_translation,
  ),
  Claim(
    "features_err_more",
    "Networks that warp feature maps have higher errors than networks that"
    " warp the input.",
    "Except for translations, the error of STN-C0 is lower than that of deeper"
    " STN-C.",
    _features_err_more,
  ),
  Claim(
    "deeper_helps",
    "If the input is warped, deeper features improve localisation.",
    "The error of the best STN-SL, its depth chosen on the other seeds, is"
    " lower than that of STN-C0; on tasks that did not fail their gates.",
    _deeper_helps,
  ),
  Claim(
    "shared_is_stable",
    "Separate copies of layers become hard to train with depth, shared layers"
    " do not.",
    "At the greatest depth of both, the error of STN-SL is lower than that of"
    " STN-DL; its error and its residual share rise less with depth.",
    _shared_is_stable,
  ),
  Claim(
    "shared_wins",
    "Shared layers perform best on difficult data.",
    "On house numbers and on digits among ringed distractors, the error of"
    " STN-SL is lower than those of the CNN, STN-C0, and STN-C and STN-DL at"
    " the same depth.",
    _shared_wins,
  ),
  Claim(
    "iterations_help",
    "Iterations reduce the error.",
    "The error and the residual share are lower with one more iteration.",
    _iterations_help,
  ),
  Claim(
    "iterations_replace_nothing",
    "Iterations do not replace deeper features.",
    "The error of STN-SL is lower than that of STN-C0 iterated as often as the"
    " cost of STN-SL allows, in floating-point operations per image.",
    _iterations_replace_nothing,
  ),
  Claim(
    "any_warp",
    "No warp of feature maps aligns orientation or scale, whatever its family.",
    "For rotations and scalings, the residual share of STN-C0 is lower than"
    " those of STN-UCN, DEF, and deeper STN-C of other families.",
    _any_warp,
  ),
  Claim(
    "one_pose",
    "Equivariant localisers bring all versions of an image to one pose.",
    "For families with rotations, the residual by image of STN-EQ along the"
    " axis of rotation is below a quarter of that of STN-SL.",
    pose_claims.one_pose,
  ),
  Claim(
    "whole_group",
    "Equivariant localisers have lower errors where the whole group occurs.",
    "For rotations and similarities over the full circle and all training"
    " images, the error of STN-EQ is below 0.8 times that of the best of STN-C,"
    " STN-DL and STN-SL, chosen on the other seeds.",
    pose_claims.less_error,
  ),
  Claim(
    "fewer_images",
    "Equivariant localisers need fewer training images.",
    "Trained on fewer images, the error of STN-EQ is lower than that of the"
    " best of STN-C, STN-DL and STN-SL, chosen on the other seeds; and it rises"
    " less over the error with all images. Runs with all images differ in"
    " train_images and epochs alone.",
    pose_claims.fewer_images,
  ),
)


class Judged(NamedTuple):
  """A claim, its comparisons and its verdict: HOLDS, FAILS or OPEN."""

  claim: Claim
  comparisons: list[Comparison]
  verdict: str


def judge(groups: Sequence[GroupResults]) -> list[Judged]:
  """Tests every claim on groups of results.

  Args:
    groups: Groups of results.

  Returns:
    One verdict per claim, in the order of `CLAIMS`. A claim holds if all of
    its evaluated comparisons hold, or one where `any_is_enough`; it fails if
    one of them fails.
  """
  judged = []
  for claim in CLAIMS:
    comparisons = adjust([c for g in groups for c in claim.comparisons(g)])
    verdicts = {c.verdict for c in comparisons if c.evaluated and c.counts}
    if claim.any_is_enough and HOLDS in verdicts:
      overall = HOLDS
    elif FAILS in verdicts and not (claim.any_is_enough and OPEN in verdicts):
      overall = FAILS
    else:
      overall = HOLDS if verdicts == {HOLDS} else OPEN
    judged.append(Judged(claim, comparisons, overall))
  return judged
