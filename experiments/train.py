"""Trains one network; run it again to resume.

  python -m experiments.train --network=STN-SL1 --seed=0

trains on the embedded digits, each rotated afresh by up to +-90 degrees, and
writes runs/<name of the run>. It survives being killed: the same command goes
on from the last checkpoint and ends with the metrics of an uninterrupted run.
On SIGTERM or Ctrl-C it saves first.

On several processes, start the same command on each with --coordinator,
--num_processes and --process_id.
"""

from collections.abc import Callable, Sequence
import os
import signal
import time
from typing import Any

from absl import flags
import jax
from jax.experimental import multihost_utils
import numpy as np

from experiments import cli
from stnjax import datasets, evaluation, networks, runs, training

_SECONDS_PER_DISPATCH = 2.0  # how soon a signal is heard
_EXAMPLE_DRAWS = 4  # perturbations of the example images


class _Signals:
  """Notes SIGTERM and SIGINT, to act on where the state is saved."""

  def __init__(self, name: str):
    self.received = 0
    self._name = name

  def check(self, number: int, step: int) -> None:
    """Raises where a signal came, to any process."""
    if number:
      raise cli.Interrupted(
        f"{self._name} stopped by {signal.Signals(number).name} after step"
        f" {step}, and saved; run the same command to resume",
        number,
      )

  def __enter__(self):
    self._before = {
      number: signal.signal(number, self._note)
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    return self

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _note(self, number, frame):
    del frame
    self.received = number


def train(
  settings: runs.Settings,
  workdir: str,
  data_dir: str | None = None,
  *,
  checkpoint_seconds: float = 30.0,
  progress: Callable[[dict[str, Any]], None] = lambda line: None,
) -> dict[str, Any]:
  """Trains and evaluates one run, or what is left of it.

  Args:
    settings: of the run.
    workdir: folder of the runs.
    data_dir: TFDS directory for sets that are not embedded.
    checkpoint_seconds: time between checkpoints, besides the last.
    progress: called with each finished epoch's line of metrics.

  Returns:
    The results, as in results.json.

  Raises:
    RunError: for a folder or a checkpoint that cannot be used, or a loss that
      is no longer finite.
    cli.Interrupted: after a signal, with the state saved.
  """
  run = runs.Run(workdir, settings)
  if run.done:
    return run.results()
  train_data, eval_data = load_data(settings, data_dir)
  network = runs.build_network(settings)
  program, fresh = build_program(settings, network, len(train_data.labels))
  run.start()
  state = run.restore(fresh)
  counts = networks.count_parameters(network)
  resumed = f"; resumed after step {state.step}" if state.step else ""
  print(
    f"{settings.name}: {counts['total']:,} parameters,"
    f" {counts['localisation']:,} of them localisation{resumed}",
    flush=True,
  )
  # The first image of each class, for the pictures.
  examples = eval_data.images[np.unique(eval_data.labels, return_index=True)[1]]
  train_data, eval_data = jax.device_put((train_data, eval_data))
  with _Signals(settings.name) as signals:
    state = _fit(
      run,
      program,
      state,
      train_data,
      eval_data,
      signals,
      checkpoint_seconds,
      progress,
    )
    passes = []
    for index in range(settings.eval_passes):
      signals.check(_agree(signals.received)[0], state.step)
      passes.append(program.evaluate(state, eval_data, index))
  drawn = [program.examples(state, examples, d) for d in range(_EXAMPLE_DRAWS)]
  results = {
    "parameters": counts,
    **_summary(passes, eval_data.labels),
    "seconds": round(sum(line["seconds"] for line in run.metrics()), 1),
    "hardware": hardware(),
  }
  run.finish(_record(passes, eval_data.labels, drawn), results)
  return results


def load_data(
  settings: runs.Settings, data_dir: str | None
) -> tuple[datasets.Data, datasets.Data]:
  """The images to train on, and those to evaluate on."""
  train_data = datasets.load(settings.dataset, "train", data_dir)
  if not settings.holdout:
    return train_data, datasets.load(settings.dataset, "test", data_dir)
  cut = len(train_data.labels) * 9 // 10
  return (
    datasets.Data(train_data.images[:cut], train_data.labels[:cut]),
    datasets.Data(train_data.images[cut:], train_data.labels[cut:]),
  )


def build_program(
  settings: runs.Settings,
  network: networks.SpatialTransformerNetwork,
  num_images: int,
  devices: Sequence[jax.Device] | None = None,
) -> tuple[training.Program, training.TrainState]:
  """The compiled loops of a run, and its state before the first step."""
  per_epoch = training.steps_per_epoch(num_images, settings.batch_size)
  optimiser = training.make_optimiser(
    settings.optimiser,
    settings.learning_rate,
    per_epoch * settings.epochs,
    schedule=settings.schedule,
    localisation_lr=settings.localisation_lr,
  )
  graphdef, state = training.init_state(network, optimiser)
  description = datasets.SETS[settings.dataset]
  recipe = training.Recipe(
    graphdef,
    optimiser,
    settings.perturbation,
    description.mean,
    description.std,
    settings.batch_size,
    settings.seed,
  )
  return training.Program(recipe, devices), state


def _fit(
  run,
  program,
  state,
  train_data,
  eval_data,
  signals,
  checkpoint_seconds,
  progress,
):
  """Trains to the last epoch, logging each and saving now and then."""
  per_epoch = training.steps_per_epoch(
    len(train_data.labels), run.settings.batch_size
  )
  total = per_epoch * run.settings.epochs
  step, dispatch, seconds = int(state.step), 1, 0.0
  saved = time.monotonic()
  while step < total:
    started = time.monotonic()
    num_steps = min(dispatch, per_epoch - step % per_epoch)
    state = jax.block_until_ready(program.train(state, train_data, num_steps))
    took = time.monotonic() - started
    step, seconds = step + num_steps, seconds + took
    if not np.isfinite(state.totals.loss):
      raise runs.RunError(
        f"{run.settings.name}: the loss is not finite after step {step}; try"
        " a lower learning_rate or localisation_lr"
      )
    if step % per_epoch == 0:
      line = _line(program, state, eval_data, step // per_epoch, seconds)
      run.append(line)
      progress(line)
      seconds = 0.0
    due = time.monotonic() - saved > checkpoint_seconds
    dispatch, due, stop = _agree(
      max(1, int(_SECONDS_PER_DISPATCH / took * num_steps)),
      due or step == total,
      signals.received,
    )
    if due or stop:
      run.save(state)
      saved = time.monotonic()
    signals.check(stop, step)
  return state


def _agree(*values: int) -> tuple[int, ...]:
  """The largest of each value over all processes, which must act alike."""
  if jax.process_count() == 1:
    return values
  gathered = multihost_utils.process_allgather(np.array(values, np.int32))
  return tuple(int(value) for value in gathered.max(axis=0))


def _line(program, state, eval_data, epoch, seconds):
  """What metrics.jsonl says of an epoch."""
  count, loss, wrong = (float(total) for total in state.totals)
  once = program.evaluate(state, eval_data, 0)
  return {
    "epoch": epoch,
    "step": int(state.step),
    "train_loss": loss / count,
    "train_error": wrong / count,
    "eval_loss": float(once.loss.mean(dtype=np.float64)),
    **_summary([once], eval_data.labels),
    "seconds": round(seconds, 2),
  }


def _summary(
  passes: Sequence[training.Prediction], labels: np.ndarray
) -> dict[str, float]:
  """Error, and alignment where the truth is known, over all passes."""
  labels = np.asarray(labels)
  wrong = [evaluation.error_rate(p.label, labels) for p in passes]
  summary = {"error": float(np.mean(wrong))}
  if "rotation" in passes[0].truth:
    summary["alignment_std"] = evaluation.alignment_std(
      np.concatenate([p.truth["rotation"] for p in passes]),
      np.concatenate([evaluation.predicted_rotation(p.pose) for p in passes]),
      np.tile(labels, len(passes)),
    )
  return summary


def _record(passes, labels, drawn) -> dict[str, np.ndarray]:
  """What evaluation.npz keeps: passes first, then images."""
  before, after = (np.stack(images) for images in zip(*drawn, strict=True))
  return {
    "label": np.asarray(labels),
    "predicted": np.stack([p.label for p in passes]).astype(np.int16),
    "pose": np.stack([p.pose for p in passes]),
    **{
      f"true_{kind}": np.stack([p.truth[kind] for p in passes])
      for kind in passes[0].truth
    },
    "before": _to_uint8(before),
    "after": _to_uint8(after),
  }


def _to_uint8(images: np.ndarray) -> np.ndarray:
  return np.clip(np.round(images * 255), 0, 255).astype(np.uint8)


def hardware() -> str:
  """The devices in words."""
  device = jax.devices()[0]
  cores = f"{os.cpu_count()} cores" if device.platform == "cpu" else ""
  parts = [f"{jax.device_count()} x {device.device_kind}", cores]
  return ", ".join(p for p in [*parts, f"jax {jax.__version__}"] if p)


def describe(line: dict[str, Any], epochs: int | None = None) -> str:
  """An epoch's metrics, or a run's results, in words."""
  parts = []
  if epochs:
    parts.append(f"epoch {line['epoch']}/{epochs}")
    parts.append(f"train loss {line['train_loss']:.4f}")
  parts.append(f"error {100 * line['error']:.2f} %")
  if "alignment_std" in line:
    parts.append(f"alignment std {line['alignment_std']:.1f} deg")
  parts.append(f"{line['seconds']:.1f} s")
  return ", ".join(parts)


def main() -> None:
  if _COORDINATOR.value:
    jax.distributed.initialize(
      _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    )
  settings = cli.settings_from_flags()
  results = train(
    settings,
    **cli.training_options(),
    progress=lambda line: print(describe(line, settings.epochs), flush=True),
  )
  print(f"{settings.name}: {describe(results)}")


if __name__ == "__main__":
  _COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "host:port of process 0, to train on several."
  )
  _NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes train together."
  )
  _PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Which of them this one is, from 0."
  )
  cli.define_training()
  flags.adopt_module_key_flags(cli)
  cli.run(main)
