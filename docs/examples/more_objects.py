"""A data set that is read, a family and a placement: --imports=more_objects."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from stnjax import data, placement, transforms


def read(split, data_dir):
  """Discs, squares and crosses in grey; of files in data_dir where needed."""
  rng = np.random.default_rng(["train", "test"].index(split))
  labels = rng.integers(0, 3, 96 if split == "train" else 48)
  y, x = np.mgrid[-12:12, -12:12] + 0.5
  shapes = [x**2 + y**2 < 49, np.maximum(abs(x), abs(y)) < 6, abs(x * y) < 9]
  images = rng.integers(0, 40, (len(labels), 24, 24, 1))
  images += 200 * np.stack(shapes)[labels][..., None]
  return data.Examples(images.astype(np.uint8), labels.astype(np.int32))


data.DATASETS.register(
  "shapes",
  data.Dataset(
    name="shapes",
    image_shape=(24, 24, 1),
    num_classes=3,
    class_names=("disc", "square", "cross"),
    read=read,
  ),
)


def stretch(parameters, num_axes):
  """Scales each axis by exp(parameter); zeros are the identity."""
  factors = jnp.exp(parameters)[..., None] * jnp.eye(num_axes)
  shift = jnp.zeros((*parameters.shape, 1))
  return jnp.concatenate([factors, shift], axis=-1)


transforms.FAMILIES.register(
  "stretch",
  transforms.Family(
    name="stretch", num_params=lambda num_axes: num_axes, matrix=stretch
  ),
)


@placement.register
@dataclasses.dataclass(frozen=True)
class Detached(placement.PLACEMENTS["STN-SL"]):
  """STN-SG1 is STN-SL1 whose localisation does not train the stages."""

  prefix = "STN-SG"

  def look(self, network, depth, x, context):
    return jax.lax.stop_gradient(super().look(network, depth, x, context))
