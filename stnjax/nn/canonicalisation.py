"""Canonicalisation: the pose whose transformed image has the highest score.

A score of the transformed images, and not a regression of the pose: where the
poses are a group, such as the rotations by multiples of 22.5 degrees, an image
and its version under one of them have the same transformed images, so that the
same one is chosen, whatever the scores are. Reference: Kaba et al. 2023
(arXiv:2211.06489).
"""

from collections.abc import Callable, Sequence
import itertools
import math
from typing import NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion, sampling, transforms
from stnjax.nn.localisation import LocalisationNet
from stnjax.registry import Registry
from stnjax.transforms import families

POSES: Registry[np.ndarray] = Registry("family")
"""Usual poses by the name of the family: parameters `[K, P]`, the identity
first."""

_OCTAVE = math.log(2)
_SCORED_SIDE = 8  # features of more pixels along a side are convolved first
_QUARTER_TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def _by_size(poses: ArrayLike) -> np.ndarray:
  """Poses in order of their distance from the identity."""
  poses = np.asarray(poses)
  return poses[np.argsort(np.square(poses).sum(axis=1), kind="stable")]


def _register_poses() -> None:
  """The poses of the built-in families, 9 to 32 of them."""
  half_octaves = 0.5 * _OCTAVE * np.arange(-4, 5)
  shifts = [*itertools.product(0.25 * np.arange(-2, 3), repeat=2)]
  coarse_shifts = [*itertools.product((-0.5, 0.0, 0.5), repeat=2)]
  POSES.register("rotation", 2 * np.pi / 16 * np.arange(16)[:, None])
  POSES.register("scale", _by_size(half_octaves[:, None]))
  POSES.register("translation", _by_size(np.array(shifts)))
  POSES.register(
    "attention",
    _by_size(np.array([
      (0.5 * _OCTAVE * step, *shift)
      for step in (-2, -1, 0)
      for shift in coarse_shifts
    ])),
  )  # fmt: skip
  POSES.register(
    "rotation_scale",
    np.array([
      (0.5 * _OCTAVE * step, 2 * np.pi / 8 * turn)
      for step in (0, -1, 1, -2)
      for turn in range(8)
    ]),
  )  # fmt: skip
  POSES.register(
    "similarity",
    np.array([
      (0.5 * _OCTAVE * step, 2 * np.pi / 8 * turn, 0.0, 0.0)
      for step in (0, -1, 1, -2)
      for turn in range(8)
    ]),
  )  # fmt: skip


_register_poses()


class Choice(NamedTuple):
  """The poses that were chosen for a batch of images.

  Attributes:
    theta: `[B, 2, 3]` or `[B, 3, 3]`, the matrix of each pose.
    number: `[B]`, integers, its index among the poses.
  """

  theta: jax.Array
  number: jax.Array


