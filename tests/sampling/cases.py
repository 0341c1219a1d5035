"""Inputs that several tests draw, and checks that they share."""

import jax
from jax.test_util import check_grads
import numpy as np

from stnjax import coordinates
from tests import reference


def random_grid(rng, num_axes, batch=()):
  """Inside, outside and far outside."""
  grid = rng.uniform(-1.7, 1.7, (*batch, *(4, 3, 2)[:num_axes], num_axes))
  grid.reshape(-1, num_axes)[0] = 40
  grid.reshape(-1, num_axes)[1] = -40
  return grid


def off_lattice_grid(rng, shape, low, high, align_corners):
  """Between a quarter and three quarters of the way between pixel centres."""
  num_axes = len(shape)
  size = (3, 4, 2)[:num_axes]
  pixels = rng.integers(low, high, (*size, num_axes)) + rng.uniform(
    0.25, 0.75, (*size, num_axes)
  )
  axes = [
    [reference.to_coordinate(p, size, align_corners) for p in line]
    for line, size in zip(
      pixels.reshape(-1, num_axes).T, shape[::-1], strict=True
    )
  ]
  return np.stack(axes, -1).reshape(pixels.shape)


def random_theta(rng, num_axes, projective=False, batch=()):
  shape = (num_axes + projective, num_axes + 1)
  theta = np.eye(*shape) + rng.uniform(-0.2, 0.2, (*batch, *shape))
  if projective:
    theta[..., -1, -1] = 1
  return theta


def smooth_field(rng, shape, size):
  """A few low waves, `size` high, in normalised units."""
  x, y = np.moveaxis(np.asarray(coordinates.lattice(shape)), -1, 0)
  waves = [
    rng.normal(size=2)[:, None, None]
    * np.sin(rng.normal(size=()) * 2 * x + rng.normal(size=()) * 2 * y)
    for _ in range(4)
  ]
  field = np.moveaxis(sum(waves), 0, -1)
  return (field * size / np.abs(field).max()).astype(np.float32)


def check_gradients(function, *arguments, modes=("fwd", "rev")):
  """First derivatives against differences, from one compiled program."""
  check_grads(
    jax.jit(function), arguments, 1, modes, eps=1e-7, atol=1e-5, rtol=1e-5
  )


def determinants(grid):
  """Of the change of pixel coordinates, by differences."""
  height, width = grid.shape[:2]
  down, across = np.gradient(np.asarray(grid) * [width / 2, height / 2])[:2]
  return across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
