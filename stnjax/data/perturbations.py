"""Random transformations of images, drawn on the device from keys.

Each perturbation takes a key, an image `[H, W, C]` with values in [0, 1] and
the images that clutter is cut from, and returns the perturbed image and what
was done to the *object* in it; a batch is made by `perturb`. One key per image
makes a batch's perturbations independent of how it is spread over devices.
"""

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from stnjax import checks, promotion, transforms
from stnjax.sampling.warping import warp

Truth = dict[str, jax.Array]
"""What was done to the object, by kind: "rotation" in radians, positive
clockwise on the screen; "translation" `[2]`, (x, y) in pixels; "scale" as the
logarithm to base 2 of the factor."""

_CROPS = 6  # pieces of clutter in an image
_CROP = 6  # pixels of a side of one, where it is cut


@promotion.usual
def perturb(
  keys: jax.Array,
  images: jax.Array,
  name: str,
  sources: jax.Array | None = None,
) -> tuple[jax.Array, Truth]:
  """Perturbs every image of a batch, each with its own key.

  Args:
    keys: `[B]` keys, one per image.
    images: `[B, H, W, C]`, floating, in [0, 1].
    name: one of `PERTURBATIONS`.
    sources: `[N, h, w, C]`, uint8, the training images that clutter is cut
      from, for a perturbation that is `cluttered`.

  Returns:
    The perturbed images `[B, *output_shape(name, (H, W, C))]`, and the truth
    of each, see `Truth`: `{"rotation": [B]}`, `{"translation": [B, 2]}` or
    `{"scale": [B]}`; `{}` for others.

  Raises:
    ValueError: for an unknown perturbation, or one without its sources.
  """
  checks.option("perturbation", name, tuple(PERTURBATIONS))
  perturbation = PERTURBATIONS[name]
  if perturbation.cluttered and sources is None:
    raise ValueError(f"sources must be given for perturbation {name!r}")
  return jax.vmap(perturbation.draw, (0, 0, None))(keys, images, sources)


def output_shape(name: str, image_shape: Sequence[int]) -> tuple[int, int, int]:
  """The shape `(H, W, C)` of an image after a perturbation.

  Raises:
    ValueError: for an unknown perturbation.
  """
  checks.option("perturbation", name, tuple(PERTURBATIONS))
  height, width, channels = image_shape
  added = 2 * PERTURBATIONS[name].margin
  return height + added, width + added, channels


@promotion.usual
def rotate(
  key: jax.Array, image: jax.Array, *, max_degrees: float = 90.0
) -> tuple[jax.Array, Truth]:
  """Rotates the object about the centre, by an angle uniform in +-max_degrees.

  Bilinear, zeros outside: MNIST-R of Finnveden et al. 2020.

  Args:
    key: one key.
    image: `[H, W, C]`.
    max_degrees: bound of the angle.

  Returns:
    The rotated image and `{"rotation": angle}`.
  """
  bound = math.radians(max_degrees)
  angle = jax.random.uniform(key, (), jnp.float32, -bound, bound)
  # The warp pulls: the object turns against the matrix.
  return warp(image, transforms.rotation(-angle)), {"rotation": angle}


@promotion.usual
def translate(
  key: jax.Array, image: jax.Array, sources: jax.Array, *, margin: int = 16
) -> tuple[jax.Array, Truth]:
  """Shifts the object in a larger image, and adds clutter.

  By whole pixels, uniform in +-margin along each axis; then six crops of 6 x 6
  pixels from random training images are added at random places, and the sum is
  clamped to 1: MNIST-T of Finnveden et al. 2020.

  Args:
    key: one key.
    image: `[H, W, C]`.
    sources: `[N, h, w, C]`, uint8, the training images.
    margin: pixels added on every side.

  Returns:
    The image `[H + 2 margin, W + 2 margin, C]` and `{"translation": (x, y)}`.
  """
  shift_key, clutter_key = jax.random.split(key)
  shift = jax.random.randint(shift_key, (2,), -margin, margin + 1)
  height, width, channels = image.shape
  canvas = jnp.zeros((height + 2 * margin, width + 2 * margin, channels))
  corner = (margin + shift[1], margin + shift[0], 0)
  canvas = lax.dynamic_update_slice(canvas, image.astype(canvas.dtype), corner)
  sizes = jnp.full((_CROPS,), _CROP)
  canvas = _add_clutter(clutter_key, canvas, sources, sizes)
  return canvas, {"translation": shift.astype(jnp.float32)}


@promotion.usual
def scale(
  key: jax.Array, image: jax.Array, sources: jax.Array, *, margin: int = 42
) -> tuple[jax.Array, Truth]:
  """Scales the object about the centre of a larger image, and adds clutter.

  By a factor between 1/2 and 4, uniform in its logarithm; then six crops of
  6 x 6 pixels from random training images, each resized to 2 s x 2 s with s
  from 1 to 9, are added at random places, and the sum is clamped to 1: MNIST-S
  of Finnveden et al. 2020.

  Args:
    key: one key.
    image: `[H, W, C]`.
    sources: `[N, h, w, C]`, uint8, the training images.
    margin: pixels added on every side.

  Returns:
    The image `[H + 2 margin, W + 2 margin, C]` and `{"scale": log2 factor}`.
  """
  scale_key, size_key, clutter_key = jax.random.split(key, 3)
  octaves = jax.random.uniform(scale_key, (), jnp.float32, -1.0, 2.0)
  height, width, _ = image.shape
  shape = (height + 2 * margin, width + 2 * margin)
  # Zeros outside are the margin: the small image is read at once.
  factors = jnp.array([shape[1] / width, shape[0] / height]) / 2**octaves
  canvas = warp(image, transforms.scaling(factors), output_shape=shape)
  sizes = 2 * jax.random.randint(size_key, (_CROPS,), 1, 10)
  canvas = _add_clutter(clutter_key, canvas, sources, sizes)
  return canvas, {"scale": octaves}


