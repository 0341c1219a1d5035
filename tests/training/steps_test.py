"""Single steps, against steps written out."""

from absl.testing import absltest
from flax import nnx
import jax
import numpy as np
import pytest

from stnjax import data, placement
from stnjax.training import optimisers, steps
from stnjax.training.keys import random_key
from tests.training import toy_trainers
from tests.training.toy_trainers import examples, make, max_difference, of


class TrainStepTest(absltest.TestCase):
  @pytest.mark.slow
  def test_one_step_is_the_optimiser_on_the_mean_gradient(self):
    """Against a step written out: SGD on the batch that the order names."""
    optimiser = optimisers.make_optimiser(
      "sgd", 0.1, 100, placement.parse("CNN")
    )
    built, states = make("CNN", optimiser=optimiser, perturbation="none")
    train, state = examples(40), of(states, 0)
    order = jax.random.permutation(
      jax.random.fold_in(random_key(0, "order"), 0), 40
    )[:16]
    images = toy_trainers.normalised(train.images[order])

    @jax.jit
    def loss(params):
      network = built.spec.network(state._replace(params=params))
      chosen = jax.nn.log_softmax(network(images).logits)
      return -chosen[np.arange(16), train.labels[order]].mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    after = of(built.train(states, train, 1), 0)
    self.assertLess(max_difference(after.params, expected), 1e-6)
    np.testing.assert_allclose(after.totals.loss / 16, value, rtol=1e-5)
    self.assertEqual(int(after.totals.count), 16)

  def test_a_network_taken_apart_is_the_same_put_together(self):
    built, states = make("STN-SL1", backbone="rich")
    network = built.spec.network(of(states, 0))
    parts = steps.split(network)
    params = jax.tree.leaves(nnx.state(network, nnx.Param))
    self.assertLen(jax.tree.leaves(parts.params), len(params))
    self.assertLen(jax.tree.leaves(parts.stats), 4)  # of two batch norms
    rebuilt = nnx.merge(parts.graphdef, *parts[1:])
    images = toy_trainers.normalised(examples(2).images)
    np.testing.assert_array_equal(
      nnx.jit(rebuilt)(images).logits, nnx.jit(network)(images).logits
    )


class HeadsTest(absltest.TestCase):
  """Several answers per image, such as the digits of a house number."""

  def examples(self):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (16, 3)).astype(np.int32)
    return data.Examples(examples(16).images, labels)

  def expected(self, built, states, train):
    """Each image's loss and labels, by NumPy."""
    network = built.spec.network(of(states, 0))
    logits = nnx.jit(network)(toy_trainers.normalised(train.images)).logits
    logits = np.asarray(logits, np.float64)
    self.assertEqual(logits.shape, (16, 3, 4))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    losses = np.zeros(16)
    for image in range(16):
      for head in range(3):
        losses[image] -= np.log(shares[image, head, train.labels[image, head]])
    return losses, logits.argmax(axis=-1)

  @pytest.mark.slow
  def test_losses_add_up_and_all_heads_must_be_right(self):
    built, states = make("CNN", heads=3, perturbation="none")
    train = self.examples()
    losses, labels = self.expected(built, states, train)
    # Some images are right in every head, some in all but one.
    train.labels[:5] = labels[:5]
    train.labels[5:9, 1:] = labels[5:9, 1:]
    train.labels[5:9, 0] = (labels[5:9, 0] + 1) % 4
    losses, labels = self.expected(built, states, train)
    wrong = sum(
      any(a != b for a, b in zip(*pair))
      for pair in zip(labels.tolist(), train.labels.tolist())
    )
    self.assertBetween(wrong, 4, 11)
    (found,) = built.evaluate(states, train, 0)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-4)
    np.testing.assert_array_equal(found.label, labels)
    totals = of(built.train(states, train, 1), 0).totals
    np.testing.assert_allclose(totals.loss, losses.sum(), rtol=1e-4)
    self.assertEqual((int(totals.count), int(totals.wrong)), (16, wrong))


if __name__ == "__main__":
  absltest.main()
