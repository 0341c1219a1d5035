"""Grids of polar and other canonical coordinates."""

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import coordinates, sampling

SHAPE = (36, 48)  # of images that are not square
POLAR = (40, 24)
CENTRE = np.array([27.0, 15.0])  # in pixels
RADIUS = 14.0


def smooth(x, y):
  """An image as a function of the place."""
  return np.sin(0.31 * x + 0.2) * np.cos(0.23 * y) + 0.02 * x


def image(shape=SHAPE):
  y, x = np.mgrid[: shape[0], : shape[1]]
  return smooth(x, y).astype(np.float32)


def normalised(point, shape=SHAPE):
  return coordinates.to_normalised(jnp.asarray(point), shape)


def read(picture, grid, padding="border"):
  grid = jnp.asarray(grid, jnp.float32)
  return np.asarray(
    sampling.grid_sample(picture[..., None], grid, padding=padding)[..., 0]
  )


def pixels(grid, shape=SHAPE):
  return np.asarray(coordinates.to_pixels(grid, shape))


# As in OpenCV, whose columns stop one step short of the largest radius.
OF_OPENCV = {
  cv2.WARP_POLAR_LINEAR: (
    sampling.polar_grid,
    dict(largest_radius=RADIUS * (POLAR[1] - 1) / POLAR[1]),
  ),
  cv2.WARP_POLAR_LOG: (
    sampling.log_polar_grid,
    dict(
      least_radius=0.0,
      radius_offset=1.0,
      largest_radius=RADIUS ** ((POLAR[1] - 1) / POLAR[1]) - 1,
    ),
  ),
}


class PolarTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_circles_in_pixels_about_each_centre(self, log):
    centres = np.array([[0.1, -0.2], [-0.5, 0.3]])
    make = sampling.log_polar_grid if log else sampling.polar_grid
    grid = pixels(make((5, 3), SHAPE, centre=centres, least_radius=2.0))
    radii = np.geomspace(2, 17.5, 3) if log else np.linspace(2, 17.5, 3)
    for image, centre in enumerate(centres):
      middle = (centre + 1) * np.array(SHAPE[::-1]) / 2 - 0.5
      for row in range(5):
        for column in range(3):
          angle = 2 * np.pi * row / 5
          ray = np.array([np.cos(angle), np.sin(angle)])
          expected = middle + radii[column] * ray
          np.testing.assert_allclose(
            grid[image, row, column], expected, atol=1e-4
          )

  @parameterized.parameters(*OF_OPENCV)
  def test_opencv(self, flag):
    make, options = OF_OPENCV[flag]
    grid = make(POLAR, SHAPE, centre=normalised(CENTRE), **options)
    theirs = cv2.warpPolar(
      image(), POLAR[::-1], CENTRE, RADIUS, flag | cv2.INTER_LINEAR
    )
    np.testing.assert_allclose(read(image(), grid), theirs, atol=1e-3)

  @parameterized.parameters(*OF_OPENCV)
  @pytest.mark.slow
  def test_inverse_of_opencv(self, flag):
    make, options = OF_OPENCV[flag]
    centre = normalised(CENTRE)
    polar = read(image(), make(POLAR, SHAPE, centre=centre, **options))
    grid = make(SHAPE, POLAR, centre=centre, inverse=True, **options)
    ours = read(polar, grid, padding="wrap")
    theirs = cv2.warpPolar(
      polar,
      SHAPE[::-1],
      CENTRE,
      RADIUS,
      flag | cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    inside = ~np.isnan(grid[..., 0])
    self.assertGreater(inside.sum(), 400)
    # Both interpolate linearly in the polar image; OpenCV's log is a table.
    np.testing.assert_allclose(ours[inside], theirs[inside], atol=2e-3)

  @parameterized.parameters(sampling.polar_grid, sampling.log_polar_grid)
  def test_inverse_undoes_and_is_fill_outside(self, make):
    options = dict(centre=normalised(CENTRE), largest_radius=RADIUS)
    polar = read(image(), make((180, 60), SHAPE, **options))
    grid = make(SHAPE, (180, 60), inverse=True, **options)
    back = read(polar, grid, padding="wrap")
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(x - CENTRE[0], y - CENTRE[1])
    inside = (radius > 2) & (radius < RADIUS - 0.01)
    np.testing.assert_allclose(back[inside], image()[inside], atol=0.02)
    np.testing.assert_array_equal(back[radius > RADIUS + 0.01], 0)

  def test_quarter_turns_of_a_square_are_rolls(self):
    picture = np.random.default_rng(0).normal(size=(17, 17)).astype(np.float32)
    grid = sampling.polar_grid((12, 8), (17, 17))
    # Clockwise as drawn, from +x towards +y.
    turned = np.rot90(picture, -1)
    np.testing.assert_allclose(
      read(turned, grid), np.roll(read(picture, grid), 3, axis=0), atol=1e-5
    )

  def test_rotation_and_scaling_are_shifts(self):
    columns, factor, angle = 9, 2**0.25, 2 * np.pi / 20
    grid = sampling.log_polar_grid(
      (20, columns), SHAPE, least_radius=2.0, largest_radius=8.0
    )
    x, y = np.moveaxis(pixels(grid) - np.array([23.5, 17.5]), -1, 0)
    # What the object's points were before it turned and grew.
    cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
    moved = smooth(cos * x + sin * y, cos * y - sin * x)
    still = smooth(x, y)
    np.testing.assert_allclose(
      moved[:, 1:], np.roll(still, 1, axis=0)[:, :-1], atol=1e-4
    )

  @parameterized.product(
    make=(sampling.polar_grid, sampling.log_polar_grid), inverse=(False, True)
  )
  @pytest.mark.usefixtures("x64")
  def test_gradient_of_the_centre(self, make, inverse):
    shapes = ((9, 9), (8, 6)) if inverse else ((8, 6), (9, 9))
    random = np.random.default_rng(0).normal(size=(*shapes[0], 2))

    @jax.jit
    def loss(centre):
      grid = make(*shapes, centre=centre, inverse=inverse)
      return jnp.where(jnp.isnan(grid), 0, jnp.sin(grid) * random).sum()

    centre = np.array([0.041, -0.023])
    numeric = [
      (loss(centre + step) - loss(centre - step)) / 2e-6
      for step in 1e-6 * np.eye(2)
    ]
    np.testing.assert_allclose(jax.grad(loss)(centre), numeric, rtol=1e-6)
    # The middle of the image is a pixel, where angles are not defined.
    self.assertTrue(np.isfinite(jax.grad(loss)(np.zeros(2))).all())

  @parameterized.parameters(
    (dict(output_shape=(0, 3)), "output_shape must be"),
    (dict(input_shape=(4, 4, 4)), "input_shape must be"),
    (dict(centre=np.zeros(3)), "centre must end in an axis of 2"),
    (dict(least_radius=-1.0), "least_radius must be at least 0, got -1"),
    (dict(largest_radius=1.0), "largest_radius must be finite and above 1"),
    (dict(radius_offset=-1.0), "radius_offset must be at least 0"),
    (dict(least_radius=0.0), r"least_radius \+ radius_offset must be above 0"),
  )
  def test_wrong_arguments_are_named(self, arguments, message):
    call = dict(output_shape=(4, 4), input_shape=(9, 9))
    with self.assertRaisesRegex(ValueError, message):
      sampling.log_polar_grid(**(call | arguments))


class ShearAndStretchTest(parameterized.TestCase):
  def test_shear_is_a_shift(self):
    grid = sampling.shear_grid((6, 9), SHAPE, largest_slope=2.0)
    x, y = np.moveaxis(pixels(grid) - np.array([23.5, 17.5]), -1, 0)
    sheared = smooth(x - 0.5 * y, y)  # the object's points move by +0.5 y
    np.testing.assert_allclose(sheared[:, 1:], smooth(x, y)[:, :-1], atol=1e-4)
    np.testing.assert_allclose(
      y, np.broadcast_to(6 * np.arange(6.0)[:, None] - 15, (6, 9)), atol=1e-4
    )

  def test_stretch_is_a_shift_outwards(self):
    grid = sampling.stretch_grid(
      (4, 10), SHAPE, least_distance=1.0, largest_distance=16.0
    )
    x, y = np.moveaxis(pixels(grid) - np.array([23.5, 17.5]), -1, 0)
    stretched, still = smooth(x / 2, y), smooth(x, y)
    np.testing.assert_allclose(stretched[:, :4], still[:, 1:5], atol=1e-4)
    np.testing.assert_allclose(stretched[:, 6:], still[:, 5:9], atol=1e-4)
    np.testing.assert_allclose(x[0, [0, 4, 5, 9]], [-16, -1, 1, 16], atol=1e-4)

  @parameterized.parameters(sampling.shear_grid, sampling.stretch_grid)
  @pytest.mark.usefixtures("x64")
  def test_centres_move_the_grid(self, make):
    centres = np.array([[0.25, 0.1], [-0.3, 0.2]])
    still = make((4, 6), SHAPE, centre=np.zeros(2))
    np.testing.assert_allclose(
      make((4, 6), SHAPE, centre=centres),
      still + centres[:, None, None],
      atol=1e-12,
    )
    gradient = jax.grad(lambda c: make((4, 6), SHAPE, centre=c).sum())
    np.testing.assert_allclose(gradient(np.zeros(2)), [24, 24])

  @parameterized.parameters(
    (sampling.shear_grid, dict(largest_slope=0.0), "largest_slope must be"),
    (sampling.stretch_grid, dict(output_shape=(4, 5)), "even number of col"),
    (sampling.stretch_grid, dict(least_distance=0.0), "least_distance must"),
    (sampling.stretch_grid, dict(least_distance=9.0), "largest_distance must"),
  )
  def test_wrong_arguments_are_named(self, make, arguments, message):
    call = dict(output_shape=(4, 4), input_shape=(9, 9))
    with self.assertRaisesRegex(ValueError, message):
      make(**(call | arguments))


if __name__ == "__main__":
  absltest.main()
