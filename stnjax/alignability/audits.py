"""Audits: residuals of every layer under every transform."""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.alignability.families import (
  ImageTransforms,
  default_margin,
  default_transforms,
  extended,
  transformed,
)
from stnjax.alignability.features import (
  INPUT,
  Features,
  by_layer,
  checked_images,
)
from stnjax.alignability.geometry import (
  OF_THE_IMAGE,
  Geometry,
  checked_geometry,
  probe,
)
from stnjax.alignability.orientations import Channels, checked_permutation
from stnjax.alignability.residuals import (
  METHODS,
  Canvas,
  Residuals,
  measure,
)

KINDS = ("aligned", "best", "mixed")
"""Kinds of residuals after a warp, see `Residuals`."""


@dataclasses.dataclass(frozen=True)
class Audit:
  """Residuals of every layer under every transform.

  Attributes:
    families: Transforms applied to the images, by name.
    geometry: Geometry by layer, the first of which is the image, `INPUT`.
    residuals: Residuals by layer, then by family.
  """

  families: Mapping[str, ImageTransforms]
  geometry: Mapping[str, Geometry]
  residuals: Mapping[str, Mapping[str, Residuals]]

  @property
  def layers(self) -> tuple[str, ...]:
    """Names of the layers, the first of which is the image, `INPUT`."""
    return tuple(self.residuals)

  def undone(self, family: str, kind: str = "best") -> np.ndarray:
    """Share of the change by a transform that a warp undoes.

    `1 - kind / unaligned`, of means over the images: 1 if no residual is left,
    0 if the warp does not help. The share of the image itself, the first
    layer, is the limit set by interpolation.

    Args:
      family: Name of one of `families`.
      kind: Kind of residual, "aligned", "best" or "mixed".

    Returns:
      `[L, M]`, by layer and magnitude.

    Raises:
      ValueError: For an unknown family or kind.
    """
    after, before = self._means(family, kind)
    undone: np.ndarray = 1 - after / before
    return undone

  def profile(self, kind: str = "best") -> dict[str, np.ndarray]:
    """Share undone at each depth, of means over images and magnitudes.

    Args:
      kind: Kind of residual, "aligned", "best" or "mixed".

    Returns:
      `[L]` by family, see `undone`.

    Raises:
      ValueError: For an unknown kind.
    """
    profiles = {}
    for family in self.families:
      after, before = self._means(family, kind)
      profiles[family] = 1 - after.sum(axis=1) / before.sum(axis=1)
    return profiles

  def _means(self, family: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """A residual and that without a warp, means over images, `[L, M]`."""
    checks.option("family", family, tuple(self.families))
    checks.option("kind", kind, KINDS)
    after, before = (
      np.stack([_mean(getattr(r[family], k)) for r in self.residuals.values()])
      for k in (kind, "unaligned")
    )
    return after, before


def _mean(values: np.ndarray) -> np.ndarray:
  """The mean over the last axis, without NaN."""
  means = np.ma.masked_invalid(values).mean(axis=-1)
  return np.asarray(means.filled(np.nan))


@promotion.usual
def audit(
  features: Features,
  images: ArrayLike,
  *,
  families: Mapping[str, ImageTransforms] | None = None,
  geometry: Mapping[str, Geometry] | None = None,
  margin: int | None = None,
  method: str = "linear",
  steps: int = 40,
  channels: Channels | None = None,
) -> Audit:
  """Measures how far spatial warps can align features, layer by layer.

  Args:
    features: JAX function from images `[B, H, W, C]` to features
      `[B, h, w, F]`, or to a mapping from names of layers to features. It is
      compiled, and must accept images of other sizes if there is a margin.
    images: `[B, H, W, C]`, floating; at least 2.
    families: Transforms to apply to the images, by name; `default_transforms`
      of the geometry by default.
    geometry: Geometry of each layer in images with their margin, by layer
      ("features" for a single one); inferred by `probe` by default.
    margin: Pixels by which the images are extended on every side, repeating
      their edges, so that transformed images lie inside; `default_margin` of
      the geometry by default. Features centred in the margin do not count.
    method: Interpolation of every warp, "linear" or "cubic".
    steps: Steps of the search for the best warp; 0 compares its starts alone.
    channels: Permutation of the channels of every layer that is undone with
      each warp, such as `turned_channels` for group convolutions, see
      `Channels`; none by default. The channels of the image are not permuted,
      and `unaligned` is without a permutation.

  Returns:
    Residuals by layer, first those of the image itself, `INPUT`.

  Raises:
    ValueError: For unknown options, fewer than 2 images, features that are not
      `[B, h, w, F]` or whose geometry cannot be inferred, a transform after
      which every feature of a layer depends on the border, or channels that are
      not a permutation.

  Reference: Jansson et al. 2020 (arXiv:2004.14716).
  """
  checks.option("method", method, METHODS)
  checks.whole("steps", steps, 0)
  images = checked_images(images)
  frame = images.shape[1:3]
  if geometry is not None:
    geometry = {
      name: checked_geometry(where) for name, where in geometry.items()
    }
  if margin is None:
    fields = geometry or probe(features, extended(images, max(frame)))
    margin = default_margin(fields, frame)
  images = extended(images, margin)
  geometry = probe(features, images) if geometry is None else geometry
  extract = jax.jit(functools.partial(by_layer, features))
  before = extract(images)
  geometry = _with_image(geometry, before)
  if families is None:
    families = default_transforms(geometry, frame)
  families = _checked_families(families)
  measured = functools.partial(
    _measured,
    images=images,
    extract=extract,
    before=before,
    geometry=geometry,
    canvas=Canvas.of(images, frame),
    method=method,
    steps=steps,
    channels=channels,
  )
  residuals: dict[str, dict[str, Residuals]] = {layer: {} for layer in geometry}
  for name, family in families.items():
    by_magnitude = []
    for magnitude in family.magnitudes:
      by_magnitude.append(measured(family, magnitude))
      _check_coverage(by_magnitude[-1], name, family, magnitude, margin)
    for layer in geometry:
      values = zip(*(layers[layer] for layers in by_magnitude))
      residuals[layer][name] = Residuals(*map(np.stack, values))
  return Audit(families, geometry, residuals)


_transform = jax.jit(transformed, static_argnames="method")


def _measured(
  family: ImageTransforms,
  magnitude: float,
  *,
  images: jax.Array,
  extract: Callable[[jax.Array], Mapping[str, jax.Array]],
  before: Mapping[str, jax.Array],
  geometry: Mapping[str, Geometry],
  canvas: Canvas,
  method: str,
  steps: int,
  channels: Channels | None,
) -> dict[str, Residuals]:
  """Residuals of every layer under one transform."""
  matrix = family.at(jnp.asarray(magnitude, images.dtype))
  after = extract(_transform(images, matrix, method=method))
  residuals = {}
  for layer, where in geometry.items():
    permutation = None
    if channels is not None and layer != INPUT:
      count = before[layer].shape[-1]
      permutation = checked_permutation(channels(matrix, count), count)
    values = measure(
      before[layer],
      after[layer],
      matrix,
      permutation,
      geometry=where,
      canvas=canvas,
      method=method,
      steps=steps,
    )
    residuals[layer] = Residuals(*map(np.asarray, values))
  return residuals


def _check_coverage(
  residuals: Mapping[str, Residuals],
  name: str,
  family: ImageTransforms,
  magnitude: float,
  margin: int,
) -> None:
  """Raises if every feature of a layer depends on the border."""
  for layer, values in residuals.items():
    if not values.coverage:
      raise ValueError(
        f"margin={margin} is too small: after {name} by {magnitude:g}"
        f" {family.unit}, every feature of {layer!r} depends on the border;"
        " use a larger margin, larger images or smaller magnitudes"
      )


def _with_image(
  geometry: Mapping[str, Geometry], features: Mapping[str, jax.Array]
) -> dict[str, Geometry]:
  """Geometry of the image and of every layer of the features."""
  geometry = {INPUT: OF_THE_IMAGE, **geometry}
  if set(features) != set(geometry):
    raise ValueError(
      f"geometry must name the layers {sorted(set(features) - {INPUT})}, got"
      f" {sorted(set(geometry) - {INPUT})}"
    )
  return geometry


def _checked_families(
  families: Mapping[str, ImageTransforms],
) -> dict[str, ImageTransforms]:
  """Families by name, or a ValueError if one cannot transform images."""
  for name, family in families.items():
    if not family.magnitudes:
      raise ValueError(f"families: {name!r} has no magnitudes")
    if family.matrix is None:
      raise ValueError(f"families: {name!r} has no matrix, as read from JSON")
  return dict(families)
