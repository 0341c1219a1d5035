"""The conventions, each with asymmetric input so that a swap would show."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import coordinates, transforms
from tests.sampling import compiled


class ConventionTest(parameterized.TestCase):
  def test_convention_channels_last(self):
    image = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    out = stnjax.grid_sample(image, jnp.array([[[-1 / 1.5, 0.5]]]))
    np.testing.assert_allclose(out[0, 0], image[1, 0], rtol=1e-6)

  def test_convention_xy_order(self):
    # Array place (row 1, column 3) of a 2 x 5 image.
    pixel = coordinates.to_pixels(jnp.array([0.4, 0.5]), (2, 5))
    np.testing.assert_allclose(pixel, [3, 1], rtol=1e-6)

  def test_convention_xyz_order(self):
    lattice = coordinates.lattice((2, 3, 5))
    self.assertEqual(lattice.shape, (2, 3, 5, 3))
    np.testing.assert_allclose(lattice[1, 2, 0], [-0.8, 2 / 3, 0.5], rtol=1e-6)

  @parameterized.parameters((False, [-0.5, 3.5]), (True, [0.0, 3.0]))
  def test_convention_edges_or_centres(self, align_corners, expected):
    ends = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    pixels = coordinates.to_pixels(ends, (3, 4), align_corners=align_corners)
    np.testing.assert_allclose(pixels[:, 0], expected)

  def test_convention_edges_are_the_default_everywhere(self):
    image = np.random.default_rng(0).normal(size=(4, 6, 1))
    theta = jnp.array([[0.7, 0.2, 0.1], [-0.3, 0.9, 0.2]])
    grid = stnjax.affine_grid(theta, (3, 5))
    explicit = stnjax.affine_grid(theta, (3, 5), align_corners=False)
    np.testing.assert_array_equal(grid, explicit)
    np.testing.assert_array_equal(
      stnjax.grid_sample(image, grid),
      stnjax.grid_sample(image, grid, align_corners=False),
    )
    np.testing.assert_array_equal(
      stnjax.warp(image, theta), stnjax.warp(image, theta, align_corners=False)
    )
    np.testing.assert_array_equal(
      coordinates.lattice((3, 5)),
      coordinates.lattice((3, 5), align_corners=False),
    )

  def test_convention_resolution_means_the_same_place(self):
    # The middle of a ramp that spans the image, at two resolutions.
    for size in (4, 8):
      ramp = (jnp.arange(size) + 0.5)[None, :, None] / size
      out = stnjax.grid_sample(ramp, jnp.array([[[0.25, 0.0]]]))
      np.testing.assert_allclose(out[0, 0, 0], 0.625, rtol=1e-6)

  def test_convention_matrix_pulls(self):
    image = np.zeros((5, 5, 1), np.float32)
    image[1, 3] = 1  # x = 3, y = 1
    # Output reads one pixel (2 / 5) further right: the object moves left.
    moved = stnjax.warp(image, transforms.translation(jnp.array([0.4, 0.0])))
    self.assertEqual(
      np.argwhere(np.asarray(moved[..., 0]) > 0.5).tolist(), [[1, 2]]
    )

  @pytest.mark.slow
  def test_convention_angle_from_x_to_y_clockwise_on_screen(self):
    quarter = transforms.rotation(jnp.pi / 2)
    np.testing.assert_allclose(
      quarter @ jnp.array([1.0, 0.0, 1.0]), [0, 1], atol=1e-6
    )
    # As a pull the object turns the other way: from (x 3, y 1) of 5 x 5,
    # that is up and right of the middle, to up and left.
    image = np.zeros((5, 5, 1), np.float32)
    image[1, 3] = 1
    turned = stnjax.warp(image, quarter)
    self.assertEqual(
      np.argwhere(np.asarray(turned[..., 0]) > 0.5).tolist(), [[1, 1]]
    )

  @parameterized.parameters(
    *(f for f in transforms.FAMILIES if transforms.FAMILIES[f].matrix)
  )
  def test_convention_zero_parameters_are_the_identity(self, family):
    zeros = jnp.zeros(transforms.num_params(family))
    matrix = compiled.matrix(zeros, family)
    np.testing.assert_array_equal(matrix, np.eye(*matrix.shape))

  def test_convention_coordinates_are_wide(self):
    # bfloat16 coordinates would miss by most of a pixel at 512.
    theta = jnp.eye(2, 3, dtype=jnp.bfloat16)
    grid = stnjax.affine_grid(theta, (1, 512))
    self.assertEqual(grid.dtype, jnp.float32)
    image = jnp.arange(512, dtype=jnp.float32)[None, :, None]
    half = (image / 2).astype(jnp.bfloat16)
    np.testing.assert_array_equal(stnjax.warp(half, theta), half)

  def test_convention_right_hand_derivative_at_pixel_centres(self):
    row = jnp.array([1.0, 4.0, 9.0, 16.0])[None, :, None]
    for align_corners in (False, True):
      grad = jax.jit(
        jax.jacfwd(
          lambda t, ac=align_corners: stnjax.warp(
            row, transforms.translation(t), align_corners=ac
          )[0, :, 0]
        )
      )(jnp.zeros(2))[:, 0]
      scale = 1.5 if align_corners else 2.0  # pixels per unit
      np.testing.assert_allclose(grad, scale * np.array([3, 5, 7, -16.0]))

  def test_convention_identity_gradient_is_not_zero(self):
    image = np.random.default_rng(0).uniform(size=(1, 6, 6, 1))
    grad = jax.jit(jax.grad(lambda t: (stnjax.warp(image, t) ** 2).sum()))(
      jnp.eye(2, 3)
    )
    self.assertGreater(np.abs(grad).min(), 1e-3)

  @parameterized.product(
    method=("nearest", "linear"), padding=("zeros", "border")
  )
  def test_convention_undefined_and_huge_coordinates(self, method, padding):
    image = jnp.full((3, 3, 2), 7.0)

    @jax.jit
    def run(image, grid):
      def loss(image, grid):
        out = stnjax.grid_sample(image, grid, method=method, padding=padding)
        return out.sum(), out

      return jax.grad(loss, (0, 1), has_aux=True)(image, grid)

    for bad in (jnp.nan, jnp.inf, -jnp.inf, 1e30, -1e30, 3e9):
      grid = jnp.array([[[bad, 0.0], [0.1, bad], [0.1, 0.2]]])
      expected = 7.0 if padding == "border" and not np.isnan(bad) else 0.0
      (to_image, to_grid), out = run(image, grid)
      np.testing.assert_allclose(
        out[0, :, 0], [expected, expected, 7.0], rtol=1e-6
      )
      self.assertTrue(np.isfinite(to_image).all())
      np.testing.assert_array_equal(to_grid[0, :2], np.zeros((2, 2)))


class CoordinatesTest(parameterized.TestCase):
  @parameterized.product(align_corners=(False, True), shape=((2, 3), (4, 5, 7)))
  def test_round_trip(self, align_corners, shape):
    points = np.random.default_rng(0).uniform(-2, 2, (6, len(shape)))
    pixels = coordinates.to_pixels(points, shape, align_corners=align_corners)
    back = coordinates.to_normalised(pixels, shape, align_corners=align_corners)
    np.testing.assert_allclose(back, points, rtol=1e-5, atol=1e-6)

  def test_size_one(self):
    np.testing.assert_array_equal(
      coordinates.lattice((1, 1), align_corners=True), np.zeros((1, 1, 2))
    )
    point = coordinates.to_pixels(
      jnp.array([0.7, -3.0]), (1, 1), align_corners=True
    )
    np.testing.assert_array_equal(point, [0, 0])
    back = coordinates.to_normalised(
      jnp.array([0.0, 0.0]), (1, 1), align_corners=True
    )
    np.testing.assert_array_equal(back, [0, 0])

  @parameterized.product(align_corners=(False, True))
  def test_lattice_is_the_pixel_centres(self, align_corners):
    lattice = coordinates.lattice((3, 4), align_corners=align_corners)
    pixels = coordinates.to_pixels(lattice, (3, 4), align_corners=align_corners)
    rows, columns = np.indices((3, 4))
    np.testing.assert_allclose(pixels, np.stack([columns, rows], -1), atol=1e-6)

  @parameterized.parameters(
    (lambda: coordinates.lattice((0, 3)), "output_shape"),
    (lambda: coordinates.lattice((3,)), "output_shape"),
    (lambda: coordinates.lattice((2.5, 3)), "output_shape"),
    (lambda: coordinates.to_pixels(jnp.zeros((4, 3)), (2, 3)), "coordinates"),
    (lambda: coordinates.to_normalised(jnp.zeros(()), (2, 3)), "pixels"),
    (lambda: coordinates.to_pixels(jnp.zeros((4, 2)), (2, -3)), "shape"),
  )
  def test_wrong_arguments_are_named(self, call, name):
    with self.assertRaisesRegex(ValueError, name):
      call()

  def test_traced_shape_is_refused(self):
    with self.assertRaisesRegex(TypeError, "output_shape must be a static"):
      jax.jit(lambda n: coordinates.lattice((n, 2)))(3)


@pytest.mark.usefixtures("x64")
class Float64Test(absltest.TestCase):
  def test_coordinates_keep_double_precision(self):
    lattice = coordinates.lattice((3, 7), dtype=jnp.float64)
    self.assertEqual(lattice.dtype, jnp.float64)
    pixels = coordinates.to_pixels(lattice, (3, 7))
    rows, columns = np.indices((3, 7))
    np.testing.assert_allclose(
      pixels, np.stack([columns, rows], -1), atol=1e-14
    )


if __name__ == "__main__":
  absltest.main()
