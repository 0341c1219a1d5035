"""Training and evaluation as pure steps, and the one place that knows devices.

`train_step` and `eval_step` are pure functions of pytrees. `Program` compiles
loops over them: `jit` on one device, `pmap` on several. Every random draw
hangs on the seed, the step and the image's place in the *global* batch, so
that the number of devices changes nothing but rounding.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from stnjax import checks, networks
from stnjax.datasets import Data
from stnjax.perturbations import Truth, perturb

OPTIMISERS = ("adam", "sgd")
SCHEDULES = ("constant", "cosine", "step")

_AXIS = "devices"


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
  label: jax.Array  # [N], the class with the largest logit
  pose: jax.Array  # [N, 2, 3] or [N, 3, 3], see `networks.Output`
  truth: Truth  # [N] each, see `stnjax.perturbations`


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
  """How to train one network: everything about a run that is no array.

  Attributes:
    graphdef: static part of the network, from `nnx.split`.
    optimiser: its learning rate scheduled over all steps.
    perturbation: name of the perturbation.
    mean: of the pixels, subtracted after the perturbation.
    std: of the pixels, divided by.
    batch_size: of the global batch.
    seed: of every random draw.
  """

  graphdef: nnx.GraphDef
  optimiser: optax.GradientTransformation
  perturbation: str
  mean: float
  std: float
  batch_size: int
  seed: int

  def key(self, purpose: str) -> jax.Array:
    """A key of its own for each purpose."""
    purposes = ("order", "train", "evaluate", "examples")
    return jax.random.fold_in(
      jax.random.key(self.seed), 1 + purposes.index(purpose)
    )

  def prepare(
    self, keys: jax.Array, images: jax.Array
  ) -> tuple[jax.Array, Truth]:
    """Perturbs uint8 images `[B, ...]` with keys `[B]` and normalises them."""
    perturbed, truth = perturb(
      keys, images.astype(jnp.float32) / 255, self.perturbation
    )
    return (perturbed - self.mean) / self.std, truth


def make_optimiser(
  name: str,
  learning_rate: float,
  total_steps: int,
  *,
  schedule: str = "constant",
  localisation_lr: float = 1.0,
) -> optax.GradientTransformation:
  """Makes the optimiser, with its own learning rate for localisation.

  Args:
    name: "adam", or "sgd" with momentum 0.9.
    learning_rate: at the start.
    total_steps: that the schedule spans.
    schedule: "constant"; "cosine" to zero; "step", a tenth after half of the
      steps and a hundredth after three quarters.
    localisation_lr: multiplier on the learning rate of what only localisation
      uses: its nets and, for STN-DL, their copied blocks.

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

  def group(multiplier: float) -> optax.GradientTransformation:
    def scaled(step):
      return multiplier * rate(step)

    return optax.adam(scaled) if name == "adam" else optax.sgd(scaled, 0.9)

  def labels(params: nnx.State) -> Any:
    def label(path, _):
      keys = [str(getattr(p, "key", p)) for p in path]
      return "localisation" if networks.is_localisation(keys) else "classifier"

    return jax.tree_util.tree_map_with_path(label, params)

  groups = {"classifier": group(1.0), "localisation": group(localisation_lr)}
  return optax.partition(groups, labels)


def init_state(
  network: nnx.Module, optimiser: optax.GradientTransformation
) -> tuple[nnx.GraphDef, TrainState]:
  """Splits a fresh network into its static part and the state to train."""
  graphdef, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)
  return graphdef, TrainState(
    jnp.zeros((), jnp.int32), params, stats, optimiser.init(params), _zeros()
  )


