"""Localisation nets: from features to the parameters of a transform."""

from collections.abc import Sequence
import dataclasses

from flax import nnx
import jax
from jax import lax

from stnjax import checks, promotion
from stnjax.nn import convolution, initialisers


@dataclasses.dataclass(frozen=True)
class LocalisationConv:
  """A convolution of a localisation net, leaky ReLU, batch norm, max pooling.

  Attributes:
    filters: Number of filters.
    kernel_size: Pixels along a side of the kernel; the stride is 1.
    padding: "SAME", or "VALID" for none. Features that are not larger than the
      kernel are padded in any case.
    pool: Pixels along a side of the max pooling, of stride 2; 0 for none.
      Features smaller than that are not pooled.
    pool_above: Side in pixels of the largest features that are not pooled.
    batch_norm: Whether a batch norm follows the leaky ReLU.
  """

  filters: int
  kernel_size: int
  padding: str = "VALID"
  pool: int = 2
  pool_above: int = 0
  batch_norm: bool = False

  def __post_init__(self) -> None:
    checks.option("padding", self.padding, ("SAME", "VALID"))

  def pads(self, side: int) -> bool:
    """Whether features of a side in pixels, the shorter one, are padded."""
    # Unpadded, at least two pixels must be left to pool.
    return self.padding == "SAME" or side <= self.kernel_size

  def pools(self, side: int) -> bool:
    """Whether features of a side in pixels, the shorter one, are pooled."""
    return 0 < self.pool <= side and side > self.pool_above


class LocalisationNet(nnx.Module):
  """Convolutions and dense layers, then a head that starts at zero.

  The head has a zero kernel and a zero bias, and zero parameters are the
  identity in every transform family: an untrained net returns the identity for
  any features.

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
    convs: Sequence[LocalisationConv | tuple[int, int]] = ((20, 5), (20, 5)),
    dense: Sequence[int] = (20,),
    halve_input: str | None = None,
    slope: float = 0.0,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the layers.

    Args:
      in_shape: `(H, W, C)` of the features.
      num_params: Number of parameters to predict, such as
        `stnjax.transforms.num_params("affine")`.
      convs: Convolutions; a pair `(filters, kernel_size)` is short for
        `LocalisationConv(filters, kernel_size)`.
      dense: Widths of the hidden dense layers, each with a ReLU.
      halve_input: "mean" or "max" over 2 x 2 pixels of the features before the
        first layer; None for neither.
      slope: Negative slope of the leaky ReLU of the convolutions.
      init: Initialiser of all layers but the head, one of
        `initialisers.INITIALISERS`.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a shape that is not `(H, W, C)`, no parameters, or an
        unknown padding, halve_input or init.
    """
    checks.whole("num_params", num_params, 1)
    checks.option("halve_input", halve_input, (None, "mean", "max"))
    if len(in_shape) != 3:
      raise ValueError(f"in_shape must be (H, W, C), got {tuple(in_shape)}")
    self.in_shape = tuple(in_shape)
    self.slope = slope
    self.halve_input = halve_input
    flat = self._add_convs(
      [
        conv if isinstance(conv, LocalisationConv) else LocalisationConv(*conv)
        for conv in convs
      ],
      init,
      rngs,
    )
    sizes = [flat, *dense]
    self.hidden = nnx.List(
      [
        nnx.Linear(
          fan_in, fan_out, **initialisers.of_layer(init, fan_in), rngs=rngs
        )
        for fan_in, fan_out in zip(sizes, sizes[1:], strict=False)
      ]
    )
    self.head = nnx.Linear(
      sizes[-1],
      num_params,
      kernel_init=nnx.initializers.zeros_init(),
      rngs=rngs,
    )

  def _add_convs(
    self, convs: Sequence[LocalisationConv], init: str, rngs: nnx.Rngs
  ) -> int:
    """Makes the convolutions; returns the number of features behind them."""
    height, width, channels = self.in_shape
    if self.halve_input:
      height, width = height // 2, width // 2
    layers, norms, pools = [], {}, []
    for index, conv in enumerate(convs):
      size = conv.kernel_size
      padded = conv.pads(min(height, width))
      if not padded:
        height, width = height - size + 1, width - size + 1
      layers.append(
        nnx.Conv(
          channels,
          conv.filters,
          (size, size),
          padding="SAME" if padded else "VALID",
          **initialisers.of_layer(init, size**2 * channels),
          rngs=rngs,
        )
      )
      if conv.batch_norm:
        norms[str(index)] = nnx.BatchNorm(conv.filters, rngs=rngs)
      pools.append(conv.pool if conv.pools(min(height, width)) else 0)
      if pools[-1]:
        height = (height - conv.pool) // 2 + 1
        width = (width - conv.pool) // 2 + 1
      channels = conv.filters
    self.convs = nnx.List(layers)
    self.norms = nnx.Dict(norms)
    self.pools = tuple(pools)
    return height * width * channels

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
    x = features
    if self.halve_input == "mean":
      x = convolution.mean_pool(x, 2)
    elif self.halve_input == "max":
      x = convolution.max_pool(x, 2)
    for index, conv in enumerate(self.convs):
      x = self._convolved(index, conv, x)
    x = lax.collapse(x, 1)
    for layer in self.hidden:
      x = nnx.relu(layer(x))
    return self.head(x)

  def _convolved(self, index: int, conv: nnx.Conv, x: jax.Array) -> jax.Array:
    """Features behind a convolution, its activation, norm and pooling."""
    assert isinstance(conv.padding, str) and conv.bias is not None
    x = convolution.conv(x, conv.kernel[...], conv.padding)
    norm, pool = self.norms.get(str(index)), self.pools[index]
    if norm is not None:
      x = norm(nnx.leaky_relu(x + conv.bias[...], self.slope))
    if pool:
      x = convolution.max_pool(x, pool)
    if norm is None:
      # Last: the maximum is the same, the bias's gradient a shorter sum.
      x = nnx.leaky_relu(x + conv.bias[...], self.slope)
    return x
