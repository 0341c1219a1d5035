"""grid_sample: dtypes, batches, fill, ranges of numbers, errors."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import sampling
from tests import reference
from tests.sampling.cases import random_grid

INTERPOLATIONS = ("nearest", "linear", "cubic", "spline")
KEY = jax.random.key(0)


class DtypeTest(parameterized.TestCase):
  def check_dtype(self, dtype, method, padding):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(60, 190, (5, 6, 2)), dtype)
    grid = random_grid(rng, 2).astype(np.float32)
    out = stnjax.grid_sample(image, grid, method=method, padding=padding)
    self.assertEqual(out.dtype, jnp.dtype(dtype))
    expected = reference.sample(
      np.asarray(image, np.float64),
      grid,
      method=method,
      padding=padding,
      align_corners=False,
    )
    tolerance = {"float16": 0.13, "bfloat16": 1.0}.get(dtype, 0.501)
    if dtype == "uint8":
      expected = np.clip(expected, 0, 255)
    np.testing.assert_allclose(
      out.astype(jnp.float32), expected, atol=tolerance, rtol=0
    )

  @parameterized.parameters(
    *((dtype, "linear") for dtype in ("bfloat16", "float16", "uint8", "int32")),
    ("uint8", "nearest"),
    ("int32", "cubic"),
    ("bfloat16", "spline"),
  )
  def test_convention_result_has_the_dtype_of_the_image(self, dtype, method):
    self.check_dtype(dtype, method, "zeros")

  @parameterized.product(
    dtype=("bfloat16", "float16", "uint8", "int32"),
    method=INTERPOLATIONS,
    padding=("zeros", "reflection"),
  )
  @pytest.mark.slow
  def test_every_method_keeps_every_dtype(self, dtype, method, padding):
    self.check_dtype(dtype, method, padding)

  def check_mix(self, image, grid, method):
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

  @parameterized.parameters(
    ("float32", "float64", "linear"),
    ("float64", "float32", "linear"),
    ("bfloat16", "float64", "spline"),
    ("float64", "bfloat16", "nearest"),
  )
  @pytest.mark.usefixtures("x64")
  def test_dtypes_mix_in_double_precision(self, image, grid, method):
    self.check_mix(image, grid, method)

  @parameterized.product(
    image=("float32", "float64", "bfloat16"),
    grid=("float32", "float64", "bfloat16"),
    method=INTERPOLATIONS,
  )
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_all_dtypes_mix_in_double_precision(self, image, grid, method):
    self.check_mix(image, grid, method)

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

  @parameterized.parameters("nearest", "spline")
  @pytest.mark.slow
  def test_no_channels(self, method):
    out = stnjax.grid_sample(
      jnp.ones((4, 4, 0)), jnp.zeros((2, 3, 2)), method=method
    )
    self.assertEqual(out.shape, (2, 3, 0))

  @pytest.mark.slow
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


class BatchTest(parameterized.TestCase):
  BATCHES = (
    ((), (3,), (3,)),
    ((3,), (), (3,)),
    ((0,), (), (0,)),
    ((1,), (1,), (1,)),
    ((2, 1), (3,), (2, 3)),
  )

  @parameterized.parameters(
    *((*case, "linear") for case in BATCHES),
  )
  def test_convention_batch_axes_broadcast(
    self, image_batch, grid_batch, batch, method
  ):
    self.check(image_batch, grid_batch, batch, method)

  @parameterized.parameters(*BATCHES)
  @pytest.mark.slow
  def test_batch_axes_of_splines(self, image_batch, grid_batch, batch):
    self.check(image_batch, grid_batch, batch, "spline")

  def check(self, image_batch, grid_batch, batch, method):
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
  """The constant outside; values and mask are in contract_test."""

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

  @pytest.mark.slow
  def test_gradients_of_a_fill_that_is_not_finite(self):
    self.check_gradients("linear")

  @parameterized.parameters("cubic", "spline", "linearised")
  @pytest.mark.slow
  def test_gradients_of_a_fill_that_is_not_finite_by_others(self, method):
    self.check_gradients(method)

  def check_gradients(self, method):
    """They are those of another fill, where the pictures agree."""
    image = np.random.default_rng(0).normal(size=(7, 8, 2)).astype(np.float32)
    theta = jnp.array([[1.3, 0.2, 0.1], [-0.2, 1.1, 0.0]])
    options = dict(method=method, padding="constant")
    if method in ("cubic", "spline"):
      options["implementation"] = "matmul"  # compiles in a fraction of the time
    if method == "linearised":
      options["key"] = KEY

    @jax.jit
    def gradients(image, theta, fill, keep):
      def loss(image, theta, fill):
        picture = stnjax.warp(image, theta, fill_value=fill, **options)
        return jnp.where(keep, picture, 0).sum(), picture

      return jax.grad(loss, (0, 1, 2), has_aux=True)(image, theta, fill)

    everywhere = jnp.ones(image.shape, bool)
    for fill in (jnp.nan, jnp.inf, -jnp.inf):
      _, bad = gradients(image, theta, fill, everywhere)
      keep = jnp.isfinite(bad)
      self.assertFalse(keep.all())
      (*ours, to_fill), _ = gradients(image, theta, fill, keep)
      self.assertEqual(to_fill, 0)
      (*expected, _), _ = gradients(image, theta, 0.0, keep)
      chex.assert_trees_all_close(ours, expected, atol=1e-4)

  @pytest.mark.slow
  def test_fill_of_masks_and_of_large_integers(self):
    outside = jnp.full((1, 1, 2), 5.0)
    call = dict(method="nearest", padding="constant")
    mask = stnjax.grid_sample(
      jnp.zeros((2, 2, 1), bool), outside, fill_value=True, **call
    )
    self.assertTrue(bool(mask[0, 0, 0]))
    masks = stnjax.grid_sample(
      jnp.zeros((2, 2, 2), bool),
      outside,
      fill_value=np.array([True, False]),
      **call,
    )
    np.testing.assert_array_equal(masks, [[[True, False]]])
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

  @parameterized.parameters("nearest", "linear")
  def test_convention_nan_reads_as_fill_of_integers(self, method):
    image = jnp.ones((4, 4, 1), jnp.uint8)
    grid = jnp.array([[[jnp.nan, 0.0], [0.0, jnp.nan]]])
    out = stnjax.grid_sample(
      image, grid, method=method, padding="constant", fill_value=7
    )
    np.testing.assert_array_equal(out.ravel(), [7, 7])

  @pytest.mark.slow
  def test_mask_of_linearised_is_that_of_linear(self):
    grid = random_grid(np.random.default_rng(0), 2)
    image = jnp.zeros((5, 6, 1))
    call = dict(return_mask=True)
    _, mask = stnjax.grid_sample(
      image, grid, method="linearised", key=KEY, **call
    )
    _, expected = stnjax.grid_sample(image, grid, **call)
    np.testing.assert_array_equal(mask, expected)


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

  def test_points_in_pixels_are_named(self):
    points = jnp.zeros((3, 2, 2, 2))
    message = "image and points .* for volumes, points must be"
    with self.assertRaisesRegex(ValueError, message):
      sampling.sample_pixels(jnp.zeros((2, 4, 4, 1)), points)


if __name__ == "__main__":
  absltest.main()
