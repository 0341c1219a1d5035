"""Training localisation alone: everything else stays as in evaluation."""

import dataclasses

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.training import building, optimisers, steps
from stnjax.training.settings import Settings
from tests.training import toy_trainers
from tests.training.toy_trainers import max_difference

EXAMPLES = toy_trainers.examples(16)
IMAGES = toy_trainers.normalised(EXAMPLES.images)
KEYS = jax.random.split(jax.random.key(1), 16)


def network_of(name, frozen, batch_norm=False):
  network = nnx.clone(
    toy_trainers.network_of(name, "rich", "rotation", batch_norm, 1, "affine")
  )
  network.classifier_frozen = frozen
  for site in network.sites.values():  # so that theta depends on features
    module = site.get("predictor") or site["transformer"].localiser
    kernel = module.head.kernel
    kernel[...] = jnp.cos(jnp.arange(kernel.size)).reshape(kernel.shape) / 40
  return network


def outputs(network):
  """Logits of training and evaluation, statistics before and after."""
  parts = steps.split(network)

  @jax.jit
  def run(parts_of_network):
    model = nnx.merge(parts.graphdef, *parts_of_network)
    evaluated = model(IMAGES).logits
    trained = model(IMAGES, train=True, keys=KEYS).logits
    return trained, evaluated, steps.split(model).stats

  trained, evaluated, after = run(parts[1:])
  return trained, evaluated, parts.stats, after


@pytest.mark.parametrize("name", ["STN-SL1", "STN-C1", "STN-UCN1"])
@pytest.mark.slow
def test_a_frozen_classifier_trains_as_it_evaluates(name):
  trained, evaluated, before, after = outputs(network_of(name, True, True))
  np.testing.assert_allclose(trained, evaluated, atol=1e-6)
  assert max_difference(before, after) == 0
  trained, evaluated, before, after = outputs(network_of(name, False, True))
  assert max_difference(trained, evaluated) > 0.01
  assert max_difference(before["stages"], after["stages"]) > 0
  assert max_difference(before["norms"], after["norms"]) > 0


def test_copied_stages_are_not_frozen():
  network = network_of("STN-DL1", True)
  trained, evaluated, before, after = outputs(network)
  assert max_difference(trained, evaluated) > 1e-5  # by dropout in the copy
  assert max_difference(before["sites"], after["sites"]) > 0
  assert max_difference(before["stages"], after["stages"]) == 0


@pytest.mark.parametrize("name", ["STN-SL1", "STN-DL1"])
@pytest.mark.parametrize("kind", optimisers.OPTIMISERS)
@pytest.mark.slow
def test_steps_change_localisation_alone(name, kind):
  network = network_of(name, True)
  optimiser = optimisers.make_optimiser(
    kind, 0.1, 10, network.placement, trained="localisation"
  )
  built, _ = toy_trainers.make_afresh(name, backbone="rich")
  parts = steps.split(network)
  spec = dataclasses.replace(
    built.spec, graphdef=parts.graphdef, optimiser=optimiser
  )
  before = steps.init_state(network, optimiser)
  step = jax.jit(lambda state: steps.train_step(spec, state, EXAMPLES, KEYS))
  after = step(step(before))
  for part in ("stages", "head"):
    assert max_difference(before.params[part], after.params[part]) == 0
  moved = jax.tree.map(
    lambda x, y: (x != y).any(), before.params["sites"], after.params["sites"]
  )
  assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_the_setting_freezes_the_network_and_the_optimiser():
  settings = Settings(
    width=0.03125, trained="localisation", batch_size=16, epochs=1
  )
  built, states = building.build_trainer(
    [settings], building.find(settings), EXAMPLES.images, jax.devices()[:1]
  )
  assert built.spec.network(
    jax.tree.map(lambda x: x[0], states)
  ).classifier_frozen
  after = built.train(states, EXAMPLES, 1)
  assert max_difference(states.params["stages"], after.params["stages"]) == 0
  assert max_difference(states.params["sites"], after.params["sites"]) > 0


def test_without_localisation_there_is_nothing_to_train():
  with pytest.raises(ValueError, match="network='CNN' has no localisation"):
    Settings(network="CNN", trained="localisation")
  with pytest.raises(ValueError, match="trained must be one of|trained="):
    Settings(trained="head")
