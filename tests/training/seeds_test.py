"""Seeds trained together have the results that each has alone."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest

from stnjax.training import trainer
from stnjax.training.keys import random_key
from tests.training.toy_trainers import (
  assert_close,
  examples,
  make,
  make_afresh,
  max_difference,
  of,
)

SEEDS = (4, 0, 9, 7)


class SeedTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_together_each_comes_out_as_alone(self):
    self.check_together("CNN", {"backbone": "rich"}, alone=SEEDS[1:2])

  @parameterized.named_parameters(
    ("cnn", "CNN", {"backbone": "rich"}),
    ("rich", "STN-SL1", {"backbone": "rich"}),
    ("sl", "STN-SL1", {}),
    ("def", "DEF1", {"backbone": "rich"}),
  )
  @pytest.mark.slow
  def test_together_other_networks_come_out_as_alone(self, name, options):
    self.check_together(name, options, alone=SEEDS[:2])

  def check_together(self, name, options, alone):
    train, test = examples(64), examples(23, 1)
    together, states = make(name, seeds=SEEDS[:2], **options)
    states = together.train(states, train, 3)
    predicted = together.evaluate(states, test, 1)
    shown = together.examples(states, test.images[:2], 0)
    for seed in alone:
      index = SEEDS.index(seed)
      built, state = make(name, seeds=(seed,), **options)
      state = built.train(state, train, 3)
      assert_close(of(states, index), of(state, 0))
      assert_close(predicted[index], built.evaluate(state, test, 1)[0])
      drawn = built.examples(state, test.images[:2], 0)[0]
      assert_close(shown[index], drawn)
    self.assertGreater(
      max_difference(of(states, 0).params, of(states, 1).params), 1e-4
    )
    self.assertGreater(max_difference(*shown), 0.1)

  @pytest.mark.slow
  def test_side_by_side_is_one_after_the_other(self):
    """What runs on GPUs, here on CPU; few steps, as rounding grows."""
    train, test = examples(64), examples(9, 1)
    options = {"name": "STN-SL1", "backbone": "rich", "seeds": SEEDS[:2]}
    built, start = make(**options)
    expected = built.train(start, train, 3)
    side_by_side, _ = make_afresh(**options)
    with mock.patch.object(
      trainer.Trainer, "_each_seed", lambda _, one: jax.vmap(one)
    ):
      found = side_by_side.train(start, train, 3)
      predicted = side_by_side.evaluate(expected, test, 1)
    self.assertLess(max_difference(found.params, expected.params), 2e-4)
    self.assertLess(max_difference(found.stats, expected.stats), 1e-5)
    for sums in zip(found.totals, expected.totals, strict=True):
      np.testing.assert_allclose(*sums, rtol=1e-5)
    for ours, theirs in zip(
      predicted, built.evaluate(expected, test, 1), strict=True
    ):
      np.testing.assert_allclose(ours.loss, theirs.loss, atol=1e-4)
      np.testing.assert_array_equal(
        ours.truth["rotation"], theirs.truth["rotation"]
      )

  @pytest.mark.slow
  def test_spread_over_devices_each_comes_out_as_on_one(self):
    train, test = examples(64), examples(9, 1)
    results = []
    for count in (1, 2):
      built, states = make("STN-SL1", seeds=SEEDS, devices=count)
      states = built.train(states, train, 2)
      results.append(
        (
          jax.tree.map(np.asarray, states),
          built.evaluate(states, test, 0),
          built.examples(states, test.images[:2], 0),
        )
      )
    assert_close(*results)
    self.assertEqual(results[1][0].step.tolist(), [2] * 4)

  @pytest.mark.slow
  def test_a_seed_decides(self):
    train = examples(64)
    runs = []
    for seed in (0, 0, 1):
      built, state = make("CNN", seeds=(seed,))
      runs.append(built.train(state, train, 2))
    self.assertEqual(max_difference(runs[0].params, runs[1].params), 0)
    self.assertGreater(max_difference(runs[0].params, runs[2].params), 1e-4)

  def test_states_of_seeds_come_apart_again(self):
    states = [
      jax.tree.map(lambda x, k=k: x + k, of(make("CNN")[1], 0))
      for k in range(3)
    ]
    together = trainer.stacked(*states)
    for index, state in enumerate(states):
      found = trainer.select_seed(together, index)
      self.assertEqual(max_difference(found, state), 0)

  def test_states_that_are_not_finite_are_found(self):
    state = of(make("CNN")[1], 0)
    states = [state._replace(totals=state.totals._replace(loss=x))
              for x in np.float32([1, np.nan, 2, np.inf])]  # fmt: skip
    found = trainer.all_finite(trainer.stacked(*states))
    np.testing.assert_array_equal(found, [True, False, True, False])


class KeyTest(absltest.TestCase):
  def test_each_purpose_has_its_own_key(self):
    purposes = ("initialise", "order", "train", "evaluate", "examples")
    drawn = {
      jax.random.key_data(random_key(seed, purpose)).tobytes()
      for seed in (0, 1, 2**32 - 1)
      for purpose in purposes
    }
    self.assertLen(drawn, 15)


if __name__ == "__main__":
  absltest.main()
