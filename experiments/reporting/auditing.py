"""Audits of trained networks: which layers a spatial warp could align."""

import dataclasses
import functools

import jax
import numpy as np

from experiments.lib import loading
from experiments.reporting import finished
from stnjax import alignability, data, files
from stnjax.files import Damaged, RunError
from stnjax.training import config, trained
from stnjax.training.preparation import Preparation
from stnjax.training.run_folder import Run

STATES = ("trained", "untrained")

PERMUTED = ", permuted"
"""Ends the name of a state whose channels are permuted with each warp."""


def finished_runs(workdir: str, only: str) -> list[Run]:
  """The finished runs of a workdir whose names match.

  Damaged ones are left out, and named on the terminal.

  Args:
    workdir: Folder of the runs.
    only: Regular expression that a run's name must match somewhere.

  Raises:
    ValueError: for an invalid expression, or a workdir that is neither local
      nor `gs://`.
    RunError: where no run is left.
  """
  root = files.place("workdir", workdir)
  pattern = finished.pattern_of(only)
  runs, damaged = [], []
  for folder in files.subfolders(root):
    if not (folder / "DONE").exists() or not pattern.search(folder.name):
      continue
    try:
      runs.append(Run(workdir, config.read(folder).settings))
    except Damaged as error:
      damaged.append(finished.LeftOut(f"{folder.name} (damaged)", str(error)))
  finished.announce(damaged)
  if not runs:
    raise RunError(f"{root} holds no finished run that matches {only!r}")
  return runs


def audit(
  run: Run,
  load: loading.Load | None = None,
  *,
  count: int = 24,
  steps: int = 40,
  method: str = "linear",
) -> dict[str, alignability.Audit]:
  """Audits the stages of a run's network, on images that are not perturbed.

  Args:
    run: Finished run.
    load: Loads the images; see `loading.once`.
    count: Number of images.
    steps: See `alignability.audit`.
    method: See `alignability.audit`.

  Returns:
    An audit for each of `STATES`. For a network of group convolutions, also one
    for each with the orientations of its filters shifted with each warp, of the
    name of the state and `PERMUTED`.
  """
  load = load or loading.once()
  setup, train, evaluation = load(run.settings)
  audits = {}
  for state in STATES:
    network, preparation = trained.network_of(
      run, setup, train.images, trained=state == "trained"
    )
    images = prepare(preparation, evaluation.images[:count])
    measured = functools.partial(
      alignability.audit,
      network.features,
      images,
      geometry=network.geometry(),
      method=method,
      steps=steps,
    )
    audits[state] = measured()
    if network.orientations > 1:
      channels = alignability.turned_channels(network.orientations)
      audits[state + PERMUTED] = measured(channels=channels)
  return audits


def prepare(preparation: Preparation, images: np.ndarray) -> jax.Array:
  """Images as a network sees them, but for the perturbation."""
  keys = jax.random.split(jax.random.key(0), len(images))
  plain = dataclasses.replace(
    preparation, perturbation=data.PERTURBATIONS["none"]
  )
  return plain(keys, images)[0]
