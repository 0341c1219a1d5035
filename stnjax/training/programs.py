"""Compiled loops over the steps of training, and all there is to devices.

One seed or several at once: `jit` on one device, `pmap` on several. Every
random draw hangs on the seed, the step and the image's place in the *global*
batch, so that neither the number of devices nor the other seeds change anything
but rounding.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import NamedTuple

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import promotion
from stnjax.data import Data
from stnjax.training import steps
from stnjax.training.steps import Prediction, Recipe, TrainState, random_key

_AXIS = "devices"


class _Loop(NamedTuple):
  """A compiled loop."""

  run: Callable
  lower: Callable  # for the same arguments, or their shapes; runs nothing


# Compiled as a whole, not for the shape of each parameter.


@jax.jit
def stacked(*states: TrainState) -> TrainState:
  """The states of several seeds as one, of a new first axis."""
  return jax.tree.map(lambda *x: jnp.stack(x), *states)


@jax.jit
def member(states: TrainState, index: int) -> TrainState:
  """The state of one of several seeds."""
  return jax.tree.map(lambda x: x[index], states)


@jax.jit
def all_finite(states: TrainState) -> jax.Array:
  """Whether all numbers of the state of each seed are finite, `[S]`."""
  parts = [
    jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
    for leaf in jax.tree.leaves(states)
  ]
  return jnp.stack(parts).all(axis=0)


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
    # On the device once, as the data: not anew with every dispatch.
    self._sources = None if sources is None else jnp.asarray(sources)
    devices = list(jax.devices() if devices is None else devices)
    layout = lay_out(len(seeds), recipe.batch_size, devices)
    self.layout = str(layout)  # how devices share the work, in words
    self._devices, self._parts = layout
    self._spread = self._parts == 1 and len(self._devices) > 1
    starts = [0, *(step for step, _ in recipe.later)]
    graphdefs = [recipe.graphdef, *(graphdef for _, graphdef in recipe.later)]
    self._phases = [
      (start, self._compiled(dataclasses.replace(recipe, graphdef=graphdef)))
      for start, graphdef in zip(starts, graphdefs, strict=True)
    ]

  @promotion.usual
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
    return train.run(states, data, self._sources, np.int32(num_steps))

  @promotion.usual
  def lower(self, states: TrainState, data: Data) -> jax.stages.Lowered:
    """Lowers the loop of `train` for the devices, which need not be there.

    Args:
      states: see `train`; shapes are enough.
      data: likewise.
    """
    train, *_ = self._phase(0)
    return train.lower(states, data, self._sources, np.int32(1))

  @promotion.usual
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
    result = evaluate.run(states, data, self._sources, np.int32(pass_index))
    result = jax.tree.map(np.asarray, result)
    return [
      jax.tree.map(lambda x, i=i: x[i, : len(data.labels)], result)
      for i in range(len(self._seeds))
    ]

  @promotion.usual
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
    before, after = examples.run(states, images, self._sources, np.int32(draw))
    return list(zip(np.asarray(before), np.asarray(after), strict=True))

  def _phase(self, step: int) -> tuple[_Loop, ...]:
    """The loops for a step: of the last phase that has begun."""
    return [loops for start, loops in self._phases if start <= max(step, 0)][-1]

  def _compiled(self, recipe: Recipe) -> tuple[_Loop, ...]:
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

  def _compile(self, loop: Callable) -> _Loop:
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
      jitted = jax.jit(functools.partial(seeds, 0, None))
      return _Loop(
        lambda *args: jitted(
          *jax.device_put((self._seeds, *args), self._devices[0])
        ),
        functools.partial(jitted.lower, self._seeds),
      )
    if self._spread:
      spread = jax.pmap(
        functools.partial(seeds, 0, None),
        in_axes=(0, 0, None, None, None),
        devices=self._devices,
      )

      def split(tree):
        return jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)

      def run(states, *args):
        result = spread(split(self._seeds), split(states), *args)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), result)

      @promotion.usual
      def lower(states, *args):
        states = jax.eval_shape(split, states)
        return spread.lower(split(self._seeds), states, *args)

      return _Loop(run, lower)
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
    every = np.arange(count, dtype=np.int32)
    return _Loop(
      functools.partial(mapped, every[local], self._seeds),
      functools.partial(mapped.lower, every, self._seeds),
    )

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
      return steps.train_step(recipe, state, batch, keys, sources, axis_name)

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
      return None, steps.eval_step(recipe, state, batch, keys, sources)

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


class Layout(NamedTuple):
  """How devices share the work of some seeds."""

  devices: list[jax.Device]  # that are used
  parts: int  # of a batch; devices take whole seeds where it has one

  def __str__(self):
    if len(self.devices) == 1:
      return "on one device"
    shared = "seeds" if self.parts == 1 else "each batch"
    return f"{shared} spread over {len(self.devices)} devices"


def lay_out(
  num_seeds: int, batch_size: int, devices: Sequence[jax.Device]
) -> Layout:
  """Shares the work of some seeds out, see `Program`.

  Raises:
    ValueError: where devices split a batch that does not divide by them.
  """
  # Other processes' devices hold states that this one could not read.
  if num_seeds > 1 and len(processes(devices)) == 1:
    return Layout(list(devices[: spread(num_seeds, len(devices))]), 1)
  parts = len(devices)
  if batch_size % parts:
    raise ValueError(
      f"batch_size={batch_size} does not divide by the {parts} devices; take a"
      f" multiple of {parts}"
    )
  return Layout(list(devices), parts)


def spread(num_seeds: int, num_devices: int) -> int:
  """Over how many of the devices seeds are spread: as many as divide them."""
  return max(n for n in range(1, num_devices + 1) if num_seeds % n == 0)


def processes(devices: Sequence[jax.Device]) -> list[int]:
  """The indices of the processes that devices belong to."""
  return sorted({device.process_index for device in devices})


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
