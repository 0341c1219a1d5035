"""Plain NNX layers in a backbone: nnx.Dropout, nnx.BatchNorm, other state."""

import functools

from absl.testing import absltest
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import toy_trainers
from tests.training.nnx_backbone import backbone
from tests.training.toy_trainers import (
  examples,
  make,
  make_afresh,
  max_difference,
  of,
)

WITHOUT_DROPOUT = functools.partial(backbone, rate=0.0)
TRAIN = examples(64)


def build(name="CNN", dropout=True, **options):
  return make(
    name, backbone=backbone if dropout else WITHOUT_DROPOUT, **options
  )


class NnxLayersTest(absltest.TestCase):
  @pytest.mark.slow
  def test_training_depends_on_seed_and_step_alone(self):
    """Not on how steps are dispatched, nor on what was drawn before."""
    built, state = build()
    whole = built.train(state, TRAIN, 3)
    parts = built.train(built.train(state, TRAIN, 1), TRAIN, 2)
    self.assertEqual(max_difference(whole, parts), 0)

  @pytest.mark.slow
  def test_seeds_together_come_out_as_alone(self):
    built, state = build("STN-SL1")
    whole = built.train(state, TRAIN, 3)
    together, states = build("STN-SL1", seeds=(7, 0))
    states = together.train(states, TRAIN, 3)
    self.assertLess(max_difference(of(states, 1), of(whole, 0)), 2e-4)
    self.assertGreater(
      max_difference(of(states, 0).params, of(states, 1).params), 1e-4
    )

  @pytest.mark.slow
  def test_dropout_is_for_training_alone(self):
    built, state = build()
    network = built.spec.network(of(state, 0))
    images = toy_trainers.normalised(examples(3).images)

    @nnx.jit(static_argnames="train")
    def logits(network, images, key=None, *, train=False):
      keys = key if key is None else jax.random.split(key, 3)
      return network(images, train=train, keys=keys).logits

    evaluated = [logits(network, images) for _ in range(2)]
    np.testing.assert_array_equal(*evaluated)
    keys = jax.random.split(jax.random.key(0))
    trained = [logits(network, images, key, train=True) for key in keys]
    self.assertGreater(np.abs(trained[0] - trained[1]).max(), 1e-3)
    plain, same = build(dropout=False)
    network = plain.spec.network(of(same, 0))
    trained = [logits(network, images, key, train=True) for key in keys]
    np.testing.assert_allclose(*trained, atol=1e-6)
    # A pass of evaluation draws nothing but perturbations.
    test = examples(9, 1)
    first, again = (built.evaluate(state, test, 2)[0] for _ in range(2))
    np.testing.assert_array_equal(first.loss, again.loss)

  def test_statistics_are_those_of_the_batch(self):
    """One step of a batch norm, and of the other state, written out."""
    built, states = make_afresh(
      "CNN", backbone=WITHOUT_DROPOUT, perturbation="none", batch_size=64
    )
    conv = built.spec.network(of(states, 0)).stages[0].conv
    inputs = jnp.asarray(toy_trainers.normalised(TRAIN.images))
    features = np.asarray(conv(inputs), np.float64)
    mean, var = features.mean((0, 1, 2)), features.var((0, 1, 2))
    stats = of(built.train(states, TRAIN, 1), 0).stats["stages"]
    # With a momentum of a half, from 0 and 1.
    norm = stats[0]["norm"]
    np.testing.assert_allclose(norm["mean"][...], mean / 2, atol=1e-5)
    np.testing.assert_allclose(norm["var"][...], (1 + var) / 2, rtol=1e-5)
    self.assertEqual(int(stats[1]["count"][...]), 1)
    active = np.maximum(0, (features - mean) / np.sqrt(var + 1e-5))
    np.testing.assert_allclose(
      stats[1]["mean"][...], active.mean((0, 1, 2)), atol=1e-5
    )

  @pytest.mark.slow
  def test_on_four_devices_statistics_are_averaged(self):
    self.check_pmap("CNN")

  @pytest.mark.slow
  def test_on_four_devices_with_a_transformer(self):
    self.check_pmap("STN-SL1")

  def check_pmap(self, name):
    states = []
    for devices in (1, 4):
      built, state = build(name, dropout=False, devices=devices)
      states.append(of(built.train(state, TRAIN, 3), 0))
    one, four = states
    self.assertLess(max_difference(one.stats, four.stats), 1e-4)
    self.assertLess(max_difference(one.params, four.params), 2e-4)
    self.assertEqual(int(four.stats["stages"][1]["count"][...]), 3)
    before = of(build(name, dropout=False)[1], 0)
    self.assertGreater(max_difference(before.stats, four.stats), 1e-1)

  def test_evaluation_changes_no_state(self):
    built, state = build()
    copy = jax.tree.map(np.array, state)
    built.evaluate(state, examples(9, 1), 0)
    self.assertEqual(max_difference(state, copy), 0)


if __name__ == "__main__":
  absltest.main()
