"""What each placement looks at, what it warps, and what accumulates."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import transforms
from tests.placement import tiny
from tests.placement.tiny import IMAGES, answer, create, shake, through


def looking_through(network, kind, depth):
  """The stages that localisation looks through."""
  if kind == "DL":
    return network.sites[str(depth)]["stages"]
  return network.stages[:depth]


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters("STN-C3", "STN-DL3", "STN-SL0,7")
  def test_depth_beyond_the_stages_is_refused(self, name):
    with self.assertRaisesRegex(ValueError, "accepted: 0 to 2"):
      create(name)

  @parameterized.parameters(
    (dict(localisation="huge"), "localisation='huge'.*'small'"),
    (dict(padding="edge"), "padding='edge'.*'border'"),
    (dict(family="euclid"), "family='euclid'"),
    (dict(image_shape=(12, 12, 1)), "too small"),
    (dict(geometry=()), "geometry must have 3 entries"),
  )
  def test_options_are_checked(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      create("STN-SL1", **options)


class IdentityTest(parameterized.TestCase):
  @parameterized.parameters("STN-C1", "STN-DL2", "STN-SL0,1", "STN-C0,1")
  def test_every_untrained_network_is_its_cnn(self, name):
    self.compare(name, "affine")

  @parameterized.parameters(
    *((name, "affine") for name in ("STN-C0", "STN-C2", "STN-SL1x2")),
    *((name, "affine") for name in ("STN-DL0,1x2", "STN-SL2")),
    *(
      ("STN-SL1", family)
      for family in ("translation", "rotation", "similarity", "projective")
    ),
    ("STN-C0,1", "projective"),
  )
  @pytest.mark.slow
  def test_every_other_untrained_network_is_its_cnn(self, name, family):
    self.compare(name, family)

  def compare(self, name, family):
    network, cnn = create(name, family=family), create("CNN")
    nnx.update(cnn.stages, nnx.state(network.stages))
    nnx.update(cnn.head, nnx.state(network.head))
    output = network(IMAGES)
    np.testing.assert_allclose(output.logits, cnn(IMAGES).logits, atol=1e-5)
    np.testing.assert_allclose(output.warped, IMAGES, atol=1e-6)
    size = 3 if family == "projective" else 2
    self.assertEqual(output.pose.shape, (3, size, 3))

  def test_heads_answer_side_by_side(self):
    network = create("CNN", num_classes=4, heads=3)
    flat, logits = answer(network, jnp.asarray(IMAGES)), network(IMAGES).logits
    self.assertEqual(logits.shape, (3, 3, 4))
    np.testing.assert_allclose(logits, flat.reshape(3, 3, 4), atol=1e-5)

  @pytest.mark.slow
  def test_it_can_leave_the_identity(self):
    """Even where features are 2 x 2, all edge."""
    graphdef, params = nnx.split(create("STN-C2"), nnx.Param)

    @jax.jit
    @jax.grad
    def gradient(params):
      return (nnx.merge(graphdef, params)(IMAGES).logits ** 2).sum()

    localiser = gradient(params)["sites"]["2"]["transformer"]["localiser"]
    self.assertGreater(np.abs(localiser["head"]["bias"][...]).max(), 1e-4)


class PlacementTest(parameterized.TestCase):
  @parameterized.parameters((0, (28, 28, 1)), (1, (10, 10, 3)), (2, (2, 2, 4)))
  def test_c_warps_the_features_at_its_depth(self, depth, shape):
    network = shake(create(f"STN-C{depth}"))
    x = through(network.stages[:depth], jnp.asarray(IMAGES))
    self.assertEqual(x.shape[1:], shape)
    theta = tiny.theta(network, depth, x)
    logits = answer(network, stnjax.warp(x, theta, padding="border"), depth)
    output = network(IMAGES)
    np.testing.assert_allclose(output.logits, logits, atol=1e-5)
    np.testing.assert_allclose(output.thetas[0], theta, atol=1e-6)
    self.assertGreater(np.abs(theta - jnp.eye(2, 3)).max(), 0.01)

  @parameterized.parameters(("DL", 2), ("SL", 1))
  def test_dl_and_sl_warp_the_input(self, kind, depth):
    network = shake(create(f"STN-{kind}{depth}"))
    looking = looking_through(network, kind, depth)
    theta = tiny.theta(network, depth, through(looking, jnp.asarray(IMAGES)))
    warped = stnjax.warp(IMAGES, theta, padding="border")
    output = network(IMAGES)
    np.testing.assert_allclose(output.warped, warped, atol=1e-6)
    np.testing.assert_allclose(
      output.logits, answer(network, warped), atol=1e-5
    )

  @pytest.mark.slow
  def test_sl_shares_arrays_and_takes_gradients_from_both_uses(self):
    network = shake(create("STN-SL1"))
    self.assertNotIn("stages", network.sites["1"])
    graphdef, params = nnx.split(network, nnx.Param)

    def first_conv(state):
      return np.asarray(state["stages"][0]["conv"]["kernel"][...])

    def loss(localising, classifying):
      """The same network, with separate parameters for each use."""
      look = nnx.merge(graphdef, localising)
      theta = tiny.theta(look, 1, look.stages[0](IMAGES))
      warped = stnjax.warp(IMAGES, theta, padding="border")
      return (answer(nnx.merge(graphdef, classifying), warped) ** 2).sum()

    def whole(params):
      return (nnx.merge(graphdef, params)(IMAGES).logits ** 2).sum()

    uses = jax.jit(jax.grad(loss, (0, 1)))(params, params)
    parts = [first_conv(use) for use in uses]
    for part in parts:
      self.assertGreater(np.abs(part).max(), 1e-4)
    np.testing.assert_allclose(
      first_conv(jax.jit(jax.grad(whole))(params)),
      sum(parts),
      rtol=1e-3,
      atol=1e-4,
    )

  def test_dl_copy_is_independent(self):
    network = shake(create("STN-DL1"))
    copy, own = network.sites["1"]["stages"][0].conv, network.stages[0].conv
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
    self.assertLen(network.sites, 1)
    (looking,) = looking_through(network, kind, 1)
    first = tiny.theta(network, 1, looking(IMAGES))
    once = stnjax.warp(IMAGES, first, padding="border")
    second = tiny.theta(network, 1, looking(once))
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
    original = network.stages[0](IMAGES)
    first = tiny.theta(network, 1, original)
    once = stnjax.warp(original, first, padding="border")
    theta = transforms.compose(first, tiny.theta(network, 1, once))
    warped = stnjax.warp(original, theta, padding="border")
    output = network(IMAGES)
    np.testing.assert_allclose(output.thetas[1], theta, atol=1e-5)
    # Features span 20 of the 28 pixels.
    for found, seen in ((output.pose, theta), (output.first_pose, first)):
      pose = np.array(seen)
      pose[..., 2] *= 20 / 28
      np.testing.assert_allclose(found, pose, atol=1e-5)
    np.testing.assert_allclose(
      output.logits, answer(network, warped, 1), atol=1e-4
    )

  def test_several_depths(self):
    shared = shake(create("STN-SL0,1"))(IMAGES)
    self.assertLen(shared.thetas, 2)
    np.testing.assert_array_equal(shared.pose, shared.thetas[1])
    np.testing.assert_array_equal(shared.first_pose, shared.thetas[0])
    features = shake(create("STN-C0,1"))(IMAGES)
    first, second = features.thetas
    second = np.array(second)
    second[..., 2] *= 20 / 28
    np.testing.assert_allclose(
      features.pose, transforms.compose(first, second), atol=1e-6
    )
    np.testing.assert_array_equal(features.first_pose, first)
    for name in ("CNN", "STN-C1", "STN-SL1"):  # it is the only one
      self.assertIsNone(create(name)(IMAGES).first_pose)

  @pytest.mark.slow
  def test_iterations_can_be_added_to_a_network(self):
    network = shake(create("STN-SL0,1", theta_gradient=0.5))
    larger = network.with_iterations(2, theta_gradient=0.25)
    self.assertEqual(larger.placement.name, "STN-SL0,1x3")
    self.assertEqual(larger.theta_gradient, 0.25)
    self.assertEqual(network.placement.name, "STN-SL0,1")
    before, after = network(IMAGES), larger(IMAGES)
    self.assertLen(after.thetas, 4)
    np.testing.assert_allclose(after.thetas[1], before.thetas[1], atol=1e-6)
    self.assertEqual(
      jax.tree.structure(nnx.state(larger)),
      jax.tree.structure(nnx.state(network)),
    )
    for name in ("CNN", "DEF1"):
      with self.assertRaisesRegex(ValueError, "no transformer to repeat"):
        create(name).with_iterations(1)

  def test_iterations_can_be_left_out_of_a_network(self):
    network = shake(create("STN-SL1x3"))
    smaller = network.with_iterations(-2)
    self.assertEqual(smaller.placement.name, "STN-SL1")
    before, after = network(IMAGES), smaller(IMAGES)
    np.testing.assert_allclose(after.pose, before.thetas[0], atol=1e-6)
    np.testing.assert_allclose(
      after.logits, answer(network, after.warped), atol=1e-5
    )
    with self.assertRaisesRegex(ValueError, "takes 1 to 32 depths, got 0"):
      network.with_iterations(-3)

  def test_a_shift_of_features_is_measured_in_pixels_of_the_input(self):
    """By two pixels of the input, which is one of the features."""
    network = create("STN-C1", family="translation")
    shifted = jnp.roll(IMAGES, 2, axis=2)
    tiny.localiser(network, 1).head.bias[...] = jnp.array([2 / 10, 0.0])
    output = network(shifted)
    inner = (slice(None), slice(None), slice(1, -2))
    np.testing.assert_allclose(
      stnjax.warp(network.stages[0](shifted), output.thetas[0])[inner],
      network.stages[0](IMAGES)[inner],
      atol=1e-5,
    )
    shift = np.broadcast_to([[1, 0, 2 * 2 / 28], [0, 1, 0]], (3, 2, 3))
    np.testing.assert_allclose(output.pose, shift, atol=1e-5)
    np.testing.assert_allclose(
      output.warped[:, :, :-2], IMAGES[:, :, :-2], atol=1e-5
    )

  @parameterized.product(kind=("C", "SL"), padding=("zeros", "border"))
  def test_padding_fills_what_is_outside(self, kind, padding):
    network = create(f"STN-{kind}1", padding=padding)
    # More than two units to the side, of features, too: nothing is left.
    bias = jnp.zeros(6).at[2].set(3.0)
    tiny.localiser(network, 1).head.bias[...] = bias
    output = network(IMAGES)
    edge = np.broadcast_to(IMAGES[:, :, -1:], IMAGES.shape)
    expected = edge if padding == "border" else 0 * edge
    np.testing.assert_allclose(output.warped, expected, atol=1e-5)
    x = jnp.asarray(expected)
    if kind == "C":
      x = network.stages[0](IMAGES)
      edge = jnp.broadcast_to(x[:, :, -1:], x.shape)
      x = edge if padding == "border" else 0 * edge
    np.testing.assert_allclose(
      output.logits, answer(network, x, int(kind == "C")), atol=1e-4
    )


class GridFamilyTest(parameterized.TestCase):
  """A family of grids that moves columns and rows by sines of each other."""

  def wave(self):
    lattice = stnjax.coordinates.lattice

    def grid(params, shape):
      points = lattice(shape)
      moved = params[..., None, None, :] * jnp.sin(jnp.pi * points[..., ::-1])
      return points + moved

    return transforms.Family(name="wave", num_params=lambda n: 2, grid=grid)

  @parameterized.parameters("STN-SL1", "STN-C0")
  def test_the_input_is_read_at_the_grid(self, name):
    family = self.wave()
    network = create(name, family=family)
    output = network(IMAGES)
    np.testing.assert_allclose(output.warped, IMAGES, atol=1e-6)
    np.testing.assert_array_equal(
      output.pose, np.broadcast_to(np.eye(2, 3), (3, 2, 3))
    )
    depth = int(name[-1])
    bias = jnp.array([0.1, -0.2])
    tiny.localiser(network, depth).head.bias[...] = bias
    output = network(IMAGES)
    np.testing.assert_allclose(output.thetas[0], np.tile(bias, (3, 1)))
    grid = family.grid(jnp.tile(bias, (3, 1)), (28, 28))
    warped = stnjax.grid_sample(IMAGES, grid, padding="border")
    np.testing.assert_allclose(
      output.logits, answer(network, warped), atol=1e-4
    )
    design = np.concatenate(
      [stnjax.coordinates.lattice((28, 28)), np.ones((28, 28, 1))], axis=-1
    )
    fit = np.linalg.lstsq(
      design.reshape(-1, 3), np.asarray(grid[0]).reshape(-1, 2), rcond=None
    )[0]
    np.testing.assert_allclose(output.pose[0], fit.T, atol=1e-5)

  def test_it_runs_once(self):
    for name in ("STN-SL1x2", "STN-C0,1"):
      with self.assertRaisesRegex(ValueError, "family='wave'.*one run"):
        create(name, family=self.wave())
    network = create("STN-SL1", family=self.wave())
    with self.assertRaisesRegex(ValueError, "no transformer to repeat"):
      network.with_iterations(1)


class ThetaGradientTest(parameterized.TestCase):
  @parameterized.parameters("STN-SL1", "STN-C1")
  @pytest.mark.slow
  def test_it_scales_what_flows_through_theta_and_nothing_else(self, name):
    self.check(name)

  @parameterized.parameters("STN-DL1", "STN-SL0")
  @pytest.mark.slow
  def test_of_other_placements_too(self, name):
    self.check(name)

  def check(self, name):
    depth, kind, factor = int(name[-1]), name[4:-1], 0.125
    plain = shake(create(name))
    scaled = shake(create(name, theta_gradient=factor))
    graphdef, params = nnx.split(plain, nnx.Param)

    def loss(localising, classifying):
      """The plain network, with separate parameters for each use."""
      look = nnx.merge(graphdef, localising)
      final = nnx.merge(graphdef, classifying)
      own = jnp.asarray(IMAGES)
      x = through(looking_through(look, kind, depth), own)
      if kind == "C":
        own = through(final.stages[:depth], own)
      warped = stnjax.warp(own, tiny.theta(look, depth, x), padding="border")
      return (answer(final, warped, depth * (kind == "C")) ** 2).sum()

    def whole(params):
      network = nnx.merge(nnx.graphdef(scaled), params)
      return (network(IMAGES).logits ** 2).sum()

    indirect, direct = jax.jit(jax.grad(loss, (0, 1)))(params, params)
    actual = jax.jit(jax.grad(whole))(params)
    self.assertGreater(
      max(np.abs(g).max() for g in jax.tree.leaves(indirect)), 1e-3
    )
    for g, t, d in zip(*map(jax.tree.leaves, (actual, indirect, direct))):
      size = max(np.abs(t).max(), np.abs(d).max(), 1e-3)
      np.testing.assert_allclose(g, factor * t + d, atol=1e-4 * size)
    np.testing.assert_allclose(
      scaled(IMAGES).logits, plain(IMAGES).logits, atol=1e-5
    )


if __name__ == "__main__":
  absltest.main()
