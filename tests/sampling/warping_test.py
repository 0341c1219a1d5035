"""Grids and warp: against torch, a NumPy loop, and what they must conserve."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stnjax
from stnjax import transforms
from tests import reference
from tests.sampling.grids_test import check_gradients, random_theta

EXACT = ("nearest", "linear", "cubic")  # methods that copy at pixel centres
KEY = jax.random.key(0)


class WarpTest(parameterized.TestCase):
  def check(self, theta, output_shape, image, align_corners, **mode):
    grid = reference.grid(
      theta, output_shape or image.shape[:-1], align_corners=align_corners
    )
    np.testing.assert_allclose(
      stnjax.warp(
        image,
        theta,
        output_shape=output_shape,
        align_corners=align_corners,
        **mode,
      ),
      reference.sample(image, grid, align_corners=align_corners, **mode),
      atol=1e-10,
    )

  @parameterized.product(
    shape=((5, 6), (1, 4), (3, 2, 4)),
    output_shape=(None, (4, 3, 2)),
    projective=(False, True),
    align_corners=(False, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_every_transform(
    self, shape, output_shape, projective, align_corners
  ):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, 2))
    theta = random_theta(rng, len(shape), projective)
    size = output_shape and output_shape[: len(shape)]
    mode = dict(method="linear", padding="border")
    self.check(theta, size, image, align_corners, **mode)

  @parameterized.product(
    method=(*EXACT, "spline"), padding=("zeros", "border", "reflection", "wrap")
  )
  @pytest.mark.usefixtures("x64")
  def test_every_option_is_passed_on(self, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    theta = random_theta(rng, 2) * 1.5
    self.check(theta, (7, 3), image, True, **mode)

  @pytest.mark.usefixtures("x64")
  def test_fill_mask_coefficients_and_key_are_passed_on(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    theta = random_theta(rng, 2) * 1.5
    zeros, mask = stnjax.warp(image, theta, return_mask=True)
    filled = stnjax.warp(image, theta, padding="constant", fill_value=[1, 2])
    np.testing.assert_allclose(
      filled, zeros + (1 - mask[..., None]) * np.array([1, 2]), atol=1e-12
    )
    coefficients = stnjax.spline_coefficients(image)
    np.testing.assert_allclose(
      stnjax.warp(coefficients, theta, method="spline", prefilter=False),
      stnjax.warp(image, theta, method="spline"),
      atol=1e-12,
    )
    linearised = stnjax.warp(image, theta, method="linearised", key=KEY)
    np.testing.assert_allclose(linearised, zeros, atol=1e-12)

  @parameterized.product(
    shape=((49, 31), (6, 1), (4, 1, 3)),
    method=EXACT,
    padding=("zeros", "reflection"),
  )
  def test_identity_copies_every_bit(self, shape, **mode):
    rng = np.random.default_rng(0)
    for dtype in ("float32", "bfloat16", "uint8"):
      image = jnp.asarray(rng.uniform(0, 255, (*shape, 2)), dtype)
      theta = jnp.eye(len(shape), len(shape) + 1)
      out = stnjax.warp(image, theta, align_corners=len(shape) == 2, **mode)
      self.assertEqual(out.dtype, image.dtype)
      np.testing.assert_array_equal(out, image)

  @parameterized.product(
    shape=((5, 6), (49, 31)),
    method=(*EXACT, "spline"),
    align_corners=(False, True),
  )
  def test_convention_whole_pixel_shift(self, shape, method, align_corners):
    image = np.random.default_rng(0).normal(size=(*shape, 1)).astype(np.float32)
    height, width = (s - align_corners for s in shape)
    offset = jnp.array([2 * 2 / width, -1 * 2 / height])  # right 2, up 1
    out = stnjax.warp(
      image,
      transforms.translation(offset),
      method=method,
      align_corners=align_corners,
    )
    np.testing.assert_allclose(out[1:, :-2], image[:-1, 2:], atol=4e-5)
    np.testing.assert_allclose(out[0], 0, atol=4e-5)

  def test_convention_resize_of_edges_and_of_centres(self):
    ramp = jnp.arange(4.0)[None, :, None]
    halves = stnjax.warp(ramp, jnp.eye(2, 3), output_shape=(1, 2))
    np.testing.assert_allclose(halves[0, :, 0], [0.5, 2.5])
    ends = stnjax.warp(
      ramp, jnp.eye(2, 3), output_shape=(1, 2), align_corners=True
    )
    np.testing.assert_allclose(ends[0, :, 0], [0, 3])

  @parameterized.parameters(
    ((), (2,)), ((3,), ()), ((3,), (3,)), ((0,), (0,)), ((2, 1), (3,))
  )
  def test_batches_broadcast(self, image_batch, theta_batch):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*image_batch, 4, 5, 2)).astype(np.float32)
    theta = random_theta(rng, 2, batch=theta_batch).astype(np.float32)
    out = stnjax.warp(image, theta)
    batch = np.broadcast_shapes(image_batch, theta_batch)
    self.assertEqual(out.shape, (*batch, 4, 5, 2))
    images = np.broadcast_to(image, (*batch, 4, 5, 2))
    thetas = np.broadcast_to(theta, (*batch, 2, 3))
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        out[place], stnjax.warp(images[place], thetas[place]), atol=1e-6
      )

  @pytest.mark.usefixtures("x64")
  def test_warping_twice_is_warping_by_the_product(self):
    rows, columns = np.indices((33, 33)) - 16.0
    image = np.exp(-((rows - 2) ** 2 + columns**2) / 40)[..., None]
    a = transforms.matrix(np.array([0.1, 0.3, 0.05, -0.1]), "similarity")
    b = transforms.matrix(np.array([-0.05, 0.2, 0.0, 0.1]), "similarity")
    twice = stnjax.warp(stnjax.warp(image, a), b)
    once = stnjax.warp(image, transforms.compose(a, b))
    # Linear interpolation errs by at most (|f_xx| + |f_yy|) / 8 = 1 / 80 each
    # of the three times; the other order of the product is off by 0.17.
    np.testing.assert_allclose(twice, once, atol=3 / 80)
    swapped = stnjax.warp(image, transforms.compose(b, a))
    self.assertGreater(np.abs(swapped - once).max(), 2 * 3 / 80)

  @parameterized.product(family=transforms.FAMILIES, num_axes=(2, 3))
  @pytest.mark.usefixtures("x64")
  def test_gradient_to_the_parameters_of_every_family(self, family, num_axes):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*(6, 7, 5)[:num_axes], 2))
    # Generic, so that no sample lies on the lattice of the kinks.
    size = transforms.num_params(family, num_axes=num_axes)
    params = rng.uniform(-0.11, 0.13, size)
    check_gradients(
      lambda i, p: stnjax.warp(
        i, transforms.matrix(p, family, num_axes=num_axes)
      ),
      image,
      params,
      modes=("rev",),
    )

  def test_unknown_dtype_of_theta_and_image_mix(self):
    image = jnp.ones((4, 4, 1), jnp.bfloat16)
    self.assertEqual(stnjax.warp(image, np.eye(2, 3)).dtype, jnp.bfloat16)
    self.assertEqual(
      stnjax.warp(image, [[1, 0, 0], [0, 1, 0]]).dtype, jnp.bfloat16
    )

  @parameterized.parameters(
    (ValueError, "transform must be", dict(transform=jnp.eye(2))),
    (ValueError, "image must be", dict(image=jnp.zeros((4, 4)))),
    (ValueError, "image must be", dict(transform=jnp.eye(4))),
    (ValueError, "output_shape", dict(output_shape=(0, 4))),
    (ValueError, "output_shape", dict(output_shape=(4,))),
    (
      ValueError,
      r"output_shape must be \(H, W\)",
      dict(output_shape=(4, 4, 4)),
    ),
    (TypeError, "output_shape", dict(output_shape=4)),
    (ValueError, "method='area'", dict(method="area")),
    (ValueError, "padding=None", dict(padding=None)),
    (TypeError, "transform must hold real", dict(transform=jnp.eye(2, 3) * 1j)),
    (TypeError, "transform must hold real", dict(transform=jnp.eye(3) > 0)),
    (TypeError, "transform must", dict(transform=None)),
    (ValueError, "implementation='fast'", dict(implementation="fast")),
    (TypeError, "align_corners must be", dict(align_corners="edges")),
    (TypeError, "antialias must be True or", dict(antialias=2)),
    (TypeError, "return_mask must be", dict(return_mask=None)),
    (ValueError, "fill_value needs", dict(fill_value=[0.0])),
    (
      ValueError,
      "fill_value must be",
      dict(fill_value=[0.0, 0.0], padding="constant"),
    ),
    (ValueError, "key is for", dict(key=KEY)),
    (ValueError, "needs a key", dict(method="linearised")),
    (
      ValueError,
      "antialias=True needs a method other",
      dict(antialias=True, method="nearest"),
    ),
    (
      ValueError,
      "antialias=True needs.*prefilter=False",
      dict(antialias=True, method="spline", prefilter=False),
    ),
    (TypeError, "output_shape", dict(output_shape="small")),
    (TypeError, "output_shape", dict(output_shape=(np.inf, 2))),
    (TypeError, "prefilter must be True", dict(prefilter=np.ones(2))),
    (ValueError, "output_shape", dict(output_shape=(2.5, 4))),
    (
      ValueError,
      "image and transform must broadcast",
      dict(image=jnp.zeros((2, 4, 4, 1)), transform=jnp.zeros((3, 2, 3))),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
    self.check_error(error, message, arguments)

  @parameterized.parameters(
    ("transform must be .*, 3, 4", (4, 4, 4, 1), (2, 3), (4, 4, 4)),
    ("transform must be .*, 3, 4", (2, 4, 4, 4, 1), (3, 3), (4, 4, 4)),
    ("transform must be .*, 2, 3", (4, 4, 4, 1), (3, 4), (4, 4)),
    ("transform must be .*, 3, 4", (5, 4, 4, 4, 1), (5, 2, 3), None),
  )
  def test_images_taken_for_volumes(self, message, image, transform, shape):
    arguments = dict(
      image=jnp.zeros(image),
      transform=jnp.zeros(transform),
      output_shape=shape,
    )
    self.check_error(ValueError, message, arguments)

  def test_no_message_holds_an_array(self):
    long = np.zeros(5000)
    for name in ("transform", "output_shape", "method", "padding", "antialias"):
      for value in (long, jnp.zeros(5000), list(long), ["no"] * 5000):
        with self.assertRaises((TypeError, ValueError)) as caught:
          self.check_error(KeyError, "", {name: value})
        self.assertLess(len(str(caught.exception)), 400)

  @parameterized.parameters(">f4", ">f8", ">f2", ">i2", ">u4")
  def test_the_other_byte_order(self, dtype):
    image = np.arange(12).reshape(3, 4, 1)
    theta = np.array([[1, 0, 0.5], [0, 1, 0]])
    expected = np.array([[1, 2, 3, 0], [5, 6, 7, 0], [9, 10, 11, 0]])
    out = stnjax.warp(image.astype(dtype), theta.astype(">f8"))
    self.assertEqual(out.dtype, jnp.asarray(image.astype(dtype[1:])).dtype)
    np.testing.assert_array_equal(out[..., 0], expected)
    rows = list(theta.astype(">f4"))
    np.testing.assert_array_equal(stnjax.warp(image, rows)[..., 0], expected)

  def check_error(self, error, message, arguments):
    call = {
      "image": jnp.zeros((4, 4, 1)),
      "transform": jnp.eye(2, 3),
      **arguments,
    }
    with self.assertRaisesRegex(error, message):
      stnjax.warp(call.pop("image"), call.pop("transform"), **call)


class AntialiasTest(parameterized.TestCase):
  @parameterized.product(factor=(2, 3, 5), padding=("zeros", "wrap"))
  @pytest.mark.usefixtures("x64")
  def test_is_a_gaussian_of_the_factor(self, factor, padding):
    image = np.random.default_rng(0).normal(size=(40, 30, 2))
    theta = np.array([[factor * 0.75, 0, 0.1], [0, 1, 0.0]])
    # The output has 4 / 3 of the columns: along x, it shrinks by `factor`.
    sigma = ((factor**2 - 1) / 6) ** 0.5
    blurred = scipy.ndimage.gaussian_filter1d(
      image, sigma, axis=1, mode="wrap", truncate=12
    )
    grid = reference.grid(theta, (40, 30 * 3 // 4 + 1), align_corners=False)
    factors = theta[0, 0] * 30 / grid.shape[1]
    self.assertNotEqual(factors, factor)
    theta[0, 0] *= factor / factors
    grid = reference.grid(theta, grid.shape[:2], align_corners=False)
    mode = dict(method="linear", padding=padding)
    out = stnjax.warp(
      image, theta, output_shape=grid.shape[:2], antialias=True, **mode
    )
    expected = reference.sample(blurred, grid, align_corners=False, **mode)
    if padding == "zeros":  # at the edge the blur does not see the outside
      inside = np.abs(grid[..., 0]) < 1 - 2 * 6 * sigma / 30
      self.assertTrue(inside.any())
      out, expected = out[inside], expected[inside]
    np.testing.assert_allclose(out, expected, atol=1e-6)

  def test_fine_stripes_become_grey(self):
    stripes = jnp.tile(jnp.array([1.0, 0.0]), 32)[None, :, None]
    stripes = jnp.broadcast_to(stripes, (64, 64, 1))
    for theta in (transforms.rotation(0.3), transforms.rotation(1.2)):
      shrink = transforms.compose(theta, transforms.scaling([0.6, 0.6]))
      call = dict(output_shape=(9, 9), padding="border")
      aliased = stnjax.warp(stripes, shrink, **call)
      smooth = stnjax.warp(stripes, shrink, antialias=True, **call)
      self.assertGreater(aliased.std(), 0.15)
      np.testing.assert_allclose(smooth, 0.5, atol=0.01)
      projective = transforms.to_homogeneous(shrink).at[2, 0].set(0.2)
      aliased = stnjax.warp(stripes, projective, **call)
      smooth = stnjax.warp(stripes, projective, antialias=True, **call)
      self.assertGreater(aliased.std(), 0.15)
      np.testing.assert_allclose(smooth, 0.5, atol=0.06)

  @parameterized.parameters(0.0, 0.4, np.pi / 4)
  def test_no_direction_of_shrinking_aliases(self, angle):
    turn = transforms.rotation(angle)
    shrink = transforms.compose(turn, transforms.scaling([4.0, 1.0]))
    rows, columns = np.indices((128, 128)) - 63.5
    along = columns * np.cos(angle) + rows * np.sin(angle)
    waves = np.sin(2 * np.pi * 0.24 * along)[..., None].astype(np.float32)
    call = dict(output_shape=(24, 24))
    small = transforms.compose(shrink, transforms.scaling([24 / 128] * 2))
    aliased = stnjax.warp(waves, small, **call)
    smooth = stnjax.warp(waves, small, antialias=True, **call)
    self.assertGreater(aliased.std(), 0.3)
    self.assertLess(smooth.std(), 0.05)

  @parameterized.product(square=(False, True), antialias=(False, True))
  def test_no_transform_makes_a_gradient_that_is_not_finite(
    self, square, antialias
  ):
    image = jnp.arange(16.0).reshape(4, 4, 1)
    compiled = jax.jit(
      jax.value_and_grad(
        lambda i, t: stnjax.warp(i, t, antialias=antialias).sum(), (0, 1)
      )
    )
    for value in (np.nan, np.inf, 3e38, 0.0):
      theta = np.eye(2 + square, 3, dtype=np.float32)
      theta[0, 0] = value
      with self.subTest(value=value):
        chex.assert_tree_all_finite(compiled(image, theta))

  @pytest.mark.usefixtures("x64")
  def test_dtypes_mix(self):
    for dtype in ("bfloat16", "float64", "uint8"):
      for theta in (np.eye(3), np.eye(3, dtype=np.float32)):
        out = stnjax.warp(jnp.ones((4, 4, 1), dtype), theta, antialias=True)
        self.assertEqual(out.dtype, jnp.dtype(dtype))
        np.testing.assert_array_equal(out, 1)

  def test_only_the_axis_that_shrinks_is_blurred(self):
    rows = np.random.default_rng(0).normal(size=(8, 1, 1)).astype(np.float32)
    image = np.broadcast_to(rows, (8, 32, 1))
    out = stnjax.warp(image, jnp.eye(2, 3), output_shape=(8, 4), antialias=True)
    np.testing.assert_allclose(out, image[:, :4], atol=1e-5)

  @parameterized.parameters((2, False), (2, True))
  @pytest.mark.usefixtures("x64")
  def test_nothing_shrinks_nothing_changes(self, num_axes, projective):
    image = np.random.default_rng(0).normal(size=(*(5, 6, 4)[:num_axes], 2))
    theta = jnp.eye(num_axes + projective, num_axes + 1)
    results = [
      jax.jit(
        jax.value_and_grad(
          lambda t, a=antialias: (stnjax.warp(image, t, antialias=a) ** 3).sum()
        )
      )(theta)
      for antialias in (True, False)
    ]
    (value, grad), (plain, plain_grad) = results
    np.testing.assert_allclose(value, plain, rtol=1e-14)
    np.testing.assert_allclose(grad, plain_grad, atol=1e-10)
    np.testing.assert_array_equal(
      stnjax.warp(image, theta, antialias=True), image
    )

  @pytest.mark.usefixtures("x64")
  def test_a_projective_matrix_that_is_affine(self):
    image = np.random.default_rng(0).normal(size=(16, 16, 1))
    theta = transforms.compose(
      transforms.rotation(0.4), transforms.scaling([2, 2])
    )
    call = dict(output_shape=(8, 8), antialias=True, return_mask=True)
    ours, mask = stnjax.warp(
      image, transforms.to_homogeneous(theta), method="cubic", **call
    )
    # A factor of 4: blurred by a power of two, as the affine matrix does.
    expected, expected_mask = stnjax.warp(image, theta, method="cubic", **call)
    np.testing.assert_allclose(ours, expected, atol=1e-10)
    np.testing.assert_allclose(mask, expected_mask, atol=1e-12)

  @parameterized.parameters(False, True)
  @pytest.mark.usefixtures("x64")
  def test_gradient(self, projective):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(7, 6, 1))
    theta = random_theta(rng, 2, projective)
    check_gradients(
      lambda i, t: stnjax.warp(
        i, t, output_shape=(3, 4), antialias=True, padding="border"
      ),
      image,
      theta,
      modes=("rev",),
    )

  @parameterized.parameters(False, True)
  def test_gradients_of_a_fill_that_is_not_finite(self, projective):
    """They are those of another fill, where the pictures agree."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(9, 8, 1)), jnp.float32)
    theta = jnp.asarray(random_theta(rng, 2, projective), jnp.float32) * 1.5

    def loss(theta, fill, keep):
      call = dict(antialias=True, padding="constant", fill_value=fill)
      picture = stnjax.warp(image, theta, output_shape=(5, 5), **call)
      return jnp.where(keep, picture, 0).sum(), picture

    _, picture = loss(theta, jnp.nan, True)
    keep = np.isfinite(picture)
    self.assertTrue(keep.any() and not keep.all())
    gradients = [
      jax.grad(loss, has_aux=True)(theta, fill, keep)[0]
      for fill in (jnp.nan, jnp.inf, 0.0)
    ]
    np.testing.assert_allclose(gradients[0], gradients[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], gradients[2], rtol=1e-4, atol=1e-5)

  @parameterized.parameters("bfloat16", "uint8")
  def test_dtype_and_fill(self, dtype):
    image = jnp.full((8, 8, 1), 100, dtype)
    out, mask = stnjax.warp(
      image,
      transforms.scaling([4.0, 4.0]),
      antialias=True,
      padding="constant",
      fill_value=20,
      return_mask=True,
    )
    self.assertEqual(out.dtype, image.dtype)
    np.testing.assert_allclose(
      out[..., 0].astype(jnp.float32), 20 + 80 * mask, atol=0.51
    )
    self.assertEqual(float(mask[4, 4]), 1)


class VariantsTest(chex.TestCase):
  @chex.all_variants()
  def test_all_variants_agree(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    theta = random_theta(rng, 2).astype(np.float32)
    grid = reference.grid(theta, (3, 4), align_corners=False)
    expected = reference.sample(
      image, grid, method="linear", padding="zeros", align_corners=False
    )
    warp = self.variant(lambda i, t: stnjax.warp(i, t, output_shape=(3, 4)))
    np.testing.assert_allclose(warp(image, theta), expected, atol=1e-5)

  def test_vmap_over_a_batch_equals_the_batch(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(3, 5, 6, 2)).astype(np.float32)
    theta = random_theta(rng, 2, batch=(3,)).astype(np.float32)
    np.testing.assert_allclose(
      jax.vmap(stnjax.warp)(image, theta), stnjax.warp(image, theta), atol=1e-6
    )


if __name__ == "__main__":
  absltest.main()
