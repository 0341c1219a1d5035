"""What arrays share, whatever mode the caller is in: dtypes, axes of meshes."""

from collections.abc import Callable
import functools
from typing import ParamSpec, TypeVar

import jax
from jax import lax

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def usual(
  function: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
  """Makes a function independent of JAX's strict promotion modes.

  Each function documents and checks the shapes and dtypes that it accepts and
  returns. Its own arithmetic relies on promotion, which
  `jax_numpy_rank_promotion="raise"` and `jax_numpy_dtype_promotion="strict"`
  would refuse.

  Args:
    function: Traced while it is called, with neither mode on.

  Returns:
    The function.
  """

  @functools.wraps(function)
  def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
    with (
      jax.numpy_rank_promotion("allow"),
      jax.numpy_dtype_promotion("standard"),
    ):
      return function(*args, **kwargs)

  return call


def match_varying_axes(*operands: jax.Array) -> list[jax.Array]:
  """Under `shard_map`, operands that vary over the same axes of the mesh."""

  def varying_axes(operand: jax.Array) -> frozenset[str]:
    kind = jax.typeof(operand)
    kind = getattr(kind, "manual_axis_type", kind)  # JAX 0.10 has `vma` alone
    axes: frozenset[str] = getattr(
      kind, "varying", getattr(kind, "vma", frozenset())
    )
    return axes

  every = frozenset().union(*map(varying_axes, operands))
  missing = [tuple(every - varying_axes(operand)) for operand in operands]
  return [
    lax.pcast(operand, axes, to="varying") if axes else operand
    for operand, axes in zip(operands, missing, strict=True)
  ]
