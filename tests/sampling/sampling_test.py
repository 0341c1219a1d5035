"""grid_sample and splat against torch, scipy and NumPy."""

import itertools
import re
import warnings

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import scipy.ndimage

import stnjax
from stnjax import sampling
from tests import reference

INTERPOLATIONS = ("nearest", "linear", "cubic", "spline")
TORCH = dict(
  padding=("zeros", "border", "reflection"), align_corners=(False, True)
)
KEY = jax.random.key(0)


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
  return to_coordinates(pixels, shape, align_corners)


def lattice_grid(rng, shape, align_corners):
  """On pixel centres and edges, inside and outside, with exact coordinates.

  Exact where sizes are powers of two; with corners aligned, one more.
  """
  num_axes = len(shape)
  pixels = rng.integers(
    -6, 2 * max(shape) + 6, (*(9, 7, 2)[:num_axes], num_axes)
  )
  return to_coordinates(pixels / 2, shape, align_corners)


def to_coordinates(pixels, shape, align_corners):
  axes = [
    [reference.to_coordinate(p, size, align_corners) for p in line]
    for line, size in zip(
      pixels.reshape(-1, len(shape)).T, shape[::-1], strict=True
    )
  ]
  return np.stack(axes, -1).reshape(pixels.shape)


def sample_fn(**mode):
  return lambda image, grid: stnjax.grid_sample(image, grid, **mode)


def pull_fn(**mode):
  """Value and both gradients, which compile as one."""

  def pull(image, grid, cotangent):
    value, vjp = jax.vjp(sample_fn(**mode), image, grid)
    return value, *vjp(cotangent)

  return pull


@pytest.mark.usefixtures("x64")
class TorchTest(parameterized.TestCase):
  """Values and both gradients, to 1e-10."""

  def check(self, image, grid, method, padding, align_corners):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    cotangent = rng.normal(size=(*grid.shape[:-1], image.shape[-1]))
    value, to_image, to_grid = jax.jit(
      pull_fn(method=method, padding=padding, align_corners=align_corners)
    )(image, grid, cotangent)
    image = torch.tensor(np.moveaxis(image, -1, 1), requires_grad=True)
    grid = torch.tensor(grid, requires_grad=True)
    expected = torch.nn.functional.grid_sample(
      image,
      grid,
      mode={"linear": "bilinear", "cubic": "bicubic"}.get(method, method),
      padding_mode=padding,
      align_corners=align_corners,
    )
    expected.backward(torch.tensor(np.moveaxis(cotangent, -1, 1)))
    pairs = {
      "value": (value, np.moveaxis(expected.detach().numpy(), 1, -1)),
      "image": (to_image, np.moveaxis(image.grad.numpy(), 1, -1)),
      "grid": (to_grid, grid.grad.numpy()),
    }
    for name, (ours, theirs) in pairs.items():
      np.testing.assert_allclose(ours, theirs, atol=1e-10, rtol=0, err_msg=name)

  @parameterized.product(
    shape=((5, 6), (7, 1), (4, 3, 2)), method=("nearest", "linear"), **TORCH
  )
  def test_random_points(self, shape, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape, 3))
    self.check(image, random_grid(rng, len(shape), (2,)), **mode)

  @parameterized.product(
    case=(
      *(((4, 8), method) for method in ("nearest", "linear", "cubic")),
      *(((2, 4, 1), method) for method in ("nearest", "linear")),
      ((1, 4), "linear"),
    ),
    **TORCH,
  )
  def test_points_on_centres_and_edges(self, case, align_corners, padding):
    shape, method = case
    rng = np.random.default_rng(0)
    if align_corners:
      shape = tuple(size + 1 if size > 1 else 1 for size in shape)
    image = rng.normal(size=(1, *shape, 2))
    grid = lattice_grid(rng, shape, align_corners)[None]
    self.check(image, grid, method, padding, align_corners)

  @parameterized.product(shape=((5, 7),), **TORCH)
  def test_cubic_between_pixels(self, shape, padding, align_corners):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *shape, 1))
    grid = random_grid(rng, 2, (2,))
    self.check(image, grid, "cubic", padding, align_corners)


@pytest.mark.usefixtures("x64")
class ScipyTest(parameterized.TestCase):
  MODES = {  # ours -> scipy's, and how well scipy keeps to it
    ("wrap", False): ("grid-wrap", 1e-10),
    ("wrap", True): ("grid-wrap", 1e-10),
    ("reflection", False): ("reflect", 1e-10),
    ("reflection", True): ("mirror", 1e-10),
    # scipy has these two go on for 12 pixels only.
    ("border", False): ("nearest", 1e-6),
    ("zeros", True): ("grid-constant", 1e-6),
  }

  @parameterized.product(
    mode=tuple(MODES),
    method=("linear", "spline"),
    shape=((13, 16), (5, 6), (4, 3, 5)),
  )
  def test_map_coordinates(self, mode, method, shape):
    padding, align_corners = mode
    if mode == ("reflection", False) and method == "spline":
      # scipy's own spline misses the pixels of shorter axes: by 1e-5 for 3.
      shape = tuple(size + 9 for size in shape)
    name, tolerance = self.MODES[mode]
    rng = np.random.default_rng(0)
    image = rng.normal(size=shape)
    pixels = rng.uniform(-7, 12, (50, len(shape)))  # array order
    expected = scipy.ndimage.map_coordinates(
      image, pixels.T, order=3 if method == "spline" else 1, mode=name
    )
    grid = to_coordinates(pixels[:, ::-1], shape, align_corners)
    grid = grid.reshape(50, *[1] * (len(shape) - 1), len(shape))
    out = stnjax.grid_sample(
      image[..., None],
      grid,
      method=method,
      padding=padding,
      align_corners=align_corners,
    )
    np.testing.assert_allclose(out.ravel(), expected, atol=tolerance, rtol=0)

  @parameterized.parameters("wrap", "reflection")
  def test_filter(self, padding):
    image = np.random.default_rng(0).normal(size=(2, 16, 15, 3))
    mode = {"wrap": "grid-wrap", "reflection": "reflect"}[padding]
    expected = np.stack(
      [
        scipy.ndimage.spline_filter(image[b, ..., c], 3, mode=mode)
        for b in range(2)
        for c in range(3)
      ]
    ).reshape(2, 3, 16, 15)
    np.testing.assert_allclose(
      stnjax.spline_coefficients(image, padding=padding),
      np.moveaxis(expected, 1, -1),
      atol=1e-10,
    )


