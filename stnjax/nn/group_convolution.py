"""Group convolutions: filters that are applied in several orientations.

A lifting convolution correlates an image with each of its filters in G
orientations; a group convolution does so for features that have orientations,
and shifts the orientations that a filter reads as it turns. Turning the image
turns the features, and shifts their orientations: they are equivariant.

Convention: features are `[B, h, w, F * G]`, filter f in orientation g is
channel `f * G + g`, and orientation g is the filter turned counter-clockwise,
as images are drawn, by `360 * g / G` degrees. With `turn` the counter-clockwise
turn of images by `360 / G` degrees,

  features(turn(x))[..., f, g] = turn(features(x))[..., f, g - 1].

Quarter turns copy filters exactly, and all taps are learned if G = 4. Other
turns resample filters by `sampling.warp` with method="cubic". Only the taps
inside the disc that fits the kernel are then learned: one in a corner has no
place in the kernel once turned by 45 degrees. What still leaves the kernel is
made up for: every turned tap keeps its sum, so that flat regions look the same
in all orientations. After a turn by 45 degrees, features of random 5 x 5 to
9 x 9 filters and smooth images differ by less than 6 %, those of 3 x 3 filters
by less than 20 %; without the disc and the sums, by 30 to 45 %.

Equivariance to quarter turns is exact, but for rounding, with padding "VALID"
or an odd kernel: "SAME" pads even kernels by one pixel more at the end.

Reference: Cohen and Welling 2016 (arXiv:1602.07576).
"""

import functools

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import checks, promotion, transforms
from stnjax.nn import convolution, initialisers
from stnjax.sampling.warping import warp


class _OrientedConv(nnx.Module):
  """A convolution with filters in several orientations."""

  def __init__(
    self,
    inputs: tuple[int, ...],
    filters: int,
    kernel_size: int,
    *,
    orientations: int,
    padding: str,
    use_bias: bool,
    init: str,
    rngs: nnx.Rngs,
  ):
    """Makes the parameters; `inputs` is the shape of the inputs of a tap."""
    checks.option("padding", padding, ("SAME", "VALID"))
    checks.whole("filters", filters, 1)
    taps = len(kernel_taps(kernel_size, orientations))
    self.kernel_size = kernel_size
    self.orientations = orientations
    self.padding = padding
    self.channels = int(np.prod(inputs))
    made = initialisers.of_layer(init, taps * self.channels)
    shape = (taps, *inputs, filters)
    self.kernel = nnx.Param(
      made["kernel_init"](rngs.params(), shape, jnp.float32)
    )
    self.bias = (
      nnx.Param(made["bias_init"](rngs.params(), (filters,), jnp.float32))
      if use_bias
      else None
    )

  def expanded_kernel(self) -> jax.Array:
    """The filters in all orientations as the kernel of a convolution."""
    raise NotImplementedError

  @promotion.usual
  def convolve(self, x: jax.Array) -> jax.Array:
    """Convolves without adding the bias; see `__call__`."""
    if x.ndim != 4 or x.shape[-1] != self.channels:
      raise ValueError(
        f"{type(self).__name__} takes features [B, H, W, {self.channels}], got"
        f" shape {x.shape}"
      )
    return convolution.conv(x, self.expanded_kernel(), self.padding)

  @promotion.usual
  def add_bias(self, x: jax.Array) -> jax.Array:
    """Adds the bias of each filter to its orientations.

    Args:
      x: `[B, h, w, F * G]`.
    """
    if self.bias is None:
      return x
    return x + jnp.repeat(self.bias[...], self.orientations)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Convolves with stride 1, and adds the bias.

    Args:
      x: `[B, H, W, C]`, the number of channels that the convolution was made
        for.

    Returns:
      `[B, h, w, F * G]`, in the dtype that features and parameters promote to.

    Raises:
      ValueError: For features of another shape.
    """
    return self.add_bias(self.convolve(x))


class LiftingConv(_OrientedConv):
  """Convolution of images with filters in several orientations.

  Attributes:
    kernel: `[T, C, F]`, the T taps of `kernel_taps`.
    bias: `[F]`, shared by the orientations of a filter; None for no bias.

  Reference: Cohen and Welling 2016 (arXiv:1602.07576), section 6.1.

  >>> conv = LiftingConv(1, 6, 5, orientations=8, rngs=nnx.Rngs(0))
  >>> conv(jnp.zeros((2, 28, 28, 1))).shape
  (2, 28, 28, 48)
  """

  def __init__(
    self,
    channels: int,
    filters: int,
    kernel_size: int,
    *,
    orientations: int,
    padding: str = "SAME",
    use_bias: bool = True,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the parameters.

    Args:
      channels: Number of channels C of the images.
      filters: Number of filters F, each in all orientations.
      kernel_size: Pixels along a side of the kernel.
      orientations: Number of orientations G, a multiple of 4.
      padding: "SAME", or "VALID" for none.
      use_bias: Whether a bias is added.
      init: Initialiser, one of `initialisers.INITIALISERS`.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a number of orientations that is not a multiple of 4, a
        number below 1, or an unknown padding or init.
    """
    checks.whole("channels", channels, 1)
    super().__init__(
      (channels,),
      filters,
      kernel_size,
      orientations=orientations,
      padding=padding,
      use_bias=use_bias,
      init=init,
      rngs=rngs,
    )

  @promotion.usual
  def expanded_kernel(self) -> jax.Array:
    """The filters in all orientations, `[k, k, C, F * G]`."""
    turned = turned_kernels(
      self.kernel[...], self.kernel_size, self.orientations
    )
    return lax.collapse(jnp.moveaxis(turned, 0, -1), 3)


