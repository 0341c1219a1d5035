"""Dropout by image, and train mode of any NNX modules."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import placement
from stnjax.paper import classifiers
from stnjax.paper.classifiers import Conv, Localisation
from tests.placement import tiny


def passing(name="CNN", *, slope=1.0, hidden=0, **layer):
  """A network on 8 x 8 pixels whose logits are what its layers make of them."""
  classifier = classifiers.Classifier(
    convs=(Conv(1, 1, **layer),),
    dense=(64,) * hidden,
    dropout=0.3 * bool(hidden),
    slope=slope,
    localisation={"small": Localisation()},
  )
  network = tiny.create(name, classifier, (8, 8, 1), num_classes=64)
  for stage in network.stages:
    stage.conv.kernel[...] = jnp.ones((1, 1, 1, 1))
  for linear in (*network.head.hidden, network.head.last):
    linear.kernel[...] = jnp.eye(64)
  return network


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


class DropoutTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"dropout": 0.4}, 0.4),
    ({"hidden": 1}, 0.3),
    ({"dropout": 0.4, "hidden": 1}, 1 - 0.6 * 0.7),
  )
  @pytest.mark.slow
  def test_a_share_is_dropped_and_the_rest_scaled(self, options, rate):
    images = jnp.ones((200, 8, 8, 1))
    logits = passing(**options)(images, train=True, keys=keys(200)).logits
    values = np.unique(np.round(logits, 4))
    np.testing.assert_allclose(values, [0, 1 / (1 - rate)], atol=1e-3)
    dropped = np.asarray(logits == 0)
    # Standard error 0.004 of the mean, 0.035 of a pixel's.
    self.assertAlmostEqual(dropped.mean(), rate, delta=0.02)
    np.testing.assert_allclose(dropped.mean(axis=0), rate, atol=0.17)
    # No two images drop the same.
    self.assertLen(np.unique(dropped, axis=0), 200)

  @pytest.mark.slow
  def test_an_image_s_dropout_depends_on_its_own_key_alone(self):
    network = passing(dropout=0.5, hidden=1)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    images, own = images.astype(np.float32), keys(4)
    whole = network(images, train=True, keys=own).logits
    order = np.array([2, 0, 3])
    other = network(images[order], train=True, keys=own[order]).logits
    np.testing.assert_array_equal(other, whole[order])
    single = network(images[1:2], train=True, keys=own[1:2]).logits
    np.testing.assert_array_equal(single[0], whole[1])
    fresh = network(images, train=True, keys=keys(4, 1)).logits
    self.assertTrue(((fresh == 0) != (whole == 0)).any(axis=1).all())

  def test_it_is_off_in_evaluation(self):
    network = passing(dropout=0.5, hidden=1)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    for given in (None, keys(4)):
      logits = network(images, keys=given).logits
      np.testing.assert_allclose(logits, images.reshape(4, 64), atol=1e-6)

  def test_training_needs_keys(self):
    with self.assertRaisesRegex(ValueError, "keys must be given"):
      passing(dropout=0.5)(jnp.ones((2, 8, 8, 1)), train=True)
    passing()(jnp.ones((2, 8, 8, 1)), train=True)  # nothing to drop

  @pytest.mark.slow
  def test_a_shared_stage_drops_anew_in_each_use(self):
    network = passing("STN-SL1", dropout=0.5)
    seen = []

    class Looking(nnx.Module):
      def __call__(self, features):
        seen.append(features)
        return jnp.zeros((len(features), 6))

    network.sites["1"]["transformer"].localiser = Looking()
    logits = network(jnp.ones((4, 8, 8, 1)), train=True, keys=keys(4)).logits
    used = [np.asarray(seen[0]).reshape(4, 64) == 0, np.asarray(logits) == 0]
    for dropped in used:
      self.assertBetween(dropped.mean(), 0.35, 0.65)
    self.assertBetween((used[0] == used[1]).mean(), 0.35, 0.65)


def plain_nnx(stages):
  """A network of modules that know nothing of this library."""
  task = placement.Task((8, 8, 1), 64)
  head = nnx.Sequential(lambda x: x.reshape(len(x), -1))
  backbone = placement.Backbone(stages, head)
  return placement.place(backbone, "CNN", task, rngs=nnx.Rngs(0))


class PlainModuleTest(absltest.TestCase):
  """nnx.Dropout and nnx.BatchNorm, in the mode and with the keys of a call."""

  @pytest.mark.slow
  def test_dropout_is_a_function_of_the_keys(self):
    rngs = nnx.Rngs(0)
    network = plain_nnx(
      [nnx.Dropout(0.5, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)]
    )
    images = jnp.ones((50, 8, 8, 1))
    np.testing.assert_array_equal(network(images).logits, 1)
    first = network(images, train=True, keys=keys(50)).logits
    dropped = np.asarray(first) == 0
    self.assertAlmostEqual(dropped.mean(), 0.6, delta=0.05)
    np.testing.assert_allclose(first[~dropped], 1 / 0.4, rtol=1e-5)
    self.assertLen(np.unique(dropped, axis=0), 50)
    again = network(images, train=True, keys=keys(50)).logits
    np.testing.assert_array_equal(first, again)
    other = network(images, train=True, keys=keys(50, 1)).logits
    self.assertGreater(((first == 0) != (other == 0)).mean(), 0.3)
    with self.assertRaisesRegex(ValueError, "keys must be given"):
      network(images, train=True)

  def test_old_style_keys(self):
    network = plain_nnx([nnx.Dropout(0.5, rngs=nnx.Rngs(0))])
    old = jax.random.split(jax.random.PRNGKey(0), 4)
    logits = network(jnp.ones((4, 8, 8, 1)), train=True, keys=old).logits
    self.assertBetween(float((logits == 0).mean()), 0.35, 0.65)

  @pytest.mark.slow
  def test_a_shared_stage_drops_anew_in_each_use(self):
    seen = []

    class Watched(nnx.Module):
      def __init__(self):
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

      def __call__(self, x):
        x = self.dropout(x)
        seen.append(x)
        return x

    task = placement.Task((8, 8, 1), 64)
    backbone = placement.Backbone(
      [Watched()], nnx.Sequential(lambda x: x.reshape(len(x), -1))
    )
    network = placement.place(backbone, "STN-SL1", task, rngs=nnx.Rngs(0))
    seen.clear()
    network(jnp.ones((4, 8, 8, 1)), train=True, keys=keys(4))
    self.assertLen(seen, 2)
    first, second = (np.asarray(x) == 0 for x in seen)
    self.assertBetween((first == second).mean(), 0.35, 0.65)

  @pytest.mark.slow
  def test_batch_norm_uses_the_batch_in_training_alone(self):
    network = plain_nnx([nnx.BatchNorm(1, rngs=nnx.Rngs(0))])
    images = np.random.default_rng(0).normal(3, 2, (5, 8, 8, 1))
    images = images.astype(np.float32)
    before = network(images).logits
    np.testing.assert_allclose(
      before, images.reshape(5, 64) / np.sqrt(1 + 1e-5), rtol=1e-5
    )
    trained = network(images, train=True).logits
    self.assertAlmostEqual(float(trained.mean()), 0, places=4)
    self.assertAlmostEqual(float(trained.std()), 1, places=3)
    norm = network.stages[0]
    np.testing.assert_allclose(norm.mean[...], 0.01 * images.mean(), rtol=1e-4)
    moved = np.asarray(norm.mean[...])
    network(images)
    np.testing.assert_array_equal(norm.mean[...], moved)
    network.features(images)
    np.testing.assert_array_equal(norm.mean[...], moved)

  @pytest.mark.slow
  def test_state_splits_from_parameters_and_random_streams(self):
    """As training holds it: streams are constant, and drawn from the keys."""
    rngs = nnx.Rngs(0)
    network = plain_nnx(
      [
        nnx.Conv(1, 1, (3, 3), rngs=rngs),
        nnx.BatchNorm(1, rngs=rngs),
        nnx.Dropout(0.5, rngs=rngs),
      ]
    )
    graphdef, params, streams, stats = nnx.split(
      network, nnx.Param, nnx.RngState, ...
    )
    images = jnp.ones((4, 8, 8, 1)) * jnp.arange(8.0)[:, None]

    @jax.jit
    def step(params, stats, keys):
      def loss(params):
        model = nnx.merge(graphdef, params, streams, stats, copy=True)
        logits = model(images, train=True, keys=keys).logits
        return (logits**2).sum(), nnx.state(
          model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState))
        )

      return jax.value_and_grad(loss, has_aux=True)(params)

    (first, moved), gradient = step(params, stats, keys(4))
    (again, _), _ = step(params, stats, keys(4))
    (other, _), _ = step(params, stats, keys(4, 1))
    self.assertEqual(first, again)
    self.assertNotEqual(first, other)
    self.assertEqual(jax.tree.structure(moved), jax.tree.structure(stats))
    self.assertGreater(np.abs(moved["stages"][1]["mean"][...]).max(), 1e-3)
    for leaf in jax.tree.leaves(gradient["stages"][1]):
      self.assertGreater(np.abs(leaf).max(), 0)


if __name__ == "__main__":
  absltest.main()
