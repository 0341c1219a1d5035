"""Convolutions whose taps move: what they read is warped place by place.

A convolution reads a lattice of taps at every place. Universal correspondence
networks transform the lattice of each place by a theta of its own (Choy et al.
2016, arXiv:1606.03558); a deformable convolution moves every tap of every place
by an offset (Dai et al. 2017, arXiv:1703.06211). Both are predicted by small
convolutions from the features that are read, and start as the ordinary
convolution.
"""

from collections.abc import Sequence
import math

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, promotion, sampling, transforms
from stnjax.nn import convolution
from stnjax.sampling import grids

# A predictor on large images would match its parameters at any price.
_MOST_FILTERS = 512


@promotion.usual
def regular_points(
  shape: Sequence[int], kernel_shape: Sequence[int], padding: str
) -> jax.Array:
  """Where an ordinary convolution of stride 1 reads.

  Args:
    shape: `(H, W)` of the features.
    kernel_shape: `(kh, kw)`.
    padding: "VALID" or "SAME".

  Returns:
    `[h, w, kh, kw, 2]`, for each place and tap the pixel coordinates (x, y):
    whole numbers, outside the features where "SAME" pads.

  Raises:
    ValueError: for an unknown padding, or a kernel that "VALID" has no room
      for.
  """
  checks.option("padding", padding, ("VALID", "SAME"))
  shape = checks.spatial_shape("shape", shape, 2)
  kernel_shape = checks.spatial_shape("kernel_shape", kernel_shape, 2)
  pads = lax.padtype_to_pads(shape, kernel_shape, (1, 1), padding)
  rows, columns = (
    np.arange(size + sum(pad) - taps + 1)[:, None] + np.arange(taps) - pad[0]
    for size, taps, pad in zip(shape, kernel_shape, pads, strict=True)
  )
  if not rows.size or not columns.size:
    raise ValueError(
      f"kernel_shape {kernel_shape} is larger than the shape {shape} that it"
      " is to read without padding"
    )
  x, y = np.broadcast_arrays(columns[None, :, None, :], rows[:, None, :, None])
  return jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)


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
  features: jax.Array, points: jax.Array, kernel: jax.Array
) -> jax.Array:
  """A convolution that reads its taps at any points.

  Args:
    features: `[B, H, W, C]`, floating.
    points: `[B, h, w, kh, kw, 2]` pixel coordinates (x, y), 0 at the first
      pixel's centre; read linearly, outside is 0.
    kernel: `[kh, kw, C, F]`.

  Returns:
    `[B, h, w, F]`; at `regular_points` what the convolution returns.

  Raises:
    ValueError: for shapes that do not fit each other.

  Gradient: with respect to all three; for the points as in
    `stnjax.grid_sample`, from the right at a pixel's centre.

  Reference: Dai et al. 2017 (arXiv:1703.06211), eq. 2.
  """
  layout = (features.ndim, points.ndim, kernel.ndim) == (4, 6, 4)
  if not layout or (
    points.shape[::5] != (len(features), 2)
    or points.shape[3:5] != kernel.shape[:2]
    or features.shape[3] != kernel.shape[2]
  ):
    raise ValueError(
      "features must be [B, H, W, C], points [B, h, w, kh, kw, 2] and kernel"
      f" [kh, kw, C, F], got shapes {features.shape}, {points.shape} and"
      f" {kernel.shape}"
    )
  batch, height, width, *taps, _ = points.shape
  *_, channels, filters = kernel.shape
  size = math.prod(taps)
  # The patches of a row of places stand side by side, as a row of an image.
  rows = points.reshape(batch, height, width * size, 2)
  read = sampling.sample_pixels(
    features, rows, method="linear", padding="zeros"
  )
  patches = read.reshape(batch * height * width, size * channels)
  product = patches @ kernel.reshape(size * channels, filters)
  return product.reshape(batch, height, width, filters)