class DefinitionTest(parameterized.TestCase):
  """Against weights worked out from the definitions, per axis and pixel."""

  @parameterized.product(
    shape=((5, 6), (2, 3, 1)),
    mode=(  # torch has the others
      *itertools.product(
        ("cubic", "spline"), ("zeros", "border", "reflection", "wrap")
      ),
      *itertools.product(("nearest", "linear"), ("wrap",)),
    ),
    align_corners=(False, True),
  )
  def test_values(self, shape, mode, align_corners):
    method, padding = mode
    mode = dict(method=method, padding=padding, align_corners=align_corners)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, 2)).astype(np.float32)
    grid = rng.uniform(-1.7, 1.7, (*(5, 3, 2)[: len(shape)], len(shape)))
    grid.reshape(-1, len(shape))[0] = 8
    grid.reshape(-1, len(shape))[1] = np.nan
    grid = grid.astype(np.float32)
    np.testing.assert_allclose(
      stnjax.grid_sample(image, grid, **mode),
      reference.sample(image, grid, **mode),
      atol=3e-5,
    )

  @parameterized.product(
    dtype=("bfloat16", "float16", "uint8", "int32"),
    method=INTERPOLATIONS,
    padding=("zeros", "reflection"),
  )
  def test_convention_result_has_the_dtype_of_the_image(self, dtype, **mode):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(60, 190, (5, 6, 2)), dtype)
    grid = random_grid(rng, 2).astype(np.float32)
    out = stnjax.grid_sample(image, grid, **mode)
    self.assertEqual(out.dtype, jnp.dtype(dtype))
    expected = reference.sample(
      np.asarray(image, np.float64), grid, align_corners=False, **mode
    )
    tolerance = {"float16": 0.13, "bfloat16": 1.0}.get(dtype, 0.501)
    if dtype == "uint8":
      expected = np.clip(expected, 0, 255)
    np.testing.assert_allclose(
      out.astype(jnp.float32), expected, atol=tolerance, rtol=0
    )

  @parameterized.product(
    image=("float32", "float64", "bfloat16"),
    grid=("float32", "float64", "bfloat16"),
    method=INTERPOLATIONS,
  )
  @pytest.mark.usefixtures("x64")
  def test_dtypes_mix_in_double_precision(self, image, grid, method):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(size=(4, 5, 1)), image)
    grid = jnp.asarray(random_grid(rng, 2), grid)
    out = stnjax.grid_sample(image, grid, method=method, padding="border")
    self.assertEqual(out.dtype, image.dtype)
    expected = reference.sample(
      np.asarray(image, np.float64),
      np.asarray(grid, np.float64),
      method=method,
      padding="border",
      align_corners=False,
    )
    tolerance = 0.01 if image.dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
      out.astype(jnp.float64), expected, atol=tolerance, rtol=0
    )

  @parameterized.product(method=("linear", "cubic", "spline"), edge=(0, 255))
  def test_integers_saturate(self, method, edge):
    image = jnp.full((4, 4, 1), 255 - edge, jnp.uint8).at[:, 2:].set(edge)
    grid = np.stack(np.meshgrid(np.linspace(-1, 1, 31), [0.0]), -1)
    out = stnjax.grid_sample(image, grid, method=method, padding="border")
    expected = reference.sample(
      np.asarray(image, np.float64),
      grid,
      method=method,
      padding="border",
      align_corners=False,
    )
    if method != "linear":
      self.assertTrue((expected > 255).any() or (expected < 0).any())
    np.testing.assert_allclose(out, np.clip(expected, 0, 255), atol=0.501)

  @parameterized.parameters(jnp.nan, jnp.inf)
  def test_a_bad_edge_pixel_stays_where_it_is(self, bad):
    image = jnp.ones((4, 4, 1)).at[0, 0].set(bad)
    grid = jnp.array([[[-5.0, -5.0], [0.5, 0.5], [-0.75, -5.0]]])
    out = stnjax.grid_sample(image, grid)
    np.testing.assert_allclose(out[0, :, 0], [0, 1, 0])

  @parameterized.parameters(*INTERPOLATIONS)
  def test_no_channels(self, method):
    out = stnjax.grid_sample(
      jnp.ones((4, 4, 0)), jnp.zeros((2, 3, 2)), method=method
    )
    self.assertEqual(out.shape, (2, 3, 0))

  def test_nearest_keeps_integers_and_booleans(self):
    grid = jnp.array([[[0.5, -0.5]]])
    big = jnp.array([[[2**30 + 1], [2**30 + 3]]] * 2, jnp.int32)
    for padding in sampling.PADDINGS:
      out = stnjax.grid_sample(big, grid, method="nearest", padding=padding)
      self.assertEqual(int(out[0, 0, 0]), 2**30 + 3)
    mask = jnp.array([[[False], [True]]] * 2)
    out = stnjax.grid_sample(mask, grid, method="nearest")
    self.assertEqual(out.dtype, jnp.bool_)
    self.assertTrue(bool(out[0, 0, 0]))

  @parameterized.product(
    case=(
      ((), (), ()),
      ((), (3,), (3,)),
      ((3,), (), (3,)),
      ((0,), (0,), (0,)),
      ((0,), (), (0,)),
      ((1,), (1,), (1,)),
      ((2, 1), (3,), (2, 3)),
    ),
    method=("linear", "spline"),
  )
  def test_convention_batch_axes_broadcast(self, case, method):
    image_batch, grid_batch, batch = case
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*image_batch, 4, 5, 2)).astype(np.float32)
    grid = rng.uniform(-1.2, 1.2, (*grid_batch, 3, 2, 2)).astype(np.float32)
    out, mask = stnjax.grid_sample(image, grid, method=method, return_mask=True)
    self.assertEqual(out.shape, (*batch, 3, 2, 2))
    self.assertEqual(mask.shape, (*grid_batch, 3, 2))
    images = np.broadcast_to(image, (*batch, 4, 5, 2))
    grids = np.broadcast_to(grid, (*batch, 3, 2, 2))
    for place in np.ndindex(*batch):
      expected = reference.sample(
        images[place],
        grids[place],
        method=method,
        padding="zeros",
        align_corners=False,
      )
      np.testing.assert_allclose(out[place], expected, atol=1e-5)


