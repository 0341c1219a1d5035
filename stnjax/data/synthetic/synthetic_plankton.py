"""Generated small sea creatures, a substitute for plankton.

Small runs can use these if PlanktonSet is not available; results on them do not
apply to that set. Like its images after `plankton.fit`, they are
grey, bright on a dark ground and 95 pixels wide, and a creature may be turned
any way.

A species is a recipe: outline, limbs and marks, drawn from the seed of the set
and the number of the species. Each image is one individual, a little unlike
its recipe, from its own seed. The same seed gives the same pixels with
the same versions of NumPy and Pillow.
"""

import dataclasses
import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter
import tensorflow_datasets as tfds

from stnjax.data.synthetic import builder

SIDE = 95  # of the image, in pixels
N_CLASSES = 20
SIZES = {"train": 6_000, "test": 1_000}
SEED = 2

SCALES = (0.5, 1.1)
"""Least and greatest diameter of a creature, by the side of the image."""

LIMBS = ("none", "around", "tail", "horns", "comb")
MARKS = ("plain", "spots", "stripes", "hollow")
"""Each kind of limbs occurs with each kind of marks, in one species."""

_POINTS = 72  # of an outline
_ANGLES = np.linspace(0, 2 * np.pi, _POINTS, endpoint=False)
_FINE = 2  # shapes are drawn this much larger, then averaged
_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5


class SyntheticPlankton(builder.SyntheticBuilder):
  """Generated creatures of 20 species."""

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "6,000 + 1,000 images."}

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "Generated pictures of small creatures of 20 species, bright on a dark"
        " ground, turned any way and of different sizes."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(SIDE, SIDE, 1)),
          "label": tfds.features.ClassLabel(num_classes=N_CLASSES),
        }
      ),
      supervised_keys=("image", "label"),
    )

  @property
  def sizes(self) -> dict[str, int]:
    return SIZES

  def example(self, split: str, index: int) -> tuple[np.ndarray, int]:
    label = index % N_CLASSES
    return draw(rng_of(split, index), label), label


def rng_of(split: str, index: int) -> np.random.Generator:
  """Random numbers of one example, whatever is drawn before it."""
  return builder.rng_of(SEED, split, index)


@dataclasses.dataclass(frozen=True)
class Species:
  """Common traits of individuals; along the body is x, its width is 1.

  Attributes:
    elongation: length by width.
    bend: of the axis.
    waves: `[K, 3]` (count around the body, amplitude, phase) of the outline.
    limbs: `[L, 4]` (angle where it starts, length, width, curl).
    marks: `[M, 4]` (x and y within [-1, 1] of the body's, length and width).
    hollow: how dark the inside is, where only the rim is bright; or 0.
    light: of the body, within [0, 1].
  """

  elongation: float
  bend: float
  waves: np.ndarray
  limbs: np.ndarray
  marks: np.ndarray
  hollow: float
  light: float


def draw(
  rng: np.random.Generator, label: int, angle: float | None = None
) -> np.ndarray:
  """Draws one creature.

  Args:
    rng: where all that varies comes from.
    label: number of its species.
    angle: that it is turned by, in radians; random where None.

  Returns:
    The image `[95, 95, 1]` uint8.

  Raises:
    ValueError: for a species that is not there.
  """
  if label not in range(N_CLASSES):
    raise ValueError(f"label={label!r}; accepted: 0 to {N_CLASSES - 1}")
  some = rng.uniform(0, 2 * np.pi)
  individual = _individual(rng, species(label))
  parts = _placed(rng, _parts(individual), some if angle is None else angle)
  return _photo(rng, *_layers(rng, individual, parts))[..., None]


