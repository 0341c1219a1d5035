"""Localisers whose pose moves exactly as the image does.

A `LocalisationNet` regresses the pose, and nothing makes its answers for an
image and a transformed copy agree. An `EquivariantLocaliser` reads features in
canonical coordinates, in which transforms are shifts (`sampling.polar_grid`,
`sampling.log_polar_grid`), scores every transform with convolutions, and
returns the best one: if the image turns by a step of the angles, the scores
shift by one, and so the pose turns by the step.

The features must move with the image, channels unchanged. Pixels do. Features
of ordinary convolutions do not when the image turns: no spatial warp aligns
feature maps of rotated images (Finnveden, Jansson and Lindeberg 2020,
arXiv:2004.11678), since filters respond to other orientations, in other
channels. Features of group convolutions change in a known way: they turn, and
their orientation channels are permuted. Counted from the direction of the
radius, instead of from that of the image, orientations do not change as the
image turns; so the theorem, which is about warps alone, permits a polar image
of such features that shifts along the angles and does nothing else.

Reference: Tai, Bailis and Valiant 2019 (arXiv:1901.11399); Esteves et al. 2018
(arXiv:1709.01889).
"""

from collections.abc import Sequence
import math
from typing import NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, coordinates, promotion, sampling, transforms
from stnjax.nn import group_scores
from stnjax.transforms import families

STEPS_PER_OCTAVE = 6
"""Scores of log factors, and columns of log-polar images, for a factor of 2."""

_KERNEL = 5  # pixels along a side of the kernels before the template
_OCTAVES_AROUND = 0.75  # that a template of radii sees to either side
_PLACE = 9  # pixels along a side of the template of a place
_RADII = 16  # most columns of a polar image
_MOST_PIXELS = 40  # of the shorter side, of features that are not reduced
_REACH_DEGREES = 45.0
_REACH_OCTAVES = 0.5
_REACH_PIXELS = 3


class _Parts(NamedTuple):
  """The parts of a family's parameters, in order."""

  scale: bool
  rotation: bool
  translation: bool


EQUIVARIANT_FAMILIES = {
  "rotation": _Parts(False, True, False),
  "scale": _Parts(True, False, False),
  "rotation_scale": _Parts(True, True, False),
  "translation": _Parts(False, False, True),
  "attention": _Parts(True, False, True),
  "similarity": _Parts(True, True, True),
}
"""Names of the families that an `EquivariantLocaliser` predicts."""


