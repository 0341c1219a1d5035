"""The stages and heads of convolutional backbones."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.placement import Context, ConvBlock, MeanHead, blocks


class ConvBlockTest(parameterized.TestCase):
  @parameterized.parameters(0.0, 1 / 3)
  def test_slope_below_zero(self, slope):
    block = ConvBlock(1, 1, 1, slope=slope, rngs=nnx.Rngs(0))
    block.conv.kernel[...] = jnp.ones((1, 1, 1, 1))
    images = np.linspace(-2, 2, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    expected = np.where(images > 0, images, slope * images)
    np.testing.assert_allclose(block(images), expected, atol=1e-6)

  @pytest.mark.slow
  def test_batch_norm_then_pool_then_nonlinearity(self):
    block = ConvBlock(
      3, 2, 3, pool=2, batch_norm="before_relu", slope=0.1, rngs=nnx.Rngs(0)
    )
    scale, bias = np.array([-2.0, 0.5]), np.array([0.3, -0.1])
    block.norm.scale[...], block.norm.bias[...] = jnp.array([scale, bias])
    x = np.random.default_rng(0).normal(1, 2, (5, 4, 6, 3)).astype(np.float32)
    convolved = np.asarray(block.conv(x), np.float64)
    self.assertEqual(convolved.shape, (5, 4, 6, 2))

    def rest(mean, variance):
      y = scale * (convolved - mean) / np.sqrt(variance + 1e-5) + bias
      y = y.reshape(5, 2, 2, 3, 2, 2).max(axis=(2, 4))
      return np.where(y > 0, y, 0.1 * y)

    mean, variance = (f(convolved, axis=(0, 1, 2)) for f in (np.mean, np.var))
    np.testing.assert_allclose(block(x), rest(0, 1), atol=1e-5)
    trained = block(x, Context(True))
    np.testing.assert_allclose(trained, rest(mean, variance), atol=1e-5)
    moved = 0.01 * mean, 0.99 + 0.01 * variance
    np.testing.assert_allclose(block.norm.mean[...], moved[0], rtol=1e-4)
    np.testing.assert_allclose(block.norm.var[...], moved[1], rtol=1e-4)
    np.testing.assert_allclose(block(x), rest(*moved), atol=1e-5)

  def test_nonlinearity_then_batch_norm_then_pool(self):
    block = ConvBlock(
      3, 2, 3, pool=2, batch_norm="after_relu", slope=0.1, rngs=nnx.Rngs(0)
    )
    scale, bias = np.array([-2.0, 0.5]), np.array([0.3, -0.1])
    block.norm.scale[...], block.norm.bias[...] = jnp.array([scale, bias])
    block.conv.bias[...] = jnp.array([0.4, -0.2])
    x = np.random.default_rng(0).normal(1, 2, (5, 4, 6, 3)).astype(np.float32)
    y = np.asarray(block.conv(x), np.float64)  # with its bias
    y = np.where(y > 0, y, 0.1 * y)

    def rest(mean, variance):
      z = scale * (y - mean) / np.sqrt(variance + 1e-5) + bias
      return z.reshape(5, 2, 2, 3, 2, 2).max(axis=(2, 4))

    np.testing.assert_allclose(block(x), rest(0, 1), atol=1e-5)
    trained = block(x, Context(True))
    mean, variance = (f(y, axis=(0, 1, 2)) for f in (np.mean, np.var))
    np.testing.assert_allclose(trained, rest(mean, variance), atol=1e-5)

  @pytest.mark.slow
  def test_dropout_of_whole_channels(self):
    block = ConvBlock(
      1, 8, 3, dropout=0.5, drop_channels=True, rngs=nnx.Rngs(0)
    )
    x = np.random.default_rng(0).normal(size=(20, 5, 5, 1)).astype(np.float32)
    whole = np.asarray(block(x))
    keys = jax.random.split(jax.random.key(0), 20)
    ratio = np.asarray(block(x, Context(True, keys))) / np.where(
      whole > 0, whole, 1
    )
    seen = np.ma.masked_array(ratio, whole <= 0)
    least, most = seen.min(axis=(1, 2)), seen.max(axis=(1, 2))
    np.testing.assert_allclose(least, most, atol=1e-5)
    self.assertEqual(set(np.round(most, 4).ravel().tolist()), {0.0, 2.0})
    self.assertBetween(float((most > 1).mean()), 0.35, 0.65)

  @pytest.mark.slow
  def test_compiled_gradients_through_batch_norm_and_pool(self):
    """Compiled apart, the norm may be rounded otherwise than in its pool."""
    block = ConvBlock(
      4, 4, 3, pool=2, batch_norm="before_relu", slope=0.1, rngs=nnx.Rngs(0)
    )
    graphdef, state = nnx.split(block)
    x = np.random.default_rng(0).normal(size=(8, 12, 12, 4))

    def loss(x):
      block = nnx.merge(graphdef, state, copy=True)
      return jnp.sin(block(x, Context(True))).sum()

    x = x.astype(np.float32)
    compiled = jax.jit(jax.grad(loss))(x)
    self.assertTrue(np.isfinite(compiled).all())
    np.testing.assert_allclose(compiled, jax.grad(loss)(x), atol=1e-4)

  def test_unknown_batch_norm(self):
    with self.assertRaisesRegex(ValueError, "batch_norm=True.*'after_relu'"):
      ConvBlock(1, 1, 3, batch_norm=True, rngs=nnx.Rngs(0))

  def test_unknown_padding(self):
    with self.assertRaisesRegex(ValueError, "padding='CAUSAL'"):
      ConvBlock(1, 1, 3, padding="CAUSAL", rngs=nnx.Rngs(0))


class HeadTest(absltest.TestCase):
  def test_dropout_of_the_features(self):
    """A head without hidden layers, of one feature times the identity."""
    head = blocks.DenseHead(
      (2, 2, 100), 400, dropout=0.5, drop_input=True, rngs=nnx.Rngs(0)
    )
    head.last.kernel[...] = jnp.eye(400)
    x = jnp.ones((3, 2, 2, 100))
    np.testing.assert_allclose(head(x), np.ones((3, 400)))
    keys = jax.random.split(jax.random.key(0), 3)
    dropped = np.asarray(head(x, Context(True, keys)))
    self.assertEqual(set(dropped.ravel().tolist()), {0.0, 2.0})
    self.assertBetween(dropped.mean(), 0.85, 1.15)

  @pytest.mark.slow
  def test_initial_values_of_the_last_layer(self):
    """He's variance is for what a ReLU follows."""
    for init, variance in (
      ("lecun_normal", 1),
      ("he_normal", 1),
      ("torch", 1 / 3),
    ):
      head = blocks.DenseHead(
        (2, 2, 100), 200, widths=(300,), init=init, rngs=nnx.Rngs(0)
      )
      found = 300 * float(head.last.kernel[...].var())
      self.assertAlmostEqual(found, variance, delta=0.02)
      first = 400 * float(head.hidden[0].kernel[...].var())
      expected = 2 if init == "he_normal" else variance
      self.assertAlmostEqual(first, expected, delta=0.04)

  def test_mean_head(self):
    head = MeanHead(2, 3, dropout=0.5, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(4, 5, 6, 2)).astype(np.float32)
    means = x.mean(axis=(1, 2))
    expected = means @ head.last.kernel[...] + head.last.bias[...]
    np.testing.assert_allclose(head(x), expected, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 4)
    trained = np.asarray(head(x, Context(True, keys)))
    choices = np.array([[a, b] for a in (0, 2) for b in (0, 2)])
    options = (means[:, None] * choices) @ head.last.kernel[...]
    apart = np.abs(options + head.last.bias[...] - trained[:, None])
    np.testing.assert_allclose(apart.max(-1).min(-1), 0, atol=1e-5)


class FactorTest(parameterized.TestCase):
  @parameterized.parameters(0.0, -1.0, float("nan"), 1e300)
  def test_factors_are_checked(self, factor):
    with self.assertRaisesRegex(ValueError, "width must be positive and less"):
      blocks.check_factors(width=factor)

  def test_nothing_vanishes(self):
    self.assertEqual(blocks.scaled(64, 1e-6), 1)
    self.assertEqual(blocks.scaled(64, 0.25), 16)


if __name__ == "__main__":
  absltest.main()
