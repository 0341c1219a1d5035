"""Geometry by probing, against receptive field arithmetic."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import Geometry
from stnjax.nn import receptive_fields
from tests.alignability.examples import blobs, conv, kernels

RNG = np.random.default_rng(0)


def upsampled(images):
  count, height, width, channels = images.shape
  shape = (count, 2 * height, 2 * width, channels)
  return jax.image.resize(images, shape, "nearest")


@pytest.mark.parametrize(
  "features, first, step, reach",
  [
    (conv(kernels(3, 2)), 1, 1, 1),
    (conv(kernels(3, 2), padding="SAME"), 0, 1, 1),
    (conv(kernels(4, 2)), 1.5, 1, 1.5),
    (conv(kernels(5, 2), stride=3), 2, 3, 2),
    (conv(kernels(3, 2), rhs_dilation=(2, 2)), 2, 1, 2),
    (conv(kernels(3, 2), padding=((5, 5), (5, 5))), -4, 1, 1),
    (upsampled, -0.25, 0.5, 0.25),
  ],
)
def test_probe(features, first, step, reach):
  (found,) = alignability.probe(features, blobs(20, 4)).values()
  expected = Geometry((first,) * 2, (step,) * 2, (reach,) * 2)
  np.testing.assert_allclose(np.array(found), np.array(expected))


def test_the_receptive_field_of_no_layer_is_a_pixel():
  assert receptive_fields.receptive_field([]) == (
    (0.0, 0.0), (1.0, 1.0), (0.0, 0.0)
  )  # fmt: skip


def test_probe_tells_the_axes_apart():
  images = jnp.asarray(RNG.normal(size=(2, 20, 30, 3)), jnp.float32)
  kernel = RNG.normal(size=(3, 7, 3, 2))

  def features(images):
    return conv(kernel)(images)[:, ::2]

  found = alignability.probe(features, images)
  assert found == {"features": Geometry((3.0, 1.0), (1.0, 2.0), (3.0, 1.0))}


@pytest.mark.parametrize(
  "layers",  # size of the kernel, padding on each side, size of the pool
  [
    ((5, 0, 2), (5, 0, 2)),
    ((3, 1, 1), (3, 1, 2), (3, 1, 2)),
    pytest.param(((7, 3, 2), (5, 2, 2), (3, 1, 2)), marks=pytest.mark.slow),
    ((4, 0, 3), (3, 1, 1)),  # pools leave pixels over, which padding hides
  ],
)
def test_probe_of_networks_is_receptive_field_arithmetic(layers):
  def features(images):
    outputs = {}
    for index, (size, pad, pool) in enumerate(layers):
      kernel = np.random.default_rng(index).normal(size=(size, size, 1, 1))
      images = jax.nn.leaky_relu(conv(kernel, 1, [(pad, pad)] * 2)(images))
      window = (1, pool, pool, 1)
      images = lax.reduce_window(
        images, -jnp.inf, lax.max, window, window, "VALID"
      )
      outputs[str(index)] = images
    return outputs

  images = jnp.asarray(RNG.normal(size=(2, 60, 56, 1)), jnp.float32)
  probed = alignability.probe(features, images)
  assert list(probed) == [str(index) for index in range(len(layers))]
  # From and to which pixel the first feature sees, and by how far apart
  # neighbours are: the recurrence over layers.
  low, high, step = 0, 0, 1
  for (size, pad, pool), found in zip(layers, probed.values(), strict=True):
    low, high = low - pad * step, high + (size - 1 - pad) * step
    high += (pool - 1) * step
    step *= pool
    middle, reach = (low + high) / 2, (high - low) / 2
    assert found == Geometry((middle,) * 2, (float(step),) * 2, (reach,) * 2)


@pytest.mark.parametrize(
  "features, message",
  [
    (lambda x: x + x.mean(axis=(1, 2), keepdims=True), "could not be inferred"),
    (lambda x: x.mean(axis=(1, 2), keepdims=True), "of 1 features along an ax"),
    (lambda x: x.mean(axis=(1, 2)), r"must be \[B, h, w, F\] with B = 4"),
    (lambda x: x[:, ::-1], "does not move with the image"),
    (
      lambda x: jax.image.resize(x, (len(x), 18, 18, 1), "linear"),
      "does not move with the image",
    ),
    (
      lambda x: x[:, (np.arange(20) ** 2 / 18).astype(int)],
      "does not move with the image",
    ),
    (lambda x: {"input": x}, "must not name a layer 'input'"),
  ],
)
def test_features_without_a_position_are_refused(features, message):
  with pytest.raises(ValueError, match=message):
    alignability.probe(features, blobs(20, 4))


def test_fields_are_the_pixels_that_a_feature_sees():
  geometry = Geometry((0.5, 1.0), (2.0, 3.0), (1.5, 1.0))
  rows, columns = geometry.fields((8, 7), (3, 4))
  np.testing.assert_array_equal(rows, [[0, 1, 2], [3, 4, 5], [-1, -1, -1]])
  np.testing.assert_array_equal(
    columns, [[-1] * 4, [1, 2, 3, 4], [3, 4, 5, 6], [-1] * 4]
  )
