"""Slow, independent references: NumPy loops written from the definitions."""

import itertools

import numpy as np


def to_pixel(coordinate, size, align_corners):
  """One normalised coordinate in pixels, as torch documents it."""
  if align_corners:
    return (coordinate + 1) / 2 * (size - 1)
  return ((coordinate + 1) * size - 1) / 2


def sample(image, grid, *, method, padding, align_corners):
  """Samples one image `[*shape, C]` at a grid `[*out, N]`, point by point."""
  shape = image.shape[:-1]
  result = np.zeros((*grid.shape[:-1], image.shape[-1]))
  for place in np.ndindex(*grid.shape[:-1]):
    point = [  # array order
      to_pixel(float(c), size, align_corners)
      for c, size in zip(grid[place][::-1], shape, strict=True)
    ]
    if padding == "border":
      point = [min(max(p, 0), s - 1) for p, s in zip(point, shape, strict=True)]
    if method == "nearest":
      corners = [([round(p) for p in point], 1.0)]
    else:
      low = [int(np.floor(p)) for p in point]
      corners = []
      for up in itertools.product((0, 1), repeat=len(shape)):
        weights = [
          (p - below) if u else 1 - (p - below)
          for p, below, u in zip(point, low, up, strict=True)
        ]
        index = [below + u for below, u in zip(low, up, strict=True)]
        corners.append((index, float(np.prod(weights))))
    for index, weight in corners:
      if all(0 <= i < s for i, s in zip(index, shape, strict=True)):
        result[place] += weight * image[tuple(index)].astype(np.float64)
  return result


def grid(matrix, output_shape, *, align_corners):
  """The grid of one affine or projective matrix, point by point."""
  num_axes = len(output_shape)
  result = np.zeros((*output_shape, num_axes))
  for place in np.ndindex(*output_shape):
    point = []
    for index, size in zip(place[::-1], output_shape[::-1], strict=True):
      if align_corners:
        point.append(-1 + 2 * index / (size - 1) if size > 1 else 0.0)
      else:
        point.append((2 * index + 1) / size - 1)
    mapped = np.asarray(matrix, np.float64) @ [*point, 1.0]
    if len(mapped) > num_axes:
      mapped = mapped[:-1] / mapped[-1]
    result[place] = mapped
  return result
