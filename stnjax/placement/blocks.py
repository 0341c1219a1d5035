"""Stages and heads of convolutional backbones."""

from collections.abc import Sequence
import math

from flax import nnx
import jax
from jax import lax

from stnjax import checks, promotion
from stnjax.nn import convolution, deformation, initialisers
from stnjax.nn.group_convolution import split_orientations
from stnjax.nn.receptive_fields import Window
from stnjax.placement.context import Context

_WIDEST = 2**19  # of layers of some thousand units: fewer than 2^31 of them


class BaseBlock(nnx.Module):
  """Convolution, leaky ReLU, max pooling and dropout, with a batch norm or not.

  A subclass makes `conv`, with a bias unless a batch norm is "before_relu", and
  `norm`, None without a batch norm; and defines `convolve`, and what depends on
  the layout of channels: `add_bias`, `normalise` and `drop`.
  """

  norm: nnx.BatchNorm | None

  def __init__(
    self,
    kernel_size: int,
    *,
    padding: str,
    pool: int,
    batch_norm: str | None,
    dropout: float,
    drop_channels: bool,
    slope: float,
  ):
    """Keeps the options, see `ConvBlock`."""
    checks.option("padding", padding, ("VALID", "SAME"))
    checks.option("batch_norm", batch_norm, (None, "before_relu", "after_relu"))
    self.kernel_size = kernel_size
    self.padding = padding
    self.pool = pool
    self.batch_norm = batch_norm
    self.dropout = dropout
    self.drop_channels = drop_channels
    self.slope = slope

  @property
  def windows(self) -> tuple[Window, ...]:
    """The convolution and the pooling, for `nn.receptive_fields`."""
    padded = (self.kernel_size - 1) // 2 if self.padding == "SAME" else 0
    conv = Window(self.kernel_size, padding=padded)
    return (conv, Window(self.pool, stride=2)) if self.pool else (conv,)

  def convolve(self, x: jax.Array) -> jax.Array:
    """The convolution without its bias."""
    raise NotImplementedError

  def add_bias(self, x: jax.Array) -> jax.Array:
    """Adds the bias of the convolution."""
    raise NotImplementedError

  def normalise(self, x: jax.Array, context: Context) -> jax.Array:
    """Applies the batch norm."""
    raise NotImplementedError

  def drop(self, x: jax.Array, context: Context) -> jax.Array:
    """Applies dropout."""
    raise NotImplementedError

  @promotion.usual
  def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
    """Passes features on.

    Args:
      x: `[B, H, W, C]`.
      context: Of the pass; that of evaluation by default.

    Returns:
      `[B, h, w, F]`.
    """
    return self.finish(self.convolve(x), context or Context())

  def finish(self, x: jax.Array, context: Context) -> jax.Array:
    """All that follows the convolution, of its results without a bias."""
    after_relu = self.batch_norm == "after_relu"
    if after_relu:
      x = nnx.leaky_relu(self.add_bias(x), self.slope)
    if self.norm is not None:
      x = self.normalise(x, context)
    if self.pool:
      x = convolution.max_pool(x, self.pool)
    if self.norm is None:
      # Last: the maximum is the same, the bias's gradient a shorter sum.
      x = self.add_bias(x)
    if not after_relu:
      x = nnx.leaky_relu(x, self.slope)
    return self.drop(x, context)


