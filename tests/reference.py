"""Slow, independent references: NumPy, written from the definitions."""

import functools

import numpy as np
from scipy.interpolate import BSpline

FAR = 60  # pixels outside that take part; splines have forgotten them by then


def to_pixel(coordinate, size, align_corners):
  """One normalised coordinate in pixels, as torch documents it."""
  if align_corners:
    return (coordinate + 1) / 2 * (size - 1)
  return ((coordinate + 1) * size - 1) / 2


def to_coordinate(pixel, size, align_corners):
  """The inverse of `to_pixel`; for one pixel between corners, any place."""
  if align_corners:
    return pixel / max(size - 1, 1) * 2 - 1
  return (2 * pixel + 1) / size - 1


def source(place, size, padding, align_corners):
  """Which pixel of an axis stands at an integer place; None for nothing."""
  if padding == "border":
    return min(max(place, 0), size - 1)
  if padding == "wrap":
    return place % size
  if padding == "reflection" and size > 1:
    while not 0 <= place < size:  # unfold, a mirror at a time
      if place < 0:
        place = -place - (not align_corners)
      else:
        place = 2 * (size - 1) + (not align_corners) - place
  elif padding == "reflection":
    place = 0
  return place if 0 <= place < size else None


def kernel(x, method):
  """The weight of a pixel at distance x."""
  x = abs(x)
  if method == "linear":
    return max(1 - x, 0)
  if method == "cubic":
    if x < 1:
      return 1.25 * x**3 - 2.25 * x**2 + 1
    return -0.75 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0
  order = spline_order(method)
  end = (order + 1) / 2
  if x >= end:
    return 0
  return float(BSpline.basis_element(np.arange(order + 2) - end)(x))


def spline_order(method):
  """The order of a spline, None for other methods."""
  if not method.startswith("spline"):
    return None
  return int(method.removeprefix("spline") or 3)


def weights(position, size, *, method, padding, align_corners):
  """The weight of every pixel of an axis in the sample at a pixel position."""
  result = np.zeros(size)
  if np.isnan(position):
    return result
  if method == "nearest":
    if padding == "reflection":  # as torch: ties go to the even pixel inside
      position = fold(position, size, padding, align_corners)
    places = {round(position): 1.0}
  elif spline_order(method):
    if padding in ("wrap", "reflection"):
      position = fold(position, size, padding, align_corners)
    position = np.clip(position, 3 - FAR, size + FAR - 4)
    base = int(np.floor(position))
    coefficients = spline_matrix(size, method, padding, align_corners)
    return sum(
      kernel(position - tap, method) * coefficients[tap + FAR]
      for tap in range(base - 2, base + 4)
    )
  else:
    base = int(np.floor(position))
    places = {
      tap: kernel(position - tap, method) for tap in range(base - 2, base + 4)
    }
  for place, weight in places.items():
    index = source(place, size, padding, align_corners)
    if index is not None:
      result[index] += weight
  return result


def fold(position, size, padding, align_corners):
  """A position brought to where the image is, a period or mirror at a time."""
  if padding == "wrap":
    return position % size
  low, high = (0, size - 1) if align_corners else (-0.5, size - 0.5)
  if high == low:
    return 0
  while not low <= position <= high:
    position = 2 * low - position if position < low else 2 * high - position
  return position


@functools.cache
def spline_matrix(size, method, padding, align_corners):
  """From the pixels to the coefficients at places -FAR to size + FAR."""
  total = size + 2 * FAR
  extension = np.zeros((total, size))
  for row in range(total):
    index = source(row - FAR, size, padding, align_corners)
    if index is not None:
      extension[row, index] = 1
  values = sum(
    kernel(offset, method) * np.eye(total, k=offset) for offset in range(-2, 3)
  )
  return np.linalg.solve(values, extension)


def sample(image, grid, *, align_corners, padding, **mode):
  """Samples one image `[*shape, C]` at a grid `[*out, N]`, point by point."""
  shape = image.shape[:-1]
  paddings = [padding] * len(shape) if isinstance(padding, str) else padding
  result = np.zeros((*grid.shape[:-1], image.shape[-1]))
  for place in np.ndindex(*grid.shape[:-1]):
    value = image.astype(np.float64)
    axes = zip(grid[place][::-1], shape, paddings, strict=True)
    for coordinate, size, padding in axes:
      position = to_pixel(float(coordinate), size, align_corners)
      options = dict(mode, padding=padding, align_corners=align_corners)
      row = weights(position, size, **options)
      value = np.tensordot(row, value, 1)
    result[place] = value
  return result


def grid(matrix, output_shape, *, align_corners):
  """The grid of one affine or projective matrix, point by point."""
  num_axes = len(output_shape)
  result = np.zeros((*output_shape, num_axes))
  for place in np.ndindex(*output_shape):
    point = [
      to_coordinate(index, size, align_corners)
      if size > 1 or not align_corners
      else 0.0
      for index, size in zip(place[::-1], output_shape[::-1], strict=True)
    ]
    mapped = np.asarray(matrix, np.float64) @ [*point, 1.0]
    if len(mapped) > num_axes:
      mapped = mapped[:-1] / mapped[-1]
    result[place] = mapped
  return result
