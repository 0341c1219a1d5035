"""Positions and receptive fields of features in the image."""

from collections.abc import Mapping, Sequence
import fractions
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.alignability.features import (
  INPUT,
  Features,
  by_layer,
  checked_images,
)

_NOISE = 3.0  # of a probe, in standard deviations of the images


class Geometry(NamedTuple):
  """Positions and receptive fields of a layer's features.

  In pixels of the image, each `(x, y)`. Along an axis, the receptive field of
  feature i is `first + step * i - reach` to `first + step * i + reach`, both
  included.

  Attributes:
    first: Centre of the receptive field of the first feature.
    step: Distance between neighbouring features, above 0.
    reach: Distance from the centre of a receptive field to its border.
  """

  first: tuple[float, float]
  step: tuple[float, float]
  reach: tuple[float, float]

  def centres(self, shape: Sequence[int]) -> list[np.ndarray]:
    """The y of each row of features, `[h]`, and the x of each column, `[w]`."""
    return [
      self.first[axis] + self.step[axis] * np.arange(count)
      for axis, count in zip((1, 0), shape, strict=True)
    ]

  def fields(
    self, size: Sequence[int], shape: Sequence[int]
  ) -> list[np.ndarray]:
    """The rows, then the columns, of every receptive field.

    Args:
      size: `(H, W)` of the image.
      shape: `(h, w)` of the features.

    Returns:
      `[h, pixels]` and `[w, pixels]`, ints; -1 for fields that the border of
      the image cuts off.
    """
    fields = []
    for along, centre in enumerate(self.centres(shape)):
      reach = self.reach[1 - along]
      low = np.ceil(centre - reach - 1e-6)
      pixels = low[:, None] + np.arange(int(2 * reach + 1e-6) + 1)
      whole = ((pixels >= 0) & (pixels < size[along])).all(axis=1)
      fields.append(np.where(np.expand_dims(whole, 1), pixels, -1).astype(int))
    return fields

  def to_pixels(self, start: Sequence[int] = (0, 0)) -> jax.Array:
    """The matrix from indices (x, y), counted from `start`, to pixels."""
    x, y = np.array(self.first) + self.step * np.array(start)
    return jnp.array([[self.step[0], 0, x], [0, self.step[1], y]])


