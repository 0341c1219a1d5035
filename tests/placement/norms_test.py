"""Batch norms behind the runs of the transformer, and their averages."""

import dataclasses

from absl.testing import absltest, parameterized
from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import placement, transforms
from tests.placement import tiny
from tests.placement.tiny import IMAGES, answer, create, shake


class BatchNormTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_it_follows_the_transformer_without_parameters(self):
    plain, normed = create("STN-SL1"), create("STN-SL1", batch_norm=True)
    self.assertEqual(
      placement.count_parameters(plain), placement.count_parameters(normed)
    )
    seen = []

    class Watching(nnx.Module):
      def __call__(self, x):
        seen.append(x)
        return x[:, :10, :10].repeat(3, axis=-1)

    normed.stages[0] = Watching()
    images = 5 + 3 * jnp.asarray(IMAGES)
    normed(images, train=True)
    self.assertLen(seen, 2)
    np.testing.assert_array_equal(seen[0], images)
    self.assertAlmostEqual(float(seen[-1].mean()), 0, places=4)
    self.assertAlmostEqual(float(seen[-1].std()), 1, places=2)
    (stats,) = normed.norms
    before = float(stats.mean[...][0])
    self.assertGreater(before, 0.01)  # moved towards 5
    output = normed(images)
    self.assertEqual(float(stats.mean[...][0]), before)
    np.testing.assert_allclose(output.warped, images, atol=1e-5)

  @parameterized.parameters(
    ("STN-C0,1x2", [1, 3, 3]),
    ("STN-SL0,1x2", [1, 1, 1]),
    ("STN-DL1x2", [1, 1]),
    ("STN-UCN1", [3]),
    ("CNN", []),
  )
  def test_every_run_has_its_own(self, name, channels):
    network = nnx.eval_shape(lambda: create(name, batch_norm=True))
    self.assertEqual(
      [norm.mean.shape for norm in network.norms], [(c,) for c in channels]
    )

  def test_each_run_is_normalised_by_its_own_averages(self):
    """Half as large behind the first run, a third as large behind the next."""
    network = shake(create("STN-C1x2", batch_norm=True))
    for norm, deviation in zip(network.norms, (2.0, 3.0), strict=True):
      norm.var[...] = jnp.full(3, deviation**2)
    original = x = network.stages[0](IMAGES)
    theta = None
    for deviation in (2, 3):
      step = tiny.theta(network, 1, x)
      theta = step if theta is None else transforms.compose(theta, step)
      x = stnjax.warp(original, theta, padding="border") / deviation
    np.testing.assert_allclose(
      network(IMAGES).logits, answer(network, x, 1), atol=1e-4
    )

  def test_features_are_normalised_as_behind_the_last_run(self):
    network = create("STN-C1x2", batch_norm=True)
    network.norms[1].var[...] = jnp.full(3, 16.0)
    first = network.stages[0](IMAGES)
    expected = network.stages[1](first / 4)
    np.testing.assert_allclose(
      network.features(IMAGES)["block 2"], expected, atol=1e-4
    )

  def test_added_runs_are_refused(self):
    network = nnx.eval_shape(lambda: create("STN-SL1", batch_norm=True))
    with self.assertRaisesRegex(ValueError, "batch_norm=True cannot be.*more"):
      network.with_iterations(1)

  @pytest.mark.slow
  def test_share_of_the_averages_that_is_kept(self):
    classifier = dataclasses.replace(
      tiny.TINY,
      convs=tuple(
        dataclasses.replace(conv, batch_norm=True) for conv in tiny.TINY.convs
      ),
    )
    network = create("STN-DL1", classifier, batch_norm=True, norm_average=0.9)
    norms = [node for _, node in nnx.iter_graph(network)
             if isinstance(node, nnx.BatchNorm)]  # fmt: skip
    self.assertLen(norms, 4)  # of two stages, a copy, and the transformer
    network(5 + jnp.asarray(IMAGES), train=True)
    mean = float(network.norms[0].mean[...][0])
    self.assertAlmostEqual(mean, 0.1 * float(5 + IMAGES.mean()), places=4)
    for norm in norms:
      self.assertEqual(norm.momentum, 0.9)

  def test_share_of_the_averages_is_checked(self):
    with self.assertRaisesRegex(ValueError, "norm_average must be between.*1"):
      create("CNN", norm_average=1.0)


if __name__ == "__main__":
  absltest.main()
