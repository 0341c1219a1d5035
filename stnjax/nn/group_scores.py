"""Scores of the elements of a group of transforms, and the pose they agree on.

Scores are `[B, N, M]`: of N x M transforms at equal steps along two axes, such
as angles and log factors, or rows and columns; an axis of size 1 is none.
"""

from collections.abc import Sequence
import itertools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import promotion
from stnjax.nn import convolution, initialisers

_UNIFORM_SHARE = 0.05  # of the prior, so that no transform is ruled out


class ScoreNet(nnx.Module):
  """Convolutions whose scores move with what they see.

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
    widths, sizes = [channels, *filters, 1], [*kernels, template]
    self.convs = nnx.List(
      [
        nnx.Conv(
          fan_in,
          fan_out,
          size,
          padding="VALID",
          use_bias=fan_out != 1,  # the same for all transforms
          **initialisers.of_layer(init, fan_in * size[0] * size[1]),
          rngs=rngs,
        )
        for (fan_in, fan_out), size in zip(
          itertools.pairwise(widths), sizes, strict=True
        )
      ]
    )

  def __call__(self, x: jax.Array) -> jax.Array:
    """Scores `[B, h, w]` of `[B, H, W, C]`."""
    for conv in self.convs:
      x = convolution.conv(self._padded(x, conv), conv.kernel[...], "VALID")
      if conv.bias is not None:
        x = nnx.relu(x + conv.bias[...])
    return x[..., 0]

  def _padded(self, x: jax.Array, conv: nnx.Conv) -> jax.Array:
    rows, columns = (((k - 1) // 2, k // 2) for k in conv.kernel_size)
    if self.polar:
      return jnp.pad(x, ((0, 0), rows, (0, 0), (0, 0)), mode="wrap")
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), mode="edge")


class LearnedPrior(nnx.Module):
  """Share of each transform among the training images, learnt as in EM.

  The shares are the running average of the posterior, which is the softmax of
  scores plus log prior, over the training images. They start uniform.

  Attributes:
    use_running_average: Whether calls leave the shares as they are, as in
      evaluation.
  """

  def __init__(self, shape: Sequence[int], *, average: float = 0.99):
    """Makes a uniform prior.

    Args:
      shape: `(N, M)` of the scores of an image.
      average: Share of the running average that a batch keeps, 0 to 1.
    """
    count = int(np.prod(shape))
    self.shares = nnx.BatchStat(jnp.full(tuple(shape), 1 / count))
    self.average = average
    self.use_running_average = False

  def __call__(self, scores: jax.Array) -> jax.Array:
    """The log prior `[N, M]`; in training the shares are updated.

    Args:
      scores: `[B, N, M]`; they get no gradient.
    """
    shares = self.shares[...]
    uniform = 1 / shares.size
    # Never 0, so that what is rare today is not ruled out for good.
    prior = (1 - _UNIFORM_SHARE) * shares + _UNIFORM_SHARE * uniform
    log_prior = jnp.log(prior)
    if not self.use_running_average:
      posterior = jax.nn.softmax(
        lax.stop_gradient(scores) + log_prior, axis=(-2, -1)
      )
      batch = posterior.mean(axis=0)
      self.shares[...] = self.average * shares + (1 - self.average) * batch
    return lax.stop_gradient(log_prior)


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
  weighted by a softmax of the scores that tapers off. Where scores move by
  whole steps, so does the position; with several peaks, or none, it is defined
  as well.

  Args:
    scores: `[B, N, M]`.
    log_prior: `[N, M]`, which selects among peaks; none by default.
    reach: Steps to either side of a peak, along each axis.
    circular: Whether the first axis closes to a circle.

  Returns:
    `[B, 2]`, steps along each axis.

  Gradient: exact with respect to the scores within reach of the peak.
  """
  batch, sides = len(scores), scores.shape[1:]
  flat = lax.stop_gradient(scores + log_prior).reshape(batch, -1)
  peak = jnp.stack(jnp.unravel_index(flat.argmax(-1), sides), axis=-1)
  offsets = np.stack(
    np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), axis=-1
  ).reshape(-1, 2)
  nearby = _at(scores, peak, offsets, circular)
  peak = peak + jnp.asarray(offsets)[lax.stop_gradient(nearby).argmax(-1)]
  nearby = _at(scores, peak, offsets, circular)
  taper = np.cos(np.pi / 2 * offsets / (np.array(reach) + 1)) ** 2
  logits = nearby + np.log(taper.prod(-1)).astype(scores.dtype)
  weights = jax.nn.softmax(logits, axis=-1)
  return peak + weights @ offsets.astype(scores.dtype)


def _at(
  scores: jax.Array, peak: jax.Array, offsets: np.ndarray, circular: bool
) -> jax.Array:
  """Scores `[B, K]` at K offsets from a peak; -inf where there are none."""
  rows, columns = jnp.moveaxis(peak[:, None] + offsets, -1, 0)
  count, width = scores.shape[1:]
  if circular:
    rows = rows % count
  inside = (rows >= 0) & (rows < count) & (columns >= 0) & (columns < width)
  images = jnp.arange(len(scores))[:, None]
  return jnp.where(inside, scores[images, rows, columns], -jnp.inf)
