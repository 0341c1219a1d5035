"""The perturbations, from their keys."""

from absl.testing import absltest
import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from stnjax import perturbations


def blob(batch=1):
  rows, columns = np.indices((29, 29)) - 14.0
  image = np.exp(-(((columns - 6) / 3) ** 2) - ((rows + 2) / 2) ** 2)
  return jnp.asarray(np.tile(image[None, ..., None], (batch, 1, 1, 1)))


class RotationTest(absltest.TestCase):
  def test_object_turns_by_the_angle_that_is_told(self):
    keys = jax.random.split(jax.random.key(0), 8)
    images, truth = perturbations.perturb(keys, blob(8), "rotation")
    for image, angle in zip(images, truth["rotation"], strict=True):
      # scipy turns counterclockwise on the screen for positive angles.
      expected = ndimage.rotate(
        np.asarray(blob()[0, ..., 0], np.float64),
        -np.degrees(angle),
        reshape=False,
        order=1,
      )
      np.testing.assert_allclose(image[..., 0], expected, atol=1e-3)

  def test_angles_are_uniform_within_90_degrees(self):
    keys = jax.random.split(jax.random.key(1), 20_000)
    _, truth = perturbations.perturb(
      keys, jnp.zeros((20_000, 2, 2, 1)), "rotation"
    )
    degrees = np.degrees(truth["rotation"])
    self.assertLess(np.abs(degrees).max(), 90.001)
    # Standard errors: 0.37 of the mean, 0.23 of the standard deviation.
    self.assertAlmostEqual(degrees.mean(), 0, delta=1.5)
    self.assertAlmostEqual(degrees.std(), 51.96, delta=1)
    quartiles = np.quantile(degrees, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [-45, 0, 45], atol=2.5)

  def test_an_image_is_perturbed_by_its_own_key_alone(self):
    keys = jax.random.split(jax.random.key(0), 3)
    whole, _ = perturbations.perturb(keys, blob(3), "rotation")
    one, _ = perturbations.perturb(keys[1:2], blob(1), "rotation")
    np.testing.assert_allclose(whole[1], one[0], atol=1e-6)
    self.assertGreater(np.abs(whole[0] - whole[1]).max(), 0.1)


class OtherTest(absltest.TestCase):
  def test_none_changes_nothing(self):
    images, truth = perturbations.perturb(
      jax.random.split(jax.random.key(0), 2), blob(2), "none"
    )
    np.testing.assert_array_equal(images, blob(2))
    self.assertEqual(truth, {})

  def test_unknown_name(self):
    with self.assertRaisesRegex(ValueError, "perturbation='shift'.*rotation"):
      perturbations.perturb(
        jax.random.split(jax.random.key(0), 1), blob(), "shift"
      )


if __name__ == "__main__":
  absltest.main()
