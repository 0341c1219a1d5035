"""Sampling grids: for each output pixel, the place to read in the input."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from stnjax import checks, coordinates, promotion
from stnjax.sampling import affine_maps, thinplate
from stnjax.transforms import frames, homogeneous


@promotion.usual
def affine_grid(
  matrix: ArrayLike,
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The grid of an affine or projective transform.

  Convention: `matrix` maps normalised output coordinates to normalised input
  coordinates; see `stnjax.coordinates`.

  Args:
    matrix: `[..., 2, 3]` or `[..., 3, 3]`; for volumes `[..., 3, 4]` or
      `[..., 4, 4]`.
    output_shape: Spatial shape of the grid, `(H, W)` or, for volumes,
      `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, N]` normalised coordinates, last axis (x, y) or
    (x, y, z), float32 or wider.

  Raises:
    ValueError: For a wrong shape of either argument.
    TypeError: For complex or boolean matrices, or sizes that are not integers.

  Gradient: exact with respect to `matrix`. Where the denominator of a
    projective transform vanishes, the coordinate is NaN (which samplers read
    as fill) and its gradient is zero.

  Reference: Jaderberg et al. 2015 (arXiv:1506.02025), eq. 1.

  >>> affine_grid(jnp.eye(2, 3), (1, 2)).tolist()
  [[[-0.5, 0.0], [0.5, 0.0]]]
  """
  theta, output_shape = _checked(matrix, output_shape)
  checks.flag("align_corners", align_corners)
  grid: jax.Array = _normalised_grid(theta, output_shape, align_corners)
  return grid