def train_step(
  recipe: Recipe,
  state: TrainState,
  batch: Data,
  keys: jax.Array,
  axis_name: str | None = None,
) -> TrainState:
  """One step of the optimiser: a pure function.

  Args:
    recipe: the run's fixed part.
    state: before the step.
    batch: this device's part of the global batch.
    keys: `[B]`, one per image, for its perturbation.
    axis_name: over which gradients and statistics are averaged; None on one
      device.

  Returns:
    The state after the step.
  """
  images, _ = recipe.prepare(keys, batch.images)

  def loss_fn(params):
    model = nnx.merge(recipe.graphdef, params, state.stats, copy=True)
    model.set_attributes(
      nnx.BatchNorm, axis_name=axis_name, raise_if_not_found=False
    )
    logits = model(images, train=True).logits
    losses = optax.softmax_cross_entropy_with_integer_labels(
      logits, batch.labels
    )
    return losses.mean(), (losses, logits, nnx.state(model, nnx.BatchStat))

  grads, (losses, logits, stats) = jax.grad(loss_fn, has_aux=True)(state.params)
  sums = Totals(
    count=jnp.float32(losses.size),
    loss=losses.sum(),
    wrong=(logits.argmax(-1) != batch.labels).sum().astype(jnp.float32),
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


def eval_step(
  recipe: Recipe, state: TrainState, batch: Data, keys: jax.Array
) -> Prediction:
  """Classifies a batch, each image perturbed with its key: a pure function."""
  images, truth = recipe.prepare(keys, batch.images)
  model = nnx.merge(recipe.graphdef, state.params, state.stats, copy=True)
  output = model(images)
  losses = optax.softmax_cross_entropy_with_integer_labels(
    output.logits, batch.labels
  )
  return Prediction(losses, output.logits.argmax(-1), output.pose, truth)


class Program:
  """The compiled loops of one run, over one or several devices.

  With several devices each takes an equal part of every batch; the state is
  held once, without an axis for replicas.
  """

  def __init__(
    self,
    recipe: Recipe,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Prepares the loops; they compile when first called.

    Args:
      recipe: the run's fixed part.
      devices: to use; those of all processes by default.

    Raises:
      ValueError: where the batch does not divide by the number of devices.
    """
    self.recipe = recipe
    devices = list(jax.devices() if devices is None else devices)
    self._count = len(devices)
    if recipe.batch_size % self._count:
      raise ValueError(
        f"batch_size={recipe.batch_size} does not divide by the"
        f" {self._count} devices; take a multiple of {self._count}"
      )
    local = [
      place
      for place, device in enumerate(devices)
      if device.process_index == jax.process_index()
    ]
    self._shards = np.array(local, np.int32)
    self._train = self._compile(self._train_loop, devices)
    self._evaluate = self._compile(self._eval_loop, devices)
    self._examples = jax.jit(self._warp_examples)

  def train(self, state: TrainState, data: Data, num_steps: int) -> TrainState:
    """Takes `num_steps` steps, within one epoch, in one dispatch.

    Args:
      state: to start from. Its totals start anew with the epoch.
      data: the training set; put it on the device once.
      num_steps: at most the steps left in the epoch.

    Raises:
      ValueError: for steps beyond the epoch's end.
    """
    per_epoch = steps_per_epoch(len(data.labels), self.recipe.batch_size)
    done = int(state.step) % per_epoch
    if not 0 <= num_steps <= per_epoch - done:
      raise ValueError(
        f"num_steps={num_steps} leaves the epoch; accepted: 0 to"
        f" {per_epoch - done}"
      )
    if done == 0:
      state = state._replace(totals=_zeros())
    return self._train(state, data, np.int32(num_steps))

  def evaluate(
    self, state: TrainState, data: Data, pass_index: int
  ) -> Prediction:
    """Predicts every image of a set once, under fresh perturbations.

    Args:
      state: with the parameters.
      data: of any size: the last batch is filled up, and what fills it is cut
        off again.
      pass_index: each pass draws its own perturbations.

    Returns:
      Arrays with one entry per image, in the order of the set.
    """
    result = self._evaluate(state, data, np.int32(pass_index))
    return jax.tree.map(lambda x: np.asarray(x)[: len(data.labels)], result)

  def examples(
    self, state: TrainState, images: jax.Array, draw: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """Perturbs a few images and shows what the network's transform makes.

    Args:
      state: with the parameters.
      images: `[B, H, W, C]`, uint8.
      draw: which perturbation to draw; the same for every network of a seed.

    Returns:
      The perturbed and the warped images, values about [0, 1].
    """
    before, after = self._examples(state, images, np.int32(draw))
    return np.asarray(before), np.asarray(after)

  def _compile(self, loop: Callable, devices: Sequence[jax.Device]) -> Callable:
    """The choice between jit and pmap, for a loop(shard, axis_name, ...)."""
    if self._count == 1:
      run = jax.jit(functools.partial(loop, 0, None))
      return lambda *args: run(*jax.device_put(args, devices[0]))
    mapped = jax.pmap(
      lambda shard, *args: loop(shard, _AXIS, *args),
      axis_name=_AXIS,
      in_axes=(0, None, None, None),
      out_axes=None,
      devices=devices,
    )
    return functools.partial(mapped, self._shards)

  def _train_loop(self, shard, axis_name, state, data, num_steps):
    recipe, count = self.recipe, len(data.labels)
    per_epoch = steps_per_epoch(count, recipe.batch_size)
    epoch = state.step // per_epoch
    order_key = jax.random.fold_in(recipe.key("order"), epoch)
    order = jax.random.permutation(order_key, count)

    def body(_, state):
      places = self._places(shard)
      chosen = order[(state.step % per_epoch) * recipe.batch_size + places]
      step_key = jax.random.fold_in(recipe.key("train"), state.step)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, places)
      batch = Data(data.images[chosen], data.labels[chosen])
      return train_step(recipe, state, batch, keys, axis_name)

    return lax.fori_loop(0, num_steps, body, state)

  def _eval_loop(self, shard, axis_name, state, data, pass_index):
    recipe, count = self.recipe, len(data.labels)
    pass_key = jax.random.fold_in(recipe.key("evaluate"), pass_index)

    def body(_, start):
      indices = start + self._places(shard)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(pass_key, indices)
      indices = jnp.minimum(indices, count - 1)  # fills up the last batch
      batch = Data(data.images[indices], data.labels[indices])
      return None, eval_step(recipe, state, batch, keys)

    starts = np.arange(0, count, recipe.batch_size, dtype=np.int32)
    _, result = lax.scan(body, None, starts)
    if axis_name is not None:
      result = lax.all_gather(result, axis_name, axis=1, tiled=True)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

  def _places(self, shard):
    """Places in the global batch that this device takes."""
    share = self.recipe.batch_size // self._count
    return shard * share + jnp.arange(share)

  def _warp_examples(self, state, images, draw):
    recipe = self.recipe
    key = jax.random.fold_in(recipe.key("examples"), draw)
    keys = jax.random.split(key, len(images))
    prepared, _ = recipe.prepare(keys, images)
    model = nnx.merge(recipe.graphdef, state.params, state.stats, copy=True)
    warped = model(prepared).warped
    return tuple(x * recipe.std + recipe.mean for x in (prepared, warped))


def steps_per_epoch(num_images: int, batch_size: int) -> int:
  """Whole batches in a set; each epoch's order leaves out other images.

  Raises:
    ValueError: where the set does not fill one batch.
  """
  if num_images < batch_size:
    raise ValueError(
      f"batch_size={batch_size} is larger than the training set of"
      f" {num_images} images"
    )
  return num_images // batch_size


def _zeros() -> Totals:
  return Totals(*jnp.zeros((3,), jnp.float32))
