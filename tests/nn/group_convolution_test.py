"""Group convolutions against loops in NumPy, and their equivariance."""

import functools
import itertools

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from stnjax import nn, sampling, transforms
from stnjax.nn import convolution, group_convolution


def draw(*shape, seed=0, dtype=np.float32):
  return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def correlated(image, kernel, padding):
  """`[H, W, C]` with `[k, k, C]`, pixel by pixel."""
  size = kernel.shape[0]
  if padding == "SAME":
    pads = ((size - 1) // 2, size // 2)
    image = np.pad(image, (pads, pads, (0, 0)))
  rows, columns = (side - size + 1 for side in image.shape[:2])
  out = np.zeros((rows, columns))
  for y, x in itertools.product(range(rows), range(columns)):
    out[y, x] = (image[y : y + size, x : x + size] * kernel).sum()
  return out


def lifted(conv, image):
  """A lifting convolution of one image, by loops."""
  size, count = conv.kernel_size, conv.orientations
  kernel = np.asarray(conv.kernel[...], np.float64)
  kernel = kernel.reshape(size, size, *kernel.shape[1:])
  maps = [
    correlated(image, np.rot90(kernel[..., f], g), conv.padding) + bias
    for f, bias in enumerate(np.asarray(conv.bias[...]))
    for g in range(count)
  ]
  return np.stack(maps, axis=-1)


def grouped(conv, features):
  """A group convolution of features of one image, by loops."""
  size, count = conv.kernel_size, conv.orientations
  kernel = np.asarray(conv.kernel[...], np.float64)
  kernel = kernel.reshape(size, size, *kernel.shape[1:])
  maps = []
  for f, bias in enumerate(np.asarray(conv.bias[...])):
    for g in range(count):
      total = bias
      for c, h in itertools.product(range(kernel.shape[2]), range(count)):
        weights = np.rot90(kernel[:, :, c, (h - g) % count, f, None], g)
        seen = features[..., c * count + h, None]
        total = total + correlated(seen, weights, conv.padding)
      maps.append(total)
  return np.stack(maps, axis=-1)


def pair(count, size=5, padding="SAME", channels=2, filters=3):
  """A lifting and a group convolution with random biases."""
  options = {"orientations": count, "padding": padding, "init": "torch"}
  rngs = nnx.Rngs(0)
  return nnx.List(
    [
      nn.LiftingConv(channels, filters, size, **options, rngs=rngs),
      nn.GroupConv(filters, 2, size, **options, rngs=rngs),
    ]
  )


@nnx.jit
def apply(conv, x):
  return conv(x)


@nnx.jit
def through(convs, x):
  first, second = convs
  return second(jnp.sin(first(x)))


def turned(features, count, steps):
  """Features whose orientations are shifted by some steps."""
  by_filter = np.asarray(features).reshape(*features.shape[:3], -1, count)
  return np.roll(by_filter, steps, axis=-1).reshape(features.shape)


class ValuesTest(parameterized.TestCase):
  @parameterized.parameters(
    (5, "SAME", (2, 7, 7)),
    (3, "VALID", (1, 6, 9)),
    (4, "SAME", (1, 6, 5)),
    (2, "VALID", (3, 5, 5)),
    (1, "SAME", (1, 1, 4)),
    (3, "SAME", (0, 4, 4)),
  )
  def test_four_orientations_are_loops(self, size, padding, shape):
    x = draw(*shape, 2)
    for conv, loops in zip(pair(4, size, padding), (lifted, grouped)):
      x = x if loops is lifted else draw(*shape, 12)
      with self.subTest(loops.__name__):
        out = apply(conv, x)
        expected = [loops(conv, image) for image in x.astype(np.float64)]
        self.assertEqual(out.dtype, np.float32)
        if not expected:
          self.assertEqual(out.shape, (0, 4, 4, 4 * len(conv.bias[...])))
          continue
        np.testing.assert_allclose(out, np.stack(expected), atol=1e-5)

  @parameterized.parameters((8, 1), (8, 4), (8, 5), (12, 3), (12, 2))
  @pytest.mark.slow
  def test_filters_between_are_warped_ones(self, count, size):
    """Each is the sum of its taps, warped alone, then quarter turns."""
    taps = group_convolution.kernel_taps(size, count)
    weights = draw(len(taps), 3)
    upright = np.zeros((size * size, 3), np.float32)
    upright[taps] = weights
    upright = upright.reshape(size, size, 3)
    every = group_convolution.turned_kernels(weights, size, count)
    self.assertEqual(every.shape, (count, size, size, 3))
    quarter = count // 4
    for g, kernel in enumerate(every):
      if g % quarter == 0:
        expected = np.rot90(upright, g // quarter)
        np.testing.assert_array_equal(kernel, expected)
        continue
      angle = 2 * np.pi * (g % quarter) / count
      taps_alone = np.eye(size**2).reshape(size, size, -1).astype(np.float32)
      warped = sampling.warp(
        taps_alone, transforms.rotation(angle), method="cubic"
      )
      sums = np.sum(warped, axis=(0, 1))
      sums = np.where(upright.any(axis=-1).ravel(), sums, 1)
      expected = np.rot90(warped / sums @ upright.reshape(-1, 3), g // quarter)
      np.testing.assert_allclose(kernel, expected, atol=1e-5)
    np.testing.assert_allclose(
      every.sum(axis=(1, 2)), [weights.sum(axis=0)] * count, atol=1e-4
    )

  @parameterized.parameters((8, 2), (8, 3), (8, 5), (12, 9), (4, 3), (4, 6))
  def test_taps_lie_in_the_disc(self, count, size):
    middle = (size - 1) / 2
    expected = [
      y * size + x
      for y, x in itertools.product(range(size), repeat=2)
      if count == 4 or np.hypot(y - middle, x - middle) <= size / 2 + 1e-9
    ]
    found = group_convolution.kernel_taps(size, count)
    self.assertEqual(found.tolist(), expected)
    first, second = pair(count, size)
    self.assertEqual(first.kernel.shape, (len(expected), 2, 3))
    self.assertEqual(second.kernel.shape, (len(expected), 3, count, 2))
    self.assertEqual(first.bias.shape, (3,))
    self.assertEqual(second.bias.shape, (2,))

  @parameterized.parameters("float16", "bfloat16", "float32", "uint8")
  @pytest.mark.slow
  def test_dtypes_are_those_of_a_convolution(self, dtype):
    first, second = pair(8)
    convolve = jax.jit(functools.partial(convolution.conv, padding="SAME"))
    for conv, channels in ((first, 2), (second, 24)):
      x = jnp.arange(36 * channels).reshape(1, 6, 6, channels) % 7
      x = x.astype(dtype)
      kernel = conv.expanded_kernel()
      expected = convolve(x, kernel) + np.repeat(conv.bias, 8)
      out = apply(conv, x)
      self.assertEqual(out.dtype, expected.dtype)
      np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
      if dtype == "uint8":
        continue
      conv.kernel = nnx.Param(conv.kernel[...].astype(dtype))
      conv.bias = nnx.Param(conv.bias[...].astype(dtype))
      narrow = apply(conv, x)
      self.assertEqual(narrow.dtype, dtype)
      np.testing.assert_allclose(
        narrow.astype(np.float32), expected, rtol=0.05, atol=0.3
      )

  @pytest.mark.slow
  def test_the_start(self):
    """Variance of the kernel by the taps that a filter reads."""
    conv = nn.GroupConv(20, 40, 5, orientations=8, rngs=nnx.Rngs(0))
    kernel = np.asarray(conv.kernel[...])
    self.assertAlmostEqual(kernel.std() * np.sqrt(21 * 20 * 8), 1, delta=0.02)
    self.assertFalse(np.any(conv.bias[...]))
    other = nn.GroupConv(
      20, 40, 5, orientations=8, init="torch", rngs=nnx.Rngs(0)
    )
    bound = 1 / np.sqrt(21 * 20 * 8)
    for values in (other.kernel[...], other.bias[...]):
      self.assertBetween(float(np.abs(values).max()), 0.9 * bound, bound)
    bare = nn.LiftingConv(
      1, 1, 3, orientations=4, use_bias=False, rngs=nnx.Rngs(0)
    )
    self.assertIsNone(bare.bias)
    self.assertLen(jax.tree.leaves(nnx.state(bare, nnx.Param)), 1)

  @pytest.mark.slow
  def test_first_use_while_traced(self):
    """Rotations are constants, not values of a trace."""

    @jax.jit
    def forward(x):
      conv = nn.LiftingConv(1, 2, 11, orientations=16, rngs=nnx.Rngs(0))
      return conv(x)

    x = draw(1, 12, 12, 1)
    conv = nn.LiftingConv(1, 2, 11, orientations=16, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(forward(x), conv(x), atol=1e-5)
    again = jax.grad(lambda x: forward(x).sum())(x)
    self.assertTrue(np.isfinite(again).all())

  @parameterized.named_parameters(
    ("orientations", {"orientations": 6}, "multiple of 4, got 6"),
    ("too few", {"orientations": 1}, "orientations must be at least 4, got 1"),
    ("padding", {"padding": "CAUSAL"}, "padding='CAUSAL' is unknown"),
    ("size", {"kernel_size": 0}, "kernel_size must be at least 1, got 0"),
    ("filters", {"filters": 0}, "filters must be at least 1, got 0"),
    ("init", {"init": "ones"}, "init='ones' is unknown"),
  )
  def test_mistakes(self, change, message):
    options = {
      "filters": 2, "kernel_size": 3, "orientations": 4, "rngs": nnx.Rngs(0)
    }  # fmt: skip
    for kind in (nn.LiftingConv, nn.GroupConv):
      with self.assertRaisesRegex(ValueError, message):
        kind(1, **{**options, **change})

  def test_features_of_other_channels(self):
    conv = pair(4)[1]
    with self.assertRaisesRegex(ValueError, r"\[B, H, W, 12\], got shape \(1"):
      conv(jnp.zeros((1, 5, 5, 3)))
    with self.assertRaisesRegex(ValueError, "multiple of orientations=4"):
      group_convolution.split_orientations(jnp.zeros((2, 6)), 4)


class GradientTest(parameterized.TestCase):
  @parameterized.parameters((4, 3, "SAME"), (8, 4, "VALID"))
  @pytest.mark.slow
  def test_gradients_are_the_numerical_ones(self, count, size, padding):
    with jax.enable_x64(True):
      convs = pair(count, size, padding, channels=1, filters=2)
      graphdef, params = nnx.split(convs)
      params = jax.tree.map(lambda x: x.astype(np.float64), params)
      x = draw(2, 6, 6, 1, dtype=np.float64)

      @jax.jit
      def loss(params, x):
        return jnp.sin(through(nnx.merge(graphdef, params), x)).sum()

      check_grads(
        loss, (params, x), 1, ("rev",), eps=1e-5, atol=1e-6, rtol=1e-6
      )


def blobs(size, angle, width):
  """A sum of Gaussians, turned counter-clockwise as it is drawn."""
  rng = np.random.default_rng(3)
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  cos, sin = np.cos(angle), np.sin(angle)
  image = np.zeros((1, size, size, 1), np.float32)
  for _ in range(30):
    right, down = rng.uniform(-size / 3.2, size / 3.2, 2)
    # Up on the picture is towards smaller y.
    place = (cos * right + sin * down, cos * down - sin * right)
    squares = (x - place[0]) ** 2 + (y - place[1]) ** 2
    image[0, ..., 0] += rng.normal() * np.exp(-squares / 2 / width**2)
  return image


class EquivarianceTest(parameterized.TestCase):
  @parameterized.parameters(
    *itertools.product((4, 8), ((5, "SAME"), (3, "VALID"), (4, "VALID"))),
    (12, (3, "SAME")),
  )
  def test_quarter_turns(self, count, kernel):
    convs = pair(count, *kernel)
    for shape in ((8, 8), (9, 9)):
      x = draw(2, *shape, 2)
      features = through(convs, x)
      for quarters in (1, 2, 3):
        after = through(convs, np.rot90(x, quarters, axes=(1, 2)))
        expected = np.rot90(features, quarters, axes=(1, 2))
        expected = turned(expected, count, quarters * count // 4)
        np.testing.assert_allclose(after, expected, atol=1e-5)
        self.assertGreater(np.abs(after - turned(after, count, 1)).max(), 0.1)

  @parameterized.parameters((3, 0.2), (5, 0.06), (7, 0.06), (9, 0.06))
  @pytest.mark.slow
  def test_eighths_of_smooth_images(self, size, most):
    convs = pair(8, size, "VALID", channels=1, filters=4)
    side = 40 + 2 * size
    before, after = (
      convs[0](blobs(side, angle, 1.5)) - jnp.repeat(convs[0].bias[...], 8)
      for angle in (0, np.pi / 4)
    )
    expected = sampling.warp(
      before, transforms.rotation(np.pi / 4), method="spline"
    )
    part = slice(before.shape[1] // 4, -(before.shape[1] // 4))
    expected, after = (
      np.asarray(x)[:, part, part] for x in (turned(expected, 8, 1), after)
    )
    error = np.linalg.norm(after - expected) / np.linalg.norm(expected)
    self.assertLess(error, most)
    for steps in (1, -1, 4):
      other = np.linalg.norm(after - turned(expected, 8, steps))
      self.assertGreater(other / np.linalg.norm(expected), 2 * error)

  @pytest.mark.slow
  def test_filters_with_corners_turn_worse(self):
    """Why taps in the corners of 5 x 5 kernels are left out."""
    weights = draw(25, 1, 8)
    upright = weights.reshape(5, 5, 1, 8)
    warped = sampling.warp(
      upright.reshape(5, 5, 8), transforms.rotation(np.pi / 4), method="cubic"
    )
    before = convolution.conv(blobs(50, 0, 1.5), upright, "VALID")
    after = convolution.conv(
      blobs(50, np.pi / 4, 1.5), warped[:, :, None], "VALID"
    )
    expected = sampling.warp(
      before, transforms.rotation(np.pi / 4), method="spline"
    )
    after, expected = (
      np.asarray(x)[:, 11:-11, 11:-11] for x in (after, expected)
    )
    error = np.linalg.norm(after - expected) / np.linalg.norm(expected)
    self.assertGreater(error, 0.2)


if __name__ == "__main__":
  absltest.main()
