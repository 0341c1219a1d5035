"""Any backbone under any placement; backbones of one's own."""

import itertools

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import alignability, placement
from stnjax.nn import receptive_fields
from stnjax.paper import backbones
from stnjax.placement import BACKBONES, Backbone, Task

TASK = Task((32, 28, 2), 3)
IMAGES = np.random.default_rng(0).normal(size=(2, 32, 28, 2))
IMAGES = IMAGES.astype(np.float32)

SMALLEST = {
  "mnist": (28, 28, 1),
  "mnist_translation": (60, 60, 1),
  "mnist_scale": (48, 48, 1),
  "house_numbers": (16, 16, 3),
  "plankton": (31, 31, 1),
  "cifar": (8, 8, 3),
  "plain": (16, 14, 2),
}
THIN = dict(width=0.02, localisation_width=0.1)


class Residual(nnx.Module):
  def __init__(self, channels, rngs):
    self.conv = nnx.Conv(channels, channels, (3, 3), rngs=rngs)
    self.norm = nnx.BatchNorm(channels, rngs=rngs)

  def __call__(self, x):
    return x + nnx.relu(self.norm(self.conv(x)))


def strided(task, *, rngs, width=1.0, filters=4):
  """Plain NNX modules and a function, whose receptive fields are not given."""
  count = round(filters * width)
  stages = [
    nnx.Conv(
      task.image_shape[-1], count, (5, 5), strides=2, padding="VALID", rngs=rngs
    ),
    nnx.relu,
    Residual(count, rngs),
    nnx.Sequential(
      nnx.Conv(count, count, (3, 3), rngs=rngs),
      lambda x: nnx.max_pool(x, (2, 2), (2, 2)),
    ),
  ]
  head = placement.MeanHead(count, task.heads * task.num_classes, rngs=rngs)
  return Backbone(stages, head)


PLACED = ("CNN", "STN-C1", "STN-DL1", "STN-SL0,2x2", "STN-UCN1", "DEF0", "GCNN")


class EveryPlacementTest(parameterized.TestCase):
  """One contract for all of them, in shapes, and for a few in numbers."""

  @parameterized.parameters(
    *(("plain", name) for name in PLACED),
    *((backbone, "STN-SL0,2x2") for backbone in SMALLEST),
  )
  def test_every_placement_and_every_backbone(self, backbone, name):
    self.check(backbone, name)

  @parameterized.parameters(*itertools.product(SMALLEST, PLACED))
  @pytest.mark.slow
  def test_every_placement_in_every_backbone(self, backbone, name):
    self.check(backbone, name)

  def check(self, backbone, name):
    shape = SMALLEST[backbone]
    task = Task(shape, 4, heads=2)

    def forward(images, keys):
      network = placement.create(
        backbone, name, task, rngs=nnx.Rngs(0), batch_norm=True, **THIN
      )
      trained = network(images, train=True, keys=keys)
      counts = placement.count_parameters(network)
      return network(images), trained, network.features(images), counts["total"]

    keys = jax.random.split(jax.random.key(0), 2)
    images = jnp.zeros((2, *shape))
    output, trained, features, _ = jax.eval_shape(forward, images, keys)
    for result in (output, trained):
      self.assertEqual(result.logits.shape, (2, 2, 4))
      self.assertEqual(result.pose.shape, (2, 2, 3))
      self.assertEqual(result.warped.shape[::3], (2, shape[-1]))
    runs = len(placement.parse(name).depths)
    self.assertLen(output.thetas, runs)
    for value in features.values():
      self.assertEqual(value.ndim, 4)

  def test_none_is_left_out(self):
    self.assertEqual(set(SMALLEST), {*backbones.CLASSIFIERS, "plain"})
    self.assertContainsSubset(SMALLEST, BACKBONES)

  @parameterized.parameters("STN-SL3", "STN-DL2", "STN-C3")
  @pytest.mark.slow
  def test_of_own_modules(self, name):
    self.compare(name)

  @parameterized.parameters("CNN", "STN-C0", "STN-SL1,4", "STN-DL4x2")
  @pytest.mark.slow
  def test_of_own_modules_elsewhere(self, name):
    self.compare(name)

  def compare(self, name):
    """Untrained, it is its CNN; then it warps what it should."""
    network = placement.create(strided, name, TASK, rngs=nnx.Rngs(0))
    cnn = placement.create(strided, "CNN", TASK, rngs=nnx.Rngs(0))
    output = network(IMAGES)
    np.testing.assert_allclose(output.logits, cnn(IMAGES).logits, atol=1e-5)
    np.testing.assert_allclose(output.warped, IMAGES, atol=1e-6)
    depths = network.placement.depths
    if not depths:
      return
    localiser = network.sites[str(depths[-1])]["transformer"].localiser
    bias = jnp.array([0, 0.1, 0.2, -0.1, 0, 0.05])
    localiser.head.bias[...] = bias
    output = network(IMAGES)
    self.assertGreater(np.abs(output.pose - np.eye(2, 3)).max(), 0.01)
    if network.placement.warps_input:
      warped = stnjax.warp(IMAGES, output.pose, padding="border")
      np.testing.assert_allclose(output.warped, warped, atol=1e-5)
      np.testing.assert_allclose(output.logits, cnn(warped).logits, atol=1e-4)


