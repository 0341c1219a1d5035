"""Localisation nets against torch, and their sizes."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.nn import localisation
from stnjax.paper.classifiers import Localisation


def make(shape, layers, seed=0, **options):
  """A net whose head is no longer the identity."""
  net = localisation.LocalisationNet(
    shape, layers, rngs=nnx.Rngs(seed), **options
  )
  rng = np.random.default_rng(seed)
  for parameter in (net.head.kernel, net.head.bias):
    parameter[...] = jnp.asarray(rng.normal(0, 0.3, parameter.shape), "float32")
  return net


def features(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def forward(net, x, paddings, slope):
  """The same net by torch, told which convolutions are padded."""
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional

  def tensor(values):
    return torch.from_numpy(np.array(values))

  x = tensor(x).permute(0, 3, 1, 2)
  for conv, padding in zip(net.convs, paddings, strict=True):
    kernel = tensor(conv.kernel[...]).permute(3, 2, 0, 1)
    x = functional.conv2d(x, kernel, tensor(conv.bias[...]), padding=padding)
    if min(x.shape[2:]) > 1:
      x = functional.max_pool2d(x, 2)
    x = functional.leaky_relu(x, slope)
  x = x.permute(0, 2, 3, 1).flatten(1)
  for layer in net.hidden:
    x = x @ tensor(layer.kernel[...]) + tensor(layer.bias[...])
    x = functional.leaky_relu(x, slope)
  x = x @ tensor(net.head.kernel[...]) + tensor(net.head.bias[...])
  return np.eye(2, 3) + x.numpy().reshape(-1, 2, 3)


class ForwardTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("dense", (6, 5, 2), Localisation((), (7, 4)), (), 0.0),
    ("nothing_hidden", (4, 4, 1), Localisation(), (), 0.0),
    (
      "conv",
      (20, 17, 2),
      Localisation(((3, 5), (4, 5)), (6,)),
      ("valid", "valid"),
      0.0,
    ),
    (
      "leaky",
      (12, 12, 1),
      Localisation(((3, 3), (4, 3)), (6, 5)),
      ("valid", "valid"),
      1 / 3,
    ),
    # 8 - 4, 2: no room for 3 x 3, then 2 x 2 of them are one, and stay one.
    (
      "small",
      (8, 8, 3),
      Localisation(((2, 5), (4, 3), (3, 3)), (5,)),
      ("valid", "same", "same"),
      0.0,
    ),
    # The shorter side decides. Five pixels leave 5 x 5 but one, which is not
    # enough to pool: it is padded instead.
    ("exact", (9, 5, 2), Localisation(((3, 5),), (4,)), ("same",), 0.0),
    ("just_enough", (9, 6, 2), Localisation(((3, 5),), (4,)), ("valid",), 0.0),
  )
  def test_against_torch(self, shape, layers, paddings, slope):
    net = make(shape, layers, slope=slope)
    x = features(3, *shape)
    np.testing.assert_allclose(
      net(x), forward(net, x, paddings, slope), rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters((12, 12), (13, 11))
  def test_halved_it_sees_the_mean_of_every_four_pixels(self, height, width):
    layers = Localisation(((3, 3),), (5,), halved=True)
    net = make((height, width, 2), layers)
    x = features(2, height, width, 2)
    rows, columns = height // 2, width // 2
    mean = np.empty((2, rows, columns, 2), np.float32)
    for row in range(rows):
      for column in range(columns):
        four = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        mean[:, row, column] = four.mean(axis=(1, 2))
    np.testing.assert_allclose(
      net(x), forward(net, mean, ("valid",), 0.0), rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters("affine", "translation", "projective")
  def test_untrained_it_returns_exactly_the_identity(self, family):
    layers = Localisation(((3, 3),), (5,))
    net = localisation.LocalisationNet(
      (8, 8, 1), layers, family=family, rngs=nnx.Rngs(0)
    )
    theta = net(features(2, 8, 8, 1))
    rows = 3 if family == "projective" else 2
    np.testing.assert_array_equal(theta, np.tile(np.eye(rows, 3), (2, 1, 1)))

  def test_unknown_family(self):
    with self.assertRaisesRegex(ValueError, "euclid"):
      make((4, 4, 1), Localisation(), family="euclid")

  @parameterized.parameters((1, 1), (2, 1), (5, 5), (6, 6), (3, 20))
  def test_features_of_any_size_leave_something(self, height, width):
    layers = Localisation(((2, 5),) * 4, (3,))

    def theta():
      return make((height, width, 2), layers)(jnp.zeros((1, height, width, 2)))

    self.assertEqual(nnx.eval_shape(theta).shape, (1, 2, 3))


class SizeTest(parameterized.TestCase):
  def test_matched_widths(self):
    self.assertEqual(localisation.matched_widths((32, 32), 784, 784), (32, 32))
    self.assertEqual(localisation.matched_widths((), 10, 784), ())
    self.assertEqual(localisation.matched_widths((1,), 10**6, 784), (1,))

  @parameterized.parameters(100, 500, 1000)
  def test_matched_widths_cost_as_much(self, count):
    def cost(features, widths):
      first, second = widths
      return (features + 1) * first + (first + 1) * second

    reference = cost(784, (32, 32))
    widths = localisation.matched_widths((32, 32), count, 784)
    # A unit more or less in the first layer is the precision.
    self.assertAlmostEqual(
      cost(count, widths), reference, delta=(count + 33) / 2 + 1
    )

  def test_what_sees_the_image_is_as_it_is_described(self):
    layers = Localisation(((20, 5),), (32, 8), halved=True)
    shape = (28, 28, 1)
    self.assertIs(localisation.sized_for(layers, shape, shape), layers)

  def test_behind_convolutions_nothing_is_matched_nor_halved(self):
    layers = Localisation(((20, 5),), (32, 8), halved=True)
    found = localisation.sized_for(layers, (10, 10, 64), (28, 28, 1))
    self.assertEqual(found, Localisation(((20, 5),), (32, 8)))

  def test_dense_layers_on_features_are_matched(self):
    layers = Localisation((), (32, 32, 32))
    found = localisation.sized_for(layers, (10, 10, 64), (28, 28, 1))
    self.assertEqual(found.dense, (16, 32, 32))  # not below half
    found = localisation.sized_for(layers, (2, 2, 16), (28, 28, 1))
    self.assertEqual(found.dense, (270, 32, 32))


class GradientTest(absltest.TestCase):
  def test_every_parameter_takes_part(self):
    net = make((14, 14, 1), Localisation(((3, 5), (4, 3)), (5,)), slope=0.1)
    graphdef, params = nnx.split(net, nnx.Param)
    x = features(4, 14, 14, 1)

    def loss(params):
      return (nnx.merge(graphdef, params)(x) ** 2).sum()

    for grad in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
      self.assertGreater(np.abs(grad).max(), 0)


if __name__ == "__main__":
  absltest.main()
