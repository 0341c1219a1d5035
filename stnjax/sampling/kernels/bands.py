"""Products with banded matrices along an axis, as an operation of JAX.

On CPU it is a function of sampler.cc, where setup.py could compile it, which
does not read what lies outside of the band; elsewhere the product with the
whole matrix.
"""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
import numpy as np

from stnjax import primitives
from stnjax.sampling.kernels import library


@dataclasses.dataclass(frozen=True, eq=False)
class Band:
  """The numbers of a matrix that are not 0; bands compare by their numbers.

  Attributes:
    size: Number of columns.
    starts: `[K]`, the first column of each row, int32.
    weights: `[K, T]`, the numbers of each row from there on.
  """

  size: int
  starts: np.ndarray
  weights: np.ndarray

  @classmethod
  def of(cls, matrix: np.ndarray) -> "Band":
    """The band of a matrix `[K, size]`, small if its numbers are together."""
    count, size = matrix.shape
    used = matrix != 0
    if not used.any():
      return cls(size, np.zeros(count, np.int32), np.zeros((count, 0)))
    first = used.argmax(axis=1)
    end = np.where(used.any(axis=1), size - used[:, ::-1].argmax(axis=1), first)
    taps = int((end - first).max())
    starts = np.minimum(first, size - taps)
    columns = starts[:, None] + np.arange(taps)
    weights = np.take_along_axis(matrix, columns, axis=1)
    return cls(size, starts.astype(np.int32), weights)

  @property
  def matrix(self) -> np.ndarray:
    """The matrix, `[K, size]`."""
    count, taps = self.weights.shape
    matrix = np.zeros((count, self.size))
    columns = self.starts[:, None] + np.arange(taps)
    np.put_along_axis(matrix, columns, self.weights, axis=1)
    return matrix

  @functools.cached_property
  def transposed(self) -> "Band":
    """The band of the transposed matrix."""
    return Band.of(self.matrix.T)

  @functools.cached_property
  def _key(self) -> tuple[Any, ...]:
    arrays = self.starts, self.weights
    return self.size, self.weights.shape, *(a.tobytes() for a in arrays)

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Band) and self._key == other._key

  def __hash__(self) -> int:
    return hash(self._key)


def product(array: jax.Array, band: Band, axis: int) -> jax.Array:
  """Multiplies a matrix `[K, S]` with an array along an axis.

  Args:
    array: `[..., S, ...]`, float32, float64 or uint8.
    band: Of the matrix.
    axis: The axis, from 0 on.

  Returns:
    `[..., K, ...]`, float32 or float64.
  """
  if not primitives.supports(array):
    return _by_einsum(array, band=band, axis=axis)
  result: jax.Array = _PRODUCT.bind(array, band=band, axis=axis)
  return result


def _floating(dtype: Any) -> Any:
  return jnp.promote_types(dtype, jnp.float32)


def _by_einsum(array: jax.Array, *, band: Band, axis: int) -> jax.Array:
  array = array.astype(_floating(array.dtype))
  axes, row = list(range(array.ndim)), array.ndim
  result: jax.Array = jnp.einsum(
    *(band.matrix.astype(array.dtype), [row, axis], array, axes),
    [row if a == axis else a for a in axes],
    precision=lax.Precision.HIGHEST,
  )
  return result


def _compiled(array: jax.Array, *, band: Band, axis: int) -> jax.Array:
  (shape,) = _shapes(array.shape, band=band, axis=axis)
  dtype = _floating(array.dtype)
  operands = array, jnp.asarray(band.weights, dtype), jnp.asarray(band.starts)
  return primitives.call_compiled(
    _PRODUCT.name, operands, shape, dtype, axis=np.int64(axis)
  )


def _shapes(
  array: Sequence[int], *, band: Band, axis: int
) -> list[tuple[int, ...]]:
  return [(*array[:axis], len(band.starts), *array[axis + 1 :])]


_PRODUCT = primitives.define(
  "stnjax_sampler_band", _shapes, options=("band", "axis"), dtype=_floating
)


def _change(
  operands: Sequence[Any], changes: Sequence[Any], **options: Any
) -> tuple[Any, Any]:
  value = _PRODUCT.bind(*operands, **options)
  if operands[0].dtype == jnp.uint8 or type(changes[0]) is ad.Zero:
    return value, ad.Zero(jax.typeof(value).to_tangent_aval())
  return value, _PRODUCT.bind(*changes, **options)


def _transpose(
  cotangent: Any, array: Any, *, band: Band, axis: int
) -> tuple[Any]:
  del array
  return (_PRODUCT.bind(cotangent, band=band.transposed, axis=axis),)


def _batch(
  operands: Sequence[Any], dims: Sequence[int], *, band: Band, axis: int
) -> tuple[jax.Array, int]:
  moved = jnp.moveaxis(operands[0], dims[0], 0)
  return _PRODUCT.bind(moved, band=band, axis=axis + 1), 0


_elsewhere = primitives.lowering(_by_einsum)
mlir.register_lowering(_PRODUCT, _elsewhere)
mlir.register_lowering(
  _PRODUCT,
  library.lowering(primitives.lowering(_compiled), _elsewhere),
  platform="cpu",
)
ad.primitive_jvps[_PRODUCT] = _change
ad.primitive_transposes[_PRODUCT] = _transpose
batching.primitive_batchers[_PRODUCT] = _batch
