"""Random transformations of images, drawn on the device from keys.

A perturbation takes a key and an image `[H, W, C]` with values in [0, 1], and
returns the perturbed image and the motion of the *object* in it. `perturb`
makes a batch. One key per image makes a batch's perturbations independent of
how it is spread over devices.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import promotion, transforms
from stnjax.data.axes import Axis, Truth
from stnjax.registry import Registry
from stnjax.sampling.warping import warp

Shape = tuple[int, int, int]


def _same_shape(image_shape: Shape) -> Shape:
  """The shape of the perturbed image: that of the image."""
  return image_shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perturbation:
  """A random transformation of images, and how it is measured.

  Attributes:
    name: Name under which it is registered, without spaces.
    draw: Function of a key and an image `[H, W, C]` in [0, 1], and of
      clutter_images if it needs them, that returns the perturbed image and the
      truth, a dict with the motion of the object; see `Truth`. It is vmapped.
    axes: Axes along which a transformer's alignment is measured.
    authors_axes: Axes as the authors of the perturbation measure alignment, for
      a second set of statistics that compares with their publication: of the
      pose of the transformer's first run, with a line through the poses of all
      classes, see `stnjax.evaluation.pooled_alignment`. Empty by default.
    output_shape: Function from the shape `(H, W, C)` of an image to that of the
      perturbed image.
    needs_clutter: Whether `draw` takes clutter_images, `[N, h, w, C]` uint8.
    augments: Whether it is applied only while training.
    title: Name in reports of perturbed images, with {} for the title of the
      data set, such as "rotated {}"; by default "{}, " and its name in words.
    ideal: Function from the truth of one image and the shape `(H, W, C)` of the
      perturbed image to the theta of an ideal transformer, `[2, 3]` or
      `[3, 3]`, normalised, output to input coordinates; see `undone`. None if
      nothing is to be undone.
    ideal_shape: Function from the shape of the perturbed image to that of the
      ideal transformer's output.
  """

  name: str
  draw: Callable[..., tuple[jax.Array, Truth]]
  axes: tuple[Axis, ...] = ()
  authors_axes: tuple[Axis, ...] = ()
  output_shape: Callable[[Shape], Shape] = _same_shape
  needs_clutter: bool = False
  augments: bool = False
  title: str = ""
  ideal: Callable[[Truth, Shape], jax.Array] | None = None
  ideal_shape: Callable[[Shape], Shape] = _same_shape


PERTURBATIONS: Registry[Perturbation] = Registry("perturbation")
"""Perturbations by name."""

PERTURBATIONS.register(
  "none",
  Perturbation(name="none", draw=lambda key, image: (image, {}), title="{}"),
)


def _found(perturbation: str | Perturbation) -> Perturbation:
  if isinstance(perturbation, Perturbation):
    return perturbation
  return PERTURBATIONS[perturbation]


@promotion.usual
def perturb(
  keys: jax.Array,
  images: jax.Array,
  perturbation: str | Perturbation,
  clutter_images: jax.Array | None = None,
) -> tuple[jax.Array, Truth]:
  """Perturbs every image of a batch, each with its own key.

  Args:
    keys: `[B]` keys, one per image.
    images: `[B, H, W, C]`, floating, in [0, 1].
    perturbation: A `Perturbation`, or its name in `PERTURBATIONS`.
    clutter_images: `[N, h, w, C]`, uint8, the training images that clutter is
      cut from, for a perturbation that needs them.

  Returns:
    The perturbed images, `[B, *output_shape(perturbation, (H, W, C))]`, and the
    truth of each: a dict of arrays `[B, ...]`, see `Truth`.

  Raises:
    ValueError: If the perturbation is unknown, lacks its clutter_images, does
      not draw an image and a dict, or draws images of another shape than its
      output_shape.
  """
  chosen = _found(perturbation)
  if not chosen.needs_clutter:
    drawn = jax.vmap(chosen.draw)(keys, images)
  elif clutter_images is None:
    raise ValueError(
      f"clutter_images must be given for perturbation {chosen.name!r}"
    )
  else:
    drawn = jax.vmap(chosen.draw, (0, 0, None))(
      keys, images, jnp.asarray(clutter_images)
    )
  fits = isinstance(drawn, tuple) and len(drawn) == 2
  if not fits or not isinstance(drawn[1], dict):
    raise ValueError(
      f"perturbation {chosen.name!r} must draw an image and its truth, a dict"
      f" that may be empty, got {jax.tree.map(jnp.shape, drawn)}"
    )
  perturbed, truth = drawn
  shape = output_shape(chosen, images.shape[1:])
  if perturbed.shape[1:] != shape:
    raise ValueError(
      f"perturbation {chosen.name!r} draws images of shape"
      f" {perturbed.shape[1:]}; its output_shape is {shape}"
    )
  return perturbed, truth


def output_shape(
  perturbation: str | Perturbation, image_shape: Sequence[int]
) -> Shape:
  """The shape of an image after a perturbation.

  Args:
    perturbation: A `Perturbation`, or its name in `PERTURBATIONS`.
    image_shape: `(H, W, C)` of the image.

  Returns:
    `(H, W, C)` of the perturbed image.

  Raises:
    ValueError: If the perturbation is unknown.
  """
  height, width, channels = image_shape
  height, width, channels = _found(perturbation).output_shape(
    (height, width, channels)
  )
  return height, width, channels


def with_margin(margin: int) -> Callable[[Shape], Shape]:
  """An `output_shape` with so many pixels added on every side.

  Args:
    margin: Pixels added on every side.

  Returns:
    A function from `(H, W, C)` to `(H + 2 margin, W + 2 margin, C)`.
  """

  def output_shape(image_shape: Shape) -> Shape:
    height, width, channels = image_shape
    return height + 2 * margin, width + 2 * margin, channels

  return output_shape


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
  key: jax.Array, image: jax.Array, *, margin: int = 16
) -> tuple[jax.Array, Truth]:
  """Shifts the object in a larger image, which is zero around it.

  By whole pixels, rounded from uniform in +-margin along each axis: the two
  largest shifts are half as frequent as others.

  Args:
    key: One key.
    image: `[H, W, C]`.
    margin: Pixels added on every side, and the longest shift.

  Returns:
    The image `[H + 2 margin, W + 2 margin, C]` and `{"translation": (x, y)}` in
    pixels.
  """
  shift = jax.random.uniform(key, (2,), jnp.float32, -margin, margin)
  shift = jnp.round(shift).astype(jnp.int32)
  height, width, channels = image.shape
  canvas = jnp.zeros((height + 2 * margin, width + 2 * margin, channels))
  corner = (margin + shift[1], margin + shift[0], 0)
  canvas = lax.dynamic_update_slice(canvas, image.astype(canvas.dtype), corner)
  return canvas, {"translation": shift.astype(jnp.float32)}


@promotion.usual
def scale(
  key: jax.Array,
  image: jax.Array,
  *,
  margin: int = 0,
  min_octaves: float = -1.0,
  max_octaves: float = 2.0,
) -> tuple[jax.Array, Truth]:
  """Scales the object about the centre, by a factor uniform in its logarithm.

  Bilinear, zeros outside.

  Args:
    key: One key.
    image: `[H, W, C]`.
    margin: Pixels added on every side.
    min_octaves: Least logarithm of the factor to base 2; -1 halves the object.
    max_octaves: Greatest logarithm of the factor to base 2.

  Returns:
    The image `[H + 2 margin, W + 2 margin, C]` and `{"scale": log2 factor}`.
  """
  octaves = jax.random.uniform(key, (), jnp.float32, min_octaves, max_octaves)
  height, width, _ = image.shape
  shape = (height + 2 * margin, width + 2 * margin)
  # Zeros outside are the margin: the small image is read at once.
  factors = jnp.array([shape[1] / width, shape[0] / height]) / 2**octaves
  scaled = warp(image, transforms.scaling(factors), output_shape=shape)
  return scaled, {"scale": octaves}


@promotion.usual
def clutter(
  key: jax.Array,
  image: jax.Array,
  clutter_images: jax.Array,
  corners: ArrayLike,
  sizes: ArrayLike,
  *,
  crop: int = 6,
) -> jax.Array:
  """Adds random crops of random images, and clamps the sum to 1.

  Args:
    key: One key.
    image: `[H, W, C]`, floating, in [0, 1].
    clutter_images: `[N, h, w, C]`, uint8, the images that are cut.
    corners: `[K, 2]`, integers, row and column of the first pixel of each of K
      crops in the image; parts outside the image are cut off.
    sizes: `[K]`, integers, the side in pixels that each crop is resized to,
      bilinear, without antialiasing.
    crop: Side in pixels of the squares that are cut.

  Returns:
    `[H, W, C]`.
  """
  corners, sizes = jnp.asarray(corners), jnp.asarray(sizes)
  height, width, channels = image.shape

  def piece(
    key: jax.Array, corner: jax.Array, size: jax.Array
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    image_key, cut_key = jax.random.split(key)
    index = jax.random.randint(image_key, (), 0, len(clutter_images))
    last = jnp.array(clutter_images.shape[1:3]) - crop
    cut = jax.random.randint(cut_key, (2,), 0, last + 1)
    cropped = lax.dynamic_slice(
      clutter_images, (index, cut[0], cut[1], 0), (1, crop, crop, channels)
    )
    return (
      _resizing(height, corner[0], size, crop),
      cropped[0].astype(image.dtype) / 255,
      _resizing(width, corner[1], size, crop),
    )

  keys = jax.random.split(key, len(sizes))
  rows, crops, columns = jax.vmap(piece)(keys, corners, sizes)
  stripes = jnp.einsum("kya,kabc->kybc", rows, crops)
  return jnp.minimum(image + jnp.einsum("kybc,kxb->yxc", stripes, columns), 1)


def _resizing(
  length: int, start: jax.Array, size: jax.Array, crop: int
) -> jax.Array:
  """`[length, crop]`: resizes a crop to `size` pixels, from `start` on.

  Bilinear between the centres of pixels, without antialiasing.
  """
  steps = jnp.arange(length) - start
  centres = (steps + 0.5) * crop / size - 0.5
  centres = jnp.clip(centres, 0, crop - 1)[:, None]
  weights = jnp.maximum(0.0, 1 - jnp.abs(jnp.arange(crop) - centres))
  within = (steps >= 0) & (steps < size)
  return jnp.where(within[:, None], weights, 0.0)