@functools.cache
def species(label: int) -> Species:
  """The recipe of a species."""
  # Neither 0 nor 1, which are the splits.
  rng = np.random.default_rng((SEED, 2, label))
  marks = MARKS[label // len(LIMBS)]
  if marks == "hollow":  # has a relative, with stripes
    relative = species(label - len(LIMBS))
    return dataclasses.replace(
      relative, marks=np.empty((0, 4)), hollow=rng.uniform(0.55, 0.8)
    )
  elongation = math.exp(rng.uniform(0, 1.2))
  order = rng.integers(1, 7) if elongation < 1.8 else rng.integers(1, 3)
  counts = order * np.arange(1, 4)
  sizes = rng.uniform(0.05, 0.3, 3) / np.arange(1, 4)
  phases = np.pi * rng.integers(0, 2, 3)  # as its halves are alike
  return Species(
    elongation,
    rng.uniform(0.1, 0.5) if elongation > 1.8 and rng.random() < 0.5 else 0.0,
    np.stack([counts, sizes, phases], 1),
    _limbs(rng, LIMBS[label % len(LIMBS)]),
    _marks(rng, marks),
    hollow=0.0,
    light=rng.uniform(0.6, 0.85),
  )


def _limbs(rng, kind: str) -> np.ndarray:
  """Limbs `[L, 4]` of a species."""
  length, width = rng.uniform(0.5, 1.6), rng.uniform(0.05, 0.16)
  curl = rng.uniform(-0.9, 0.9)
  if kind == "none":
    return np.empty((0, 4))
  if kind == "around":
    angles = np.arange(count := rng.integers(5, 14)) * 2 * np.pi / count
    signs = np.ones(count)
  else:
    if kind == "tail":
      angles = rng.uniform(0.15, 0.5) * np.arange(1, rng.integers(2, 4))
      length *= 1.5
    elif kind == "horns":
      angles = np.array([rng.uniform(0.4, 1.2)])
      length *= 1.5
    else:
      angles = np.linspace(0.7, 2.5, rng.integers(3, 8))
      length *= 0.7
    signs = np.repeat([1, -1], len(angles))
    angles = np.concatenate([angles, -angles])
  ones = np.ones_like(angles)
  return np.stack([angles, length * ones, width * ones, curl * signs], 1)


def _marks(rng, kind: str) -> np.ndarray:
  """Marks `[M, 4]` of a species."""
  if kind == "plain":
    return np.empty((0, 4))
  count = rng.integers(2, 5)
  if kind == "stripes":
    x = np.linspace(-0.65, 0.65, count)
    ones = np.ones(count)
    return np.stack([x, 0 * ones, 0.35 / count * ones, ones], 1)
  angle = rng.uniform(0, 2 * np.pi) + 2.4 * np.arange(count)
  away = np.sqrt((np.arange(count) + 0.5) / count) * rng.uniform(0.4, 0.65)
  size = rng.uniform(0.16, 0.32, count)
  return np.stack([away * np.cos(angle), away * np.sin(angle), size, size], 1)


def _individual(rng, of: Species) -> Species:
  """Changes a recipe a little."""

  def factors(shape, by: float) -> np.ndarray:
    return np.exp(by * rng.standard_normal(shape))

  waves, limbs, marks = of.waves.copy(), of.limbs.copy(), of.marks.copy()
  waves[:, 1] *= factors(len(waves), 0.1)
  waves[:, 2] += rng.normal(0, 0.08, len(waves))
  limbs[:, 0] += rng.normal(0, 0.05, len(limbs))
  limbs[:, 1] *= factors(1, 0.08) * factors(len(limbs), 0.06)
  limbs[:, 2] *= factors(1, 0.1)
  limbs[:, 3] = limbs[:, 3] * factors(1, 0.2) + rng.normal(0, 0.1, len(limbs))
  marks[:, :2] += rng.normal(0, 0.03, (len(marks), 2))
  marks[:, 2:] *= factors((len(marks), 1), 0.08)
  return Species(
    of.elongation * float(factors((), 0.06)),
    of.bend + rng.normal(0, 0.05),
    waves,
    limbs,
    marks,
    of.hollow * rng.uniform(0.85, 1.1),
    of.light * float(factors((), 0.1)),
  )


# Geometry; outlines are `[P]` complex numbers, x + iy.


@dataclasses.dataclass(frozen=True)
class _Parts:
  body: np.ndarray
  inside: np.ndarray
  limbs: np.ndarray  # [L, P]
  marks: np.ndarray  # [M, P]

  def moved(self, by: complex, times: complex, mirror: bool) -> "_Parts":
    return _Parts(
      *(
        ((part.conj() if mirror else part) - by) * times
        for part in (self.body, self.inside, self.limbs, self.marks)
      )
    )


def _parts(individual: Species) -> _Parts:
  body = _radius(individual, _ANGLES) * np.exp(1j * _ANGLES)
  marks = (
    individual.marks[:, :1]
    + 1j * individual.marks[:, 1:2]
    + individual.marks[:, 2:3] * np.cos(_ANGLES[::3])
    + 1j * individual.marks[:, 3:] * np.sin(_ANGLES[::3])
  )
  return _Parts(
    _bent(individual, body),
    _bent(individual, 0.72 * body),
    _grown(individual),
    _bent(individual, marks),
  )


def _radius(individual: Species, angles: np.ndarray) -> np.ndarray:
  counts, sizes, phases = individual.waves.T
  return 1 + np.cos(angles[..., None] * counts + phases) @ sizes


def _bent(individual: Species, points: np.ndarray) -> np.ndarray:
  """Makes a round body as long as it is, and bends it."""
  x, y = points.real, points.imag
  return individual.elongation * x + 1j * (
    y + individual.bend * individual.elongation * x * x
  )


def _grown(individual: Species) -> np.ndarray:
  """Outlines `[L, P]` of limbs, thin at their ends."""
  angle, length, width, curl = (
    column[:, None] for column in individual.limbs.T
  )
  step = 1e-3
  start, before, after = (
    _bent(individual, 0.95 * _radius(individual, at) * np.exp(1j * at))
    for at in (angle, angle - step, angle + step)
  )
  away = -1j * (after - before)
  away = away / np.abs(away)
  along = np.linspace(0, 1, 7)
  middle = start + away * length * along * np.exp(1j * curl * along)
  side = 1j * away * np.exp(1.5j * curl * along) * width * (1 - 0.8 * along)
  return np.concatenate([middle + side, (middle - side)[:, ::-1]], 1)


def _placed(rng, parts: _Parts, angle: float) -> _Parts:
  """Mirrors, turns, scales and shifts a creature, to pixels."""
  points = np.concatenate([parts.body, parts.limbs.ravel()])
  mirror = rng.random() < 0.5
  if mirror:
    points = points.conj()
  low, high = (
    complex(f(points.real), f(points.imag)) for f in (np.min, np.max)
  )
  middle = (low + high) / 2
  diameter = 2 * np.abs(points - middle).max()
  pixels = SIDE * rng.uniform(*SCALES)
  times = pixels / diameter * np.exp(1j * angle)
  at = SIDE / 2 * (1 + 1j) + 0.04 * SIDE * complex(*rng.uniform(-1, 1, 2))
  return parts.moved(middle - at / times, times, mirror)


# Light.


def _mask(outlines) -> np.ndarray:
  """Coverage by any of some outlines, `[95, 95]` float within [0, 1]."""
  image = Image.new("L", (_FINE * SIDE, _FINE * SIDE))
  pen = ImageDraw.Draw(image)
  for outline in outlines:
    points = _FINE * outline
    pen.polygon(np.stack([points.real, points.imag], 1).ravel().tolist(), 255)
  return np.asarray(image.reduce(_FINE), np.float32) / 255


def _layers(
  rng, individual: Species, parts: _Parts
) -> tuple[np.ndarray, np.ndarray]:
  """Brightness of a creature, and coverage by its body; `[95, 95]` each."""
  body = _mask([parts.body])
  light = individual.light * body
  depth = rng.uniform(0.4, 0.75)
  if individual.hollow:
    light *= 1 - min(individual.hollow, 1.0) * _mask([parts.inside])
  if len(parts.marks):
    light *= 1 - depth * _mask(parts.marks)
  if len(parts.limbs):
    thin = rng.uniform(0.5, 0.9) * individual.light
    light = np.maximum(light, thin * _mask(parts.limbs))
  return light, body


def _photo(rng, light: np.ndarray, body: np.ndarray) -> np.ndarray:
  """Tissue, focus and noise: `[95, 95]` uint8."""
  # One end is more transparent than the other.
  way = rng.uniform(0, 2 * np.pi)
  slope = rng.uniform(0, 0.9) * (math.cos(way) * _X + math.sin(way) * _Y)
  tissue = 1 + slope + rng.uniform(0.05, 0.35) * body * _noise(rng, 12)
  light = rng.uniform(0.35, 1.1) * light * tissue
  light = light + rng.uniform(0.01, 0.08) * (1 + _noise(rng, 3))
  image = Image.fromarray((255 * light).clip(0, 255).astype(np.uint8))
  image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.9)))
  photo = np.asarray(image, np.float32)
  speckle = rng.standard_normal((SIDE, SIDE), np.float32)
  photo = photo + speckle * (rng.uniform(1, 9) + rng.uniform(0, 0.2) * photo)
  return photo.clip(0, 255).astype(np.uint8)


def _noise(rng, cells: int) -> np.ndarray:
  """Smooth noise `[95, 95]` within about [-1, 1]."""
  coarse = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
  image = Image.fromarray(coarse)
  return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