@promotion.usual
def affine_pixel_grid(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The grid of a transform in *pixel* coordinates of the input.

  Equals `to_pixels(affine_grid(matrix, output_shape), input_shape)`, without
  its rounding: the scale of the axes goes into the matrix, so that the
  identity and whole-pixel shifts give whole numbers, which fall exactly on
  pixel centres.

  Args:
    matrix: `[..., 2, 3]` or `[..., 3, 3]`; for volumes `[..., 3, 4]` or
      `[..., 4, 4]`.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    output_shape: Spatial shape of the grid, `(H, W)` or `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, N]` pixel coordinates, 0 at the first pixel's centre.

  Raises:
    ValueError: For a wrong shape, or shapes of different dimension.
  """
  theta, output_shape = _checked(matrix, output_shape)
  input_shape = checks.spatial_shape(
    "input_shape", input_shape, len(output_shape), symbolic=True
  )
  centred = frames.centred(
    theta, input_shape, output_shape, align_corners, rescale=True
  )
  grid: jax.Array = _points(Mapped(centred, input_shape, output_shape))
  return grid


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["matrix"],
  meta_fields=["input_shape", "output_shape"],
)
@dataclasses.dataclass(frozen=True)
class Mapped:
  """The points of `affine_pixel_grid`, not worked out yet.

  Attributes:
    matrix: `[..., N, N + 1]` or `[..., N + 1, N + 1]`, of `frames.centred`.
    input_shape: Spatial shape of the image.
    output_shape: Spatial shape of the grid.
  """

  matrix: jax.Array
  input_shape: tuple[int, ...]
  output_shape: tuple[int, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of the points."""
    num_axes = len(self.output_shape)
    return *self.matrix.shape[:-2], *self.output_shape, num_axes

  @property
  def is_affine(self) -> bool:
    """Whether the points are `affine_maps.places` of the matrix."""
    return self.matrix.shape[-2] == len(self.output_shape)

  def points(self) -> jax.Array:
    """The points, `[..., *output_shape, N]` pixel coordinates."""
    axes = affine_maps.axes(self.output_shape)
    return _map_axes(self.matrix, axes, coordinates.middle(self.input_shape))


# Compiled as a whole, so that a call outside `jit` is one dispatch.
_points = jax.jit(Mapped.points)


@promotion.usual
def jacobian(
  matrix: ArrayLike,
  input_shape: Sequence[int],
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The derivative of `affine_pixel_grid` with respect to output pixels.

  Args:
    matrix: `[..., 2, 3]` or `[..., 3, 3]`; for volumes `[..., 3, 4]` or
      `[..., 4, 4]`.
    input_shape: Spatial shape of the image, `(H, W)` or `(D, H, W)`.
    output_shape: Spatial shape of the grid, `(H, W)` or `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    d input / d output in pixels: `[..., N, N]` where `matrix` is affine, else
    `[..., *output_shape, N, N]`, NaN where the denominator of a projective
    transform vanishes.

  Raises:
    ValueError: For a wrong shape, or shapes of different dimension.
  """
  theta, output_shape = _checked(matrix, output_shape)
  input_shape = checks.spatial_shape(
    "input_shape", input_shape, len(output_shape), symbolic=True
  )
  centred = frames.centred(
    theta, input_shape, output_shape, align_corners, rescale=True
  )
  num_axes = len(output_shape)
  linear: jax.Array = centred[..., :num_axes, :num_axes]
  if centred.shape[-2] == num_axes:
    return linear
  axes = affine_maps.axes(output_shape)
  points = jnp.nan_to_num(_map_axes(centred, axes))
  per_pixel = (..., *[None] * num_axes, slice(None), slice(None))
  last = centred[..., -1:, :num_axes][per_pixel]
  # The quotient rule, with points = numerator / weight.
  change = linear[per_pixel] - points[..., None] * last
  return _divide(change, centred[..., -1, :], axes)


@promotion.usual
def tps_grid(
  offsets: ArrayLike,
  output_shape: Sequence[int],
  *,
  align_corners: bool = False,
) -> jax.Array:
  """The grid of a thin-plate spline through displaced control points.

  Convention: the control points are a regular lattice over [-1, 1], its
  outermost points at -1 and 1; each output place that is a control point reads
  the input at that point plus its offset, and in between the bending energy is
  least. Zero offsets are the identity, exactly.

  Args:
    offsets: `[..., K, K, 2]`, normalised units, rows of points along y; or
      `[..., K, K, K, 3]` for volumes. The axes may differ in K, each at least
      2.
    output_shape: Spatial shape of the grid, `(H, W)` or, for volumes,
      `(D, H, W)`.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    `[..., *output_shape, N]` normalised coordinates, float32 or wider.

  Raises:
    ValueError: For a wrong shape of either argument.
    TypeError: For complex or boolean offsets, or sizes that are not static.

  Gradient: exact; the grid is linear in the offsets.

  Reference: Bookstein 1989, "Principal warps"; in volumes the kernel is r
    instead of r^2 log r.

  >>> tps_grid(jnp.full((2, 2, 2), 0.25), (1, 1)).tolist()
  [[[0.25, 0.25]]]
  """
  offsets, num_axes = checked_field("offsets", offsets, least=2)
  output_shape = checks.spatial_shape(
    "output_shape",
    output_shape,
    num_axes,
    owner=f"offsets of shape {offsets.shape}",
  )
  lattice = coordinates.lattice(
    output_shape, align_corners=align_corners, dtype=offsets.dtype
  )
  return lattice + thinplate.displacement(
    offsets, output_shape, align_corners=align_corners
  )


# Compiled as a whole, so that a call outside `jit` is one dispatch.
@functools.partial(jax.jit, static_argnames=("output_shape", "align_corners"))
def _normalised_grid(
  theta: jax.Array, output_shape: tuple[int, ...], align_corners: bool
) -> jax.Array:
  if theta.shape[-2] == theta.shape[-1]:
    theta = homogeneous.rescaled(theta)
  extents = coordinates.nonzero_half_extents(output_shape, align_corners)
  axes = affine_maps.axes(output_shape)
  return _map_axes(theta, [axis / extents[i] for i, axis in enumerate(axes)])


def _map_axes(
  matrix: jax.Array,
  axes: Sequence[Any],
  offset: Any = None,
) -> jax.Array:
  """Applies a matrix to the lattice with the given values along x, y(, z)."""
  num_axes = len(axes)
  mapped = [
    affine_maps.row(matrix[..., row, :], axes) for row in range(num_axes)
  ]
  if matrix.shape[-2] > num_axes:
    stacked = _divide(jnp.stack(mapped, axis=-1), matrix[..., -1, :], axes)
    mapped = jnp.unstack(stacked, axis=-1)
  if offset is not None:
    offset = offset.astype(matrix.dtype)
    mapped = [m + o for m, o in zip(mapped, offset, strict=True)]
  # Stacked last, so that XLA finds the coordinates where they are taken apart.
  return jnp.stack(mapped, axis=-1)


def _divide(
  numerator: jax.Array, row: jax.Array, axes: Sequence[Any]
) -> jax.Array:
  """The quotient by a row on the lattice; NaN, without gradient, if none."""
  weight, size = (
    affine_maps.row(row, axes),
    affine_maps.row(jnp.abs(row), [abs(a) for a in axes]),
  )
  # Below, the weight is the rounding of terms that cancel.
  least = 4 * jnp.finfo(weight.dtype).eps * size
  further = (..., *[None] * (numerator.ndim - weight.ndim))
  weight, least = weight[further], least[further]
  defined = jnp.isfinite(numerator) & jnp.isfinite(weight)
  defined &= jnp.abs(weight) > least
  # What is divided is masked too, or the gradient of the mask would be NaN.
  quotient = jnp.where(defined, numerator, 0) / jnp.where(defined, weight, 1)
  return jnp.where(defined, quotient, jnp.nan)


def _checked(
  matrix: ArrayLike, output_shape: Sequence[int]
) -> tuple[jax.Array, tuple[int, ...]]:
  theta = checks.matrix("matrix", matrix)
  num_axes = theta.shape[-1] - 1
  output_shape = checks.spatial_shape(
    "output_shape",
    output_shape,
    num_axes,
    owner=f"matrix of shape {theta.shape}",
    symbolic=True,
  )
  return theta, output_shape


def checked_field(
  name: str, field: ArrayLike, least: int = 1
) -> tuple[jax.Array, int]:
  """Returns a field as float32 or wider, and its number of axes, or raises."""
  field = checks.floating(name, field)
  num_axes = field.shape[-1] if field.ndim else 0
  if (
    num_axes not in (2, 3)
    or field.ndim < num_axes + 1
    or not checks.at_least(name, field.shape[-num_axes - 1 : -1], least)
  ):
    raise ValueError(
      f"{name} must be [..., h, w, 2], or [..., d, h, w, 3] for volumes, with"
      f" sizes of at least {least}, got shape {field.shape}"
    )
  return field, num_axes
