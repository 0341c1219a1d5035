"""Training and evaluation as pure steps, and the one place that knows devices.

`train_step` and `eval_step` are pure functions of pytrees. `Program` compiles
loops over them, for one seed or several at once: `jit` on one device, `pmap` on
several. Every random draw hangs on the seed, the step and the image's place in
the *global* batch, so that neither the number of devices nor the other seeds
change anything but rounding.
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

from stnjax import checks, convolution, networks, perturbations
from stnjax.datasets import Data
from stnjax.perturbations import Truth

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
  label: jax.Array  # [N] or [N, heads], the class with the largest logit
  pose: jax.Array  # [N, 2, 3] or [N, 3, 3], see `networks.Output`
  truth: Truth  # [N, ...] each, see `stnjax.perturbations`


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

    Sources are for clutter, see `stnjax.perturbations.perturb`. An augmentation
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
  # In parts, as a float copy of a large set would not fit; exact, in integers.
  pixels = images.reshape(-1, images.shape[-1])
  count = np.stack([np.bincount(c, minlength=256) for c in pixels.T]) / len(
    pixels
  )
  values = np.arange(256) / 255
  mean = count @ values
  std = np.sqrt(count @ values**2 - mean**2)
  return tuple(mean.tolist()), tuple(std.tolist())


def make_optimiser(
  name: str,
  learning_rate: float,
  total_steps: int,
  placement: networks.Placement,
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
    placement: of the network, which tells its parts, see `networks.part`.
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
      return networks.part([getattr(p, "key", p) for p in path], placement)

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


class Program:
  """The compiled loops of runs that differ in their seed alone.

  The states of all seeds are one pytree, with a leading axis for the seeds.
  With one seed and several devices, each device takes an equal part of every
  batch; with several of both, whole seeds are spread over as many devices as
  divide them, without anything to tell each other.
  """

  def __init__(
    self,
    recipe: Recipe,
    seeds: Sequence[int],
    sources: jax.Array | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Prepares the loops; they compile when first called.

    Args:
      recipe: the runs' fixed part.
      seeds: one for each run.
      sources: `[N, H, W, C]`, the training images, for a perturbation with
        clutter.
      devices: to use; those of all processes by default.

    Raises:
      ValueError: where the batch does not divide by the number of devices.
    """
    self.recipe = recipe
    self._seeds = np.array(seeds, np.uint32)
    self._sources = sources
    devices = list(jax.devices() if devices is None else devices)
    # Other processes' devices hold states that this one could not read.
    self._spread = len(seeds) > 1 and jax.process_count() == 1
    if self._spread:
      count = max(n for n in range(1, len(devices) + 1) if len(seeds) % n == 0)
      devices = devices[:count]
    self._devices = devices
    self._parts = 1 if self._spread else len(devices)  # of a batch
    if recipe.batch_size % self._parts:
      raise ValueError(
        f"batch_size={recipe.batch_size} does not divide by the"
        f" {self._parts} devices; take a multiple of {self._parts}"
      )
    starts = [0, *(step for step, _ in recipe.later)]
    graphdefs = [recipe.graphdef, *(graphdef for _, graphdef in recipe.later)]
    self._phases = [
      (start, self._compiled(dataclasses.replace(recipe, graphdef=graphdef)))
      for start, graphdef in zip(starts, graphdefs, strict=True)
    ]

  def train(self, states: TrainState, data: Data, num_steps: int) -> TrainState:
    """Takes `num_steps` steps, within one epoch, in one dispatch.

    Args:
      states: to start from, all at the same step. Their totals start anew with
        the epoch.
      data: the training set; put it on the device once.
      num_steps: at most the steps left in the epoch.

    Raises:
      ValueError: for steps beyond the epoch's end.
    """
    per_epoch = steps_per_epoch(len(data.labels), self.recipe.batch_size)
    step = int(states.step[0])
    done = step % per_epoch
    if not 0 <= num_steps <= per_epoch - done:
      raise ValueError(
        f"num_steps={num_steps} leaves the epoch; accepted: 0 to"
        f" {per_epoch - done}"
      )
    if done == 0:
      zero = jax.tree.map(jnp.zeros_like, states.totals)
      states = states._replace(totals=zero)
    train, *_ = self._phase(step)
    return train(states, data, self._sources, np.int32(num_steps))

  def evaluate(
    self, states: TrainState, data: Data, pass_index: int
  ) -> list[Prediction]:
    """Predicts every image of a set once, under fresh perturbations.

    Args:
      states: with the parameters.
      data: of any size: the last batch is filled up, and what fills it is cut
        off again.
      pass_index: each pass draws its own perturbations.

    Returns:
      For each seed, arrays with one entry per image, in the order of the set.
    """
    _, evaluate, _ = self._phase(int(states.step[0]) - 1)
    result = evaluate(states, data, self._sources, np.int32(pass_index))
    result = jax.tree.map(np.asarray, result)
    return [
      jax.tree.map(lambda x, i=i: x[i, : len(data.labels)], result)
      for i in range(len(self._seeds))
    ]

  def examples(
    self, states: TrainState, images: jax.Array, draw: int
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Perturbs a few images and shows what the networks' transforms make.

    Args:
      states: with the parameters.
      images: `[B, H, W, C]`, uint8.
      draw: which perturbation to draw; the same for every network of a seed.

    Returns:
      For each seed, the perturbed and the warped images, values about [0, 1].
    """
    *_, examples = self._phase(int(states.step[0]) - 1)
    before, after = examples(states, images, self._sources, np.int32(draw))
    return list(zip(np.asarray(before), np.asarray(after), strict=True))

  def _phase(self, step: int) -> tuple[Callable, ...]:
    """The loops for a step: of the last phase that has begun."""
    return [loops for start, loops in self._phases if start <= max(step, 0)][-1]

  def _compiled(self, recipe: Recipe) -> tuple[Callable, ...]:
    return (
      self._compile(functools.partial(self._train_loop, recipe)),
      self._compile(functools.partial(self._eval_loop, recipe)),
      self._compile(functools.partial(self._warp_examples, recipe)),
    )

  def _each_seed(self, one: Callable) -> Callable:
    """One function for all seeds.

    Side by side where that fills a device; one after the other on CPU, whose
    cores are busy with one, and where each takes the path that it takes alone.
    """
    if self._devices[0].platform == "cpu":
      return functools.partial(lax.map, one)
    return jax.vmap(one)

  def _compile(self, loop: Callable) -> Callable:
    """The choice between jit and pmap, for a loop of one seed.

    Args:
      loop: of (shard, axis_name, seed, state, data, sources, number).
    """
    count = len(self._devices)

    def seeds(shard, axis_name, seeds, states, *shared):
      def one(seed_and_state):
        return loop(shard, axis_name, *seed_and_state, *shared)

      return self._each_seed(one)((seeds, states))

    if count == 1:
      run = jax.jit(functools.partial(seeds, 0, None))
      return lambda *args: run(
        *jax.device_put((self._seeds, *args), self._devices[0])
      )
    if self._spread:
      run = jax.pmap(
        functools.partial(seeds, 0, None),
        in_axes=(0, 0, None, None, None),
        devices=self._devices,
      )

      def spread(states, *args):
        def split(x):
          return x.reshape(count, -1, *x.shape[1:])

        result = run(split(self._seeds), jax.tree.map(split, states), *args)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

      return spread
    mapped = jax.pmap(
      lambda shard, *args: seeds(shard, _AXIS, *args),
      axis_name=_AXIS,
      in_axes=(0, None, None, None, None, None),
      out_axes=None,
      devices=self._devices,
    )
    local = [
      place
      for place, device in enumerate(self._devices)
      if device.process_index == jax.process_index()
    ]
    return functools.partial(mapped, np.array(local, np.int32), self._seeds)

  def _train_loop(
    self, recipe, shard, axis_name, seed, state, data, sources, num_steps
  ):
    count = len(data.labels)
    per_epoch = steps_per_epoch(count, recipe.batch_size)
    epoch = state.step // per_epoch
    order_key = jax.random.fold_in(random_key(seed, "order"), epoch)
    order = jax.random.permutation(order_key, count)

    def body(_, state):
      places = self._places(shard)
      chosen = order[(state.step % per_epoch) * recipe.batch_size + places]
      step_key = jax.random.fold_in(random_key(seed, "train"), state.step)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, places)
      batch = Data(data.images[chosen], data.labels[chosen])
      return train_step(recipe, state, batch, keys, sources, axis_name)

    return lax.fori_loop(0, num_steps, body, state)

  def _eval_loop(
    self, recipe, shard, axis_name, seed, state, data, sources, pass_index
  ):
    count = len(data.labels)
    pass_key = jax.random.fold_in(random_key(seed, "evaluate"), pass_index)

    def body(_, start):
      indices = start + self._places(shard)
      keys = jax.vmap(jax.random.fold_in, (None, 0))(pass_key, indices)
      indices = jnp.minimum(indices, count - 1)  # fills up the last batch
      batch = Data(data.images[indices], data.labels[indices])
      return None, eval_step(recipe, state, batch, keys, sources)

    starts = np.arange(0, count, recipe.batch_size, dtype=np.int32)
    _, result = lax.scan(body, None, starts)
    if axis_name is not None:
      result = lax.all_gather(result, axis_name, axis=1, tiled=True)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

  def _places(self, shard):
    """Places in the global batch that this device takes."""
    share = self.recipe.batch_size // self._parts
    return shard * share + jnp.arange(share)

  def _warp_examples(
    self, recipe, shard, axis_name, seed, state, images, sources, draw
  ):
    del shard, axis_name  # too few to share out
    key = jax.random.fold_in(random_key(seed, "examples"), draw)
    keys = jax.random.split(key, len(images))
    prepared, _ = recipe.prepare(keys, images, sources, train=True)
    model = nnx.merge(recipe.graphdef, state.params, state.stats, copy=True)
    warped = model(prepared).warped
    mean, std = np.float32(recipe.mean), np.float32(recipe.std)
    return tuple(x * std + mean for x in (prepared, warped))


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
