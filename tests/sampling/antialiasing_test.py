"""warp(..., antialias=True): nothing aliases, and nothing else changes."""

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
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, random_theta


class AntialiasTest(parameterized.TestCase):
  @parameterized.parameters((2, "zeros"), (5, "wrap"))
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
    out = compiled.warp(
      image, theta, output_shape=grid.shape[:2], antialias=True, **mode
    )
    expected = reference.sample(blurred, grid, align_corners=False, **mode)
    if padding == "zeros":  # at the edge the blur does not see the outside
      inside = np.abs(grid[..., 0]) < 1 - 2 * 6 * sigma / 30
      self.assertTrue(inside.any())
      out, expected = out[inside], expected[inside]
    np.testing.assert_allclose(out, expected, atol=1e-6)

  @parameterized.parameters(1.0, 1.5, 20.0, 300.0)
  @pytest.mark.usefixtures("x64")
  def test_large_images(self, factor):
    size = 300  # blurred by tiles, the last one not full
    image = np.random.default_rng(0).normal(size=(2, size, 2, 1))
    theta = np.tile(np.eye(2, 3), (2, 1, 1))
    theta[:, 1, 1] = factor, 1 + factor / 2  # of each image its own
    variance = ((theta[:, 1, 1] ** 2 - 1) / 6).clip(1e-9)
    distance = np.arange(size)[:, None] - np.arange(size)
    weights = np.exp(-(distance**2) / (2 * variance[:, None, None]))
    weights /= weights.sum(axis=-1, keepdims=True)
    blurred = np.einsum("bij,bjxc->bixc", weights, image)
    mode = dict(method="linear", padding="border")
    out = compiled.warp(image, theta, antialias=True, **mode)
    for found, smooth, matrix in zip(out, blurred, theta, strict=True):
      grid = reference.grid(matrix, (size, 2), align_corners=False)
      expected = reference.sample(smooth, grid, align_corners=False, **mode)
      np.testing.assert_allclose(found, expected, atol=1e-9)

  @parameterized.product(
    sizes=((9, 10), (300, 4)),
    batches=(((), (3,)), ((2, 1), (3,)), ((3,), ()), ((0,), ()), ((), (0,))),
  )
  def test_batches_broadcast(self, sizes, batches):
    of_image, of_theta = batches
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*of_image, *sizes, 2)).astype(np.float32)
    theta = np.eye(2, 3) * rng.uniform(1, 3, (*of_theta, 1, 1))
    theta = theta.astype(np.float32)
    out = compiled.warp(image, theta, antialias=True)
    batch = np.broadcast_shapes(of_image, of_theta)
    self.assertEqual(out.shape, (*batch, *sizes, 2))
    image = np.broadcast_to(image, out.shape)
    theta = np.broadcast_to(theta, (*batch, 2, 3))
    for index in np.ndindex(*batch):
      alone = compiled.warp(image[index], theta[index], antialias=True)
      np.testing.assert_allclose(out[index], alone, atol=1e-5)

  @parameterized.parameters(64, 300)
  def test_large_pixels_stay_finite(self, size):
    largest = 0.99 * np.finfo(np.float32).max
    image = np.zeros((size, size, 1), np.float32)
    image[: size // 2] = -largest
    theta = 1.5 * np.eye(2, 3)
    out = compiled.warp(image, theta, antialias=True, padding="border")
    self.assertTrue(np.isfinite(out).all())
    np.testing.assert_allclose(out[0], np.full_like(out[0], -largest), 1e-5)
    np.testing.assert_array_equal(out[-1], np.zeros_like(out[-1]))

  def test_no_channels(self):
    for size in (9, 300):
      out = compiled.warp(
        np.ones((2, size, 3, 0), np.float32), np.eye(2, 3), antialias=True
      )
      self.assertEqual(out.shape, (2, size, 3, 0))

  @pytest.mark.usefixtures("x64")
  def test_vmap_of_large_images(self):
    image = np.random.default_rng(0).normal(size=(2, 300, 3, 1))
    theta = np.eye(2, 3) * np.array([1.5, 40])[:, None, None]

    def value_and_grad(image, theta):
      def loss(image, theta):
        return (stnjax.warp(image, theta, antialias=True) ** 2).sum()

      return jax.value_and_grad(loss, (0, 1))(image, theta)

    mapped = jax.jit(jax.vmap(value_and_grad))
    found = mapped(image, theta)
    alone = [value_and_grad(*pair) for pair in zip(image, theta, strict=True)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
    chex.assert_trees_all_close(found, stacked, rtol=1e-6)
    # It runs one branch, and does not select among the results of all.
    self.assertIn("stablehlo.case", mapped.lower(image, theta).as_text())

  @pytest.mark.usefixtures("x64")
  def test_gradient_of_large_images(self):
    image = np.random.default_rng(0).normal(size=(300, 2, 1))
    cotangent = np.random.default_rng(1).normal(size=(7, 2, 1))

    def loss(image, factor):
      theta = jnp.eye(2, 3).at[1, 1].set(factor)
      shape, mode = (7, 2), dict(antialias=True, padding="border")
      out = compiled.warp(image, theta, output_shape=shape, **mode)
      return (out * cotangent).sum()

    check_gradients(loss, image, jnp.array(0.813))

  @pytest.mark.slow
  def test_fine_stripes_become_grey(self):
    stripes = jnp.tile(jnp.array([1.0, 0.0]), 32)[None, :, None]
    stripes = jnp.broadcast_to(stripes, (64, 64, 1))
    for theta in (transforms.rotation(0.3), transforms.rotation(1.2)):
      shrink = transforms.compose(theta, transforms.scaling([0.6, 0.6]))
      call = dict(output_shape=(9, 9), padding="border")
      aliased = compiled.warp(stripes, shrink, **call)
      smooth = compiled.warp(stripes, shrink, antialias=True, **call)
      self.assertGreater(aliased.std(), 0.15)
      np.testing.assert_allclose(smooth, 0.5, atol=0.01)
      projective = transforms.to_homogeneous(shrink).at[2, 0].set(0.2)
      aliased = compiled.warp(stripes, projective, **call)
      smooth = compiled.warp(stripes, projective, antialias=True, **call)
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
    aliased = compiled.warp(waves, small, **call)
    smooth = compiled.warp(waves, small, antialias=True, **call)
    self.assertGreater(aliased.std(), 0.3)
    self.assertLess(smooth.std(), 0.05)

  @parameterized.parameters((False, True), (True, True))
  @pytest.mark.slow
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
  @pytest.mark.slow
  def test_dtypes_mix(self):
    for dtype, theta in (
      ("bfloat16", np.eye(3)),
      ("uint8", np.eye(3)),
      ("float64", np.eye(3, dtype=np.float32)),
    ):
      out = compiled.warp(jnp.ones((4, 4, 1), dtype), theta, antialias=True)
      self.assertEqual(out.dtype, jnp.dtype(dtype))
      np.testing.assert_array_equal(out, 1)

  def test_only_the_axis_that_shrinks_is_blurred(self):
    rows = np.random.default_rng(0).normal(size=(8, 1, 1)).astype(np.float32)
    image = np.broadcast_to(rows, (8, 32, 1))
    out = compiled.warp(
      image, jnp.eye(2, 3), output_shape=(8, 4), antialias=True
    )
    np.testing.assert_allclose(out, image[:, :4], atol=1e-5)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_nothing_shrinks_nothing_changes(self):
    image = np.random.default_rng(0).normal(size=(5, 6, 2))
    theta = jnp.eye(3)

    @jax.jit
    def gradients(theta):
      def loss(theta, antialias):
        picture = stnjax.warp(image, theta, antialias=antialias)
        return (picture**3).sum(), picture

      return [jax.grad(loss, has_aux=True)(theta, a) for a in (True, False)]

    (grad, picture), (plain_grad, _) = gradients(theta)
    np.testing.assert_allclose(grad, plain_grad, atol=1e-10)
    np.testing.assert_array_equal(picture, image)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_a_projective_matrix_that_is_affine(self):
    image = np.random.default_rng(0).normal(size=(16, 16, 1))
    theta = transforms.compose(
      transforms.rotation(0.4), transforms.scaling([2, 2])
    )
    call = dict(output_shape=(8, 8), antialias=True, return_mask=True)
    ours, mask = compiled.warp(image, transforms.to_homogeneous(theta), **call)
    # A factor of 4: blurred by a power of two, as the affine matrix does.
    expected, expected_mask = compiled.warp(image, theta, **call)
    np.testing.assert_allclose(ours, expected, atol=1e-10)
    np.testing.assert_allclose(mask, expected_mask, atol=1e-12)

  @pytest.mark.usefixtures("x64")
  def test_gradient(self):
    self.check_gradient(False)

  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_gradient_of_projective_transforms(self):
    self.check_gradient(True)

  def check_gradient(self, projective):
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

  @pytest.mark.slow
  def test_gradients_of_a_fill_that_is_not_finite(self):
    """They are those of another fill, where the pictures agree."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(9, 8, 1)), jnp.float32)
    theta = jnp.asarray(random_theta(rng, 2, True), jnp.float32) * 1.5

    @jax.jit
    def gradient(theta, fill, keep):
      def loss(theta):
        call = dict(antialias=True, padding="constant", fill_value=fill)
        picture = stnjax.warp(image, theta, output_shape=(5, 5), **call)
        return jnp.where(keep, picture, 0).sum(), picture

      return jax.grad(loss, has_aux=True)(theta)

    _, picture = gradient(theta, jnp.nan, jnp.ones((5, 5, 1), bool))
    keep = jnp.isfinite(picture)
    self.assertTrue(keep.any() and not keep.all())
    gradients = [
      gradient(theta, fill, keep)[0] for fill in (jnp.nan, jnp.inf, 0.0)
    ]
    np.testing.assert_allclose(gradients[0], gradients[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradients[1], gradients[2], rtol=1e-4, atol=1e-5)

  @parameterized.parameters("bfloat16", "uint8")
  def test_dtype_and_fill(self, dtype):
    image = jnp.full((8, 8, 1), 100, dtype)
    out, mask = compiled.warp(
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


if __name__ == "__main__":
  absltest.main()
