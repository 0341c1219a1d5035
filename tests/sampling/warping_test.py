"""warp: against a NumPy loop, and what it must conserve; errors."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import transforms
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, random_theta

EXACT = ("nearest", "linear", "cubic")  # methods that copy at pixel centres
FAMILIES = tuple(
  f for f in transforms.FAMILIES if transforms.FAMILIES[f].matrix
)
KEY = jax.random.key(0)


class WarpTest(parameterized.TestCase):
  def check(self, theta, output_shape, image, align_corners, **mode):
    grid = reference.grid(
      theta, output_shape or image.shape[:-1], align_corners=align_corners
    )
    np.testing.assert_allclose(
      compiled.warp(
        image,
        theta,
        output_shape=output_shape,
        align_corners=align_corners,
        **mode,
      ),
      reference.sample(image, grid, align_corners=align_corners, **mode),
      atol=1e-10,
    )

  @parameterized.parameters(
    ((5, 6), (4, 3), False, True),
    ((5, 6), None, True, False),
    ((1, 4), (4, 3), True, True),
    ((3, 2, 4), (4, 3, 2), True, False),
    ((3, 2, 4), None, False, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_every_transform(
    self, shape, output_shape, projective, align_corners
  ):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, 2))
    theta = random_theta(rng, len(shape), projective)
    mode = dict(method="linear", padding="border")
    self.check(theta, output_shape, image, align_corners, **mode)

  @parameterized.parameters(
    dict(method="nearest", padding="reflection"),
    dict(method="cubic", padding="wrap"),
    dict(method="spline", padding="border"),
  )
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_every_option_is_passed_on(self, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    theta = random_theta(rng, 2) * 1.5
    self.check(theta, (7, 3), image, True, **mode)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_fill_mask_coefficients_and_key_are_passed_on(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2))
    theta = random_theta(rng, 2) * 1.5
    zeros, mask = compiled.warp(image, theta, return_mask=True)
    fill = np.array([1.0, 2.0])
    filled = compiled.warp(image, theta, padding="constant", fill_value=fill)
    np.testing.assert_allclose(
      filled, zeros + (1 - mask[..., None]) * fill, atol=1e-12
    )
    coefficients = compiled.spline_coefficients(image)
    np.testing.assert_allclose(
      compiled.warp(coefficients, theta, method="spline", prefilter=False),
      compiled.warp(image, theta, method="spline"),
      atol=1e-12,
    )
    linearised = compiled.warp(image, theta, method="linearised", key=KEY)
    np.testing.assert_allclose(linearised, zeros, atol=1e-12)

  @parameterized.parameters(
    ((49, 31), "linear", "zeros", ("float32", "bfloat16", "uint8")),
    ((49, 31), "nearest", "reflection", ("uint8",)),
    ((49, 31), "cubic", "zeros", ("float32", "uint8")),
    ((4, 1, 3), "linear", "reflection", ("float32",)),
  )
  def test_identity_copies_every_bit(self, shape, method, padding, dtypes):
    self.check_identity(shape, dtypes, method=method, padding=padding)

  @parameterized.product(
    shape=((49, 31), (6, 1), (4, 1, 3)),
    method=EXACT,
    padding=("zeros", "reflection"),
  )
  @pytest.mark.slow
  def test_identity_copies_every_bit_by_all_methods(self, shape, **mode):
    self.check_identity(shape, ("float32", "bfloat16", "uint8"), **mode)

  def check_identity(self, shape, dtypes, **mode):
    rng = np.random.default_rng(0)
    for dtype in dtypes:
      image = jnp.asarray(rng.uniform(0, 255, (*shape, 2)), dtype)
      theta = jnp.eye(len(shape), len(shape) + 1)
      out = compiled.warp(image, theta, align_corners=len(shape) == 2, **mode)
      self.assertEqual(out.dtype, image.dtype)
      np.testing.assert_array_equal(out, image)

  @parameterized.parameters(
    ((5, 6), "linear", True),
    ((49, 31), "linear", False),
    ((49, 31), "cubic", True),
  )
  def test_convention_whole_pixel_shift(self, shape, method, align_corners):
    image = np.random.default_rng(0).normal(size=(*shape, 1)).astype(np.float32)
    height, width = (s - align_corners for s in shape)
    offset = jnp.array([2 * 2 / width, -1 * 2 / height])  # right 2, up 1
    out = compiled.warp(
      image,
      transforms.translation(offset),
      method=method,
      align_corners=align_corners,
    )
    np.testing.assert_allclose(out[1:, :-2], image[:-1, 2:], atol=4e-5)
    np.testing.assert_allclose(out[0], 0, atol=4e-5)

  def test_convention_resize_of_edges_and_of_centres(self):
    ramp = jnp.arange(4.0)[None, :, None]
    halves = compiled.warp(ramp, jnp.eye(2, 3), output_shape=(1, 2))
    np.testing.assert_allclose(halves[0, :, 0], [0.5, 2.5])
    ends = compiled.warp(
      ramp, jnp.eye(2, 3), output_shape=(1, 2), align_corners=True
    )
    np.testing.assert_allclose(ends[0, :, 0], [0, 3])

  @parameterized.parameters(
    ((), (2,)), ((3,), ()), ((0,), (0,)), ((2, 1), (3,))
  )
  def test_batches_broadcast(self, image_batch, theta_batch):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*image_batch, 4, 5, 2)).astype(np.float32)
    theta = random_theta(rng, 2, batch=theta_batch).astype(np.float32)
    out = compiled.warp(image, theta)
    batch = np.broadcast_shapes(image_batch, theta_batch)
    self.assertEqual(out.shape, (*batch, 4, 5, 2))
    images = np.broadcast_to(image, (*batch, 4, 5, 2))
    thetas = np.broadcast_to(theta, (*batch, 2, 3))
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        out[place], compiled.warp(images[place], thetas[place]), atol=1e-6
      )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_warping_twice_is_warping_by_the_product(self):
    rows, columns = np.indices((33, 33)) - 16.0
    image = np.exp(-((rows - 2) ** 2 + columns**2) / 40)[..., None]
    a = transforms.matrix(np.array([0.1, 0.3, 0.05, -0.1]), "similarity")
    b = transforms.matrix(np.array([-0.05, 0.2, 0.0, 0.1]), "similarity")
    twice = compiled.warp(compiled.warp(image, a), b)
    once = compiled.warp(image, transforms.compose(a, b))
    # Linear interpolation errs by at most (|f_xx| + |f_yy|) / 8 = 1 / 80 each
    # of the three times; the other order of the product is off by 0.17.
    np.testing.assert_allclose(twice, once, atol=3 / 80)
    swapped = compiled.warp(image, transforms.compose(b, a))
    self.assertGreater(np.abs(swapped - once).max(), 2 * 3 / 80)

  @parameterized.parameters("similarity", "projective")
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient_to_the_parameters(self, family):
    self.check_gradient(family, 2)

  @parameterized.product(family=FAMILIES, num_axes=(2, 3))
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_gradient_to_the_parameters_of_every_family(self, family, num_axes):
    self.check_gradient(family, num_axes)

  def check_gradient(self, family, num_axes):
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

  @pytest.mark.slow
  def test_unknown_dtype_of_theta_and_image_mix(self):
    image = jnp.ones((4, 4, 1), jnp.bfloat16)
    self.assertEqual(stnjax.warp(image, np.eye(2, 3)).dtype, jnp.bfloat16)
    self.assertEqual(
      stnjax.warp(image, [[1, 0, 0], [0, 1, 0]]).dtype, jnp.bfloat16
    )


class ErrorTest(parameterized.TestCase):
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

  @pytest.mark.slow
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
      jax.jit(jax.vmap(stnjax.warp))(image, theta),
      compiled.warp(image, theta),
      atol=1e-6,
    )


if __name__ == "__main__":
  absltest.main()
