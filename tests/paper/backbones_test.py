"""The classifiers against the tables of the papers, and their resizing."""

from absl.testing import absltest, parameterized

from stnjax import data
from stnjax.data import perturbations
from stnjax.paper import classifiers


def column(classifier, name):
  return [getattr(conv, name) for conv in classifier.convs]


class PaperTest(absltest.TestCase):
  """Each entry as the paper's text or appendix has it, copied by hand."""

  def test_mnist(self):
    for net in (
      classifiers.MNIST,
      classifiers.MNIST_TRANSLATION,
      classifiers.MNIST_SCALE,
    ):
      self.assertEqual(column(net, "filters"), [64, 64])
      self.assertEqual(column(net, "kernel_size"), [9, 7])
      self.assertEqual(column(net, "pool"), [2, 2])
      self.assertEqual(column(net, "padding"), ["VALID"] * 2)
      self.assertEqual((net.dense, net.dropout, net.slope), ((), 0, 0))
      self.assertEqual(net.padding, "border")
    rotation = classifiers.MNIST.localisation["small"]
    self.assertEqual((rotation.convs, rotation.dense), ((), (32, 32, 32)))
    for net in (classifiers.MNIST_TRANSLATION, classifiers.MNIST_SCALE):
      small = net.localisation["small"]
      self.assertEqual(small.convs, ((20, 5), (20, 5)))
      self.assertEqual(small.dense, (20,))
    self.assertTrue(classifiers.MNIST_TRANSLATION.halve)
    self.assertFalse(classifiers.MNIST_TRANSLATION.localisation["small"].halved)
    self.assertFalse(classifiers.MNIST_SCALE.halve)
    self.assertTrue(classifiers.MNIST_SCALE.localisation["small"].halved)

  def test_house_numbers(self):
    net = classifiers.HOUSE_NUMBERS
    self.assertEqual(
      column(net, "filters"), [48, 64, 128, 160, 192, 192, 192, 192]
    )
    self.assertEqual(column(net, "kernel_size"), [5] * 8)
    self.assertEqual(column(net, "pool"), [2, 0, 2, 0, 2, 0, 2, 0])
    self.assertEqual(column(net, "dropout"), [0] + [0.5] * 7)
    self.assertEqual((net.dense, net.dropout), ((3072,) * 3, 0.5))
    small = net.localisation["small"]
    self.assertEqual(small.convs, ((32, 5), (32, 5)))
    self.assertEqual(small.dense, (32, 32))

  def test_plankton(self):
    net = classifiers.PLANKTON
    self.assertEqual(
      column(net, "filters"),
      [32, 32, 64, 64, 128, 128, 128, 256, 256, 256],
    )
    self.assertEqual(column(net, "kernel_size"), [3] * 10)
    self.assertEqual(column(net, "pool"), [0, 3, 0, 3, 0, 0, 3, 0, 0, 3])
    self.assertEqual((net.dense, net.dropout), ((512, 512), 0.5))
    self.assertEqual(net.slope, 1 / 3)
    self.assertLen(net.localisation["small"].convs, 2)
    self.assertLen(net.localisation["large"].convs, 4)
    for layers in net.localisation.values():
      self.assertEqual(layers.dense, (64, 64))
      self.assertEqual({size for _, size in layers.convs}, {3})

  def test_cifar(self):
    net = classifiers.CIFAR
    self.assertEqual(column(net, "filters"), [32, 32, 64, 64, 128, 128])
    self.assertEqual(column(net, "pool"), [0, 2] * 3)
    self.assertEqual(column(net, "dropout"), [0, 0.2, 0, 0.3, 0, 0.4])
    self.assertEqual(column(net, "batch_norm"), [True] * 6)
    small = net.localisation["small"]
    self.assertEqual((small.convs, small.dense), (((20, 5), (40, 5)), (80,)))

  def test_only_cifar_normalises(self):
    for net in (
      classifiers.MNIST,
      classifiers.HOUSE_NUMBERS,
      classifiers.PLANKTON,
    ):
      self.assertFalse(any(column(net, "batch_norm")))


class FindTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mnist", "none", "MNIST"),
    ("mnist", "rotation", "MNIST"),
    ("mnist_subset", "translation", "MNIST_TRANSLATION"),
    ("mnist", "scale", "MNIST_SCALE"),
    ("svhn", "none", "HOUSE_NUMBERS"),
    ("street_numbers", "translation", "HOUSE_NUMBERS"),
    ("plankton", "free_augmentation", "PLANKTON"),
    ("plankton", "scale", "PLANKTON"),
    ("cifar10", "light_augmentation", "CIFAR"),
    ("svhn_cropped", "none", "CIFAR"),
  )
  def test_find(self, dataset, perturbation, name):
    found = classifiers.find(dataset, perturbation)
    self.assertIs(found, getattr(classifiers, name))

  def test_every_set_has_one_under_every_perturbation(self):
    for dataset in data.SETS:
      for perturbation in perturbations.PERTURBATIONS:
        net = classifiers.find(dataset, perturbation)
        self.assertIn("small", net.localisation)

  def test_unknown_set(self):
    with self.assertRaisesRegex(ValueError, "dataset='fashion'.*'mnist'"):
      classifiers.find("fashion")


class ResizedTest(absltest.TestCase):
  def test_full_size_is_the_same(self):
    for dataset in data.SETS:
      net = classifiers.find(dataset)
      self.assertEqual(net.resized(1, 1), net)

  def test_each_part_has_its_own_width(self):
    net = classifiers.PLANKTON.resized(0.25, 0.5)
    self.assertEqual(
      column(net, "filters"), [8, 8, 16, 16, 32, 32, 32, 64, 64, 64]
    )
    self.assertEqual(net.dense, (128, 128))
    self.assertEqual(
      net.localisation["large"],
      classifiers.Localisation(((8, 3),) * 4, (32, 32)),
    )
    for name in ("kernel_size", "pool", "padding", "batch_norm", "dropout"):
      self.assertEqual(column(net, name), column(classifiers.PLANKTON, name))
    self.assertEqual((net.dropout, net.slope), (0.5, 1 / 3))

  def test_flags_stay(self):
    self.assertTrue(classifiers.MNIST_TRANSLATION.resized(0.1, 0.1).halve)
    small = classifiers.MNIST_SCALE.resized(0.1, 0.1).localisation["small"]
    self.assertTrue(small.halved)

  def test_nothing_vanishes(self):
    net = classifiers.HOUSE_NUMBERS.resized(1e-6, 1e-6)
    self.assertEqual(column(net, "filters"), [1] * 8)
    self.assertEqual(net.dense, (1, 1, 1))
    small = net.localisation["small"]
    self.assertEqual((small.convs, small.dense), (((1, 5), (1, 5)), (1, 1)))


if __name__ == "__main__":
  absltest.main()
