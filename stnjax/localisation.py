"""Localisation nets: from features to the transform of each image."""

from collections.abc import Sequence

from flax import nnx
import jax
from jax import lax

from stnjax import transforms


class LocalisationNet(nnx.Module):
  """Dense layers with ReLU, then a head that starts as the identity.

  The head has a zero kernel and a zero bias, and zero parameters are the
  identity in every transform family: whatever it sees, an untrained net
  returns exactly the identity.

  Reference: Jaderberg et al. 2015, section 3.1; the widths 32-32-32 for
  rotated MNIST are those of Finnveden et al. 2020.
  """

  def __init__(
    self,
    num_features: int,
    *,
    widths: Sequence[int] = (32, 32, 32),
    family: str = "affine",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      num_features: size of one flattened feature map.
      widths: sizes of the hidden layers.
      family: transform family; see `stnjax.transforms.FAMILIES`.
      rngs: keys for the initial values.

    Raises:
      ValueError: for an unknown family.
    """
    self.family = family
    sizes = [num_features, *widths]
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

  def __call__(self, features: jax.Array) -> jax.Array:
    """Predicts a transform for each image.

    Args:
      features: `[B, ...]`, flattened per image.

    Returns:
      theta `[B, 2, 3]`, or `[B, 3, 3]` for the projective family.
    """
    x = lax.collapse(features, 1)
    for layer in self.hidden:
      x = nnx.relu(layer(x))
    return transforms.matrix(self.head(x), self.family)


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
