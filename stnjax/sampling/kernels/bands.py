"""Products with banded matrices along an axis, as an operation of JAX.

On CPU it is a function of sampler.cc, where setup.py could compile it, which
does not read what lies outside of the band; elsewhere the product with the
whole matrix.
"""

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

from stnjax import primitives, promotion
from stnjax.sampling.kernels import library


def product(array: jax.Array, matrix: np.ndarray, axis: int) -> jax.Array:
  """Multiplies a matrix with an array along an axis.

  Args:
    array: `[..., S, ...]`, float32, float64 or uint8.
    matrix: `[K, S]`, fast where the numbers of each row, and of each column,
      that are not 0 are close together.
    axis: The axis, from 0 on.

  Returns:
    `[..., K, ...]`, float32 or float64.
  """
  dtype = jnp.promote_types(array.dtype, jnp.float32)
  starts, taps = _band(matrix)
  starts_down, taps_down = _band(matrix.T)
  operands = promotion.match_varying_axes(
    jnp.asarray(matrix, dtype),
    array,
    *map(jnp.asarray, (starts, starts_down)),
  )
  options = {"axis": axis, "taps": (taps, taps_down), "transposed": False}
  if not primitives.supports(array):
    return _product(*operands, **options)
  result: jax.Array = _PRODUCT.bind(*operands, **options)
  return result


def _band(matrix: np.ndarray) -> tuple[np.ndarray, int]:
  """Where each row begins, `[K]`, and how many of its numbers are enough."""
  count, size = matrix.shape
  if not matrix.size:
    return np.zeros(count, np.int32), 0
  used = matrix != 0
  first = used.argmax(axis=1)
  end = np.where(used.any(axis=1), size - used[:, ::-1].argmax(axis=1), first)
  taps = int((end - first).max(initial=0))
  return np.minimum(first, size - taps).astype(np.int32), taps


def _product(
  matrix: jax.Array,
  array: jax.Array,
  *starts: jax.Array,
  axis: int,
  taps: tuple[int, int],
  transposed: bool,
) -> jax.Array:
  del starts, taps
  axes = list(range(array.ndim))
  row = array.ndim
  array = array.astype(matrix.dtype)
  result: jax.Array = jnp.einsum(
    *(matrix, [axis, row] if transposed else [row, axis], array, axes),
    [row if a == axis else a for a in axes],
    precision=lax.Precision.HIGHEST,
  )
  return result


def _result_shapes(
  matrix: Sequence[int],
  array: Sequence[int],
  *starts: Sequence[int],
  axis: int,
  taps: tuple[int, int],
  transposed: bool,
) -> list[tuple[int, ...]]:
  return [(*array[:axis], matrix[transposed], *array[axis + 1 :])]


_PRODUCT = primitives.define(
  "stnjax_sampler_band", _result_shapes, options=("axis", "taps", "transposed")
)
_by_einsum = primitives.lowering(_product)
_call = jax.ffi.ffi_lowering(_PRODUCT.name)


def _lower_for_cpu(
  context: Any, *operands: Any, taps: tuple[int, int], **options: Any
) -> Any:
  if not (library.is_compiled() and library.may_call(context)):
    return _by_einsum(context, *operands, taps=taps, **options)
  return _call(
    context,
    *operands,
    axis=np.int64(options["axis"]),
    taps=np.int64(taps[0]),
    transposed=options["transposed"],
  )


def _change(
  operands: Sequence[Any], changes: Sequence[Any], **options: Any
) -> tuple[Any, Any]:
  matrix, array, *starts = operands
  value = _PRODUCT.bind(matrix, array, *starts, **options)
  if array.dtype == jnp.uint8 or type(changes[1]) is ad.Zero:
    return value, ad.Zero(jax.typeof(value).to_tangent_aval())
  return value, _PRODUCT.bind(matrix, changes[1], *starts, **options)


def _transpose(
  cotangent: Any,
  matrix: Any,
  array: Any,
  starts: Any,
  starts_down: Any,
  *,
  axis: int,
  taps: tuple[int, int],
  transposed: bool,
) -> tuple[None, Any, None, None]:
  to_array = _PRODUCT.bind(
    *(matrix, cotangent, starts_down, starts),
    axis=axis,
    taps=taps[::-1],
    transposed=not transposed,
  )
  return None, to_array, None, None


def _batch(
  operands: Sequence[Any],
  dims: Sequence[int | None],
  *,
  axis: int,
  **options: Any,
) -> tuple[jax.Array, int]:
  matrix, array, *starts = operands
  moved = jnp.moveaxis(array, dims[1], 0)
  return _PRODUCT.bind(matrix, moved, *starts, axis=axis + 1, **options), 0


mlir.register_lowering(_PRODUCT, _by_einsum)
mlir.register_lowering(_PRODUCT, _lower_for_cpu, platform="cpu")
ad.primitive_jvps[_PRODUCT] = _change
ad.primitive_transposes[_PRODUCT] = _transpose
batching.primitive_batchers[_PRODUCT] = _batch
