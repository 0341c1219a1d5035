"""Training and evaluation as pure steps: functions of pytrees and keys.

`stnjax.training.programs` compiles loops over them.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from stnjax import checks, promotion
from stnjax.data import Data, perturbations
from stnjax.data.perturbations import Truth
from stnjax.nn import convolution
from stnjax.placement import networks, placements

OPTIMISERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "step")


class Totals(NamedTuple):
  """Sums over training images; to be divided once, at the end."""

  count: jax.Array
  loss: jax.Array
  wrong: jax.Array


class TrainState(NamedTuple):
  """All that a run carries from step to step, and all that a resume needs."""

  step: jax.Array  # int32, steps taken
  params: nnx.State
  stats: nnx.State  # running averages of the batch norms
  optimiser: optax.OptState
  totals: Totals  # since the epoch began


class Prediction(NamedTuple):
  """What evaluation keeps of each image."""

  loss: jax.Array  # [N]
  label: jax.Array  # [N] or [N, heads], the class with the largest logit
  pose: jax.Array  # [N, 2, 3] or [N, 3, 3], see `networks.Output`
  truth: Truth  # [N, ...] each, see `stnjax.data.perturbations`


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
  """How to train one network: everything about a run but its seed and arrays.

  Attributes:
    graphdef: static part of the network, from `nnx.split`.
    optimiser: its learning rate scheduled over all steps.
    perturbation: name of the perturbation.
    mean: of the pixels of each channel, subtracted after the perturbation.
    std: of the pixels of each channel, divided by.
    batch_size: of the global batch.
    shrink: whole factor by which the perturbed images are made smaller.
    later: steps from which on the network has another static part, in order:
      one with more iterations, see `grown`.
  """

  graphdef: nnx.GraphDef
  optimiser: optax.GradientTransformation
  perturbation: str
  mean: tuple[float, ...]
  std: tuple[float, ...]
  batch_size: int
  shrink: int = 1
  later: tuple[tuple[int, nnx.GraphDef], ...] = ()

  def prepare(
    self,
    keys: jax.Array,
    images: jax.Array,
    sources: jax.Array | None,
    train: bool = False,
  ) -> tuple[jax.Array, Truth]:
    """Perturbs uint8 images `[B, ...]` with keys `[B]` and normalises them.

    Sources are for clutter, see `data.perturbations.perturb`. An augmentation
    perturbs only to train.
    """
    name = self.perturbation
    if perturbations.PERTURBATIONS[name].augments and not train:
      name = "none"
    perturbed, truth = perturbations.perturb(
      keys, images.astype(jnp.float32) / 255, name, sources
    )
    if self.shrink > 1:
      perturbed = convolution.mean_pool(perturbed, self.shrink)
    return (perturbed - np.float32(self.mean)) / np.float32(self.std), truth


def random_key(seed: int | jax.Array, purpose: str) -> jax.Array:
  """A key of its own for each purpose of a run with this seed."""
  purposes = ("initialise", "order", "train", "evaluate", "examples")
  return jax.random.fold_in(jax.random.key(seed), purposes.index(purpose))


@promotion.usual
def normalisation(
  dataset: str, perturbation: str, images: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
  """Mean and standard deviation of each channel, to normalise by.

  Args:
    dataset: name of the set.
    perturbation: name of the perturbation.
    images: `[N, H, W, C]`, uint8, the training images.

  Returns:
    For MNIST those of the paper, for the perturbation; else those of the
    images as they are.
  """
  if dataset.startswith("mnist"):
    mean, std = perturbations.PERTURBATIONS[perturbation].mnist
    return (mean,), (std,)
  # Exact, in integers, and in parts: NumPy counts in copies 8 times as large.
  channels = images.shape[-1]
  count = np.zeros((channels, 256))
  for part in np.array_split(images, max(1, len(images) // 1000)):
    for channel, pixels in enumerate(part.reshape(-1, channels).T):
      count[channel] += np.bincount(pixels, minlength=256)
  count /= images.size / channels
  values = np.arange(256) / 255
  mean = count @ values
  std = np.sqrt(count @ values**2 - mean**2)
  return tuple(mean.tolist()), tuple(std.tolist())


def make_optimiser(
  name: str,
  learning_rate: float,
  total_steps: int,
  placement: placements.Placement,
  *,
  schedule: str = "constant",
  localisation_lr: float = 1.0,
  before_lr: float = 1.0,
  halvings: Sequence[int] = (),
) -> optax.GradientTransformation:
  """Makes the optimiser, with learning rates of their own for parts.

  Args:
    name: "adam", or "sgd" with momentum 0.9.
    learning_rate: at the start.
    total_steps: that the schedule spans.
    placement: of the network, which tells its parts, see `placements.part`.
    schedule: "constant"; "cosine" to zero; "step", a tenth after half of the
      steps and a hundredth after three quarters.
    localisation_lr: multiplier on the learning rate of what only localisation
      uses: its nets and, for STN-DL, their copied blocks.
    before_lr: multiplier on that of the blocks before the transformer.
    halvings: steps at which localisation's learning rate is halved.

  Raises:
    ValueError: for an unknown optimiser or schedule.
  """
  checks.option("optimiser", name, OPTIMISERS)
  checks.option("schedule", schedule, SCHEDULES)
  if schedule == "constant":
    rate = optax.constant_schedule(learning_rate)
  elif schedule == "cosine":
    rate = optax.cosine_decay_schedule(learning_rate, total_steps)
  else:
    drops = {total_steps // 2: 0.1, total_steps * 3 // 4: 0.1}
    rate = optax.piecewise_constant_schedule(learning_rate, drops)

  def group(multiplier, halvings=()):
    factor = optax.piecewise_constant_schedule(
      multiplier, dict.fromkeys(halvings, 0.5)
    )

    def scaled(step):
      return factor(step) * rate(step)

    return optax.adam(scaled) if name == "adam" else optax.sgd(scaled, 0.9)

  def labels(params: nnx.State) -> Any:
    def label(path, _):
      return placements.part([getattr(p, "key", p) for p in path], placement)

    return jax.tree_util.tree_map_with_path(label, params)

  groups = {
    "localisation": group(localisation_lr, halvings),
    "before": group(before_lr),
    "rest": group(1.0),
  }
  return optax.partition(groups, labels)


def grown(network: networks.SpatialTransformerNetwork, more: int, **changes):
  """The static part of a network with more iterations.

  Iterations share their parameters, so that the state stays what it is.

  Args:
    network: with its first iterations.
    more: how many to add.
    **changes: attributes of the network to change.
  """
  larger = nnx.clone(network)
  larger.placement = network.placement.iterated(more)
  for name, value in changes.items():
    setattr(larger, name, value)
  return nnx.graphdef(larger)


@promotion.usual
def init_state(
  network: nnx.Module, optimiser: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
  """Splits a fresh network into its static part and the state to train."""
  graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
  return graphdef, TrainState(
    jnp.zeros((), jnp.int32),
    params,
    stats,
    jax.jit(optimiser.init)(params),
    _zeros(),
  )


@promotion.usual
def train_step(
  recipe: Recipe,
  state: TrainState,
  batch: Data,
  keys: jax.Array,
  sources: jax.Array | None = None,
  axis_name: str | None = None,
) -> TrainState:
  """One step of the optimiser: a pure function.

  Args:
    recipe: the run's fixed part.
    state: before the step.
    batch: this device's part of the global batch.
    keys: `[B]`, one per image, for its perturbation and dropout.
    sources: training images that clutter is cut from.
    axis_name: over which gradients and statistics are averaged; None on one
      device.

  Returns:
    The state after the step.
  """
  perturb_keys, dropout_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
  images, _ = recipe.prepare(perturb_keys, batch.images, sources, train=True)

  def loss_fn(params):
    model = nnx.merge(recipe.graphdef, params, state.stats, copy=True)
    model.set_attributes(
      nnx.BatchNorm, axis_name=axis_name, raise_if_not_found=False
    )
    logits = model(images, train=True, keys=dropout_keys).logits
    losses = _losses(logits, batch.labels)
    return losses.mean(), (losses, logits, nnx.state(model, nnx.BatchStat))

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
  updates, optimiser = recipe.optimiser.update(
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
  recipe: Recipe,
  state: TrainState,
  batch: Data,
  keys: jax.Array,
  sources: jax.Array | None = None,
) -> Prediction:
  """Classifies a batch, each image perturbed with its key: a pure function."""
  images, truth = recipe.prepare(keys, batch.images, sources)
  model = nnx.merge(recipe.graphdef, state.params, state.stats, copy=True)
  output = model(images)
  losses = _losses(output.logits, batch.labels)
  return Prediction(losses, output.logits.argmax(-1), output.pose, truth)


def _losses(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy of each image, summed over its heads."""
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  return losses.reshape(len(losses), -1).sum(axis=-1)


def _zeros() -> Totals:
  return Totals(*jnp.zeros((3,), jnp.float32))
