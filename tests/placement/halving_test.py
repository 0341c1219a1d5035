"""Transformers that halve what they warp."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import transforms
from tests.placement import tiny
from tests.placement.tiny import (
  HALVING,
  IMAGES,
  answer,
  create,
  shake,
  through,
)


class HalvingTest(parameterized.TestCase):
  """What the last run of the transformer warps comes out at half its size."""

  @parameterized.parameters("STN-DL1", "STN-SL1x2")
  @pytest.mark.slow
  def test_untrained_it_classifies_the_mean_of_every_four_pixels(self, name):
    small = IMAGES.reshape(3, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    network = create(name, HALVING)
    output = network(IMAGES)
    np.testing.assert_allclose(output.warped, small, atol=1e-5)
    np.testing.assert_allclose(output.logits, answer(network, small), atol=1e-4)

  @pytest.mark.slow
  def test_c_halves_its_features(self):
    self.check_features(1)

  @pytest.mark.slow
  def test_c_halves_features_of_odd_size(self):
    self.check_features(2)

  def check_features(self, depth):
    network = create(f"STN-C{depth}", HALVING)
    x = through(network.stages[:depth], jnp.asarray(IMAGES))
    side, filters = (12, 3) if depth == 1 else (5, 4)
    self.assertEqual(x.shape, (3, side, side, filters))
    if side == 12:
      x = np.asarray(x).reshape(3, 6, 2, 6, 2, 3).mean(axis=(2, 4))
    else:  # samples at 0.75 and 3.25: the second is between rows 3 and 4
      weights = np.zeros((2, 5))
      weights[[0, 0, 1, 1], [0, 1, 3, 4]] = 0.25, 0.75, 0.75, 0.25
      x = np.einsum("yi,xj,bijc->byxc", weights, weights, x)
    output = network(IMAGES)
    np.testing.assert_allclose(
      output.logits, answer(network, x, depth), atol=1e-4
    )
    self.assertEqual(output.warped.shape, IMAGES.shape)  # but not the picture

  @pytest.mark.slow
  def test_repeated_iterations_halve_at_the_last(self):
    self.check_iterations("SL")

  @pytest.mark.slow
  def test_repeated_iterations_of_c_halve_at_the_last(self):
    self.check_iterations("C")

  def check_iterations(self, kind):
    network = shake(create(f"STN-{kind}1x3", HALVING))
    first = network.stages[0]
    original = first(IMAGES) if kind == "C" else IMAGES
    x, theta, thetas = original, None, []
    for _ in range(3):
      self.assertEqual(x.shape, original.shape)
      step = tiny.theta(network, 1, x if kind == "C" else first(x))
      theta = step if theta is None else transforms.compose(theta, step)
      thetas.append(theta)
      x = stnjax.warp(original, theta, padding="border")
    half = [side // 2 for side in original.shape[1:3]]
    x = stnjax.warp(original, theta, output_shape=half, padding="border")
    output = network(IMAGES)
    for actual, expected in zip(output.thetas, thetas, strict=True):
      np.testing.assert_allclose(actual, expected, atol=1e-4)
    np.testing.assert_allclose(
      output.logits, answer(network, x, int(kind == "C")), atol=1e-3
    )
    if kind != "C":
      np.testing.assert_allclose(output.warped, x, atol=1e-3)

  @parameterized.parameters("CNN", "STN-UCN1", "DEF0")
  def test_without_resampling_nothing_is_halved(self, name):
    network = create(name, HALVING)
    output = jax.eval_shape(network, IMAGES)
    self.assertEqual(output.warped.shape, IMAGES.shape)
    self.assertEqual(network.head.last.kernel.shape, (100, 10))


if __name__ == "__main__":
  absltest.main()
