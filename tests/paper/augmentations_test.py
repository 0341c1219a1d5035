"""The augmentations of the paper, from the matrices that they draw."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import data
from stnjax.paper import perturbations
from tests.paper.perturbations_test import blob, keys


def motions(name, count=4_000, shape=(40, 40, 1)):
  """Matrices of the movement of the object, in pixels about the centre."""
  with mock.patch.object(perturbations, "warp", lambda _, matrix: matrix):
    matrices, truth = jax.jit(jax.vmap(data.PERTURBATIONS[name].draw))(
      keys(count), jnp.zeros((count, *shape))
    )
  assert truth == {}
  homogeneous = np.zeros((count, 3, 3))
  homogeneous[:, :2], homogeneous[:, 2, 2] = matrices, 1
  found = np.linalg.inv(homogeneous)[:, :2]
  found[..., 2] *= np.array(shape[1::-1]) / 2
  return found


def parts(linear, mirrored_first):
  """Angles in degrees, factor, and whether mirrored, of `[N, 2, 2]`.

  Of matrices that slant, turn and scale; mirrored before or after.
  """
  mirror = np.linalg.det(linear) < 0
  flip = np.array([[-1.0, 0], [0, 1]])
  flipped = linear @ flip if mirrored_first else flip @ linear
  linear = np.where(mirror[:, None, None], flipped, linear)
  x, y = linear[..., 0], linear[..., 1]
  factor = np.hypot(*x.T)
  np.testing.assert_allclose(np.hypot(*y.T), factor, rtol=1e-4)
  angle = np.arctan2(x[:, 1], x[:, 0])
  slant = np.arctan2(-y[:, 0], y[:, 1]) - angle
  slant = (slant + np.pi) % (2 * np.pi) - np.pi
  return np.degrees(angle), np.degrees(slant), factor, mirror


class AugmentationTest(parameterized.TestCase):
  def check_uniform(self, drawn):
    """Every part is uniform between -1 and 1, none depends on another."""
    for what, values in drawn.items():
      with self.subTest(what):
        self.assertBetween(np.abs(values).max(), 0.99, 1.001)
        self.assertAlmostEqual(values.mean(), 0, delta=0.05)
        self.assertAlmostEqual(values.std(), 3**-0.5, delta=0.03)
    together = np.corrcoef([*drawn.values()])
    self.assertLess(np.abs(together - np.eye(len(drawn))).max(), 0.08)

  def test_plankton_s(self):
    found = motions("free_augmentation")
    angle, slant, factor, mirror = parts(found[..., :2], False)
    self.assertBetween(mirror.mean(), 0.45, 0.55)
    # Shifted before it is scaled and mirrored.
    shift = found[..., 2] / factor[:, None]
    shift[mirror, 0] *= -1
    self.check_uniform(
      {
        "angle": angle / 180,
        "slant": slant / 20,
        "scale": np.log(factor) / np.log(1.3),
        "x": shift[:, 0] / (40 * 10 / 95),
        "y": shift[:, 1] / (40 * 10 / 95),
      }
    )

  @pytest.mark.slow
  def test_cifar_s(self):
    found = motions("light_augmentation", shape=(32, 32, 3))
    angle, slant, factor, mirror = parts(found[..., :2], True)
    self.assertBetween(mirror.mean(), 0.45, 0.55)
    self.check_uniform(
      {"angle": angle / 5, "slant": slant / 5, "scale": (factor - 1) / 0.1}
    )
    # 1.6 pixels, rounded: 0.1 of 3.2 is beyond 1.5 on each side.
    shares = np.array([0.1, 1, 1, 1, 0.1]) / 3.2
    for axis in range(2):
      shift = found[:, axis, 2]
      np.testing.assert_allclose(shift, np.round(shift), atol=1e-4)
      counts = np.unique_counts(np.round(shift))
      np.testing.assert_array_equal(counts.values, np.arange(-2, 3))
      np.testing.assert_allclose(counts.counts / 4_000, shares, atol=0.03)

  @parameterized.parameters("free_augmentation", "light_augmentation")
  @pytest.mark.slow
  def test_objects_move_as_the_matrix_says(self, name):
    """A blob is found where its centre is moved to."""
    draw = data.PERTURBATIONS[name].draw
    images = blob(6)
    found, _ = jax.jit(jax.vmap(draw))(keys(6), images)
    at = np.array([6.0, -2])  # of the blob, from the centre
    for image, motion in zip(found, motions(name, 6, (29, 29, 1)), strict=True):
      rows, columns = np.indices((29, 29)) - 14.0
      weights = np.asarray(image[..., 0], np.float64)
      mean = [(weights * c).sum() / weights.sum() for c in (columns, rows)]
      np.testing.assert_allclose(
        mean, motion[:, :2] @ at + motion[:, 2], atol=0.2
      )


if __name__ == "__main__":
  absltest.main()
