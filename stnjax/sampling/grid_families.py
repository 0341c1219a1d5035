"""Transform families of grids, and grids from the parameters of any family."""

from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from stnjax import checks, coordinates, promotion
from stnjax.sampling import flows, grids, sampler
from stnjax.transforms import families
from stnjax.transforms.families import FAMILIES, Family

_CONTROLS = 4  # points of "thin_plate" along an axis
_VELOCITIES = 6  # points of "velocity" along an axis


@promotion.usual
def family_grid(
  params: ArrayLike, family: str | Family, output_shape: Sequence[int]
) -> jax.Array:
  """The grid of a transform family; zero parameters are the identity lattice.

  Convention: `stnjax.coordinates`, with `align_corners=False`. Families of
  matrices are those of `transforms.matrix`; families of grids are:

  - thin_plate: offsets of 4 x 4 control points (4 x 4 x 4 for volumes) whose
    outermost ones are at -1 and 1, row by row, each (x, y) or (x, y, z); see
    `tps_grid`.
  - velocity: a velocity field on 6 x 6 points (6 x 6 x 6 for volumes), row by
    row, each (x, y) or (x, y, z), interpolated linearly. Coordinates flow along
    it for unit time; see `velocity_grid`.

  Args:
    params: `[..., num_params(family, num_axes=N)]`, real, for an output shape
      of N sizes; offsets and velocities in normalised units.
    family: Name of a family in `transforms.FAMILIES`, or a `Family`.
    output_shape: Spatial shape of the grid, `(H, W)` or, for volumes,
      `(D, H, W)`.

  Returns:
    `[..., *output_shape, N]` normalised coordinates, float32 or wider.

  Raises:
    ValueError: For an unknown family, a wrong number of parameters, a wrong
      shape.
    TypeError: For complex or boolean parameters, sizes that are not integers,
      or symbolic sizes of an exported program with "thin_plate".

  Gradient: with respect to the parameters, nonzero at zero.

  >>> import jax.numpy as jnp
  >>> family_grid(jnp.array([0.25, 0.0]), "translation", (1, 2)).tolist()
  [[[-0.25, 0.0], [0.75, 0.0]]]
  """
  family = families.find(family)
  output_shape = checks.spatial_shape(
    "output_shape", output_shape, symbolic=True
  )
  num_axes = len(output_shape)
  params = families.checked_params(params, family, num_axes)
  if family.matrix is not None:
    return grids.affine_grid(family.matrix(params, num_axes), output_shape)
  assert family.grid is not None, "a family has one of both"
  return family.grid(params, output_shape)


def _thin_plate(params: jax.Array, output_shape: tuple[int, ...]) -> jax.Array:
  offsets = _on_points(params, _CONTROLS, len(output_shape))
  return grids.tps_grid(offsets, output_shape)


def _velocity(params: jax.Array, output_shape: tuple[int, ...]) -> jax.Array:
  coarse = _on_points(params, _VELOCITIES, len(output_shape))
  field = sampler.grid_sample(
    coarse,
    coordinates.lattice(output_shape, dtype=params.dtype),
    padding="border",
    align_corners=True,  # the outermost points are at -1 and 1
  )
  return flows.velocity_grid(field)


def _on_points(params: jax.Array, count: int, num_axes: int) -> jax.Array:
  """Vectors `[..., *points, N]`, `count` points along each axis."""
  return params.reshape(*params.shape[:-1], *[count] * num_axes, num_axes)


for _family in (
  Family(
    name="thin_plate",
    num_params=lambda num_axes: _CONTROLS**num_axes * num_axes,
    grid=_thin_plate,
  ),
  Family(
    name="velocity",
    num_params=lambda num_axes: _VELOCITIES**num_axes * num_axes,
    grid=_velocity,
  ),
):
  FAMILIES.register(_family.name, _family)
