"""The full presets against the authors' published code.

Every expectation is a default of its arguments, or a fact from the paper,
github.com/luuf/understanding-STNs.
"""

from absl.testing import absltest, parameterized
import numpy as np

from stnjax import data
from stnjax.paper.presets import PRESETS
from stnjax.training.settings import Settings


def full(name):
  """The settings of the full size, alike but for the network."""
  return Settings(**PRESETS[name].settings("full")[0])


class TrainingTest(parameterized.TestCase):
  """The full presets have the defaults of the authors' arguments."""

  @parameterized.parameters(*PRESETS)
  def test_what_all_share(self, name):
    settings = full(name)
    self.assertEqual(settings.optimiser, "sgd")
    self.assertEqual(settings.momentum, 0)
    self.assertFalse(settings.nesterov)
    self.assertEqual(settings.weight_decay, 0)
    self.assertEqual(settings.pre_transformer_lr, 1)
    self.assertEqual(settings.init, "torch")
    self.assertEqual(settings.norm_average, 0.9)
    self.assertFalse(settings.batch_norm)
    if not name.startswith("pose_"):  # ours
      self.assertEqual(settings.family, "affine")

  @parameterized.parameters(
    *("rotation", "translation", "scale", "rotation_families"),
    *("feature_warps", "pose_full_circle", "pose_rotation", "pose_scale"),
    "pose_similarity",
  )
  def test_mnist(self, name):
    settings = full(name)
    self.assertEqual(settings.batch_size, 256)
    steps = 60_000 // 256 * settings.epochs
    self.assertAlmostEqual(steps, 150_000, delta=300)
    self.assertEqual(
      (settings.learning_rate, settings.schedule), (0.01, "constant")
    )
    self.assertEqual(settings.localisation_lr, 1)
    self.assertEqual(settings.eval_passes, 10)

  def test_house_numbers(self):
    settings = full("house_numbers")
    self.assertEqual((settings.batch_size, settings.eval_passes), (128, 1))
    steps = (33_402 + 202_353) // 128 * settings.epochs
    self.assertAlmostEqual(steps, 400_000, delta=1_000)
    self.assertEqual(settings.learning_rate, 0.03)
    self.assertEqual(settings.schedule, "step")
    self.assertEqual(settings.lr_drop_steps, (120_000,))
    self.assertEqual(settings.localisation_lr, 0.05)
    self.assertEqual(settings.localisation_scheme, "gradient")

  @parameterized.parameters(
    *("cifar", "cifar_rotation", "cifar_augmentation"),
    *("plankton", "plankton_large"),
  )
  def test_cifar_and_plankton(self, name):
    settings = full(name)
    self.assertEqual((settings.batch_size, settings.eval_passes), (256, 1))
    self.assertEqual(
      (settings.learning_rate, settings.schedule), (0.01, "constant")
    )
    self.assertEqual(settings.localisation_lr, 1)

  @parameterized.parameters(
    ("rotation", (0.1307,), (0.3081,)),
    ("translation", (0.0363,), (0.1870,)),
    ("scale", (0.0414,), (0.1751,)),
    ("cifar", (0, 0, 0), (1, 1, 1)),
  )
  def test_normalisation(self, name, mean, std):
    settings = full(name)
    dataset = data.find(settings.dataset)
    images = np.zeros((2, *dataset.image_shape), np.uint8)
    found = dataset.normalisation(settings.perturbation, images)
    self.assertEqual(found, (mean, std))


if __name__ == "__main__":
  absltest.main()
