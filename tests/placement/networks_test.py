"""Placement: what is shared, what is warped, what accumulates."""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import data, evaluation, transforms
from stnjax.nn import localisation
from stnjax.paper import classifiers
from stnjax.paper.classifiers import Conv, Localisation
from stnjax.placement import networks, placements

# Worked out by hand: conv9 81 F + F, conv7 49 F F + F, dense 40 F + 10; a
# localisation net w (features + 1) + 32 (w + 1) + 32 * 33 + 6 * 33.
CLASSIFIER = {0.25: 14_522, 1.0: 208_586}
LOCALISATION = {
  ("CNN", 0.25): 0,
  ("STN-C0", 0.25): 27_430,  # 32 wide on 784 pixels
  ("STN-C1", 0.25): 27_414,  # 16 wide on 10 x 10 x 16 features
  ("STN-C2", 0.25): 27_476,  # 270 wide on 2 x 2 x 16
  # f filters of 9 x 9, or of 7 x 7 x 16, one bias each; then f + 1 per output:
  # 6 of a theta, or two per tap.
  ("STN-UCN0", 0.25): 82 * 312 + 313 * 6,
  ("STN-UCN1", 0.25): 785 * 35 + 36 * 6,
  ("DEF0", 0.25): 82 * 112 + 113 * 162,
  ("DEF1", 0.25): 785 * 31 + 32 * 98,
  ("STN-DL1", 0.25): 27_414 + 1_312,
  ("STN-SL1", 0.25): 27_414,
  ("STN-SL1x3", 0.25): 27_414,
  ("STN-SL0,1", 0.25): 27_430 + 27_414,
  ("STN-DL2", 0.25): 27_476 + 1_312 + 12_560,
  ("STN-C0", 1.0): 27_430,
  ("STN-C1", 1.0): 104_214,  # not below 16 wide, on 10 x 10 x 64
  ("STN-DL1", 1.0): 104_214 + 5_248,
  ("STN-SL1", 1.0): 104_214,
  ("STN-UCN1", 1.0): 3_137 * 33 + 34 * 6,
  ("DEF1", 1.0): 3_137 * 32 + 33 * 98,
}

# The other data sets at the paper's width, by hand as well. The comments tell
# the sides of the feature maps, and what the first dense layer sees.
COUNTS = (
  # 60-52-26-20-10: 100 x 64.
  ("mnist", "translation", "CNN", {}, 270_026, 0),
  # Halved: 30-22-11-5-2. Localisation 60-56-28-24-12: 144 x 20.
  ("mnist", "translation", "STN-C0", {}, 208_586, 68_286),
  (
    "mnist",
    "translation",
    "STN-C0",
    {"family": "translation"},
    208_586,
    68_202,
  ),
  # The features are halved, 26 to 13-7-3: 9 x 64. 26-22-11-7-3: 9 x 20.
  ("mnist", "translation", "STN-C1", {}, 211_786, 45_786),
  # 10 to 5: 25 x 64. Localisation 10-6-3, and no room left: 3-1, 1 x 20.
  ("mnist", "translation", "STN-C2", {}, 222_026, 42_586),
  ("mnist", "translation", "STN-SL1", {}, 208_586, 45_786),
  ("mnist", "translation", "STN-DL1", {}, 208_586, 45_786 + 5_248),
  # 112-104-52-46-23: 529 x 64. 112 halved, 56-52-26-22-11: 121 x 20.
  ("mnist", "scale", "STN-C0", {}, 544_586, 59_086),
  # Features are not halved: 52-48-24-20-10: 100 x 20.
  ("mnist", "scale", "STN-SL1", {}, 544_586, 82_186),
  # 64-32-16-8-4: 16 x 192. Localisation 64-60-30-26: 676 x 32.
  ("svhn", "none", "STN-C0", {}, 32_820_951, 721_574),
  # 32-28-14-10: 100 x 32; 16-12-6-2: 4 x 32.
  ("street_numbers", "none", "STN-SL1", {}, 32_820_951, 167_750),
  ("svhn", "none", "STN-SL4", {}, 32_820_951, 159_046),
  # 95-47-23-11-5: 25 x 256. Small 95-93-46-44-22: 484 x 16.
  ("plankton", "none", "STN-C0", {}, 5_511_385, 502_710),
  # Large goes on, 22-20-10-8-4: 16 x 16.
  ("plankton", "none", "STN-C0", {"localisation": "large"}, 5_511_385, 28_118),
  # 23-21-10-8-4: 16 x 16; large goes on, 4-2-1 and 1: 16.
  ("plankton", "none", "STN-SL4", {}, 5_511_385, 32_550),
  ("plankton", "none", "STN-SL4", {"localisation": "large"}, 5_511_385, 21_830),
  # 32-16-8-4: 16 x 128. Localisation 32-28-14-10-5: 25 x 40.
  ("cifar10", "none", "STN-C0", {}, 307_946, 102_126),
  # 16-12-6-2-1: 40; two copied blocks with their batch norms are 10,208.
  ("svhn_cropped", "none", "STN-SL2", {}, 307_946, 39_826),
  ("cifar10", "none", "STN-DL2", {}, 307_946, 39_826 + 10_208),
)

