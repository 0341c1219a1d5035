"""Grids of canonical coordinates, in which a transform is a shift.

Read through one of them, the image of a transformed object is that of the
object, shifted along one axis:

  `polar_grid`      rotation about the centre    along the angles
  `log_polar_grid`  rotation, and scaling        along angles and log radii
  `shear_grid`      shear, x -> x + k y          along x / y
  `stretch_grid`    stretch, x -> s x            along `log |x|`

Lengths are pixels of the image, so that circles are round in images that are
not square.

Reference: Tai, Bailis and Valiant 2019 (arXiv:1901.11399); Esteves et al. 2018
(arXiv:1709.01889).
"""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
import numpy as np

from stnjax import checks, coordinates, promotion


@promotion.usual
def polar_grid(
  output_shape: Sequence[int],
  input_shape: Sequence[int],
  *,
  centre: ArrayLike | Sequence[float] = (0.0, 0.0),
  least_radius: float = 0.0,
  largest_radius: float | None = None,
  inverse: bool = False,
) -> jax.Array:
  """The grid of a polar image: angles by rows, radii by columns.

  Convention: `stnjax.coordinates`, with `align_corners=False`. Of A rows, row a
  has the angle 2 pi a / A, from +x towards +y, clockwise on the screen. Of R
  columns, the first has `least_radius`, the last `largest_radius`, at equal
  steps. An object that turns by an angle moves along the rows; whole steps are
  exact, and the rows close to a circle.

  OpenCV's `warpPolar(image, (R, A), centre, m, WARP_POLAR_LINEAR)` is
  `largest_radius=m * (R - 1) / R`.

  Args:
    output_shape: Spatial shape of the grid: `(A, R)`; with `inverse` the
      `(H, W)` of the image.
    input_shape: Spatial shape of the sampled image: `(H, W)` of the image; with
      `inverse` the `(A, R)` of the polar image.
    centre: `[..., 2]`, where radii are 0, in normalised coordinates (x, y) of
      the image; the middle of the image by default.
    least_radius: Radius of the first column in pixels of the image, at least 0;
      0 by default.
    largest_radius: Radius of the last column in pixels of the image; by default
      up to the outermost pixels of the shorter side, `(min(H, W) - 1) / 2`.
    inverse: Whether to return the grid that reads a polar image back into an
      image, with padding="wrap"; NaN, which reads as fill, at radii that the
      polar image does not have.

  Returns:
    `[..., *output_shape, 2]` normalised coordinates (x, y) to sample at,
    float32 or wider.

  Raises:
    ValueError: For a wrong shape, a negative radius, or a largest radius that
      is not above the least one.
    TypeError: For a complex or boolean centre, or sizes that are not static.

  Gradient: exact with respect to `centre`; with `inverse` zero at the centre
    itself, where the angle is not defined, and where the grid is NaN.

  Reference: OpenCV's `warpPolar`.

  >>> polar_grid((4, 2), (8, 8), largest_radius=4)[:, 1].round(3).tolist()
  [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [-0.0, -1.0]]
  """
  shapes = _shapes(output_shape, input_shape, inverse)
  least, largest = _radii(shapes, inverse, least_radius, largest_radius, 0.0)
  if not inverse:
    radii = np.linspace(least, largest, shapes[0][1])
    return _forward(radii, shapes, centre)
  return _inverse(
    shapes, centre, least, largest, lambda r: (r - least) / (largest - least)
  )


