"""Low-pass filtering of an image before a warp that shrinks it.

The linear kernel stretched by a factor s has a variance of s^2 / 6 pixels.
Interpolation brings 1 / 6 of it; a Gaussian of the rest makes the same width,
and nothing at all where the warp does not shrink.
"""

from collections.abc import Callable, Sequence
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import primitives
from stnjax.sampling import grids
from stnjax.sampling.kernels import filters


def filtered_sample(
  image: jax.Array,
  theta: jax.Array,
  output_shape: Sequence[int],
  sample: Callable[[jax.Array], jax.Array],
  *,
  cyclic: Sequence[bool],
  align_corners: bool,
) -> jax.Array:
  """Samples an image that is blurred in proportion to how much it shrinks.

  An affine transform shrinks the same everywhere, each axis of the image by
  its own factor. A projective one does not: there the image is blurred by
  powers of two, equally along all axes, and two of them are blended per pixel.

  Args:
    image: `[..., *shape, C]`, float32 or wider.
    theta: `[..., N, N + 1]` or `[..., N + 1, N + 1]`.
    output_shape: Spatial shape of the grid that `sample` reads at.
    sample: From a blurred image to the result `[..., *output_shape, C]`.
    cyclic: Whether the image repeats outside along x, y(, z).
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The result of `sample`.
  """
  num_axes = theta.shape[-1] - 1
  shape = image.shape[-num_axes - 1 : -1]
  image = image.astype(jnp.promote_types(image.dtype, theta.dtype))
  # What is not finite is read as fill, and must not reach the gradient.
  jacobian = jnp.nan_to_num(
    grids.jacobian(theta, shape, output_shape, align_corners=align_corners),
    posinf=0.0,
    neginf=0.0,
  )
  squares = _squared_factors(jacobian)
  if theta.shape[-2] == num_axes:
    return sample(_blur(image, squares, cyclic))
  levels = math.ceil(math.log2(max(shape))) + 1
  square = squares.max(axis=-1)
  level = jnp.log2(lax.clamp(*_kinds(square, 1, 4 ** (levels - 1)))) / 2

  @jax.checkpoint
  def add(total: jax.Array, step: jax.Array) -> tuple[jax.Array, None]:
    weight = jnp.maximum(1 - jnp.abs(level - step), 0)[..., None]
    width = jnp.full(num_axes, 4.0**step, image.dtype)
    return total + weight * sample(_blur(image, width, cyclic)), None

  result = jax.eval_shape(sample, image)
  start = jnp.zeros(result.shape, result.dtype)
  steps = jnp.arange(levels, dtype=square.dtype)
  return lax.scan(add, start, steps)[0]


def _squared_factors(jacobian: jax.Array) -> jax.Array:
  """Squared factors `[..., N]` along x, y(, z), enough for every direction.

  The pixels of the result are ellipses J J^T in the image. The sums of its
  rows' magnitudes are those of an ellipse along the axes that contains it
  (Gershgorin), which is itself where the axes of J's ellipse are the image's
  or all equal.
  """
  bound = jnp.sqrt(jnp.finfo(jacobian.dtype).max) / 4  # of what can be squared
  jacobian = lax.clamp(-bound, jacobian, bound)
  ellipse = jnp.einsum(
    "...ik,...jk->...ij", jacobian, jacobian, precision=lax.Precision.HIGHEST
  )
  return jnp.abs(ellipse).sum(axis=-1)


def _blur(
  image: jax.Array, squares: jax.Array, cyclic: Sequence[bool]
) -> jax.Array:
  """Blurs by `[..., N]` squared factors of shrinking along x, y(, z)."""
  num_axes = squares.shape[-1]
  batch = jnp.broadcast_shapes(image.shape[: -1 - num_axes], squares.shape[:-1])
  image = jnp.broadcast_to(image, (*batch, *image.shape[-1 - num_axes :]))
  squares = jnp.broadcast_to(squares, (*batch, num_axes)).astype(image.dtype)
  if not primitives.supports(image):
    # So that they lie on an explicit mesh as the images do.
    zero = jnp.zeros_like(image).sum(range(len(batch), image.ndim))
    squares = squares + zero[..., None]
  sums = jnp.ones((), image.dtype)
  for along in range(num_axes):
    axis = image.ndim - 2 - along
    weights, reach = _gaussian(
      squares[..., along], image.shape[axis], cyclic[along]
    )
    if not cyclic[along]:
      within = _sums_within(weights)
      others = [1 if k != axis else image.shape[k] for k in range(image.ndim)]
      sums = sums * within.reshape(*batch, *others[len(batch) :])
    image = filters.symmetric(
      image, weights, reach, axis=axis, cyclic=cyclic[along]
    )
  return image / sums


def _gaussian(
  square: jax.Array, size: int, cyclic: bool
) -> tuple[jax.Array, jax.Array]:
  """Weights `[..., K]` of distances, and how far they count, for `filters`.

  On both sides together they sum to 1.

  Args:
    square: `[...]`, squared factors of shrinking.
    size: of the axis.
    cyclic: Whether the axis repeats.
  """
  # At the lower bound the neighbour weighs exp(-100): the identity, with
  # neither a division by 0 nor a gradient. Beyond the upper one all is mean.
  variance = lax.clamp(*_kinds((square - 1) / 6, 0.005, float(size) ** 2 * 100))
  distance = np.arange(filters.num_weights(size, cyclic), dtype=square.dtype)
  weights = jnp.exp(-(distance**2) / (2 * variance[..., None]))
  if cyclic and size % 2 == 0:  # the opposite pixel is met from both sides
    weights = weights * np.where(2 * distance == size, 0.5, 1)
  weights = weights / (2 * weights.sum(-1, keepdims=True) - weights[..., :1])
  # Weights beyond are less than rounding.
  eps = float(jnp.finfo(square.dtype).eps) / 16
  reach = jnp.sqrt(-2 * math.log(eps) * lax.stop_gradient(variance))
  return weights, jnp.clip(reach.astype(np.int32), 0, len(distance) - 1)


def _sums_within(weights: jax.Array) -> jax.Array:
  """What the weights of each pixel within the image sum to, `[..., S]`."""
  before = weights.cumsum(axis=-1)
  return before + jnp.flip(before, axis=-1) - weights[..., :1]


def _kinds(
  value: jax.Array, low: float, high: float
) -> tuple[ArrayLike, jax.Array, ArrayLike]:
  """Arguments of `lax.clamp`, which does not promote."""
  return value.dtype.type(low), value, value.dtype.type(high)
