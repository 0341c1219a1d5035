"""Networks of runs, to be looked into."""

import dataclasses

import jax
import numpy as np

from stnjax import placement
from stnjax.files import RunError
from stnjax.training import building, trainer, warm_start
from stnjax.training.preparation import Preparation
from stnjax.training.run_folder import Run


def network_of(
  run: Run, setup: building.Setup, images: np.ndarray, *, trained: bool = True
) -> tuple[placement.Network, Preparation]:
  """The network of a run.

  Args:
    run: Run, with a checkpoint where its trained network is asked for.
    setup: Objects that its settings name.
    images: `[N, H, W, C]`, uint8, the training images.
    trained: Whether to read the last checkpoint; else the network is as it was
      before the first step.

  Returns:
    The network, and the preparation of its input.

  Raises:
    RunError: where there is no checkpoint, or none that can be read; where
      the run to start from is missing or does not fit.
  """
  built, states = building.build_trainer(
    [run.settings], setup, images, jax.local_devices()[:1]
  )
  state = trainer.select_seed(states, 0)
  if trained:
    if not run.saved_step():
      raise RunError(f"{run.path} has no checkpoint to read the network from")
    state = run.last_state(state)
  else:
    state = warm_start.start(state, run.settings, setup).state
  spec = built.spec
  if trained and spec.phases:  # whose last one ran more iterations
    spec = dataclasses.replace(spec, graphdef=spec.phases[-1][1])
  return spec.network(state), spec.preparation
