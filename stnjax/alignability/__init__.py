"""Can a spatial warp of features undo what was done to the image?

The theorem (Jansson, Maydanskiy, Finnveden and Lindeberg 2020,
arXiv:2004.14716). Let T_h f(x) = f(h^-1 x) transform an image f by h, and let G
extract features. A spatial transformer behind G warps feature maps, all
channels by one s. Can T_s undo h, so that T_s G(T_h f) = G f for all f?

  1. If it can, then s = h^-1: nothing else brings features back to where they
     were.
  2. For s = h^-1 it can if, and only if, G is invariant to h but for the
     place: the feature at h x of the transformed image is the feature at x.
     A rotation or reflection moves responses between channels, from that of
     one edge to that of another, unless every channel is invariant. Scalings
     and shears change what a filter of any fixed size sees. Translations are
     undone by any G that is covariant with them, as convolutions are.

It assumes that G is continuous, semi-local (a feature depends on what is near
its place) and covariant with translations. Its limits: networks with strides
are covariant with shifts by whole strides alone; images are sampled, and every
warp interpolates; and what cannot be undone exactly may still be undone well
enough for a classifier. Hence this module *measures*: the residual

  || T_s G(T_h f) - G f || / || G f ||

over the places that no border has touched, for the only candidate s = h^-1, for
the best s that a search finds, and for that with the best linear mixing of
channels behind it, next to the same for the image itself, which tells what
interpolation alone leaves.
"""

from stnjax import extras

extras.needs("optax", extra="nn")

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import fractions
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np
import optax

from stnjax import checks, promotion, transforms
from stnjax.sampling.warping import warp

Features = Callable[[jax.Array], Any]
"""From images `[B, H, W, C]` to features `[B, h, w, F]`, or to a mapping from
the names of layers to such."""

INPUT = "input"
"""Name of the layer that is the image itself."""

METHODS = ("linear", "cubic")

_SEARCH_RATE = 0.05  # of Adam, in normalised coordinates
_TURNS = (0.5, 1.0, 1.5)  # half turns, of further starts of the search
_INSIDE = 1 - 1e-4  # the least weight of what counts as inside
_NOISE = 3.0  # of a probe, in standard deviations of the images
_FULL_RANK = 1e-6  # of the largest eigenvalue: what a mixing may use


class Family(NamedTuple):
  """Transforms of one kind.

  Attributes:
    matrix: from a magnitude to the matrix of T_h, which *pulls*: pixels of the
      transformed image to pixels of the image, 0 at its middle, `[2, 3]` or
      `[3, 3]`.
    magnitudes: how much to transform, increasing.
    unit: of the magnitudes.
  """

  matrix: Callable[[jax.Array], jax.Array]
  magnitudes: tuple[float, ...]
  unit: str


FAMILIES: Mapping[str, Family] = {
  "translation": Family(
    lambda x: transforms.translation(-jnp.stack([x, 0 * x])),
    (4.0, 8.0, 12.0),
    "px",
  ),
  "rotation": Family(
    lambda x: transforms.rotation(-jnp.deg2rad(x)),
    (15.0, 30.0, 45.0, 60.0, 90.0),
    "deg",
  ),
  "scale": Family(
    lambda x: transforms.scaling(jnp.exp2(-x) * jnp.ones(2, x.dtype)),
    (0.25, 0.5, 0.75, 1.0),
    "octaves",
  ),
  "shear": Family(transforms.shearing, (0.2, 0.4, 0.6, 0.8), "px/px"),
}
"""What is audited by default: the object moves to the right, turns clockwise,
grows, leans. By multiples of 4 px: shifts by parts of a stride are no
translations to a layer that has strides."""


class Geometry(NamedTuple):
  """Where features lie in the image, in pixels, each `(x, y)`.

  Feature i along an axis sees the image from `first + step * i - reach` to
  `first + step * i + reach`, both included.
  """

  first: tuple[float, float]
  step: tuple[float, float]
  reach: tuple[float, float]


_OF_THE_IMAGE = Geometry((0.0, 0.0), (1.0, 1.0), (0.0, 0.0))


