"""Localisability: from which layer can the pose of an image be read?

The counterpart of the audit. An audit measures how much of a transform a
spatial warp of a layer can undo, so where to warp; localisability measures how
well the pose is read from a layer, so where to look. Together they predict,
before any transformer is trained, which placement can work: look where the pose
can be read, and warp where the warp undoes it.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, promotion
from stnjax.alignability import readers
from stnjax.alignability.families import (
  FAMILIES,
  ImageTransforms,
  about_centre,
)
from stnjax.alignability.features import Features, by_layer, checked_images
from stnjax.alignability.readers import READERS, Readout
from stnjax.sampling.warping import warp

_CHUNK = 128  # images whose features are extracted at once


@dataclasses.dataclass(frozen=True)
class Localisability:
  """Accuracies of poses read from each layer.

  Attributes:
    units: Units of the poses by family, or other name of a pose.
    readouts: Readouts by reader, then by family, then by layer.
  """

  units: Mapping[str, str]
  readouts: Mapping[str, Mapping[str, Mapping[str, Readout]]]

  @property
  def layers(self) -> tuple[str, ...]:
    """Names of the layers, the first of which is the image, `INPUT`."""
    by_family = next(iter(self.readouts.values()))
    return tuple(next(iter(by_family.values())))

  def r2(self, reader: str = "ridge") -> dict[str, np.ndarray]:
    """Coefficients of determination, `[L]` by family, see `Readout`."""
    return self._values(reader, "r2")

  def error(self, reader: str = "ridge") -> dict[str, np.ndarray]:
    """Root mean square errors, `[L]` by family, in the units of the poses."""
    return self._values(reader, "error")

  def _values(self, reader: str, field: str) -> dict[str, np.ndarray]:
    checks.option("reader", reader, tuple(self.readouts))
    return {
      family: np.array([getattr(r, field) for r in by_layer.values()])
      for family, by_layer in self.readouts[reader].items()
    }


@promotion.usual
def localisability(
  features: Features,
  images: ArrayLike,
  *,
  families: Mapping[str, ImageTransforms] | None = None,
  repeats: int = 8,
  folds: int = 5,
  method: str = "linear",
  reading: Sequence[str] = READERS,
  seed: int = 0,
) -> Localisability:
  """Measures how well transforms of images are read from their features.

  Every image is transformed `repeats` times, by magnitudes uniform between
  plus and minus the largest of the family. Readers predict the magnitude from
  the features of images that they were not fitted to.

  Args:
    features: JAX function from images `[B, H, W, C]` to features
      `[B, h, w, F]`, or to a mapping from names of layers to features. It is
      compiled.
    images: `[B, H, W, C]`, floating, at least `folds`; some hundred for
      features of some thousand numbers.
    families: Transforms by name, of which the largest magnitude counts;
      `alignability.FAMILIES` by default.
    repeats: Transforms of each image.
    folds: Parts of the images for cross-validation, at least 2.
    method: Interpolation of the images, one of `stnjax.sampling.METHODS`. They
      repeat their edges.
    reading: Readers, of `READERS`.
    seed: Seed of the magnitudes, the folds and the dense net.

  Returns:
    Readouts by reader, family and layer, first those of the image, `INPUT`.

  Raises:
    ValueError: For fewer images than folds, unknown options, or features that
      are not finite `[B, h, w, F]`.
  """
  images = checked_images(images)
  checks.whole("repeats", repeats, 1)
  families = FAMILIES if families is None else families
  groups = np.tile(np.arange(len(images)), repeats)
  readouts: dict[str, dict[str, dict[str, Readout]]] = {r: {} for r in reading}
  for index, (name, family) in enumerate(families.items()):
    rng = np.random.default_rng((seed, index))
    reach = max(family.magnitudes)
    poses = rng.uniform(-reach, reach, len(groups)).astype(np.float32)
    views = jnp.tile(images, (repeats, 1, 1, 1))
    seen = _transformed(views, poses, family, method)
    found = read_poses(
      features,
      seen,
      {name: poses},
      groups=groups,
      folds=folds,
      reading=reading,
      seed=seed,
    )
    for reader, by_family in found.readouts.items():
      readouts[reader] |= {n: dict(r) for n, r in by_family.items()}
  units = {name: family.unit for name, family in families.items()}
  return Localisability(units, readouts)


@promotion.usual
def read_poses(
  features: Features,
  images: ArrayLike,
  poses: Mapping[str, ArrayLike],
  *,
  units: Mapping[str, str] | None = None,
  periods: Mapping[str, float | None] | None = None,
  groups: ArrayLike | None = None,
  folds: int = 5,
  reading: Sequence[str] = READERS,
  seed: int = 0,
) -> Localisability:
  """Measures how well known poses of images are read from their features.

  Args:
    features: As of `localisability`.
    images: `[N, H, W, C]`, floating, as the network sees them.
    poses: True poses by name, `[N]` each.
    units: Units of the poses by name, for reports.
    periods: Differences of poses that are the same, such as 360 for angles in
      degrees, by name; none by default.
    groups: `[N]`; examples of one group, such as views of one image, are
      fitted or predicted together. By default each is its own.
    folds: Parts of the examples for cross-validation, at least 2.
    reading: Readers, of `READERS`.
    seed: Seed of the folds and the dense net.

  Returns:
    Readouts by reader, pose and layer, first those of the image, `INPUT`.

  Raises:
    ValueError: As `localisability`, or for poses that are not `[N]`.
  """
  images = checked_images(images)
  count = len(images)
  groups = np.arange(count) if groups is None else np.asarray(groups)
  if not poses:
    raise ValueError("poses is empty; accepted: at least one pose by name")
  named = {f"poses {name!r}": values for name, values in poses.items()}
  for name, values in {**named, "groups": groups}.items():
    if np.shape(values) != (count,):
      raise ValueError(
        f"{name} must be [N] with N = {count}, the number of images, got shape"
        f" {np.shape(values)}"
      )
  for option, by_name in {"units": units, "periods": periods}.items():
    if unknown := set(by_name or ()) - set(poses):
      raise ValueError(
        f"{option} names {', '.join(sorted(unknown))}; accepted:"
        f" {', '.join(poses)}"
      )
  for reader in reading:
    checks.option("reading", reader, READERS)
  arrays = {name: np.asarray(values) for name, values in poses.items()}
  parts = readers.folds_of(groups, folds, seed)
  layers = _extracted(features, images)
  readouts: dict[str, dict[str, dict[str, Readout]]] = {
    reader: {name: {} for name in poses} for reader in reading
  }
  for reader in reading:
    for layer, values in layers.items():
      found = readers.read(
        values,
        arrays,
        parts,
        reader=reader,
        periods=periods,
        groups=groups,
        seed=seed,
      )
      for name, readout in found.items():
        readouts[reader][name][layer] = readout
  return Localisability({n: (units or {}).get(n, "") for n in poses}, readouts)


def _transformed(
  images: jax.Array,
  magnitudes: np.ndarray,
  family: ImageTransforms,
  method: str,
) -> jax.Array:
  """Images, each transformed by one of the magnitudes."""

  def theta(magnitude: jax.Array) -> jax.Array:
    return about_centre(family.at(magnitude), images.shape[1:3])

  thetas = jax.vmap(theta)(jnp.asarray(magnitudes, images.dtype))
  return warp(images, thetas, method=method, padding="border")


def _extracted(features: Features, images: jax.Array) -> dict[str, np.ndarray]:
  """Features by layer, `[N, h, w, F]` each, a chunk of images at a time."""
  names: list[str] = []

  @jax.jit
  def extract(images: jax.Array) -> list[jax.Array]:
    layers = by_layer(features, images)
    names[:] = layers  # a mapping that is returned would be sorted
    return [*layers.values()]

  chunks = [
    jax.device_get(extract(images[start : start + _CHUNK]))
    for start in range(0, len(images), _CHUNK)
  ]
  layers = (np.concatenate(parts) for parts in zip(*chunks, strict=True))
  return dict(zip(names, layers, strict=True))
