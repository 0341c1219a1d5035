"""The data sets of the paper: what is registered under their names."""

from absl.testing import absltest, parameterized
import numpy as np

from stnjax import data
from stnjax.data.dataset import channel_statistics
from stnjax.data.house_numbers import BLANK, MAX_DIGITS
import stnjax.paper  # noqa: F401


class DatasetsTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mnist", (28, 28, 1), 10, 1, "mnist"),
    ("mnist_subset", (28, 28, 1), 10, 1, "mnist"),
    ("svhn", (64, 64, 3), 11, 5, "house_numbers"),
    ("street_numbers", (64, 64, 3), 11, 5, "house_numbers"),
    ("plankton", (95, 95, 1), 121, 1, "plankton"),
    ("synthetic_plankton", (95, 95, 1), 20, 1, "plankton"),
    ("cifar10", (32, 32, 3), 10, 1, "cifar"),
    ("svhn_cropped", (32, 32, 3), 10, 1, "cifar"),
    ("synthetic_digits", (32, 32, 3), 10, 1, "cifar"),
  )
  def test_descriptions(self, name, shape, classes, heads, backbone):
    found = data.find(name)
    self.assertEqual(found.name, name)
    self.assertEqual(found.image_shape, shape)
    self.assertEqual((found.num_classes, found.heads), (classes, heads))
    self.assertEqual(found.default_backbone("none"), backbone)

  def test_house_numbers_are_trained_on_extra_images_too(self):
    self.assertEqual(data.find("svhn").train_split, "train+extra")
    self.assertEqual(data.find("street_numbers").train_split, "train")
    self.assertEqual(BLANK + 1, data.find("svhn").num_classes)
    self.assertEqual(MAX_DIGITS, data.find("svhn").heads)

  @parameterized.parameters(
    ("drifters", "synthetic_plankton"), ("street_digits", "synthetic_digits")
  )
  def test_older_names(self, old, new):
    self.assertIs(data.find(old), data.find(new))

  @parameterized.parameters(
    ("none", "mnist", 0.1307, 0.3081),
    ("rotation", "mnist", 0.1307, 0.3081),
    ("light_augmentation", "mnist", 0.1307, 0.3081),
    ("translation", "mnist_translation", 0.0363, 0.1870),
    ("scale", "mnist_scale", 0.0414, 0.1751),
  )
  def test_mnist_by_perturbation(self, perturbation, backbone, mean, std):
    images = np.zeros((4, 28, 28, 1), np.uint8)
    for name in ("mnist", "mnist_subset"):
      found = data.find(name)
      self.assertEqual(found.default_backbone(perturbation), backbone)
      statistics = found.normalisation(perturbation, images)
      self.assertEqual(statistics, ((mean,), (std,)))

  def test_others_are_normalised_by_their_own_images(self):
    for name in ("synthetic_digits", "street_numbers", "plankton"):
      self.assertIs(data.find(name).normalisation, channel_statistics)

  def test_cifar_is_not_normalised(self):
    images = np.zeros((4, 32, 32, 3), np.uint8)
    mean, std = data.find("cifar10").normalisation("none", images)
    self.assertEqual((mean, std), ((0, 0, 0), (1, 1, 1)))

  def test_digits_of_mnist_keep_their_licence(self):
    for name in (
      *("mnist", "mnist_subset"),
      *("street_numbers", "synthetic_digits"),
    ):
      self.assertIn("CC BY-SA 3.0", data.find(name).licence)


if __name__ == "__main__":
  absltest.main()