class OwnBackboneTest(parameterized.TestCase):
  def test_options_reach_the_function_or_are_refused(self):
    def count(**options):
      network = nnx.eval_shape(
        lambda: placement.create(
          strided, "CNN", TASK, rngs=nnx.Rngs(0), **options
        )
      )
      return network.stages[0].kernel.shape[-1]

    self.assertEqual(count(), 4)
    self.assertEqual(count(width=2.0), 8)
    self.assertEqual(count(filters=6), 6)
    for option, value in (
      ("localisation_width", 0.5),
      ("dropout", False),
      ("colour", 1),
    ):
      with self.assertRaisesRegex(
        ValueError, f"'strided' does not take {option}={value}.*width, filters"
      ):
        count(**{option: value})
    with self.assertRaisesRegex(ValueError, "localisation='large'.*'small'"):
      placement.create(
        strided, "STN-C0", TASK, localisation="large", rngs=nnx.Rngs(0)
      )

  def test_unknown_backbone(self):
    with self.assertRaisesRegex(ValueError, "backbone='resnet'.*plain.*mnist"):
      placement.create("resnet", "CNN", TASK, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, "must return a .*Backbone"):
      placement.create(
        lambda task, *, rngs: [nnx.relu], "CNN", TASK, rngs=nnx.Rngs(0)
      )

  @pytest.mark.slow
  def test_own_localiser_padding_and_size(self):
    def localiser(shape, image_shape, num_params, *, size, rngs):
      self.assertEqual(image_shape, TASK.image_shape)
      kind = {"small": nnx.Linear, "large": nnx.LinearGeneral}[size]
      features = int(np.prod(shape))
      linear = kind(
        features, num_params, kernel_init=nnx.initializers.zeros, rngs=rngs
      )
      return nnx.Sequential(lambda x: x.reshape(-1, features), linear)

    rngs = nnx.Rngs(0)
    head = placement.MeanHead(2, 3, rngs=rngs)
    backbone = Backbone([nnx.relu], head, localiser=localiser, padding="wrap")
    network = placement.place(
      backbone, "STN-C1", TASK, localisation="large", rngs=rngs
    )
    transformer = network.sites["1"]["transformer"]
    linear = transformer.localiser.layers[1]
    self.assertIsInstance(linear, nnx.LinearGeneral)
    linear.bias[...] = jnp.array([0, 0, 2 / 28, 0, 0, 0])  # a pixel
    rolled = np.roll(np.maximum(IMAGES, 0), -1, axis=2)
    output = network(IMAGES)
    np.testing.assert_allclose(output.logits, head(rolled), atol=1e-5)

  def test_a_localiser_of_another_number_of_parameters_is_refused(self):
    rngs = nnx.Rngs(0)

    def localiser(shape, image_shape, num_params, *, rngs):
      return lambda features: jnp.zeros((len(features), num_params + 1))

    backbone = Backbone(
      [nnx.relu], placement.MeanHead(2, 3, rngs=rngs), localiser=localiser
    )
    network = placement.place(backbone, "STN-SL0", TASK, rngs=rngs)
    with self.assertRaisesRegex(ValueError, r"\[B, 6\].*'affine'.*\(2, 7\)"):
      network(IMAGES)

  def test_parts_are_checked(self):
    rngs = nnx.Rngs(0)
    head = placement.MeanHead(2, 3, rngs=rngs)
    with self.assertRaisesRegex(ValueError, "either head or make_head"):
      Backbone([nnx.relu])
    with self.assertRaisesRegex(ValueError, "either head or make_head"):
      Backbone([nnx.relu], head, make_head=lambda shape, rngs: head)
    with self.assertRaisesRegex(TypeError, "stage 2 must be an NNX module"):
      Backbone([nnx.relu, 3], head)
    with self.assertRaisesRegex(ValueError, "padding='constant'"):
      Backbone([nnx.relu], head, padding="constant")
    for backbone, name, message in (
      (Backbone([nnx.relu], head), "STN-DL1", r"STN-DL1 needs .*fresh_stages"),
      (
        Backbone([nnx.relu], placement.MeanHead(2, 4, rngs=rngs)),
        "CNN",
        r"head must return 3 logits.*\(1, 4\)",
      ),
      (
        Backbone([lambda x: x.mean(axis=(1, 2))], head),
        "CNN",
        r"stage 1 .*must return features \[B, h, w, F\]",
      ),
    ):
      with self.assertRaisesRegex(ValueError, message):
        placement.place(backbone, name, TASK, rngs=rngs)

  def test_heads_may_be_made_for_the_features(self):
    def make_head(shape, *, rngs):
      self.assertEqual(shape, (32, 28, 2))
      return placement.MeanHead(shape[-1], 3, rngs=rngs)

    backbone = Backbone([nnx.relu], make_head=make_head)
    network = placement.place(backbone, "CNN", TASK, rngs=nnx.Rngs(0))
    self.assertEqual(network(IMAGES).logits.shape, (2, 3))


