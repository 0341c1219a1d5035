"""Grids and warp: against torch, a NumPy loop, and what they must conserve."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

import stnjax
from stnjax import sampling, transforms
from tests import reference


def random_theta(rng, num_axes, projective=False, batch=()):
  shape = (num_axes + projective, num_axes + 1)
  theta = np.eye(*shape) + rng.uniform(-0.2, 0.2, (*batch, *shape))
  if projective:
    theta[..., -1, -1] = 1
  return theta


@pytest.mark.usefixtures("x64")
class GridTest(parameterized.TestCase):
  @parameterized.product(
    shape=((3, 4), (1, 5), (1, 1), (2, 3, 4), (1, 4, 1)),
    projective=(False, True),
    align_corners=(False, True),
  )
  def test_against_a_loop(self, shape, projective, align_corners):
    rng = np.random.default_rng(0)
    theta = random_theta(rng, len(shape), projective)
    np.testing.assert_allclose(
      stnjax.affine_grid(theta, shape, align_corners=align_corners),
      reference.grid(theta, shape, align_corners=align_corners),
      atol=1e-12,
    )

  @parameterized.product(
    shape=((3, 4), (1, 5), (2, 3, 4)), align_corners=(False, True)
  )
  def test_against_torch(self, shape, align_corners):
    torch = pytest.importorskip("torch")
    theta = random_theta(np.random.default_rng(0), len(shape), batch=(2,))
    expected = torch.nn.functional.affine_grid(
      torch.tensor(theta), (2, 1, *shape), align_corners=align_corners
    )
    np.testing.assert_allclose(
      stnjax.affine_grid(theta, shape, align_corners=align_corners),
      expected.numpy(),
      atol=1e-12,
    )

  def test_vanishing_denominator_is_nan_with_zero_gradient(self):
    theta = jnp.eye(3).at[2].set(jnp.array([1.0, 0.0, -0.5]))  # 0 at x = 0.5
    grid = stnjax.affine_grid(theta, (2, 2))
    self.assertTrue(np.isnan(grid[:, 1]).all())
    self.assertTrue(np.isfinite(grid[:, 0]).all())
    image = jnp.ones((2, 2, 1))
    value, grad = jax.value_and_grad(lambda t: stnjax.warp(image, t).sum())(
      theta
    )
    self.assertTrue(np.isfinite(value))
    self.assertTrue(np.isfinite(grad).all())


class WarpTest(parameterized.TestCase):
  @parameterized.product(
    shape=((5, 6), (1, 4), (3, 2, 4)),
    output_shape=(None, "other"),
    projective=(False, True),
    method=sampling.METHODS,
    padding=sampling.PADDINGS,
    align_corners=(False, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_against_a_loop(
    self, shape, output_shape, projective, align_corners, **mode
  ):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*shape, 2))
    theta = random_theta(rng, len(shape), projective)
    size = (4, 3, 2)[: len(shape)] if output_shape else None
    grid = reference.grid(theta, size or shape, align_corners=align_corners)
    np.testing.assert_allclose(
      stnjax.warp(
        image, theta, output_shape=size, align_corners=align_corners, **mode
      ),
      reference.sample(image, grid, align_corners=align_corners, **mode),
      atol=1e-10,
    )

  @parameterized.product(
    shape=((5, 6), (49, 31), (1, 1), (4, 1, 3)),
    dtype=("float32", "bfloat16", "uint8"),
    method=sampling.METHODS,
    padding=sampling.PADDINGS,
    align_corners=(False, True),
  )
  def test_identity_copies_every_bit(self, shape, dtype, **mode):
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.uniform(0, 255, (*shape, 2)), dtype)
    theta = jnp.eye(len(shape), len(shape) + 1)
    out = stnjax.warp(image, theta, **mode)
    self.assertEqual(out.dtype, image.dtype)
    np.testing.assert_array_equal(out, image)

  @parameterized.product(shape=((5, 6), (49, 31)), align_corners=(False, True))
  def test_whole_pixel_shift_moves_pixels(self, shape, align_corners):
    image = np.random.default_rng(0).normal(size=(*shape, 1)).astype(np.float32)
    height, width = (s - align_corners for s in shape)
    offset = jnp.array([2 * 2 / width, -1 * 2 / height])  # right 2, up 1
    out = stnjax.warp(
      image, transforms.translation(offset), align_corners=align_corners
    )
    np.testing.assert_allclose(out[1:, :-2], image[:-1, 2:], atol=2e-5)
    np.testing.assert_allclose(out[0], 0, atol=2e-5)

  def test_resize_of_edges_and_of_centres(self):
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

  @parameterized.product(
    family=transforms.FAMILIES,
    padding=sampling.PADDINGS,
    align_corners=(False, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_gradient_to_the_parameters_of_every_family(self, family, **mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(6, 7, 2))
    # Generic, so that no sample lies on the lattice of the kinks.
    params = rng.uniform(-0.11, 0.13, transforms.num_params(family))
    check_grads(
      lambda i, p: stnjax.warp(i, transforms.matrix(p, family), **mode),
      (image, params),
      order=1,
      modes=("fwd", "rev"),
      eps=1e-7,
      atol=1e-5,
      rtol=1e-5,
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
    (ValueError, "output_shape must have 2", dict(output_shape=(4, 4, 4))),
    (TypeError, "output_shape", dict(output_shape=4)),
    (ValueError, "method='area'", dict(method="area")),
    (ValueError, "padding=None", dict(padding=None)),
    (TypeError, "transform must hold real", dict(transform=jnp.eye(2, 3) * 1j)),
    (
      ValueError,
      "image and transform must broadcast",
      dict(image=jnp.zeros((2, 4, 4, 1)), transform=jnp.zeros((3, 2, 3))),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
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
      jax.vmap(stnjax.warp)(image, theta), stnjax.warp(image, theta), atol=1e-6
    )


if __name__ == "__main__":
  absltest.main()
