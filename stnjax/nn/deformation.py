"""Convolutions whose taps move, as if the image were warped at each place.

A convolution reads a lattice of taps at every place. Universal correspondence
networks transform the lattice of each place by a separate theta (Choy et al.
2016, arXiv:1606.03558); a deformable convolution moves every tap of every place
by an offset (Dai et al. 2017, arXiv:1703.06211). `predictors` has the layers
that predict both.
"""

from collections.abc import Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, promotion, sampling, transforms
from stnjax.sampling import grids


@promotion.usual
def regular_points(
  shape: Sequence[int],
  kernel_shape: Sequence[int],
  padding: str | Sequence[tuple[int, int]],
  *,
  stride: int | tuple[int, int] = 1,
  dilation: int | tuple[int, int] = 1,
) -> jax.Array:
  """The points that an ordinary convolution reads.

  Args:
    shape: `(H, W)` of the features.
    kernel_shape: `(kh, kw)`.
    padding: "VALID", "SAME", or the pixels `((top, bottom), (left, right))`.
    stride: Pixels between neighbouring places, for both axes or `(y, x)`.
    dilation: Pixels between neighbouring taps, for both axes or `(y, x)`.

  Returns:
    `[h, w, kh, kw, 2]`, for each place and tap the pixel coordinates (x, y):
    whole numbers, outside the features where the padding is.

  Raises:
    ValueError: For an unknown padding, a stride or dilation below 1, or a
      kernel that the padded features have no room for.
    TypeError: For a stride or dilation that is not an int.
  """
  shape = checks.spatial_shape("shape", shape, 2)
  kernel_shape = checks.spatial_shape("kernel_shape", kernel_shape, 2)
  strides, dilations = _pair("stride", stride), _pair("dilation", dilation)
  spans = [d * (k - 1) + 1 for k, d in zip(kernel_shape, dilations)]
  if isinstance(padding, str):
    checks.option("padding", padding, ("VALID", "SAME"))
    pads = lax.padtype_to_pads(shape, spans, strides, padding)
  else:
    pads = _checked_pads(padding)
  sides = zip(shape, kernel_shape, pads, spans, strides, dilations, strict=True)
  rows, columns = (
    step * np.arange((size + sum(pad) - span) // step + 1)[:, None]
    + apart * np.arange(taps)
    - pad[0]
    for size, taps, pad, span, step, apart in sides
  )
  if not rows.size or not columns.size:
    raise ValueError(
      f"kernel_shape {kernel_shape} is larger than the shape {shape} with"
      f" padding {pads}, dilation {dilations}"
    )
  x, y = np.broadcast_arrays(columns[None, :, None, :], rows[:, None, :, None])
  return jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)


def _pair(name: str, value: int | tuple[int, int]) -> tuple[int, int]:
  pair = value if isinstance(value, tuple) else (value, value)
  if len(pair) != 2:
    raise ValueError(f"{name} must be an int or (y, x), got {value}")
  for size in pair:
    checks.whole(name, size, 1)
  return pair


def _checked_pads(
  padding: Sequence[tuple[int, int]],
) -> list[tuple[int, int]]:
  if np.shape(padding) != (2, 2):
    raise ValueError(
      'padding must be "VALID", "SAME" or ((top, bottom), (left, right)), got'
      f" {checks.shown(padding)}"
    )
  for size in np.ravel(padding):
    checks.whole("padding", size, 0)
  return [(int(first), int(last)) for first, last in padding]


@promotion.usual
def patch_points(points: jax.Array, thetas: jax.Array) -> jax.Array:
  """Transforms the taps of each place about their middle, as UCN does.

  Convention: thetas are in the normalised coordinates of the patch of taps,
  -1 and 1 its outer edges, as if it were an image of `kh` x `kw` pixels; see
  `stnjax.coordinates`.

  Args:
    points: `[h, w, kh, kw, 2]`, see `regular_points`.
    thetas: `[..., h, w, 2, 3]` or `[..., h, w, 3, 3]`.

  Returns:
    `[..., h, w, kh, kw, 2]`; exactly `points` for the identity.

  Raises:
    ValueError: where there is not one theta for each place.
  """
  thetas = checks.matrix("thetas", thetas)
  if thetas.shape[-1] != 3 or thetas.shape[-4:-2] != points.shape[:2]:
    raise ValueError(
      "thetas must be [..., h, w, 2, 3] or [..., h, w, 3, 3] with (h, w) ="
      f" {points.shape[:2]}, got shape {thetas.shape}"
    )
  kernel_shape = points.shape[2:4]
  patch = grids.affine_pixel_grid(thetas, kernel_shape, kernel_shape)
  return points[:, :, :1, :1] + patch