class EquivariantLocaliser(nnx.Module):
  """Predicts the pose that scores highest, by convolutions over the group.

    rotation: scores of angles, from a polar image;
    scale: scores of log factors, from a log-polar image, the mean over angles;
    rotation_scale: scores of both, from a log-polar image;
    translation: scores of places, a heat map;
    attention: a place, then the scale about it;
    similarity: a place, then rotation and scale about it.

  The pose is the peak of the scores, refined between steps, see
  `group_scores.soft_peak`. It moves with the image: exactly by whole steps of
  the scores, closely between them. A transformer of the family therefore brings
  all transformed versions of an image to one pose. It does not for

  - images with two equally high peaks;
  - scales and places at the bounds of their range;
  - the place in "similarity", whose convolutions do not turn with the image;
  - rotations of images that are not square: angles are those in pixels, and
    the matrices of `transforms.rotation` are in normalised coordinates;
  - images whose peaks differ by less than the logs of their shares in a learnt
    prior (`prior=True`), which prefers poses that are frequent in training;
    `prior=False` is equivariant everywhere.

  An untrained localiser does not predict the identity. The prior is learnt in
  training, after `train()`.

  Reference: see the module.

  >>> net = EquivariantLocaliser((28, 28, 1), "rotation", rngs=nnx.Rngs(0))
  >>> net(jnp.ones((2, 28, 28, 1))).shape
  (2, 1)
  """

  def __init__(
    self,
    in_shape: Sequence[int],
    family: str | transforms.Family,
    *,
    orientations: int = 1,
    filters: Sequence[int] = (16, 16),
    angles: int = 32,
    octaves: tuple[float, float] = (-2.0, 2.0),
    prior: bool = True,
    extent: tuple[float, float] = (1.0, 1.0),
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      in_shape: `(H, W, C)` of the features.
      family: Transform family, one of `EQUIVARIANT_FAMILIES`.
      orientations: Number G of orientations of the features, 1 for pixels. If
        above 1, channel `f * G + g` is the response of filter f turned by g
        steps of 360 / G degrees counter-clockwise as drawn.
      filters: Numbers of filters of the convolutions before the scores.
      angles: Number of angles, at least 8.
      octaves: Least and largest log2 factor, for families with a scale.
      prior: Whether to learn how frequent each transform is in training, and
        to prefer frequent ones among equally good peaks; see
        `group_scores.LearnedPrior`.
      extent: Width and height that the features cover, as shares of those of
        the image that is warped, for translations.
      init: Initialiser of all layers, one of `initialisers.INITIALISERS`.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a family that is not accepted, a shape that is not
        `(H, W, C)` or too small, channels that orientations do not divide,
        filters below 1, or octaves that are not finite and increasing.
    """
    self.family = families.find(family)
    checks.option("family", self.family.name, tuple(EQUIVARIANT_FAMILIES))
    if len(in_shape) != 3:
      raise ValueError(f"in_shape must be (H, W, C), got {tuple(in_shape)}")
    checks.whole("orientations", orientations, 1)
    checks.whole("angles", angles, 8)
    if in_shape[-1] % orientations:
      raise ValueError(
        f"in_shape={tuple(in_shape)} must have a multiple of"
        f" orientations={orientations} channels"
      )
    if len(octaves) != 2 or not -math.inf < octaves[0] < octaves[1] < math.inf:
      raise ValueError(
        f"octaves must be two finite numbers that increase, got {octaves}"
      )
    for count in filters:
      checks.whole("filters", count, 1)
    self.in_shape = tuple(in_shape)
    self.orientations, self.angles = orientations, angles
    self.octaves, self.extent = tuple(octaves), tuple(extent)
    self.parts = EQUIVARIANT_FAMILIES[self.family.name]
    least = self._least_side()
    if min(in_shape[:2]) < least:
      raise ValueError(
        f"in_shape={tuple(in_shape)} must have at least {least} pixels along"
        f" each side for family={self.family.name!r}"
      )
    moves, turns = self.parts.translation, self.parts[:2] != (False, False)
    self.places = self._place_net(filters, init, rngs) if moves else None
    self.poses = self._pose_net(filters, init, rngs) if turns else None
    learnt = group_scores.LearnedPrior
    self.place_prior = learnt(self._reduced_shape) if prior and moves else None
    self.pose_prior = learnt(self._pose_shape) if prior and turns else None

  @promotion.usual
  def __call__(self, features: jax.Array) -> jax.Array:
    """Predicts the parameters of each image's transform.

    Args:
      features: `[B, H, W, C]`.

    Returns:
      `[B, P]`, parameters of the family.

    Raises:
      ValueError: If the features are not `[B, *in_shape]`.

    Gradient: exact but for the selection of the highest peak.
    """
    if features.ndim != 4 or features.shape[1:] != self.in_shape:
      raise ValueError(
        f"features must be [B, H, W, C] with (H, W, C) = {self.in_shape}, the"
        f" in_shape of this EquivariantLocaliser, got shape {features.shape}"
      )
    place = None
    if self.places is not None:
      scores = self.place_scores(features)
      steps = group_scores.soft_peak(
        scores,
        self.place_prior(scores) if self.place_prior else 0.0,
        reach=(_REACH_PIXELS, _REACH_PIXELS),
        circular=False,
      )
      place = coordinates.to_normalised(steps[:, ::-1], self._reduced_shape)
    parameters = []
    if self.poses is not None:
      parameters.append(self.pose(self.canonical(features, place)))
    if place is not None:
      parameters.append(place * np.array(self.extent).astype(place.dtype))
    return jnp.concatenate(parameters, axis=-1)

  def canonical(
    self, features: jax.Array, centre: jax.Array | None = None
  ) -> jax.Array:
    """Features in canonical coordinates, in which poses are shifts.

    Args:
      features: `[B, H, W, C]`.
      centre: `[B, 2]`, about which to turn and scale, in normalised coordinates
        (x, y); the middle by default.

    Returns:
      `[B, A, R, C]`, rows at equal steps of the angle, columns at equal steps
      of the radius, or of its logarithm for families with a scale.
    """
    centre = jnp.zeros(2) if centre is None else centre
    if self.parts.scale:
      grid = self._log_polar(centre)
    else:
      features = self._reduced(features)
      grid = sampling.polar_grid(
        (self.angles, self._num_radii), features.shape[1:3], centre=centre
      )
    polar = sampling.grid_sample(features, grid, padding="border")
    return self._relative(polar)

  def pose(self, polar: jax.Array) -> jax.Array:
    """Log factor and angle, those that the family has, `[B, 1 or 2]`.

    Args:
      polar: `[B, A, R, C]`, as `canonical` returns it.
    """
    assert self.poses is not None  # for families with scale or rotation
    scores = self.poses(polar)
    if not self.parts.rotation:
      scores = scores.mean(axis=1, keepdims=True)
    reach = (
      round(_REACH_DEGREES / 360 * self.angles) * self.parts.rotation,
      round(_REACH_OCTAVES * STEPS_PER_OCTAVE) * self.parts.scale,
    )
    steps = group_scores.soft_peak(
      scores,
      self.pose_prior(scores) if self.pose_prior else 0.0,
      reach=reach,
      circular=True,
    )
    half = self.angles / 2
    turned = (steps[:, :1] + half) % self.angles - half
    octaves = self.octaves[0] + steps[:, 1:] / STEPS_PER_OCTAVE
    log_factor = octaves * np.log(2).astype(steps.dtype)
    angle = turned * np.asarray(2 * np.pi / self.angles, steps.dtype)
    both = [(self.parts.scale, log_factor), (self.parts.rotation, angle)]
    return jnp.concatenate([value for has, value in both if has], axis=-1)

  def place_scores(self, features: jax.Array) -> jax.Array:
    """Scores `[B, h, w]` of places, of features `[B, H, W, C]`."""
    if self.parts.rotation and self.orientations > 1:
      # The maximum over orientations turns with the image.
      grouped = features.reshape(*features.shape[:3], -1, self.orientations)
      features = grouped.max(axis=-1)
    assert self.places is not None, "the family has a translation"
    return self.places(self._reduced(features))

  def _place_net(
    self, filters: Sequence[int], init: str, rngs: nnx.Rngs
  ) -> group_scores.ScoreNet:
    channels = self.in_shape[-1]
    if self.parts.rotation:
      channels //= self.orientations
    return group_scores.ScoreNet(
      channels,
      filters,
      kernels=[(_KERNEL, _KERNEL)] * len(filters),
      template=(_PLACE, _PLACE),
      polar=False,
      init=init,
      rngs=rngs,
    )

  def _pose_net(
    self, filters: Sequence[int], init: str, rngs: nnx.Rngs
  ) -> group_scores.ScoreNet:
    height = self.angles if self.parts.rotation else 1
    if self.parts.scale:
      kernel, columns = (_KERNEL, _KERNEL), self._template_radii
    else:
      # The kernels use up all radii.
      across = min(_KERNEL, (self._num_radii - 1) // (len(filters) + 1) + 1)
      kernel = (_KERNEL, across)
      columns = self._num_radii - (across - 1) * len(filters)
    return group_scores.ScoreNet(
      self.in_shape[-1],
      filters,
      kernels=[kernel] * len(filters),
      template=(height, columns),
      polar=True,
      init=init,
      rngs=rngs,
    )

  def _least_side(self) -> int:
    """Pixels along the shorter side of features that predict the pose."""
    if self.parts[:2] == (False, False):
      return 1
    # Orientations tell the angle without a second radius.
    return 4 if self.parts.scale or self.orientations == 1 else 2

  @property
  def _template_radii(self) -> int:
    return 2 * round(_OCTAVES_AROUND * STEPS_PER_OCTAVE) + 1

  @property
  def _num_factors(self) -> int:
    span = self.octaves[1] - self.octaves[0]
    return round(STEPS_PER_OCTAVE * span) + 1 if self.parts.scale else 1

  @property
  def _pose_shape(self) -> tuple[int, int]:
    return (self.angles if self.parts.rotation else 1, self._num_factors)

  @property
  def _reduced_shape(self) -> tuple[int, int]:
    """Height and width of the features, reduced by a whole factor."""
    height, width, _ = self.in_shape
    factor = -(-min(height, width) // _MOST_PIXELS)
    return -(-height // factor), -(-width // factor)

  @property
  def _num_radii(self) -> int:
    return min(_RADII, (min(self._reduced_shape) + 1) // 2)

  def _reduced(self, features: jax.Array) -> jax.Array:
    """Large features at a smaller size, antialiased."""
    if self._reduced_shape == self.in_shape[:2]:
      return features
    return sampling.warp(
      features,
      transforms.identity(),
      output_shape=self._reduced_shape,
      padding="border",
      antialias=True,
    )

  def _log_polar(self, centre: jax.Array) -> jax.Array:
    """The log-polar grid, with a margin for the kernels beyond the scores."""
    assert self.poses is not None, "the family has a scale"
    around = self.poses.columns_used // 2
    largest = (min(self.in_shape[:2]) - 1) / 2
    count = self._num_factors + 2 * around
    outside = 2.0 ** (around / STEPS_PER_OCTAVE)
    inside = 2.0 ** ((self._num_factors - 1 + around) / STEPS_PER_OCTAVE)
    return sampling.log_polar_grid(
      (self.angles, count),
      self.in_shape[:2],
      centre=centre,
      least_radius=largest / inside,
      largest_radius=largest * outside,
    )

  def _relative(self, polar: jax.Array) -> jax.Array:
    """Orientations counted from the direction of the radius."""
    if self.orientations == 1:
      return polar
    grouped = polar.reshape(*polar.shape[:3], -1, self.orientations)
    mixed = jnp.einsum(
      "barfg,ahg->barfh",
      grouped,
      turned_orientations(self.angles, self.orientations).astype(polar.dtype),
      precision=lax.Precision.HIGHEST,
    )
    return mixed.reshape(polar.shape)


def turned_orientations(angles: int, orientations: int) -> np.ndarray:
  """From orientations of the image to those relative to each angle.

  Args:
    angles: Number A of angles, from +x towards +y.
    orientations: Number G of orientations, counter-clockwise as drawn.

  Returns:
    `[A, G, G]`: row h of matrix a reads orientation h - a G / A, interpolated
    linearly around the circle.
  """
  turns = np.arange(angles)[:, None, None] / angles * orientations
  relative, own = np.arange(orientations)[:, None], np.arange(orientations)
  distance = (relative - turns - own + orientations / 2) % orientations
  weights: np.ndarray = np.maximum(1 - np.abs(distance - orientations / 2), 0)
  return weights