class GroupConv(_OrientedConv):
  """Convolution of features that have orientations, by filters that turn.

  Output orientation g reads, of input orientation h, the weights for the
  difference `(h - g) mod G`.

  Attributes:
    kernel: `[T, C, G, F]`, the T taps of `kernel_taps`, of C input filters at
      each difference of orientations.
    bias: `[F]`, shared by the orientations of a filter; None for no bias.

  Reference: Cohen and Welling 2016 (arXiv:1602.07576), section 6.1.

  >>> conv = GroupConv(6, 10, 5, orientations=8, rngs=nnx.Rngs(0))
  >>> conv(jnp.zeros((2, 14, 14, 48))).shape
  (2, 14, 14, 80)
  """

  def __init__(
    self,
    filters_in: int,
    filters: int,
    kernel_size: int,
    *,
    orientations: int,
    padding: str = "SAME",
    use_bias: bool = True,
    init: str = "lecun_normal",
    rngs: nnx.Rngs,
  ):
    """Makes the parameters.

    Args:
      filters_in: Number of filters C of the features `[B, H, W, C * G]`.
      filters: Number of filters F, each in all orientations.
      kernel_size: Pixels along a side of the kernel.
      orientations: Number of orientations G, a multiple of 4.
      padding: "SAME", or "VALID" for none.
      use_bias: Whether a bias is added.
      init: Initialiser, one of `initialisers.INITIALISERS`.
      rngs: Keys for the initial values.

    Raises:
      ValueError: For a number of orientations that is not a multiple of 4, a
        number below 1, or an unknown padding or init.
    """
    checks.whole("filters_in", filters_in, 1)
    check_orientations(orientations)
    super().__init__(
      (filters_in, orientations),
      filters,
      kernel_size,
      orientations=orientations,
      padding=padding,
      use_bias=use_bias,
      init=init,
      rngs=rngs,
    )

  @promotion.usual
  def expanded_kernel(self) -> jax.Array:
    """The filters in all orientations, `[k, k, C * G, F * G]`."""
    turned = turned_kernels(
      self.kernel[...], self.kernel_size, self.orientations
    )
    # [k, k, C, G, F, G]: what orientation g reads is shifted by g.
    shifted = jnp.stack(
      [jnp.roll(each, g, axis=3) for g, each in enumerate(turned)], axis=-1
    )
    rows, columns, *_, filters, count = shifted.shape
    return shifted.reshape(rows, columns, self.channels, filters * count)


