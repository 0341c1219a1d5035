"""Trainers: batches, dispatches, evaluation, and any number of devices."""

from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import nnx
import jax
import numpy as np
import optax
import pytest

from stnjax import data
from stnjax.training import steps, trainer
from stnjax.training.keys import random_key
from stnjax.training.preparation import Preparation
from tests.training import toy_trainers
from tests.training.toy_trainers import (
  examples,
  make,
  make_afresh,
  max_difference,
  of,
)


class DeviceTest(parameterized.TestCase):
  @parameterized.named_parameters(
    # Every image drops the same, wherever it is.
    ("sl_dropout", "STN-SL1", {"backbone": "rich"}, 3),
  )
  @pytest.mark.slow
  def test_pmap_on_four_devices_equals_jit_on_one(self, name, options, count):
    self.check_pmap(name, options, count)

  @parameterized.named_parameters(
    ("cnn", "CNN", {}, 4),
    ("c", "STN-C1", {"batch_norm": True}, 4),
    ("sl", "STN-SL1", {}, 4),
    # Every image is cluttered the same, too.
    ("clutter", "STN-C0", {"perturbation": "translation"}, 1),
    ("ucn", "STN-UCN0", {"backbone": "rich"}, 3),
    ("def", "DEF1", {"backbone": "rich", "batch_norm": True}, 3),
  )
  @pytest.mark.slow
  def test_pmap_of_other_networks(self, name, options, count):
    self.check_pmap(name, options, count)

  def check_pmap(self, name, options, count):
    train, test = examples(64), examples(23, 1)
    states, predictions = [], []
    for devices in (1, 4):
      built, state = make(name, devices=devices, **options)
      state = built.train(state, train, count)
      states.append(of(state, 0))
      predictions.append(built.evaluate(state, test, 0)[0])
    one, four = states
    for sums in zip(one.totals, four.totals, strict=True):
      np.testing.assert_allclose(*sums, rtol=1e-5)
    self.assertLess(max_difference(one.stats, four.stats), 1e-5)
    # Adam divides by the gradient's size, so that rounding of a vanishing
    # gradient moves its parameter.
    self.assertLess(max_difference(one.params, four.params), 2e-4)
    np.testing.assert_allclose(
      predictions[0].loss, predictions[1].loss, atol=1e-4
    )
    self.assertNotEmpty(predictions[0].truth)
    for kind, value in predictions[0].truth.items():
      np.testing.assert_array_equal(value, predictions[1].truth[kind])

  def test_batch_that_does_not_divide_is_refused(self):
    with self.assertRaisesRegex(ValueError, "batch_size=18.*multiple of 4"):
      make_afresh(devices=4, batch_size=18)

  def test_batch_larger_than_the_set_is_refused(self):
    built, state = make(batch_size=64)
    with self.assertRaisesRegex(
      ValueError, "larger than the training set of 32"
    ):
      built.train(state, examples(32), 1)

  def test_the_device_that_is_named_is_used(self):
    built, state = make("CNN")
    built = trainer.Trainer(built.spec, (0,), devices=jax.devices()[2:3])
    state = built.train(state, examples(16), 1)
    self.assertEqual(state.step.devices(), {jax.devices()[2]})


class TrainTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_dispatches_change_nothing(self):
    train = examples(64)
    built, state = make("CNN")
    whole = built.train(state, train, 4)
    for count in (1, 2, 1):
      state = built.train(state, train, count)
    self.assertEqual(max_difference(whole, state), 0)

  def test_totals_start_anew_with_the_epoch(self):
    train = examples(36)  # two whole batches of 16
    built, state = make("CNN")
    state = built.train(state, train, 2)
    self.assertEqual(int(state.totals.count[0]), 32)
    state = built.train(state, train, 1)
    self.assertEqual(int(state.totals.count[0]), 16)
    for count in (2, -1):
      with self.assertRaisesRegex(ValueError, f"num_steps={count} leaves"):
        built.train(state, train, count)

  @pytest.mark.slow
  def test_every_image_is_seen_once_an_epoch_in_another_order(self):
    train = examples(32)
    train.images[:, 0, 0, 0] = np.arange(32)  # a mark to know an image by
    built, state = make_afresh("CNN", batch_size=8)
    orders, seen = [], []
    with toy_trainers.noting_batches(lambda images, _: seen.append(images)):
      for _ in range(2):
        state = built.train(state, train, 4)
        jax.effects_barrier()
        orders.append(np.concatenate(seen)[:, 0, 0, 0].tolist())
        seen.clear()
    for order in orders:
      self.assertCountEqual(order, range(32))
    self.assertNotEqual(*orders)

  @pytest.mark.slow
  def test_every_image_of_every_step_is_perturbed_afresh(self):
    """With the same images in a batch, only the perturbation can differ."""
    train = examples(16)
    train = data.Examples(np.repeat(train.images[:1], 16, 0), train.labels)
    seen = []
    built, state = make_afresh("CNN", batch_size=4)
    with toy_trainers.noting_batches(
      lambda _, truth: seen.append(truth["rotation"])
    ):
      built.train(state, train, 4)
      jax.effects_barrier()
    self.assertLen(np.unique(np.concatenate(seen)), 16)

  @pytest.mark.slow
  def test_one_compilation_serves_all_dispatches(self):
    built, state = make_afresh("CNN")
    train = examples(96)
    once = chex.assert_max_traces(steps.train_step, n=1)
    with mock.patch.object(steps, "train_step", once):
      for count in (1, 3, 2):
        state = built.train(state, train, count)
    self.assertEqual(int(state.step[0]), 6)

  def test_it_learns(self):
    self.check_learning("CNN")

  @pytest.mark.slow
  def test_it_learns_with_a_transformer(self):
    self.check_learning("STN-SL1")

  def check_learning(self, name):
    built, state = make(name, perturbation="none", batch_size=32)
    train, test = examples(256), examples(100, 5)
    for _ in range(8):
      state = built.train(state, train, 8)
    predicted = built.evaluate(state, test, 0)[0].label
    self.assertLess(np.mean(predicted != test.labels), 0.05)

  @parameterized.parameters("STN-UCN1", "DEF1")
  @pytest.mark.slow
  def test_deformed_convolutions_learn_and_move(self, name):
    built, state = make(name)
    train = examples(64)
    losses, moved = [], []
    for _ in range(3):
      state = built.train(state, train, 4)
      prediction = built.evaluate(state, train, 0)[0]
      losses.append(prediction.loss.mean())
      moved.append(np.abs(prediction.pose - np.eye(2, 3)).max())
    self.assertLess(losses[-1], losses[0])
    self.assertGreater(moved[0], 1e-4)

  @pytest.mark.slow
  def test_a_family_of_grids_trains_and_has_a_pose(self):
    self.check_grids("thin_plate")

  @pytest.mark.slow
  def test_another_family_of_grids(self):
    self.check_grids("velocity")

  def check_grids(self, family):
    built, state = make("STN-C0", family=family)
    before = of(state, 0).params
    state = built.train(state, examples(32), 2)
    (found,) = built.evaluate(state, examples(5, 1), 0)
    self.assertEqual(found.pose.shape, (5, 2, 3))
    self.assertTrue(np.isfinite(found.pose).all())
    moved = np.abs(found.pose - np.eye(2, 3)).max()
    self.assertBetween(moved, 1e-5, 0.5)
    self.assertGreater(
      max_difference(of(state, 0).params["sites"], before["sites"]), 1e-4
    )


class EvaluateTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_every_image_counts_once(self):
    self.check_evaluation(19)

  @pytest.mark.slow
  def test_an_image_alone_counts_once(self):
    self.check_evaluation(1)

  def check_evaluation(self, n):
    test = examples(n)
    built, state = make("STN-SL1")
    (result,) = built.evaluate(state, test, 3)
    self.assertEqual(result.label.shape, (n,))
    self.assertEqual(result.pose.shape, (n, 2, 3))
    # By hand, with each image's own key.
    pass_key = jax.random.fold_in(random_key(0, "evaluate"), 3)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(pass_key, np.arange(n))
    images, truth = built.spec.preparation(keys, test.images)
    logits = nnx.jit(built.spec.network(of(state, 0)))(images).logits
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, test.labels
    )
    np.testing.assert_allclose(result.loss, losses, atol=1e-4)
    np.testing.assert_array_equal(result.label, logits.argmax(-1))
    np.testing.assert_allclose(
      result.truth["rotation"], truth["rotation"], atol=1e-6
    )

  def test_passes_differ_and_repeat(self):
    built, state = make()
    test = examples(19)
    first, again, other = (built.evaluate(state, test, i)[0] for i in (0, 0, 1))
    np.testing.assert_array_equal(first.loss, again.loss)
    angles = [p.truth["rotation"] for p in (first, other)]
    self.assertGreater(np.abs(angles[0] - angles[1]).min(), 0)

  def test_examples_show_what_the_transformer_sees_and_makes(self):
    built, state = make("STN-SL1")
    images = examples(3).images
    ((before, after),) = built.examples(state, images, 0)
    self.assertEqual(before.shape, images.shape)
    np.testing.assert_allclose(before, after, atol=1e-5)  # still the identity
    self.assertGreater(np.abs(before - images / 255).max(), 0.1)  # turned
    self.assertBetween(before.max(), 0.5, 1.0)

  @pytest.mark.slow
  def test_augmentation_is_for_training_alone(self):
    test, flags = examples(16), []
    built, states = make_afresh("CNN", perturbation="light_augmentation")
    prepare = Preparation.__call__

    def noting(preparation, *args, train=False):
      flags.append(train)
      return prepare(preparation, *args, train=train)

    with mock.patch.object(Preparation, "__call__", noting):
      (found,) = built.evaluate(states, test, 0)
      self.assertEqual(set(flags), {False})
      flags.clear()
      built.lower(states, test)
      self.assertEqual(set(flags), {True})
    network = nnx.jit(built.spec.network(of(states, 0)))
    expected = optax.softmax_cross_entropy_with_integer_labels(
      network(toy_trainers.normalised(test.images)).logits, test.labels
    )
    np.testing.assert_allclose(found.loss, expected, atol=1e-4)


if __name__ == "__main__":
  absltest.main()
