"""The library's functions compiled as a whole: outside `jit`, each of their
steps would be a program of its own, and tests mostly compile.
"""

import inspect

import jax

import stnjax
from stnjax import sampling, transforms

_TRACED = {
  "image", "values", "grid", "transform", "matrix", "params", "offsets",
  "displacement", "velocity", "fill_value", "key", "coordinates", "pixels",
  "points", "boxes", "displacements", "source", "target", "weights",
}  # fmt: skip


def whole(function):
  """Compiles a function for each of its options."""
  names = inspect.signature(function).parameters
  return jax.jit(function, static_argnames=tuple(set(names) - _TRACED))


affine_grid = whole(stnjax.affine_grid)
apply_to_boxes = whole(transforms.apply_to_boxes)
apply_to_points = whole(transforms.apply_to_points)
decompose = whole(transforms.decompose)
family_grid = whole(sampling.family_grid)
flow_grid = whole(stnjax.flow_grid)
from_boxes = whole(transforms.from_boxes)
from_opencv = whole(transforms.from_opencv)
from_physical = whole(transforms.from_physical)
from_pixels = whole(transforms.from_pixels)
from_points = whole(transforms.from_points)
grid_sample = whole(stnjax.grid_sample)
invert = whole(transforms.invert)
invert_flow = whole(sampling.invert_flow)
jacobian_determinant = whole(sampling.jacobian_determinant)
matrix = whole(transforms.matrix)
splat = whole(stnjax.splat)
spline_coefficients = whole(stnjax.spline_coefficients)
to_pixels = whole(transforms.to_pixels)
tps_grid = whole(stnjax.tps_grid)
velocity_grid = whole(stnjax.velocity_grid)
warp = whole(stnjax.warp)
