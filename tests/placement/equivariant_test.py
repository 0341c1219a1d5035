"""STN-EQ: networks whose transformer has an equivariant localiser."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import placement
from stnjax.nn import convolution
from stnjax.paper import backbones
from stnjax.placement import Backbone, Task
from tests.placement import tiny


class Lifting(nnx.Module):
  """One kernel in its four orientations, as group convolutions have them."""

  def __init__(self, rngs):
    self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, 3, 1, 2)))

  def __call__(self, x):
    turned = [
      convolution.conv(x, jnp.rot90(self.kernel[...], g), "SAME")
      for g in range(4)
    ]
    return nnx.relu(jnp.stack(turned, axis=-1).reshape(*x.shape[:3], 8))


def grouped(orientations=4, **options):
  """A backbone of one stage with orientations."""
  rngs = nnx.Rngs(0)
  return Backbone(
    [Lifting(rngs)],
    lambda x: x.reshape(len(x), -1, 2, 4).sum(axis=-1).mean(axis=1) * 0.1,
    orientations=orientations,
    padding="zeros",
    **options,
  )


def place(name, backbone, family="rotation"):
  return placement.place(
    backbone, name, Task((20, 20, 1), 2), family=family, rngs=nnx.Rngs(0)
  )


@nnx.jit
def output(network, images):
  return network(images)


@nnx.jit
def trained(network, images):
  return network(images, train=True)


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ("STN-EQ0", (0,), 1),
    ("STN-EQ0x2", (0, 0), 1),
    ("STN-EQ2", (2,), 8),
    ("STN-EQ0,1", (0, 1), 8),
    ("STN-SL1", (1,), 1),
    ("CNN", (), 1),
  )
  def test_depths_and_orientations(self, name, depths, orientations):
    parsed = placement.parse(name)
    self.assertEqual(parsed.name, name)
    self.assertEqual(parsed.depths, depths)
    self.assertEqual(parsed.orientations, orientations)

  def test_is_among_the_placements(self):
    with self.assertRaisesRegex(ValueError, "STN-EQ"):
      placement.parse("STN-E0")
    self.assertTrue(placement.parse("STN-EQ0").warps_input)


class EquivariantTest(parameterized.TestCase):
  @parameterized.parameters("STN-EQ0", "STN-EQ0x2", "STN-EQ1", "STN-EQ0,1")
  @pytest.mark.slow
  def test_turned_images_give_one_answer(self, name):
    network = place(name, grouped())
    images = np.random.default_rng(0).normal(size=(3, 20, 20, 1)).astype("f")
    first = output(network, images)
    turned = output(network, np.rot90(images, axes=(1, 2)))
    self.assertLen(first.thetas, len(placement.parse(name).depths))
    np.testing.assert_allclose(turned.warped, first.warped, atol=2e-3)
    np.testing.assert_allclose(turned.logits, first.logits, atol=2e-3)
    self.assertGreater(np.abs(first.warped - images).max(), 0.1)

  @pytest.mark.slow
  def test_of_a_backbone_by_name(self):
    network = tiny.create("STN-EQ0", family="similarity", num_classes=3)
    self.assertEqual(output(network, tiny.IMAGES).logits.shape, (3, 3))
    wide = tiny.create("STN-EQ0", family="similarity", localisation_width=2.0)
    counts = [
      placement.count_parameters(n)["localisation"] for n in (network, wide)
    ]
    self.assertBetween(counts[1] / counts[0], 2, 4)

  def test_places_are_those_of_the_image(self):
    # The first stage reads 20 of 28 pixels, two by two.
    task = Task((28, 28, 1), 10)
    network = placement.place(
      backbones.backbone(tiny.TINY, task, rngs=nnx.Rngs(0)),
      "STN-EQ1",
      task,
      family="translation",
      rngs=nnx.Rngs(0),
    )
    np.testing.assert_allclose(network.transformer(1).localiser.extent, 20 / 28)

  @pytest.mark.slow
  def test_the_prior_is_learnt_in_training(self):
    network = place("STN-EQ0", grouped())
    prior = network.transformer(0).localiser.pose_prior
    before = np.array(prior.shares[...])
    images = np.random.default_rng(0).normal(size=(3, 20, 20, 1)).astype("f")
    output(network, images)
    np.testing.assert_array_equal(prior.shares[...], before)
    trained(network, images)
    self.assertGreater(np.abs(prior.shares[...] - before).max(), 0)

  @pytest.mark.slow
  def test_a_depth_that_runs_twice_has_no_prior(self):
    network = place("STN-EQ0x2", grouped())
    self.assertIsNone(network.transformer(0).localiser.pose_prior)

  def test_rotations_need_orientations(self):
    with self.assertRaisesRegex(ValueError, "'STN-EQ1'.*orientations=1"):
      place("STN-EQ1", grouped(orientations=1))
    place("STN-EQ1", grouped(orientations=1), family="translation")

  def test_another_family(self):
    with self.assertRaisesRegex(ValueError, "'affine'.*accepted: 'rotation'"):
      tiny.create("STN-EQ0", family="affine")


if __name__ == "__main__":
  absltest.main()
