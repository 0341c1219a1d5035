"""More iterations of the transformer, from an epoch on."""

import dataclasses

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.training import building, trainer
from stnjax.training.keys import random_key
from stnjax.training.settings import Settings
from tests.training import toy_trainers
from tests.training.toy_trainers import examples, max_difference, of


def settings(scheme="group", more_iterations=(1,)):
  return Settings(
    width=0.0625,
    batch_size=16,
    epochs=9,
    optimiser="sgd",
    schedule="constant",
    learning_rate=0.01,
    more_iterations=more_iterations,
    localisation_scheme=scheme,
    localisation_lr=0.5,
  )


def build(**options):
  """A trainer with 2 steps an epoch, and its states."""
  one = settings(**options)
  built, states = building.build_trainer(
    [one], building.find(one), examples(32).images, jax.devices()[:1]
  )
  # Off the identity, where iterations differ.
  head = toy_trainers.localisation_bias(states.params)
  head[...] = head[...] + 0.1
  return built, states


class PhasesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("group", (1.0, 1.0, 1.0)), ("gradient", (0.5, 0.25, 0.125))
  )
  def test_phases_have_more_iterations(self, scheme, gradients):
    built, states = build(scheme=scheme, more_iterations=(1, 4))
    spec, state = built.spec, of(states, 0)
    self.assertEqual([start for start, _ in spec.phases], [2, 8])
    networks = [
      dataclasses.replace(spec, graphdef=graphdef).network(state)
      for graphdef in (spec.graphdef, *(g for _, g in spec.phases))
    ]
    self.assertEqual(
      [network.placement.depths for network in networks],
      [(1,), (1, 1), (1, 1, 1)],
    )
    self.assertEqual(
      tuple(network.theta_gradient for network in networks), gradients
    )

  @parameterized.parameters("group", "gradient")
  @pytest.mark.slow
  def test_each_phase_trains_and_evaluates_its_own_network(self, scheme):
    train, test = examples(32), examples(6, 1)
    built, states = build(scheme=scheme)
    spec = built.spec
    graphdefs = [spec.graphdef, *(graphdef for _, graphdef in spec.phases)]
    pass_key = jax.random.fold_in(random_key(0, "evaluate"), 0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(pass_key, np.arange(6))
    images, _ = spec.preparation(keys, test.images)
    structure = jax.tree.structure(states)
    for epoch, graphdef in enumerate(graphdefs):
      alone = dataclasses.replace(spec, graphdef=graphdef, phases=())
      own = trainer.Trainer(alone, (0,), devices=jax.devices()[:1])
      expected = own.train(states, train, 2)
      states = built.train(states, train, 2)
      self.assertEqual(max_difference(states, expected), 0)
      self.assertEqual(jax.tree.structure(states), structure)
      # By hand: as many runs of the transformer as there are by now.
      output = nnx.jit(alone.network(of(states, 0)))(images)
      self.assertLen(output.thetas, epoch + 1)
      found = built.evaluate(states, test, 0)[0]
      np.testing.assert_allclose(found.pose, output.pose, atol=1e-4)
      if epoch:
        moved = output.thetas[-1] - output.thetas[-2]
        self.assertGreater(np.abs(moved).max(), 1e-2)

  @pytest.mark.slow
  def test_a_resume_across_the_switch_changes_nothing(self):
    train = examples(32)
    built, states = build()
    whole = states
    for _ in range(2):
      whole = built.train(whole, train, 2)
    states = built.train(states, train, 2)
    states = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), states)
    built, _ = build()
    for count in (1, 1):
      states = built.train(states, train, count)
    self.assertEqual(max_difference(states, whole), 0)

  @parameterized.parameters(
    ("group", [0.5, 0.5, 0.25, 0.25, 0.125]), ("gradient", [1] * 5)
  )
  def test_localisation_s_rate_is_halved(self, scheme, expected):
    built, states = build(scheme=scheme, more_iterations=(1, 2))
    state = of(states, 0)
    ones = jax.tree.map(np.ones_like, state.params)
    optimiser, rates = state.optimiser, []
    update = jax.jit(built.spec.optimiser.update)
    for _ in range(5):
      updates, optimiser = update(ones, optimiser, state.params)
      rates.append(
        float(toy_trainers.localisation_bias(updates)[...][0])
        / float(updates["head"]["last"]["bias"][...][0])
      )
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


if __name__ == "__main__":
  absltest.main()