class ConvBlock(BaseBlock):
  """Convolution, leaky ReLU, max pooling and dropout, with a batch norm or not.

  A `placement.Deformable`: its convolution may be deformed.
  """

  def __init__(
    self,
    channels: int,
    filters: int,
    kernel_size: int,
    *,
    padding: str = "SAME",
    pool: int = 0,
    batch_norm: str | None = None,
    dropout: float = 0.0,
    drop_channels: bool = False,
    slope: float = 0.0,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      channels: Number of channels of the features.
      filters: Number of filters.
      kernel_size: Pixels along a side of the kernel; the stride is 1.
      padding: "VALID" or "SAME", of the convolution.
      pool: Pixels along a side of the max pooling, of stride 2; 0 for none.
      batch_norm: Place of a batch norm: "before_relu", between the convolution
        and the max pooling that the leaky ReLU follows; "after_relu", between
        the leaky ReLU and the max pooling; None for no batch norm.
      dropout: Share of the results that training drops, per image.
      drop_channels: Whether dropout drops whole channels.
      slope: Negative slope of the leaky ReLU.
      init: Initialiser of the convolution, one of
        `stnjax.nn.initialisers.INITIALISERS`.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For an unknown padding, batch_norm or init.
    """
    super().__init__(
      kernel_size,
      padding=padding,
      pool=pool,
      batch_norm=batch_norm,
      dropout=dropout,
      drop_channels=drop_channels,
      slope=slope,
    )
    self.conv = nnx.Conv(
      channels,
      filters,
      (kernel_size, kernel_size),
      padding=padding,
      use_bias=batch_norm != "before_relu",  # the norm has its own
      **initialisers.of_layer(init, kernel_size**2 * channels),
      rngs=rngs,
    )
    self.norm = nnx.BatchNorm(filters, rngs=rngs) if batch_norm else None

  def convolve(self, x: jax.Array) -> jax.Array:
    """The convolution without its bias."""
    return convolution.conv(x, self.conv.kernel[...], self.padding)

  @promotion.usual
  def read_at(
    self, x: jax.Array, points: jax.Array, context: Context
  ) -> jax.Array:
    """The same, with the convolution reading at points.

    Args:
      x: `[B, H, W, C]`.
      points: `[B, h, w, kh, kw, 2]`, see `deformation.deformed_conv`.
      context: Of the pass.
    """
    x = deformation.deformed_conv(x, points, self.conv.kernel[...])
    return self.finish(x, context)

  def add_bias(self, x: jax.Array) -> jax.Array:
    """Adds the bias of each filter."""
    assert self.conv.bias is not None, "called for convolutions with a bias"
    return x + self.conv.bias[...]

  def normalise(self, x: jax.Array, context: Context) -> jax.Array:
    """Applies the batch norm, with statistics of each channel."""
    assert self.norm is not None, "called for blocks with a norm"
    normalised: jax.Array = self.norm(x, use_running_average=not context.train)
    return normalised

  def drop(self, x: jax.Array, context: Context) -> jax.Array:
    """Applies dropout, of values or of channels."""
    return context.dropout(x, self.dropout, channels=self.drop_channels)


class DenseHead(nnx.Module):
  """Dense layers on all features, each with leaky ReLU and dropout, a last."""

  def __init__(
    self,
    shape: Sequence[int],
    outputs: int,
    *,
    widths: Sequence[int] = (),
    dropout: float = 0.0,
    drop_input: bool = False,
    slope: float = 0.0,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      shape: `(h, w, F)` of the features.
      outputs: Number of logits.
      widths: Numbers of units of the hidden layers.
      dropout: Share of the hidden units that training drops, per image.
      drop_input: Whether dropout also drops features.
      slope: Negative slope of the leaky ReLU.
      init: Initialiser of the hidden layers, one of
        `stnjax.nn.initialisers.INITIALISERS`. The last layer, which no ReLU
        follows, has "lecun_normal" instead of "he_normal".
      rngs: Keys for the initial values.
    """
    self.dropout = dropout
    self.drop_input = drop_input
    self.slope = slope
    sizes = [math.prod(shape), *widths]
    self.hidden = nnx.List(
      [
        nnx.Linear(
          fan_in, fan_out, **initialisers.of_layer(init, fan_in), rngs=rngs
        )
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
      ]
    )
    self.last = _last_layer(sizes[-1], outputs, init, rngs)

  def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
    """Logits `[B, outputs]` of features `[B, h, w, F]`."""
    context = context or Context()
    x = lax.collapse(x, 1)
    if self.drop_input:
      x = context.dropout(x, self.dropout)
    for layer in self.hidden:
      x = context.dropout(nnx.leaky_relu(layer(x), self.slope), self.dropout)
    return self.last(x)


class MeanHead(nnx.Module):
  """The mean over all places, dropout, and a dense layer; of any size.

  Of filters in several orientations, the largest of the means is kept, which is
  invariant to the group of the orientations.
  """

  def __init__(
    self,
    filters: int,
    outputs: int,
    *,
    orientations: int = 1,
    dropout: float = 0.0,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layer.

    Args:
      filters: Number of filters F of the features.
      outputs: Number of logits.
      orientations: Number of orientations G of the filters, see
        `stnjax.nn.group_convolution`; 1 for ordinary convolutions.
      dropout: Share of the means that training drops, per image.
      init: Initialiser of the layer, see `DenseHead`.
      rngs: Keys for the initial values.
    """
    self.orientations = orientations
    self.dropout = dropout
    self.last = _last_layer(filters, outputs, init, rngs)

  def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
    """Logits `[B, outputs]` of features `[B, h, w, F * G]`."""
    means = x.mean(axis=(1, 2))
    if self.orientations > 1:
      means = split_orientations(means, self.orientations).max(axis=-1)
    return self.last((context or Context()).dropout(means, self.dropout))


def _last_layer(
  fan_in: int, outputs: int, init: str, rngs: nnx.Rngs
) -> nnx.Linear:
  # He's variance makes up for a ReLU, which does not follow.
  init = "lecun_normal" if init == "he_normal" else init
  options = initialisers.of_layer(init, fan_in)
  return nnx.Linear(fan_in, outputs, **options, rngs=rngs)


def scaled(count: int, factor: float) -> int:
  """A number of filters or units times a factor, rounded, at least 1."""
  return max(1, round(factor * count))


def check_factors(**factors: float) -> None:
  """Raises unless factors on numbers of units, by name, are in bounds.

  Raises:
    ValueError: For a factor that is not positive, or so large that a layer
      would have 2^31 units.
  """
  for name, factor in factors.items():
    if not 0 < factor < _WIDEST:
      raise ValueError(
        f"{name} must be positive and less than {_WIDEST:,}, got {factor}"
      )