class PoseSearch(nnx.Module):
  """Scores a transformed copy of each image per pose, and takes the best pose.

  An image turned by a quarter turn has exactly the same copies in another
  order, if images are square and the poses are closed under quarter turns: the
  same copy is chosen. Other transforms of the image change its copies by the
  error of interpolation and by what leaves the image; scalings and translations
  also by the ends of their range. A network that refines the pose from the
  chosen copy is invariant to the same extent.

  Reference: Kaba et al. 2023 (arXiv:2211.06489), section 3.

  >>> search = PoseSearch(lambda images: images[:, 0].mean((1, 2)), "rotation")
  >>> theta, scores = search(jnp.ones((2, 8, 8, 1)))
  >>> theta.shape, scores.shape
  ((2, 2, 3), (2, 16))
  """

  def __init__(
    self,
    scorer: Callable[[jax.Array], jax.Array],
    family: str | transforms.Family,
    poses: ArrayLike | None = None,
    padding: str = "border",
    *,
    temperature: float = 1.0,
  ):
    """Keeps the scorer and the poses.

    Args:
      scorer: Module or function from images `[N, H, W, C]` to scores `[N]` or
        `[N, 1]`; the highest wins.
      family: Transform family of the poses, a name in
        `stnjax.transforms.FAMILIES` or a `Family` with matrices.
      poses: Parameters `[K, P]` of the poses, finite, at least two; those of
        the family in `POSES` by default. Of equal scores the first wins.
      padding: Values outside the image, one of `stnjax.sampling.UNFILLED`.
      temperature: Divisor of the scores in the softmax of the gradient,
        positive.

    Raises:
      ValueError: For an unknown family or padding, a family of grids, a family
        without usual poses if none are given, poses of another shape or not
        finite, or a temperature that is not positive.
    """
    checks.option("padding", padding, sampling.UNFILLED)
    if not 0 < temperature < math.inf:
      raise ValueError(
        f"temperature must be positive and finite, got {temperature}"
      )
    self.scorer = scorer
    self.family = families.find(family)
    self.padding = padding
    self.temperature = temperature
    # Tuples, so that they belong to the module and not to its variables.
    self.poses = tuple(map(tuple, _checked(poses, self.family).tolist()))

  @promotion.usual
  def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Chooses the pose of each image.

    Args:
      images: `[B, H, W, C]`.

    Returns:
      Theta of the best pose, `[B, 2, 3]` or `[B, 3, 3]` from output to input
      coordinates, for `stnjax.warp`, and the scores of all poses, `[B, K]`.

    Raises:
      ValueError: If the scorer does not return one score per image.

    Gradient: see `choose`.
    """
    scores = self.score(lax.collapse(self.copies(images), 0, 2))
    return self.choose(scores).theta, scores

  @promotion.usual
  def copies(self, images: jax.Array) -> jax.Array:
    """The image at each pose.

    Quarter turns of square images move pixels, and do not interpolate.

    Args:
      images: `[B, H, W, C]`.

    Returns:
      `[B, K, H, W, C]`.

    Raises:
      ValueError: If images are not `[B, H, W, C]`.
    """
    if images.ndim != 4:
      raise ValueError(f"images must be [B, H, W, C], got {images.shape}")
    turns, rests = self._split(images.shape[1] == images.shape[2])
    turned = {
      turn: jnp.rot90(images, turn, axes=(1, 2)) for turn in sorted(set(turns))
    }
    stacked = jnp.stack([turned[turn] for turn in turns], axis=1)
    thetas = jnp.tile(jnp.asarray(rests, jnp.float32), (len(images), 1, 1))
    warped = sampling.warp(
      lax.collapse(stacked, 0, 2), thetas, padding=self.padding
    )
    return jnp.reshape(warped, stacked.shape)

  def score(
    self, features: jax.Array, apply: Callable[..., jax.Array] | None = None
  ) -> jax.Array:
    """Scores of copies.

    Args:
      features: `[B * K, ...]`, the copies of all images, those of an image side
        by side, or features of them that the scorer reads.
      apply: Function of the scorer and the features that calls it; a plain
        call by default.

    Returns:
      `[B, K]`.

    Raises:
      ValueError: If the scorer does not return one score per copy.
    """
    found = apply(self.scorer, features) if apply else self.scorer(features)
    if found.shape not in ((len(features),), (len(features), 1)):
      raise ValueError(
        f"scorer must return scores [N] or [N, 1] of {len(features)} images,"
        f" got shape {found.shape}"
      )
    return found.reshape(-1, len(self.poses))

  def choose(self, scores: jax.Array) -> Choice:
    """The poses of the highest scores.

    Args:
      scores: `[B, K]`.

    Returns:
      Exactly the matrix of one pose for each image; NaN if a score is NaN.

    Raises:
      ValueError: If scores are not `[B, K]`.

    Gradient: that of the mean of all matrices, weighted by the softmax of
    scores / temperature (straight-through estimator).
    """
    if scores.ndim != 2 or scores.shape[1] != len(self.poses):
      raise ValueError(
        f"scores must be [B, {len(self.poses)}], one for each pose, got shape"
        f" {scores.shape}"
      )
    scores = checks.floating("scores", scores)
    soft = jax.nn.softmax(scores / self.temperature, axis=-1)
    number = jnp.argmax(scores, axis=-1)
    weights = jax.nn.one_hot(number, len(self.poses), dtype=soft.dtype)
    weights += soft - lax.stop_gradient(soft)  # 0, with a gradient
    turns, rests = self._split(square=True)
    matrices = np.stack(
      [_turned(rest, turn) for turn, rest in zip(turns, rests, strict=True)]
    )
    theta = jnp.einsum(
      "bk,kij->bij",
      weights,
      jnp.asarray(matrices, soft.dtype),
      precision=lax.Precision.HIGHEST,
    )
    return Choice(theta, number)

  def _split(self, square: bool) -> tuple[list[int], np.ndarray]:
    """Each pose as quarter turns, counter-clockwise, and a rest.

    Poses that differ by quarter turns have the same rest, to the last bit.
    """
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
      poses = np.asarray(self.poses, np.float64)
      matrices = np.asarray(transforms.matrix(poses, self.family), np.float64)
    if not square:
      return [0] * len(matrices), matrices
    sine = matrices[:, 1, 0] - matrices[:, 0, 1]
    angles = np.arctan2(sine, matrices[:, 0, 0] + matrices[:, 1, 1])
    turns = np.floor(angles / (np.pi / 2) + 0.5 + 1e-6).astype(int) % 4
    rests = [_turned(m, -t) for m, t in zip(matrices, turns, strict=True)]
    return turns.tolist(), np.round(rests, 12)


def _turned(matrix: np.ndarray, turns: int) -> np.ndarray:
  """Quarter turns after a matrix `[2, 3]` or `[3, 3]`, without rounding."""
  square = np.linalg.matrix_power(_QUARTER_TURN, turns % 4)
  return np.concatenate([square @ matrix[:2], matrix[2:]])


def _checked(poses: ArrayLike | None, family: transforms.Family) -> np.ndarray:
  """Poses `[K, P]` of a family, its usual ones if none are given."""
  count = transforms.num_params(family)
  if family.grid:
    raise ValueError(
      f"family={family.name!r} has grids, which have no pose to choose;"
      " accepted: families of matrices"
    )
  if poses is None:
    if family.name not in POSES:
      raise ValueError(
        f"family={family.name!r} has no usual poses; accepted:"
        f" {', '.join(POSES)}, or others with poses of your own"
      )
    poses = POSES[family.name]
  found = np.asarray(poses, np.float64)
  if found.ndim != 2 or len(found) < 2 or found.shape[1] != count:
    raise ValueError(
      f"poses of family={family.name!r} must be [K, {count}] with K of at least"
      f" 2, got shape {found.shape}"
    )
  if not np.isfinite(found).all():
    raise ValueError("poses must be finite, got NaN or an infinity")
  return found


def score_net(
  in_shape: Sequence[int], *, filters: int = 8, rngs: nnx.Rngs
) -> LocalisationNet:
  """A small net that scores images or features, zero for all at first.

  Images of more than 16 pixels along the shorter side are halved first. Then
  convolutions of 5 x 5 pixels with ReLU and pooling, until at most 8 pixels are
  left, and a hidden dense layer.

  Args:
    in_shape: `(H, W, C)` of the images or features.
    filters: Number of filters of each convolution; half of the number of
      hidden units.
    rngs: Keys for the initial values.

  Returns:
    A net from `[N, H, W, C]` to `[N, 1]`, a scorer of a `PoseSearch`.

  Raises:
    ValueError: For a shape that is not `(H, W, C)`, or filters below 1.
  """
  checks.whole("filters", filters, 1)
  side, convs = min(in_shape[:2]), []
  halve = side > 2 * _SCORED_SIDE
  side = side // 2 if halve else side
  while side > _SCORED_SIDE:
    convs.append((filters, 5))
    side = (side - 4) // 2
  return LocalisationNet(
    in_shape,
    1,
    convs=convs,
    dense=(2 * filters,),
    halve_input="mean" if halve else None,
    rngs=rngs,
  )