@promotion.usual
def deform(
  key: jax.Array,
  image: jax.Array,
  *,
  max_degrees: float,
  max_shift: float,
  max_shear_degrees: float,
  max_scale: float,
  flip: bool,
) -> tuple[jax.Array, Truth]:
  """A random affine transform, for augmentation while training.

  Args:
    key: one key.
    image: `[H, W, C]`.
    max_degrees: bound of the rotation, uniform.
    max_shift: bound of the shift, uniform, as a share of the image's size.
    max_shear_degrees: bound of the shear's angle, uniform.
    max_scale: bound of the factor and of its inverse, uniform in its logarithm.
    flip: whether half of the images are mirrored.

  Returns:
    The image, bilinear with zeros outside, and `{}`.
  """
  low, high = -jnp.ones(6), jnp.ones(6)
  unit = jax.random.uniform(key, (6,), jnp.float32, low, high)
  size = max_scale ** unit[0]
  mirror = jnp.where(flip & (unit[1] < 0), -1.0, 1.0)
  matrix = transforms.compose(
    transforms.translation(2 * max_shift * unit[2:4]),
    transforms.rotation(math.radians(max_degrees) * unit[4]),
    transforms.shearing(jnp.tan(math.radians(max_shear_degrees) * unit[5])),
    transforms.scaling(size * jnp.stack([mirror, jnp.ones(())])),
  )
  return warp(image, matrix), {}


def _add_clutter(
  key: jax.Array, image: jax.Array, sources: jax.Array, sizes: jax.Array
) -> jax.Array:
  """Adds a crop of a random source for each size, and clamps to 1."""
  height, width, channels = image.shape

  def piece(key, size):
    which_key, cut_key, place_key = jax.random.split(key, 3)
    which = jax.random.randint(which_key, (), 0, len(sources))
    rest = jnp.array(sources.shape[1:3]) - _CROP
    cut = jax.random.randint(cut_key, (2,), 0, rest + 1)
    crop = lax.dynamic_slice(
      sources, (which, cut[0], cut[1], 0), (1, _CROP, _CROP, channels)
    )
    room = jnp.array([height, width]) - size
    place = jax.random.randint(place_key, (2,), 0, room + 1)
    return (
      _resizing(height, place[0], size),
      crop[0].astype(image.dtype) / 255,
      _resizing(width, place[1], size),
    )

  keys = jax.random.split(key, len(sizes))
  rows, crops, columns = jax.vmap(piece)(keys, sizes)
  stripes = jnp.einsum("kya,kabc->kybc", rows, crops)
  return jnp.minimum(image + jnp.einsum("kybc,kxb->yxc", stripes, columns), 1)


def _resizing(length: int, start: jax.Array, size: jax.Array) -> jax.Array:
  """`[length, _CROP]`: resizes a crop to `size` pixels, from `start` on.

  Bilinear as Pillow has it: where it shrinks, the triangle grows with it.
  """
  steps = jnp.arange(length) - start
  centres = (steps + 0.5) * _CROP / size
  reach = jnp.maximum(_CROP / size, 1.0)
  distance = jnp.abs(jnp.arange(_CROP) + 0.5 - centres[:, None])
  weights = jnp.maximum(0.0, 1 - distance / reach)
  within = (steps >= 0) & (steps < size)
  total = jnp.where(within, weights.sum(axis=1), 1.0)
  return jnp.where(within, 1 / total, 0.0)[:, None] * weights


class Perturbation(NamedTuple):
  """What `perturb` needs to know, and those who use its images."""

  draw: Callable[..., tuple[jax.Array, Truth]]  # of key, image, sources
  margin: int = 0  # pixels that it adds on every side
  cluttered: bool = False  # whether it needs sources
  augments: bool = False  # while training only
  mnist: tuple[float, float] = (0.1307, 0.3081)
  """Mean and standard deviation of MNIST so perturbed, by which the paper
  normalises."""


def _without_sources(draw: Callable, **options) -> Callable:
  return lambda key, image, sources: draw(key, image, **options)


PERTURBATIONS = {
  "none": Perturbation(lambda key, image, sources: (image, {})),
  "rotation": Perturbation(_without_sources(rotate)),
  "translation": Perturbation(
    translate, margin=16, cluttered=True, mnist=(0.0363, 0.1870)
  ),
  "scale": Perturbation(
    scale, margin=42, cluttered=True, mnist=(0.0414, 0.1751)
  ),
  # Plankton's, of the paper.
  "free_augmentation": Perturbation(
    _without_sources(
      deform,
      max_degrees=180,
      max_shift=10 / 95,
      max_shear_degrees=20,
      max_scale=1.3,
      flip=True,
    ),
    augments=True,
  ),
  # CIFAR's; how light the paper leaves open.
  "light_augmentation": Perturbation(
    _without_sources(
      deform,
      max_degrees=10,
      max_shift=0.1,
      max_shear_degrees=5,
      max_scale=1.1,
      flip=True,
    ),
    augments=True,
  ),
}
"""The perturbations by name."""