OF_THE_IMAGE = Geometry((0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
"""Geometry of the pixels."""


def checked_geometry(value: Any) -> Geometry:
  """A geometry of floats, or a ValueError."""
  try:
    pairs = [(float(x), float(y)) for x, y in value]
    geometry = Geometry(*pairs)
    fits = min(geometry.step) > 0
  except (TypeError, ValueError):
    fits = False
  if not fits:
    raise ValueError(
      "geometry must be a Geometry of pairs (x, y) with steps above 0, for one"
      f" layer, got {checks.shown(value)}"
    )
  return geometry


@promotion.usual
def probe(features: Features, images: ArrayLike) -> dict[str, Geometry]:
  """Infers positions and receptive fields by changing the image.

  Every row of the image, then every column, is replaced by noise: the features
  that change see it. Receptive fields that the border of the image cuts off do
  not count, so that the geometry is that of an unbounded image. A pass for
  every row and every column.

  Args:
    features: Function from images to features, see `Features`.
    images: `[B, H, W, C]`, floating; the first four are used.

  Returns:
    The geometry by layer; of one layer without a name, as "features".

  Raises:
    ValueError: If features are not `[B, h, w, F]`, or their receptive fields
      do not move with the image, as of features that see all of it, or of maps
      with too few features.
  """
  images = checked_images(images, least=1)[:4]
  noise = np.random.default_rng(0).normal(size=images.shape)
  noise = images.mean() + _NOISE * (images.std() + 1e-3) * noise
  noise = noise.astype(images.dtype)
  compiled = jax.jit(_changes, static_argnames=("features", "axis"))
  along_x, along_y = (
    compiled(features=features, images=images, noise=noise, axis=axis)
    for axis in (2, 1)
  )
  geometry = {}
  for layer in along_x:
    if layer == INPUT:
      continue
    x, y = (
      _line(np.asarray(seen[layer]), layer) for seen in (along_x, along_y)
    )
    geometry[layer] = Geometry(*zip(x, y))
  return geometry


def _changes(
  *, features: Features, images: jax.Array, noise: jax.Array, axis: int
) -> dict[str, jax.Array]:
  """Whether noise in a row or column changes a row or column of features.

  Args:
    features: Function from images to features.
    images: `[B, H, W, C]`.
    noise: In the shape of the images.
    axis: 1 for rows, 2 for columns.

  Returns:
    By layer, `[pixels, features]` along the axis.
  """
  others = tuple(i for i in range(4) if i != axis)
  extract = functools.partial(by_layer, features)

  def replace(before: Any, index: jax.Array) -> tuple[Any, Any]:
    replaced = jnp.arange(images.shape[axis]) == index
    replaced = replaced.reshape(-1, *[1] * (3 - axis))
    after = extract(jnp.where(replaced, noise, images))
    # At first nothing is replaced, in the same loop: rounding is the same.
    before = jax.tree.map(
      lambda b, a: jnp.where(index < 0, a, b), before, after
    )
    changed = jax.tree.map(
      lambda b, a: (b != a).any(axis=others), before, after
    )
    return before, changed

  zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(extract, images))
  indices = jnp.arange(-1, images.shape[axis])
  _, changed = lax.scan(replace, zeros, indices)
  return {layer: seen[1:] for layer, seen in changed.items()}


def _line(seen: np.ndarray, layer: str) -> tuple[float, float, float]:
  """First centre, step and reach along an axis.

  Args:
    seen: `[pixels, features]`, whether a feature sees a pixel.
    layer: Name of the layer, for errors.
  """
  last = len(seen) - 1
  ends = []
  low, high = seen.argmax(axis=0), last - seen[::-1].argmax(axis=0)
  for end, whole in ((low, low > 0), (high, high < last)):
    counted = np.flatnonzero(seen.any(axis=0) & whole)
    if len(counted) < 2:
      raise ValueError(
        f"the receptive field of {layer!r} could not be inferred: of"
        f" {seen.shape[1]} features along an axis of {len(seen)} pixels, fewer"
        " than 2 have a field inside the image; use larger images, a margin,"
        " or an earlier layer"
      )
    ends.append((counted, end[counted]))
  try:
    return _fitted(*ends)
  except _Irregular as error:
    irregular = error
  try:
    (lows, highs), most = ends, seen.shape[1] // 4
    return _fitted(_regular(lows, most), _regular(highs, -most))
  except _Irregular:
    raise ValueError(
      f"the receptive field of {layer!r} could not be inferred: it does not"
      f" move with the image, or features respond too rarely, {irregular}; give"
      " the layer's geometry"
    ) from None


class _Irregular(Exception):
  """Ends of receptive fields are not in regular steps."""


_Ends = tuple[np.ndarray, np.ndarray]  # indices of features, pixels


def _fitted(*ends: _Ends) -> tuple[float, float, float]:
  """First centre, step and reach of low and high ends in regular steps."""
  slopes = [np.polyfit(counted, end, 1)[0] for counted, end in ends]
  # Features on a finer grid than the pixels have steps of a half, a quarter.
  step = float(fractions.Fraction(np.mean(slopes)).limit_denominator(8))
  low, high = (end - step * counted for counted, end in ends)
  deviation = max(np.ptp(low), np.ptp(high))
  if step <= 0 or deviation >= 1:
    raise _Irregular(
      f"in steps of about {np.mean(slopes):.3g} pixels and up to"
      f" {deviation:.3g} pixels more"
    )
  first = (low.min() + high.max()) / 2
  return float(first), step, float(high.max() - first)


def _regular(ends: _Ends, most: int) -> _Ends:
  """Ends without the fewest outer features that leave equal steps.

  The padding of a layer cuts fields off inside the image where an earlier
  layer left pixels over.

  Args:
    ends: Indices of features and pixels at which their fields end.
    most: Number of features to leave out at most: the first ones, or if it is
      negative, the last ones.
  """
  size = len(ends[0])
  for count in range(abs(most) + 1):
    part = slice(count, size) if most > 0 else slice(size - count)
    counted, end = (values[part] for values in ends)
    if len(end) > 2 and not np.ptp(np.diff(end) / np.diff(counted)):
      return counted, end
  return ends


def largest(geometry: Mapping[str, Geometry], field: str) -> float:
  """The largest step or reach of any layer along any axis, in pixels."""
  if not geometry:
    raise ValueError("geometry must name at least one layer")
  values = [getattr(layer, field) for layer in geometry.values()]
  return float(max(max(pair) for pair in values))
