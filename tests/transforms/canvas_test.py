"""Output shapes that hold the whole image: against Pillow and by pushing."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from stnjax import coordinates, transforms
from tests.sampling import compiled
from tests.sampling.cases import random_theta


def turned(angle, shape):
  """A rotation of the picture about its middle, by degrees as Pillow counts."""
  matrix = transforms.rotation(np.radians(angle))
  return transforms.from_pixels(
    transforms.about(matrix, coordinates.middle(shape)), shape
  )


class FitOutputTest(parameterized.TestCase):
  @parameterized.parameters(30.0, 45.0, 90.0, -120.0)
  def test_against_pillow(self, angle):
    shape = (20, 36)
    rows, columns = np.indices(shape)
    image = np.sin(0.3 * rows) * np.cos(0.2 * columns) + 0.02 * columns
    image = image.astype(np.float32)
    expected = np.asarray(
      Image.fromarray(image).rotate(angle, Image.Resampling.BILINEAR, True)
    )
    theta, found = transforms.fit_output(turned(angle, shape), shape)
    # Pillow rounds both ends to whole pixels of the input.
    extra = np.array(expected.shape) - found
    self.assertTrue(((extra >= 0) & (extra <= 1)).all(), (found, extra))
    theta = transforms.compose(
      theta,
      transforms.scaling(np.array(expected.shape[::-1]) / found[::-1]),
    )
    ours, mask = compiled.warp(
      image[..., None], theta, output_shape=expected.shape, return_mask=True
    )
    inside = np.asarray(mask) == 1
    self.assertGreater(inside.mean(), 0.3)
    np.testing.assert_allclose(ours[inside][:, 0], expected[inside], atol=1e-3)

  @parameterized.product(
    num_axes=(2, 3), projective=(False, True), align_corners=(False, True)
  )
  @pytest.mark.slow
  def test_the_least_shape_that_holds_all_corners(
    self, num_axes, projective, align_corners
  ):
    rng = np.random.default_rng(num_axes + 2 * projective)
    shape = (8, 13, 10)[:num_axes]
    matrix = random_theta(rng, num_axes, projective)
    theta, found = transforms.fit_output(
      matrix, shape, align_corners=align_corners
    )
    edges = np.stack(
      np.meshgrid(*[[-0.5, s - 0.5] for s in shape[::-1]]), -1
    ).reshape(-1, num_axes)
    at = dict(input_shape=shape, align_corners=align_corners)
    before = compiled.apply_to_points(matrix, edges, **at)
    after = compiled.apply_to_points(theta, edges, output_shape=found, **at)
    # Only shifted, to the middle of the new shape.
    shifts = np.asarray(after - before)
    np.testing.assert_allclose(shifts, shifts[:1] + 0 * shifts, atol=1e-3)
    low, high = np.min(after, axis=0), np.max(after, axis=0)
    sizes = np.array(found[::-1])
    np.testing.assert_allclose((low + high) / 2, (sizes - 1) / 2, atol=1e-3)
    self.assertTrue((high - low <= sizes + 2e-3).all())
    self.assertTrue((high - low > sizes - 1).all())

  @parameterized.parameters((6, 9), (7, 7), (5, 8))
  @pytest.mark.slow
  def test_quarter_turns_copy_pixels(self, *shape):
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for times in range(4):
      theta, found = transforms.fit_output(turned(90 * times, shape), shape)
      ours = compiled.warp(
        image[..., None], theta, output_shape=found, padding="border"
      )
      np.testing.assert_allclose(
        ours[..., 0], np.rot90(image, times), atol=1e-5
      )

  @pytest.mark.slow
  def test_a_batch_takes_the_largest(self):
    matrices = jnp.stack([turned(angle, (10, 20)) for angle in (0, 90)])
    theta, found = transforms.fit_output(matrices, (10, 20))
    self.assertEqual(found, (20, 20))
    self.assertEqual(theta.shape, (2, 2, 3))
    image = np.random.default_rng(0).normal(size=(10, 20, 1))
    shown = compiled.warp(image, theta, output_shape=found)
    np.testing.assert_allclose(shown[0, 5:15], image, atol=1e-5)
    np.testing.assert_allclose(shown[1, :, 5:15], np.rot90(image), atol=1e-5)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient_for_a_shape_that_stays(self):
    matrix = random_theta(np.random.default_rng(0), 2)
    weights = np.random.default_rng(1).normal(size=(2, 3))

    def loss(m):
      return (transforms.fit_output(m, (8, 13))[0] * weights).sum()

    direction = np.random.default_rng(2).normal(size=(2, 3))
    slope = (jax.grad(loss)(matrix) * direction).sum()
    step = 1e-6 * direction
    expected = (loss(matrix + step) - loss(matrix - step)) / 2e-6
    self.assertAlmostEqual(float(slope), float(expected), places=6)

  @parameterized.parameters(
    (np.eye(2), (4, 4), "matrix must be"),
    (np.eye(3), (4, 4, 4), r"input_shape must be \(H, W\)"),
    (np.zeros((2, 3)), (4, 4), "have an inverse"),
    (np.full((2, 3), np.nan), (4, 4), "have an inverse"),
    ([[1, 0, 0], [0, 1, 0], [2, 0, 1]], (4, 4), "to infinity"),
    (1e-12 * np.eye(2, 3), (4, 4), "at most"),
  )
  def test_wrong_values_are_named(self, matrix, shape, message):
    with self.assertRaisesRegex(ValueError, message):
      transforms.fit_output(np.array(matrix, np.float32), shape)

  @pytest.mark.slow
  def test_a_constant_within_jit(self):
    matrix = np.array(turned(30, (4, 9)))
    ours = jax.jit(lambda: transforms.fit_output(matrix, (4, 9))[0])()
    expected = transforms.fit_output(matrix, (4, 9))[0]
    np.testing.assert_allclose(ours, expected, atol=1e-6)

  def test_a_traced_matrix_is_named(self):
    with self.assertRaisesRegex(TypeError, "matrix must have known values"):
      jax.jit(lambda m: transforms.fit_output(m, (4, 4))[0])(np.eye(3))
    with self.assertRaisesRegex(TypeError, "align_corners must be"):
      transforms.fit_output(np.eye(3), (4, 4), align_corners=1)


if __name__ == "__main__":
  absltest.main()
