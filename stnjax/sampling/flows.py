"""Displacement and velocity fields: their grids, composed and inverted."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates, promotion
from stnjax.sampling import grids, sampler

UNITS = ("normalised", "pixels")


@promotion.usual
def flow_grid(
  displacement: ArrayLike,
  *,
  units: str = "normalised",
  align_corners: bool = False,
) -> jax.Array:
  """The grid of a displacement field: the identity lattice plus the field.

  Convention: `stnjax.coordinates`. Each output pixel reads the input at its
  own place plus the displacement: with `units="pixels"`, backward optical flow.

  Args:
    displacement: `[..., h, w, 2]`, or `[..., d, h, w, 3]` for volumes, last
      axis (x, y) or (x, y, z).
    units: Unit of the displacement: "normalised", or "pixels" of an image of
      the field's shape.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The normalised coordinates, in the shape of `displacement`, float32 or
    wider.

  Raises:
    ValueError: For a wrong shape or unknown units.
    TypeError: For complex or boolean displacements.

  Gradient: the identity, in normalised units.

  Reference: the "dense displacement field" of image registration.

  >>> flow_grid(jnp.full((1, 2, 2), 0.25)).tolist()
  [[[-0.25, 0.25], [0.75, 0.25]]]
  """
  field, shape = _checked("displacement", displacement, units, align_corners)
  if units == "pixels":
    field = field * coordinates.units_per_pixel(shape, align_corners).astype(
      field.dtype
    )
  return field + coordinates.lattice(
    shape, align_corners=align_corners, dtype=field.dtype
  )


@promotion.usual
def velocity_grid(
  velocity: ArrayLike,
  *,
  steps: int = 7,
  units: str = "normalised",
  align_corners: bool = False,
) -> jax.Array:
  """The grid of the flow along a velocity field for unit time.

  A diffeomorphism, where the field is smooth at the scale of its pixels:
  `velocity_grid(-velocity)` undoes it. Scaling and squaring: the field over
  `2 ** steps` is a displacement, which is composed with itself `steps` times.

  Convention: `stnjax.coordinates`. Outside, the field is that of its edge.

  Args:
    velocity: `[..., h, w, 2]`, or `[..., d, h, w, 3]` for volumes, last axis
      (x, y) or (x, y, z).
    steps: Number of squarings, at least 0. Enough if the field over
      `2 ** steps` moves nothing by more than about half a pixel.
    units: Unit of the velocity: "normalised", or "pixels" of an image of the
      field's shape.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges.

  Returns:
    The normalised coordinates, in the shape of `velocity`, float32 or wider.

  Raises:
    ValueError: For a wrong shape, unknown units, or `steps` below 0.
    TypeError: For complex or boolean velocities, or `steps` that is not an
      integer.

  Gradient: that of the steps, each a linear interpolation.

  Reference: Arsigny et al. 2006, "A log-Euclidean framework for statistics on
    diffeomorphisms"; Dalca et al. 2018 (arXiv:1805.04605).

  >>> velocity_grid(jnp.full((1, 1, 2), 0.25)).tolist()
  [[[0.25, 0.25]]]
  """
  field, shape = _checked("velocity", velocity, units, align_corners)
  checks.whole("steps", steps, 0)
  scale = _pixels_per_unit(shape, units, align_corners).astype(field.dtype)

  # The gradient keeps the field before each step and nothing from within.
  @jax.checkpoint
  def square(displacement: jax.Array, _: None) -> tuple[jax.Array, None]:
    return displacement + _moved(displacement, displacement, scale), None

  displacement, _ = jax.lax.scan(square, field / 2**steps, length=steps)
  return flow_grid(displacement, units=units, align_corners=align_corners)


@promotion.usual
def compose_flows(
  *displacements: ArrayLike,
  units: str = "normalised",
  align_corners: bool = False,
) -> jax.Array:
  """One displacement field for several: the last one is applied first.

  Convention: that of `transforms.compose`. An image read at
  `flow_grid(compose_flows(a, b))` is the image read at `flow_grid(a)`, and the
  result at `flow_grid(b)`, but blurred once. Between its pixels a field is
  interpolated linearly; outside, it is that of its edge.

  Args:
    *displacements: At least one `[..., h, w, 2]`, or `[..., d, h, w, 3]` for
      volumes, of one spatial shape, last axis (x, y) or (x, y, z); batch axes
      broadcast.
    units: Unit of the displacements and of the result: "normalised", or
      "pixels" of an image of the field's shape.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges, for normalised units.

  Returns:
    `[..., h, w, 2]` or `[..., d, h, w, 3]`, float32 or wider.

  Raises:
    ValueError: For no field, a wrong shape, different spatial shapes, batch
      axes that do not broadcast, unknown units.
    TypeError: For complex or boolean displacements.

  Gradient: that of linear interpolation; see `grid_sample`.

  >>> shift = jnp.full((1, 2, 2), 0.25)
  >>> compose_flows(shift, 2 * shift).tolist()
  [[[0.75, 0.75], [0.75, 0.75]]]
  """
  if not displacements:
    raise ValueError("compose_flows needs at least one displacement, got none")
  fields = [
    _checked("displacements", d, units, align_corners) for d in displacements
  ]
  result, shape = fields[-1]
  scale = _pixels_per_unit(shape, units, align_corners).astype(result.dtype)
  for field, other in reversed(fields[:-1]):
    if other != shape:
      raise ValueError(
        f"displacements must have one spatial shape, got {other} and {shape}"
      )
    batch = -len(shape) - 1
    checks.batch(
      "displacements", field.shape[:batch], "others", result.shape[:batch]
    )
    result = result + _moved(field, result, scale)
  return result


@promotion.usual
def invert_flow(
  displacement: ArrayLike,
  *,
  steps: int = 20,
  units: str = "normalised",
  align_corners: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """The displacement field that undoes another one, and its residual.

  By a fixed point: the inverse at a place is minus the field at the place that
  it leads to. It converges where the field changes by less than a pixel per
  pixel, and the faster, the smoother the field is; where it folds, there is no
  inverse. **Look at the residual**: below about 0.1 pixels the inverse is good.

  Args:
    displacement: `[..., h, w, 2]`, or `[..., d, h, w, 3]` for volumes, last
      axis (x, y) or (x, y, z). Outside, it is that of its edge.
    steps: Number of iterations, at least 1.
    units: Unit of the displacement and of its inverse: "normalised", or
      "pixels" of an image of the field's shape.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges, for normalised units.

  Returns:
    The inverse, in the shape of `displacement`, and the residual `[..., h, w]`
    or `[..., d, h, w]`: the length, in pixels, of
    `compose_flows(displacement, inverse)`; both float32 or wider.

  Raises:
    ValueError: For a wrong shape, unknown units, or `steps` below 1.
    TypeError: For complex or boolean displacements, or `steps` that is not an
      integer.

  Gradient: that of the iterations; none of the residual.

  Reference: Chen et al. 2008, "A simple fixed-point approach to invert a
    deformation field".

  >>> inverse, residual = invert_flow(jnp.full((1, 2, 2), 0.25))
  >>> inverse.tolist(), residual.tolist()
  ([[[-0.25, -0.25], [-0.25, -0.25]]], [[0.0, 0.0]])
  """
  field, shape = _checked("displacement", displacement, units, align_corners)
  checks.whole("steps", steps, 1)
  scale = _pixels_per_unit(shape, units, align_corners).astype(field.dtype)

  @jax.checkpoint
  def step(inverse: jax.Array, _: None) -> tuple[jax.Array, None]:
    return -_moved(field, inverse, scale), None

  inverse, _ = jax.lax.scan(step, -field, length=steps)
  rest = jax.lax.stop_gradient(inverse + _moved(field, inverse, scale)) * scale
  return inverse, jnp.sqrt((rest * rest).sum(-1))


@promotion.usual
def jacobian_determinant(
  displacement: ArrayLike,
  *,
  units: str = "normalised",
  align_corners: bool = False,
) -> jax.Array:
  """Factor by which a displacement field stretches the image at each pixel.

  The determinant of the derivative of `place + displacement`: 1 for the
  identity; above 1, the output shows more of the input, and objects shrink; at
  or below 0, the field folds. By central differences, one-sided on the edges,
  as `numpy.gradient`; a field of one pixel along an axis does not change along
  it.

  Args:
    displacement: `[..., h, w, 2]`, or `[..., d, h, w, 3]` for volumes, last
      axis (x, y) or (x, y, z).
    units: Unit of the displacement: "normalised", or "pixels" of an image of
      the field's shape.
    align_corners: Whether -1 and 1 are the centres of the corner pixels
      instead of their outer edges, for normalised units.

  Returns:
    `[..., h, w]` or `[..., d, h, w]`, float32 or wider.

  Raises:
    ValueError: For a wrong shape or unknown units.
    TypeError: For complex or boolean displacements.

  Gradient: exact.

  >>> jacobian_determinant(jnp.zeros((1, 2, 2))).tolist()
  [[1.0, 1.0]]
  """
  field, shape = _checked("displacement", displacement, units, align_corners)
  checks.static("displacement", shape)
  scale = _pixels_per_unit(shape, units, align_corners).astype(field.dtype)
  pixels, num_axes = field * scale, len(shape)
  rows: list[jax.Array] = []
  for place in range(num_axes):  # the change along x, y(, z)
    change = jnp.zeros_like(pixels)
    if shape[num_axes - 1 - place] > 1:
      change = jnp.gradient(pixels, axis=-2 - place)
    rows.append(change + np.eye(num_axes)[place].astype(field.dtype))
  if num_axes == 2:
    x, y = rows
    return x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
  x, y, z = rows
  return (x * jnp.cross(y, z)).sum(-1)


def _moved(field: jax.Array, by: jax.Array, scale: Any) -> jax.Array:
  """A field read at the places that another one leads to."""
  shape = field.shape[-field.shape[-1] - 1 : -1]
  # In pixels, whose lattice is whole numbers.
  lattice = coordinates.pixel_lattice(shape).astype(field.dtype)
  return sampler.sample_pixels(field, lattice + by * scale, padding="border")


def _pixels_per_unit(
  shape: Sequence[int], units: str, align_corners: bool
) -> Any:
  """Pixels per unit along x, y(, z)."""
  if units == "pixels":
    return np.ones(len(shape))
  return coordinates.half_extents(shape, align_corners)


def _checked(
  name: str, field: ArrayLike, units: str, align_corners: bool
) -> tuple[jax.Array, tuple[int, ...]]:
  """A field as float32 or wider, and its spatial shape, or an error."""
  checked, num_axes = grids.checked_field(name, field)
  checks.option("units", units, UNITS)
  checks.flag("align_corners", align_corners)
  return checked, checked.shape[-num_axes - 1 : -1]
