"""Checks of arguments: errors name the argument, its value, and accepted ones.

They run while a function is traced, so they cost nothing in a compiled step.
"""

from collections.abc import Collection, Sequence
import inspect
import re
from typing import Any
import warnings

import jax
from jax import export
import jax.numpy as jnp
import numpy as np

MAX_SIZE = 2**30
"""Pixels of the longest axis of an image, whose indices are 32-bit."""

# Fewer rows than columns, and many channels: the channels probably come first.
_FEW, _MANY = 4, 16

_LIBRARY = re.compile(r"(stnjax|jax)\.")

_BYTES = (jnp.bool_, jnp.int8, jnp.uint8)

_LONGEST = 80  # characters of a value in a message


def shown(value: Any) -> str:
  """A value for a message: arrays by shape and dtype, others truncated."""
  if isinstance(value, np.ndarray | jax.Array):
    return f"an array of shape {value.shape}, dtype {value.dtype}"
  text = " ".join(repr(value).split())
  return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def option(name: str, value: Any, accepted: Collection[Any]) -> None:
  """Raises unless `value` is one of those `accepted`."""
  plain = value.item() if isinstance(value, np.generic) else value
  if not any(type(plain) is type(a) and plain == a for a in accepted):
    listed = ", ".join(repr(a) for a in accepted)
    raise ValueError(f"{name}={shown(value)} is unknown; accepted: {listed}")


def flag(name: str, value: Any) -> None:
  """Raises unless `value` is True or False, known while tracing."""
  if not isinstance(value, bool | np.bool_):
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def whole(name: str, value: Any, least: int) -> None:
  """Raises unless `value` is a Python int of at least `least`."""
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} must be an int, got {shown(value)}")
  if value < least:
    raise ValueError(f"{name} must be at least {least}, got {value}")


def is_static(*sizes: Any) -> bool:
  """Whether no size is a symbolic dimension of an exported program."""
  return not any(export.is_symbolic_dim(size) for size in sizes)


def static(name: str, sizes: Sequence[Any], purpose: str = "") -> None:
  """Raises if a size is a symbolic dimension of an exported program."""
  if not is_static(*sizes):
    raise TypeError(
      f"{name} must have static spatial sizes{purpose}, got {tuple(sizes)};"
      " batch axes may be symbolic; export a program for each size"
    )


def at_least(name: str, sizes: Sequence[Any], least: int) -> bool:
  """Whether all sizes reach the least; raises if symbols leave it open."""
  try:
    return all(size >= least for size in sizes)
  except jax.errors.InconclusiveDimensionOperation:
    raise ValueError(
      f"{name} must have sizes that are known to be at least {least}, got"
      f" {tuple(sizes)}; add constraints, as"
      " jax.export.symbolic_shape('h, w', constraints=('h >= 2', 'w >= 2'))"
    ) from None


def spatial_shape(
  name: str,
  shape: Any,
  num_axes: int | None = None,
  *,
  owner: str = "",
  symbolic: bool = False,
) -> tuple[int, ...]:
  """Returns `shape` as a tuple of positive Python ints, or raises.

  Args:
    name: Name of the argument.
    shape: The argument.
    num_axes: Accepted number of sizes; None for 2 or 3.
    owner: Argument that determines the number, for messages: "matrix of shape
      (2, 3)".
    symbolic: Whether sizes may also be symbolic dimensions.
  """
  layouts: dict[int | None, str] = {2: "(H, W)", 3: "(D, H, W)"}
  layout = layouts.get(num_axes, "(H, W) or (D, H, W)")
  try:
    sizes: tuple[Any, ...] = tuple(
      s if export.is_symbolic_dim(s) else int(s) for s in shape
    )
    integral = all(s == t for s, t in zip(sizes, shape, strict=True))
  except (TypeError, ValueError, OverflowError):
    raise TypeError(
      f"{name} must be a static {layout} of ints, got {shown(shape)}"
    ) from None
  if not symbolic:
    static(name, sizes)
  accepted = (2, 3) if num_axes is None else (num_axes,)
  positive = integral and at_least(name, sizes, 1)
  if not positive or len(sizes) not in accepted:
    given = sizes if integral and len(sizes) <= 8 else shape
    reason = f" for {owner}" if owner else ""
    raise ValueError(
      f"{name} must be {layout}{reason}, with sizes of at least 1,"
      f" got {shown(given)}"
    )
  return sizes


