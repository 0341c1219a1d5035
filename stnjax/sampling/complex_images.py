"""Complex images: real and imaginary part are sampled alike."""

from collections.abc import Callable
import functools
import inspect
from typing import Any, TypeVar, cast

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])


def by_parts(function: _Function) -> _Function:
  """Makes a function of a real image take a complex one.

  Args:
    function: Linear in its first argument, an array, and in `fill_value` if it
      has one. Returns an array, or one and others that depend on neither.

  Returns:
    The function, whose fill may be complex where its image is.
  """
  first = next(iter(inspect.signature(function).parameters))

  @functools.wraps(function)
  def call(*args: Any, **kwargs: Any) -> Any:
    given = args[0] if args else kwargs.get(first)
    if not _is_complex(given):
      return function(*args, **kwargs)
    options = {k: v for k, v in kwargs.items() if k != first}
    image, fill = jnp.asarray(given), options.pop("fill_value", 0)
    parts = {first: jnp.stack([image.real, image.imag])}
    number = isinstance(fill, complex | float | int | np.number)
    if not number or fill != 0:
      fill = jnp.asarray(fill)
      parts["fill_value"] = jnp.stack([fill.real, fill.imag])

    def run(part: dict[str, jax.Array]) -> Any:
      return function(part.pop(first), *args[1:], **part, **options)

    found = jax.vmap(run)(parts)
    if not isinstance(found, tuple):
      return lax.complex(found[0], found[1])
    result, *others = found
    return lax.complex(result[0], result[1]), *(other[0] for other in others)

  return cast(_Function, call)


def _is_complex(value: Any) -> bool:
  # The value can be a list of arrays.
  dtypes = [getattr(x, "dtype", type(x)) for x in jax.tree.leaves(value)]
  return any(jnp.issubdtype(dtype, np.complexfloating) for dtype in dtypes)
