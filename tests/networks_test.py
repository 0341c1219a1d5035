"""Placement: what is shared, what is warped, what accumulates."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import localisation, networks, transforms

# Worked out by hand: conv9 81 F + F, conv7 49 F F + F, dense 40 F + 10; a
# localisation net w (features + 1) + 32 (w + 1) + 32 * 33 + 6 * 33.
CLASSIFIER = {16: 14_522, 64: 208_586}
LOCALISATION = {
  ("CNN", 16): 0,
  ("STN-C0", 16): 27_430,  # 32 wide on 784 pixels
  ("STN-C1", 16): 27_414,  # 16 wide on 10 x 10 x 16 features
  ("STN-C2", 16): 27_476,  # 270 wide on 2 x 2 x 16
  ("STN-DL1", 16): 27_414 + 1_312,
  ("STN-SL1", 16): 27_414,
  ("STN-SL1x3", 16): 27_414,
  ("STN-SL0,1", 16): 27_430 + 27_414,
  ("STN-DL2", 16): 27_476 + 1_312 + 12_560,
  ("STN-C0", 64): 27_430,
  ("STN-C1", 64): 104_214,  # not below 16 wide, on 10 x 10 x 64
  ("STN-DL1", 64): 104_214 + 5_248,
  ("STN-SL1", 64): 104_214,
}


def create(name, filters=(3, 4), **options):
  return networks.create(name, filters=filters, rngs=nnx.Rngs(0), **options)


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
  )
  def test_names(self, name, kind, depths):
    self.assertEqual(
      networks.parse_placement(name), networks.Placement(kind, depths)
    )

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
  )
  def test_other_names_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, "network="):
      networks.parse_placement(name)

  @parameterized.parameters("STN-C3", "STN-DL3", "STN-SL0,7")
  def test_depth_beyond_the_blocks_is_refused(self, name):
    with self.assertRaisesRegex(ValueError, "accepted: 0 to 2"):
      create(name)

  @parameterized.parameters(
    (dict(filters=(4,)), "filters must be two"),
    (dict(family="euclid"), "family='euclid'"),
    (dict(image_shape=(12, 12, 1)), "too small"),
  )
  def test_options_are_checked(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      create("STN-SL1", **options)


class CountTest(parameterized.TestCase):
  @parameterized.parameters(*LOCALISATION)
  def test_parameter_counts(self, name, filters):
    counts = networks.count_parameters(create(name, (filters, filters)))
    self.assertEqual(counts["classifier"], CLASSIFIER[filters])
    self.assertEqual(counts["localisation"], LOCALISATION[name, filters])
    self.assertEqual(counts["total"], sum(counts.values()) // 2)

  def test_matched_widths(self):
    self.assertEqual(localisation.matched_widths((32, 32), 784, 784), (32, 32))
    self.assertEqual(localisation.matched_widths((), 10, 784), ())
    self.assertEqual(localisation.matched_widths((1,), 10**6, 784), (1,))


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

  @parameterized.parameters(*(n for n in ALL if n != "CNN"))
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
    x = stnjax.warp(x, theta, padding="border")
    for block in network.blocks[depth:]:
      x = block(x)
    logits = network.head(x.reshape(3, -1))
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
    np.testing.assert_allclose(output.pose, theta, atol=1e-5)
    np.testing.assert_allclose(
      output.logits, network.head(x.reshape(3, -1)), atol=1e-4
    )

  def test_several_depths(self):
    shared = shake(create("STN-SL0,1"))
    self.assertLen(shared(IMAGES).thetas, 2)
    np.testing.assert_array_equal(shared(IMAGES).pose, shared(IMAGES).thetas[1])
    through = shake(create("STN-C0,1"))
    output = through(IMAGES)
    np.testing.assert_allclose(
      output.pose, transforms.compose(*output.thetas), atol=1e-6
    )


class BatchNormTest(absltest.TestCase):
  def test_it_follows_the_transformer_without_parameters(self):
    plain, normed = create("STN-SL1"), create("STN-SL1", batch_norm=True)
    self.assertEqual(
      networks.count_parameters(plain), networks.count_parameters(normed)
    )
    seen = []
    block = normed.blocks[0]
    normed.blocks[0] = nnx.Sequential(lambda x: seen.append(x) or x, block)
    normed(5 + 3 * jnp.asarray(IMAGES), train=True)
    self.assertAlmostEqual(float(seen[-1].mean()), 0, places=4)
    self.assertAlmostEqual(float(seen[-1].std()), 1, places=2)
    stats = normed.norms["1"]
    before = float(stats.mean[...][0])
    self.assertGreater(before, 0.01)  # moved towards 5
    normed(5 + 3 * jnp.asarray(IMAGES))
    self.assertEqual(float(stats.mean[...][0]), before)


if __name__ == "__main__":
  absltest.main()