@promotion.usual
def mean_transform(
  points: jax.Array, regular: jax.Array, shape: Sequence[int]
) -> jax.Array:
  """The linear map that is closest to what the taps went through, on average.

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
  # Of what the points do besides the identity, so that this stays exact.
  moved = (points - regular).mean(axis=(1, 2))
  products = jnp.einsum(
    "bijn,ijm->bnm", moved, taps, precision=lax.Precision.HIGHEST
  )
  height, width = shape
  aspect = np.array([[1, height / width], [width / height, 1]], moved.dtype)
  linear = aspect * products / jnp.where(squares > 0, squares, 1)
  return transforms.identity() + jnp.pad(linear, ((0, 0), (0, 0), (0, 1)))


class PointPredictor(nnx.Module):
  """From features to the points that a deformed convolution reads of them.

  A convolution with the window of the deformed one, a nonlinearity, and a head
  that starts at zero: an untrained predictor returns exactly the regular
  points. Subclasses say what the outputs of the head mean.
  """

  def __init__(
    self,
    channels: int,
    kernel_size: int,
    padding: str,
    *,
    outputs: int,
    num_parameters: int,
    slope: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      channels: Number of channels of the features.
      kernel_size: Pixels along a side of the deformed convolution's kernel.
      padding: "VALID" or "SAME", of the deformed convolution.
      outputs: Number of outputs of the head at each place.
      num_parameters: Number of parameters to approach: as many filters as come
        closest, at most 512.
      slope: Negative slope of the leaky ReLU.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For an unknown padding.
    """
    checks.option("padding", padding, ("VALID", "SAME"))
    self.kernel_size = kernel_size
    self.padding = padding
    self.slope = slope
    taps = kernel_size**2
    filters = round(
      (num_parameters - outputs) / (taps * channels + 1 + outputs)
    )
    filters = min(max(filters, 1), _MOST_FILTERS)
    self.hidden = nnx.Conv(
      channels,
      filters,
      (kernel_size, kernel_size),
      padding=padding,
      rngs=rngs,
    )
    self.head = nnx.Linear(
      filters, outputs, kernel_init=nnx.initializers.zeros_init(), rngs=rngs
    )

  @promotion.usual
  def regular(self, shape: Sequence[int]) -> jax.Array:
    """The points of features of `shape` `(H, W)` before training."""
    window = (self.kernel_size, self.kernel_size)
    return regular_points(shape, window, self.padding)

  @promotion.usual
  def __call__(self, features: jax.Array) -> jax.Array:
    """Predicts the points for each image.

    Args:
      features: `[B, H, W, C]`.

    Returns:
      `[B, h, w, kh, kw, 2]`, for `deformed_conv`.
    """
    kernel, bias = self.hidden.kernel[...], self.hidden.bias[...]
    seen = convolution.conv(features, kernel, self.padding) + bias
    predicted = self.head(nnx.leaky_relu(seen, self.slope))
    return self.move(self.regular(features.shape[1:3]), predicted)

  def move(self, points: jax.Array, predicted: jax.Array) -> jax.Array:
    """Moves regular points `[h, w, kh, kw, 2]` by outputs `[B, h, w, P]`."""
    raise NotImplementedError


class PatchPredictor(PointPredictor):
  """Predicts a transform of the taps at each place (Choy et al. 2016)."""

  def __init__(
    self,
    channels: int,
    kernel_size: int,
    padding: str,
    *,
    family: str | transforms.Family = "affine",
    num_parameters: int,
    slope: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      channels: Number of channels of the features.
      kernel_size: Pixels along a side of the deformed convolution's kernel.
      padding: "VALID" or "SAME", of the deformed convolution.
      family: Transform family of matrices, a name in
        `stnjax.transforms.FAMILIES` or a `Family`.
      num_parameters: Number of parameters to approach, see `PointPredictor`.
      slope: Negative slope of the leaky ReLU.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For an unknown padding or family, or a family of grids.
    """
    outputs = transforms.num_params(family)
    transforms.matrix(jnp.zeros(outputs), family)  # raises without matrices
    super().__init__(
      channels,
      kernel_size,
      padding,
      outputs=outputs,
      num_parameters=num_parameters,
      slope=slope,
      rngs=rngs,
    )
    self.family = family

  def move(self, points: jax.Array, predicted: jax.Array) -> jax.Array:
    """Transforms the taps of each place, see `patch_points`."""
    return patch_points(points, transforms.matrix(predicted, self.family))


class OffsetPredictor(PointPredictor):
  """Predicts an offset of each tap, in pixels (Dai et al. 2017)."""

  def __init__(
    self,
    channels: int,
    kernel_size: int,
    padding: str,
    *,
    num_parameters: int,
    slope: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      channels: Number of channels of the features.
      kernel_size: Pixels along a side of the deformed convolution's kernel.
      padding: "VALID" or "SAME", of the deformed convolution.
      num_parameters: Number of parameters to approach, see `PointPredictor`.
      slope: Negative slope of the leaky ReLU.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For an unknown padding.
    """
    super().__init__(
      channels,
      kernel_size,
      padding,
      outputs=2 * kernel_size**2,
      num_parameters=num_parameters,
      slope=slope,
      rngs=rngs,
    )

  def move(self, points: jax.Array, predicted: jax.Array) -> jax.Array:
    """Adds an offset (x, y) to each tap of each place."""
    return points + predicted.reshape(len(predicted), *points.shape)