class FillTest(parameterized.TestCase):
  """The constant outside, and the mask that says how much of it is in."""

  @parameterized.product(
    method=INTERPOLATIONS, shape=((5, 6), (1, 4), (3, 2, 4))
  )
  def test_constant_is_an_image_that_goes_on(self, method, shape):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, 2)).astype(np.float32)
    grid = random_grid(rng, len(shape)).astype(np.float32)
    fill = np.array([3.0, -2.0], np.float32)
    expected = fill + reference.sample(
      image - fill, grid, method=method, padding="zeros", align_corners=False
    )
    out = stnjax.grid_sample(
      image, grid, method=method, padding="constant", fill_value=fill
    )
    np.testing.assert_allclose(out, expected, atol=3e-5)

  @parameterized.parameters(
    *((method, "zeros", True) for method in sampling.METHODS),
    *(("linear", padding, False) for padding in sampling.PADDINGS),
    ("spline", "wrap", False),
  )
  def test_mask_is_what_ones_would_give(self, method, padding, align_corners):
    rng = np.random.default_rng(0)
    grid = random_grid(rng, 2).astype(np.float32)
    grid[1, 1] = np.nan
    _, mask = stnjax.grid_sample(
      jnp.zeros((5, 6, 1)),
      grid,
      method=method,
      padding=padding,
      align_corners=align_corners,
      return_mask=True,
      key=KEY if method == "linearised" else None,
    )
    expected = reference.sample(
      np.ones((5, 6, 1)),
      grid,
      method="linear" if method == "linearised" else method,
      padding="zeros",
      align_corners=align_corners,
    )
    np.testing.assert_allclose(mask, expected[..., 0], atol=1e-5)

  @parameterized.product(method=INTERPOLATIONS, dtype=("float32", "uint8"))
  def test_convention_nan_reads_as_fill(self, method, dtype):
    image = jnp.ones((4, 4, 1), dtype)
    grid = jnp.array([[[jnp.nan, 0.0], [0.0, jnp.nan]]])
    out = stnjax.grid_sample(
      image, grid, method=method, padding="constant", fill_value=7
    )
    np.testing.assert_array_equal(out.ravel(), [7, 7])

  @parameterized.product(
    method=("nearest", "linear", "cubic", "spline"), fill=(np.nan, np.inf)
  )
  def test_a_fill_that_is_not_finite_stays_outside(self, method, fill):
    grid = np.stack(np.meshgrid([-3.0, -0.31, 0.17], [0.2]), -1)
    image = np.random.default_rng(0).normal(size=(9, 9, 1))
    out = stnjax.grid_sample(
      image, grid, method=method, padding="constant", fill_value=fill
    )
    np.testing.assert_array_equal(np.isfinite(out).ravel(), [False, True, True])

  @parameterized.product(
    method=("linear", "cubic", "spline", "linearised"),
    fill=(np.nan, np.inf, -np.inf),
  )
  def test_gradients_of_a_fill_that_is_not_finite(self, method, fill):
    """They are those of another fill, where the pictures agree."""
    image = np.random.default_rng(0).normal(size=(7, 8, 2)).astype(np.float32)
    theta = jnp.array([[1.3, 0.2, 0.1], [-0.2, 1.1, 0.0]])
    options = dict(method=method, padding="constant")
    if method == "linearised":
      options["key"] = KEY
    bad = stnjax.warp(image, theta, fill_value=fill, **options)
    self.assertFalse(np.isfinite(bad).all())

    def loss(image, theta, fill):
      picture = stnjax.warp(image, theta, fill_value=fill, **options)
      return jnp.where(np.isfinite(bad), picture, 0).sum()

    self.assertEqual(jax.grad(loss, 2)(image, theta, fill), 0)
    gradients = jax.grad(loss, (0, 1))
    chex.assert_trees_all_close(
      gradients(image, theta, fill), gradients(image, theta, 0.0), atol=1e-4
    )

  def test_fill_of_masks_and_of_large_integers(self):
    outside = jnp.full((1, 1, 2), 5.0)
    call = dict(method="nearest", padding="constant")
    mask = stnjax.grid_sample(
      jnp.zeros((2, 2, 1), bool), outside, fill_value=True, **call
    )
    self.assertTrue(bool(mask[0, 0, 0]))
    for dtype, fill, expected in (
      ("int32", 2**24 + 1, 2**24 + 1),
      ("uint8", 300, 255),
      ("uint8", -1, 0),
      ("uint8", 1e9, 255),
    ):
      out = stnjax.grid_sample(
        jnp.zeros((2, 2, 1), dtype), outside, fill_value=fill, **call
      )
      self.assertEqual(int(out[0, 0, 0]), expected)

  def test_fill_has_a_gradient(self):
    grid = jnp.array([[[-1.0, 0.0], [-5.0, 0.0], [0.0, 0.0]]])
    grad = jax.grad(
      lambda fill: stnjax.grid_sample(
        jnp.ones((4, 4, 1)), grid, padding="constant", fill_value=fill
      ).sum()
    )(0.5)
    np.testing.assert_allclose(grad, 1.5)


