"""Finished runs of made-up results, without folders."""

from experiments.reporting import finished, groups, verdicts
from stnjax.paper import claims
from stnjax.training import description
from stnjax.training.settings import Settings

DEGREES = {"rotation": description.AxisDescription("rotation", "deg", 360.0)}


def run(
  network,
  seed,
  error,
  share=None,
  undone=None,
  operations=None,
  by_image=None,
  **settings,
):
  """A finished run.

  Args:
    network: Name of the network.
    seed: Seed of the run.
    error: Error in percent.
    share: Residual share of a rotation; None if it is not measured.
    undone: Profiles of an audit.
    operations: Floating-point operations per image; None if not counted.
    by_image: Residual by image in degrees; None if it is not known.
    **settings: Other settings that differ from the defaults.
  """
  results = {
    "error": error / 100,
    "hardware": "",
    "parameters": {"total": 1, "localisation": 0},
    "seconds": 2.0,
    "seconds_per_epoch": 1.0,
    "peak_memory_mb": 9,
  }
  if operations is not None:
    results["operations"] = operations
  if share is not None:
    unknown = {"slope": None, "by_class": [None]}
    measured = {"std": 52 * share, "none": 52.0, **unknown}
    results["alignment"] = {"rotation": {**measured, "by_image": by_image}}
  if undone is not None:
    results["undone"] = undone
  task = description.TaskDescription((28, 28, 1), 10, axes=DEGREES)
  return finished.Finished(
    Settings(network=network, seed=seed, **settings), task, results
  )


def grouped(*runs):
  """Runs as groups of results."""
  return verdicts.results_of(groups.group(runs))


def judge(*runs):
  """Verdicts by the name of the claim."""
  return {item.claim.name: item for item in claims.judge(grouped(*runs))}


def seeds(network, errors, shares=None, **settings):
  """Runs of one network with errors, and residual shares, one per seed."""
  shares = shares or [None] * len(errors)
  return [
    run(network, seed, error, share, **settings)
    for seed, (error, share) in enumerate(zip(errors, shares, strict=True))
  ]
