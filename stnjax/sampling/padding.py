"""Padding: how an image continues outside.

A padding is one `Padding` object in `PADDINGS`.
"""

from collections.abc import Callable, Collection, Sequence
import dataclasses
from typing import Any

import jax
from jax import lax
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

from stnjax import checks, primitives
from stnjax.registry import Registry


@dataclasses.dataclass(frozen=True, kw_only=True, repr=False)
class Padding:
  """How an image continues outside.

  `align_corners` says where "reflection" mirrors: at the centres of the
  outermost pixels instead of their outer edges.

  Attributes:
    name: Name of the padding.
    apply: From positions `[...]` in pixels, the size of the axis and
      `align_corners` to the positions inside that stand for them; as given
      where the outside is a fill. Compiled code finds the same ones by
      `pixel_after` and `period` alone.
    pixel_after: From the size of the axis and `align_corners` to the index of
      the pixel that stands right after the last one; -1 where the outside is a
      fill.
    period: From the size of the axis and `align_corners` to the number of
      pixels after which the image repeats, continued by pixels that are
      mirrored where `pixel_after` is not 0. None where all places far outside
      are alike.
    pad_mode: From `align_corners` to the mode of `jnp.pad` that continues the
      image so.
    fills: Whether the outside is a fill: 0, or with `takes_fill_value` a value
      that is given.
    takes_fill_value: Whether the fill is the option `fill_value`.
  """

  name: str
  apply: Callable[[jax.Array, int, bool], jax.Array]
  pixel_after: Callable[[int, bool], int]
  pad_mode: Callable[[bool], str]
  period: Callable[[int, bool], int] | None = None
  fills: bool = False
  takes_fill_value: bool = False

  def along(self, axis: int) -> "Padding":
    """The padding of an axis: this one along all of them."""
    del axis
    return self

  def __repr__(self) -> str:
    return f"<padding {self.name!r}>"

  @property
  def repeats(self) -> bool:
    """Whether places far outside differ."""
    return self.period is not None


def apply_padding(
  position: jax.Array, size: int, padding: Padding, align_corners: bool
) -> jax.Array:
  """Brings coordinates of any size into the image.

  Args:
    position: `[...]` pixel coordinates along an axis; NaN stays.
    size: Pixels of the axis.
    padding: The padding.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.

  Returns:
    `[...]`; where the outside is a fill, coordinates outside stay there.
  """
  return padding.apply(bound(position, size, padding), size, align_corners)


def bound(position: jax.Array, size: int, padding: Padding) -> jax.Array:
  """Clamps coordinates to finite ones that read the same; NaN stays.

  Args:
    position: `[...]` pixel coordinates along an axis.
    size: Pixels of the axis, at most `checks.MAX_SIZE`.
    padding: The padding.

  Returns:
    `[...]`. Where all places far outside are alike, within the range of int32.
    Zero gradient where clamped: `lax.clamp` has none at or beyond its bounds.
  """
  if padding.repeats:
    limit = float(jnp.finfo(position.dtype).max) / 8
  elif checks.is_static(size):
    # Beyond 1 / eps floats are whole numbers: nothing is blended there.
    limit = max(1 / float(jnp.finfo(position.dtype).eps), size + 8)
    limit = min(limit, checks.MAX_SIZE)
  else:
    limit = checks.MAX_SIZE
  limit = position.dtype.type(limit)
  return lax.clamp(-limit, position, limit)


def near(
  position: jax.Array,
  size: int,
  padding: Padding,
  align_corners: bool,
  *,
  support: int,
) -> jax.Array:
  """Brings coordinates next to the image, where taps are what is padded.

  Args:
    position: `[...]` pixel coordinates along an axis; NaN stays.
    size: Pixels of the axis.
    padding: The padding.
    align_corners: Whether "reflection" mirrors at the centres of the outermost
      pixels instead of their outer edges.
    support: Number of taps along the axis.

  Returns:
    `[...]` coordinates that read the same: less than a period from 0 where the
    image repeats, else at most `support` pixels outside.
  """
  if padding.period is None:
    first, last = -support, size - 1 + support
    return lax.clamp(_like(position, first), position, _like(position, last))
  period = padding.period(size, align_corners)
  return _remainder(bound(position, size, padding), period)


def _clamp(position: jax.Array, size: int, align_corners: bool) -> jax.Array:
  del align_corners
  # `lax.clamp` does not promote.
  return lax.clamp(_like(position, 0), position, _like(position, size - 1))


def _reflect(position: jax.Array, size: int, align_corners: bool) -> jax.Array:
  low, high = (0, size - 1) if align_corners else (-0.5, size - 0.5)
  rest = _remainder(position, _reflected_period(size, align_corners))
  # Mirrored by the sign of the position, as in torch, whose gradient at the
  # mirrors this gives.
  rest = jnp.where(position < low, _like(position, 2 * low) - rest, rest)
  position = jnp.where(rest < high, rest, _like(position, 2 * high) - rest)
  return _clamp(position, size, align_corners)


def _pixel_after_reflected(size: int, align_corners: bool) -> int:
  return max(size - 2, 0) if align_corners else size - 1


def _reflected_period(size: int, align_corners: bool) -> int:
  if not align_corners:
    return 2 * size
  largest: Any = max if checks.is_static(size) else jnp.maximum
  period: int = largest(2 * size - 2, 1)
  return period


def _wrap(position: jax.Array, size: int, align_corners: bool) -> jax.Array:
  del align_corners
  period = _like(position, size)
  rest = _remainder(position, size)
  rest = jnp.where(rest < 0, rest + period, rest)
  # The sum rounds up to a whole period just below 0.
  return jnp.where(rest < period, rest, rest - period)