@promotion.usual
def log_polar_grid(
  output_shape: Sequence[int],
  input_shape: Sequence[int],
  *,
  centre: ArrayLike | Sequence[float] = (0.0, 0.0),
  least_radius: float = 1.0,
  largest_radius: float | None = None,
  radius_offset: float = 0.0,
  inverse: bool = False,
) -> jax.Array:
  """The grid of a log-polar image: angles by rows, log radii by columns.

  Convention: as `polar_grid`, with the radii at equal steps of their logarithm:
  neighbouring columns have the same ratio. An object that is scaled about the
  centre moves along the columns, one that turns along the rows.

  OpenCV's `warpPolar(image, (R, A), centre, m, WARP_POLAR_LOG)`, whose radii
  are 1 less than those of equal ratio, is `least_radius=0, radius_offset=1,
  largest_radius=m ** ((R - 1) / R) - 1`.

  Args:
    output_shape: Spatial shape of the grid: `(A, R)`; with `inverse` the
      `(H, W)` of the image.
    input_shape: Spatial shape of the sampled image: `(H, W)` of the image; with
      `inverse` the `(A, R)` of the log-polar image.
    centre: `[..., 2]`, where radii are 0, in normalised coordinates (x, y) of
      the image; the middle of the image by default.
    least_radius: Radius of the first column in pixels of the image, above 0; 1
      by default.
    largest_radius: Radius of the last column in pixels of the image; by default
      up to the outermost pixels of the shorter side, `(min(H, W) - 1) / 2`.
    radius_offset: Pixels that are added to radii before the logarithm. With 0,
      the default, a scaling is a shift; with more it is one far from the
      centre only, and the least radius may be 0.
    inverse: Whether to return the grid that reads a log-polar image back into
      an image, with padding="wrap"; NaN, which reads as fill, at radii that the
      log-polar image does not have.

  Returns:
    `[..., *output_shape, 2]` normalised coordinates (x, y) to sample at,
    float32 or wider.

  Raises:
    ValueError: For a wrong shape, a least radius that is not above 0 with its
      offset, or a largest radius that is not above the least one.
    TypeError: For a complex or boolean centre, or sizes that are not static.

  Gradient: exact with respect to `centre`; with `inverse` zero at the centre
    itself and where the grid is NaN.

  Reference: OpenCV's `warpPolar`.

  >>> log_polar_grid((1, 3), (8, 8), largest_radius=4)[0, :, 0].tolist()
  [0.25, 0.5, 1.0]
  """
  shapes = _shapes(output_shape, input_shape, inverse)
  least, largest = _radii(
    shapes, inverse, least_radius, largest_radius, radius_offset
  )
  if least + radius_offset <= 0:
    raise ValueError(
      "least_radius + radius_offset must be above 0, got"
      f" {least_radius:g} + {radius_offset:g}"
    )
  low, span = least + radius_offset, (largest + radius_offset)
  span = math.log(span / low)
  if not inverse:
    steps = np.linspace(0, 1, shapes[0][1])
    return _forward(low * np.exp(span * steps) - radius_offset, shapes, centre)
  return _inverse(
    shapes,
    centre,
    least,
    largest,
    lambda r: jnp.log((r + radius_offset) / low) / span,
  )


@promotion.usual
def shear_grid(
  output_shape: Sequence[int],
  input_shape: Sequence[int],
  *,
  centre: ArrayLike | Sequence[float] = (0.0, 0.0),
  largest_slope: float = 1.0,
) -> jax.Array:
  """The grid in which a horizontal shear is a shift: y by rows, x / y across.

  Convention: `stnjax.coordinates`, with `align_corners=False`. x and y are
  pixels from the centre. Rows are those of an image of the height of the input.
  Of C columns, the first has the slope x / y = -`largest_slope`, the last
  +`largest_slope`, at equal steps. An object whose points move to (x + k y, y)
  moves by k along the columns. For vertical shears, transpose the image.

  Args:
    output_shape: Spatial shape `(H', C)` of the grid.
    input_shape: Spatial shape `(H, W)` of the image.
    centre: `[..., 2]`, the point that the shear keeps, in normalised
      coordinates (x, y); the middle of the image by default.
    largest_slope: Slope of the last column, pixels along x per pixel along y,
      above 0; 1 by default.

  Returns:
    `[..., H', C, 2]` normalised coordinates (x, y), float32 or wider.

  Raises:
    ValueError: For a wrong shape, or a slope that is not above 0.
    TypeError: For a complex or boolean centre, or sizes that are not static.

  Gradient: exact with respect to `centre`.

  >>> shear_grid((2, 3), (8, 8))[1].tolist()
  [[-0.5, 0.5], [0.0, 0.5], [0.5, 0.5]]
  """
  shapes = _shapes(output_shape, input_shape, False)
  _check_above("largest_slope", largest_slope, 0.0)
  (rows, columns), (height, _) = shapes
  y = ((np.arange(rows) + 0.5) / rows - 0.5) * height
  slopes = np.linspace(-largest_slope, largest_slope, columns)
  return _about(centre, y[:, None] * slopes, y[:, None], shapes[1])


