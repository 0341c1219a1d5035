"""The banded convolution and the pooling against XLA's own."""

import itertools

from absl.testing import absltest, parameterized
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import convolution

LAYOUT = dict(dimension_numbers=("NHWC", "HWIO", "NHWC"))


def both(shape, kernel_shape, strides=(1, 1), padding="VALID", **options):
  """Value and gradients of our convolution and of XLA's."""
  rng = np.random.default_rng(0)
  images, kernel = rng.normal(size=shape), rng.normal(size=kernel_shape)
  results = []
  for conv in (convolution.conv_general_dilated, lax.conv_general_dilated):

    @jax.jit
    def run(images, kernel, conv=conv):
      value, vjp = jax.vjp(
        lambda i, k: conv(i, k, strides, padding, **LAYOUT, **options),
        images,
        kernel,
      )
      cotangent = jnp.cos(jnp.arange(value.size * 1.0)).reshape(value.shape)
      return value, *vjp(cotangent)

    results.append(run(images, kernel))
  return results


@pytest.mark.usefixtures("x64")
class ConvTest(parameterized.TestCase):
  @parameterized.parameters(
    *itertools.product(
      ((2, 9, 7, 3),),
      ((3, 5), (4, 1), (1, 1)),
      ("VALID", "SAME", ((0, 1), (2, 0))),
    ),
    ((1, 4, 12, 1), (3, 5), "SAME"),
    ((1, 4, 12, 1), (4, 1), "VALID"),
    ((0, 9, 9, 2), (3, 5), "SAME"),
  )
  def test_values_and_gradients(self, shape, kernel, padding):
    ours, theirs = both(shape, (*kernel, shape[-1], 4), padding=padding)
    for a, b in zip(ours, theirs, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-12)

  @parameterized.parameters(
    dict(strides=(2, 1)),
    dict(rhs_dilation=(2, 2)),
    dict(lhs_dilation=(1, 2), padding=((0, 0), (0, 0))),
    dict(feature_group_count=2),
  )
  def test_other_convolutions_are_left_to_xla(self, **options):
    channels = 4 // options.get("feature_group_count", 1)
    ours, theirs = both((2, 9, 8, 4), (3, 3, channels, 4), **options)
    for a, b in zip(ours, theirs, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-12)

  @parameterized.parameters("VALID", "SAME")
  def test_on_cpu_a_plain_convolution_is_a_product(self, padding):
    text = (
      jax.jit(
        lambda i, k: convolution.conv_general_dilated(
          i, k, (1, 1), padding, **LAYOUT
        )
      )
      .lower(jnp.zeros((1, 28, 28, 1)), jnp.zeros((9, 9, 1, 16)))
      .as_text()
    )
    self.assertNotIn("convolution", text)
    self.assertIn("dot_general", text)

  def test_what_the_band_cannot_do_is_left_to_xla(self):
    ours, theirs = both((1, 7, 8, 2), (2, 2, 2, 2), padding=((-1, 0), (0, 0)))
    for a, b in zip(ours, theirs, strict=True):
      np.testing.assert_allclose(a, b, atol=1e-12)
    images, kernel = (
      jnp.ones(s, "bfloat16") for s in ((1, 4, 4, 1), (2, 2, 1, 1))
    )
    out = convolution.conv_general_dilated(
      images,
      kernel,
      (1, 1),
      "VALID",
      preferred_element_type=jnp.float32,
      **LAYOUT,
    )
    self.assertEqual(out.dtype, jnp.float32)

  def test_other_layouts(self):
    images, kernel = np.ones((1, 2, 5, 5)), np.ones((3, 2, 3, 3))
    np.testing.assert_allclose(
      convolution.conv_general_dilated(images, kernel, (1, 1), "VALID"),
      lax.conv_general_dilated(images, kernel, (1, 1), "VALID"),
    )


class PoolTest(parameterized.TestCase):
  @parameterized.product(
    shape=((2, 6, 4, 3), (1, 7, 5, 1), (0, 4, 4, 1), (1, 2, 9, 1)),
    size_and_stride=((2, 2), (3, 3), (3, 2)),
  )
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
