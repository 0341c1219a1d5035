"""The perturbations of the paper (Finnveden et al. 2020), as its code has them.

"full_rotation" and "similarity", over the whole circle, are not the paper's.
Importing this module registers them.
"""

import functools
import math

import jax
import jax.numpy as jnp

from stnjax import data, promotion, transforms
from stnjax.data import Perturbation
from stnjax.data.perturbations import with_margin
from stnjax.paper import statistics
from stnjax.sampling.warping import warp

_TRANSLATION_MARGIN = 16
_SCALE_MARGIN = 42
_LEAST_OCTAVE, _MOST_OCTAVE = -1.0, 0.5  # scales of "similarity"
_CROPS = 6  # pieces of clutter in an image
_CROP = 6  # pixels along a side of a piece


@promotion.usual
def translate_in_clutter(
  key: jax.Array, image: jax.Array, clutter_images: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Shifts the object in a larger image, and adds clutter: MNIST-T.

  Six crops of 6 x 6 pixels from random training images are added at random
  places, but never in the last row or column, and the sum is clamped to 1.

  Args:
    key: One key.
    image: `[H, W, C]`.
    clutter_images: `[N, h, w, C]`, uint8, the training images.

  Returns:
    The image `[H + 32, W + 32, C]` and `{"translation": (x, y)}` in pixels.
  """
  shift_key, place_key, clutter_key = jax.random.split(key, 3)
  image, truth = data.translate(shift_key, image, margin=_TRANSLATION_MARGIN)
  return _in_clutter(place_key, clutter_key, image, clutter_images), truth


def _in_clutter(
  place_key: jax.Array,
  clutter_key: jax.Array,
  image: jax.Array,
  clutter_images: jax.Array,
) -> jax.Array:
  """The clutter of MNIST-T."""
  ends = jnp.array(image.shape[:2]) - _CROP
  corners = jax.random.randint(place_key, (_CROPS, 2), 0, ends)
  sizes = jnp.full(_CROPS, _CROP)
  return data.clutter(clutter_key, image, clutter_images, corners, sizes)


@promotion.usual
def move_in_clutter(
  key: jax.Array, image: jax.Array, clutter_images: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Turns, scales and shifts the object in a larger image, and adds clutter.

  By any angle, uniform over the circle; a factor between 1/2 and the root of 2,
  uniform in its logarithm; then a shift, uniform along each axis, by which the
  circle that fits into the image stays inside the larger one. One resampling,
  bilinear with zeros outside. The clutter is that of `translate_in_clutter`.

  Args:
    key: One key.
    image: `[H, W, C]`.
    clutter_images: `[N, h, w, C]`, uint8, the training images.

  Returns:
    The image `[H + 32, W + 32, C]` and the motion of the object:
    `{"rotation": angle, "scale": log2 factor, "translation": (x, y)}`, the
    translation in pixels.
  """
  pose_key, place_key, clutter_key = jax.random.split(key, 3)
  unit = jax.random.uniform(pose_key, (4,), jnp.float32, -1, 1)
  angle = math.pi * unit[0]
  spread = (_MOST_OCTAVE - _LEAST_OCTAVE) / 2
  octaves = _LEAST_OCTAVE + spread * (1 + unit[1])
  height, width, _ = image.shape
  shape = (height + 2 * _TRANSLATION_MARGIN, width + 2 * _TRANSLATION_MARGIN)
  size = jnp.array(shape[::-1], jnp.float32)
  room = size / 2 - min(height, width) / 2 * 2**octaves
  shift = room * unit[2:]
  theta = transforms.compose(  # from the larger image to the given one
    transforms.scaling(2 / jnp.array([width, height]) / 2**octaves),
    transforms.rotation(-angle),
    transforms.translation(-shift),
    transforms.scaling(size / 2),
  )
  image = warp(image, theta, output_shape=shape)
  truth = {"rotation": angle, "scale": octaves, "translation": shift}
  return _in_clutter(place_key, clutter_key, image, clutter_images), truth


@promotion.usual
def scale_in_clutter(
  key: jax.Array, image: jax.Array, clutter_images: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Scales the object in a larger image, and adds clutter: MNIST-S.

  By a factor between 1/2 and 4, uniform in its logarithm. Six crops of 6 x 6
  pixels from random training images, each resized to 2 s x 2 s with s from 1 to
  9, are added around random places, and the sum is clamped to 1. A place is at
  least 2 pixels inside; close to a border, s is reduced so that the crop fits.

  Args:
    key: One key.
    image: `[H, W, C]`.
    clutter_images: `[N, h, w, C]`, uint8, the training images.

  Returns:
    The image `[H + 84, W + 84, C]` and `{"scale": log2 factor}`.
  """
  scale_key, size_key, place_key, clutter_key = jax.random.split(key, 4)
  image, truth = data.scale(scale_key, image, margin=_SCALE_MARGIN)
  shape = jnp.array(image.shape[:2])
  places = jax.random.randint(place_key, (_CROPS, 2), 2, shape - 2)
  halves = jax.random.randint(size_key, (_CROPS,), 1, 10)
  room = jnp.minimum(places, shape - places).min(axis=1)
  halves = jnp.minimum(halves, room)
  corners, sizes = places - halves[:, None], 2 * halves
  image = data.clutter(clutter_key, image, clutter_images, corners, sizes)
  return image, truth


@promotion.usual
def augment_freely(
  key: jax.Array, image: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Augments plankton: any rotation, and shear, shift, scale and mirroring.

  The object is sheared by up to 20 degrees, rotated by up to 180 degrees and
  shifted by up to 10/95 of the image along each axis, all uniform; then it is
  scaled about the centre by 1/1.3 to 1.3, uniform in the logarithm, and one in
  two is mirrored. One resampling, bilinear with zeros outside.

  Args:
    key: One key.
    image: `[H, W, C]`.

  Returns:
    The image and `{}`.
  """
  unit = jax.random.uniform(key, (6,), jnp.float32, -1, 1)
  mirror = jnp.where(unit[5] < 0, -1.0, 1.0)
  motion = transforms.compose(
    transforms.scaling(1.3 ** unit[4] * jnp.stack([mirror, jnp.ones(())])),
    transforms.translation(2 * 10 / 95 * unit[2:4]),
    transforms.rotation(math.pi * unit[1]),
    _slant(math.radians(20) * unit[0]),
  )
  return warp(image, transforms.invert(motion)), {}


@promotion.usual
def augment_lightly(
  key: jax.Array, image: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Augments CIFAR-10: a mirroring, and a small affine transform.

  One object in two is mirrored. Then it is sheared and rotated by up to 5
  degrees each, scaled by 0.9 to 1.1 and shifted by up to 5 % of the image along
  each axis, rounded to whole pixels; all uniform. Bilinear, zeros outside.

  Args:
    key: One key.
    image: `[H, W, C]`.

  Returns:
    The image and `{}`.
  """
  unit = jax.random.uniform(key, (6,), jnp.float32, -1, 1)
  mirror = jnp.where(unit[5] < 0, -1.0, 1.0)
  size = jnp.array(image.shape[1::-1])  # (W, H)
  shift = jnp.round(0.05 * size * unit[2:4])
  motion = transforms.compose(
    transforms.translation(2 * shift / size),
    transforms.rotation(math.radians(5) * unit[1]),
    transforms.scaling(jnp.full(2, 1 + 0.1 * unit[4])),
    _slant(math.radians(5) * unit[0]),
    transforms.scaling(jnp.stack([mirror, jnp.ones(())])),
  )
  return warp(image, transforms.invert(motion)), {}


def _slant(angle: jax.Array) -> jax.Array:
  """`[2, 3]`: turns the y axis alone, whose length stays."""
  zero, one = jnp.zeros(()), jnp.ones(())
  columns = [
    jnp.stack([one, zero]),
    jnp.stack([-jnp.sin(angle), jnp.cos(angle)]),
    jnp.stack([zero, zero]),
  ]
  return jnp.stack(columns, axis=-1)


def _turned_back(truth: data.Truth, shape: tuple[int, int, int]) -> jax.Array:
  del shape
  return transforms.rotation(truth["rotation"])


def _centred(truth: data.Truth, shape: tuple[int, int, int]) -> jax.Array:
  """The half of the image around the object."""
  size = jnp.array([shape[1], shape[0]])
  return transforms.compose(
    transforms.translation(2 * truth["translation"] / size),
    transforms.scaling(0.5 * jnp.ones(2)),
  )


def _half(shape: tuple[int, int, int]) -> tuple[int, int, int]:
  return shape[0] // 2, shape[1] // 2, shape[2]


def _turned_back_and_centred(
  truth: data.Truth, shape: tuple[int, int, int]
) -> jax.Array:
  """The object upright, at its own size, in half of the image."""
  size = jnp.array([shape[1], shape[0]])
  return transforms.compose(
    transforms.translation(2 * truth["translation"] / size),
    transforms.rotation(truth["rotation"]),
    transforms.scaling(2.0 ** (truth["scale"] - 1) * jnp.ones(2)),
  )


def _full_size(truth: data.Truth, shape: tuple[int, int, int]) -> jax.Array:
  """The object as large as its largest, which fills the image."""
  del shape
  return transforms.scaling(2.0 ** (truth["scale"] - 2) * jnp.ones(2))


_PERTURBATIONS = (
  # Bilinear, zeros outside, within 90 degrees: MNIST-R.
  Perturbation(
    name="rotation",
    draw=data.rotate,
    axes=(data.ROTATION,),
    authors_axes=(statistics.ROTATION,),
    title="rotated {}",
    ideal=_turned_back,
  ),
  Perturbation(
    name="translation",
    draw=translate_in_clutter,
    axes=(data.TRANSLATION_X, data.TRANSLATION_Y),
    authors_axes=(statistics.TRANSLATION,),
    output_shape=with_margin(_TRANSLATION_MARGIN),
    needs_clutter=True,
    title="translated {}",
    ideal=_centred,
    ideal_shape=_half,
  ),
  Perturbation(
    name="scale",
    draw=scale_in_clutter,
    axes=(data.SCALE_X, data.SCALE_Y),
    authors_axes=(statistics.AREA,),
    output_shape=with_margin(_SCALE_MARGIN),
    needs_clutter=True,
    title="scaled {}",
    ideal=_full_size,
  ),
  # Uniform over the circle, else as MNIST-R; ours.
  Perturbation(
    name="full_rotation",
    draw=functools.partial(data.rotate, max_degrees=180.0),
    axes=(data.ROTATION,),
    title="{} rotated over the full circle",
    ideal=_turned_back,
  ),
  # MNIST-T with rotations and scalings; ours.
  Perturbation(
    name="similarity",
    draw=move_in_clutter,
    axes=(
      data.ROTATION,
      data.SCALE_X,
      data.SCALE_Y,
      data.TRANSLATION_X,
      data.TRANSLATION_Y,
    ),
    output_shape=with_margin(_TRANSLATION_MARGIN),
    needs_clutter=True,
    title="{} under similarities",
    ideal=_turned_back_and_centred,
    ideal_shape=_half,
  ),
  Perturbation(name="free_augmentation", draw=augment_freely, augments=True),
  Perturbation(name="light_augmentation", draw=augment_lightly, augments=True),
)

for _perturbation in _PERTURBATIONS:
  data.PERTURBATIONS.register(_perturbation.name, _perturbation)
  if _perturbation.ideal:
    _undone = data.undone(_perturbation)
    data.PERTURBATIONS.register(_undone.name, _undone)
