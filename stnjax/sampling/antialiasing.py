"""Low-pass filtering of an image before a warp that shrinks it.

The linear kernel stretched by a factor s has a variance of s^2 / 6 pixels.
Interpolation brings 1 / 6 of it; a Gaussian of the rest makes the same width,
and nothing at all where the warp does not shrink.
"""

from collections.abc import Callable, Sequence
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

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
  images = image.reshape(math.prod(batch), *image.shape[-1 - num_axes :])
  shape, sums = images.shape, []
  for axis in range(1, num_axes + 1):
    square = squares[..., num_axes - axis].reshape(shape[0])
    repeats = cyclic[num_axes - axis]
    weights, reach = _gaussian(square, shape[axis], repeats)
    sums.append(
      jnp.expand_dims(
        _sums_within(weights, repeats),
        [k for k in range(1, num_axes + 2) if k != axis],
      )
    )
    lines = math.prod(shape[1:axis]), shape[axis], math.prod(shape[axis + 1 :])
    images = filters.symmetric(
      images.reshape(shape[0], *lines), weights, reach, cyclic=repeats
    ).reshape(shape)
  return (images / functools.reduce(jnp.multiply, sums)).reshape(image.shape)


def _gaussian(
  square: jax.Array, size: int, cyclic: bool
) -> tuple[jax.Array, jax.Array]:
  """Weights `[B, K]` of distances, and how far they count, for `filters`.

  Args:
    square: `[B]`, squared factors of shrinking.
    size: of the axis.
    cyclic: Whether the axis repeats.
  """
  # At the lower bound the neighbour weighs exp(-100): the identity, with
  # neither a division by 0 nor a gradient. Beyond the upper one all is mean.
  variance = lax.clamp(*_kinds((square - 1) / 6, 0.005, float(size) ** 2 * 100))
  distance = np.arange(filters.num_weights(size, cyclic), dtype=square.dtype)
  weights = jnp.exp(-(distance**2) / (2 * variance[:, None]))
  if cyclic and size % 2 == 0:  # the opposite pixel is met from both sides
    weights = weights.at[:, -1].divide(2)
  # Weights beyond are less than rounding.
  eps = float(jnp.finfo(square.dtype).eps) / 16
  reach = jnp.sqrt(-2 * math.log(eps) * lax.stop_gradient(variance))
  return weights, jnp.minimum(reach.astype(np.int32), len(distance) - 1)


def _sums_within(weights: jax.Array, cyclic: bool) -> jax.Array:
  """What the weights of each pixel within the image sum to, `[B, S or 1]`.

  Args:
    weights: `[B, K]` of distances.
    cyclic: Whether the axis repeats.
  """
  if cyclic:
    return 2 * weights.sum(axis=-1, keepdims=True) - weights[:, :1]
  before = weights.cumsum(axis=-1)
  return before + before[:, ::-1] - weights[:, :1]


def _kinds(
  value: jax.Array, low: float, high: float
) -> tuple[ArrayLike, jax.Array, ArrayLike]:
  """Arguments of `lax.clamp`, which does not promote."""
  return value.dtype.type(low), value, value.dtype.type(high)