@promotion.usual
def deformed_conv(
  features: jax.Array,
  points: jax.Array,
  kernel: jax.Array,
  *,
  mask: jax.Array | None = None,
) -> jax.Array:
  """A convolution that reads its taps at any points.

  The number of groups is C / D. Each group of consecutive channels, D of them,
  makes F / groups consecutive channels of the result.

  Args:
    features: `[B, H, W, C]`, floating.
    points: `[B, h, w, kh, kw, 2]` pixel coordinates (x, y), 0 at the first
      pixel's centre; read linearly, outside is 0. `[B, h, w, O, kh, kw, 2]`
      for O groups of consecutive channels that are read at different points.
    kernel: `[kh, kw, D, F]`.
    mask: `[B, h, w, kh, kw]`, or `[B, h, w, O, kh, kw]` with points of O
      groups: factors of the samples; all 1 by default.

  Returns:
    `[B, h, w, F]`; at `regular_points`, the result of the convolution.

  Raises:
    ValueError: For shapes that do not fit each other.

  Gradient: with respect to all arrays; for the points as in
    `stnjax.grid_sample`, from the right at a pixel's centre.

  Reference: Dai et al. 2017 (arXiv:1703.06211), eq. 2; Zhu et al. 2019
    (arXiv:1811.11168), eq. 1, for the mask. Points and mask of ONNX
    `DeformConv` and torchvision `deform_conv2d` are
    `regular_points + offsets` of the order (y, x), moved last and reversed.
  """
  groups = _checked_groups(features, points, kernel, mask)
  if points.ndim == 6:
    points = points[:, :, :, None]
    mask = None if mask is None else mask[:, :, :, None]
  batch, height, width, parts, *taps, _ = points.shape
  channels, filters = features.shape[-1], kernel.shape[-1]
  size = math.prod(taps)
  # The patches of a row of places stand side by side, as a row of an image.
  rows = jnp.moveaxis(points, 3, 1).reshape(
    batch, parts, height, width * size, 2
  )
  images = features.reshape(*features.shape[:-1], parts, channels // parts)
  read = sampling.sample_pixels(
    jnp.moveaxis(images, 3, 1), rows, method="linear", padding="zeros"
  )
  read = read.reshape(batch, parts, height, width, size, channels // parts)
  patches = jnp.moveaxis(read, 1, 4)  # [B, h, w, taps, O, C / O]
  if mask is not None:
    factors = mask.reshape(batch, height, width, parts, size, 1)
    patches = patches * jnp.swapaxes(factors, 3, 4).astype(patches.dtype)
  places = batch * height * width
  if groups == 1:
    patches = patches.reshape(places, size * channels)
    product = patches @ kernel.reshape(size * channels, filters)
  else:
    patches = patches.reshape(places, size, groups, channels // groups)
    grouped = kernel.reshape(
      size, channels // groups, groups, filters // groups
    )
    product = jnp.einsum("nsgc,scgf->ngf", patches, grouped)
  return product.reshape(batch, height, width, filters)


def _checked_groups(
  features: jax.Array,
  points: jax.Array,
  kernel: jax.Array,
  mask: jax.Array | None,
) -> int:
  """The number of groups of channels, or an error that names the shapes."""
  layout = (features.ndim, kernel.ndim) == (4, 4) and points.ndim in (6, 7)
  if not layout or (
    (points.shape[0], points.shape[-1]) != (features.shape[0], 2)
    or points.shape[-3:-1] != kernel.shape[:2]
    or not kernel.shape[2]
    or features.shape[3] % kernel.shape[2]
  ):
    raise ValueError(
      "features must be [B, H, W, C], points [B, h, w, kh, kw, 2] or [B, h, w,"
      " O, kh, kw, 2], and kernel [kh, kw, D, F] with D a divisor of C, got"
      f" shapes {features.shape}, {points.shape} and {kernel.shape}"
    )
  groups = features.shape[3] // kernel.shape[2]
  if kernel.shape[3] % groups:
    raise ValueError(
      f"kernel must be [kh, kw, D, F] with F a multiple of C / D = {groups},"
      f" got shape {kernel.shape}"
    )
  if points.ndim == 7 and features.shape[3] % points.shape[3]:
    raise ValueError(
      f"points must be [B, h, w, O, kh, kw, 2] with O a divisor of C ="
      f" {features.shape[3]}, got shape {points.shape}"
    )
  if mask is not None and mask.shape != points.shape[:-1]:
    raise ValueError(
      f"mask must have the shape of points without the last axis,"
      f" {points.shape[:-1]}, got {mask.shape}"
    )
  return groups


@promotion.usual
def mean_transform(
  points: jax.Array, regular: jax.Array, shape: Sequence[int]
) -> jax.Array:
  """The linear map that is closest to the motion of the taps, on average.

  Args:
    points: `[B, h, w, kh, kw, 2]`.
    regular: `[h, w, kh, kw, 2]`, where they would be.
    shape: `(H, W)` of the image in whose normalised coordinates to say it, of
      pixels as wide as high.

  Returns:
    `[B, 2, 3]`, without translation: the mean over all places of the
    least-squares map from the regular taps of a place to its points. Of taps
    in one row, y stays.
  """
  taps = regular[0, 0] - regular[0, 0].mean(axis=(0, 1))  # [kh, kw, 2]
  squares = (taps**2).sum(axis=(0, 1))
  # Of the motion besides the identity, which stays exact.
  moved = (points - regular).mean(axis=(1, 2))
  products = jnp.einsum(
    "bijn,ijm->bnm", moved, taps, precision=lax.Precision.HIGHEST
  )
  height, width = shape
  aspect = np.array([[1, height / width], [width / height, 1]], moved.dtype)
  linear = aspect * products / jnp.where(squares > 0, squares, 1)
  return transforms.identity() + jnp.pad(linear, ((0, 0), (0, 0), (0, 1)))