def real(name: str, value: Any) -> jax.Array:
  """Returns `value` as an array of real numbers or booleans, or raises."""
  array: jax.Array | None
  try:
    array = jnp.asarray(value)
  except (TypeError, ValueError):
    array = _swapped(value)
  if array is None:
    raise TypeError(f"{name} must hold real numbers, got {shown(value)}")
  kinds = (jnp.floating, jnp.integer, jnp.bool_)
  known = any(jnp.issubdtype(array.dtype, kind) for kind in kinds)
  # Floats and integers of fewer bits do not mix with others, in JAX.
  if not known or array.dtype.itemsize < 2 and array.dtype not in _BYTES:
    raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
  return array


def _swapped(value: Any) -> jax.Array | None:
  """Converts an array in the other byte order, which JAX does not take."""
  try:
    array = np.asarray(value)
    return jnp.asarray(array.astype(array.dtype.newbyteorder("=")))
  except (TypeError, ValueError):
    return None


def floating(name: str, array: Any) -> jax.Array:
  """Returns `array` as float32 or wider; raises for complex and bool."""
  array = real(name, array)
  if array.dtype == jnp.bool_:
    raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def coordinates(name: str, array: Any, num_axes: int) -> jax.Array:
  """Returns coordinates `[..., num_axes]` as float32 or wider, or raises."""
  array = floating(name, array)
  if array.ndim < 1 or array.shape[-1] != num_axes:
    order = "(x, y)" if num_axes == 2 else "(x, y, z)"
    raise ValueError(
      f"{name} must end in an axis of {num_axes}, {order},"
      f" got shape {array.shape}"
    )
  return array


def matrix(name: str, array: Any) -> jax.Array:
  """Returns a transform matrix as float32 or wider, or raises.

  Accepted are `[..., 2, 3]`, `[..., 3, 3]`, `[..., 3, 4]` and `[..., 4, 4]`.
  """
  array = floating(name, array)
  if array.shape[-2:] not in ((2, 3), (3, 3), (3, 4), (4, 4)):
    raise ValueError(
      f"{name} must be [..., 2, 3] (affine) or [..., 3, 3] (projective), or"
      f" [..., 3, 4] or [..., 4, 4] for volumes, got shape {array.shape}"
    )
  return array


def image(
  name: str, array: Any, num_axes: int, *, symbolic: bool = False
) -> jax.Array:
  """Returns an image with `num_axes` spatial axes and channels, or raises.

  Args:
    name: Name of the argument.
    array: The argument.
    num_axes: Number of spatial axes.
    symbolic: Whether its spatial sizes may be symbolic dimensions.
  """
  array = real(name, array)
  layout = "[..., H, W, C]" if num_axes == 2 else "[..., D, H, W, C]"
  if array.ndim < num_axes + 1:
    raise ValueError(f"{name} must be {layout}, got shape {array.shape}")
  *sizes, channels = array.shape[-num_axes - 1 :]
  if not is_static(channels):
    raise TypeError(
      f"{name} must have a static number of channels, got shape {array.shape}"
    )
  if not symbolic:
    static(name, sizes)
  if not at_least(name, sizes, 1):
    raise ValueError(
      f"{name} must be {layout} with spatial sizes of at least 1,"
      f" got shape {array.shape}"
    )
  if max(filter(is_static, sizes), default=0) > MAX_SIZE:
    raise ValueError(
      f"{name} must have at most {MAX_SIZE} pixels along an axis, got shape"
      f" {array.shape}"
    )
  return array


def channels_last(name: str, shape: Sequence[int], num_axes: int) -> None:
  """Warns if the shape of an image looks like channels first."""
  first, *rest = shape[-num_axes - 1 :]
  if not is_static(first, *rest):
    return
  if first <= _FEW < min(rest[:-1]) and rest[-1] >= _MANY:
    layout = "[..., H, W, C]" if num_axes == 2 else "[..., D, H, W, C]"
    warnings.warn(
      f"{name} of shape {tuple(shape)} is read as {layout}, with {rest[-1]}"
      f" channels; if its channels come first, use jnp.moveaxis({name},"
      f" {-num_axes - 1}, -1)",
      stacklevel=_outside_the_library(),
    )


def _outside_the_library() -> int:
  """Level of the stack of the line that called the library."""
  frame, level = inspect.currentframe(), 0
  while frame and _LIBRARY.match(frame.f_globals.get("__name__", "")):
    frame, level = frame.f_back, level + 1
  return level


def batch(
  name_a: str,
  shape_a: Sequence[int],
  name_b: str,
  shape_b: Sequence[int],
  advice: str = "",
) -> None:
  """Raises unless two batch shapes broadcast against each other."""
  try:
    jnp.broadcast_shapes(tuple(shape_a), tuple(shape_b))
  except ValueError:
    raise ValueError(
      f"the batch axes of {name_a} and {name_b} must broadcast, got"
      f" {tuple(shape_a)} and {tuple(shape_b)}{advice}"
    ) from None
