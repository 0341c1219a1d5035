"""Training and evaluation as pure steps: functions of pytrees and keys.

`stnjax.training.trainer` compiles loops over them.
"""

import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import optax

from stnjax import placement, promotion
from stnjax.data import Examples, Truth
from stnjax.training.preparation import Preparation


class Totals(NamedTuple):
  """Sums over training images; to be divided once, at the end."""

  count: jax.Array  # type: ignore[assignment]  # a name that checkpoints have
  loss: jax.Array
  wrong: jax.Array


class TrainState(NamedTuple):
  """All that a run carries from step to step, and all that a resume needs."""

  step: jax.Array  # int32, steps taken
  params: nnx.State[Any, Any]
  stats: nnx.State[Any, Any]  # running averages of batch norms, and the like
  optimiser: optax.OptState
  totals: Totals  # since the epoch began


class Prediction(NamedTuple):
  """Results of evaluation, by image."""

  loss: jax.Array  # [N]
  label: jax.Array  # [N] or [N, heads], the class with the largest logit
  pose: jax.Array  # [N, 2, 3] or [N, 3, 3], see `placement.Output`
  truth: Truth  # [N, ...] each, see `stnjax.data.Perturbation`
  first_pose: jax.Array | None = None  # of the first run; None if it is `pose`


@dataclasses.dataclass(frozen=True, eq=False)
class TrainSpec:
  """Training of one network: a run without its seed and arrays.

  Attributes:
    graphdef: Static part of the network, see `split`.
    streams: Random streams of its layers before the first step, see `split`.
    optimiser: Optimiser, its learning rate scheduled over all steps.
    preparation: From stored images to the network's input.
    batch_size: Images of the global batch.
    phases: First step and static part of each further phase, in order, in
      which the network has more iterations, see `with_iterations`.
  """

  graphdef: nnx.GraphDef[placement.Network]
  streams: nnx.State[Any, Any]
  optimiser: optax.GradientTransformation
  preparation: Preparation
  batch_size: int
  phases: tuple[tuple[int, nnx.GraphDef[placement.Network]], ...] = ()

  def network(self, state: "TrainState") -> placement.Network:
    """The network with the parameters and statistics of a state."""
    return nnx.merge(
      self.graphdef, state.params, self.streams, state.stats, copy=True
    )


class Parts(NamedTuple):
  """A network, taken apart."""

  graphdef: nnx.GraphDef[placement.Network]
  params: nnx.State[Any, Any]
  streams: nnx.State[Any, Any]
  stats: nnx.State[Any, Any]


def split(network: placement.Network) -> Parts:
  """Takes a network apart: parameters, random streams, all other state.

  Random streams, such as those of `nnx.Dropout`, are not part of a run's state:
  they are reseeded at each step from the run's keys.
  """
  graphdef, params, *others = nnx.split(network, nnx.Param, nnx.RngState, ...)
  streams, stats = others
  return Parts(graphdef, params, streams, stats)


@promotion.usual
def init_state(
  network: placement.Network, optimiser: optax.GradientTransformation
) -> TrainState:
  """The state of a fresh network before the first step."""
  parts = split(network)
  return TrainState(
    jnp.zeros((), jnp.int32),
    parts.params,
    parts.stats,
    jax.jit(optimiser.init)(parts.params),
    _zeros(),
  )


@promotion.usual
def train_step(
  spec: TrainSpec,
  state: TrainState,
  batch: Examples,
  keys: jax.Array,
  clutter_images: jax.Array | None = None,
  axis_name: str | None = None,
) -> TrainState:
  """One step of the optimiser: a pure function.

  Args:
    spec: Fixed part of the run.
    state: State before the step.
    batch: Part of the global batch that this device takes, `[B, ...]`.
    keys: `[B]` keys, one per image, for its perturbation and dropout.
    clutter_images: `[N, h, w, C]`, uint8, from which clutter is cut.
    axis_name: Mapped axis over which gradients and statistics are averaged;
      None on one device.

  Returns:
    The state after the step.
  """
  perturb_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  images, _ = spec.preparation(
    perturb_keys, jnp.asarray(batch.images), clutter_images, train=True
  )

  def loss_fn(
    params: nnx.State[Any, Any],
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, nnx.State[Any, Any]]]:
    model = spec.network(state._replace(params=params))
    model.set_attributes(
      nnx.BatchNorm, axis_name=axis_name, raise_if_not_found=False
    )
    logits = model(images, train=True, keys=dropout_keys).logits
    losses = cross_entropy(logits, jnp.asarray(batch.labels))
    return losses.mean(), (losses, logits, split(model).stats)

  grads, (losses, logits, stats) = jax.grad(loss_fn, has_aux=True)(state.params)
  wrong = (logits.argmax(-1) != batch.labels).reshape(len(losses), -1).any(-1)
  sums = Totals(
    count=jnp.float32(losses.size),
    loss=losses.sum(),
    wrong=wrong.sum().astype(jnp.float32),
  )
  if axis_name is not None:
    grads = lax.pmean(grads, axis_name)
    sums = lax.psum(sums, axis_name)
    stats = _averaged(stats, axis_name)
  updates, optimiser = spec.optimiser.update(
    grads, state.optimiser, state.params
  )
  return TrainState(
    state.step + 1,
    optax.apply_updates(state.params, updates),
    stats,
    optimiser,
    jax.tree.map(jnp.add, state.totals, sums),
  )


@promotion.usual
def eval_step(
  spec: TrainSpec,
  state: TrainState,
  batch: Examples,
  keys: jax.Array,
  clutter_images: jax.Array | None = None,
) -> Prediction:
  """Classifies a batch, each image perturbed with its key: a pure function.

  Args:
    spec: Fixed part of the run.
    state: State with the parameters.
    batch: Images to classify, `[B, ...]`.
    keys: `[B]` keys, one per image.
    clutter_images: `[N, h, w, C]`, uint8, from which clutter is cut.
  """
  images, truth = spec.preparation(
    keys, jnp.asarray(batch.images), clutter_images
  )
  output = spec.network(state)(images)
  losses = cross_entropy(output.logits, jnp.asarray(batch.labels))
  label = output.logits.argmax(-1)
  return Prediction(losses, label, output.pose, truth, output.first_pose)


def _averaged(
  stats: nnx.State[Any, Any], axis_name: str
) -> nnx.State[Any, Any]:
  """State averaged over devices, so that all keep the same; counts stay.

  Batch norms have averaged theirs; other layers know of no devices.
  """
  averaged: nnx.State[Any, Any] = jax.tree.map(
    lambda x: (
      lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x
    ),
    stats,
  )
  return averaged


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each image, summed over its heads.

  Args:
    logits: `[B, classes]` or `[B, heads, classes]`.
    labels: `[B]` or `[B, heads]`, the true classes.

  Returns:
    `[B]`, in nats.
  """
  losses: jax.Array = optax.softmax_cross_entropy_with_integer_labels(
    logits, labels
  )
  return losses.reshape(len(losses), -1).sum(axis=-1)


def _zeros() -> Totals:
  return Totals(*jnp.zeros((3,), jnp.float32))