def split_orientations(features: jax.Array, orientations: int) -> jax.Array:
  """Features by filter and orientation.

  Args:
    features: `[..., F * G]`.
    orientations: Number of orientations G.

  Returns:
    `[..., F, G]`.

  Raises:
    ValueError: If the channels are not a multiple of the orientations.
  """
  *batch, channels = features.shape
  if channels % orientations:
    raise ValueError(
      f"features must have a multiple of orientations={orientations} channels,"
      f" got {channels}"
    )
  return features.reshape(*batch, channels // orientations, orientations)


def check_orientations(orientations: int) -> None:
  """Raises unless a number of orientations is a multiple of 4.

  Raises:
    ValueError: For another number.
    TypeError: For a value that is not an int.
  """
  checks.whole("orientations", orientations, 4)
  if orientations % 4:
    raise ValueError(
      f"orientations must be a multiple of 4, got {orientations}"
    )


def kernel_taps(kernel_size: int, orientations: int) -> np.ndarray:
  """The pixels of a kernel that have weights.

  All of them for 4 orientations, else those whose centres lie in the disc that
  fits the kernel: no further than half its side from its centre.

  Args:
    kernel_size: Pixels along a side of the kernel.
    orientations: Number of orientations, a multiple of 4.

  Returns:
    `[T]`, indices into the `kernel_size**2` pixels, row by row, increasing.

  Raises:
    ValueError: For a number of orientations that is not a multiple of 4, or a
      size below 1.
  """
  checks.whole("kernel_size", kernel_size, 1)
  check_orientations(orientations)
  if orientations == 4:
    return np.arange(kernel_size**2)
  twice = 2 * np.arange(kernel_size) - (kernel_size - 1)  # from the centre
  distances = twice[:, None] ** 2 + twice**2
  return np.flatnonzero(distances <= kernel_size**2)


@promotion.usual
def turned_kernels(
  kernel: jax.Array, kernel_size: int, orientations: int
) -> jax.Array:
  """Kernels turned counter-clockwise to every orientation.

  Args:
    kernel: `[T, ...]`, weights of the taps of `kernel_taps`.
    kernel_size: Pixels along a side k of the kernel.
    orientations: Number of orientations G, a multiple of 4.

  Returns:
    `[G, k, k, ...]` in the dtype of the kernel. Quarter turns are copies.

  Gradient: With respect to the kernel, in which the result is linear.
  """
  taps = kernel_taps(kernel_size, orientations)
  flat = kernel.reshape(len(taps), -1)
  upright = jnp.zeros((kernel_size**2, flat.shape[1]), flat.dtype)
  first = upright.at[taps].set(flat)[None]
  if orientations > 4:
    wide = jnp.promote_types(flat.dtype, jnp.float32)
    turned = jnp.einsum(
      "gpt,tn->gpn",
      jnp.asarray(_rotations(kernel_size, orientations), wide),
      flat.astype(wide),
      precision=lax.Precision.HIGHEST,
    )
    first = jnp.concatenate([first, turned.astype(flat.dtype)])
  first = first.reshape(-1, kernel_size, kernel_size, *kernel.shape[1:])
  return jnp.concatenate(
    [jnp.rot90(first, turns, axes=(1, 2)) for turns in range(4)]
  )


@functools.lru_cache(maxsize=64)
def _rotations(kernel_size: int, orientations: int) -> np.ndarray:
  """Rotations by less than a quarter turn as matrices.

  Returns:
    `[G / 4 - 1, k * k, T]`, from weights of taps to pixels of the kernel. The
    pixels of each tap sum to 1.
  """
  angles = 2 * np.pi * np.arange(1, orientations // 4) / orientations
  every = np.eye(kernel_size**2).reshape(kernel_size, kernel_size, -1)
  turn = jax.jit(
    functools.partial(warp, method="cubic", implementation="gather")
  )
  # Constants, also where the layer is traced.
  with jax.ensure_compile_time_eval(), jax.enable_x64(True):
    turned = turn(every, transforms.rotation(angles))
    turned = np.asarray(turned).reshape(len(angles), kernel_size**2, -1)
  turned = turned[..., kernel_taps(kernel_size, orientations)]
  scaled: np.ndarray = turned / turned.sum(axis=1, keepdims=True)
  return scaled