def _like(position: jax.Array, value: Any) -> Any:
  """A number in the dtype of positions; those of symbolic sizes are arrays."""
  if isinstance(value, int | float):
    return position.dtype.type(value)
  return jnp.asarray(value).astype(position.dtype)


def _remainder(position: jax.Array, period: Any) -> jax.Array:
  """The exact remainder of a division, with the sign of the position.

  Not by the floor of a quotient: XLA multiplies by the rounded reciprocal of a
  constant, so that whole multiples of some periods come out one period off.
  """
  known = isinstance(period, int) and position.dtype in (
    jnp.float32,
    jnp.float64,
  )
  if known and primitives.supports(position):
    rest: jax.Array = REMAINDER.bind(position, period=period)
    return rest
  return divided(position, period=period)


def divided(position: jax.Array, *, period: Any) -> jax.Array:
  """The remainder by XLA, which calls a function for each number on CPU."""
  return lax.rem(position, lax.full_like(position, _like(position, period)))


REMAINDER = primitives.define(
  "stnjax_sampler_remainder", lambda shape, period: [shape], ("period",)
)
"""The remainder of positions; compiled on CPU, see `kernels.operations`."""


def _change_remainder(
  operands: Sequence[Any], changes: Sequence[Any], **options: Any
) -> tuple[jax.Array, Any]:
  return REMAINDER.bind(*operands, **options), changes[0]


def _batch_remainder(
  operands: Sequence[Any], dims: Sequence[int], **options: Any
) -> tuple[jax.Array, int]:
  return REMAINDER.bind(*operands, **options), dims[0]


mlir.register_lowering(REMAINDER, primitives.lowering(divided))
ad.primitive_jvps[REMAINDER] = _change_remainder
batching.primitive_batchers[REMAINDER] = _batch_remainder


ZEROS = Padding(
  name="zeros",
  apply=lambda position, size, align_corners: position,
  pixel_after=lambda size, align_corners: -1,
  pad_mode=lambda align_corners: "constant",
  fills=True,
)
CONSTANT = dataclasses.replace(ZEROS, name="constant", takes_fill_value=True)
BORDER = Padding(
  name="border",
  apply=_clamp,
  pixel_after=lambda size, align_corners: size - 1,
  pad_mode=lambda align_corners: "edge",
)
REFLECTION = Padding(
  name="reflection",
  apply=_reflect,
  pixel_after=_pixel_after_reflected,
  pad_mode=lambda align_corners: "reflect" if align_corners else "symmetric",
  period=_reflected_period,
)
WRAP = Padding(
  name="wrap",
  apply=_wrap,
  pixel_after=lambda size, align_corners: 0,
  pad_mode=lambda align_corners: "wrap",
  period=lambda size, align_corners: size,
)

PADDINGS: Registry[Padding] = Registry("padding")
"""Paddings by name: the accepted values of `padding`."""

for _padding in (ZEROS, CONSTANT, BORDER, REFLECTION, WRAP):
  PADDINGS.register(_padding.name, _padding)

UNFILLED = tuple(
  name for name, padding in PADDINGS.items() if not padding.takes_fill_value
)
"""Values of `padding` that take no `fill_value`."""


@dataclasses.dataclass(frozen=True)
class PaddingPerAxis:
  """Different paddings along the axes of an image.

  Attributes:
    paddings: Paddings along x, y(, z).
  """

  paddings: tuple[Padding, ...]

  def along(self, axis: int) -> Padding:
    """The padding of an axis, 0 for x."""
    return self.paddings[axis]

  @property
  def takes_fill_value(self) -> bool:
    """Whether the fill of an axis is the option `fill_value`."""
    return any(padding.takes_fill_value for padding in self.paddings)

  @property
  def fills(self) -> bool:
    """Whether the outside is a fill along an axis."""
    return any(padding.fills for padding in self.paddings)

  @property
  def name(self) -> tuple[str, ...]:
    """Names of the paddings in array order."""
    return tuple(padding.name for padding in reversed(self.paddings))


def find(
  padding: Any, num_axes: int, *, accepted: Collection[str] | None = None
) -> Padding | PaddingPerAxis:
  """The padding of a name, or those of one name per spatial axis.

  Args:
    padding: Name in `PADDINGS`, or `num_axes` names in array order, (y, x) or
      (z, y, x).
    num_axes: Number of spatial axes.
    accepted: Names to choose from; those in `PADDINGS` by default.

  Raises:
    ValueError: For an unknown name, another number of names, or both "zeros"
      and "constant".
  """
  accepted = PADDINGS if accepted is None else accepted
  if not isinstance(padding, tuple | list):
    checks.option("padding", padding, accepted)
    return PADDINGS[padding]
  if len(padding) != num_axes:
    order = "(y, x)" if num_axes == 2 else "(z, y, x)"
    raise ValueError(
      f"padding must be a name or {num_axes} names, {order},"
      f" got {checks.shown(padding)}"
    )
  for name in padding:
    checks.option("padding", name, accepted)
  if {ZEROS.name, CONSTANT.name} <= set(padding):
    raise ValueError(
      "padding must not have both 'zeros' and 'constant', as a corner is"
      f" outside along both axes, got {checks.shown(padding)}"
    )
  if len(set(padding)) == 1:
    return PADDINGS[padding[0]]
  return PaddingPerAxis(tuple(PADDINGS[name] for name in reversed(padding)))


def clamped(padding: Padding | PaddingPerAxis) -> Padding | PaddingPerAxis:
  """The same padding with "border" along the axes on which it fills."""
  if isinstance(padding, Padding):
    return BORDER if padding.fills else padding
  return PaddingPerAxis(
    tuple(BORDER if along.fills else along for along in padding.paddings)
  )
