"""Localisation nets against torch."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.nn import LocalisationConv as Conv
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


def forward(net, x, paddings, slope=0.0, pools=None):
  """The same net by torch, told which convolutions are padded and pooled."""
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional

  def tensor(values):
    return torch.from_numpy(np.array(values))

  x = tensor(x).permute(0, 3, 1, 2)
  pools = pools or (2,) * len(paddings)
  for index, (conv, padding, pool) in enumerate(
    zip(net.convs, paddings, pools, strict=True)
  ):
    kernel = tensor(conv.kernel[...]).permute(3, 2, 0, 1)
    x = functional.conv2d(x, kernel, tensor(conv.bias[...]), padding=padding)
    x = functional.leaky_relu(x, slope)
    if str(index) in net.norms:
      norm = net.norms[str(index)]
      x = functional.batch_norm(
        x,
        tensor(norm.mean[...]),
        tensor(norm.var[...]),
        tensor(norm.scale[...]),
        tensor(norm.bias[...]),
      )
    if pool and min(x.shape[2:]) >= pool:
      x = functional.max_pool2d(x, pool, stride=2)
  x = x.permute(0, 2, 3, 1).flatten(1)
  for layer in net.hidden:
    x = (x @ tensor(layer.kernel[...]) + tensor(layer.bias[...])).relu()
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
  @pytest.mark.slow
  def test_against_torch(self, shape, convs, dense, paddings, slope):
    net = make(shape, convs, dense, slope=slope)
    x = features(3, *shape)
    np.testing.assert_allclose(
      net(x), forward(net, x, paddings, slope), rtol=1e-4, atol=1e-4
    )

  @parameterized.named_parameters(
    # 12 padded, pooled to 6, padded, not pooled.
    (
      "padded",
      (12, 11, 2),
      (Conv(3, 5, padding="SAME"), Conv(2, 5, padding="SAME", pool=0)),
      ("same", "same"),
      (2, 0),
      6 * 5 * 2,
    ),
    # Pools of 3 x 3 with a stride of 2: 11 to 5.
    (
      "wide_pool",
      (11, 12, 1),
      (Conv(3, 3, padding="SAME", pool=0), Conv(4, 3, padding="SAME", pool=3)),
      ("same", "same"),
      (0, 3),
      5 * 5 * 4,
    ),
    ("too_small_to_pool", (2, 9, 1), (Conv(3, 3, pool=3),), ("same",), (0,),
     2 * 9 * 3),
    # 11 to 9, which is pooled, to 4 and 2, which is not.
    (
      "pool_above",
      (11, 11, 1),
      (Conv(2, 3, pool_above=8), Conv(3, 3, pool_above=2)),
      ("valid", "valid"),
      (2, 0),
      2 * 2 * 3,
    ),
  )  # fmt: skip
  @pytest.mark.slow
  def test_padding_and_pooling_of_each_convolution(
    self, shape, convs, paddings, pools, features_left
  ):
    net = make(shape, convs, (5,), slope=0.2)
    self.assertEqual(net.hidden[0].in_features, features_left)
    x = features(3, *shape)
    np.testing.assert_allclose(
      net(x), forward(net, x, paddings, 0.2, pools), rtol=1e-4, atol=1e-4
    )

  @pytest.mark.slow
  def test_batch_norm_between_nonlinearity_and_pooling(self):
    net = make((12, 12, 2), (Conv(3, 3, batch_norm=True), (4, 3)), (5,))
    norm, x = net.norms["0"], 1 + features(6, 12, 12, 2)
    norm.scale[...] = jnp.array([-2.0, 0.5, 1])
    norm.bias[...] = jnp.array([0.3, -0.1, 0])
    net(x)  # of the batch; moves the averages
    self.assertGreater(float(jnp.abs(norm.mean[...]).min()), 1e-4)
    evaluated = nnx.view(net, use_running_average=True)
    np.testing.assert_allclose(
      evaluated(x),
      forward(net, x, ("valid", "valid")),
      rtol=1e-4,
      atol=1e-4,
    )

  @parameterized.parameters((12, 12), (13, 11))
  def test_maximum_of_every_four_pixels(self, height, width):
    net = make((height, width, 2), (), (5,), halve_input="max")
    x = features(2, height, width, 2)
    rows, columns = height // 2, width // 2
    largest = np.empty((2, rows, columns, 2), np.float32)
    for row in range(rows):
      for column in range(columns):
        four = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        largest[:, row, column] = four.max(axis=(1, 2))
    np.testing.assert_allclose(
      net(x), forward(net, largest, ()), rtol=1e-4, atol=1e-4
    )

  @parameterized.parameters((12, 12), (13, 11))
  def test_halved_it_sees_the_mean_of_every_four_pixels(self, height, width):
    net = make((height, width, 2), ((3, 3),), (5,), halve_input="mean")
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

  @pytest.mark.slow
  def test_untrained_it_returns_zeros(self):
    net = LocalisationNet((28, 28, 1), 8, rngs=nnx.Rngs(0))
    np.testing.assert_array_equal(net(features(2, 28, 28, 1)), np.zeros((2, 8)))

  @parameterized.parameters(
    (dict(in_shape=(8, 8)), r"in_shape must be \(H, W, C\), got \(8, 8\)"),
    (dict(num_params=0), "num_params must be at least 1, got 0"),
    (dict(halve_input="min"), "halve_input='min'.*'mean', 'max'"),
    (dict(init="zeros"), "init='zeros'.*'torch'"),
  )
  def test_arguments_are_checked(self, changed, message):
    given = {"in_shape": (8, 8, 1), "num_params": 6, **changed}
    with self.assertRaisesRegex(ValueError, message):
      LocalisationNet(**given, rngs=nnx.Rngs(0))

  def test_unknown_padding(self):
    with self.assertRaisesRegex(ValueError, "padding='CAUSAL'.*'SAME'"):
      Conv(8, 3, padding="CAUSAL")

  @parameterized.parameters((1, 1), (2, 1), (5, 5), (6, 6), (3, 20))
  def test_features_of_any_size_leave_something(self, height, width):
    shape = (height, width, 2)

    def forward():
      return make(shape, ((2, 5),) * 4, (3,))(jnp.zeros((1, *shape)))

    self.assertEqual(nnx.eval_shape(forward).shape, (1, 6))


class GradientTest(absltest.TestCase):
  @pytest.mark.slow
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
