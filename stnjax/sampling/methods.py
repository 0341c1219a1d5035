"""Sampling methods: the weights of the pixels around a place.

A method is one `Method` object in `METHODS`; registering another one makes
its name known to everything that takes `method`, on every platform:

  METHODS.register("smooth", Method(
    name="smooth", support=2, weights=lambda t: (1 - h(t), h(t))))
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from stnjax import checks
from stnjax.registry import Registry
from stnjax.sampling.padding import Padding, PaddingPerAxis


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Method:
  """Interpolation of an image between its pixels.

  A sample is a weighted sum of pixels, and its weights are a product of those
  along the axes.

  Attributes:
    name: Name of the method.
    support: Number of pixels along an axis that take part, an even number; 1
      with `weights=None`.
    weights: From the distance `[...]` to the pixel at or before the place, in
      [0, 1), to the `support` weights `[...]` of the pixels around it, in
      order. Differentiable; the weights sum to 1. None reads the nearest pixel
      as it is, in its own dtype.
    pads_position: Whether padding applies to the position of a sample, and not
      only to its pixels: the gradient is then zero where "border" clamps.
    prepare: From the image, points, padding, `align_corners` and `prefilter`
      to what is read instead: coefficients `[..., *shape, C]` and points in
      their pixels. For methods whose weights are not those of pixels; None for
      others. The image has one, two or three spatial axes, those of the last
      axis of the points.
    read: Replaces the weighted sum by another function with its values: from
      the image, points, random key (None unless `takes_key`) and a function
      `read(image, points, method)` to samples `[..., C]`. None for others.
    takes_key: Whether the method draws random numbers.
    takes_labels: Whether images are label maps, of integers or booleans, whose
      values are copied; `read` then finds the fill in samples of "nearest".

  Raises:
    ValueError: If `support` does not fit `weights`.
  """

  name: str
  support: int
  weights: Callable[[jax.Array], Sequence[jax.Array]] | None = None
  pads_position: bool = False
  prepare: (
    Callable[
      [jax.Array, jax.Array, Padding | PaddingPerAxis, bool, bool],
      tuple[jax.Array, jax.Array],
    ]
    | None
  ) = None
  read: Callable[..., jax.Array] | None = None
  takes_key: bool = False
  takes_labels: bool = False

  def __repr__(self) -> str:
    return f"<method {self.name!r}>"

  def __post_init__(self) -> None:
    checks.whole("support", self.support, 1)
    if self.weights is None and self.support != 1:
      accepted = "1 without weights"
    elif self.weights is not None and self.support % 2:
      accepted = "even with weights"
    else:
      return
    raise ValueError(
      f"support of method {self.name!r} must be {accepted}, got {self.support}"
    )

  @property
  def copies_pixels(self) -> bool:
    """Whether samples are pixels as they are, whatever their dtype."""
    return self.weights is None or self.takes_labels

  @property
  def takes_coefficients(self) -> bool:
    """Whether the image may already hold what `prepare` makes of it."""
    return self.prepare is not None


METHODS: Registry[Method] = Registry("method")
"""Sampling methods by name: the accepted values of `method`."""


def find(method: str | Method) -> Method:
  """The method of that name; a `Method` object is returned as it is.

  Args:
    method: Name of a method in `METHODS`, or a `Method`.

  Raises:
    ValueError: For an unknown name.
  """
  if isinstance(method, Method):
    return method
  checks.option("method", method, METHODS)
  return METHODS[method]


def _linear(t: jax.Array) -> tuple[jax.Array, ...]:
  return 1 - t, t


Polynomial = Callable[[Any], Any]
"""From a NumPy or JAX array to one of the same kind."""


def keys_polynomials(a: float) -> tuple[Polynomial, Polynomial]:
  """The cubic convolution kernel at distances below 1, and from 1 to 2.

  Args:
    a: Slope of the kernel at distance 1: -0.75 in torch and OpenCV, -0.5 in
      Catmull-Rom splines, which are exact for parabolas (Keys 1981, eq. 15).
  """

  def near(x: Any) -> Any:
    return ((a + 2) * x - (a + 3)) * x * x + 1

  def far(x: Any) -> Any:
    return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

  return near, far


def _keys(a: float, t: jax.Array) -> tuple[jax.Array, ...]:
  near, far = keys_polynomials(a)
  return far(t + 1), near(t), near(1 - t), far(2 - t)


def _lanczos(radius: int, t: jax.Array) -> tuple[jax.Array, ...]:
  """A windowed sinc (Duchon 1979), scaled to a sum of 1.

  The sines of all distances are one sine but for their signs, of the distance
  to the nearer pixel: exactly 0 at a pixel's centre.
  """
  near = jnp.where(t < 0.5, t, 1 - t)
  sine = near * jnp.sinc(near)  # sin(pi t) / pi
  weights = []
  for pixel in range(1 - radius, radius + 1):
    apart = t - pixel
    sign = 1 if pixel % 2 == 0 else -1
    closest = jnp.abs(apart) < 0.5
    away = sign * sine / jnp.where(closest, 1, apart)
    wave = jnp.where(closest, jnp.sinc(near), away)
    weights.append(wave * jnp.sinc(apart / radius))
  total = sum(weights[1:], weights[0])
  return tuple(weight / total for weight in weights)


NEAREST = Method(name="nearest", support=1, pads_position=True)
# The position is padded, and not only the pixels, so that gradients on the
# lattice are those of torch: zero where "border" clamps.
LINEAR = Method(name="linear", support=2, weights=_linear, pads_position=True)
CUBIC = Method(name="cubic", support=4, weights=functools.partial(_keys, -0.75))
CATMULL_ROM = Method(
  name="catmull_rom", support=4, weights=functools.partial(_keys, -0.5)
)
LANCZOS3, LANCZOS4 = (
  Method(
    name=f"lanczos{radius}",
    support=2 * radius,
    weights=functools.partial(_lanczos, radius),
  )
  for radius in (3, 4)
)

for _method in (NEAREST, LINEAR, CUBIC, CATMULL_ROM, LANCZOS3, LANCZOS4):
  METHODS.register(_method.name, _method)
