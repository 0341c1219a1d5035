"""The paper's backbones: its tables, sizes, numbers of parameters."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import placement
from stnjax.paper import backbones, classifiers
from stnjax.paper.classifiers import Localisation
from stnjax.placement import Task

TASKS = {
  "mnist": Task((28, 28, 1), 10),
  "mnist_translation": Task((60, 60, 1), 10),
  "mnist_scale": Task((112, 112, 1), 10),
  "house_numbers": Task((64, 64, 3), 11, heads=5),
  "plankton": Task((95, 95, 1), 121),
  "cifar": Task((32, 32, 3), 10),
}

# Worked out by hand: conv9 81 F + F, conv7 49 F F + F, dense 40 F + 10; a
# localisation net 32 (features + 1) + 2 * 32 * 33 + 6 * 33.
CLASSIFIER = {0.25: 14_522, 1.0: 208_586}
LOCALISATION = {
  ("CNN", 0.25): 0,
  ("STN-C0", 0.25): 27_430,  # 784 pixels
  ("STN-C1", 0.25): 15_142,  # 10 x 10 x 16 features, pooled: 5 x 5 x 16
  ("STN-C2", 0.25): 4_390,  # 2 x 2 x 16
  # f filters of 9 x 9, or of 7 x 7 x 16, one bias each; then f + 1 per output:
  # 6 of a theta, or two per tap.
  ("STN-UCN0", 0.25): 82 * 312 + 313 * 6,
  ("STN-UCN1", 0.25): 785 * 19 + 20 * 6,
  ("DEF0", 0.25): 82 * 112 + 113 * 162,
  ("DEF1", 0.25): 785 * 17 + 18 * 98,
  ("STN-DL1", 0.25): 15_142 + 1_312,
  ("STN-SL1", 0.25): 15_142,
  ("STN-SL1x3", 0.25): 15_142,
  ("STN-SL0,1", 0.25): 27_430 + 15_142,
  ("STN-DL2", 0.25): 4_390 + 1_312 + 12_560,
  ("STN-C0", 1.0): 27_430,
  ("STN-C1", 1.0): 53_542,  # 5 x 5 x 64
  ("STN-DL1", 1.0): 53_542 + 5_248,
  ("STN-SL1", 1.0): 53_542,
  ("STN-UCN1", 1.0): 3_137 * 17 + 18 * 6,
  ("DEF1", 1.0): 3_137 * 17 + 18 * 98,
}

# The other data sets at the paper's width, by hand as well. The comments tell
# the sides of the feature maps, and what the first dense layer sees.
COUNTS = (
  ("mnist", "STN-C1", {"localisation": "large"}, 208_586, 207_142),
  # 60-52-26-20-10: 100 x 64.
  ("mnist_translation", "CNN", {}, 270_026, 0),
  # Halved: 30-22-11-5-2. Localisation 60-56-28-24-12: 144 x 20.
  ("mnist_translation", "STN-C0", {}, 208_586, 68_286),
  (
    "mnist_translation",
    "STN-C0",
    {"family": "translation"},
    208_586,
    68_202,
  ),
  # The features are halved, 26 to 13-7-3: 9 x 64. 26-22-11-7: 49 x 20.
  ("mnist_translation", "STN-C1", {}, 211_786, 61_786),
  # 10 to 5: 25 x 64. Localisation 10-6-3, and no room left: 3, 9 x 20.
  ("mnist_translation", "STN-C2", {}, 222_026, 45_786),
  ("mnist_translation", "STN-SL1", {}, 208_586, 61_786),
  ("mnist_translation", "STN-DL1", {}, 208_586, 61_786 + 5_248),
  # 112-104-52-46-23: 529 x 64. 112 halved, 56-52-26-22-11: 121 x 20.
  ("mnist_scale", "STN-C0", {}, 544_586, 59_086),
  # Features are not halved: 52-48-24-20-10: 100 x 20.
  ("mnist_scale", "STN-SL1", {}, 544_586, 82_186),
  # 64-32-16-8-4: 16 x 192. Localisation 64-32: 1024 x 32.
  ("house_numbers", "STN-C0", {}, 32_820_951, 1_077_926),
  # 32-16: 256 x 32; 16-8: 64 x 32; 4-2: 4 x 32.
  ("house_numbers", "STN-SL1", {}, 32_820_951, 327_494),
  ("house_numbers", "STN-SL4", {}, 32_820_951, 220_486),
  ("house_numbers", "STN-SL8", {}, 32_820_951, 184_646),
  ("house_numbers", "STN-C0", {"localisation": "small"}, 32_820_951, 394_502),
  # 95-47-23-11-5: 25 x 256. Small 95-47: 2,209 x 32.
  ("plankton", "STN-C0", {}, 5_511_385, 4_538_214),
  # Large goes on, 47-23: 529 x 64.
  ("plankton", "STN-C0", {"localisation": "large"}, 5_511_385, 2_236_390),
  # 23-11: 121 x 32; large goes on, 11-5: 25 x 64.
  ("plankton", "STN-SL4", {}, 5_511_385, 280_134),
  ("plankton", "STN-SL4", {"localisation": "large"}, 5_511_385, 190_150),
  # 32-16-8-4: 16 x 128. Localisation 32-16-8: 64 x 40.
  ("cifar", "STN-C0", {}, 308_394, 227_046),
  # 16-8-4: 16 x 40; two copied blocks with their batch norms are 10,272.
  ("cifar", "STN-SL2", {}, 308_394, 87_946),
  ("cifar", "STN-DL2", {}, 308_394, 87_946 + 10_272),
)


def column(classifier, name):
  return [getattr(conv, name) for conv in classifier.convs]


class ResizedTest(absltest.TestCase):
  def test_full_size_is_the_same(self):
    for net in backbones.CLASSIFIERS.values():
      self.assertEqual(net.resized(1, 1), net)

  def test_each_part_has_its_own_width(self):
    net = classifiers.PLANKTON.resized(0.25, 0.5)
    self.assertEqual(
      column(net, "filters"), [8, 8, 16, 16, 32, 32, 32, 64, 64, 64]
    )
    self.assertEqual(net.dense, (128, 128))
    large = net.localisation["large"]
    self.assertEqual([conv.filters for conv in large.convs], [16, 16, 32, 32])
    self.assertEqual([conv.pool for conv in large.convs], [0, 3, 0, 3])
    self.assertEqual(large.dense, (32, 32))
    for name in ("kernel_size", "pool", "padding", "batch_norm", "dropout"):
      self.assertEqual(column(net, name), column(classifiers.PLANKTON, name))
    self.assertEqual((net.dropout, net.slope), (0.5, 1 / 3))

  def test_flags_stay(self):
    resized = classifiers.MNIST_TRANSLATION.resized(0.1, 0.1)
    self.assertEqual(resized.halves_from, 60)
    small = classifiers.MNIST_SCALE.resized(0.1, 0.1).localisation["small"]
    self.assertTrue(small.halve_image)
    small = classifiers.MNIST.resized(0.1, 0.1).localisation["small"]
    self.assertTrue(small.pool_features)

  def test_nothing_vanishes(self):
    net = classifiers.HOUSE_NUMBERS.resized(1e-6, 1e-6)
    self.assertEqual(column(net, "filters"), [1] * 8)
    self.assertEqual(net.dense, (1, 1, 1))
    large = net.localisation["large"]
    self.assertEqual([conv.filters for conv in large.convs], [1, 1])
    self.assertEqual(large.dense, (1, 1))


class CountTest(parameterized.TestCase):
  def count(self, name, backbone="mnist", **options):
    network = nnx.eval_shape(
      lambda: placement.create(
        backbone, name, TASKS[backbone], **options, rngs=nnx.Rngs(0)
      )
    )
    return placement.count_parameters(network)

  @parameterized.parameters(*LOCALISATION)
  def test_parameter_counts(self, name, width):
    counts = self.count(name, width=width)
    self.assertEqual(counts["classifier"], CLASSIFIER[width])
    self.assertEqual(counts["localisation"], LOCALISATION[name, width])
    self.assertEqual(counts["total"], sum(counts.values()) // 2)

  @parameterized.parameters(*COUNTS)
  def test_parameter_counts_of_every_backbone(
    self, backbone, name, options, classifier, localisation
  ):
    counts = self.count(name, backbone, **options)
    self.assertEqual(counts["classifier"], classifier)
    self.assertEqual(counts["localisation"], localisation)
    self.assertEqual(counts["total"], classifier + localisation)

  def test_widths_multiply_one_part_each(self):
    counts = self.count("STN-C0", "cifar", width=0.5)
    # 27 x 16, 9 times 16 x 16 ... 64 x 64; a bias and two of a norm for each of
    # 224 filters; 1024 x 10.
    self.assertEqual(counts["classifier"], 71_856 + 3 * 224 + 10_250)
    self.assertEqual(counts["localisation"], 227_046)
    counts = self.count("STN-C0", "cifar", localisation_width=0.5)
    self.assertEqual(counts["classifier"], 308_394)
    # 760, 25 x 10 x 20 + 20, two of a norm for 30 filters, 1281 x 40, 41 x 6.
    self.assertEqual(counts["localisation"], 760 + 5_020 + 60 + 51_240 + 246)

  @parameterized.parameters(
    (
      "mnist",
      dict(width=1e300),
      "width must be positive and less than 524,288",
    ),
    ("mnist", dict(width=float("nan")), "width must be positive"),
    ("mnist", dict(localisation_width=0.0), "localisation_width must be"),
    ("plankton", dict(localisation="huge"), "localisation='huge'.*'large'"),
    ("mnist", dict(init="zeros"), "init='zeros'.*'torch'"),
    ("house_numbers", dict(depth=3), "does not take depth=3.*dropout"),
  )
  def test_options_are_checked(self, backbone, options, message):
    with self.assertRaisesRegex(ValueError, message):
      self.count("STN-SL1", backbone, **options)


class ShapeTest(parameterized.TestCase):
  """The networks of every backbone, very thin."""

  def make(self, name, backbone, task=None, **options):
    return placement.create(
      backbone,
      name,
      task or TASKS[backbone],
      width=0.02,
      localisation_width=0.1,
      rngs=nnx.Rngs(0),
      **options,
    )

  @parameterized.parameters(
    ("mnist", "STN-SL1", 28, (10,)),
    ("mnist_translation", "STN-SL1", 30, (10,)),
    ("mnist_translation", "STN-C1", 60, (10,)),
    ("mnist_scale", "STN-SL2", 112, (10,)),
    ("house_numbers", "STN-SL4", 64, (5, 11)),
    ("plankton", "STN-DL7", 95, (121,)),
    ("cifar", "STN-SL0,2", 32, (10,)),
  )
  @pytest.mark.slow
  def test_shapes(self, backbone, name, warped, answer):
    height, width, channels = TASKS[backbone].image_shape
    output = nnx.eval_shape(
      lambda: self.make(name, backbone)(jnp.zeros((2, height, width, channels)))
    )
    self.assertEqual(output.logits.shape, (2, *answer))
    self.assertEqual(output.warped.shape, (2, warped, warped, channels))

  def test_smaller_shifted_images_are_not_halved(self):
    """They are of the size that the transformer makes of whole ones."""
    for side in (30, 60):
      task = Task((side, side, 1), 10)
      output = nnx.eval_shape(
        lambda task=task: self.make("STN-C0", "mnist_translation", task)(
          jnp.zeros((2, *task.image_shape))
        )
      )
      self.assertEqual(output.warped.shape, (2, 30, 30, 1))

  @parameterized.parameters(
    ("mnist", [10, 2]),
    ("house_numbers", [32, 32, 16, 16, 8, 8, 4, 4]),
    ("plankton", [95, 47, 47, 23, 23, 23, 11, 11, 11, 5]),
    ("cifar", [32, 16, 16, 8, 8, 4]),
  )
  def test_sides_of_the_features(self, backbone, sides):
    images = jnp.zeros((1, *TASKS[backbone].image_shape))
    features = nnx.eval_shape(
      lambda: self.make("CNN", backbone).features(images)
    )
    shapes = [
      features[f"block {depth}"].shape[1:3]
      for depth in range(1, len(sides) + 1)
    ]
    self.assertEqual(shapes, [(side, side) for side in sides])
    deepest = len(sides)
    nnx.eval_shape(lambda: self.make(f"STN-C{deepest}", backbone))
    with self.assertRaisesRegex(
      ValueError, f"depth {deepest + 1} is deeper.*0 to {deepest}"
    ):
      nnx.eval_shape(lambda: self.make(f"STN-C{deepest + 1}", backbone))

  @parameterized.parameters(
    ("cifar", (1, 1, 3)), ("house_numbers", (3, 3, 3)), ("plankton", (1, 1, 1))
  )
  @pytest.mark.slow
  def test_images_that_are_too_small(self, backbone, shape):
    with self.assertRaisesRegex(ValueError, "is too small"):
      self.make("STN-SL1", backbone, Task(shape, 2))

  @parameterized.parameters(
    ("mnist", "border"),
    ("plankton", "border"),
    ("house_numbers", "zeros"),
    ("cifar", "zeros"),
  )
  @pytest.mark.slow
  def test_padding_is_the_paper_s_unless_told(self, backbone, padding):
    network = nnx.eval_shape(lambda: self.make("STN-C0", backbone))
    self.assertEqual(network.padding, padding)
    network = nnx.eval_shape(
      lambda: self.make("STN-C0", backbone, padding="reflection")
    )
    self.assertEqual(network.padding, "reflection")

  @parameterized.parameters(
    ("house_numbers", "STN-SL4"), ("plankton", "STN-C2"), ("cifar", "STN-DL2")
  )
  @pytest.mark.slow
  def test_every_untrained_network_is_its_cnn(self, backbone, name):
    images = np.random.default_rng(0).normal(
      size=(2, *TASKS[backbone].image_shape)
    )
    images = images.astype(np.float32)
    network, cnn = self.make(name, backbone), self.make("CNN", backbone)
    output, expected = (
      jax.jit(lambda x, n=n: n(x))(images) for n in (network, cnn)
    )
    np.testing.assert_allclose(output.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(output.warped, images, atol=1e-6)
    self.assertGreater(np.abs(expected.logits).max(), 1e-3)


class HalvingTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(), (28, 28, 1), None),
    (dict(), (10, 10, 64), None),
    (dict(halve_image=True), (28, 28, 1), "mean"),
    (dict(halve_image=True), (10, 10, 64), None),
    (dict(pool_features=True), (28, 28, 1), None),
    (dict(pool_features=True), (10, 10, 64), "max"),
    (dict(pool_features=True), (8, 9, 64), "max"),
    (dict(pool_features=True), (7, 9, 64), None),
  )
  def test_image_and_features_are_halved_each_in_its_way(
    self, options, shape, expected
  ):
    layers = Localisation((), (32,), **options)
    self.assertEqual(layers.halving(shape, (28, 28, 1)), expected)


if __name__ == "__main__":
  absltest.main()