class RefusedTest(absltest.TestCase):
  def test_a_stage_that_does_not_take_the_features_is_named(self):
    def mismatched(task, *, rngs):
      stages = [nnx.relu, nnx.Conv(5, 4, (3, 3), rngs=rngs)]
      return Backbone(stages, placement.MeanHead(4, 3, rngs=rngs))

    with self.assertRaisesRegex(
      ValueError, r"stage 2 \(Conv\) does not take .* \[B, 32, 28, 2\]"
    ):
      placement.create(mismatched, "CNN", TASK, rngs=nnx.Rngs(0))

  def test_a_function_without_rngs(self):
    with self.assertRaisesRegex(ValueError, r"'bare' must be .*got one of \(t"):
      placement.create(bare, "CNN", TASK, rngs=nnx.Rngs(0))


def bare(task):
  raise AssertionError(task)


class PlainTest(parameterized.TestCase):
  @parameterized.parameters(
    ((28, 28, 1), [14, 7, 3]),
    ((32, 64, 3), [16, 8, 4]),
    ((224, 224, 3), [112, 56, 28, 14, 7, 3]),
    ((1000, 1000, 1), [500, 250, 125, 62, 31, 15]),
    ((6, 9, 4), [3]),
    ((2, 2, 1), [2]),
  )
  def test_stages_for_images_of_any_size(self, shape, sides):
    task = Task(shape, 7)

    def forward():
      network = placement.create("plain", "STN-SL1", task, rngs=nnx.Rngs(0))
      images = jnp.zeros((1, *shape))
      return network.features(images), network(images).logits

    features, logits = jax.eval_shape(forward)
    self.assertEqual([min(f.shape[1:3]) for f in features.values()], sides)
    self.assertEqual(logits.shape, (1, 7))


WINDOW = receptive_fields.Window