class RangeTest(parameterized.TestCase):
  """Axes and coordinates at the ends of what floats and indices hold."""

  @parameterized.product(
    method=("nearest", "linear", "cubic"), padding=("zeros", "border")
  )
  def test_outside_of_a_long_axis(self, method, padding):
    image = jnp.ones((1, 2**23 + 64, 1), jnp.bfloat16).at[:, -8:].set(2)
    grid = jnp.array([[[1.5, 0.0], [-1.5, 0.0], [1e30, 0.0], [1 - 1e-6, 0.0]]])
    out = stnjax.grid_sample(image, grid, method=method, padding=padding)
    expected = [0, 0, 0, 2] if padding == "zeros" else [2, 1, 2, 2]
    np.testing.assert_array_equal(out.ravel(), expected)

  @parameterized.product(
    method=("nearest", "linear", "cubic"),
    mode=(("wrap", False), ("reflection", False), ("reflection", True)),
    size=(5, 41, 42, 1000),
  )
  def test_periods_of_huge_coordinates(self, method, mode, size):
    places = [2.0**23 + 1, 2.0**24 + 2, -(2.0**25) - 4, 1e9, -1e12, 1e30]
    padding, align_corners = mode
    period = size if padding == "wrap" else 2 * (size - align_corners)
    image = jnp.arange(float(size)).reshape(1, size, 1)
    points = np.stack([places, np.zeros(6)], -1).astype(np.float32)
    out = sampling.sample_pixels(
      image,
      jnp.asarray(points[None]),
      method=method,
      padding=padding,
      align_corners=align_corners,
    )
    rests = [int(place) % period for place in points[:, 0]]  # of exact integers
    expected = [
      reference.source(rest, size, padding, align_corners) for rest in rests
    ]
    np.testing.assert_array_equal(out.ravel(), expected)

  @pytest.mark.slow
  @parameterized.parameters("nearest", "linear")
  def test_more_pixels_than_an_index_of_32_bits_counts(self, method):
    image = np.zeros((32769, 65536, 1), np.uint8)
    image[:: image.shape[0] - 1, :: image.shape[1] - 1, 0] = [
      [11, 22],
      [33, 44],
    ]
    corners = np.stack(np.meshgrid([-1.0, 1.0], [-1.0, 1.0]), -1)
    out = stnjax.grid_sample(
      image, corners, method=method, padding="border", align_corners=True
    )
    np.testing.assert_array_equal(out[..., 0], [[11, 22], [33, 44]])

  def test_an_axis_that_is_too_long(self):
    image = jax.ShapeDtypeStruct((1, 2**30 + 1, 1), jnp.uint8)
    grid = jnp.zeros((1, 1, 2))
    with self.assertRaisesRegex(ValueError, "image .*1073741824 pixels"):
      jax.eval_shape(lambda image: stnjax.grid_sample(image, grid), image)


class ByteOrderTest(parameterized.TestCase):
  """Arrays of either byte order are read alike."""

  @parameterized.parameters("f4", "f8", "i2")
  def test_calls(self, kind):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 9, (5, 6, 2)).astype(f">{kind}")
    grid = rng.uniform(-1.2, 1.2, (4, 3, 2)).astype(">f4")
    fill = np.array([1, 2], f">{kind}")

    def native(array):
      return array.astype(array.dtype.newbyteorder("="))

    for call in (
      lambda i, g, f: stnjax.grid_sample(
        i, g, padding="constant", fill_value=f
      ),
      lambda i, g, f: stnjax.splat(i[:4, :3], g, (5, 6)),
      lambda i, g, f: stnjax.warp(
        i,
        np.eye(2, 3, dtype=">f4"),
        output_shape=(3, 4),
        padding="constant",
        fill_value=f,
        antialias=True,
      ),
      lambda i, g, f: stnjax.spline_coefficients(i),
    ):
      ours = call(image, grid, fill)
      expected = call(native(image), native(grid), native(fill))
      self.assertEqual(ours.dtype, expected.dtype)
      np.testing.assert_array_equal(ours, expected)


class ChannelsFirstTest(parameterized.TestCase):
  CALLS = {
    "warp": lambda image: stnjax.warp(image, jnp.eye(2, 3)),
    "warp_volumes": lambda image: stnjax.warp(image, jnp.eye(3, 4)),
    "grid_sample": lambda image: stnjax.grid_sample(
      image, jnp.zeros((2, 2, 2))
    ),
    "coefficients": stnjax.spline_coefficients,
  }

  @parameterized.parameters(
    ((2, 3, 8, 224), 2), ((1, 28, 28), 2), ((2, 1, 8, 20, 20), 3)
  )
  def test_warns_of_small_ones(self, shape, num_axes):
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    with self.assertWarnsRegex(UserWarning, "moveaxis"):
      jax.eval_shape(
        lambda i: stnjax.warp(i, jnp.eye(num_axes, num_axes + 1)), image
      )

  @parameterized.parameters(*CALLS)
  def test_warns_once_and_where_it_was_called(self, name):
    with warnings.catch_warnings(record=True) as caught:
      warnings.simplefilter("always")
      volume = (32,) * (name == "warp_volumes")
      shape = (4, 3, 32, 32, *volume)
      image = jax.ShapeDtypeStruct(shape, jnp.float32)
      jax.eval_shape(self.CALLS[name], image)
    (warning,) = caught
    self.assertIn("moveaxis", str(warning.message))
    self.assertEqual(warning.filename, __file__)

  @parameterized.parameters(
    ((4, 4, 256),),
    ((1, 28, 1),),
    ((3, 200, 3),),
    ((28, 28, 64),),
    ((1, 1, 512),),
  )
  def test_does_not_warn_of_feature_maps(self, shape):
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      image = jax.ShapeDtypeStruct(shape, jnp.float32)
      jax.eval_shape(self.CALLS["warp"], image)


