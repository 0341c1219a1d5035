"""Optimisers with a learning rate for each part of a network."""

from collections.abc import Sequence
from typing import Any

from flax import nnx
import jax
import optax

from stnjax import checks, placement

OPTIMISERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "step")
TRAINED = ("all", "localisation")
"""Parameters that training changes: all, or those of localisation alone."""


def schedule(
  name: str,
  learning_rate: float,
  num_steps: int,
  drop_steps: Sequence[int] = (),
) -> optax.Schedule:
  """The learning rate over a run.

  Args:
    name: "constant"; "cosine" to zero; "step", divided by 10 at some steps.
    learning_rate: Initial learning rate.
    num_steps: Steps of the run.
    drop_steps: Steps at which "step" divides the learning rate; half and three
      quarters of the run if empty.

  Raises:
    ValueError: for an unknown schedule.
  """
  checks.option("schedule", name, SCHEDULES)
  if name == "constant":
    return optax.constant_schedule(learning_rate)
  if name == "cosine":
    return optax.cosine_decay_schedule(learning_rate, num_steps)
  drops = drop_steps or (num_steps // 2, num_steps * 3 // 4)
  return optax.piecewise_constant_schedule(
    learning_rate, dict.fromkeys(drops, 0.1)
  )


def make_optimiser(
  name: str,
  learning_rate: float,
  num_steps: int,
  parsed: placement.Placement,
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  weight_decay: float = 0.0,
  schedule_name: str = "constant",
  drop_steps: Sequence[int] = (),
  localisation_lr: float = 1.0,
  pre_transformer_lr: float = 1.0,
  halvings: Sequence[int] = (),
  trained: str = "all",
) -> optax.GradientTransformation:
  """Makes the optimiser of a network.

  Args:
    name: "adam" or "sgd".
    learning_rate: Initial learning rate.
    num_steps: Steps of the run.
    parsed: Placement of the network, which names its parts.
    momentum: Momentum of "sgd"; not used by "adam".
    nesterov: Whether the momentum of "sgd" is Nesterov's.
    weight_decay: Factor of each parameter that is added to its gradient, as
      `torch.optim.SGD` and `torch.optim.Adam` do.
    schedule_name: See `schedule`.
    drop_steps: See `schedule`.
    localisation_lr: Multiplier on the learning rate of parameters used by
      localisation alone: its nets and, for STN-DL, its copied stages.
    pre_transformer_lr: Multiplier on the learning rate of the stages before
      the transformer.
    halvings: Steps at which localisation's learning rate is halved.
    trained: Parameters that are updated, one of `TRAINED`.

  Raises:
    ValueError: for an unknown optimiser, schedule or `trained`.
  """
  checks.option("optimiser", name, OPTIMISERS)
  checks.option("trained", trained, TRAINED)
  rate = schedule(schedule_name, learning_rate, num_steps, drop_steps)

  def group(
    multiplier: float, halvings: Sequence[int] = ()
  ) -> optax.GradientTransformation:
    factor = optax.piecewise_constant_schedule(
      multiplier, dict.fromkeys(halvings, 0.5)
    )

    def scaled(step: jax.Array) -> jax.Array:
      scaled_rate: jax.Array = factor(step) * rate(step)
      return scaled_rate

    if name == "adam":
      optimiser = optax.adam(scaled)
    else:
      optimiser = optax.sgd(scaled, momentum or None, nesterov)
    if not weight_decay:
      return optimiser
    return optax.chain(optax.add_decayed_weights(weight_decay), optimiser)

  def labels(params: nnx.State[Any, Any]) -> Any:
    def label(path: Sequence[Any], _: jax.Array) -> str:
      return placement.part([getattr(p, "key", p) for p in path], parsed)

    return jax.tree_util.tree_map_with_path(label, params)

  groups = {
    "localisation": group(localisation_lr, halvings),
    "before": group(pre_transformer_lr),
    "rest": group(1.0),
  }
  if trained == "localisation":
    groups.update(dict.fromkeys(("before", "rest"), optax.set_to_zero()))
  return optax.partition(groups, labels)
