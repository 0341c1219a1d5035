"""Localisation nets: from features to the parameters of a transform."""

from collections.abc import Sequence

from flax import nnx
import jax
from jax import lax

from stnjax import checks, promotion
from stnjax.nn import convolution


class LocalisationNet(nnx.Module):
  """Convolutions and dense layers, then a head that starts at zero.

  The head has a zero kernel and a zero bias, and zero parameters are the
  identity in every transform family: an untrained net returns the identity for
  any features. A convolution is unpadded where the features are large enough
  for it and the pooling that follows. Smaller features are padded and keep
  their size.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), section 3.1.

  >>> net = LocalisationNet((28, 28, 1), 6, rngs=nnx.Rngs(0))
  >>> net(jax.numpy.ones((2, 28, 28, 1))).shape
  (2, 6)
  """

  def __init__(
    self,
    in_shape: Sequence[int],
    num_params: int,
    *,
    convs: Sequence[tuple[int, int]] = ((20, 5), (20, 5)),
    dense: Sequence[int] = (20,),
    pools: int | None = None,
    halve_input: bool = False,
    slope: float = 0.0,
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      in_shape: `(H, W, C)` of the features.
      num_params: Number of parameters to predict, such as
        `stnjax.transforms.num_params("affine")`.
      convs: Number of filters and kernel size of each convolution.
      dense: Widths of the hidden dense layers.
      pools: Number of convolutions, from the first on, that 2 x 2 max pooling
        follows; all of them by default.
      halve_input: Whether the features are first averaged over 2 x 2 pixels.
      slope: Negative slope of the leaky ReLU.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a shape that is not `(H, W, C)`, or no parameters.
    """
    checks.whole("num_params", num_params, 1)
    if len(in_shape) != 3:
      raise ValueError(f"in_shape must be (H, W, C), got {tuple(in_shape)}")
    height, width, channels = in_shape
    self.in_shape = (height, width, channels)
    self.slope = slope
    self.halve_input = halve_input
    if halve_input:
      height, width = height // 2, width // 2
    layers = []
    self.pools = len(convs) if pools is None else pools
    for index, (filters, kernel_size) in enumerate(convs):
      roomy = min(height, width) > kernel_size  # leaves two pixels to pool
      if roomy:
        height, width = height - kernel_size + 1, width - kernel_size + 1
      layers.append(
        nnx.Conv(
          channels,
          filters,
          (kernel_size, kernel_size),
          padding="VALID" if roomy else "SAME",
          rngs=rngs,
        )
      )
      if index < self.pools and min(height, width) > 1:
        height, width = height // 2, width // 2
      channels = filters
    self.convs = nnx.List(layers)
    sizes = [height * width * channels, *dense]
    self.hidden = nnx.List(
      [
        nnx.Linear(fan_in, fan_out, rngs=rngs)
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
      ]
    )
    self.head = nnx.Linear(
      sizes[-1],
      num_params,
      kernel_init=nnx.initializers.zeros_init(),
      rngs=rngs,
    )

  @promotion.usual
  def __call__(self, features: jax.Array) -> jax.Array:
    """Predicts the parameters of each image's transform.

    Args:
      features: `[B, H, W, C]`.

    Returns:
      `[B, num_params]`.

    Raises:
      ValueError: If the features are not `[B, *in_shape]`.
    """
    if features.ndim != 4 or features.shape[1:] != self.in_shape:
      raise ValueError(
        f"features must be [B, H, W, C] with (H, W, C) = {self.in_shape}, the"
        f" in_shape of this LocalisationNet, got shape {features.shape}"
      )
    x = convolution.mean_pool(features, 2) if self.halve_input else features
    for index, conv in enumerate(self.convs):
      x = convolution.conv(x, conv.kernel[...], conv.padding)
      if index < self.pools and min(x.shape[1:3]) > 1:
        x = convolution.max_pool(x, 2)
      x = nnx.leaky_relu(x + conv.bias[...], self.slope)
    x = lax.collapse(x, 1)
    for layer in self.hidden:
      x = nnx.leaky_relu(layer(x), self.slope)
    return self.head(x)
