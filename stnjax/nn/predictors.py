"""Layers that predict the points of a deformed convolution.

Small convolutions of the features that are read; at the start, the points are
those of the ordinary convolution.
"""

from collections.abc import Sequence

from flax import nnx
import jax
import jax.numpy as jnp

from stnjax import checks, promotion, transforms
from stnjax.nn import convolution
from stnjax.nn.deformation import patch_points, regular_points

# A predictor on large images would match its parameters at any price.
_MOST_FILTERS = 512


class PointPredictor(nnx.Module):
  """From features to the points that a deformed convolution reads of them.

  A convolution with the window of the deformed one, a nonlinearity, and a head
  that starts at zero: an untrained predictor returns exactly the regular
  points. Subclasses define the meaning of the outputs.
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
    assert self.hidden.bias is not None, "the layer has a bias"
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
