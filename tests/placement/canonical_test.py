"""STN-CAN: invariant by construction, refined by a transformer."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import placement, transforms
from stnjax.nn.canonicalisation import POSES
from tests.placement import tiny
from tests.placement.tiny import IMAGES, answer, through


def create(name, family="rotation", **options):
  return tiny.create(name, family=family, **options)


def shaken(network, depth, scale=0.3):
  """With scores and a refinement that are not zero."""
  tiny.shake(network, scale=scale)
  head = network.sites[str(depth)]["search"].scorer.head
  values = np.random.default_rng(2).normal(0, 0.1, head.kernel.shape)
  head.kernel[...] = jnp.asarray(values, jnp.float32)
  return network


call = nnx.jit(lambda network, images: network(images))


def trained(network, steps=3):
  """After some steps of training, all parameters of which change."""
  graphdef, params, rest = nnx.split(network, nnx.Param, ...)

  @jax.jit
  @jax.grad
  def gradient(params):
    logits = nnx.merge(graphdef, params, rest)(IMAGES).logits
    return ((logits - jnp.arange(10.0)) ** 2).mean()

  for _ in range(steps):
    slope = gradient(params)
    params = jax.tree.map(lambda p, g: p - 1e-4 * g, params, slope)
  return nnx.merge(graphdef, params, rest), slope


class IdentityTest(parameterized.TestCase):
  @parameterized.parameters("STN-CAN0", "STN-CAN1")
  @pytest.mark.slow
  def test_an_untrained_network_is_its_cnn(self, name):
    network, cnn = create(name), create("CNN")
    nnx.update(cnn.stages, nnx.state(network.stages))
    nnx.update(cnn.head, nnx.state(network.head))
    output = call(network, IMAGES)
    np.testing.assert_allclose(output.logits, cnn(IMAGES).logits, atol=1e-5)
    np.testing.assert_allclose(output.warped, IMAGES, atol=1e-6)


class InvarianceTest(parameterized.TestCase):
  @parameterized.parameters(("STN-CAN0", "rotation"), ("STN-CAN1", "rotation"))
  @pytest.mark.slow
  def test_quarter_turns_change_nothing_behind_the_transformer(
    self, name, family
  ):
    self.compare(name, family)

  @pytest.mark.slow
  def test_quarter_turns_of_similarities(self):
    self.compare("STN-CAN1", "similarity")

  def compare(self, name, family):
    network = shaken(create(name, family), name[-1])
    network, slope = trained(network)
    search = slope["sites"][name[-1]]["search"]
    self.assertGreater(np.abs(search["scorer"]["head"]["kernel"][...]).max(), 0)
    before = call(network, IMAGES)
    after = call(network, np.rot90(IMAGES, axes=(1, 2)).copy())
    # The pose turns with the image by a quarter of the circle.
    turn = np.array([[0.0, 1.0], [-1.0, 0.0]])
    np.testing.assert_allclose(after.pose, turn @ before.pose, atol=1e-5)
    np.testing.assert_allclose(after.warped, before.warped, atol=1e-4)
    np.testing.assert_allclose(after.logits, before.logits, atol=1e-4)
    whole = np.abs(np.asarray(before.pose) - np.eye(2, 3)).max(axis=(1, 2))
    self.assertGreater(whole.min(), 0.01)


class PartsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("STN-CAN0", "scale"), ("STN-CAN1", "rotation"), ("STN-CAN2", "translation")
  )
  @pytest.mark.slow
  def test_the_refinement_reads_the_copy_of_the_best_score(self, name, family):
    depth = int(name[-1])
    network = shaken(create(name, family), depth)
    scorer = network.sites[name[-1]]["search"].scorer
    output = call(network, IMAGES)
    for index, image in enumerate(IMAGES):
      thetas = [
        transforms.matrix(pose.astype(np.float32), family)
        for pose in POSES[family]
      ]
      copies = [
        stnjax.warp(image[None], theta, padding="border") for theta in thetas
      ]
      features = [through(network.stages[:depth], copy) for copy in copies]
      best = int(np.argmax([float(scorer(x)[0, 0]) for x in features]))
      step = tiny.theta(network, depth, features[best])
      theta = transforms.compose(thetas[best][None], step)
      np.testing.assert_allclose(output.pose[index], theta[0], atol=1e-4)
      warped = stnjax.warp(image[None], theta, padding="border")
      np.testing.assert_allclose(output.warped[index], warped[0], atol=1e-3)
      logits = answer(network, warped)
      np.testing.assert_allclose(output.logits[index], logits[0], atol=1e-3)

  def test_parameters_belong_to_localisation_or_come_before(self):
    network = create("STN-CAN1")
    found = {}
    for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param)):
      part = placement.part(path, network.placement)
      found.setdefault(part, set()).add(path[:2])
    self.assertEqual(found["localisation"], {("sites", "1")})
    self.assertEqual(found["before"], {("stages", 0)})
    counts = placement.count_parameters(network)
    scorer = nnx.state(network.sites["1"]["search"], nnx.Param)
    self.assertGreater(
      counts["localisation"], sum(p.size for p in jax.tree.leaves(scorer))
    )

  @pytest.mark.slow
  def test_a_transformer_that_halves(self):
    network = shaken(
      create("STN-CAN0", "translation", classifier=tiny.HALVING), 0
    )
    self.assertEqual(call(network, IMAGES).warped.shape, (3, 14, 14, 1))


class OptionsTest(parameterized.TestCase):
  @parameterized.parameters("affine", "projective")
  def test_a_family_without_poses_is_refused(self, family):
    with self.assertRaisesRegex(
      ValueError, f"'STN-CAN0'.*family='{family}'; accepted: rotation, scale"
    ):
      create("STN-CAN0", family)

  def test_poses_of_another_family_can_be_registered(self):
    poses = np.zeros((3, 6))
    poses[1:, 2] = -0.5, 0.5
    POSES.register("affine", poses)
    self.addCleanup(POSES._objects.pop, "affine")
    self.assertLen(create("STN-CAN0", "affine").sites["0"]["search"].poses, 3)

  @parameterized.parameters("STN-CAN", "STN-CAN0,1", "STN-CAN0x2")
  def test_it_runs_once(self, name):
    with self.assertRaisesRegex(ValueError, "is unknown"):
      placement.parse(name)

  @pytest.mark.slow
  def test_batch_norms_and_dropout_of_copies(self):
    """In training the statistics are those of all copies, too."""
    task = placement.Task((28, 28, 1), 10)
    network = placement.create(
      "cifar", "STN-CAN2", task, width=0.1, family="rotation", rngs=nnx.Rngs(0)
    )
    keys = jax.random.split(jax.random.key(0), 3)
    norm = network.stages[0].norm
    before = np.asarray(norm.mean[...])
    output = network(IMAGES, train=True, keys=keys)
    self.assertTrue(np.isfinite(output.logits).all())
    self.assertGreater(np.abs(norm.mean[...] - before).max(), 0)
    with self.assertRaisesRegex(ValueError, "keys must be given"):
      network(IMAGES, train=True)


class CopiesContextTest(absltest.TestCase):
  def test_dropout_is_alike_for_copies_and_anew_for_the_pass(self):
    keys = jax.random.split(jax.random.key(0), 2)
    context = placement.Context(True, keys)
    own = context.of_copies(3)
    ones = jnp.ones((6, 50))
    dropped = np.asarray(own.dropout(ones, 0.5)).reshape(2, 3, 50)
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 1])
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 2])
    self.assertGreater(np.abs(dropped[0] - dropped[1]).max(), 0)
    later = np.asarray(context.dropout(jnp.ones((2, 50)), 0.5))
    self.assertGreater(np.abs(later - dropped[:, 0]).max(), 0)

  def test_nothing_is_dropped_in_evaluation(self):
    own = placement.Context().of_copies(3)
    self.assertFalse(own.train)
    np.testing.assert_array_equal(own.dropout(jnp.ones((6, 5)), 0.5), 1)


if __name__ == "__main__":
  absltest.main()
