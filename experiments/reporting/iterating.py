"""Finished networks with more or fewer runs of the transformer than trained."""

from collections.abc import Sequence
from typing import Any

import jax
import optax

from experiments.lib import loading, measuring
from experiments.lib.tables import Table
from experiments.reporting import names
from experiments.reporting.analysing import Analysed, NotApplicable
from experiments.reporting.groups import Group
from experiments.reporting.metrics import spread
from stnjax import data, placement
from stnjax.training import steps, trained, trainer
from stnjax.training.preparation import Preparation
from stnjax.training.run_folder import Run

NAME = "iterations"
TITLE = "Iterations at test time"
EXPLANATION = (
  "Error and residual by the number of runs of the transformer at test time."
  " Mean ± standard deviation over the seeds, and their range."
)


def measure(
  run: Run, load: loading.Load, more: Sequence[int]
) -> dict[str, Any]:
  """Error and residual by number of runs of the transformer.

  Evaluates as at the end of training: with no more runs than in training, the
  numbers are those of results.json.

  Args:
    run: Finished run.
    load: Loads the images, see `loading.once`.
    more: Numbers of runs to add, negative ones to leave out; those that leave
      no run are skipped.

  Returns:
    "trained", the number of runs in training, and "by_runs": by number of runs,
    the error and the residual along each axis.

  Raises:
    NotApplicable: For a network whose transformer cannot run more often.
    RunError: If the checkpoint cannot be read.
  """
  settings = run.settings
  parsed = placement.parse(settings.network)
  if not parsed.repeats:
    raise NotApplicable(f"{settings.network} has no transformer to repeat")
  setup, train, evaluation = load(settings)
  network, preparation = trained.network_of(run, setup, train.images)
  count = len(network.placement.depths)
  by_runs = {}
  for added in sorted(set(more)):
    if not 1 <= count + added <= placement.MOST_ITERATIONS:
      continue
    try:
      iterated = network.with_iterations(added) if added else network
    except ValueError as error:
      raise NotApplicable(str(error)) from error
    passes = _evaluate(run, iterated, preparation, train, evaluation)
    shape = data.output_shape(setup.perturbation, setup.dataset.image_shape)
    measured = measuring.positions(setup.perturbation, passes, shape)
    by_runs[str(count + added)] = measuring.summary(
      setup.perturbation, passes, measured, evaluation.labels, brief=True
    )
  if not by_runs:
    raise NotApplicable(
      f"{settings.network} runs its transformer {count} times, and"
      f" --more={','.join(map(str, more))} leaves 1 to"
      f" {placement.MOST_ITERATIONS} runs for none"
    )
  return {"trained": count, "by_runs": by_runs}


def _evaluate(
  run: Run,
  network: placement.Network,
  preparation: Preparation,
  train: data.Examples,
  evaluation: data.Examples,
) -> list[steps.Prediction]:
  """Predictions of a network for each pass of a run's evaluation."""
  parts, unused = steps.split(network), optax.identity()
  spec = steps.TrainSpec(
    parts.graphdef,
    parts.streams,
    unused,
    preparation,
    run.settings.batch_size,
  )
  built = trainer.Trainer(
    spec,
    [run.settings.seed],
    train.images if preparation.perturbation.needs_clutter else None,
    jax.local_devices()[:1],
  )
  states = trainer.stacked(steps.init_state(network, unused))
  evaluation = jax.device_put(evaluation)
  return [
    built.evaluate(states, evaluation, index)[0]
    for index in range(run.settings.eval_passes)
  ]


def table(analysed: Analysed, group: Group) -> Table:
  """Error and residual of each network by its number of runs.

  Args:
    analysed: The analysed runs.
    group: Runs that differ in network and seed alone.
  """
  axes = {
    name: axis for name, axis in group.axes.items() if group.measured(name)
  }
  rows = []
  for network, runs in group.members.items():
    found = analysed.of(runs)
    for count in sorted({int(n) for one in found for n in one["by_runs"]}):
      lines = [one["by_runs"].get(str(count)) for one in found]
      lines = [line for line in lines if line]
      note = " (trained)" if count == found[0]["trained"] else ""
      rows.append([
        network,
        f"{count}{note}",
        spread([100 * line["error"] for line in lines], 2),
        *(
          spread([line["alignment"][name] for line in lines], 2)
          for name in axes
        ),
      ])  # fmt: skip
  residuals = [names.residual(axis, "class") for axis in axes.values()]
  return Table(["network", "runs", "error (%)", *residuals], rows, 2)
