"""Receptive fields of stacked windows, such as convolutions and poolings."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from stnjax import promotion


class Window(NamedTuple):
  """A convolution or a pooling along an axis.

  Attributes:
    size: Pixels that a result reads.
    stride: Pixels from one result to the next.
    padding: Pixels of padding before the first.
  """

  size: int
  stride: int = 1
  padding: int = 0


class ReceptiveField(NamedTuple):
  """Position and extent of features in the image, in pixels, each `(x, y)`.

  Feature i along an axis sees the image from `first + step * i - reach` to
  `first + step * i + reach`, both included. The fields are those of
  `stnjax.alignability.Geometry`.
  """

  first: tuple[float, float]
  step: tuple[float, float]
  reach: tuple[float, float]


class Field(Protocol):
  """The part of a receptive field that `input_from_features` reads."""

  @property
  def first(self) -> tuple[float, float]:
    """Centre of the field of the first feature, `(x, y)`."""

  @property
  def step(self) -> tuple[float, float]:
    """Distance between neighbouring features, `(x, y)`."""


def receptive_field(windows: Iterable[Window]) -> ReceptiveField:
  """The receptive field of features behind some windows.

  Args:
    windows: In the order in which the image passes through them; none for the
      image itself.

  >>> receptive_field([Window(5), Window(2, stride=2)])
  ReceptiveField(first=(2.5, 2.5), step=(2.0, 2.0), reach=(2.5, 2.5))
  """
  first, step, reach = 0.0, 1.0, 0.0
  for window in windows:
    half = (window.size - 1) / 2
    first += step * (half - window.padding)
    reach += step * half
    step *= window.stride
  return ReceptiveField((first,) * 2, (step,) * 2, (reach,) * 2)


@promotion.usual
def input_from_features(
  field: Field, shape: Sequence[int], image_shape: Sequence[int]
) -> jax.Array:
  """The transform from coordinates of a feature map to those of the image.

  Unpadded convolutions leave out the border, so that a feature map spans less
  than the image: a shift by its width is a smaller shift of the image.

  Args:
    field: Receptive field, or `alignability.Geometry`, of the features.
    shape: `(H, W, ...)` of the features.
    image_shape: `(H, W, ...)` of the image.

  Returns:
    `[2, 3]`, from normalised coordinates of the features to those of the image.
  """
  scales, shifts = [], []
  for axis, along in ((0, 1), (1, 0)):
    first, step = field.first[axis], field.step[axis]
    size, whole = shape[along], image_shape[along]
    scales.append(step * size / whole)
    shifts.append((2 * first + step * (size - 1) + 1) / whole - 1)
  return jnp.array([[scales[0], 0, shifts[0]], [0, scales[1], shifts[1]]])
