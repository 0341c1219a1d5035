"""Loops over the steps of training, compiled for one or several devices.

One seed or several at once: `jit` on one device, `pmap` on several. Every
random draw depends on the seed, the step and the image's place in the *global*
batch, so that neither the number of devices nor the other seeds change anything
but rounding.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Generic, NamedTuple, TypeVar

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from stnjax import promotion
from stnjax.data import Examples
from stnjax.training import layout, loops
from stnjax.training.steps import Prediction, TrainSpec, TrainState

_AXIS = "devices"
_Result = TypeVar("_Result")
_Tree = TypeVar("_Tree")
_Shared = Examples | jax.Array | np.ndarray | None
"""An argument of a loop that all seeds share."""


class _Loop(NamedTuple, Generic[_Result]):
  """A compiled loop."""

  run: Callable[..., _Result]
  # For the same arguments, or their shapes; runs nothing.
  lower: Callable[..., jax.stages.Lowered]


class _Loops(NamedTuple):
  """The loops of a phase."""

  train: _Loop[TrainState]
  evaluate: _Loop[Prediction]
  examples: _Loop[tuple[jax.Array, jax.Array]]


# Compiled as a whole, not for the shape of each parameter.


@jax.jit
def stacked(*states: TrainState) -> TrainState:
  """The states of several seeds as one, of a new first axis."""
  joined: TrainState = jax.tree.map(lambda *x: jnp.stack(x), *states)
  return joined


@jax.jit
def select_seed(states: TrainState, index: int) -> TrainState:
  """The state of one of several seeds."""
  state: TrainState = jax.tree.map(lambda x: x[index], states)
  return state


@jax.jit
def all_finite(states: TrainState) -> jax.Array:
  """Whether all numbers of the state of each seed are finite, `[S]`."""
  parts = [
    jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1)
    for leaf in jax.tree.leaves(states)
  ]
  return jnp.stack(parts).all(axis=0)


class Trainer:
  """The compiled loops of runs that differ in their seed alone.

  The states of all seeds are one pytree, with a leading axis for the seeds.
  With one seed and several devices, each device takes an equal part of every
  batch; with several of both, whole seeds are spread over as many devices as
  divide them, without anything to tell each other.
  """

  def __init__(
    self,
    spec: TrainSpec,
    seeds: Sequence[int],
    clutter_images: jax.Array | np.ndarray | None = None,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Prepares the loops; they compile when first called.

    Args:
      spec: How to train each run, but for its seed.
      seeds: Seeds, one for each run.
      clutter_images: `[N, H, W, C]`, uint8, from which clutter is cut, for a
        perturbation that needs it.
      devices: Devices to use; those of all processes by default.

    Raises:
      ValueError: where the batch does not divide by the number of devices.
    """
    self.spec = spec
    self._seeds = np.array(seeds, np.uint32)
    # On the device once, as the data, instead of with every dispatch.
    self._clutter = (
      None if clutter_images is None else jnp.asarray(clutter_images)
    )
    devices = list(jax.devices() if devices is None else devices)
    shared = layout.lay_out(len(seeds), spec.batch_size, devices)
    self.layout = str(shared)  # how devices share the work, in words
    self._devices, self._parts = shared
    self._spread = self._parts == 1 and len(self._devices) > 1
    starts = [0, *(step for step, _ in spec.phases)]
    graphdefs = [spec.graphdef, *(graphdef for _, graphdef in spec.phases)]
    self._phases = [
      (start, self._compiled(dataclasses.replace(spec, graphdef=graphdef)))
      for start, graphdef in zip(starts, graphdefs, strict=True)
    ]

  @promotion.usual
  def train(
    self, states: TrainState, data: Examples, num_steps: int
  ) -> TrainState:
    """Takes `num_steps` steps, within one epoch, in one dispatch.

    Args:
      states: to start from, all at the same step. Their totals are
        reset when the epoch begins.
      data: the training set; put it on the device once.
      num_steps: at most the steps left in the epoch.

    Raises:
      ValueError: for steps beyond the epoch's end.
    """
    per_epoch = loops.steps_per_epoch(len(data.labels), self.spec.batch_size)
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
    train = self._phase(step).train
    return train.run(states, data, self._clutter, np.int32(num_steps))

  @promotion.usual
  def lower(self, states: TrainState, data: Examples) -> jax.stages.Lowered:
    """Lowers the loop of `train` for the devices, which need not be there.

    Args:
      states: States as `train` takes them, or their shapes.
      data: Training set, or its shapes.
    """
    train = self._phase(0).train
    return train.lower(states, data, self._clutter, np.int32(1))

  @promotion.usual
  def evaluate(
    self, states: TrainState, data: Examples, pass_index: int
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
    evaluate = self._phase(int(states.step[0]) - 1).evaluate
    result = evaluate.run(states, data, self._clutter, np.int32(pass_index))
    result = jax.tree.map(np.asarray, result)
    return [
      jax.tree.map(lambda x, i=i: x[i, : len(data.labels)], result)
      for i in range(len(self._seeds))
    ]

  @promotion.usual
  def examples(
    self, states: TrainState, images: jax.Array, draw: int
  ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Perturbs a few images, and warps them by the networks' transforms.

    Args:
      states: with the parameters.
      images: `[B, H, W, C]`, uint8.
      draw: which perturbation to draw; the same for every network of a seed.

    Returns:
      For each seed, the perturbed and the warped images, values about [0, 1].
    """
    examples = self._phase(int(states.step[0]) - 1).examples
    before, after = examples.run(states, images, self._clutter, np.int32(draw))
    return list(zip(np.asarray(before), np.asarray(after), strict=True))

  def _phase(self, step: int) -> _Loops:
    """The loops for a step: of the last phase that has begun."""
    return [loops for start, loops in self._phases if start <= max(step, 0)][-1]

  def _compiled(self, spec: TrainSpec) -> _Loops:
    return _Loops(
      self._compile(functools.partial(loops.train, spec, self._parts)),
      self._compile(functools.partial(loops.evaluate, spec, self._parts)),
      self._compile(functools.partial(loops.warp_examples, spec, self._parts)),
    )

  def _each_seed(
    self, one: Callable[[tuple[jax.Array, TrainState]], _Result]
  ) -> Callable[[tuple[jax.Array, TrainState]], _Result]:
    """One function for all seeds.

    Side by side where that fills a device; one after the other on CPU, whose
    cores are busy with one, and where each takes the path that it takes alone.
    """
    if self._devices[0].platform == "cpu":
      return functools.partial(lax.map, one)
    return jax.vmap(one)

  def _compile(self, loop: Callable[..., _Result]) -> _Loop[_Result]:
    """The choice between jit and pmap, for a loop of one seed.

    Args:
      loop: Function of (shard, axis_name, seed, state, data, clutter_images,
        number).
    """

    def seeds(
      shard: int | jax.Array,
      axis_name: str | None,
      seeds: jax.Array,
      states: TrainState,
      *shared: _Shared,
    ) -> _Result:
      def one(seed_and_state: tuple[jax.Array, TrainState]) -> _Result:
        return loop(shard, axis_name, *seed_and_state, *shared)

      return self._each_seed(one)((seeds, states))

    if len(self._devices) == 1:
      return self._on_one_device(seeds)
    return self._spread_seeds(seeds) if self._spread else self._split(seeds)

  def _on_one_device(self, seeds: Callable[..., _Result]) -> _Loop[_Result]:
    jitted = jax.jit(functools.partial(seeds, 0, None))
    return _Loop(
      lambda *args: jitted(
        *jax.device_put((self._seeds, *args), self._devices[0])
      ),
      functools.partial(jitted.lower, self._seeds),
    )

  def _spread_seeds(self, seeds: Callable[..., _Result]) -> _Loop[_Result]:
    """Devices take whole seeds, and do not communicate."""
    count = len(self._devices)
    spread = jax.pmap(
      functools.partial(seeds, 0, None),
      in_axes=(0, 0, None, None, None),
      devices=self._devices,
    )

    def split(tree: _Tree) -> _Tree:
      parts: _Tree = jax.tree.map(
        lambda x: x.reshape(count, -1, *x.shape[1:]), tree
      )
      return parts

    def run(states: TrainState, *args: _Shared) -> _Result:
      parts = spread(split(self._seeds), split(states), *args)
      result: _Result = jax.tree.map(
        lambda x: x.reshape(-1, *x.shape[2:]), parts
      )
      return result

    @promotion.usual
    def lower(states: TrainState, *args: _Shared) -> jax.stages.Lowered:
      states = jax.eval_shape(split, states)
      lowered: jax.stages.Lowered = spread.lower(
        split(self._seeds), states, *args
      )
      return lowered

    return _Loop(run, lower)

  def _split(self, seeds: Callable[..., _Result]) -> _Loop[_Result]:
    """Devices split every batch, and average gradients and statistics."""
    mapped = jax.pmap(
      lambda shard, *args: seeds(shard, _AXIS, *args),
      axis_name=_AXIS,
      in_axes=(0, None, None, None, None, None),
      out_axes=None,
      devices=self._devices,
    )
    local = [
      index
      for index, device in enumerate(self._devices)
      if device.process_index == jax.process_index()
    ]
    every = np.arange(len(self._devices), dtype=np.int32)
    return _Loop(
      functools.partial(mapped, every[local], self._seeds),
      functools.partial(mapped.lower, every, self._seeds),
    )
