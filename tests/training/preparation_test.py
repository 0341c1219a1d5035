"""From stored images to a network's input."""

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest

from stnjax import data
from stnjax.training.preparation import Preparation
from tests.training import toy_trainers
from tests.training.toy_trainers import examples, max_difference


def prepare(name, mean=(0.1,), std=(0.3,), downsample=1):
  return Preparation(data.PERTURBATIONS[name], mean, std, downsample)


def keys(count):
  return jax.random.split(jax.random.key(0), count)


class PreparationTest(parameterized.TestCase):
  @parameterized.parameters("free_augmentation", "light_augmentation")
  @pytest.mark.slow
  def test_augmentation_is_for_training_alone(self, name):
    images = examples(4).images
    plain = toy_trainers.normalised(images)
    evaluated, truth = prepare(name)(keys(4), images)
    np.testing.assert_allclose(evaluated, plain, atol=1e-5)
    self.assertEqual(truth, {})
    preparation = jax.jit(prepare(name), static_argnames="train")
    trained, truth = preparation(keys(4), images, train=True)
    self.assertEqual(truth, {})
    for image, other in zip(trained, plain, strict=True):
      self.assertGreater(np.abs(image - other).max(), 0.3)

  @pytest.mark.slow
  def test_other_perturbations_are_for_evaluation_too(self):
    images = examples(4).images
    pair = [
      prepare("rotation")(keys(4), images, train=train)
      for train in (False, True)
    ]
    self.assertEqual(max_difference(*pair), 0)
    self.assertGreater(np.abs(pair[0][1]["rotation"]).max(), 1)

  def test_each_channel_is_normalised_by_its_own(self):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.5)
    preparation = prepare("none", mean, std)
    found, _ = preparation(keys(2), images)
    self.assertEqual(found.dtype, np.float32)
    for channel in range(3):
      expected = (images[..., channel] / 255 - mean[channel]) / std[channel]
      np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)
    np.testing.assert_allclose(
      preparation.to_pixels(found), images / 255, atol=1e-6
    )

  def test_downsampling_is_the_mean_over_squares(self):
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 9, 1), np.uint8)
    found, _ = prepare("none", (0.0,), (1.0,), downsample=3)(keys(2), images)
    expected = np.zeros((2, 2, 3, 1))
    for index in np.ndindex(expected.shape):
      b, y, x, c = index
      square = images[b, 3 * y : 3 * y + 3, 3 * x : 3 * x + 3, c]
      expected[index] = square.mean() / 255
    np.testing.assert_allclose(found, expected, atol=1e-6)

  def test_downsampling_follows_the_perturbation(self):
    images = examples(3).images
    whole, truth = jax.jit(prepare("rotation"))(keys(3), images)
    small, same = jax.jit(prepare("rotation", downsample=2))(keys(3), images)
    expected = np.asarray(whole).reshape(3, 14, 2, 14, 2, 1).mean((2, 4))
    np.testing.assert_allclose(small, expected, atol=1e-5)
    np.testing.assert_array_equal(truth["rotation"], same["rotation"])

  def test_missing_clutter_is_named(self):
    with self.assertRaisesRegex(ValueError, "clutter_images must be given"):
      prepare("translation")(keys(1), examples(1).images)


if __name__ == "__main__":
  absltest.main()
