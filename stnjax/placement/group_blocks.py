"""Stages and heads of group convolutions, see `stnjax.nn.group_convolution`.

Stages are equivariant: turning the image turns their features and shifts the
orientations of each filter. Heads are invariant. For quarter turns both are
exact, but for rounding, if every convolution has padding "VALID" or an odd
kernel, and every pooling leaves no pixel over: for max pooling over p pixels
with stride 2, the side less p must be even.
"""

from collections.abc import Sequence
import math
from typing import Any

from flax import nnx
import jax
import jax.numpy as jnp

from stnjax import promotion
from stnjax.nn.group_convolution import (
  GroupConv,
  LiftingConv,
  check_orientations,
  split_orientations,
)
from stnjax.placement.blocks import BaseBlock, ConvBlock, DenseHead, scaled
from stnjax.placement.context import Context


class GroupConvBlock(BaseBlock):
  """Group convolution, leaky ReLU, max pooling, dropout and batch norm.

  What `ConvBlock` does for each channel is shared by the orientations of a
  filter: the bias, the statistics and parameters of the batch norm, and the
  dropout of whole filters.
  """

  def __init__(
    self,
    channels: int,
    filters: int,
    kernel_size: int,
    *,
    orientations: int,
    lifts: bool = False,
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
      channels: Number of channels of the images if it lifts, else number of
        filters of the features.
      filters: Number of filters F, each in all orientations.
      kernel_size: Pixels along a side of the kernel; the stride is 1.
      orientations: Number of orientations G, a multiple of 4.
      lifts: Whether the block takes images, which have no orientations.
      padding: "VALID" or "SAME", of the convolution.
      pool: Pixels along a side of the max pooling, of stride 2; 0 for none.
      batch_norm: Place of a batch norm: "before_relu", between the convolution
        and the max pooling that the leaky ReLU follows; "after_relu", between
        the leaky ReLU and the max pooling; None for no batch norm.
      dropout: Share of the results that training drops, per image.
      drop_channels: Whether dropout drops whole filters, in all orientations.
      slope: Negative slope of the leaky ReLU.
      init: Initialiser of the convolution, one of
        `stnjax.nn.initialisers.INITIALISERS`.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a number of orientations that is not a multiple of 4, or
        an unknown padding, batch_norm or init.
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
    self.orientations = orientations
    self.conv = (LiftingConv if lifts else GroupConv)(
      channels,
      filters,
      kernel_size,
      orientations=orientations,
      padding=padding,
      use_bias=batch_norm != "before_relu",  # the norm has its own
      init=init,
      rngs=rngs,
    )
    self.norm = (
      nnx.BatchNorm(filters, axis=-2, rngs=rngs) if batch_norm else None
    )

  def convolve(self, x: jax.Array) -> jax.Array:
    """The group convolution without its bias, `[B, h, w, F * G]`."""
    return self.conv.convolve(x)

  def add_bias(self, x: jax.Array) -> jax.Array:
    """Adds the bias of each filter to its orientations."""
    return self.conv.add_bias(x)

  def normalise(self, x: jax.Array, context: Context) -> jax.Array:
    """Applies the batch norm, with statistics over the orientations."""
    by_filter = split_orientations(x, self.orientations)
    assert self.norm is not None, "called for blocks with a norm"
    normalised: jax.Array = self.norm(
      by_filter, use_running_average=not context.train
    )
    return normalised.reshape(x.shape)

  def drop(self, x: jax.Array, context: Context) -> jax.Array:
    """Applies dropout, of values or of filters in all orientations."""
    if not self.drop_channels:
      return context.dropout(x, self.dropout)
    by_filter = jnp.swapaxes(split_orientations(x, self.orientations), -1, -2)
    dropped = context.dropout(by_filter, self.dropout, channels=True)
    return jnp.swapaxes(dropped, -1, -2).reshape(x.shape)


class GroupHead(nnx.Module):
  """An invariant head that keeps the layout of features, as `DenseHead` does.

  A group convolution as large as the features, the maximum over orientations,
  leaky ReLU and dropout, then the layers of a `DenseHead`.
  """

  def __init__(
    self,
    shape: Sequence[int],
    outputs: int,
    *,
    orientations: int,
    widths: Sequence[int] = (),
    dropout: float = 0.0,
    drop_input: bool = False,
    slope: float = 0.0,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      shape: `(h, w, F * G)` of the features, with h equal to w.
      outputs: Number of logits.
      orientations: Number of orientations G, a multiple of 4.
      widths: Numbers of filters of the group convolution, then of units of the
        hidden dense layers; by default as many filters as the features have.
      dropout: Share of the hidden units that training drops, per image.
      drop_input: Whether dropout also drops features.
      slope: Negative slope of the leaky ReLU, at least 0.
      init: Initialiser of the hidden layers, one of
        `stnjax.nn.initialisers.INITIALISERS`. The last layer, which no ReLU
        follows, has "lecun_normal" instead of "he_normal".
      rngs: Keys for the initial values.

    Raises:
      ValueError: For features that are not square, or whose channels are not a
        multiple of the orientations.
    """
    height, width, channels = shape
    if height != width:
      raise ValueError(
        "GroupHead takes square features, as its filters turn by 90 degrees,"
        f" got shape {tuple(shape)}; accepted: square images, or a head of any"
        " size such as placement.MeanHead"
      )
    if channels % orientations:
      raise ValueError(
        f"shape must have a multiple of orientations={orientations} channels,"
        f" got {tuple(shape)}"
      )
    filters, *units = widths or (channels // orientations,)
    self.orientations = orientations
    self.dropout = dropout
    self.drop_input = drop_input
    self.slope = slope
    self.conv = GroupConv(
      channels // orientations,
      filters,
      height,
      orientations=orientations,
      padding="VALID",
      init=init,
      rngs=rngs,
    )
    self.dense = DenseHead(
      (filters,),
      outputs,
      widths=units,
      dropout=dropout,
      drop_input=True,
      slope=slope,
      init=init,
      rngs=rngs,
    )

  @promotion.usual
  def __call__(self, x: jax.Array, context: Context | None = None) -> jax.Array:
    """Logits `[B, outputs]` of features `[B, h, w, F * G]`."""
    context = context or Context()
    if self.drop_input:
      x = context.dropout(x, self.dropout)
    x = split_orientations(self.conv(x)[:, 0, 0], self.orientations)
    # The maximum first: it is the same, and fewer units are rectified.
    x = nnx.leaky_relu(x.max(axis=-1), self.slope)
    return self.dense(x, context)


def scaled_filters(filters: int, orientations: int) -> int:
  """Number of filters that keeps the number of parameters about the same.

  A filter reads all orientations of all others: `filters / sqrt(G)` of them,
  each in G orientations, have the weights of `filters` ordinary ones.

  Args:
    filters: Number of filters of an ordinary convolution.
    orientations: Number of orientations G, 1 or a multiple of 4.

  Returns:
    The number of filters, rounded, at least 1.

  Raises:
    ValueError: For another number of orientations.
  """
  if orientations == 1:
    return filters
  check_orientations(orientations)
  return scaled(filters, 1 / math.sqrt(orientations))


def conv_block(
  channels: int,
  filters: int,
  kernel_size: int,
  *,
  orientations: int = 1,
  lifts: bool = False,
  **options: Any,
) -> BaseBlock:
  """Makes a `GroupConvBlock`, or a `ConvBlock` for one orientation.

  Args:
    channels: Number of channels of the images, or of filters of the features.
    filters: Number of filters.
    kernel_size: Pixels along a side of the kernel.
    orientations: Number of orientations, 1 or a multiple of 4.
    lifts: Whether the block takes images.
    **options: Options of both blocks, such as `pool` and `rngs`.
  """
  if orientations == 1:
    return ConvBlock(channels, filters, kernel_size, **options)
  return GroupConvBlock(
    channels,
    filters,
    kernel_size,
    orientations=orientations,
    lifts=lifts,
    **options,
  )
