"""Every size from 1 to 130: pixels by index, and torch and scipy between them.

Images are `(s, 131 - s)`, so that each size is met along x and along y, once in
float32 and once in float64.
"""

import functools

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest
import scipy.ndimage
import torch

from stnjax import sampling
from tests import reference

MODES = (
  ("zeros", False),
  ("border", False),
  ("reflection", False),
  ("reflection", True),
  ("wrap", False),
)
# Sizes for all methods; "linear", whose positions
# are padded alike, is for every one.
# 41, 42, 47, 55 and 61 were one period off by the rounded reciprocal of theirs.
OTHERS = {1, 2, 3, 20, 41, 42, 47, 55, 61, 82, 97, 128, 130}
SCIPY = {
  ("zeros", False): "grid-constant",
  ("border", False): "nearest",
  ("reflection", False): "reflect",
  ("reflection", True): "mirror",
  ("wrap", False): "grid-wrap",
}
PERIODS = 25


@functools.partial(jax.jit, static_argnames="methods")
def read_all(image, points, methods):
  """By padding, convention and method; compiled once per shape."""
  return {
    (mode, method): sampling.sample_pixels(
      image, points, method=method, padding=mode[0], align_corners=mode[1]
    )[:, 0, 0]
    for mode in MODES
    for method in methods
  }


def lattice(size):
  """Whole pixels: where periods and mirrors end, up to 25 of them away."""
  ends = np.arange(-PERIODS, PERIODS + 1)
  return np.concatenate(
    [
      ends * period + step
      for period in (size, max(size - 1, 1))
      for step in (-1, 0, 1)
    ]
  )


def sources(places, size, mode):
  """The pixel at each place, -1 for none, as `reference.source` defines it."""
  padding, align_corners = mode
  # By whole periods first, as that one unfolds a mirror at a time.
  period = {"wrap": size, "reflection": 2 * (size - align_corners)}
  if padding in period and period[padding]:
    places = places % period[padding]
  indices = (
    reference.source(int(p), size, padding, align_corners) for p in places
  )
  return np.array([-1 if index is None else index for index in indices])


def read_exactly(image, x, y, mode):
  """Pixels at whole coordinates, by index."""
  columns = sources(x, image.shape[1], mode)
  rows = sources(y, image.shape[0], mode)
  values = image[rows, columns, 0]
  return np.where((rows < 0) | (columns < 0), 0, values)


class EverySizeTest(parameterized.TestCase):
  def test_all_paddings(self):
    self.check_size(41)

  @parameterized.parameters(*range(1, 131))
  @pytest.mark.slow
  def test_every_size(self, size):
    self.check_size(size)

  def check_size(self, size):
    double = size > 65
    with jax.enable_x64(double):
      self.check((size, 131 - size), np.float64 if double else np.float32)

  def check(self, shape, dtype):
    rng = np.random.default_rng(shape[0])
    image = rng.integers(1, 200, (*shape, 1)).astype(dtype)
    y, x = (lattice(size) for size in shape)
    y = rng.permutation(y)
    between = rng.uniform(-1.5, 2.5, (40, 2)) * shape[::-1]
    points = np.concatenate([np.stack([x, y], -1), between]).astype(dtype)
    methods = (
      ("nearest", "linear", "cubic") if set(shape) & OTHERS else ("linear",)
    )
    out = read_all(image, points[:, None], methods)
    between = points[len(x) :].astype(np.float64)
    for mode in MODES:
      exact = read_exactly(image, x, y, mode)
      for method in methods:
        values, name = np.asarray(out[mode, method]), f"{mode} {method}"
        np.testing.assert_array_equal(values[: len(x)], exact, name)
        np.testing.assert_allclose(
          values[len(x) :],
          self.expected(image, between, mode, method),
          atol=1e-9 if dtype == np.float64 else 0.05,
          err_msg=name,
        )

  def expected(self, image, points, mode, method):
    padding, align_corners = mode
    image = image[..., 0].astype(np.float64)
    if padding == "wrap" and method == "cubic":
      return read_keys(image, points, mode)
    if padding == "wrap" or method == "linear":
      order = {"nearest": 0, "linear": 1}[method]
      return scipy.ndimage.map_coordinates(
        image, points.T[::-1], order=order, mode=SCIPY[mode]
      )
    grid = np.stack(
      [
        reference.to_coordinate(points[:, axis], size, align_corners)
        for axis, size in enumerate(image.shape[::-1])
      ],
      -1,
    )
    return torch.nn.functional.grid_sample(
      torch.tensor(image)[None, None],
      torch.tensor(grid)[None, None],
      mode={"nearest": "nearest", "cubic": "bicubic"}[method],
      padding_mode=padding,
      align_corners=align_corners,
    )[0, 0, 0].numpy()


def read_keys(image, points, mode):
  """The weights of Keys' cubic, by index."""
  total = np.zeros(len(points))
  base = np.floor(points)
  for down in range(-1, 3):
    for right in range(-1, 3):
      place = base + (right, down)
      x, y = (sources(place[:, a], image.shape[1 - a], mode) for a in (0, 1))
      weight = np.prod(
        [
          [reference.kernel(d, "cubic") for d in (points - place)[:, a]]
          for a in (0, 1)
        ],
        axis=0,
      )
      total += weight * image[y, x]
  return total


if __name__ == "__main__":
  absltest.main()
