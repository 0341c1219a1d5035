"""The authors' statistics against SciPy, inverses, and what they score."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from stnjax import data, evaluation, transforms
import stnjax.paper  # noqa: F401, registers its perturbations
from stnjax.paper import statistics

SHAPE = (40, 60, 1)


def thetas(count=50):
  rng = np.random.default_rng(0)
  return np.eye(2, 3) + rng.normal(0, 0.4, (count, 2, 3))


class MeasureTest(parameterized.TestCase):
  def test_rotation_is_that_of_the_polar_decomposition(self):
    found = statistics.nearest_rotation(thetas(), SHAPE)
    for theta, degrees in zip(thetas(), found, strict=True):
      nearest, _ = linalg.polar(theta[:, :2])
      if np.linalg.det(nearest) < 0:  # the nearest is a reflection
        continue
      turned = np.arctan2(nearest[1, 0], nearest[0, 0])
      self.assertAlmostEqual(degrees, -np.degrees(turned), places=6)

  def test_area_is_that_of_the_inverse(self):
    found = statistics.area(thetas(), SHAPE)
    linear = thetas()[:, :, :2]
    expected = np.log2(np.abs(np.linalg.det(np.linalg.inv(linear))))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)

  def test_area_of_a_singular_pose_is_not_known(self):
    self.assertTrue(np.isnan(statistics.area(np.ones((1, 2, 3)), SHAPE)).all())

  def test_shift_is_in_pixels_along_both_axes(self):
    found = statistics.shift(thetas(), SHAPE)
    np.testing.assert_allclose(found[:, 0], -thetas()[:, 0, 2] * 59 / 2)
    np.testing.assert_allclose(found[:, 1], -thetas()[:, 1, 2] * 39 / 2)

  def test_projective_poses_count_as_affine_at_the_centre(self):
    whole = 2.5 * np.concatenate(
      [thetas(), np.tile([[[0.0, 0, 1]]], (50, 1, 1))], axis=1
    )
    for measure in (statistics.nearest_rotation, statistics.shift,
                    statistics.area):  # fmt: skip
      np.testing.assert_allclose(
        measure(whole, SHAPE), measure(thetas(), SHAPE), atol=1e-6
      )


class PerturbationTest(parameterized.TestCase):
  """Registered perturbations, as a perfect and an identity transformer do."""

  @parameterized.parameters(
    ("rotation", "rotation", 51.96),
    ("translation", "translation", 13.47),  # sqrt(2) 9.52
    ("scale", "area", 1.732),  # twice 3 / sqrt(12)
  )
  def test_spreads(self, name, axis_name, none):
    perturbation = data.PERTURBATIONS[name]
    (axis,) = perturbation.authors_axes
    self.assertEqual(axis.name, axis_name)
    count = 4000
    rng = np.random.default_rng(0)
    truth = {
      "rotation": rng.uniform(-np.pi / 2, np.pi / 2, count),
      "translation": rng.integers(-16, 17, (count, 2)),
      "scale": rng.uniform(-1, 2, count),
    }
    undoing = {
      "rotation": lambda: transforms.rotation(truth["rotation"]),
      "translation": lambda: transforms.translation(
        truth["translation"] * 2 / np.array([59, 39])
      ),
      "scale": lambda: transforms.scaling(
        jnp.stack([2 ** truth["scale"]] * 2, axis=-1)
      ),
    }[name]()
    identity = np.tile(np.eye(2, 3), (count, 1, 1))
    for theta, spread, slope in ((undoing, 0, -1), (identity, none, 0)):
      found = evaluation.pooled_alignment(
        axis,
        axis.true(truth),
        axis.predicted(np.asarray(theta), SHAPE),
        np.arange(count) % 10,
      )
      self.assertAlmostEqual(found.std, spread, delta=max(0.02 * none, 1e-4))
      self.assertAlmostEqual(found.none, none, delta=0.02 * none)
      self.assertAlmostEqual(found.slope, slope, places=4)

  @pytest.mark.slow
  def test_signs_are_those_of_what_is_drawn(self):
    """A truth that the perturbation draws is undone, not doubled."""
    images, keys = jnp.zeros((20, 8, 8, 1)), jax.random.split(jax.random.key(0))
    keys = jax.random.split(keys[0], 20)
    truth = jax.jit(data.perturb, static_argnums=2)(keys, images, "rotation")[1]
    theta = np.asarray(transforms.rotation(truth["rotation"]))
    total = statistics.ROTATION.true(truth)
    total = total + statistics.ROTATION.predicted(theta, (8, 8, 1))
    np.testing.assert_allclose(total, 0, atol=1e-3)


if __name__ == "__main__":
  absltest.main()
