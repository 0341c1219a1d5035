"""The networks against the authors' published code.

Every expectation is worked out by hand from what their code builds,
github.com/luuf/understanding-STNs.
"""

import functools

from absl.testing import absltest, parameterized
from flax import nnx
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import placement
import stnjax.paper  # noqa: F401, registers its backbones
from stnjax.placement import Task

TASKS = {
  "mnist": Task((28, 28, 1), 10),
  "mnist_translation": Task((60, 60, 1), 10),
  "mnist_scale": Task((112, 112, 1), 10),
  "house_numbers": Task((64, 64, 3), 11, heads=5),
  "plankton": Task((95, 95, 1), 121),
  "cifar": Task((32, 32, 3), 10),
}


@functools.cache
def network_of(backbone, name, size=None, **options):
  """A network in shapes alone."""
  return nnx.eval_shape(
    lambda: placement.create(
      backbone,
      name,
      TASKS[backbone],
      localisation=size,
      rngs=nnx.Rngs(0),
      **options,
    )
  )


def kernels(layers):
  return [tuple(layer.kernel.shape) for layer in layers]


def localiser(network, depth):
  return network.sites[str(depth)]["transformer"].localiser


class ClassifierTest(parameterized.TestCase):
  """The layers of each classifier."""

  @parameterized.parameters(
    (
      "mnist",
      [(9, 9, 1, 64), (7, 7, 64, 64)],
      [(256, 10)],
    ),
    (
      "house_numbers",
      [
        (5, 5, 3, 48),
        (5, 5, 48, 64),
        (5, 5, 64, 128),
        (5, 5, 128, 160),
        (5, 5, 160, 192),
        *[(5, 5, 192, 192)] * 3,
      ],
      [(4 * 4 * 192, 3072), (3072, 3072), (3072, 3072), (3072, 55)],
    ),
    (
      "plankton",
      [
        (3, 3, 1, 32),
        (3, 3, 32, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 64),
        (3, 3, 64, 128),
        *[(3, 3, 128, 128)] * 2,
        (3, 3, 128, 256),
        *[(3, 3, 256, 256)] * 2,
      ],
      [(5 * 5 * 256, 512), (512, 512), (512, 121)],
    ),
    (
      "cifar",
      [
        (3, 3, 3, 32),
        (3, 3, 32, 32),
        (3, 3, 32, 64),
        (3, 3, 64, 64),
        (3, 3, 64, 128),
        (3, 3, 128, 128),
      ],
      [(4 * 4 * 128, 10)],
    ),
  )
  def test_kernels(self, backbone, convs, dense):
    network = network_of(backbone, "CNN")
    self.assertEqual(kernels(stage.conv for stage in network.stages), convs)
    head = network.head
    self.assertEqual(kernels([*head.hidden, head.last]), dense)
    for stage in network.stages:  # all have biases, CIFAR-10's too
      self.assertEqual(stage.conv.bias.shape, stage.conv.kernel.shape[-1:])

  @parameterized.parameters(
    ("mnist", "VALID", [2, 2], [0, 0], 0.0, None),
    (
      "house_numbers",
      "SAME",
      [2, 0, 2, 0, 2, 0, 2, 0],
      [0] + [0.5] * 7,
      0.0,
      None,
    ),
    ("plankton", "SAME", [0, 3, 0, 3, 0, 0, 3, 0, 0, 3], [0] * 10, 1 / 3, None),
    (
      "cifar",
      "SAME",
      [0, 2] * 3,
      [0, 0.2, 0, 0.3, 0, 0.4],
      0.0,
      "after_relu",
    ),
  )
  def test_what_follows_each_convolution(
    self, backbone, padding, pools, dropouts, slope, norm
  ):
    stages = network_of(backbone, "CNN").stages
    self.assertEqual([stage.pool for stage in stages], pools)
    self.assertEqual([stage.dropout for stage in stages], dropouts)
    for stage in stages:
      self.assertEqual(stage.padding, padding)
      self.assertEqual(stage.slope, slope)
      self.assertEqual(stage.batch_norm, norm)
      self.assertEqual(stage.drop_channels, backbone == "cifar")

  @parameterized.parameters(
    ("mnist", 0.0, False),
    ("house_numbers", 0.5, False),  # the features are dropped by their block
    ("plankton", 0.5, True),
    ("cifar", 0.0, False),
  )
  def test_dropout_of_the_head(self, backbone, dropout, drop_input):
    head = network_of(backbone, "CNN").head
    self.assertEqual((head.dropout, head.drop_input), (dropout, drop_input))

  @parameterized.parameters(
    ("mnist", "border"),
    ("mnist_translation", "border"),
    ("mnist_scale", "border"),
    ("plankton", "border"),
    ("house_numbers", "zeros"),
    ("cifar", "zeros"),
  )
  def test_padding_of_the_transformer(self, backbone, padding):
    self.assertEqual(network_of(backbone, "STN-C0").padding, padding)