class SplineTest(parameterized.TestCase):
  @parameterized.parameters(
    dict(num_axes=2, padding="zeros"),
    dict(num_axes=2, padding="constant"),
    dict(num_axes=2, padding="reflection", align_corners=True),
    dict(num_axes=3, padding="border"),
  )
  def test_coefficients_can_be_reused(self, num_axes, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *(4, 5, 3)[:num_axes], 2)).astype(np.float32)
    grid = random_grid(rng, num_axes, (2,)).astype(np.float32)
    coefficients = stnjax.spline_coefficients(image, num_axes=num_axes, **mode)
    self.assertEqual(coefficients.shape, image.shape)
    np.testing.assert_allclose(
      stnjax.grid_sample(
        coefficients, grid, method="spline", prefilter=False, **mode
      ),
      stnjax.grid_sample(image, grid, method="spline", **mode),
      atol=1e-5,
    )

  @parameterized.parameters(jnp.bfloat16, jnp.uint8)
  def test_coefficients_are_wide(self, dtype):
    coefficients = stnjax.spline_coefficients(jnp.ones((3, 3, 1), dtype))
    self.assertEqual(coefficients.dtype, jnp.float32)


class GradientTest(parameterized.TestCase):
  @parameterized.product(
    method=("linear", "cubic", "spline"), padding=("zeros", "reflection")
  )
  @pytest.mark.usefixtures("x64")
  def test_numerical_gradients_off_the_lattice(self, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    grid = off_lattice_grid(rng, (5, 6), -2, 7, False)
    sample = jax.jit(sample_fn(**mode))
    check_grads(sample, (image, grid), 1, ("fwd", "rev"), eps=1e-5)

  @parameterized.parameters(
    ("linear", "zeros"), ("cubic", "border"), ("cubic", "reflection")
  )
  @pytest.mark.usefixtures("x64")
  def test_second_derivatives(self, method, padding):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 1))
    grid = off_lattice_grid(rng, (5, 6), -2, 7, False)
    sample = sample_fn(method=method, padding=padding)
    gradient = jax.jit(jax.grad(lambda i, g: (sample(i, g) ** 2).sum(), (0, 1)))
    check_grads(gradient, (image, grid), 1, ("fwd",), eps=1e-5)

  @parameterized.parameters("linear", "cubic")
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_volumes(self, method):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 4, 5, 1))
    grid = off_lattice_grid(rng, (3, 4, 5), -2, 5, False)
    check_grads(sample_fn(method=method), (image, grid), 1, ("rev",), eps=1e-6)

  @parameterized.product(
    method=sampling.METHODS, padding=("constant", "reflection")
  )
  def test_no_coordinate_makes_a_gradient_that_is_not_finite(self, **mode):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 2)))
    bad = np.array([np.nan, np.inf, -np.inf, 1e30, -3e9, 2**31])
    good = np.full_like(bad, 0.3)
    grid = jnp.stack(
      [
        jnp.stack([jnp.asarray(x), jnp.asarray(y)], -1)
        for x, y in ((bad, good), (good, bad), (bad, bad), (good, good))
      ]
    )
    key = KEY if mode["method"] == "linearised" else None
    cotangent = jnp.ones((*grid.shape[:-1], 2), image.dtype)
    value, to_image, to_grid = jax.jit(pull_fn(key=key, **mode))(
      image, grid, cotangent
    )
    chex.assert_tree_all_finite((value, to_image, to_grid))
    np.testing.assert_array_equal(to_grid[~np.isfinite(grid)], 0)

  @parameterized.parameters("bfloat16", "float16")
  def test_gradient_of_a_narrow_image_is_summed_in_a_wide_dtype(self, dtype):
    grad = jax.grad(
      lambda image: (
        stnjax.grid_sample(image, jnp.zeros((64, 64, 2)), padding="border")
        .astype(jnp.float32)
        .sum()
      )
    )(jnp.ones((1, 1, 1), dtype))
    self.assertEqual(float(grad[0, 0, 0]), 4096)

  def test_convention_right_hand_gradient_at_pixel_centres(self):
    ramp = jnp.array([0.0, 1.0, 3.0, 7.0])[None, :, None]
    x = reference.to_coordinate(np.arange(4), 4, False)
    grid = jnp.stack([jnp.asarray(x), jnp.zeros(4)], -1)[None]
    grad = jax.grad(lambda g: stnjax.grid_sample(ramp, g).sum())(grid)
    np.testing.assert_allclose(grad[0, :, 0], np.array([1, 2, 4, -7]) * 2)

  @parameterized.parameters("linear", "cubic", "spline", "linearised")
  def test_unused_image_cotangent_costs_nothing(self, method):
    image = jnp.ones((2, 8, 8, 3))
    grid = jnp.zeros((2, 4, 4, 2))
    key = KEY if method == "linearised" else None

    def text(argnums):
      grad = jax.grad(
        lambda i, g: stnjax.grid_sample(i, g, method=method, key=key).sum(),
        argnums,
      )
      # Not as conftest.py has it, which makes a loop of a scatter.
      options = {"xla_cpu_use_fusion_emitters": True}
      lowered = jax.jit(grad).lower(image, grid)
      return lowered.compile(options).as_text()

    spread = re.compile(" scatter\\(|bilinear_spread")
    self.assertNotRegex(text(1), spread)
    self.assertRegex(text(0), spread)


