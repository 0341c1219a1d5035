"""The perturbations of the paper (Finnveden et al. 2020).

Importing this module registers them.
"""

import functools

import jax
import jax.numpy as jnp

from stnjax import data, transforms
from stnjax.data import Perturbation
from stnjax.data.perturbations import with_margin
from stnjax.paper import statistics

_TRANSLATION_MARGIN = 16
_SCALE_MARGIN = 42
_CROPS = 6  # pieces of clutter in an image


def translate_in_clutter(
  key: jax.Array, image: jax.Array, clutter_images: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Shifts the object in a larger image, and adds clutter: MNIST-T.

  Six crops of 6 x 6 pixels from random training images are added at random
  places, and the sum is clamped to 1.

  Args:
    key: One key.
    image: `[H, W, C]`.
    clutter_images: `[N, h, w, C]`, uint8, the training images.

  Returns:
    The image `[H + 32, W + 32, C]` and `{"translation": (x, y)}` in pixels.
  """
  shift_key, clutter_key = jax.random.split(key)
  image, truth = data.translate(shift_key, image, margin=_TRANSLATION_MARGIN)
  return data.clutter(clutter_key, image, clutter_images), truth


def scale_in_clutter(
  key: jax.Array, image: jax.Array, clutter_images: jax.Array
) -> tuple[jax.Array, data.Truth]:
  """Scales the object in a larger image, and adds clutter: MNIST-S.

  By a factor between 1/2 and 4, uniform in its logarithm. Six crops of 6 x 6
  pixels from random training images, each resized to 2 s x 2 s with s from 1 to
  9, are added at random places, and the sum is clamped to 1.

  Args:
    key: One key.
    image: `[H, W, C]`.
    clutter_images: `[N, h, w, C]`, uint8, the training images.

  Returns:
    The image `[H + 84, W + 84, C]` and `{"scale": log2 factor}`.
  """
  scale_key, size_key, clutter_key = jax.random.split(key, 3)
  image, truth = data.scale(scale_key, image, margin=_SCALE_MARGIN)
  sizes = 2 * jax.random.randint(size_key, (_CROPS,), 1, 10)
  return data.clutter(clutter_key, image, clutter_images, sizes), truth


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
  # Plankton's.
  Perturbation(
    name="free_augmentation",
    draw=functools.partial(
      data.deform,
      max_degrees=180,
      max_shift=10 / 95,
      max_shear_degrees=20,
      max_scale=1.3,
      flip=True,
    ),
    augments=True,
  ),
  # CIFAR's; the paper leaves its bounds open.
  Perturbation(
    name="light_augmentation",
    draw=functools.partial(
      data.deform,
      max_degrees=10,
      max_shift=0.1,
      max_shear_degrees=5,
      max_scale=1.1,
      flip=True,
    ),
    augments=True,
  ),
)

for _perturbation in _PERTURBATIONS:
  data.PERTURBATIONS.register(_perturbation.name, _perturbation)
  if _perturbation.ideal:
    _undone = data.undone(_perturbation)
    data.PERTURBATIONS.register(_undone.name, _undone)
