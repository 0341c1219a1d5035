"""The banded convolution and the pooling against XLA's own."""

import functools
import itertools

from absl.testing import absltest, parameterized
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.nn import convolution


@pytest.mark.usefixtures("x64")
class ConvTest(parameterized.TestCase):
  @parameterized.parameters(
    *itertools.product(
      ((2, 9, 7, 3),), ((3, 5), (4, 1), (1, 1)), ("VALID", "SAME")
    ),
    ((1, 4, 12, 1), (3, 5), "SAME"),
    ((1, 4, 12, 1), (4, 1), "VALID"),
    ((1, 4, 12, 1), (5, 1), "VALID"),  # of no pixels
    ((1, 2, 1, 1), (5, 3), "SAME"),
    ((0, 9, 9, 2), (3, 5), "SAME"),
  )
  def test_values_and_gradients(self, shape, window, padding):
    rng = np.random.default_rng(0)
    images = rng.normal(size=shape)
    kernel = rng.normal(size=(*window, shape[-1], 4))

    def xla(images, kernel):
      return lax.conv_general_dilated(
        images,
        kernel,
        (1, 1),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
      )

    results = []
    for conv in (functools.partial(convolution.conv, padding=padding), xla):

      @jax.jit
      def run(images, kernel, conv=conv):
        value, vjp = jax.vjp(conv, images, kernel)
        cotangent = jnp.cos(jnp.arange(value.size * 1.0)).reshape(value.shape)
        return value, *vjp(cotangent)

      results.append(run(images, kernel))
    for a, b in zip(*results, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-12)

  @parameterized.product(
    dtype=("uint8", "bfloat16", "float32", "float64"), size=(2, 6)
  )
  def test_dtypes_are_promoted(self, dtype, size):
    """Compiled for any platform, and where there is no pixel, too."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 2))
    images = jnp.arange(size**2).reshape(1, size, size, 1).astype(dtype)
    conv = jax.jit(functools.partial(convolution.conv, padding="VALID"))
    out = conv(images, kernel.astype(np.float32))
    wide = "float64" if dtype == "float64" else "float32"
    self.assertEqual(out.dtype, wide)
    expected = conv(images.astype(wide), kernel.astype(np.float32).astype(wide))
    np.testing.assert_allclose(out, expected, rtol=1e-6)


class PoolTest(parameterized.TestCase):
  @parameterized.product(
    shape=((2, 6, 4, 3), (1, 7, 5, 1), (0, 4, 4, 1), (1, 2, 9, 1)),
    size_and_stride=((2, 2), (3, 3), (3, 2)),
  )
  @pytest.mark.slow
  def test_against_reduce_window(self, shape, size_and_stride):
    size, stride = size_and_stride
    images = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def xla(x):
      window, strides = (1, size, size, 1), (1, stride, stride, 1)
      return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")

    value, vjp = jax.vjp(
      lambda x: convolution.max_pool(x, size, stride), images
    )
    expected, expected_vjp = jax.vjp(xla, images)
    np.testing.assert_array_equal(value, expected)
    cotangent = jnp.arange(value.size * 1.0).reshape(value.shape)
    np.testing.assert_array_equal(vjp(cotangent)[0], expected_vjp(cotangent)[0])

  def test_on_tpu_it_is_xla_s(self):
    traced = jax.jit(
      jax.grad(lambda x: convolution.max_pool(x, 2).sum())
    ).trace(jnp.ones((2, 8, 8, 3)))
    for platform, count in (("tpu", 1), ("cpu", 0), ("cuda", 0)):
      text = traced.lower(lowering_platforms=(platform,)).as_text()
      self.assertEqual(text.count("select_and_scatter"), count, platform)


if __name__ == "__main__":
  absltest.main()