class LinearisedTest(parameterized.TestCase):
  def test_values_and_image_gradient_are_those_of_linear(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    grid = random_grid(rng, 2).astype(np.float32)
    ours, vjp = jax.vjp(
      lambda i: stnjax.grid_sample(i, grid, method="linearised", key=KEY), image
    )
    linear, linear_vjp = jax.vjp(lambda i: stnjax.grid_sample(i, grid), image)
    np.testing.assert_allclose(ours, linear, atol=1e-6)
    cotangent = rng.normal(size=linear.shape).astype(np.float32)
    np.testing.assert_allclose(vjp(cotangent)[0], linear_vjp(cotangent)[0])

  @parameterized.parameters(2, 3)
  def test_slope_of_a_plane_is_exact(self, num_axes):
    shape = (40, 60, 50)[:num_axes]
    slopes = np.array([0.5, -1.5, 2.0])[:num_axes]  # per pixel, x first
    pixels = np.stack(np.indices(shape)[::-1], -1)
    image = (pixels @ slopes)[..., None].astype(np.float32)
    grid = jnp.full((*(20, 30, 25)[:num_axes], num_axes), 0.1)
    grad = jax.grad(
      lambda g: stnjax.grid_sample(image, g, method="linearised", key=KEY).sum()
    )(grid)
    expected = slopes * np.array(shape[::-1]) / 2
    np.testing.assert_allclose(
      grad, np.broadcast_to(expected, grad.shape), rtol=1e-3
    )

  @parameterized.parameters(
    ((8,), ()),
    ((3,), ()),
    ((1,), ()),
    ((2, 3), (3,)),
    ((3,), (2, 1)),
    ((), (2,)),
  )
  def test_slopes_where_batches_broadcast(self, image_batch, grid_batch):
    """Ramps i * x, whose slope is i, with as many grids as may be."""
    factors = np.arange(1.0, 1 + np.prod(image_batch, dtype=int))
    factors = factors.reshape(*image_batch, 1, 1, 1)
    image = jnp.asarray(factors * np.arange(64.0)[:, None], jnp.float32)
    image = jnp.broadcast_to(image, (*image_batch, 64, 64, 1))
    batch = np.broadcast_shapes(image_batch, grid_batch)

    def sample(displacement):  # one for each result, to tell their slopes apart
      grid = jnp.zeros((*grid_batch, 5, 5, 2)) + displacement
      return stnjax.grid_sample(image, grid, method="linearised", key=KEY)

    grid = jnp.zeros((*grid_batch, 5, 5, 2))
    jacobian = jax.jacobian(sample)(jnp.zeros(2))
    self.assertEqual(jacobian.shape, (*batch, 5, 5, 1, 2))
    slope = np.stack([32 * factors, 0 * factors], -1)
    np.testing.assert_allclose(
      jacobian, np.broadcast_to(slope, jacobian.shape), atol=1e-2
    )
    np.testing.assert_allclose(
      stnjax.grid_sample(image, grid, method="linearised", key=KEY),
      stnjax.grid_sample(image, grid),
    )

  def test_warp_of_several_images_by_one_transform(self):
    factors = jnp.arange(1.0, 5.0).reshape(4, 1, 1, 1)
    image = jnp.broadcast_to(
      factors * jnp.arange(32.0)[:, None], (4, 32, 32, 1)
    )
    slopes = jax.jacobian(
      lambda theta: stnjax.warp(image, theta, method="linearised", key=KEY)
    )(jnp.eye(2, 3))
    inner = slopes[
      :, 8:-8, 8:-8, 0, 0, 2
    ]  # how each pixel moves with the shift
    expected = np.broadcast_to(16 * factors[..., 0], inner.shape)
    np.testing.assert_allclose(inner, expected, rtol=1e-3)

  def test_gradient_reaches_further_than_linear(self):
    # A bright pixel two pixels away: linear sees nothing of it.
    image = jnp.zeros((9, 9, 1)).at[4, 6].set(1.0)
    grid = jnp.zeros((1, 1, 2))

    def slope(key, method):
      return jax.grad(
        lambda g: stnjax.grid_sample(image, g, method=method, key=key).sum()
      )(grid)[0, 0, 0]

    self.assertEqual(slope(None, "linear"), 0)
    keys = jax.random.split(KEY, 500)
    slopes = jax.vmap(lambda key: slope(key, "linearised"))(keys)
    error = slopes.std() / len(keys) ** 0.5
    self.assertGreater(slopes.mean(), 5 * error)

  def test_the_key_decides(self):
    image = np.random.default_rng(0).normal(size=(9, 9, 1))
    grid = jnp.zeros((2, 2, 2))

    def slope(seed):
      return jax.grad(
        lambda g: stnjax.grid_sample(
          image, g, method="linearised", key=jax.random.key(seed)
        ).sum()
      )(grid)

    np.testing.assert_array_equal(slope(1), slope(1))
    self.assertTrue((slope(1) != slope(2)).all())


class SplatTest(parameterized.TestCase):
  @parameterized.product(
    shape=((5, 6), (1, 4), (3, 2, 4)),
    padding=("zeros", "border", "reflection", "wrap"),
    align_corners=(False, True),
  )
  def test_against_the_definition(self, shape, padding, align_corners):
    rng = np.random.default_rng(0)
    grid = random_grid(rng, len(shape)).astype(np.float32)
    grid.reshape(-1, len(shape))[2] = np.nan
    values = rng.normal(size=(*grid.shape[:-1], 2)).astype(np.float32)
    expected = np.zeros((*shape, 2))
    for place in np.ndindex(*grid.shape[:-1]):
      tile = values[place]
      for coordinate, size in zip(grid[place], shape[::-1], strict=True):
        row = reference.weights(
          reference.to_pixel(float(coordinate), size, align_corners),
          size,
          method="linear",
          padding=padding,
          align_corners=align_corners,
        )
        tile = np.multiply.outer(row, tile)
      expected += tile
    out = stnjax.splat(
      values, grid, shape, padding=padding, align_corners=align_corners
    )
    np.testing.assert_allclose(out, expected, atol=2e-5)

  @parameterized.parameters(
    ((), (3,)), ((3,), ()), ((2, 1), (3,)), ((0,), (0,))
  )
  def test_batches_broadcast(self, values_batch, grid_batch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(*values_batch, 2, 3, 2)).astype(np.float32)
    grid = rng.uniform(-1, 1, (*grid_batch, 2, 3, 2)).astype(np.float32)
    out = stnjax.splat(values, grid, (4, 5))
    batch = np.broadcast_shapes(values_batch, grid_batch)
    self.assertEqual(out.shape, (*batch, 4, 5, 2))
    values = np.broadcast_to(values, (*batch, 2, 3, 2))
    grid = np.broadcast_to(grid, (*batch, 2, 3, 2))
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        out[place], stnjax.splat(values[place], grid[place], (4, 5)), atol=1e-6
      )

  @parameterized.parameters(
    ("bfloat16", "bfloat16"), ("float32", "float32"), ("uint8", "float32")
  )
  def test_dtypes(self, dtype, expected):
    # 300 ones into one pixel: more than bfloat16 counts to.
    out = stnjax.splat(
      jnp.ones((300, 1, 1), dtype), jnp.zeros((300, 1, 2)), (1, 1)
    )
    self.assertEqual(out.dtype, jnp.dtype(expected))
    np.testing.assert_allclose(out.astype(jnp.float32).ravel(), [300])

  @pytest.mark.usefixtures("x64")
  def test_gradients(self):
    rng = np.random.default_rng(0)
    grid = off_lattice_grid(rng, (5, 6), -1, 5, False)
    values = rng.normal(size=(*grid.shape[:-1], 2))
    check_grads(
      jax.jit(lambda v, g: stnjax.splat(v, g, (5, 6))),
      (values, grid),
      2,
      ("fwd", "rev"),
      eps=1e-5,
    )

  @parameterized.parameters(
    (ValueError, "padding='constant'", dict(padding="constant")),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2)))),
    (ValueError, "values must have the sp", dict(values=jnp.ones((2, 2, 1)))),
    (ValueError, "values must have the spatial", dict(values=jnp.ones(3))),
    (TypeError, "values must hold", dict(values=jnp.ones((2, 3, 1), bool))),
    (ValueError, r"output_shape must be \(H, W\)", dict(output_shape=(4,))),
    (TypeError, "output_shape", dict(output_shape=4)),
    (TypeError, "align_corners must be", dict(align_corners=None)),
    (
      ValueError,
      "batch axes of values and grid",
      dict(values=jnp.ones((2, 2, 3, 1)), grid=jnp.zeros((3, 2, 3, 2))),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
    call = dict(
      values=jnp.ones((2, 3, 1)), grid=jnp.zeros((2, 3, 2)), output_shape=(4, 4)
    )
    with self.assertRaisesRegex(error, message):
      stnjax.splat(**{**call, **arguments})


class TransformationsTest(chex.TestCase):
  """The same under what JAX does to functions."""

  @chex.all_variants()
  def test_all_variants_agree(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    grid = random_grid(rng, 2).astype(np.float32)
    expected = reference.sample(
      image, grid, method="cubic", padding="border", align_corners=False
    )
    sample = self.variant(sample_fn(method="cubic", padding="border"))
    np.testing.assert_allclose(sample(image, grid), expected, atol=1e-5)

  def test_checkpoint_and_export(self):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(5, 6, 2)), jnp.float32)
    grid = jnp.asarray(random_grid(rng, 2), jnp.float32)
    for method in ("nearest", "cubic"):
      sample = sample_fn(method=method)

      def loss(grid, sample=sample):
        return jnp.sum(sample(image, grid) ** 2)

      chex.assert_trees_all_close(
        jax.grad(jax.checkpoint(loss))(grid), jax.grad(loss)(grid), atol=1e-4
      )
      exported = jax.export.export(jax.jit(sample))(image, grid)
      chex.assert_trees_all_close(
        exported.call(image, grid), sample(image, grid), atol=1e-5
      )
      # Nothing that only this runtime knows.
      self.assertNotIn("custom_call", exported.mlir_module())

  @parameterized.parameters(*sampling.METHODS, "splat", "warp", "velocity")
  def test_sharded_batch_needs_no_collectives(self, method):
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    spec = jax.NamedSharding(mesh, jax.P("batch"))
    image = jax.device_put(jnp.ones((8, 6, 6, 2)), spec)
    grid = jax.device_put(jnp.zeros((8, 6, 6, 2)), spec)
    theta = jax.device_put(jnp.ones((8, 3, 3)), spec)

    def loss(image, grid, theta):
      if method == "splat":
        result = stnjax.splat(image, grid, (5, 5))
      elif method == "warp":
        result = stnjax.warp(image, theta, antialias=True)
      elif method == "velocity":
        result = stnjax.velocity_grid(grid, steps=2)
      else:
        key = KEY if method == "linearised" else None
        result = stnjax.grid_sample(image, grid, method=method, key=key)
      return (result**2).sum()

    grads = jax.jit(jax.grad(loss, (0, 1, 2)), out_shardings=(spec, spec, spec))
    text = grads.lower(image, grid, theta).compile().as_text()
    for collective in (" all-gather", " all-reduce", " all-to-all", "permute("):
      self.assertNotIn(collective, text)

  def test_pmap_and_shard_map(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 2, 5, 6, 1)).astype(np.float32)
    grid = rng.uniform(-1, 1, (4, 2, 3, 3, 2)).astype(np.float32)
    sample = sample_fn(method="cubic")
    expected = sample(image, grid)
    np.testing.assert_allclose(
      jax.pmap(sample)(image, grid), expected, atol=1e-5
    )
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    spec = jax.P("batch")
    mapped = jax.shard_map(sample, mesh=mesh, in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(mapped(image, grid), expected, atol=1e-5)

  @parameterized.product(
    adjoint=(False, True), axis_type=("Explicit", "Manual")
  )
  def test_gradients_of_a_batch_over_devices(self, adjoint, axis_type):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, 5, 6, 2)).astype(np.float32)
    grid = rng.uniform(-1, 1, (4, 5, 6, 2)).astype(np.float32)

    def loss(image, grid):
      if adjoint:
        return (stnjax.splat(image, grid, (3, 4)) ** 3).sum()
      return (stnjax.grid_sample(image, grid) ** 3).sum()

    gradients = jax.grad(loss, (0, 1))
    expected = jax.jit(gradients)(image, grid)
    kind = "Auto" if axis_type == "Manual" else axis_type
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType[kind],)
    )
    spec = jax.P("batch")
    if axis_type == "Manual":
      gradients = jax.shard_map(gradients, in_specs=spec, out_specs=spec)
    with jax.set_mesh(mesh):
      operands = jax.device_put((image, grid), jax.NamedSharding(mesh, spec))
      found = jax.jit(gradients)(*operands)
    chex.assert_trees_all_close(found, expected, atol=1e-4)

  def test_vmap_over_keys_and_images(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 5, 6, 1)).astype(np.float32)
    grid = rng.uniform(-1, 1, (3, 2, 2, 2)).astype(np.float32)
    keys = jax.random.split(KEY, 3)
    out = jax.vmap(
      lambda i, g, k: stnjax.grid_sample(i, g, method="linearised", key=k)
    )(image, grid, keys)
    np.testing.assert_allclose(out, stnjax.grid_sample(image, grid), atol=1e-6)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (ValueError, "method='bicubic'.*accepted", dict(method="bicubic")),
    (ValueError, "padding='mirror'.*accepted", dict(padding="mirror")),
    (ValueError, "implementation='cuda'.*acc", dict(implementation="cuda")),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2, 4)))),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2)))),
    (ValueError, "grid must be", dict(grid=jnp.zeros((2, 2, 3)))),
    (ValueError, "image must be", dict(image=jnp.zeros((3, 3)))),
    (ValueError, "image must be", dict(image=jnp.zeros((0, 3, 1)))),
    (
      ValueError,
      "batch axes of image and grid",
      dict(image=jnp.zeros((2, 4, 4, 1)), grid=jnp.zeros((3, 2, 2, 2))),
    ),
    (
      TypeError,
      "grid must hold real",
      dict(grid=jnp.zeros((2, 2, 2), complex)),
    ),
    (
      TypeError,
      "image must hold real",
      dict(image=jnp.zeros((3, 3, 1), complex)),
    ),
    (
      TypeError,
      "bool needs method='nearest'",
      dict(image=jnp.zeros((3, 3, 1), bool)),
    ),
    (TypeError, "align_corners must be True or False", dict(align_corners=1)),
    (TypeError, "return_mask must be True or False", dict(return_mask="no")),
    (TypeError, "prefilter must be True or False", dict(prefilter=None)),
    (ValueError, "prefilter=False needs method", dict(prefilter=False)),
    (ValueError, "fill_value needs padding='constant'", dict(fill_value=1.0)),
    (
      ValueError,
      r"fill_value must be a number or \[1\]",
      dict(padding="constant", fill_value=jnp.ones(2)),
    ),
    (
      TypeError,
      "fill_value must hold real",
      dict(padding="constant", fill_value=1j),
    ),
    (ValueError, "key is for method='linearised'", dict(key=KEY)),
    (ValueError, "'linearised' needs a key", dict(method="linearised")),
    (
      TypeError,
      "key must be one jax.random.key",
      dict(method="linearised", key=3),
    ),
    (
      TypeError,
      "key must be one jax.random.key",
      dict(method="linearised", key=jax.random.split(KEY, 2)),
    ),
    (
      TypeError,
      "key must be one jax.random.key",
      dict(method="linearised", key=np.zeros(2)),
    ),
    (
      TypeError,
      "image must hold real",
      dict(image=jnp.zeros((3, 3, 1), jnp.float8_e4m3fn)),
    ),
    (TypeError, "image must hold real", dict(image=jax.random.split(KEY, 9))),
    (TypeError, "image must hold real", dict(image="cat.png")),
    (TypeError, "grid must hold real", dict(grid=None)),
  )
  def test_convention_wrong_arguments_are_named(
    self, error, message, arguments
  ):
    call = dict(image=jnp.zeros((3, 3, 1)), grid=jnp.zeros((2, 2, 2)))
    with self.assertRaisesRegex(error, message):
      stnjax.grid_sample(**{**call, **arguments})

  @parameterized.parameters(
    (ValueError, "num_axes=4", dict(num_axes=4)),
    (ValueError, "padding='same'", dict(padding="same")),
    (ValueError, "image must be", dict(image=jnp.ones(4))),
    (TypeError, "image must hold", dict(image=jnp.ones((4, 4, 1), bool))),
    (TypeError, "align_corners must be", dict(align_corners=0)),
  )
  def test_wrong_arguments_of_the_filter(self, error, message, arguments):
    with self.assertRaisesRegex(error, message):
      stnjax.spline_coefficients(**{"image": jnp.ones((4, 4, 1)), **arguments})


if __name__ == "__main__":
  absltest.main()
