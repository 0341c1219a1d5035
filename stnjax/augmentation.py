"""Random transforms for augmentation, on the device that trains.

Each function draws from a key, one transform per key, and returns what `warp`
and `grid_sample` take: images of any dtype (uint8 in, uint8 out), label maps
and points move by the same transform, and labels of whole images stay::

  keys = jax.random.split(key, len(images))
  theta = augmentation.random_affine(keys, (H, W), rotation=0.3, mirror=True)
  images = stnjax.warp(images, theta, padding="border")
  masks = stnjax.warp(masks, theta, method="nearest")
  points = transforms.apply_to_points(theta, points, input_shape=(H, W))
  boxes = transforms.apply_to_boxes(theta, boxes, input_shape=(H, W))

`transforms.compose(crop, affine)` is one warp for both: an image that is
cropped, and the crop turned. A transform depends on its key alone, whatever the
batch it is drawn in.
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, promotion, transforms


@promotion.usual
def random_affine(
  key: jax.Array,
  input_shape: Sequence[int],
  *,
  rotation: float = 0.0,
  scale: tuple[float, float] = (1.0, 1.0),
  shear: float = 0.0,
  translation: float = 0.0,
  mirror: bool = False,
  align_corners: bool = False,
) -> jax.Array:
  """Draws affine transforms about the middle of an image.

  Args:
    key: `[...]` keys of `jax.random.key`, one per transform.
    input_shape: `(H, W)` of the images.
    rotation: Largest angle in radians, either way, uniform; pixels are square,
      also if the image is not.
    scale: Smallest and largest size of the object relative to its own,
      log-uniform; above 1 zooms in.
    shear: Largest multiple of y that is added to x, either way, uniform.
    translation: Largest distance from the middle of the image to the place that
      the middle of the result shows, along each axis and over the size of the
      image along it, uniform.
    mirror: Whether half of the transforms mirror left and right.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., 2, 3]` transforms for `warp`, output to input coordinates; the
    identity by default.

  Raises:
    ValueError: For a range that is not one, a negative extent, or a wrong
      shape.
    TypeError: For a key that is not a `jax.random.key`.

  Gradient: none; the transforms are constants.
  """
  key = _checked_keys(key)
  shape = checks.spatial_shape("input_shape", input_shape, 2)
  low, high = _checked_range("scale", scale, 0, math.inf)
  for name, extent in (
    ("rotation", rotation),
    ("shear", shear),
    ("translation", translation),
  ):
    _check_between(name, extent, 0, math.inf)
  checks.flag("mirror", mirror)

  def draw(key: jax.Array) -> jax.Array:
    turn, size, slope, shift, side = jax.random.split(key, 5)
    factor = jnp.exp(-_uniform(size, math.log(low), math.log(high)))
    sign = jnp.where(mirror & jax.random.bernoulli(side), -1, 1)
    matrix = transforms.compose(
      transforms.rotation(_uniform(turn, -rotation, rotation)),
      transforms.shearing(_uniform(slope, -shear, shear)),
      transforms.scaling(jnp.stack([sign * factor, factor])),
    )
    extent = translation * np.array(shape[::-1], np.float32)
    offset = jax.random.uniform(shift, (2,), minval=-1, maxval=1) * extent
    return matrix.at[:, 2].set(offset)

  return transforms.from_physical(
    _for_each(draw, key), (1, 1), shape, align_corners=align_corners
  )


@promotion.usual
def random_perspective(key: jax.Array, *, displacement: float) -> jax.Array:
  """Draws homographies that move the corners of an image.

  Args:
    key: `[...]` keys of `jax.random.key`, one per transform.
    displacement: Largest displacement of a corner along each axis, either way,
      uniform, in normalised units: at least 0 and below 0.5, so that the
      corners stay those of a convex quadrilateral.

  Returns:
    `[..., 3, 3]` transforms for `warp`: corners of the output show the
    displaced corners.

  Raises:
    ValueError: For a displacement out of range.
    TypeError: For a key that is not a `jax.random.key`.

  Gradient: none; the transforms are constants.
  """
  key = _checked_keys(key)
  _check_between("displacement", displacement, 0, 0.5)
  corners = jnp.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])

  def draw(key: jax.Array) -> jax.Array:
    moved = displacement * jax.random.uniform(key, (4, 2), minval=-1, maxval=1)
    return corners + moved

  return transforms.from_points(corners, _for_each(draw, key), "projective")


@promotion.usual
def random_crop(
  key: jax.Array,
  input_shape: Sequence[int],
  *,
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """Draws crops by their area and aspect, for `warp(..., output_shape=...)`.

  Args:
    key: `[...]` keys of `jax.random.key`, one per crop.
    input_shape: `(H, W)` of the images.
    area: Smallest and largest area over that of the image, uniform, in (0, 1].
    aspect: Smallest and largest ratio of width to height in pixels,
      log-uniform. A side longer than the image's is shortened to it.

  Returns:
    `[..., 2, 3]` transforms for `warp`. The place is uniform within the image,
    between pixels, too; use `antialias=True` where crops are larger than the
    result.

  Raises:
    ValueError: For a range that is not one, or a wrong shape.
    TypeError: For a key that is not a `jax.random.key`.

  Gradient: none; the transforms are constants.

  Reference: Szegedy et al. 2015 (arXiv:1409.4842); torchvision's
    `RandomResizedCrop`, which draws again instead of shortening a side.
  """
  key = _checked_keys(key)
  height, width = shape = checks.spatial_shape("input_shape", input_shape, 2)
  areas = _checked_range("area", area, 0, 1)
  low, high = _checked_range("aspect", aspect, 0, math.inf)

  def draw(key: jax.Array) -> jax.Array:
    share, ratio, place = jax.random.split(key, 3)
    pixels = _uniform(share, *areas) * height * width
    root = jnp.exp(_uniform(ratio, math.log(low), math.log(high)) / 2)
    sides = jnp.sqrt(pixels) * jnp.stack([root, 1 / root])
    sizes = np.array([width, height], np.float32)
    sides = jnp.minimum(sides, sizes)
    first = jax.random.uniform(place, (2,)) * (sizes - sides)
    return jnp.concatenate([first, first + sides])

  return transforms.from_boxes(_for_each(draw, key), shape)


@promotion.usual
def random_elastic(
  key: jax.Array,
  input_shape: Sequence[int],
  *,
  magnitude: float,
  smoothness: float,
) -> jax.Array:
  """Draws smooth random displacement fields, in pixels.

  `flow_grid(field, units="pixels")` is the grid; points of the image move by
  `sampling.invert_flow`. The slope of the field has a standard deviation of
  `magnitude / (sqrt(2) * smoothness)`: at 0.25 and below, folds are rare
  (`sampling.jacobian_determinant` finds them).

  Args:
    key: `[...]` keys of `jax.random.key`, one per field.
    input_shape: `(H, W)` of the images.
    magnitude: Standard deviation of the displacement along each axis, in
      pixels, the same at every pixel.
    smoothness: Standard deviation of the Gaussian that smooths white noise, in
      pixels, above 0.

  Returns:
    `[..., H, W, 2]` displacements (x, y) in pixels, float32.

  Raises:
    ValueError: For a negative magnitude, a smoothness that is not above 0, or
      a wrong shape.
    TypeError: For a key that is not a `jax.random.key`.

  Gradient: none; the fields are constants.

  Reference: Simard et al. 2003, "Best practices for convolutional neural
    networks applied to visual document analysis".
  """
  key = _checked_keys(key)
  height, width = checks.spatial_shape("input_shape", input_shape, 2)
  _check_between("magnitude", magnitude, 0, math.inf)
  _checked_range("smoothness", (smoothness, smoothness), 0, math.inf)
  down, across = (_smoothing(size, smoothness) for size in (height, width))

  def draw(key: jax.Array) -> jax.Array:
    noise = jax.random.normal(key, (height, width, 2))
    return jnp.einsum(
      "ij,jkn,lk->iln",
      down,
      noise,
      across,
      precision=jax.lax.Precision.HIGHEST,
    )

  return magnitude * _for_each(draw, key)


def _smoothing(size: int, smoothness: float) -> np.ndarray:
  """A Gaussian as a matrix that keeps the variance of white noise."""
  places = np.arange(size)
  apart = (places[:, None] - places) / smoothness
  weights = np.exp(-(apart**2) / 2)
  weights /= np.sqrt(np.square(weights).sum(axis=1, keepdims=True))
  return weights.astype(np.float32)


def _uniform(key: jax.Array, low: float, high: float) -> jax.Array:
  return low + (high - low) * jax.random.uniform(key)


def _for_each(
  draw: Callable[[jax.Array], jax.Array], keys: jax.Array
) -> jax.Array:
  """The results `[..., *shape]` of a function for keys `[...]`."""
  for _ in range(keys.ndim):
    draw = jax.vmap(draw)
  return draw(keys)


def _checked_keys(key: jax.Array) -> jax.Array:
  dtype = getattr(key, "dtype", None)
  if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key):
    raise TypeError(
      "key must be a jax.random.key, or an array of them, got"
      f" {checks.shown(key)}"
    )
  return key


def _check_between(name: str, value: float, low: float, high: float) -> None:
  if not low <= value < high:
    limit = "" if high == math.inf else f" and below {high}"
    raise ValueError(f"{name} must be at least {low}{limit}, got {value}")


def _checked_range(
  name: str, value: tuple[float, float], low: float, high: float
) -> tuple[float, float]:
  """The ends of a range above `low`, up to `high`, or an error."""
  first, last = value
  if not (low < first <= last <= high and last < math.inf):
    limit = "finite" if high == math.inf else f"at most {high}"
    raise ValueError(
      f"{name} must be above {low}, in order, and {limit}, got"
      f" {checks.shown(value)}"
    )
  return first, last