# MNIST's classifier, with numbers of filters that tell the blocks apart.
TINY = dataclasses.replace(
  classifiers.MNIST,
  convs=(
    Conv(3, 9, pool=2, padding="VALID"),
    Conv(4, 7, pool=2, padding="VALID"),
  ),
)
# One that halves what it warps: 28-24-12-10-5, or 14-10-5-3-1 behind it.
HALVING = dataclasses.replace(
  TINY,
  convs=(
    Conv(3, 5, pool=2, padding="VALID"),
    Conv(4, 3, pool=2, padding="VALID"),
  ),
  localisation={"small": Localisation(((2, 3),), (5,))},
  halve=True,
)


def create(name, classifier=TINY, image_shape=(28, 28, 1), **options):
  options = {"num_classes": 10, **options}
  return networks.SpatialTransformerNetwork(
    placements.parse(name),
    classifier,
    image_shape,
    rngs=nnx.Rngs(0),
    **options,
  )


def shake(network, seed=1, scale=0.03):
  """Moves the localisation heads off the identity."""
  rng = np.random.default_rng(seed)
  for net in network.localisers.values():
    kernel = net.head.kernel
    kernel[...] = jnp.asarray(rng.normal(0, scale, kernel.shape), jnp.float32)
    net.head.bias[...] = jnp.asarray(
      rng.normal(0, 0.1, net.head.bias.shape), jnp.float32
    )
  return network


def answer(network, x, depth=0):
  """The logits of a classifier without hidden layers, from a depth on."""
  for block in network.blocks[depth:]:
    x = block(x)
  return network.head(x.reshape(len(x), -1))


