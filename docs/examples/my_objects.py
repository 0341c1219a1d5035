"""A module as a user writes it, outside the library: `--imports=stranger`."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import data, placement, transforms


class Stage(nnx.Module):
  """Convolution, batch norm, ReLU and pooling."""

  def __init__(self, channels, filters, rngs):
    self.conv = nnx.Conv(channels, filters, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(filters, rngs=rngs)

  def __call__(self, x):
    return nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2))


class Head(nnx.Module):
  """Mean over places, dropout, one dense layer."""

  def __init__(self, channels, outputs, rngs):
    self.dropout = nnx.Dropout(0.2, rngs=rngs)
    self.dense = nnx.Linear(channels, outputs, rngs=rngs)

  def __call__(self, x):
    return self.dense(self.dropout(x.mean(axis=(1, 2))))


@placement.BACKBONES.register("three_stages")
def three_stages(task, *, rngs):
  channels = (task.image_shape[-1], 4, 6, 8)
  stages = [Stage(a, b, rngs) for a, b in zip(channels, channels[1:])]
  return placement.Backbone(stages, Head(8, task.num_classes, rngs))


def lean(key, image):
  """Shears the object by up to 0.5 px/px."""
  shear = jax.random.uniform(key, (), jnp.float32, -0.5, 0.5)
  return stnjax.warp(image, transforms.shearing(-shear)), {"shear": shear}


def shear_of(poses, image_shape):
  inverse = np.asarray(transforms.invert(poses))
  return inverse[:, 0, 1] / inverse[:, 1, 1]


data.PERTURBATIONS.register(
  "lean",
  data.Perturbation(
    name="lean",
    draw=lean,
    axes=(
      data.Axis(
        name="shear",
        unit="px/px",
        true=lambda truth: np.asarray(truth["shear"], np.float64),
        predicted=shear_of,
      ),
    ),
  ),
)


def bars(count, seed):
  """Pictures of horizontal, vertical and crossed bars."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, count)
  images = rng.integers(0, 40, (count, 24, 24, 1))
  images[labels != 1, 10:14, 4:20] = 230
  images[labels != 0, 4:20, 10:14] = 230
  return images.astype(np.uint8), labels


data.DATASETS.register(
  "bars", data.from_arrays("bars", bars(96, 0), bars(48, 1), backbone="plain")
)
