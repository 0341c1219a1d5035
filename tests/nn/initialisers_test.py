"""Initial values against torch's own."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import numpy as np
import pytest

from stnjax.nn import LocalisationNet, initialisers


def ours(kind):
  """Kernel and bias of a layer, with torch's initial values."""
  if kind == "conv":
    options = initialisers.of_layer("torch", 5 * 5 * 16)
    layer = nnx.Conv(16, 900, (5, 5), **options, rngs=nnx.Rngs(0))
  else:
    options = initialisers.of_layer("torch", 400)
    layer = nnx.Linear(400, 900, **options, rngs=nnx.Rngs(0))
  return np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])


def torchs(kind):
  """The same by torch."""
  torch = pytest.importorskip("torch")
  torch.manual_seed(0)
  if kind == "conv":
    layer = torch.nn.Conv2d(16, 900, 5)
  else:
    layer = torch.nn.Linear(400, 900)
  return layer.weight.detach().numpy(), layer.bias.detach().numpy()


class TorchTest(parameterized.TestCase):
  @parameterized.parameters("conv", "dense")
  def test_distribution_is_torch_s(self, kind):
    """360,000 values of a kernel, 900 of a bias, from -1/20 to 1/20."""
    for found, expected, error in zip(
      ours(kind), torchs(kind), (0.005, 0.1), strict=True
    ):
      self.assertEqual(found.size, expected.size)
      for values in (found, expected):
        self.assertLessEqual(np.abs(values).max(), 0.05)
        self.assertGreater(values.max(), 0.0493)
        self.assertLess(values.min(), -0.0493)
      units, theirs = 20 * found, 20 * expected
      for power in (1, 2, 4):
        self.assertAlmostEqual(
          (units**power).mean(), (theirs**power).mean(), delta=error
        )
      np.testing.assert_allclose(
        np.quantile(units, [0.25, 0.5, 0.75]), [-0.5, 0, 0.5], atol=error
      )

  def test_layers_differ(self):
    uniform = initialisers.of_layer("torch", 4)["kernel_init"]
    a, b = (uniform(jax.random.key(k), (3, 3)) for k in (0, 1))
    self.assertGreater(np.abs(a - b).max(), 0.01)


class NormalTest(parameterized.TestCase):
  @parameterized.parameters(("lecun_normal", 1), ("he_normal", 2))
  def test_variance_and_zero_biases(self, name, factor):
    options = initialisers.of_layer(name, 400)
    layer = nnx.Linear(400, 900, **options, rngs=nnx.Rngs(0))
    self.assertAlmostEqual(
      float(layer.kernel[...].var()) * 400, factor, delta=0.02 * factor
    )
    np.testing.assert_array_equal(layer.bias[...], np.zeros(900))


class NetTest(absltest.TestCase):
  @pytest.mark.slow
  def test_every_layer_but_the_head(self):
    net = LocalisationNet(
      (14, 14, 2), 6, convs=((60, 5),), dense=(50, 40), init="torch",
      rngs=nnx.Rngs(0),
    )  # fmt: skip
    fans = (50, 25 * 60, 50)
    for layer, fan_in in zip([*net.convs, *net.hidden], fans, strict=True):
      for values in (layer.kernel[...], layer.bias[...]):
        largest = float(np.abs(values).max()) * fan_in**0.5
        self.assertBetween(largest, 0.9, 1)
    self.assertFalse(np.any(net.head.kernel[...]))
    self.assertFalse(np.any(net.head.bias[...]))

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "init='xavier'.*'torch'"):
      initialisers.of_layer("xavier", 4)
    with self.assertRaisesRegex(ValueError, "fan_in must be at least 1, got 0"):
      initialisers.of_layer("torch", 0)


if __name__ == "__main__":
  absltest.main()