class GeometryTest(parameterized.TestCase):
  """Receptive fields by probing, against those worked out of the windows."""

  EXPECTED = [
    receptive_fields.receptive_field(windows)
    for windows in (
      (),
      (WINDOW(5, 2),),
      (WINDOW(5, 2),),
      (WINDOW(5, 2), WINDOW(3, 1, 1)),
      (WINDOW(5, 2), WINDOW(3, 1, 1), WINDOW(3, 1, 1), WINDOW(2, 2)),
    )
  ]

  def assert_geometry(self, geometry, field):
    self.assertIsInstance(geometry, alignability.Geometry)
    np.testing.assert_allclose(np.array(geometry), np.array(field), atol=0.1)

  def test_a_backbone_is_probed(self):
    probed = placement.probe_backbone(strided, TASK)
    self.assertLen(probed, 5)
    for geometry, expected in zip(probed, self.EXPECTED, strict=True):
      self.assert_geometry(geometry, expected)

  @pytest.mark.slow
  def test_small_images_are_made_larger(self):
    probed = placement.probe_backbone(strided, Task((13, 9, 2), 3), depths=(4,))
    self.assertEqual(probed[1:4], (None, None, None))
    self.assert_geometry(probed[4], self.EXPECTED[4])

  def test_what_a_backbone_gives_is_not_probed(self):
    task = Task(SMALLEST["cifar"], 10)
    probed = placement.probe_backbone("cifar", task, width=0.1)
    self.assertLen(probed, 7)
    windows = [WINDOW(3, padding=1), WINDOW(3, padding=1), WINDOW(2, 2)]
    self.assertEqual(
      probed[3],
      alignability.Geometry(
        *receptive_fields.receptive_field([*windows, WINDOW(3, padding=1)])
      ),
    )

  @pytest.mark.slow
  def test_stages_that_cannot_be_probed_are_none(self):
    def mixing(task, *, rngs):
      stages = [nnx.relu, lambda x: x + x.mean(axis=(1, 2), keepdims=True)]
      return Backbone(stages, placement.MeanHead(2, 3, rngs=rngs))

    probed = placement.probe_backbone(mixing, Task((6, 6, 2), 3))
    self.assertIsNone(probed[2])
    self.assert_geometry(probed[1], self.EXPECTED[0])
    with self.assertRaisesRegex(ValueError, "behind stage 2 could not be"):
      placement.create(mixing, "STN-C2", Task((6, 6, 2), 3), rngs=nnx.Rngs(0))
    # Placements that warp the input do not need it.
    placement.create(mixing, "STN-SL2", Task((6, 6, 2), 3), rngs=nnx.Rngs(0))

  @pytest.mark.slow
  def test_norms_over_an_image_are_local(self):
    """Their statistics alone make each feature see the entire image."""

    def normed(task, *, rngs):
      conv = nnx.Conv(2, 4, (5, 5), strides=2, padding="VALID", rngs=rngs)
      stages = [
        nnx.GroupNorm(2, num_groups=1, rngs=rngs),
        nnx.Sequential(conv, nnx.InstanceNorm(4, rngs=rngs), nnx.relu),
      ]
      return Backbone(stages, placement.MeanHead(4, 3, rngs=rngs))

    probed = placement.probe_backbone(normed, TASK)
    for geometry, expected in zip(probed[1:], self.EXPECTED[:2], strict=True):
      self.assert_geometry(geometry, expected)
    network = placement.create(normed, "STN-C2", TASK, rngs=nnx.Rngs(0))
    for images in (IMAGES, 3 * IMAGES + 1):  # the network still normalises
      features = network.features(images)["block 1"]
      np.testing.assert_allclose(np.mean(features, (1, 2, 3)), 0, atol=1e-5)
      np.testing.assert_allclose(np.std(features, (1, 2, 3)), 1, atol=1e-4)

  @pytest.mark.slow
  def test_in_a_trace_it_is_given(self):
    depths = placement.parse("STN-C3").geometry_depths
    self.assertEqual(depths, (3,))
    geometry = placement.probe_backbone(strided, TASK, depths=depths)

    @jax.jit
    def make(key, **options):
      return nnx.split(
        placement.create(
          strided, "STN-C3", TASK, geometry=geometry, rngs=nnx.Rngs(key)
        )
      )

    network = nnx.merge(*make(jax.random.key(0)))
    localiser = network.sites["3"]["transformer"].localiser
    localiser.head.bias[...] = jnp.array([0, 0, 0.5, 0, 0, 0])
    # Features 2 px apart, 14 x 12 of them: half of their half-width.
    expected = 0.5 * 12 / 2 * 2 / (28 / 2)
    output = network(IMAGES)
    np.testing.assert_allclose(output.pose[:, 0, 2], expected, atol=1e-2)
    eager = placement.create(strided, "STN-C3", TASK, rngs=nnx.Rngs(0))
    self.assertEqual(eager.geometry().keys(), network.geometry().keys())
    for trace in (jax.eval_shape, nnx.eval_shape):
      with self.assertRaisesRegex(ValueError, "stage 3.*probe_backbone"):
        trace(
          lambda: nnx.split(
            placement.create(strided, "STN-C3", TASK, rngs=nnx.Rngs(0))
          )
        )


if __name__ == "__main__":
  absltest.main()