class Residuals(NamedTuple):
  """What is left of transforms, per magnitude and image, `[M, B]`.

  NaN for an image whose features are all zero.

  Attributes:
    unaligned: without any warp, s = 1; over the features that count for it.
    aligned: for s = h^-1.
    best: for the best affine s that the search found for each image, h^-1 and
      s = 1 among its starts. Over the features that count for h^-1; what it
      reads where a border has had a say is 0, as with a margin too small.
    mixed: after the best linear mixing of channels, fitted to other images
      than it is applied to, behind h^-1 or the best s; or without mixing,
      where that is better.
    coverage: `[M]`, share of the features in the frame that count for h^-1:
      those that no border has touched.
  """

  unaligned: np.ndarray
  aligned: np.ndarray
  best: np.ndarray
  mixed: np.ndarray
  coverage: np.ndarray


@dataclasses.dataclass(frozen=True)
class Audit:
  """What `audit` measured.

  Attributes:
    families: what was done to the images.
    geometry: by layer, the first of which is the image itself, `INPUT`.
    residuals: by layer, then by family.
  """

  families: Mapping[str, Family]
  geometry: Mapping[str, Geometry]
  residuals: Mapping[str, Mapping[str, Residuals]]

  @property
  def layers(self) -> tuple[str, ...]:
    return tuple(self.residuals)

  def undone(self, family: str, kind: str = "best") -> np.ndarray:
    """The share of what a transform changes that a warp undoes.

    `1 - kind / unaligned`, of means over the images: 1 where nothing is left,
    0 where the warp does not help. The image itself, the first layer, has what
    interpolation allows.

    Args:
      family: one of `families`.
      kind: "aligned", "best" or "mixed".

    Returns:
      `[L, M]`, per layer and magnitude.
    """
    left, before = self._means(family, kind)
    return 1 - left / before

  def profile(self, kind: str = "best") -> dict[str, np.ndarray]:
    """`undone`, of means over magnitudes too: by family, `[L]`."""
    found = {}
    for family in self.families:
      left, before = self._means(family, kind)
      found[family] = 1 - left.sum(axis=1) / before.sum(axis=1)
    return found

  def _means(self, family: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A residual and that without a warp, means over images, `[L, M]`."""
    checks.option("family", family, tuple(self.families))
    checks.option("kind", kind, ("aligned", "best", "mixed"))
    return tuple(
      np.stack([_mean(getattr(r[family], k)) for r in self.residuals.values()])
      for k in (kind, "unaligned")
    )


def _mean(values: np.ndarray) -> np.ndarray:
  """The mean over the last axis, of what is not NaN."""
  return np.ma.masked_invalid(values).mean(axis=-1).filled(np.nan)


@promotion.usual
def audit(
  features: Features,
  images: ArrayLike,
  *,
  families: Mapping[str, Family] = FAMILIES,
  geometry: Mapping[str, Geometry] | None = None,
  margin: int = 0,
  method: str = "linear",
  steps: int = 40,
) -> Audit:
  """Measures how far spatial warps can align features, layer by layer.

  Args:
    features: any JAX function from images `[B, H, W, C]` to features
      `[B, h, w, F]`, or to a mapping from names of layers to such. It is
      compiled, and must take images of other sizes where there is a margin.
    images: `[B, H, W, C]`, floating; at least 2.
    families: what to do to them, by name.
    geometry: where the features of each layer lie in images with their
      margin, by layer ("features" where there is but one); found by `probe`
      where not given.
    margin: pixels by which images are extended on every side, as their edges
      go on, so that transformed ones lie inside. Features whose place is in
      the margin do not count.
    method: "linear" or "cubic", of every warp.
    steps: of the search for the best warp; 0 to compare its starts alone.

  Returns:
    The residuals, of the image itself first.

  Raises:
    ValueError: for unknown options, fewer than 2 images, features that are no
      maps or whose geometry cannot be found, or a layer on which a transform
      leaves no place without the border's influence.

  Reference: Jansson et al. 2020 (arXiv:2004.14716).
  """
  checks.option("method", method, METHODS)
  checks.whole("steps", steps, 0)
  images = _checked_images(images)
  frame = images.shape[1:3]
  canvas = extended(images, margin)
  named = jax.jit(functools.partial(_named, features))
  if geometry is None:
    geometry = probe(features, canvas)
  geometry = {
    INPUT: _OF_THE_IMAGE,
    **{name: _checked_geometry(where) for name, where in geometry.items()},
  }
  before = named(canvas)
  if set(before) != set(geometry):
    raise ValueError(
      f"geometry must name the layers {sorted(set(before) - {INPUT})}, got"
      f" {sorted(set(geometry) - {INPUT})}"
    )
  transform = jax.jit(transformed, static_argnames="method")
  found: dict[str, dict[str, Residuals]] = {layer: {} for layer in geometry}
  for name, family in families.items():
    if not family.magnitudes:
      raise ValueError(f"families: {name!r} has no magnitudes")
    by_layer: dict[str, list[Residuals]] = {layer: [] for layer in geometry}
    for magnitude in family.magnitudes:
      matrix = family.matrix(jnp.asarray(magnitude, images.dtype))
      after = named(transform(canvas, matrix, method=method))
      for layer, where in geometry.items():
        measured = _measure(
          before[layer],
          after[layer],
          matrix,
          geometry=where,
          shapes=(canvas.shape[1:3], frame),
          method=method,
          steps=steps,
        )
        measured = jax.tree.map(np.asarray, measured)
        if not measured.coverage:
          raise ValueError(
            f"margin={margin}: {name} by {magnitude:g} {family.unit} leaves"
            f" {layer} no place without the border's influence; take a larger"
            " margin, larger images, or less of it"
          )
        by_layer[layer].append(measured)
    for layer, measured in by_layer.items():
      found[layer][name] = Residuals(*map(np.stack, zip(*measured)))
  return Audit(families, geometry, found)


@promotion.usual
def residual(
  features: Features,
  images: ArrayLike,
  matrix: ArrayLike,
  *,
  geometry: Geometry,
  margin: int = 0,
  method: str = "linear",
) -> jax.Array:
  """What is left of a transform where its inverse warps the features.

  The residual of the theorem's only candidate, s = h^-1, as a function to
  compile and to differentiate: for instance to train features towards
  invariance.

  Args:
    features: from images `[B, H, W, C]` to features `[B, h, w, F]`.
    images: `[B, H, W, C]`, floating.
    matrix: of T_h, see `Family.matrix`.
    geometry: where the features lie, from `probe`.
    margin: see `audit`.
    method: see `audit`.

  Returns:
    `[B]`; NaN where no feature is free of the border's influence.

  Raises:
    ValueError: for unknown options, or features that are no maps.

  Gradient: with respect to images, matrix, and whatever `features` hangs on;
    zero where nothing is left.
  """
  checks.option("method", method, METHODS)
  images = _checked_images(images, least=0)
  frame = images.shape[1:3]
  canvas = extended(images, margin)
  matrix = checks.matrix("matrix", matrix)
  before, after = (
    _checked_features("features", features(f), len(images))
    for f in (canvas, transformed(canvas, matrix, method))
  )
  shapes = (canvas.shape[1:3], frame)
  geometry = _checked_geometry(geometry)
  pair = _pair(before, after, matrix, geometry, shapes, method)
  weight = _weight(pair, pair.inverse)
  return _compared(_warped(pair, pair.inverse, method), pair.before, weight)


def extended(images: jax.Array, margin: int) -> jax.Array:
  """Images with a margin of pixels as at their edges, on every side."""
  checks.whole("margin", margin, 0)
  pads = ((0, 0), (margin, margin), (margin, margin), (0, 0))
  return jnp.pad(images, pads, mode="edge")


@promotion.usual
def transformed(
  images: jax.Array, matrix: jax.Array, method: str = "linear"
) -> jax.Array:
  """T_h f: images `[B, H, W, C]` warped by a `Family.matrix`."""
  return warp(images, _about_middle(matrix, images.shape[1:3]), method=method)


@promotion.usual
def probe(features: Features, images: ArrayLike) -> dict[str, Geometry]:
  """Finds out where features lie in the image, and what they see of it.

  Every row of the image, then every column, is replaced by noise: the features
  that change see it. Where their fields are cut off by the border does not
  count, so that the result is that of an image without end.

  Args:
    features: see `audit`.
    images: `[B, H, W, C]`, floating; the first four are used.

  Returns:
    The geometry by layer; of one layer without a name, as "features".

  Raises:
    ValueError: for features that are no maps, or that do not move with the
      image: such as see all of it wherever they are, or maps that are too
      small to tell.
  """
  images = _checked_images(images, least=1)[:4]
  noise = np.random.default_rng(0).normal(size=images.shape)
  noise = images.mean() + _NOISE * (images.std() + 1e-3) * noise
  noise = noise.astype(images.dtype)
  named = functools.partial(_named, features)

  @functools.partial(jax.jit, static_argnames="axis")
  def changes(axis: int) -> dict[str, jax.Array]:
    others = tuple(i for i in range(4) if i != axis)

    def replace(before: Any, place: jax.Array) -> tuple[Any, Any]:
      here = jnp.arange(images.shape[axis]) == place
      here = here.reshape(-1, *[1] * (3 - axis))
      after = named(jnp.where(here, noise, images))
      # First of all nothing is replaced, by the same loop: as rounded.
      before = jax.tree.map(
        lambda b, a: jnp.where(place < 0, a, b), before, after
      )
      changed = jax.tree.map(
        lambda b, a: (b != a).any(axis=others), before, after
      )
      return before, changed

    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(named, images))
    places = jnp.arange(-1, images.shape[axis])
    _, changed = lax.scan(replace, zeros, places)
    return jax.tree.map(lambda x: x[1:], changed)

  along_x, along_y = changes(axis=2), changes(axis=1)
  found = {}
  for layer in along_x:
    if layer == INPUT:
      continue
    x, y = (
      _line(np.asarray(seen[layer]), layer) for seen in (along_x, along_y)
    )
    found[layer] = Geometry(*zip(x, y))
  return found


def _line(seen: np.ndarray, layer: str) -> tuple[float, float, float]:
  """First place, step and reach along an axis.

  Args:
    seen: `[pixels, features]`, whether a feature sees a pixel.
    layer: for messages.
  """
  last = len(seen) - 1
  ends = []
  for place, free in (
    (seen.argmax(axis=0), lambda ends: ends > 0),
    (last - seen[::-1].argmax(axis=0), lambda ends: ends < last),
  ):
    counted = np.flatnonzero(seen.any(axis=0) & free(place))
    if len(counted) < 2:
      raise ValueError(
        f"features {layer!r}, {seen.shape[1]} along an axis, do not tell where"
        f" they look in {len(seen)} pixels: each sees all or none, or there are"
        " too few; take larger images, a margin, or an earlier layer"
      )
    ends.append((counted, place[counted]))
  slopes = [np.polyfit(counted, place, 1)[0] for counted, place in ends]
  # Features on a finer grid than the pixels have steps of a half, a quarter.
  step = float(fractions.Fraction(np.mean(slopes)).limit_denominator(8))
  low, high = (place - step * counted for counted, place in ends)
  if step <= 0 or max(np.ptp(low), np.ptp(high)) >= 1:
    raise ValueError(
      f"features {layer!r} do not move with the image, or answer too rarely to"
      f" tell: a step is about {np.mean(slopes):.3g} pixels, and some see"
      f" {max(np.ptp(low), np.ptp(high)):.3g} more than that says; give their"
      " geometry"
    )
  first = (low.min() + high.max()) / 2
  return float(first), step, float(high.max() - first)


class _Pair(NamedTuple):
  """Features before and after a transform, and what relates them."""

  before: jax.Array  # [B, h', w', F], those in the frame
  after: jax.Array  # [B, h, w, F], of the whole canvas, 0 where not free
  free: jax.Array  # [h', w'], which of them no border has touched
  readable: jax.Array  # [h, w], of `after`, and all that is read with them
  inverse: jax.Array  # T_s for s = h^-1, from `before` to `after`
  stay: jax.Array  # T_s for s = 1


def _pair(
  before: jax.Array,
  after: jax.Array,
  matrix: jax.Array,
  geometry: Geometry,
  shapes: tuple[Sequence[int], Sequence[int]],
  method: str,
) -> _Pair:
  """Relates features of images to those of the transformed images.

  Args:
    before: of the images with their margin.
    after: of the transformed ones.
    matrix: of the transform.
    geometry: of the features.
    shapes: `(H, W)` of the images with and without their margin.
    method: of the warps.
  """
  size, frame = shapes
  shape = before.shape[1:3]
  kept = []
  for along, place in enumerate(_centres(geometry, shape)):
    edge = (size[along] - frame[along]) / 2 - 0.5
    inside = np.flatnonzero((place > edge) & (place < size[along] - 1 - edge))
    if not inside.size:
      raise ValueError("geometry puts no feature inside the image")
    kept.append(slice(int(inside[0]), int(inside[-1]) + 1))
  rows, columns = kept
  part = before[:, rows, columns]
  inside = _readable(jnp.ones(size, bool), method).astype(before.dtype)
  inside = warp(inside[..., None], _about_middle(matrix, size))[..., 0]
  fields = _fields(geometry, size, shape)
  exist = np.logical_and.outer(*((f >= 0).all(axis=1) for f in fields))
  free = inside >= _INSIDE
  for axis, field in enumerate(fields):
    free = jnp.take(free, field, axis).all(axis=axis + 1)
  free &= exist

  # From features in the frame to pixels, to pixels, to features.
  start = np.array([columns.start, rows.start])
  into = _placement(np.array(geometry.first) + geometry.step * start, geometry)
  out_of = transforms.invert(_placement(np.array(geometry.first), geometry))
  relation = functools.partial(
    transforms.from_pixels, input_shape=shape, output_shape=part.shape[1:3]
  )
  moved = transforms.invert(_pixels_about_middle(matrix, size))
  return _Pair(
    part,
    after * free[..., None],
    jnp.asarray(exist[rows, columns]),
    _readable(free, method),
    relation(transforms.compose(out_of, moved, into)),
    relation(transforms.compose(out_of, into)),
  )


def _placement(first: np.ndarray, geometry: Geometry) -> jax.Array:
  """From indices (x, y) of features to pixels."""
  (x, y), (step_x, step_y) = first, geometry.step
  return jnp.array([[step_x, 0, x], [0, step_y, y]])


def _centres(geometry: Geometry, shape: Sequence[int]) -> list[np.ndarray]:
  """Where the rows of features lie along y, and the columns along x."""
  return [
    geometry.first[axis] + geometry.step[axis] * np.arange(count)
    for axis, count in zip((1, 0), shape, strict=True)
  ]


def _fields(
  geometry: Geometry, size: Sequence[int], shape: Sequence[int]
) -> list[np.ndarray]:
  """The rows, then the columns, that each feature sees, `[features, pixels]`.

  Those of a feature that sees more than there is are -1.
  """
  fields = []
  for along, place in enumerate(_centres(geometry, shape)):
    reach = geometry.reach[1 - along]
    low = np.ceil(place - reach - 1e-6)
    places = low[:, None] + np.arange(int(2 * reach + 1e-6) + 1)
    exist = ((places >= 0) & (places < size[along])).all(axis=1)
    fields.append(np.where(exist[:, None], places, -1).astype(int))
  return fields


@functools.partial(
  jax.jit, static_argnames=("geometry", "shapes", "method", "steps")
)
def _measure(
  before: jax.Array,
  after: jax.Array,
  matrix: jax.Array,
  *,
  geometry: Geometry,
  shapes: tuple[Sequence[int], Sequence[int]],
  method: str,
  steps: int,
) -> Residuals:
  """All residuals of one layer under one transform; arguments as `_pair`'s."""
  pair = _pair(before, after, matrix, geometry, shapes, method)
  weight = _weight(pair, pair.inverse)

  def left(theta: jax.Array) -> jax.Array:
    return _compared(_warped(pair, theta, method), pair.before, weight)

  best, theta = _search(left, _starts(pair), len(before), steps)
  inverse, stay = (
    jnp.broadcast_to(transforms.to_homogeneous(m), theta.shape)
    for m in (pair.inverse, pair.stay)
  )
  warped = _warped(pair, jnp.stack([stay, inverse, theta]), method)
  unaligned = _compared(warped[0], pair.before, _weight(pair, pair.stay))
  aligned = _compared(warped[1], pair.before, weight)
  mixed = jax.vmap(_mixed, (0, None, None))(warped[1:], pair.before, weight)
  mixed = jnp.minimum(mixed.min(axis=0), best)  # unmixed is a mixing, too
  return Residuals(unaligned, aligned, best, mixed, weight.mean())


def _readable(free: jax.Array, method: str) -> jax.Array:
  """Where a warp that reads there, and linearly around, reads what is free.

  Args:
    free: `[h, w]`.
    method: "cubic" reads one further on each side.
  """
  if method == "linear":
    return free
  return lax.reduce_window(
    jnp.pad(free, 1), True, lax.bitwise_and, (3, 3), (1, 1), "VALID"
  )


def _weight(pair: _Pair, theta: jax.Array) -> jax.Array:
  """Which features count behind a warp, `[h', w']`: 0 or 1."""
  readable = pair.readable.astype(pair.before.dtype)[..., None]
  reached = warp(readable, theta, output_shape=pair.free.shape)[..., 0]
  return (pair.free & (reached >= _INSIDE)).astype(pair.before.dtype)


def _warped(pair: _Pair, theta: jax.Array, method: str) -> jax.Array:
  """T_s G(T_h f), where G f counts."""
  return warp(
    pair.after, theta, output_shape=pair.before.shape[1:3], method=method
  )


def _compared(
  found: jax.Array, wanted: jax.Array, weight: jax.Array
) -> jax.Array:
  """The relative distance, over places and channels, `[..., B]`."""
  weight = weight[..., None]
  apart = (weight * (found - wanted) ** 2).sum(axis=(-3, -2, -1))
  whole = (weight * wanted**2).sum(axis=(-3, -2, -1))
  ratio = apart / whole
  some = ratio > 0
  root = jnp.sqrt(jnp.where(some, ratio, 1))
  return jnp.where(some | jnp.isnan(ratio), root * jnp.where(some, 1, ratio), 0)


def _starts(pair: _Pair) -> jax.Array:
  """Where the search begins, `[S, 3, 3]`: as the theory says, and elsewhere."""
  inverse, stay = (
    transforms.to_homogeneous(m) for m in (pair.inverse, pair.stay)
  )
  turned = [
    transforms.compose(
      inverse, transforms.to_homogeneous(transforms.rotation(jnp.pi * turn))
    )
    for turn in _TURNS
  ]
  return jnp.stack([inverse, stay, (inverse + stay) / 2, *turned])


def _search(
  left: Callable[[jax.Array], jax.Array],
  starts: jax.Array,
  count: int,
  steps: int,
) -> tuple[jax.Array, jax.Array]:
  """The least residual of each image, `[B]`, and the warp that leaves it.

  Gradient descent (Adam) from every start, on six parameters for each image.
  """

  def theta(start: jax.Array, params: jax.Array) -> jax.Array:
    change = transforms.to_homogeneous(transforms.matrix(params, "affine"))
    return transforms.compose(start, change)

  schedule = optax.cosine_decay_schedule(_SEARCH_RATE, max(steps, 1))
  optimiser = optax.adam(schedule)

  def search(start: jax.Array) -> tuple[jax.Array, jax.Array]:
    def loss(params: jax.Array) -> tuple[jax.Array, jax.Array]:
      found = left(theta(start, params))
      return (found**2).sum(), found

    def step(carry: Any, _: None) -> tuple[Any, None]:
      params, state, best, where = carry
      (_, found), gradient = jax.value_and_grad(loss, has_aux=True)(params)
      better = found < best
      best = jnp.where(better, found, best)
      where = jnp.where(better[:, None], params, where)
      gradient = jnp.nan_to_num(gradient)
      updates, state = optimiser.update(gradient, state)
      return (optax.apply_updates(params, updates), state, best, where), None

    params = jnp.zeros((count, 6), starts.dtype)
    worst = jnp.full(count, jnp.inf, starts.dtype)
    carry = (params, optimiser.init(params), worst, params)
    (_, _, best, where), _ = lax.scan(step, carry, length=steps + 1)
    return best, theta(start, where)

  def only_start(start: jax.Array) -> tuple[jax.Array, jax.Array]:
    thetas = jnp.broadcast_to(start, (count, 3, 3))
    return left(thetas), thetas

  # A start at a time: features are large.
  best, thetas = lax.map(search if steps else only_start, starts)
  best = jnp.where(jnp.isinf(best), jnp.nan, best)  # of features all zero
  chosen = best.argmin(axis=0)
  every = jnp.arange(count)
  return best[chosen, every], thetas[chosen, every]


def _mixed(found: jax.Array, wanted: jax.Array, weight: jax.Array) -> jax.Array:
  """What is left after the best mixing of channels, `[B]`.

  Least squares over one half of the images, applied to the other, and the
  other way round.
  """
  even, odd = slice(0, None, 2), slice(1, None, 2)
  result = jnp.zeros(len(found), found.dtype)
  for fitted, applied in ((even, odd), (odd, even)):
    mixing = _mixing(found[fitted], wanted[fitted], weight)
    mixed = found[applied] + found[applied] @ mixing
    result = result.at[applied].set(_compared(mixed, wanted[applied], weight))
  return result


def _mixing(
  found: jax.Array, wanted: jax.Array, weight: jax.Array
) -> jax.Array:
  """What to add of each channel to each, `[F, F]`: nothing that is not told.

  The least change in the least-squares sense, through the eigenvectors of the
  channels' second moments.
  """
  product = functools.partial(
    jnp.einsum, "bhwc,bhwd->cd", precision=lax.Precision.HIGHEST
  )
  weighted = weight[..., None] * found
  values, vectors = jnp.linalg.eigh(product(weighted, found))
  told = values > _FULL_RANK * values[-1]
  inverse = jnp.where(told, 1 / jnp.where(told, values, 1), 0)
  right = product(weighted, wanted - found)
  return vectors @ (inverse[:, None] * (vectors.T @ right))


def _about_middle(matrix: jax.Array, shape: Sequence[int]) -> jax.Array:
  """A `Family.matrix` in normalised coordinates."""
  return transforms.from_pixels(_pixels_about_middle(matrix, shape), shape)


def _pixels_about_middle(matrix: jax.Array, shape: Sequence[int]) -> jax.Array:
  """A `Family.matrix` in pixels from the first one's centre."""
  middle = np.array([(size - 1) / 2 for size in shape[::-1]])
  middle = jnp.asarray(middle, matrix.dtype)
  return transforms.compose(
    transforms.translation(middle), matrix, transforms.translation(-middle)
  )


def _named(features: Features, images: jax.Array) -> dict[str, jax.Array]:
  """Features by layer, the images themselves among them."""
  found = features(images)
  if not isinstance(found, Mapping):
    found = {"features": found}
  if INPUT in found:
    raise ValueError(f"features: the name {INPUT!r} is for the images")
  checked = {
    str(name): _checked_features(f"features {name!r}", value, len(images))
    for name, value in found.items()
  }
  return {INPUT: images, **checked}


def _checked_features(name: str, value: Any, count: int) -> jax.Array:
  value = checks.floating(name, value)
  if value.ndim != 4 or value.shape[0] != count:
    raise ValueError(
      f"{name} must be [B, h, w, F] with B = {count}, got shape {value.shape}"
    )
  return value


def _checked_geometry(value: Any) -> Geometry:
  try:
    found = Geometry(*(tuple(map(float, pair)) for pair in value))
    fits = all(len(pair) == 2 for pair in found) and min(found.step) > 0
  except (TypeError, ValueError):
    fits = False
  if not fits:
    raise ValueError(
      "geometry must be a Geometry of pairs (x, y) with steps above 0, for one"
      f" layer, got {checks.shown(value)}"
    )
  return found


def _checked_images(images: ArrayLike, least: int = 2) -> jax.Array:
  images = checks.floating("images", images)
  if images.ndim != 4 or len(images) < least:
    raise ValueError(
      f"images must be [B, H, W, C] with B of at least {least}, got shape"
      f" {images.shape}"
    )
  return images
