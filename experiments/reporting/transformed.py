"""Predictions of networks for test images under known transforms."""

from collections.abc import Sequence
import dataclasses
from typing import NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from experiments.lib import loading
from stnjax import data, placement, sampling
from stnjax.training import trained
from stnjax.training.preparation import Preparation
from stnjax.training.run_folder import Run

_BATCH = 256  # images at a time


class Predicted(NamedTuple):
  """Predictions for V versions of N images.

  Attributes:
    label: `[N, V]` or `[N, V, heads]`, predicted classes.
    pose: `[N, V, 2, 3]` or `[N, V, 3, 3]`, transform of the network.
  """

  label: np.ndarray
  pose: np.ndarray


def of_run(
  run: Run,
  loaded: loading.Loaded,
  applied: np.ndarray,
  count: int | None = None,
) -> tuple[data.Examples, Predicted]:
  """Predictions of a finished run for versions of its test images.

  Where the run's perturbation enlarges images, they are padded about the centre
  first.

  Args:
    run: Finished run.
    loaded: What its settings name, see `loading.load`.
    applied: `[V, 2, 3]`, the transform of each version, for `stnjax.warp`.
    count: Number of test images, the first ones; all by default.

  Returns:
    The test images before they are transformed, and the predictions.

  Raises:
    RunError: If the checkpoint cannot be read.
  """
  setup, train, test = loaded
  network, preparation = trained.network_of(run, setup, train.images)
  shape = data.output_shape(setup.perturbation, setup.dataset.image_shape)
  images = centred(test.images[:count], shape)
  found = predict(network, preparation, images, applied)
  return data.Examples(images, np.asarray(test.labels[:count])), found


def centred(images: np.ndarray, shape: Sequence[int]) -> np.ndarray:
  """Images with zeros about them, up to a shape.

  Args:
    images: `[N, h, w, C]`.
    shape: `(H, W, C)`, at least `(h, w, C)`.

  Returns:
    `[N, H, W, C]`; of an odd number of rows or columns, the last is below or to
    the right.
  """
  rows, columns = (
    (more // 2, more - more // 2)
    for more in (np.array(shape[:2]) - images.shape[1:3]).tolist()
  )
  return np.pad(images, ((0, 0), rows, columns, (0, 0)))


def predict(
  network: placement.Network,
  preparation: Preparation,
  images: np.ndarray,
  applied: np.ndarray,
) -> Predicted:
  """Predictions for each version of each image.

  Images are transformed with zeros outside, without a perturbation.

  Args:
    network: Network.
    preparation: Preparation of its input, whose perturbation is left out.
    images: `[N, H, W, C]`, uint8.
    applied: `[V, 2, 3]`, the transform of each version, for `stnjax.warp`.
  """
  plain = dataclasses.replace(
    preparation, perturbation=data.PERTURBATIONS["none"]
  )
  graphdef, state = nnx.split(network)

  @jax.jit
  def outputs(
    state: nnx.State, images: jax.Array, matrix: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    images = sampling.warp(images.astype(jnp.float32), matrix, padding="zeros")
    keys = jax.random.split(jax.random.key(0), len(images))  # of no use
    found = nnx.merge(graphdef, state)(plain(keys, images)[0])
    return found.logits.argmax(axis=-1), found.pose

  size = min(_BATCH, len(images))
  by_version = []
  for matrix in applied:
    batches = []
    for start in range(0, len(images), size):
      first = min(start, len(images) - size)  # the last one overlaps
      found = outputs(state, images[first : first + size], matrix)
      batches.append([np.asarray(part)[start - first :] for part in found])
    by_version.append(map(np.concatenate, zip(*batches, strict=True)))
  labels, poses = zip(*by_version, strict=True)
  return Predicted(np.stack(labels, axis=1), np.stack(poses, axis=1))
