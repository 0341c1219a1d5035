"""Localisation nets against torch."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.nn import LocalisationNet


def make(shape, convs=(), dense=(), seed=0, **options):
  """A net whose head is no longer zero."""
  net = LocalisationNet(
    shape, 6, convs=convs, dense=dense, rngs=nnx.Rngs(seed), **options
  )
  rng = np.random.default_rng(seed)
  for parameter in (net.head.kernel, net.head.bias):
    parameter[...] = jnp.asarray(rng.normal(0, 0.3, parameter.shape), "float32")
  return net


def features(*shape):
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def forward(net, x, paddings, slope=0.0):
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
  return x.numpy()


class ForwardTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("dense", (6, 5, 2), (), (7, 4), (), 0.0),
    ("nothing_hidden", (4, 4, 1), (), (), (), 0.0),
    (
      "conv",
      (20, 17, 2),
      ((3, 5), (4, 5)),
      (6,),
      ("valid", "valid"),
      0.0,
    ),
    (
      "leaky",
      (12, 12, 1),
      ((3, 3), (4, 3)),
      (6, 5),
      ("valid", "valid"),
      1 / 3,
    ),
    # 8 - 4, 2: no room for 3 x 3, then 2 x 2 of them are one, and stay one.
    (
      "small",
      (8, 8, 3),
      ((2, 5), (4, 3), (3, 3)),
      (5,),
      ("valid", "same", "same"),
      0.0,
    ),
    # The shorter side decides. Five pixels leave 5 x 5 but one, which is not
    # enough to pool: it is padded instead.
    ("exact", (9, 5, 2), ((3, 5),), (4,), ("same",), 0.0),
    ("just_enough", (9, 6, 2), ((3, 5),), (4,), ("valid",), 0.0),
  )
  def test_against_torch(self, shape, convs, dense, paddings, slope):
    net = make(shape, convs, dense, slope=slope)
    x = features(3, *shape)
    np.testing.assert_allclose(
      net(x), forward(net, x, paddings, slope), rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters((12, 12), (13, 11))
  def test_halved_it_sees_the_mean_of_every_four_pixels(self, height, width):
    net = make((height, width, 2), ((3, 3),), (5,), halve_input=True)
    x = features(2, height, width, 2)
    rows, columns = height // 2, width // 2
    mean = np.empty((2, rows, columns, 2), np.float32)
    for row in range(rows):
      for column in range(columns):
        four = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        mean[:, row, column] = four.mean(axis=(1, 2))
    np.testing.assert_allclose(
      net(x), forward(net, mean, ("valid",)), rtol=1e-4, atol=1e-4
    )

  def test_pools_of_the_first_convolutions_alone(self):
    net = make((13, 13, 1), ((2, 3), (3, 3)), pools=1)
    # 13-11-5-3, and no pooling: 9 x 3.
    self.assertEqual(net.head.kernel.shape, (27, 6))
    self.assertEqual(net(features(2, 13, 13, 1)).shape, (2, 6))

  def test_untrained_it_returns_zeros(self):
    net = LocalisationNet((28, 28, 1), 8, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(net(features(2, 28, 28, 1)), np.zeros((2, 8)))

  @parameterized.parameters(
    (dict(in_shape=(8, 8)), r"in_shape must be \(H, W, C\), got \(8, 8\)"),
    (dict(num_params=0), "num_params must be at least 1, got 0"),
  )
  def test_arguments_are_checked(self, changed, message):
    given = {"in_shape": (8, 8, 1), "num_params": 6, **changed}
    with self.assertRaisesRegex(ValueError, message):
      LocalisationNet(**given, rngs=nnx.Rngs(0))

  @parameterized.parameters((1, 1), (2, 1), (5, 5), (6, 6), (3, 20))
  def test_features_of_any_size_leave_something(self, height, width):
    shape = (height, width, 2)

    def forward():
      return make(shape, ((2, 5),) * 4, (3,))(jnp.zeros((1, *shape)))

    self.assertEqual(nnx.eval_shape(forward).shape, (1, 6))


class GradientTest(absltest.TestCase):
  def test_every_parameter_takes_part(self):
    net = make((14, 14, 1), ((3, 5), (4, 3)), (5,), slope=0.1)
    graphdef, params = nnx.split(net, nnx.Param)
    x = features(4, 14, 14, 1)

    def loss(params):
      return (nnx.merge(graphdef, params)(x) ** 2).sum()

    for grad in jax.tree.leaves(jax.jit(jax.grad(loss))(params)):
      self.assertGreater(np.abs(grad).max(), 0)


if __name__ == "__main__":
  absltest.main()
