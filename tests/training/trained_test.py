"""Networks of runs: as they began, or as they were trained."""

import jax
import numpy as np
import pytest

from stnjax.files import RunError
from stnjax.training import building, steps, trained, trainer
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests.training import toy_trainers

SETTINGS = Settings(
  network="STN-SL1", width=0.0625, batch_size=16, epochs=2, seed=5
)
TRAIN = toy_trainers.examples(32)


def params(network):
  return steps.split(network).params


@pytest.mark.slow
def test_the_network_of_a_run(tmp_path):
  setup = building.find(SETTINGS)
  run = Run(str(tmp_path), SETTINGS)
  fresh, preparation = trained.network_of(
    run, setup, TRAIN.images, trained=False
  )
  built, states = building.build_trainer(
    [SETTINGS], setup, TRAIN.images, jax.devices()[:1]
  )
  state = trainer.select_seed(states, 0)
  assert toy_trainers.max_difference(params(fresh), state.params) == 0
  assert preparation.perturbation is setup.perturbation
  assert (preparation.mean, preparation.std) == ((0.1307,), (0.3081,))
  with pytest.raises(RunError, match="no checkpoint to read the network from"):
    trained.network_of(run, setup, TRAIN.images)

  later = jax.tree.map(lambda x: x + 1, state)
  run.start(setup.describe())
  run.save(later)
  found, _ = trained.network_of(run, setup, TRAIN.images)
  assert toy_trainers.max_difference(params(found), later.params) == 0
  images = toy_trainers.normalised(TRAIN.images[:2])
  np.testing.assert_allclose(
    jax.jit(found)(images).logits,
    jax.jit(built.spec.network(later))(images).logits,
  )