@promotion.usual
def stretch_grid(
  output_shape: Sequence[int],
  input_shape: Sequence[int],
  *,
  centre: ArrayLike | Sequence[float] = (0.0, 0.0),
  least_distance: float = 1.0,
  largest_distance: float | None = None,
) -> jax.Array:
  """The grid in which a horizontal stretch is a shift: columns at `log |x|`.

  Convention: `stnjax.coordinates`, with `align_corners=False`. x is pixels from
  the centre. Rows are those of an image of the height of the input. The left
  half of the C columns has x from -`largest_distance` to -`least_distance`, the
  right half from `least_distance` to `largest_distance`, at equal steps of
  `log |x|`. An object that is stretched along x moves outwards in both halves.
  For vertical stretches, transpose the image.

  Args:
    output_shape: Spatial shape `(H', C)` of the grid, C even.
    input_shape: Spatial shape `(H, W)` of the image.
    centre: `[..., 2]`, the point that the stretch keeps, in normalised
      coordinates (x, y); the middle of the image by default.
    least_distance: Least `|x|` in pixels, above 0; 1 by default.
    largest_distance: Largest `|x|` in pixels; by default up to the outermost
      pixels, `(W - 1) / 2`.

  Returns:
    `[..., H', C, 2]` normalised coordinates (x, y), float32 or wider.

  Raises:
    ValueError: For a wrong shape, an odd number of columns, or distances that
      are not above 0 and increasing.
    TypeError: For a complex or boolean centre, or sizes that are not static.

  Gradient: exact with respect to `centre`.

  >>> stretch_grid((1, 4), (8, 8), largest_distance=4)[0, :, 0].tolist()
  [-1.0, -0.25, 0.25, 1.0]
  """
  shapes = _shapes(output_shape, input_shape, False)
  (rows, columns), (height, width) = shapes
  if columns % 2:
    raise ValueError(
      f"output_shape must have an even number of columns, got {shapes[0]}"
    )
  if largest_distance is None:
    largest_distance = (width - 1) / 2
  _check_above("least_distance", least_distance, 0.0)
  _check_above("largest_distance", largest_distance, least_distance)
  right = np.geomspace(least_distance, largest_distance, columns // 2)
  y = ((np.arange(rows) + 0.5) / rows - 0.5) * height
  x = np.concatenate([-right[::-1], right])
  return _about(centre, x, y[:, None], shapes[1])


_Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def _shapes(
  output_shape: Sequence[int], input_shape: Sequence[int], inverse: bool
) -> _Shapes:
  checks.flag("inverse", inverse)
  return (
    checks.spatial_shape("output_shape", output_shape, 2),
    checks.spatial_shape("input_shape", input_shape, 2),
  )


def _radii(
  shapes: _Shapes,
  inverse: bool,
  least: float,
  largest: float | None,
  offset: float,
) -> tuple[float, float]:
  """The least and largest radius, checked."""
  if largest is None:
    largest = (min(shapes[0 if inverse else 1]) - 1) / 2
  if not 0 <= least < math.inf:
    raise ValueError(f"least_radius must be at least 0, got {least}")
  if not 0 <= offset < math.inf:
    raise ValueError(f"radius_offset must be at least 0, got {offset}")
  _check_above("largest_radius", largest, least)
  return float(least), float(largest)


def _check_above(name: str, value: float, bound: float) -> None:
  if not bound < value < math.inf:
    raise ValueError(f"{name} must be finite and above {bound:g}, got {value}")


def _forward(
  radii: np.ndarray, shapes: _Shapes, centre: ArrayLike | Sequence[float]
) -> jax.Array:
  """Circles of the given radii about the centre, `[..., A, R, 2]`."""
  count = shapes[0][0]
  angles = 2 * np.pi * np.arange(count)[:, None] / count
  return _about(
    centre, np.cos(angles) * radii, np.sin(angles) * radii, shapes[1]
  )


def _about(
  centre: ArrayLike | Sequence[float],
  x: np.ndarray,
  y: np.ndarray,
  shape: Sequence[int],
) -> jax.Array:
  """Normalised coordinates of points in pixels from a centre."""
  middle = checks.coordinates("centre", centre, 2)
  height, width = shape
  x, y = np.broadcast_arrays(2 * x / width, 2 * y / height)
  offsets = np.stack([x, y], axis=-1).astype(middle.dtype)
  return middle[..., None, None, :] + offsets


def _inverse(
  shapes: _Shapes,
  centre: ArrayLike | Sequence[float],
  least: float,
  largest: float,
  place: Callable[[jax.Array], jax.Array],
) -> jax.Array:
  """The grid that reads a polar image; `place` is 0 to 1 along its radii."""
  (height, width), (angles, columns) = shapes
  middle = checks.coordinates("centre", centre, 2)
  lattice = coordinates.lattice((height, width), dtype=middle.dtype)
  halves = np.array([width / 2, height / 2]).astype(middle.dtype)
  x, y = jnp.moveaxis((lattice - middle[..., None, None, :]) * halves, -1, 0)
  square = x * x + y * y
  # The root and the angle have no gradient at the centre, in any branch.
  away = square > 0
  radius = jnp.where(away, jnp.sqrt(jnp.where(away, square, 1)), 0)
  angle = jnp.where(
    away, jnp.arctan2(jnp.where(away, y, 0), jnp.where(away, x, 1)), 0
  )
  known = (radius >= least) & (radius <= largest)
  column = place(jnp.where(known, radius, largest)) * (columns - 1)
  row = jnp.mod(angle / (2 * np.pi), 1) * angles
  points = jnp.stack([jnp.clip(column, 0, columns - 1), row], axis=-1)
  grid = coordinates.to_normalised(points, (angles, columns))
  return jnp.where(known[..., None], grid, jnp.nan)