IMAGES = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype(np.float32)
ALL = (
  "CNN",
  "STN-C0",
  "STN-C1",
  "STN-C2",
  "STN-DL1",
  "STN-DL2",
  "STN-SL1",
  "STN-SL2",
  "STN-C0,1",
  "STN-SL0,1,2",
  "STN-SL1x2",
  "STN-DL0,1x2",
  "STN-UCN0",
  "STN-UCN1",
  "DEF0",
  "DEF1",
)


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ("CNN", "CNN", ()),
    ("STN-C0", "C", (0,)),
    ("STN-DL12", "DL", (12,)),
    ("STN-SL0,3,6", "SL", (0, 3, 6)),
    ("STN-SL1x2", "SL", (1, 1)),
    ("STN-C0x2,1x3", "C", (0, 0, 1, 1, 1)),
    ("STN-DL3,1", "DL", (3, 1)),
    ("STN-UCN1", "UCN", (1,)),
    ("DEF12", "DEF", (12,)),
  )
  def test_names(self, name, kind, depths):
    self.assertEqual(placements.parse(name), placements.Placement(kind, depths))

  @parameterized.parameters(
    "",
    "cnn",
    "STN",
    "STN-",
    "STN-C",
    "STN-X1",
    "STN-SL1,",
    "STN-SL1x0",
    "STN-SL-1",
    "STN-C1,0",
    "STN-C1 ",
    "CNN1",
    "UCN1",
    "STN-UCN",
    "STN-UCN0,1",
    "STN-UCN1x2",
    "DEF",
    "STN-DEF1",
    "DEF1x2",
    "DEF-1",
  )
  def test_other_names_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, "network="):
      placements.parse(name)

  @parameterized.parameters(
    ("CNN", False, False, 0),
    ("STN-C0", True, False, 0),
    ("STN-C0,1", False, False, 1),
    ("STN-DL2", True, False, 0),
    ("STN-SL0,1", True, False, 1),
    ("STN-UCN0", False, True, 0),
    ("DEF1", False, True, 1),
  )
  def test_what_a_name_means(self, name, warps_input, deforms, through):
    placement = placements.parse(name)
    self.assertEqual(placement.warps_input, warps_input)
    self.assertEqual(placement.deforms, deforms)
    self.assertEqual(placement.looks_through, through)
    self.assertStartsWith(name, placements.prefix(placement.kind))

  @parameterized.parameters("STN-C3", "STN-DL3", "STN-SL0,7")
  def test_depth_beyond_the_blocks_is_refused(self, name):
    with self.assertRaisesRegex(ValueError, "accepted: 0 to 2"):
      create(name)

  @parameterized.parameters(
    ("STN-SL1x33", "accepted: at most 32"),
    ("STN-SL0x16,1x16,2", "accepted: at most 32"),
    ("STN-C" + ",".join("0" * 33), "accepted: at most 32"),
    ("STN-DL1x" + "9" * 5000, "accepted: at most 32"),
    ("STN-DL" + "9" * 5000, "accepted: 0 to 99"),
    ("DEF100", "accepted: 0 to 99"),
    ("STN-C١", "accepted: CNN"),
    ("STN-C00", "accepted: CNN"),
    ("STN-C1x01", "accepted: CNN"),
  )
  def test_names_without_end_are_refused_at_once(self, name, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      placements.parse(name)
    self.assertLess(len(str(caught.exception)), 400)

  def test_as_many_iterations_as_are_accepted(self):
    self.assertEqual(placements.parse("STN-SL0x16,2x16").depths,
                     (0,) * 16 + (2,) * 16)  # fmt: skip

  @parameterized.parameters(
    (dict(localisation="large"), "localisation='large'.*'small'"),
    (dict(padding="edge"), "padding='edge'.*'border'"),
    (dict(family="euclid"), "family='euclid'"),
    (dict(image_shape=(12, 12, 1)), "too small"),
  )
  def test_options_are_checked(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      create("STN-SL1", **options)

  @parameterized.parameters(
    (dict(width=1e300), "width must be positive and less than 524,288"),
    (dict(width=float("nan")), "width must be positive"),
    (dict(localisation_width=0.0), "localisation_width must be positive"),
    (dict(shrink=0), "shrink must be at least 1"),
    (dict(dataset="cifar10", shrink=32), r"\(1, 1, 3\) is too small"),
    (dict(dataset="svhn", shrink=20), r"\(3, 3, 3\) is too small"),
    (dict(dataset="plankton", shrink=95), r"\(1, 1, 1\) is too small"),
  )
  def test_sizes_are_checked(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      networks.create("STN-SL1", rngs=nnx.Rngs(0), **options)


class CountTest(parameterized.TestCase):
  def count(self, *name, **options):
    return networks.count_parameters(
      nnx.eval_shape(
        lambda: networks.create(*name, **options, rngs=nnx.Rngs(0))
      )
    )

  @parameterized.parameters(*LOCALISATION)
  def test_parameter_counts(self, name, width):
    counts = self.count(name, width=width)
    self.assertEqual(counts["classifier"], CLASSIFIER[width])
    self.assertEqual(counts["localisation"], LOCALISATION[name, width])
    self.assertEqual(counts["total"], sum(counts.values()) // 2)

  @parameterized.parameters(*COUNTS)
  def test_parameter_counts_of_every_data_set(
    self, dataset, perturbation, name, options, classifier, localisation
  ):
    counts = self.count(name, dataset, perturbation, **options)
    self.assertEqual(counts["classifier"], classifier)
    self.assertEqual(counts["localisation"], localisation)
    self.assertEqual(counts["total"], classifier + localisation)

  def test_widths_multiply_one_part_each(self):
    counts = self.count("STN-C0", "cifar10", width=0.5)
    # 27 x 16, 9 times 16 x 16 ... 64 x 64, two of a norm each, 1024 x 10.
    self.assertEqual(counts["classifier"], 71_856 + 448 + 10_250)
    self.assertEqual(counts["localisation"], 102_126)
    counts = self.count("STN-C0", "cifar10", localisation_width=0.5)
    self.assertEqual(counts["classifier"], 307_946)
    # 760, 25 x 10 x 20 + 20, 501 x 40, 41 x 6.
    self.assertEqual(counts["localisation"], 760 + 5_020 + 20_040 + 246)


class IdentityTest(parameterized.TestCase):
  @parameterized.parameters(
    *((name, "affine") for name in ALL),
    *(("STN-SL1", family) for family in transforms.FAMILIES),
    ("STN-C0,1", "projective"),
  )
  def test_every_untrained_network_is_its_cnn(self, name, family):
    network, cnn = create(name, family=family), create("CNN")
    nnx.update(cnn.blocks, nnx.state(network.blocks))
    nnx.update(cnn.head, nnx.state(network.head))
    output = network(IMAGES)
    np.testing.assert_allclose(output.logits, cnn(IMAGES).logits, atol=1e-5)
    np.testing.assert_allclose(output.warped, IMAGES, atol=1e-6)
    size = 3 if family == "projective" and name != "CNN" else 2
    self.assertEqual(output.pose.shape, (3, size, 3))

  @parameterized.parameters("STN-C0", "STN-C1", "STN-DL1", "STN-SL1")
  def test_it_can_leave_the_identity(self, name):
    network = create(name)
    graphdef, params = nnx.split(network, nnx.Param)

    def loss(params):
      return (nnx.merge(graphdef, params)(IMAGES).logits ** 2).sum()

    grads = jax.grad(loss)(params)
    for net in grads["localisers"].values():
      self.assertGreater(np.abs(net["head"]["bias"][...]).max(), 1e-4)


class PlacementTest(parameterized.TestCase):
  @parameterized.parameters((0, (28, 28, 1)), (1, (10, 10, 3)), (2, (2, 2, 4)))
  def test_c_warps_the_features_at_its_depth(self, depth, shape):
    network = shake(create(f"STN-C{depth}"))
    x = jnp.asarray(IMAGES)
    for block in network.blocks[:depth]:
      x = block(x)
    self.assertEqual(x.shape[1:], shape)
    theta = network.localisers[str(depth)](x)
    logits = answer(network, stnjax.warp(x, theta, padding="border"), depth)
    output = network(IMAGES)
    np.testing.assert_allclose(output.logits, logits, atol=1e-5)
    np.testing.assert_allclose(output.thetas[0], theta, atol=1e-6)
    self.assertGreater(np.abs(theta - jnp.eye(2, 3)).max(), 0.01)

  @parameterized.product(kind=("DL", "SL"), depth=(1, 2))
  def test_dl_and_sl_warp_the_input(self, kind, depth):
    network = shake(create(f"STN-{kind}{depth}"))
    looking = network.copies[str(depth)] if kind == "DL" else network.blocks
    x = jnp.asarray(IMAGES)
    for block in looking[:depth]:
      x = block(x)
    theta = network.localisers[str(depth)](x)
    warped = x = stnjax.warp(IMAGES, theta, padding="border")
    for block in network.blocks:
      x = block(x)
    output = network(IMAGES)
    np.testing.assert_allclose(output.warped, warped, atol=1e-6)
    np.testing.assert_allclose(
      output.logits, network.head(x.reshape(3, -1)), atol=1e-5
    )

  def test_sl_shares_arrays_and_takes_gradients_from_both_uses(self):
    network = shake(create("STN-SL1"))
    self.assertEmpty(network.copies)
    graphdef, params = nnx.split(network, nnx.Param)

    def first_conv(state):
      return np.asarray(state["blocks"][0]["conv"]["kernel"][...])

    def loss(localising, classifying):
      """The same network, with the parameters of each use told apart."""
      look = nnx.merge(graphdef, localising)
      theta = look.localisers["1"](look.blocks[0](IMAGES))
      answer = nnx.merge(graphdef, classifying)
      x = stnjax.warp(IMAGES, theta, padding="border")
      for block in answer.blocks:
        x = block(x)
      return (answer.head(x.reshape(3, -1)) ** 2).sum()

    def whole(params):
      return (nnx.merge(graphdef, params)(IMAGES).logits ** 2).sum()

    uses = jax.grad(loss, (0, 1))(params, params)
    parts = [first_conv(use) for use in uses]
    for part in parts:
      self.assertGreater(np.abs(part).max(), 1e-4)
    np.testing.assert_allclose(
      first_conv(jax.grad(whole)(params)), sum(parts), rtol=1e-3, atol=1e-4
    )

  def test_dl_copy_is_independent(self):
    network = shake(create("STN-DL1"))
    copy, own = network.copies["1"][0].conv, network.blocks[0].conv
    self.assertGreater(np.abs(copy.kernel[...] - own.kernel[...]).max(), 0.01)
    before = network(IMAGES)
    copy.kernel[...] = -copy.kernel[...]
    after = network(IMAGES)
    self.assertGreater(np.abs(before.pose - after.pose).max(), 1e-3)
    own.kernel[...] = -own.kernel[...]
    np.testing.assert_array_equal(network(IMAGES).pose, after.pose)

  @parameterized.parameters("SL", "DL")
  def test_iterations_accumulate_and_resample_the_original(self, kind):
    network = shake(create(f"STN-{kind}1x2"))
    self.assertLen(network.localisers, 1)
    looking = (network.copies["1"] if kind == "DL" else network.blocks)[0]
    first = network.localisers["1"](looking(IMAGES))
    once = stnjax.warp(IMAGES, first, padding="border")
    second = network.localisers["1"](looking(once))
    square = [np.asarray(transforms.to_homogeneous(t)) for t in (first, second)]
    theta = (square[0] @ square[1])[:, :2]
    output = network(IMAGES)
    np.testing.assert_allclose(output.thetas[0], first, atol=1e-6)
    np.testing.assert_allclose(output.thetas[1], theta, atol=1e-5)
    np.testing.assert_allclose(
      output.warped, stnjax.warp(IMAGES, theta, padding="border"), atol=1e-4
    )

  def test_iterations_of_c_resample_the_same_features(self):
    network = shake(create("STN-C1x2"))
    original = network.blocks[0](IMAGES)
    first = network.localisers["1"](original)
    once = stnjax.warp(original, first, padding="border")
    theta = transforms.compose(first, network.localisers["1"](once))
    x = network.blocks[1](stnjax.warp(original, theta, padding="border"))
    output = network(IMAGES)
    np.testing.assert_allclose(output.thetas[1], theta, atol=1e-5)
    # Features span 20 of the 28 pixels.
    pose = np.array(theta)
    pose[..., 2] *= 20 / 28
    np.testing.assert_allclose(output.pose, pose, atol=1e-5)
    np.testing.assert_allclose(
      output.logits, network.head(x.reshape(3, -1)), atol=1e-4
    )

  def test_several_depths(self):
    shared = shake(create("STN-SL0,1"))
    self.assertLen(shared(IMAGES).thetas, 2)
    np.testing.assert_array_equal(shared(IMAGES).pose, shared(IMAGES).thetas[1])
    through = shake(create("STN-C0,1"))
    first, second = through(IMAGES).thetas
    second = np.array(second)
    second[..., 2] *= 20 / 28
    np.testing.assert_allclose(
      through(IMAGES).pose, transforms.compose(first, second), atol=1e-6
    )

  def test_a_shift_of_features_is_measured_in_pixels_of_the_input(self):
    """By two pixels of the input, which is one of the features."""
    network = create("STN-C1", family="translation")
    shifted = jnp.roll(IMAGES, 2, axis=2)
    network.localisers["1"].head.bias[...] = jnp.array([2 / 10, 0.0])
    output = network(shifted)
    inner = (slice(None), slice(None), slice(1, -2))
    np.testing.assert_allclose(
      stnjax.warp(network.blocks[0](shifted), output.thetas[0])[inner],
      network.blocks[0](IMAGES)[inner],
      atol=1e-5,
    )
    applied = evaluation.applied(np.asarray(output.pose), (28, 28))
    np.testing.assert_allclose(applied["translation_x"], -2, atol=1e-4)
    np.testing.assert_allclose(
      output.warped[:, :, :-2], IMAGES[:, :, :-2], atol=1e-5
    )

  @parameterized.parameters(
    ((Conv(1, 9, pool=2, padding="VALID"), Conv(1, 3, padding="VALID")), 28),
    ((Conv(1, 5, pool=2), Conv(1, 3)), 20),
    ((Conv(1, 3, pool=3), Conv(1, 4)), 21),
  )
  def test_where_features_lie(self, layers, side):
    """Against the middle of what moves each feature, its receptive field."""
    rng = np.random.default_rng(0)
    blocks = [
      networks.Block(1, layer, slope=1.0, rngs=nnx.Rngs(0)) for layer in layers
    ]
    for block in blocks:
      block.conv.kernel[...] = jnp.ones_like(block.conv.kernel[...])

    def line(images):  # features of the middle row, [B, W]
      for block in blocks:
        images = block(images)
      return images[:, images.shape[1] // 2, :, 0]

    images = jnp.asarray(rng.uniform(size=(64, side, side, 1)), jnp.float32)
    count = line(images).shape[1]
    frame = networks.input_from_features(layers, (count,) * 2, (side,) * 2)
    slopes = jax.jit(jax.grad(lambda x, at: line(x)[:, at].sum()))
    # Away from the border, which cuts fields off.
    for place in range(count // 2 - 1, count // 2 + 1):
      moved = slopes(images, place)
      columns = np.flatnonzero(np.abs(moved).sum(axis=(0, 1, 3)))
      middle = (columns.min() + columns.max() + 1) / side - 1
      at = (2 * place + 1) / count - 1
      np.testing.assert_allclose(
        frame[0, 0] * at + frame[0, 2], middle, atol=1e-6
      )


class HalvingTest(parameterized.TestCase):
  """What the last run of the transformer warps comes out at half its size."""

  def test_untrained_it_classifies_the_mean_of_every_four_pixels(self):
    small = IMAGES.reshape(3, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    for name in ("STN-C0", "STN-DL1", "STN-SL1", "STN-SL1x2"):
      network = create(name, HALVING)
      output = network(IMAGES)
      np.testing.assert_allclose(output.warped, small, atol=1e-5)
      np.testing.assert_allclose(
        output.logits, answer(network, small), atol=1e-4
      )

  @parameterized.parameters(1, 2)
  def test_c_halves_its_features(self, depth):
    network = create(f"STN-C{depth}", HALVING)
    x = jnp.asarray(IMAGES)
    for block in network.blocks[:depth]:
      x = block(x)
    side, filters = (12, 3) if depth == 1 else (5, 4)
    self.assertEqual(x.shape, (3, side, side, filters))
    if side == 12:
      x = np.asarray(x).reshape(3, 6, 2, 6, 2, 3).mean(axis=(2, 4))
    else:  # samples at 0.75 and 3.25: the second is between rows 3 and 4
      weights = np.zeros((2, 5))
      weights[[0, 0, 1, 1], [0, 1, 3, 4]] = 0.25, 0.75, 0.75, 0.25
      x = np.einsum("yi,xj,bijc->byxc", weights, weights, x)
    output = network(IMAGES)
    np.testing.assert_allclose(
      output.logits, answer(network, x, depth), atol=1e-4
    )
    self.assertEqual(output.warped.shape, IMAGES.shape)  # but not the picture

  def test_shifted_images_are_halved_once(self):
    """By the transformer, or before: it returns 30 x 30 pixels either way."""
    for shrink in (1, 2):
      images = jnp.ones((2, 60 // shrink, 60 // shrink, 1))
      output = nnx.eval_shape(
        lambda images=images, shrink=shrink: networks.create(
          "STN-C0",
          perturbation="translation",
          width=0.05,
          shrink=shrink,
          rngs=nnx.Rngs(0),
        )(images)
      )
      self.assertEqual(output.warped.shape, (2, 30, 30, 1))

  @parameterized.parameters("C", "DL", "SL")
  def test_repeated_iterations_halve_at_the_last(self, kind):
    network = shake(create(f"STN-{kind}1x3", HALVING))
    first = network.blocks[0]
    looking = network.copies["1"][0] if kind == "DL" else first
    original = first(IMAGES) if kind == "C" else IMAGES
    x, theta, thetas = original, None, []
    for _ in range(3):
      self.assertEqual(x.shape, original.shape)
      features = x if kind == "C" else looking(x)
      step = network.localisers["1"](features)
      theta = step if theta is None else transforms.compose(theta, step)
      thetas.append(theta)
      x = stnjax.warp(original, theta, padding="border")
    half = [side // 2 for side in original.shape[1:3]]
    x = stnjax.warp(original, theta, output_shape=half, padding="border")
    output = network(IMAGES)
    for found, expected in zip(output.thetas, thetas, strict=True):
      np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(
      output.logits, answer(network, x, int(kind == "C")), atol=1e-3
    )
    if kind != "C":
      np.testing.assert_allclose(output.warped, x, atol=1e-3)

  def test_a_cnn_halves_nothing(self):
    network = create("CNN", HALVING)
    self.assertEqual(network(IMAGES).warped.shape, IMAGES.shape)
    self.assertEqual(network.head.kernel.shape, (100, 10))


class DataSetTest(parameterized.TestCase):
  """The networks of every data set, very thin."""

  def make(self, name, dataset, perturbation="none", **options):
    return networks.create(
      name,
      dataset,
      perturbation,
      width=0.02,
      localisation_width=0.1,
      rngs=nnx.Rngs(0),
      **options,
    )

  @parameterized.parameters(
    ("mnist", "none", "STN-SL1", 28, 28, (10,)),
    ("mnist_subset", "rotation", "STN-C0", 28, 28, (10,)),
    ("mnist", "translation", "STN-SL1", 60, 30, (10,)),
    ("mnist", "translation", "STN-C1", 60, 60, (10,)),
    ("mnist", "scale", "STN-SL2", 112, 112, (10,)),
    ("svhn", "none", "STN-SL4", 64, 64, (5, 11)),
    ("street_numbers", "none", "STN-C0", 64, 64, (5, 11)),
    ("plankton", "free_augmentation", "STN-DL7", 95, 95, (121,)),
    ("cifar10", "light_augmentation", "STN-C4", 32, 32, (10,)),
    ("svhn_cropped", "none", "STN-SL0,2", 32, 32, (10,)),
  )
  def test_shapes(self, dataset, perturbation, name, side, warped, answer):
    channels = data.SETS[dataset].image_shape[-1]
    output = nnx.eval_shape(
      lambda: self.make(name, dataset, perturbation)(
        jnp.zeros((2, side, side, channels))
      )
    )
    self.assertEqual(output.logits.shape, (2, *answer))
    self.assertEqual(output.warped.shape, (2, warped, warped, channels))

  @parameterized.parameters(
    ("svhn", [32, 32, 16, 16, 8, 8, 4, 4]),
    ("plankton", [95, 47, 47, 23, 23, 23, 11, 11, 11, 5]),
    ("cifar10", [32, 16, 16, 8, 8, 4]),
  )
  def test_sides_of_the_features(self, dataset, sides):
    shape = data.SETS[dataset].image_shape

    def forward():
      x, found = jnp.zeros((1, *shape)), []
      for block in self.make("CNN", dataset).blocks:
        x = block(x)
        found.append(x)
      return found

    found = nnx.eval_shape(forward)
    self.assertEqual([x.shape[1] for x in found], sides)
    self.assertEqual([x.shape[2] for x in found], sides)

  @parameterized.parameters(
    ("svhn", 8), ("plankton", 10), ("cifar10", 6), ("mnist", 2)
  )
  def test_depths_end_at_the_last_block(self, dataset, deepest):
    nnx.eval_shape(lambda: self.make(f"STN-C{deepest}", dataset))
    with self.assertRaisesRegex(
      ValueError, f"depth {deepest + 1} is deeper.*0 to {deepest}"
    ):
      nnx.eval_shape(lambda: self.make(f"STN-C{deepest + 1}", dataset))

  @parameterized.parameters(
    ("mnist", "border"),
    ("plankton", "border"),
    ("svhn", "zeros"),
    ("street_numbers", "zeros"),
    ("cifar10", "zeros"),
    ("svhn_cropped", "zeros"),
  )
  def test_padding_is_the_paper_s_unless_told(self, dataset, padding):
    self.assertEqual(self.make("STN-C0", dataset).padding, padding)
    other = self.make("STN-C0", dataset, padding="reflection")
    self.assertEqual(other.padding, "reflection")

  @parameterized.product(kind=("C", "SL"), padding=("zeros", "border"))
  def test_padding_fills_what_is_outside(self, kind, padding):
    network = create(f"STN-{kind}1", padding=padding)
    # More than two units to the side, of features, too: nothing is left.
    bias = jnp.zeros(6).at[2].set(3.0)
    network.localisers["1"].head.bias[...] = bias
    output = network(IMAGES)
    edge = np.broadcast_to(IMAGES[:, :, -1:], IMAGES.shape)
    expected = edge if padding == "border" else 0 * edge
    np.testing.assert_allclose(output.warped, expected, atol=1e-5)
    x = jnp.asarray(expected)
    if kind == "C":
      x = network.blocks[0](IMAGES)
      edge = jnp.broadcast_to(x[:, :, -1:], x.shape)
      x = edge if padding == "border" else 0 * edge
    np.testing.assert_allclose(
      output.logits, answer(network, x, int(kind == "C")), atol=1e-4
    )

  @parameterized.parameters(
    ("street_numbers", "STN-SL4"),
    ("plankton", "STN-C2"),
    ("cifar10", "STN-DL2"),
  )
  def test_every_untrained_network_is_its_cnn(self, dataset, name):
    shape = data.SETS[dataset].image_shape
    images = np.random.default_rng(0).normal(size=(2, *shape))
    images = images.astype(np.float32)
    network, cnn = self.make(name, dataset), self.make("CNN", dataset)
    for name in ("blocks", "dense", "head"):
      nnx.update(getattr(cnn, name), nnx.state(getattr(network, name)))
    found, expected = (nnx.jit(n)(images) for n in (network, cnn))
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    np.testing.assert_allclose(found.warped, images, atol=1e-6)
    self.assertGreater(np.abs(expected.logits).max(), 1e-3)

  def test_heads_answer_side_by_side(self):
    network = create("CNN", num_classes=4, heads=3)
    x = jnp.asarray(IMAGES)
    flat = answer(network, x)
    logits = network(x).logits
    self.assertEqual(logits.shape, (3, 3, 4))
    for head in range(3):
      np.testing.assert_allclose(
        logits[:, head], flat[:, 4 * head : 4 * head + 4], atol=1e-5
      )


def passing(name="CNN", *, slope=1.0, hidden=0, **layer):
  """A network on 8 x 8 pixels whose logits are what its layers make of them."""
  classifier = classifiers.Classifier(
    convs=(Conv(1, 1, **layer),),
    dense=(64,) * hidden,
    dropout=0.3 * bool(hidden),
    slope=slope,
    localisation={"small": Localisation()},
  )
  network = create(name, classifier, (8, 8, 1), num_classes=64)
  for conv in (block.conv for block in network.blocks):
    conv.kernel[...] = jnp.ones((1, 1, 1, 1))
  for linear in (*network.dense, network.head):
    linear.kernel[...] = jnp.eye(64)
  return network


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


class DropoutTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"dropout": 0.4}, 0.4),
    ({"hidden": 1}, 0.3),
    ({"dropout": 0.4, "hidden": 1}, 1 - 0.6 * 0.7),
  )
  def test_a_share_is_dropped_and_the_rest_scaled(self, options, rate):
    images = jnp.ones((200, 8, 8, 1))
    logits = passing(**options)(images, train=True, keys=keys(200)).logits
    found = np.unique(np.round(logits, 4))
    np.testing.assert_allclose(found, [0, 1 / (1 - rate)], atol=1e-3)
    dropped = np.asarray(logits == 0)
    # Standard error 0.004 of the mean, 0.035 of a pixel's.
    self.assertAlmostEqual(dropped.mean(), rate, delta=0.02)
    np.testing.assert_allclose(dropped.mean(axis=0), rate, atol=0.17)
    # No two images drop the same.
    self.assertLen(np.unique(dropped, axis=0), 200)

  def test_an_image_s_dropout_hangs_on_its_own_key_alone(self):
    network = passing(dropout=0.5, hidden=1)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    images, own = images.astype(np.float32), keys(4)
    whole = network(images, train=True, keys=own).logits
    order = np.array([2, 0, 3])
    other = network(images[order], train=True, keys=own[order]).logits
    np.testing.assert_array_equal(other, whole[order])
    one = network(images[1:2], train=True, keys=own[1:2]).logits
    np.testing.assert_array_equal(one[0], whole[1])
    fresh = network(images, train=True, keys=keys(4, 1)).logits
    self.assertTrue(((fresh == 0) != (whole == 0)).any(axis=1).all())

  def test_it_is_off_in_evaluation(self):
    network = passing(dropout=0.5, hidden=1)
    images = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    for given in (None, keys(4)):
      logits = network(images, keys=given).logits
      np.testing.assert_allclose(logits, images.reshape(4, 64), atol=1e-6)

  def test_training_needs_keys(self):
    with self.assertRaisesRegex(ValueError, "keys must be given"):
      passing(dropout=0.5)(jnp.ones((2, 8, 8, 1)), train=True)
    passing()(jnp.ones((2, 8, 8, 1)), train=True)  # nothing to drop

  def test_a_shared_block_drops_anew_in_each_use(self):
    network = passing("STN-SL1", dropout=0.5)
    seen = []

    def look(_, features):
      seen.append(features)
      return jnp.broadcast_to(transforms.identity(), (len(features), 2, 3))

    with mock.patch.object(localisation.LocalisationNet, "__call__", look):
      images = jnp.ones((4, 8, 8, 1))
      logits = network(images, train=True, keys=keys(4)).logits
    used = [np.asarray(seen[0]).reshape(4, 64) == 0, np.asarray(logits) == 0]
    for dropped in used:
      self.assertBetween(dropped.mean(), 0.35, 0.65)
    self.assertBetween((used[0] == used[1]).mean(), 0.35, 0.65)


class BlockTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1 / 3)
  def test_slope_below_zero(self, slope):
    images = np.linspace(-2, 2, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    logits = passing(slope=slope)(images).logits
    expected = np.where(images > 0, images, slope * images)
    np.testing.assert_allclose(logits, expected.reshape(1, 64), atol=1e-6)
    logits = passing(slope=slope, hidden=1)(images).logits
    twice = np.where(images > 0, images, slope**2 * images)
    np.testing.assert_allclose(logits, twice.reshape(1, 64), atol=1e-6)

  def test_batch_norm_then_pool_then_nonlinearity(self):
    layer = Conv(2, 3, pool=2, batch_norm=True)
    block = networks.Block(3, layer, slope=0.1, rngs=nnx.Rngs(0))
    scale, bias = np.array([-2.0, 0.5]), np.array([0.3, -0.1])
    block.norm.scale[...], block.norm.bias[...] = jnp.array([scale, bias])
    x = np.random.default_rng(0).normal(1, 2, (5, 4, 6, 3)).astype(np.float32)
    convolved = np.asarray(block.conv(x), np.float64)
    self.assertEqual(convolved.shape, (5, 4, 6, 2))

    def rest(mean, variance):
      y = scale * (convolved - mean) / np.sqrt(variance + 1e-5) + bias
      y = y.reshape(5, 2, 2, 3, 2, 2).max(axis=(2, 4))
      return np.where(y > 0, y, 0.1 * y)

    mean, variance = (f(convolved, axis=(0, 1, 2)) for f in (np.mean, np.var))
    np.testing.assert_allclose(block(x), rest(0, 1), atol=1e-5)
    trained = block(x, networks._Pass(True, None))
    np.testing.assert_allclose(trained, rest(mean, variance), atol=1e-5)
    moved = 0.01 * mean, 0.99 + 0.01 * variance
    np.testing.assert_allclose(block.norm.mean[...], moved[0], rtol=1e-4)
    np.testing.assert_allclose(block.norm.var[...], moved[1], rtol=1e-4)
    np.testing.assert_allclose(block(x), rest(*moved), atol=1e-5)

  def test_compiled_gradients_through_batch_norm_and_pool(self):
    """Compiled apart, the norm may be rounded otherwise than in its pool."""
    block = networks.Block(
      4, Conv(4, 3, pool=2, batch_norm=True), slope=0.1, rngs=nnx.Rngs(0)
    )
    graphdef, state = nnx.split(block)
    x = np.random.default_rng(0).normal(size=(16, 24, 24, 4))

    def loss(x):
      block = nnx.merge(graphdef, state, copy=True)
      return jnp.sin(block(x, networks._Pass(True, None))).sum()

    x = x.astype(np.float32)
    found = jax.jit(jax.grad(loss))(x)
    self.assertTrue(np.isfinite(found).all())
    np.testing.assert_allclose(found, jax.grad(loss)(x), atol=1e-4)


class ThetaGradientTest(parameterized.TestCase):
  @parameterized.parameters("STN-C1", "STN-DL1", "STN-SL1", "STN-SL0")
  def test_it_scales_what_flows_through_theta_and_nothing_else(self, name):
    depth = int(name[-1])
    kind = name[4:-1]
    factor = 0.125
    plain = shake(create(name))
    scaled = shake(create(name, theta_gradient=factor))
    graphdef, params = nnx.split(plain, nnx.Param)

    def loss(localising, classifying):
      """The plain network, the parameters of each use told apart."""
      look = nnx.merge(graphdef, localising)
      final = nnx.merge(graphdef, classifying)
      x, own = jnp.asarray(IMAGES), jnp.asarray(IMAGES)
      seen = look.copies[str(depth)] if kind == "DL" else look.blocks[:depth]
      for block in seen:
        x = block(x)
      if kind == "C":
        for block in final.blocks[:depth]:
          own = block(own)
      theta = look.localisers[str(depth)](x)
      warped = stnjax.warp(own, theta, padding="border")
      return (answer(final, warped, depth * (kind == "C")) ** 2).sum()

    def whole(params):
      network = nnx.merge(nnx.graphdef(scaled), params)
      return (network(IMAGES).logits ** 2).sum()

    through, direct = jax.grad(loss, (0, 1))(params, params)
    found = jax.grad(whole)(params)
    self.assertGreater(
      max(np.abs(g).max() for g in jax.tree.leaves(through)), 1e-3
    )
    for g, t, d in zip(*map(jax.tree.leaves, (found, through, direct))):
      size = max(np.abs(t).max(), np.abs(d).max(), 1e-3)
      np.testing.assert_allclose(g, factor * t + d, atol=1e-4 * size)
    np.testing.assert_allclose(
      scaled(IMAGES).logits, plain(IMAGES).logits, atol=1e-5
    )


class PartTest(parameterized.TestCase):
  @parameterized.parameters(
    ("CNN", "rest", "rest"),
    ("STN-C0", "rest", "rest"),
    ("STN-C1", "before", "rest"),
    ("STN-SL2", "before", "before"),
    ("STN-SL0,1", "before", "rest"),
    ("STN-DL2", "rest", "rest"),
    ("STN-UCN1", "before", "rest"),
    ("DEF0", "rest", "rest"),
  )
  def test_parts(self, name, first, second):
    network = nnx.eval_shape(functools.partial(create, name))
    found = {"localisers": set(), "copies": set(), "0": set(), "1": set()}
    for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param)):
      part = placements.part(path, network.placement)
      key = str(path[1]) if path[0] == "blocks" else path[0]
      found.setdefault(key, set()).add(part)
    self.assertEqual(found["0"], {first})
    self.assertEqual(found["1"], {second})
    self.assertEqual(found["head"], {"rest"})
    self.assertLessEqual(
      found["localisers"] | found["copies"], {"localisation"}
    )

  def test_iterated_repeats_the_last_depth(self):
    placement = placements.parse("STN-SL0,1")
    self.assertEqual(placement.iterated(2).depths, (0, 1, 1, 1))
    self.assertEqual(placement.iterated(0), placement)


class BatchNormTest(absltest.TestCase):
  def test_it_follows_the_transformer_without_parameters(self):
    plain, normed = create("STN-SL1"), create("STN-SL1", batch_norm=True)
    self.assertEqual(
      networks.count_parameters(plain), networks.count_parameters(normed)
    )
    seen, call = [], networks.Block.__call__

    def noting(block, x, how=None):
      if block is normed.blocks[0]:
        seen.append(x)
      return call(block, x, how)

    with mock.patch.object(networks.Block, "__call__", noting):
      normed(5 + 3 * jnp.asarray(IMAGES), train=True)
    self.assertLen(seen, 2)
    self.assertAlmostEqual(float(seen[-1].mean()), 0, places=4)
    self.assertAlmostEqual(float(seen[-1].std()), 1, places=2)
    stats = normed.norms["1"]
    before = float(stats.mean[...][0])
    self.assertGreater(before, 0.01)  # moved towards 5
    normed(5 + 3 * jnp.asarray(IMAGES))
    self.assertEqual(float(stats.mean[...][0]), before)


if __name__ == "__main__":
  absltest.main()
