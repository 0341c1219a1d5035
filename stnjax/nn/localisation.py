"""Localisation nets: from features to the transform of each image."""

from collections.abc import Sequence
import dataclasses
import math

from flax import nnx
import jax
from jax import lax

from stnjax import promotion, transforms
from stnjax.nn import convolution
from stnjax.paper import classifiers


class LocalisationNet(nnx.Module):
  """Convolutions and dense layers, then a head that starts as the identity.

  The head has a zero kernel and a zero bias, and zero parameters are the
  identity in every transform family: whatever it sees, an untrained net
  returns exactly the identity. A convolution is not padded where the features
  are large enough for it and the pooling that follows, and keeps their size
  where they are not, as far behind the input.

  Reference: Jaderberg et al. 2015, section 3.1.
  """

  def __init__(
    self,
    shape: Sequence[int],
    layers: classifiers.Localisation,
    *,
    family: str = "affine",
    slope: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      shape: `(H, W, C)` of the features.
      layers: what to make; see `stnjax.paper.classifiers.Localisation`.
      family: transform family; see `stnjax.transforms.FAMILIES`.
      slope: of the nonlinearity below 0.
      rngs: keys for the initial values.

    Raises:
      ValueError: for an unknown family.
    """
    self.family = family
    self.slope = slope
    self.halved = layers.halved
    height, width, channels = shape
    if layers.halved:
      height, width = height // 2, width // 2
    convs = []
    self.pools = len(layers.convs) if layers.pools is None else layers.pools
    for place, (filters, kernel_size) in enumerate(layers.convs):
      roomy = min(height, width) > kernel_size  # leaves two pixels to pool
      if roomy:
        height, width = height - kernel_size + 1, width - kernel_size + 1
      convs.append(
        nnx.Conv(
          channels,
          filters,
          (kernel_size, kernel_size),
          padding="VALID" if roomy else "SAME",
          rngs=rngs,
        )
      )
      if place < self.pools and min(height, width) > 1:
        height, width = height // 2, width // 2
      channels = filters
    self.convs = nnx.List(convs)
    sizes = [height * width * channels, *layers.dense]
    self.hidden = nnx.List(
      [
        nnx.Linear(fan_in, fan_out, rngs=rngs)
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
      ]
    )
    self.head = nnx.Linear(
      sizes[-1],
      transforms.num_params(family),
      kernel_init=nnx.initializers.zeros_init(),
      rngs=rngs,
    )

  @promotion.usual
  def __call__(self, features: jax.Array) -> jax.Array:
    """Predicts a transform for each image.

    Args:
      features: `[B, H, W, C]`.

    Returns:
      theta `[B, 2, 3]`, or `[B, 3, 3]` for the projective family.
    """
    x = convolution.mean_pool(features, 2) if self.halved else features
    for place, conv in enumerate(self.convs):
      x = convolution.conv(x, conv.kernel[...], conv.padding)
      if place < self.pools and min(x.shape[1:3]) > 1:
        x = convolution.max_pool(x, 2)
      x = nnx.leaky_relu(x + conv.bias[...], self.slope)
    x = lax.collapse(x, 1)
    for layer in self.hidden:
      x = nnx.leaky_relu(layer(x), self.slope)
    return transforms.matrix(self.head(x), self.family)


def sized_for(
  layers: classifiers.Localisation,
  shape: Sequence[int],
  image_shape: Sequence[int],
) -> classifiers.Localisation:
  """The layers for a net that sees features instead of the image.

  Dense layers on features are matched, see `matched_widths`; convolutions stay
  as they are, and what follows them costs less, the smaller the features. Only
  the image itself is halved.
  """
  if tuple(shape) == tuple(image_shape):
    return layers
  dense = layers.dense
  if not layers.convs:
    dense = matched_widths(dense, math.prod(shape), math.prod(image_shape))
  return dataclasses.replace(layers, dense=dense, halved=False)


def matched_widths(
  widths: Sequence[int], num_features: int, reference: int
) -> tuple[int, ...]:
  """Sizes the first layer so that deeper placements cost as many parameters.

  A feature map is often many times larger than the image, and a dense layer
  on it would dwarf the classifier. The first width becomes the one with which
  a net that sees `num_features` has about as many parameters as one with
  `widths` that sees `reference`, but not below half of what it was, so that it
  is no bottleneck.

  Args:
    widths: sizes of the hidden layers of the net that sees the input.
    num_features: features that this net sees.
    reference: features of the input.

  Returns:
    The widths to use.
  """
  if not widths:
    return ()
  first, *rest = widths
  onward = 1 + (rest[0] if rest else 0)  # a unit's bias and outgoing weights
  matched = round(first * (reference + onward) / (num_features + onward))
  return (max(matched, first // 2, 1), *rest)
