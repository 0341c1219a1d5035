"""From settings to objects, networks and trainers."""

import dataclasses

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import numpy as np
import pytest

from stnjax import alignability, data, placement
import stnjax.paper  # noqa: F401, registers its data sets
from stnjax.placement import BACKBONES
from stnjax.training import building
from stnjax.training.settings import Settings
from tests.training import toy_trainers

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)


def register(test, registry, name, value):
  """Registers an object until the test ends."""
  registry.register(name, value)
  test.addCleanup(registry._objects.pop, name)


def heads_of_two():
  labels = np.zeros((8, 2), np.int32)
  labels[::2] = 1
  images = np.zeros((8, 12, 12, 1), np.uint8)
  return data.from_arrays("pairs", (images, labels), (images, labels))


class FindTest(parameterized.TestCase):
  def test_objects_are_those_that_are_named(self):
    found = building.find(
      Settings(dataset="svhn_cropped", perturbation="rotation", downsample=3)
    )
    self.assertIs(found.dataset, data.DATASETS["svhn_cropped"])
    self.assertIs(found.perturbation, data.PERTURBATIONS["rotation"])
    self.assertEqual(found.backbone, "cifar")
    self.assertIs(found.make_backbone, BACKBONES["cifar"])
    self.assertEqual(found.task, placement.Task((10, 10, 3), 10, 1))
    described = found.describe()
    self.assertEqual(described.image_shape, (32, 32, 3))
    self.assertEqual(list(described.axes), ["rotation"])

  @parameterized.parameters(
    ("rotation", "", "mnist", (28, 28, 1)),
    ("translation", "", "mnist_translation", (60, 60, 1)),
    ("scale", "", "mnist_scale", (112, 112, 1)),
    ("scale", "plain", "plain", (112, 112, 1)),
  )
  def test_the_backbone_is_the_data_set_s_or_another(
    self, perturbation, backbone, expected, shape
  ):
    found = building.find(
      Settings(perturbation=perturbation, backbone=backbone)
    )
    self.assertEqual(found.backbone, expected)
    self.assertEqual(found.task.image_shape, shape)

  @parameterized.parameters(
    ({"dataset": "fashion"}, "dataset='fashion'.*mnist"),
    ({"perturbation": "shear"}, "perturbation='shear'.*rotation"),
    ({"family": "euclid"}, "family='euclid'.*affine"),
    ({"backbone": "resnet"}, "backbone='resnet'.*plain"),
    (
      {"downsample": 113, "perturbation": "scale"},
      "downsample must be at most 112",
    ),
    ({"image_size": 32}, "image_size=32 is not accepted.*mnist_subset"),
  )
  def test_what_is_unknown_or_does_not_fit_is_named(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      building.find(Settings(**values))

  def test_several_labels_and_a_measured_perturbation_do_not_go_together(self):
    register(self, data.DATASETS, "pairs", heads_of_two())
    for name in ("none", "light_augmentation"):
      found = building.find(Settings(dataset="pairs", perturbation=name))
      self.assertEqual(found.task.heads, 2)
    with self.assertRaisesRegex(ValueError, "perturbation='rotation'.*pairs"):
      building.find(Settings(dataset="pairs", perturbation="rotation"))

  def test_a_default_backbone_that_is_not_registered_is_named(self):
    odd = dataclasses.replace(heads_of_two(), backbone="lost")
    register(self, data.DATASETS, "pairs", odd)
    with self.assertRaisesRegex(ValueError, "backbone='lost' is unknown"):
      building.find(Settings(dataset="pairs", perturbation="none"))

  def test_a_description_that_depends_on_files_gets_their_folder(self):
    given = []

    def describe(data_dir, image_size):
      given.append((data_dir, image_size))
      return heads_of_two()

    register(self, data.DATASETS, "described", describe)
    settings = Settings(dataset="described", perturbation="none", image_size=12)
    self.assertEqual(building.find(settings, "/there").task.heads, 2)
    self.assertEqual(given, [("/there", 12)])


class OptionsTest(parameterized.TestCase):
  def register(self, function):
    register(self, BACKBONES, "own", function)

  def build(self, **values):
    settings = Settings(network="CNN", backbone="own", **values)
    return building.build_network(settings, building.find(settings))

  @parameterized.parameters("width", "localisation_width", "dropout", "init")
  def test_an_option_that_a_backbone_does_not_take_is_named(self, name):
    """Unless it has the default of settings."""

    def own(task, *, rngs):
      stages = [nnx.Conv(task.image_shape[-1], 3, (5, 5), 2, rngs=rngs)]
      return placement.Backbone(
        stages, placement.MeanHead(3, task.num_classes, rngs=rngs)
      )

    self.register(own)
    self.assertEqual(self.build().stages[0].out_features, 3)
    value = {"dropout": False, "init": "torch"}.get(name, 0.5)
    with self.assertRaisesRegex(ValueError, f"{name}=.*'own' takes no {name}"):
      self.build(**{name: value})

  def test_parameters_need_a_backbone_that_takes_a_width(self):
    def own(task, *, rngs):
      return BACKBONES["plain"](task, rngs=rngs)

    self.register(own)
    message = "parameters=9000: backbone 'own' takes no width; leave it out"
    with self.assertRaisesRegex(ValueError, message):
      self.build(parameters=9000)

  def test_options_are_those_of_the_settings(self):
    given = []

    def own(task, *, rngs, width, **others):
      given.append((width, others))
      return BACKBONES["plain"](task, rngs=rngs, width=width)

    self.register(own)
    self.build(width=0.125, localisation_width=0.5, dropout=False)
    for width, others in given:
      self.assertEqual(width, 0.125)
      self.assertEqual(others["localisation_width"], 0.5)
      self.assertEqual(others["dropout"], False)
    self.assertNotEmpty(given)

  def test_options_reach_the_network(self):
    settings = Settings(
      dataset="plankton",
      perturbation="free_augmentation",
      network="STN-C0",
      width=0.1,
      localisation_width=0.25,
      localisation="large",
      padding="zeros",
      family="translation",
      batch_norm=True,
      norm_average=0.9,
    )
    network = building.abstract_network(settings, building.find(settings))
    net = network.sites["0"]["transformer"].localiser
    filters = [conv.out_features for conv in net.convs]
    self.assertEqual(filters, [8, 8, 16, 16])
    self.assertEqual([layer.out_features for layer in net.hidden], [16, 16])
    self.assertEqual(net.head.out_features, 2)
    self.assertEqual(network.padding, "zeros")
    self.assertEqual(network.stages[0].conv.out_features, 3)
    self.assertEqual(network.head.last.out_features, 121)
    (norm,) = network.norms
    self.assertEqual(norm.momentum, 0.9)

  @pytest.mark.slow
  def test_initial_values_are_those_of_the_settings(self):
    settings = Settings(init="torch", width=0.25)
    network = building.build_network(settings, building.find(settings))
    kernel = network.stages[1].conv.kernel[...]
    self.assertLessEqual(float(abs(kernel).max()), (7 * 7 * 16) ** -0.5)
    self.assertGreater(float(abs(network.head.last.bias[...]).max()), 0.01)

  def test_added_iterations_have_no_batch_norm(self):
    settings = Settings(more_iterations=(3,), batch_norm=True)
    setup = building.find(settings)
    for build in (building.abstract_network, building.build_network):
      with self.assertRaisesRegex(ValueError, "more_iterations cannot.*norm"):
        build(settings, setup)

  def test_a_localisation_net_that_the_backbone_lacks_is_named(self):
    settings = Settings(localisation="large", dataset="cifar10")
    with self.assertRaisesRegex(ValueError, "localisation='large'"):
      building.abstract_network(settings, building.find(settings))

  @parameterized.parameters(("STN-SL9", "depth 9 is deeper"), ("DEF2", "depth"))
  def test_a_placement_deeper_than_the_backbone_is_named(self, name, message):
    settings = Settings(network=name)
    with self.assertRaisesRegex(ValueError, message):
      building.abstract_network(settings, building.find(settings))

  @pytest.mark.slow
  def test_a_network_too_large_is_refused_in_shapes_alone(self):
    # 64 * 102 filters of 7 x 7 for as many channels are 2.09e9, and there are
    # those of 9 x 9; of a factor of 104, more than 2^31.
    fits = Settings(network="CNN", width=102.0)
    setup = building.find(fits)
    building.abstract_network(fits, setup)
    wide = Settings(network="CNN", width=104.0)
    for build in (building.abstract_network, building.build_network):
      with self.assertRaisesRegex(ValueError, "width=104.*accepted: at most"):
        build(wide, setup)


class NumStepsTest(parameterized.TestCase):
  @parameterized.parameters(
    (99, 33, 5, 15), (100, 1, 2**31 - 1, None), (64, 64, 2**31 - 1, 2**31 - 1)
  )
  def test_steps_are_counted_in_int32(self, images, batch, epochs, expected):
    settings = Settings(batch_size=batch, epochs=epochs)
    if expected is None:
      with self.assertRaisesRegex(ValueError, "at most 2,147,483,647 steps"):
        building.num_steps(settings, images)
    else:
      self.assertEqual(building.num_steps(settings, images), expected)


class TrainerTest(parameterized.TestCase):
  def build(self, seeds=(0,), **values):
    values = {"batch_size": 16, "epochs": 9, "width": 0.03125, **values}
    settings = [Settings(**values, seed=seed) for seed in seeds]
    return building.build_trainer(
      settings, building.find(settings[0]), IMAGES, jax.devices()[:1]
    )

  @pytest.mark.slow
  def test_each_seed_has_its_own_initial_parameters(self):
    _, states = self.build(seeds=(3, 7))
    for index, seed in enumerate((3, 7)):
      _, alone = self.build(seeds=(seed,))
      for both, one in zip(*map(jax.tree.leaves, (states, alone)), strict=True):
        np.testing.assert_array_equal(both[index], one[0])
    kernel = states.params["stages"][0]["conv"]["kernel"][...]
    self.assertGreater(np.abs(kernel[0] - kernel[1]).max(), 0.01)
    np.testing.assert_array_equal(states.step, [0, 0])

  @parameterized.parameters(
    ("rotation", (0.1307,), (0.3081,), False),
    ("translation", (0.0363,), (0.1870,), True),
  )
  @pytest.mark.slow
  def test_preparation_is_that_of_the_perturbation(
    self, name, mean, std, cluttered
  ):
    built, states = self.build(network="CNN", perturbation=name)
    preparation = built.spec.preparation
    self.assertEqual((preparation.mean, preparation.std), (mean, std))
    if cluttered:  # of the training images
      first, _ = built.examples(states, IMAGES[:2] * 0, 0)[0]
      self.assertGreater(first.max(), 0.1)

  @pytest.mark.slow
  def test_normalisation_is_that_of_the_training_images(self):
    labels = np.arange(40) % 4
    dataset = data.from_arrays("own", (IMAGES, labels), (IMAGES, labels))
    register(self, data.DATASETS, "own", dataset)
    built, _ = self.build(
      network="CNN", dataset="own", perturbation="none", backbone="plain"
    )
    values = IMAGES.astype(np.float64) / 255
    np.testing.assert_allclose(built.spec.preparation.mean, values.mean())
    np.testing.assert_allclose(built.spec.preparation.std, values.std())

  @pytest.mark.slow
  def test_more_iterations_of_a_backbone_with_random_streams(self):
    """Networks of all phases share the streams of nnx.Dropout."""

    def own(task, *, rngs, width=1.0):
      filters = max(1, round(16 * width))
      stages = [
        nnx.Conv(task.image_shape[-1], filters, (5, 5), 4, rngs=rngs),
        nnx.Dropout(0.5, rngs=rngs),
      ]
      return placement.Backbone(
        stages, placement.MeanHead(filters, task.num_classes, rngs=rngs)
      )

    register(self, BACKBONES, "own", own)
    built, states = self.build(backbone="own", more_iterations=(1, 2))
    train = data.Examples(IMAGES, np.arange(40, dtype=np.int32) % 10)
    for _ in range(3):
      states = built.train(states, train, 2)
    self.assertEqual(int(states.step[0]), 6)
    self.assertTrue(np.isfinite(np.asarray(states.totals.loss)).all())

  @pytest.mark.slow
  def test_receptive_fields_are_probed_before_the_network_is_traced(self):
    """STN-C needs them, and plain modules do not say theirs."""
    register(self, BACKBONES, "own", _without_geometry)
    settings = Settings(network="STN-C1", backbone="own")
    network = building.abstract_network(settings, building.find(settings))
    # A kernel of 5, pooled by 2: pixels 0 to 5, and every other one.
    found = network.receptive_field(1)
    self.assertEqual(found, alignability.Geometry((2.5,) * 2, (2.0,) * 2,
                                                  (2.5,) * 2))  # fmt: skip


def _without_geometry(task, *, rngs):
  backbone = toy_trainers.BACKBONES["rich"](task, rngs=rngs)
  backbone.geometry = None
  return backbone


if __name__ == "__main__":
  absltest.main()