class LocalisationTest(parameterized.TestCase):
  """The layers of each localisation net, at the depths that were studied."""

  @parameterized.parameters(
    # MNIST-R: FCN, and on features FCN_maxpool_nobatchnorm (small).
    ("mnist", "STN-C0", "small", [], [784, 32, 32, 32]),
    ("mnist", "STN-C0", "large", [], [784, 32, 32, 32]),
    ("mnist", "STN-C1", "small", [], [1600, 32, 32, 32]),
    ("mnist", "STN-C1", "large", [], [6400, 32, 32, 32]),
    ("mnist", "STN-SL1", "small", [], [1600, 32, 32, 32]),
    # With the copied convolution CNNFCN_maxpool and CNNFCN.
    ("mnist", "STN-DL1", "small", [], [1600, 32, 32, 32]),
    ("mnist", "STN-DL1", "large", [], [6400, 32, 32, 32]),
    # MNIST-T: CNN_translate leaves 12 x 12 of the image, 7 x 7 of features.
    (
      "mnist_translation",
      "STN-C0",
      None,
      [(1, 20), (20, 20)],
      [12 * 12 * 20, 20],
    ),
    (
      "mnist_translation",
      "STN-SL1",
      None,
      [(64, 20), (20, 20)],
      [7 * 7 * 20, 20],
    ),
    # MNIST-S: CNN_mp leaves 11 x 11 and 10 x 10.
    ("mnist_scale", "STN-C0", None, [(1, 20), (20, 20)], [11 * 11 * 20, 20]),
    ("mnist_scale", "STN-SL1", None, [(64, 20), (20, 20)], [10 * 10 * 20, 20]),
    # House numbers: SVHN_large, half of each side; SVHN_small, all of it.
    *(
      (
        "house_numbers",
        f"STN-SL{depth}",
        None,
        [(channels, 32), (32, 32)],
        [side * side * 32, 32, 32],
      )
      for depth, channels, side in (
        (0, 3, 32),
        (3, 128, 8),
        (6, 192, 4),
        (8, 192, 2),
      )
    ),
    *(
      (
        "house_numbers",
        f"STN-C{depth}",
        "small",
        [],
        [side * side * channels, 32, 32],
      )
      for depth, channels, side in (
        (0, 3, 64),
        (1, 48, 32),
        (2, 64, 32),
        (3, 128, 16),
      )
    ),
    # Plankton: plankton_depth2 and plankton_depth4.
    *(
      (
        "plankton",
        f"STN-SL{depth}",
        "small",
        [(channels, 32), (32, 32)],
        [side * side * 32, 64, 64],
      )
      for depth, channels, side in (
        (0, 1, 47),
        (2, 32, 23),
        (4, 64, 11),
        (7, 128, 5),
        (10, 256, 2),
      )
    ),
    *(
      (
        "plankton",
        f"STN-SL{depth}",
        "large",
        [(channels, 32), (32, 32), (32, 64), (64, 64)],
        [side * side * 64, 64, 64],
      )
      for depth, channels, side in (
        (0, 1, 23),
        (2, 32, 11),
        (4, 64, 5),
        (7, 128, 2),
      )
    ),
    # CIFAR-10: CNN_localization2, a quarter of each side.
    ("cifar", "STN-C0", None, [(3, 20), (20, 40)], [8 * 8 * 40, 80]),
    ("cifar", "STN-C2", None, [(32, 20), (20, 40)], [4 * 4 * 40, 80]),
  )
  def test_layers(self, backbone, name, size, convs, dense):
    network = network_of(backbone, name, size)
    net = localiser(network, network.placement.depths[0])
    self.assertEqual(
      [tuple(conv.kernel.shape[2:]) for conv in net.convs], convs
    )
    found = kernels([*net.hidden, net.head])
    widths = [*dense, 6]
    self.assertEqual(found, list(zip(widths, widths[1:], strict=False)))
    side = {"plankton": 3}.get(backbone, 5)
    for conv in net.convs:
      self.assertEqual(conv.kernel.shape[:2], (side, side))

  def test_the_default_of_house_numbers_is_large(self):
    self.assertLen(localiser(network_of("house_numbers", "STN-C0"), 0).convs, 2)

  @parameterized.parameters(
    ("plankton", "small", [0, 3], False, 1 / 3),
    ("plankton", "large", [0, 3, 0, 3], False, 1 / 3),
    ("house_numbers", "large", [2, 0], False, 0.0),
    ("mnist_translation", None, [2, 2], False, 0.0),
    ("cifar", None, [2, 2], True, 0.0),
  )
  def test_what_follows_each_convolution(
    self, backbone, size, pools, normed, slope
  ):
    net = localiser(network_of(backbone, "STN-C0", size), 0)
    self.assertEqual(list(net.pools), pools)
    self.assertEqual(len(net.norms), len(pools) * normed)
    self.assertEqual(net.slope, slope)

  def test_shifted_features_are_pooled_once(self):
    net = localiser(network_of("mnist_translation", "STN-SL1"), 1)
    self.assertEqual(net.pools, (2, 0))

  def test_only_the_image_of_scaled_digits_is_halved(self):
    halved = [
      localiser(network_of("mnist_scale", f"STN-SL{depth}"), depth).halve_input
      for depth in (0, 1)
    ]
    self.assertEqual(halved, ["mean", None])

  def test_copies_are_the_whole_convolutions(self):
    network = network_of("house_numbers", "STN-DL3")
    copies = network.sites["3"]["stages"]
    self.assertEqual(
      kernels(stage.conv for stage in copies),
      [(5, 5, 3, 48), (5, 5, 48, 64), (5, 5, 64, 128)],
    )
    # The last one's pooling is a part of the block.
    self.assertEqual(localiser(network, 3).in_shape, (16, 16, 128))


class InitialValuesTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mnist", "STN-DL1"), ("mnist_translation", "STN-C0"), ("cifar", "STN-SL2")
  )
  @pytest.mark.slow
  def test_all_layers_are_uniform_but_the_last_of_localisation(
    self, backbone, name
  ):
    network = placement.create(
      backbone, name, TASKS[backbone], init="torch", rngs=nnx.Rngs(0)
    )
    (depth,) = network.placement.depths
    net = localiser(network, depth)
    copies = network.sites[str(depth)].get("stages", ())
    layers = [
      *(stage.conv for stage in [*network.stages, *copies]),
      *[*network.head.hidden, network.head.last, *net.convs, *net.hidden],
    ]
    for layer in layers:
      kernel = np.asarray(layer.kernel[...])
      bound = np.prod(kernel.shape[:-1]) ** -0.5
      self.assertBetween(np.abs(kernel).max() / bound, 0.95, 1)
      self.assertAlmostEqual(kernel.std() / bound, 3**-0.5, delta=0.06)
      bias = np.asarray(layer.bias[...])
      self.assertBetween(np.abs(bias).max() / bound, 0.5, 1)
    for values in (net.head.kernel, net.head.bias):
      np.testing.assert_array_equal(values[...], jnp.zeros_like(values[...]))

  @pytest.mark.slow
  def test_copies_are_drawn_anew(self):
    network = placement.create(
      "mnist", "STN-DL1", TASKS["mnist"], init="torch", rngs=nnx.Rngs(0)
    )
    own, copy = network.stages[0], network.sites["1"]["stages"][0]
    for name in ("kernel", "bias"):
      gap = getattr(own.conv, name)[...] - getattr(copy.conv, name)[...]
      self.assertGreater(float(jnp.abs(gap).max()), 0.05)


if __name__ == "__main__":
  absltest.main()
