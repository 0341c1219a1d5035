"""From stored images to a network's input, on the device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import data
from stnjax.nn import convolution


@dataclasses.dataclass(frozen=True, eq=False)
class Preparation:
  """Perturbs, downsamples and normalises images.

  Attributes:
    perturbation: Perturbation of the images.
    mean: Mean of each channel of the pixels, subtracted after perturbing.
    std: Standard deviation of each channel, divided by.
    downsample: Factor by which perturbed images are downsampled, at least 1.
  """

  perturbation: data.Perturbation
  mean: tuple[float, ...]
  std: tuple[float, ...]
  downsample: int = 1

  def __call__(
    self,
    keys: jax.Array,
    images: jax.Array,
    clutter_images: jax.Array | None = None,
    train: bool = False,
  ) -> tuple[jax.Array, data.Truth]:
    """Prepares a batch.

    Args:
      keys: `[B]` keys, one per image.
      images: `[B, H, W, C]`, uint8.
      clutter_images: `[N, h, w, C]`, uint8, from which clutter is cut, for a
        perturbation that needs it.
      train: Whether the images are for training: an augmentation perturbs only
        those.

    Returns:
      The input of the network `[B, h, w, C]`, float32, and the truth of the
      perturbation, `{}` where none is known.
    """
    scaled = images.astype(jnp.float32) / 255
    truth: data.Truth = {}
    if train or not self.perturbation.augments:
      scaled, truth = data.perturb(
        keys, scaled, self.perturbation, clutter_images
      )
    if self.downsample > 1:
      scaled = convolution.mean_pool(scaled, self.downsample)
    mean, std = self._statistics()
    return (scaled - mean) / std, truth

  def to_pixels(self, inputs: jax.Array) -> jax.Array:
    """Undoes the normalisation: pixels with values about [0, 1]."""
    mean, std = self._statistics()
    return inputs * std + mean

  def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, `[C]`, float32."""
    return np.array(self.mean, np.float32), np.array(self.std, np.float32)
