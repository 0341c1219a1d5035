"""Perturbations undone by their truth, against the image itself."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import data
import stnjax.paper  # noqa: F401, registers its perturbations

KEYS = jax.random.split(jax.random.key(0), 6)


def disc(size=28):
  """Smooth images, `[6, size, size, 1]`, of an object off their centre."""
  at = jnp.arange(size) - (size - 1) / 2
  square = (at[:, None] - 2) ** 2 / 20 + (at + 1) ** 2 / 40
  return jnp.tile(jnp.exp(-square)[None, ..., None], (6, 1, 1, 1))


class UndoneTest(parameterized.TestCase):
  def test_rotation(self):
    """But for two interpolations, the image is as before."""
    images = disc()
    turned, _ = data.perturb(KEYS, images, "rotation")
    back, truth = data.perturb(KEYS, images, "rotation_undone")
    self.assertEqual(truth, {})
    self.assertGreater(float(jnp.abs(turned - images).max()), 0.2)
    np.testing.assert_allclose(back, images, atol=0.05)

  def test_translation(self):
    """The half of the image around the object, at its size, exactly."""
    images = disc()
    dark = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    back, _ = data.perturb(KEYS, images, "translation_undone", dark)
    self.assertEqual(back.shape, (6, 30, 30, 1))
    np.testing.assert_allclose(back[:, 1:-1, 1:-1], images, atol=2e-6)

  @pytest.mark.slow
  def test_scale(self):
    """Every object has the size of the largest, four times its own."""
    dark = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    back, _ = data.perturb(KEYS, disc(), "scale_undone", dark)
    mass = np.asarray(back.sum((1, 2, 3)))
    np.testing.assert_allclose(mass, 16 * float(disc()[0].sum()), rtol=0.05)

  @pytest.mark.slow
  def test_full_rotation(self):
    images = disc()
    back, _ = data.perturb(KEYS, images, "full_rotation_undone")
    np.testing.assert_allclose(back, images, atol=0.05)

  @pytest.mark.slow
  def test_similarity(self):
    """Upright at its own size, but for two interpolations."""
    images = disc()
    dark = jnp.zeros((2, 28, 28, 1), jnp.uint8)
    back, _ = data.perturb(KEYS, images, "similarity_undone", dark)
    self.assertEqual(back.shape, (6, 30, 30, 1))
    np.testing.assert_allclose(back[:, 1:-1, 1:-1], images, atol=0.1)

  def test_names_and_shapes(self):
    made = data.undone(data.PERTURBATIONS["translation"])
    self.assertEqual(made.name, "translation_undone")
    self.assertEqual(data.output_shape(made, (28, 28, 1)), (30, 30, 1))
    data.check_perturbation(made, (28, 28, 1))

  def test_without_an_ideal(self):
    with self.assertRaisesRegex(ValueError, "'none' has no ideal"):
      data.undone(data.PERTURBATIONS["none"])


if __name__ == "__main__":
  absltest.main()
