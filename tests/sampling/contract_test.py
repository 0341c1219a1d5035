"""Every method, padding and number of axes: NumPy, torch and scipy agree.

One program per case reads all kinds of places at once: between pixels, on their
centres and edges, outside, far outside, at infinity and NaN.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import torch

import stnjax
from tests import reference

pytestmark = pytest.mark.usefixtures("x64")

METHODS = ("nearest", "linear", "cubic", "spline")
MODES = (  # padding and align_corners, which decides where reflection mirrors
  ("zeros", False),
  ("border", True),
  ("reflection", False),
  ("reflection", True),
  ("wrap", False),
)
OTHER_MODES = (("zeros", True), ("border", False), ("wrap", True))
SCIPY = {
  ("zeros", False): "grid-constant",
  ("border", True): "nearest",
  ("reflection", False): "reflect",
  ("reflection", True): "mirror",
  ("wrap", False): "grid-wrap",
}
TORCH = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
CHANNELS = 2


def sizes(num_axes, align_corners):
  """Sizes for which the coordinates of pixel centres and edges are exact."""
  shape = (16, 32) if num_axes == 2 else (2, 4, 1)
  return tuple(
    size + 1 if align_corners and size > 1 else size for size in shape
  )


@functools.cache
def places(num_axes, align_corners):
  """Normalised coordinates `[P, N]`, and which of them are ordinary."""
  rng = np.random.default_rng(0)
  shape = np.array(sizes(num_axes, align_corners)[::-1])
  near = rng.uniform(-6, shape + 5, (30, num_axes))
  halves = rng.integers(-12, 2 * shape + 12, (40, num_axes)) / 2
  far = np.array([[1.0] * num_axes, [-1.0] * num_axes]) * 20 * shape
  pixels = np.concatenate([near, halves, far])
  coordinates = [
    [reference.to_coordinate(p, size, align_corners) for p in line]
    for line, size in zip(pixels.T, shape, strict=True)
  ]
  points = np.stack(coordinates, -1)
  odd = np.full((num_axes, num_axes), 0.1)
  np.fill_diagonal(odd, np.nan)
  return np.concatenate([points, odd]), len(near) + len(halves)


def case(method, mode, num_axes):
  """The options of a call, an image, a grid and a cotangent."""
  padding, align_corners = mode
  rng = np.random.default_rng(1)
  image = rng.normal(size=(*sizes(num_axes, align_corners), CHANNELS))
  points, _ = places(num_axes, align_corners)
  grid = points.reshape(-1, *[1] * (num_axes - 1), num_axes)
  cotangent = rng.normal(size=(*grid.shape[:-1], CHANNELS))
  options = dict(method=method, padding=padding, align_corners=align_corners)
  return options, image, grid, cotangent


def check_definition(values, image, grid, options):
  expected = reference.sample(image, grid, **options)
  np.testing.assert_allclose(values, expected, atol=1e-10)


def check_torch(outputs, image, grid, cotangent, options):
  """Values and both gradients, at numbers only."""
  known = len(grid) - grid.shape[-1]
  image = torch.tensor(np.moveaxis(image, -1, 0)[None], requires_grad=True)
  grid = torch.tensor(grid[None, :known], requires_grad=True)
  expected = torch.nn.functional.grid_sample(
    image,
    grid,
    mode=TORCH[options["method"]],
    padding_mode=options["padding"],
    align_corners=options["align_corners"],
  )
  cotangent = np.moveaxis(cotangent[:known], -1, 0)[None]
  expected.backward(torch.tensor(cotangent))
  value, to_image, to_grid = outputs
  pairs = {
    "value": (value[:known], np.moveaxis(expected.detach().numpy()[0], 0, -1)),
    "image": (to_image, np.moveaxis(image.grad.numpy()[0], 0, -1)),
    "grid": (to_grid[:known], grid.grad.numpy()[0]),
  }
  for name, (ours, theirs) in pairs.items():
    np.testing.assert_allclose(ours, theirs, atol=1e-10, rtol=0, err_msg=name)
  np.testing.assert_array_equal(to_grid[known:], 0)  # at NaN


def check_scipy(values, image, grid, options):
  mode = options["padding"], options["align_corners"]
  num_axes = grid.shape[-1]
  _, ordinary = places(num_axes, mode[1])
  shape = image.shape[:-1]
  pixels = np.stack(
    [
      reference.to_pixel(
        grid[:ordinary].reshape(-1, num_axes)[:, axis], size, mode[1]
      )
      for axis, size in enumerate(shape[::-1])
    ]
  )
  for channel in range(CHANNELS):
    expected = scipy.ndimage.map_coordinates(
      image[..., channel],
      pixels[::-1],
      order=3 if options["method"] == "spline" else 1,
      mode=SCIPY[mode],
    )
    # scipy continues "nearest" and "grid-constant" for 12 pixels only.
    short = mode[0] in ("zeros", "border") and options["method"] == "spline"
    np.testing.assert_allclose(
      values[:ordinary].reshape(ordinary, -1)[:, channel],
      expected,
      atol=1e-6 if short else 1e-10,
    )


def values_and_gradients(options, image, grid, cotangent):
  def run(image, grid, cotangent):
    value, vjp = jax.vjp(
      lambda i, g: stnjax.grid_sample(i, g, **options), image, grid
    )
    return value, *vjp(
      jnp.where(jnp.isnan(grid).any(-1)[..., None], 0, cotangent)
    )

  return jax.jit(run)(image, grid, cotangent)


GRADIENTS = [  # of programs that compile fast; torch has no others
  *itertools.product(("nearest", "linear"), MODES, (2,)),
  *itertools.product(("nearest", "linear"), (("reflection", True),), (3,)),
  ("cubic", ("border", True), 2),
]
SLOW_GRADIENTS = [
  # Wrapped by an odd size, a tie of "nearest" has another even pixel.
  *itertools.product(("nearest",), OTHER_MODES[:2], (2, 3)),
  *itertools.product(("linear",), OTHER_MODES, (2, 3)),
  *itertools.product(("nearest", "linear"), MODES, (3,)),
  *itertools.product(("cubic",), (*MODES, *OTHER_MODES), (2,)),
]
VALUES = [
  *itertools.product(("cubic", "spline"), MODES, (2,)),
  ("linear", ("wrap", False), 3),
  ("spline", ("border", True), 3),
]
SLOW_VALUES = [
  *itertools.product(("cubic", "spline"), OTHER_MODES, (2,)),
  *itertools.product(("cubic", "spline"), (*MODES, *OTHER_MODES), (3,)),
]


def quick_and_slow(quick, slow):
  marked = [
    pytest.param(*c, marks=pytest.mark.slow) for c in slow if c not in quick
  ]
  return [*quick, *marked]


@pytest.mark.parametrize(
  ("method", "mode", "num_axes"), quick_and_slow(GRADIENTS, SLOW_GRADIENTS)
)
def test_values_and_gradients(method, mode, num_axes):
  options, image, grid, cotangent = case(method, mode, num_axes)
  outputs = values_and_gradients(options, image, grid, cotangent)
  check_definition(outputs[0], image, grid, options)
  if mode[0] != "wrap":
    check_torch(outputs, image, grid, cotangent, options)
  if method == "linear" and mode in SCIPY:
    check_scipy(outputs[0], image, grid, options)


@pytest.mark.parametrize(
  ("method", "mode", "num_axes"), quick_and_slow(VALUES, SLOW_VALUES)
)
def test_values(method, mode, num_axes):
  options, image, grid, _ = case(method, mode, num_axes)
  values = stnjax.grid_sample(image, grid, **options)
  check_definition(values, image, grid, options)
  # scipy's own spline is off by 1e-5 on axes of 4 pixels.
  if method == "spline" and num_axes == 2 and mode in SCIPY:
    check_scipy(values, image, grid, options)


@pytest.mark.parametrize("mode", [("zeros", False), ("reflection", True)])
def test_cubic_gradients_of_matrix_products(mode):
  options, image, grid, cotangent = case("cubic", mode, 2)
  options["implementation"] = "matmul"
  outputs = values_and_gradients(options, image, grid, cotangent)
  del options["implementation"]
  check_torch(outputs, image, grid, cotangent, options)


@pytest.mark.parametrize(
  ("method", "num_axes"),
  quick_and_slow(
    [*itertools.product(METHODS, (2,)), ("linear", 3)],
    [*itertools.product(METHODS, (3,))],
  ),
)
def test_constant_is_an_image_that_continues_and_mask_one_of_ones(
  method, num_axes
):
  options, image, grid, _ = case(method, ("constant", True), num_axes)
  fill = np.array([3.0, -2.0])
  values, mask = stnjax.grid_sample(
    image, grid, fill_value=fill, return_mask=True, **options
  )
  zeros = {**options, "padding": "zeros"}
  check_definition(values - fill, image - fill, grid, zeros)
  ones = np.ones((*image.shape[:-1], 1))
  check_definition(mask[..., None], ones, grid, zeros)


@pytest.mark.parametrize(
  ("mode", "num_axes"),
  quick_and_slow(
    [*itertools.product(MODES, (2,)), (("zeros", False), 3)],
    [*itertools.product((*MODES, *OTHER_MODES), (2, 3))],
  ),
)
def test_splat_is_the_transpose_of_the_definition(mode, num_axes):
  options, image, grid, values = case("linear", mode, num_axes)
  padding, align_corners = mode
  shape = image.shape[:-1]
  expected = np.zeros(image.shape)
  for point, value in zip(
    grid.reshape(-1, num_axes), values.reshape(-1, CHANNELS)
  ):
    for coordinate, size in zip(point, shape[::-1]):
      position = reference.to_pixel(float(coordinate), size, align_corners)
      row = reference.weights(position, size, **options)
      value = np.multiply.outer(row, value)
    expected += value
  out = stnjax.splat(
    values, grid, shape, padding=padding, align_corners=align_corners
  )
  np.testing.assert_allclose(out, expected, atol=1e-10)
