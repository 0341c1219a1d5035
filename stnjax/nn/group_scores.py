"""Scores of the elements of a group of transforms, and the pose they agree on.

Scores are `[B, N, M]`: of N x M transforms at equal steps along two axes, such
as angles and log factors, or rows and columns; an axis of size 1 is none.
"""

from collections.abc import Sequence
import itertools
import math

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import promotion
from stnjax.nn import convolution, initialisers

_UNIFORM_SHARE = 0.05  # of the prior, so that no transform is ruled out
_SHARPNESS = 2.0  # of the softmax about a peak
_FLAT = 1e-3  # standard deviation of scores that are hardly a peak


class ScoreNet(nnx.Module):
  """Convolutions whose scores move with the image.

  Convolutions with ReLU, and a last one with one filter and a large kernel: a
  template of the whole.
  """

  def __init__(
    self,
    channels: int,
    filters: Sequence[int],
    kernels: Sequence[tuple[int, int]],
    template: tuple[int, int],
    *,
    polar: bool,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      channels: Number of channels.
      filters: Numbers of filters of the convolutions before the last one.
      kernels: `(height, width)` of their kernels in pixels, odd.
      template: `(height, width)` of the last kernel.
      polar: Whether rows are angles, which close to a circle, and columns radii
        that the kernels use up; else the edge is repeated on all sides.
      init: Initialiser of all layers, one of `initialisers.INITIALISERS`.
      rngs: Keys for the initial values.
    """
    self.polar = polar
    widths = [channels, *filters]

    def conv(
      fan_in: int, fan_out: int, size: tuple[int, int], use_bias: bool = True
    ) -> nnx.Conv:
      values = initialisers.of_layer(init, fan_in * size[0] * size[1])
      return nnx.Conv(
        fan_in,
        fan_out,
        size,
        padding="VALID",
        use_bias=use_bias,
        **values,
        rngs=rngs,
      )

    self.convs = nnx.List(
      [
        conv(fan_in, fan_out, size)
        for (fan_in, fan_out), size in zip(
          itertools.pairwise(widths), kernels, strict=True
        )
      ]
    )
    # A bias would be the same for all transforms.
    self.template = conv(widths[-1], 1, template, use_bias=False)

  @property
  def columns_used(self) -> int:
    """Columns of a polar image that the kernels use up."""
    layers = [*self.convs, self.template]
    return sum(layer.kernel_size[1] - 1 for layer in layers)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Scores `[B, h, w]` of `[B, H, W, C]`."""
    for conv in self.convs:
      assert conv.bias is not None, "the layer has a bias"
      kernel = conv.kernel[...]
      x = convolution.conv(self._padded(x, kernel), kernel, "VALID")
      x = nnx.relu(x + conv.bias[...])
    kernel = self.template.kernel[...]
    if self.polar:
      return circular_correlation(x, kernel[..., 0])
    return convolution.conv(self._padded(x, kernel), kernel, "VALID")[..., 0]

  def _padded(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
    rows, columns = (((k - 1) // 2, k // 2) for k in kernel.shape[:2])
    if self.polar:
      return jnp.pad(x, ((0, 0), rows, (0, 0), (0, 0)), mode="wrap")
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode="edge")


@promotion.usual
def circular_correlation(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Correlates with one kernel, around the circle along the rows.

  By Fourier transforms along the rows: the kernel may be as high as the image.

  Args:
    x: `[B, H, W, C]`, whose first row follows its last one.
    kernel: `[kh, kw, C]`, kh at most H.

  Returns:
    `[B, H, W - kw + 1]`: row i reads rows i to i + kh - 1.
  """
  height, width = x.shape[1:3]
  count = width - kernel.shape[1] + 1
  spectrum = jnp.fft.rfft(x, axis=1)
  filters = jnp.fft.rfft(kernel, n=height, axis=0).conj()
  products = [
    jnp.einsum(
      "bkwc,kc->bkw",
      spectrum[:, :, column : column + count],
      filters[:, column],
      precision=lax.Precision.HIGHEST,
    )
    for column in range(kernel.shape[1])
  ]
  return jnp.fft.irfft(sum(products), n=height, axis=1)


class LearnedPrior(nnx.Module):
  """Share of each transform among the training images, learnt as in EM.

  The shares are the running average of the posterior, which is the softmax of
  scores plus log prior, over the training images. They start uniform. Images
  with scores that are not finite do not count.

  Attributes:
    use_running_average: Whether calls leave the shares as they are. True until
      `train()` is called on a module that holds the prior.
  """

  def __init__(self, shape: Sequence[int], *, average: float = 0.99):
    """Makes a uniform prior.

    Args:
      shape: `(N, M)` of the scores of an image.
      average: Share of the running average that a batch keeps, 0 to 1.
    """
    count = math.prod(shape)
    self.shares = nnx.BatchStat(jnp.full(tuple(shape), 1 / count))
    self.average = average
    self.use_running_average = True

  def __call__(self, scores: jax.Array) -> jax.Array:
    """The log prior `[N, M]`; in training the shares are updated.

    Args:
      scores: `[B, N, M]`; they get no gradient.
    """
    shares = self.shares[...]
    uniform = 1 / shares.size
    # Never 0, so that rare poses stay possible.
    prior = (1 - _UNIFORM_SHARE) * shares + _UNIFORM_SHARE * uniform
    log_prior = jnp.log(prior)
    if not self.use_running_average:
      kept = self.average * shares
      batch = self._batch_shares(lax.stop_gradient(scores) + log_prior, shares)
      self.shares[...] = kept + (1 - self.average) * batch
    return lax.stop_gradient(log_prior)

  def _batch_shares(self, logits: jax.Array, shares: jax.Array) -> jax.Array:
    """The mean posterior of a batch; `shares` if none of it is finite."""
    finite = jnp.isfinite(logits).all(axis=(-2, -1), keepdims=True)
    posterior = jax.nn.softmax(jnp.where(finite, logits, 0), axis=(-2, -1))
    count = finite.sum()
    total = jnp.where(finite, posterior, 0).sum(axis=0)
    return jnp.where(count > 0, total / jnp.maximum(count, 1), shares)


@promotion.usual
def soft_peak(
  scores: jax.Array,
  log_prior: jax.Array | float = 0.0,
  *,
  reach: Sequence[int],
  circular: bool,
) -> jax.Array:
  """The position of the highest peak, between steps.

  The peak is the highest of the scores within reach of the highest sum of score
  and log prior. The position is the mean of those within reach of the peak,
  weighted by a softmax of their standardised scores that tapers off: a factor
  on the scores does not change it. Where scores move by whole steps, so does
  the position; with several peaks, or none, it is defined as well.

  Args:
    scores: `[B, N, M]`.
    log_prior: `[N, M]`, which selects among peaks; none by default.
    reach: Steps to either side of a peak, along each axis.
    circular: Whether the first axis closes to a circle.

  Returns:
    `[B, 2]`, steps along each axis; a circular one may lie up to its reach
    outside of 0 to N - 1.

  Gradient: exact with respect to the scores within reach of the peak.
  """
  scores = jnp.asarray(scores)
  batch, sides = len(scores), scores.shape[1:]
  combined = lax.stop_gradient(scores + log_prior)
  flat = combined.reshape(batch, math.prod(sides))
  peak = jnp.stack(jnp.unravel_index(flat.argmax(-1), sides), axis=-1)
  sizes = [2 * r + 1 for r in reach]
  offsets = np.indices(sizes, np.int32).reshape(2, -1).T
  offsets = offsets - np.array(reach, np.int32)
  # From near to far: of equal scores, the nearest one is the peak.
  offsets = offsets[np.argsort((offsets**2).sum(-1), stable=True)]
  around, inside = _at(lax.stop_gradient(scores), peak, offsets, circular)
  highest = jnp.where(inside, around, -jnp.inf).argmax(-1)
  peak = peak + jnp.asarray(offsets)[highest]
  around, inside = _at(scores, peak, offsets, circular)
  taper = np.cos(np.pi / 2 * offsets / (np.array(reach) + 1)) ** 2
  logits = _standardised(around, inside) * _SHARPNESS
  weights = jnp.where(inside, taper.prod(-1).astype(scores.dtype), 0)
  weights = jax.nn.softmax(logits, axis=-1, where=weights > 0) * weights
  weights = weights / weights.sum(axis=-1, keepdims=True)
  refined: jax.Array = peak + weights @ offsets.astype(scores.dtype)
  return refined


def _standardised(values: jax.Array, valid: jax.Array) -> jax.Array:
  """Values `[B, K]` with mean 0 and variance 1 of the valid ones."""
  count = valid.sum(axis=-1, keepdims=True)
  mean = jnp.where(valid, values, 0).sum(axis=-1, keepdims=True) / count
  moved = jnp.where(valid, values - mean, 0)
  variance = (moved**2).sum(axis=-1, keepdims=True) / count
  return moved / jnp.sqrt(variance + _FLAT**2)


def _at(
  scores: jax.Array, peak: jax.Array, offsets: np.ndarray, circular: bool
) -> tuple[jax.Array, jax.Array]:
  """Scores `[B, K]` at K offsets from a peak, and which of them there are."""
  rows, columns = jnp.moveaxis(peak[:, None] + offsets, -1, 0)
  count, width = scores.shape[1:]
  if circular:
    rows = rows % count
  inside = (rows >= 0) & (rows < count) & (columns >= 0) & (columns < width)
  images = jnp.arange(len(scores))[:, None]
  return scores[images, rows, columns], inside
