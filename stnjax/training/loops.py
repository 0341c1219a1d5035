"""Loops over the steps of training, for one seed and one device's part.

Every function takes the part of each global batch that a device works on, and
the key of every image comes from its place in the whole batch.
"""

import jax
from jax import lax
import jax.numpy as jnp

from stnjax.data import Examples
from stnjax.training import steps
from stnjax.training.keys import random_key
from stnjax.training.steps import Prediction, TrainSpec, TrainState


def train(
  spec: TrainSpec,
  parts: int,
  shard: int | jax.Array,
  axis_name: str | None,
  seed: jax.Array,
  state: TrainState,
  data: Examples,
  clutter_images: jax.Array | None,
  num_steps: jax.Array,
) -> TrainState:
  """Takes some steps of training, within one epoch.

  Args:
    spec: Fixed part of the run, in the phase of these steps.
    parts: Number of devices that split a batch.
    shard: Index of the part of each batch that this device takes.
    axis_name: Mapped axis of the devices that split a batch; None for one.
    seed: Seed of the run.
    state: State before the steps.
    data: Training set.
    clutter_images: `[N, h, w, C]`, uint8, from which clutter is cut.
    num_steps: Number of steps.

  Returns:
    The state after the steps.
  """
  count = len(data.labels)
  per_epoch = steps_per_epoch(count, spec.batch_size)
  epoch = state.step // per_epoch
  order_key = jax.random.fold_in(random_key(seed, "order"), epoch)
  order = jax.random.permutation(order_key, count)

  def body(_: jax.Array, state: TrainState) -> TrainState:
    places = _places(spec, parts, shard)
    chosen = order[(state.step % per_epoch) * spec.batch_size + places]
    step_key = jax.random.fold_in(random_key(seed, "train"), state.step)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(step_key, places)
    batch = Examples(data.images[chosen], data.labels[chosen])
    return steps.train_step(spec, state, batch, keys, clutter_images, axis_name)

  last: TrainState = lax.fori_loop(0, num_steps, body, state)
  return last


def evaluate(
  spec: TrainSpec,
  parts: int,
  shard: int | jax.Array,
  axis_name: str | None,
  seed: jax.Array,
  state: TrainState,
  data: Examples,
  clutter_images: jax.Array | None,
  pass_index: jax.Array,
) -> Prediction:
  """Predicts every image of a set once, under fresh perturbations.

  Args:
    spec: Fixed part of the run, in the phase of the state.
    parts: Number of devices that split a batch.
    shard: Index of the part of each batch that this device takes.
    axis_name: Mapped axis of the devices that split a batch; None for one.
    seed: Seed of the run.
    state: State with the parameters.
    data: Images, of any number: the last batch is filled up.
    clutter_images: `[N, h, w, C]`, uint8, from which clutter is cut.
    pass_index: Number of the pass, which decides the perturbations.

  Returns:
    Arrays with an entry for each image, and those that fill the last batch.
  """
  count = len(data.labels)
  pass_key = jax.random.fold_in(random_key(seed, "evaluate"), pass_index)

  def body(_: None, start: jax.Array) -> tuple[None, Prediction]:
    indices = start + _places(spec, parts, shard)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(pass_key, indices)
    indices = jnp.minimum(indices, count - 1)  # fills up the last batch
    batch = Examples(data.images[indices], data.labels[indices])
    return None, steps.eval_step(spec, state, batch, keys, clutter_images)

  starts = jnp.arange(0, count, spec.batch_size, dtype=jnp.int32)
  _, result = lax.scan(body, None, starts)
  if axis_name is not None:
    result = lax.all_gather(result, axis_name, axis=1, tiled=True)
  whole: Prediction = jax.tree.map(
    lambda x: x.reshape(-1, *x.shape[2:]), result
  )
  return whole


def warp_examples(
  spec: TrainSpec,
  parts: int,
  shard: int | jax.Array,
  axis_name: str | None,
  seed: jax.Array,
  state: TrainState,
  images: jax.Array,
  clutter_images: jax.Array | None,
  draw: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Perturbs a few images, and warps them by the network's transforms.

  Args:
    spec: Fixed part of the run, in the phase of the state.
    parts: Not used: the images are too few to split.
    shard: Not used.
    axis_name: Not used.
    seed: Seed of the run.
    state: State with the parameters.
    images: `[B, H, W, C]`, uint8.
    clutter_images: `[N, h, w, C]`, uint8, from which clutter is cut.
    draw: Number of the draw, which decides the perturbations.

  Returns:
    The perturbed and the warped images, values about [0, 1].
  """
  del parts, shard, axis_name
  key = jax.random.fold_in(random_key(seed, "examples"), draw)
  keys = jax.random.split(key, len(images))
  prepared, _ = spec.preparation(keys, images, clutter_images, train=True)
  warped = spec.network(state)(prepared).warped
  to_pixels = spec.preparation.to_pixels
  return to_pixels(prepared), to_pixels(warped)


def _places(spec: TrainSpec, parts: int, shard: int | jax.Array) -> jax.Array:
  """Places in the global batch that a device takes."""
  share = spec.batch_size // parts
  return shard * share + jnp.arange(share)


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
