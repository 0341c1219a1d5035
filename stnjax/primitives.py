"""New operations of JAX."""

from collections.abc import Callable, Sequence
import contextlib
import functools
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import mlir

from stnjax import promotion


def define(
  name: str,
  shapes: Callable[..., list[tuple[int, ...]]],
  options: Sequence[str],
  *,
  dtype: Callable[[Any], Any] = lambda first: first,
  multiple_results: bool = False,
) -> core.Primitive:
  """An operation on arrays, without rules to lower or differentiate it.

  Outside `jit` it runs as a program of its own. Its results vary over the axes
  of a mesh as the last operand does.

  Args:
    name: of the operation.
    shapes: Shapes of its results, given those of its operands, and its options.
    options: Names of the options, which are not traced.
    dtype: Dtype of its results, given that of the first operand.
    multiple_results: Whether it returns a list.
  """
  primitive = core.Primitive(name)
  primitive.multiple_results = multiple_results

  @functools.partial(jax.jit, static_argnames=tuple(options))
  def compiled(*operands: Any, **values: Any) -> Any:
    return primitive.bind(*operands, **values)

  @jax.disable_jit(False)
  def evaluated(*operands: Any, **values: Any) -> Any:
    return compiled(*operands, **values)

  def abstract(*operands: Any, **values: Any) -> Any:
    first, last = operands[0], operands[-1]
    results = []
    for shape in shapes(*(operand.shape for operand in operands), **values):
      sharding = jax.NamedSharding(
        last.sharding.mesh, jax.P(*[None] * len(shape))
      )
      results.append(
        last.update(shape=shape, dtype=dtype(first.dtype), sharding=sharding)
      )
    return results if multiple_results else results[0]

  primitive.def_impl(evaluated)
  primitive.def_abstract_eval(abstract)
  return primitive


def lowering(
  function: Callable[..., Any], *, multiple_results: bool = False
) -> Any:
  """The rule to lower an operation to what a function does.

  The function is traced while a program is lowered, when the modes of JAX can
  be others than when the operation was traced.
  """

  @promotion.usual
  def run(*operands: Any, **options: Any) -> Any:
    with contextlib.ExitStack() as modes:
      if any(operand.dtype.itemsize >= 8 for operand in operands):
        modes.enter_context(jax.enable_x64(True))
      return function(*operands, **options)

  return mlir.lower_fun(run, multiple_results)


def supports(*arrays: jax.Array) -> bool:
  """Whether operations can take arrays: they have no rules for shardings."""
  return all(
    jax.sharding.AxisType.Explicit
    not in jax.typeof(array).sharding.mesh.axis_types
    for array in arrays
  )


def call_compiled(
  name: str,
  operands: Sequence[jax.Array],
  shape: Sequence[int],
  dtype: Any,
  **attributes: Any,
) -> jax.Array:
  """Calls compiled code by XLA's foreign function interface.

  Args:
    name: of the function.
    operands: Its operands; the result varies over the axes of a mesh as the
      first one does.
    shape: of the result.
    dtype: of the result.
    **attributes: Of the call.
  """
  called = jax.ffi.ffi_call(name, jax.ShapeDtypeStruct(tuple(shape), dtype))
  result, _ = promotion.match_varying_axes(
    called(*operands, **attributes), operands[0]
  )
  return result
