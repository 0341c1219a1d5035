"""The operations of convolution, in every form, against loops in NumPy."""

import functools
import itertools

from absl.testing import absltest, parameterized
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.nn import convolution, convolution_operations

# Images, window and filters; each form is taken by some, on every platform.
LAYERS = {
  "one channel": ((3, 9, 7, 1), (3, 5), 4),
  "few channels": ((2, 9, 7, 3), (5, 3), 4),
  "small": ((2, 8, 9, 8), (7, 5), 3),
  "many summands": ((2, 8, 8, 64), (7, 7), 2),
  "large": ((2, 26, 27, 8), (3, 3), 2),
  "large and wide": ((2, 26, 27, 32), (3, 3), 2),
  "wide": ((2, 10, 10, 32), (3, 3), 2),
  "pieces": ((65, 6, 5, 8), (3, 3), 2),
  "more pieces": ((1500, 3, 4, 8), (2, 2), 1),
  "even window": ((2, 6, 5, 8), (4, 2), 3),
  "window of a pixel": ((2, 4, 5, 9), (1, 1), 3),
  "image as window": ((2, 4, 5, 8), (4, 5), 3),
  "no images": ((0, 9, 9, 8), (3, 3), 2),
  "no channels": ((2, 5, 5, 0), (3, 3), 2),
  "one image": ((1, 9, 9, 8), (3, 3), 2),
}


def _data(layer):
  shape, window, filters = LAYERS[layer]
  rng = np.random.default_rng(0)
  kernel = rng.normal(size=(*window, shape[-1], filters))
  return rng.normal(size=shape), kernel


def _loops(images, kernel, padding):
  """Output; a function from its cotangent to both gradients."""
  height, width = kernel.shape[:2]
  pads = [(0, 0)] * 4
  if padding == "SAME":
    pads[1:3] = [((k - 1) // 2, k // 2) for k in (height, width)]
  padded = np.pad(images, pads)
  rows, columns = padded.shape[1] - height + 1, padded.shape[2] - width + 1
  windows = {
    (y, x): np.s_[:, y : y + rows, x : x + columns]
    for y, x in itertools.product(range(height), range(width))
  }
  out = sum(padded[w] @ kernel[at] for at, w in windows.items())

  def gradients(cotangent):
    to_padded, to_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for at, window in windows.items():
      to_padded[window] += cotangent @ kernel[at].T
      to_kernel[at] = np.einsum("bhwc,bhwf->cf", padded[window], cotangent)
    (top, bottom), (left, right) = pads[1:3]
    bottom, right = padded.shape[1] - bottom, padded.shape[2] - right
    return to_padded[:, top:bottom, left:right], to_kernel

  return out, gradients


def _xla(images, kernel, padding):
  return lax.conv_general_dilated(
    images, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def _close(results, expected, tolerance=1e-11):
  for a, b in zip(jax.tree.leaves(results), jax.tree.leaves(expected)):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def _wavy(like):
  return np.cos(np.arange(like.size)).reshape(like.shape)


@pytest.mark.usefixtures("x64")
class FormsTest(parameterized.TestCase):
  @parameterized.product(
    layer=tuple(LAYERS), padding=("VALID", "SAME"), fast=(True, False)
  )
  def test_values_and_gradients(self, layer, padding, fast):
    images, kernel = _data(layer)
    expected, gradients = _loops(images, kernel, padding)

    @jax.jit
    def run(*operands):
      conv = functools.partial(convolution.conv, padding=padding)
      value, vjp = jax.vjp(conv, *operands)
      return value, vjp(jnp.asarray(_wavy(value)))

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(convolution_operations, "_FAST", fast)
      results = run(images, kernel)
    _close(results, (expected, gradients(_wavy(expected))), 1e-9)

  def test_outside_jit(self):
    images, kernel = _data("small")
    expected, _ = _loops(images, kernel, "VALID")
    _close(convolution.conv(images, kernel, "VALID"), expected)

  @parameterized.product(
    layer=("one channel", "small", "large and wide"), fast=(True, False)
  )
  def test_further_derivatives(self, layer, fast):
    """Forward over reverse and reverse over reverse, of all operations."""
    operands = _data(layer)
    moves = tuple(map(_wavy, operands))

    @functools.partial(jax.jit, static_argnums=0)
    def run(conv, operands):
      def total(images, kernel):
        return jnp.sum(jnp.sin(conv(images, kernel, "SAME")))

      gradient = jax.grad(total, (0, 1))
      change = jax.jvp(gradient, operands, moves)

      def along(*operands):
        return sum(jnp.vdot(a, b) for a, b in zip(gradient(*operands), moves))

      return change, jax.grad(along, (0, 1))(*operands)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(convolution_operations, "_FAST", fast)
      results = run(convolution.conv, operands)
    _close(results, run(_xla, operands), 1e-9)

  @parameterized.product(
    layer=("one channel", "small", "large and wide"),
    axes=((0, 0), (1, None), (None, 2), (4, 4)),
    fast=(True, False),
  )
  def test_vmap(self, layer, axes, fast):
    """Over both, over one that the other serves, and twice."""
    operands = []
    for operand, axis in zip(_data(layer), axes, strict=True):
      several = np.stack([operand, 2 - operand, operand**2], axis or 0)
      operands.append(operand if axis is None else several)

    @functools.partial(jax.jit, static_argnums=0)
    def run(conv, *operands):
      def one(images, kernel):
        value, vjp = jax.vjp(lambda *two: conv(*two, "SAME"), images, kernel)
        return value, vjp(jnp.sin(value))

      once = jax.vmap(one, axes)
      again = jax.vmap(once, (None, 0))
      kernels = jnp.stack([operands[1], operands[1] + 1])
      return once(*operands), again(operands[0], kernels)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(convolution_operations, "_FAST", fast)
      results = run(convolution.conv, *operands)
    _close(results, run(_xla, *operands), 1e-9)

  @parameterized.product(
    layer=("one channel", "wide", "large and wide"), fast=(True, False)
  )
  def test_shard_map_with_one_kernel_for_all(self, layer, fast):
    images, kernel = (np.concatenate([x, x])[:4] for x in _data(layer))
    expected, gradients = _loops(images, kernel, "VALID")
    mesh = jax.make_mesh(
      (2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    split, same = jax.P("batch"), jax.P()

    @jax.jit
    @functools.partial(
      jax.shard_map,
      mesh=mesh,
      in_specs=(split, same, split),
      out_specs=(split, (split, same)),
    )
    def run(images, kernel, cotangent):
      conv = functools.partial(convolution.conv, padding="VALID")
      value, vjp = jax.vjp(conv, images, kernel)
      return value, vjp(cotangent)

    cotangent = _wavy(expected)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(convolution_operations, "_FAST", fast)
      results = run(images, kernel, cotangent)
    _close(results, (expected, gradients(cotangent)), 1e-9)

  @parameterized.parameters("tpu", "cuda", "rocm")
  def test_shard_map_on_other_platforms(self, platform):
    """Sums over devices are those of the kernel's gradient alone."""
    images, kernel = _data("wide")
    mesh = jax.make_mesh(
      (2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )

    @functools.partial(
      jax.shard_map,
      mesh=mesh,
      in_specs=(jax.P("batch"), jax.P()),
      out_specs=(jax.P("batch"), jax.P()),
    )
    def gradients(images, kernel):
      conv = functools.partial(convolution.conv, padding="VALID")
      value, vjp = jax.vjp(conv, images, kernel)
      return vjp(jnp.ones_like(value))

    traced = jax.jit(gradients).trace(images, kernel)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    self.assertEqual(text.count("stablehlo.all_reduce"), 1)

  @parameterized.parameters("one channel", "pieces")
  def test_exported_with_a_batch_of_any_size(self, layer):
    images, kernel = _data(layer)
    (size,) = jax.export.symbolic_shape("b")
    shape = jax.ShapeDtypeStruct((size, *images.shape[1:]), images.dtype)

    @jax.jit
    def run(images, kernel):
      conv = functools.partial(convolution.conv, padding="VALID")
      value, vjp = jax.vjp(conv, images, kernel)
      return value, vjp(jnp.ones_like(value))

    exported = jax.export.export(run, platforms=("cpu", "tpu", "cuda"))(
      shape, jax.ShapeDtypeStruct(kernel.shape, kernel.dtype)
    )
    expected, gradients = _loops(images, kernel, "VALID")
    _close(
      exported.call(images, kernel),
      (expected, gradients(np.ones_like(expected))),
      1e-9,
    )


class ModesTest(parameterized.TestCase):
  """The modes of JAX in which the operation is traced, not lowered."""

  def test_without_jit(self):
    images, kernel = map(jnp.float32, _data("small"))
    expected, gradients = _loops(*map(np.asarray, (images, kernel)), "VALID")
    with jax.disable_jit():
      value, vjp = jax.vjp(
        lambda *two: convolution.conv(*two, "VALID"), images, kernel
      )
      results = value, vjp(jnp.ones_like(value))
    expected = expected, gradients(np.ones_like(expected))
    _close(results, expected, 1e-3)

  @parameterized.parameters("cpu", "tpu", "cuda", "rocm")
  def test_precision(self, platform):
    """Also of gradients, as of XLA's convolution."""

    def total(images, kernel):
      with jax.default_matmul_precision("highest"):
        return jnp.sin(convolution.conv(images, kernel, "SAME")).sum()

    gradient = jax.jit(jax.value_and_grad(total, (0, 1)))
    traced = gradient.trace(*map(jnp.float32, _data("small")))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    self.assertGreaterEqual(text.count("HIGHEST"), 3)
    self.assertNotIn("DEFAULT", text)

  @parameterized.parameters("one channel", "small", "large and wide")
  def test_double_precision_inside_a_program(self, layer):
    images, kernel = (np.round(8 * x).astype(np.int32) for x in _data(layer))
    expected, gradients = _loops(images / 3, kernel / 3, "SAME")

    @jax.jit
    def run(images, kernel):
      with jax.enable_x64(True):
        operands = (x.astype(jnp.float64) / 3 for x in (images, kernel))
        conv = functools.partial(convolution.conv, padding="SAME")
        value, vjp = jax.vjp(conv, *operands)
        return value, vjp(jnp.ones_like(value))

    expected = expected, gradients(np.ones_like(expected))
    _close(run(images, kernel), expected, 1e-9)

  @parameterized.parameters("one channel", "small", "large and wide")
  def test_exported_with_any_number_of_seeds(self, layer):
    images, kernel = (
      np.stack([x, 2 * x]).astype(np.float32) for x in _data(layer)
    )
    (seeds,) = jax.export.symbolic_shape("s")
    shapes = (
      jax.ShapeDtypeStruct((seeds, *x.shape[1:]), x.dtype)
      for x in (images, kernel)
    )

    @jax.jit
    @jax.vmap
    def run(images, kernel):
      conv = functools.partial(convolution.conv, padding="SAME")
      value, vjp = jax.vjp(conv, images, kernel)
      return value, vjp(jnp.ones_like(value))

    exported = jax.export.export(run)(*shapes)
    _close(exported.call(images, kernel), run(images, kernel), 1e-3)

  @parameterized.parameters(
    ((2, 8, 9, 8), (3, 3, 4, 4)),
    ((8, 9, 8), (3, 3, 8, 4)),
    ((2, 8, 9, 8), (3, 8, 4)),
  )
  def test_shapes_that_do_not_fit(self, images, kernel):
    shapes = (jax.ShapeDtypeStruct(x, jnp.float32) for x in (images, kernel))
    conv = functools.partial(convolution.conv, padding="SAME")
    with self.assertRaisesRegex(ValueError, "images must be .* and kernel"):
      jax.eval_shape(conv, *shapes)


class PlatformsTest(parameterized.TestCase):
  """Which form is lowered: of the output, and of both gradients."""

  @parameterized.parameters(
    ("one channel", True, "cpu", "PPP"),
    ("few channels", True, "cpu", "PPP"),
    ("small", True, "cpu", "CPC"),
    ("small", False, "cpu", "PPP"),
    ("many summands", True, "cpu", "CPC"),
    ("many summands", False, "cpu", "PPP"),
    ("large", True, "cpu", "CCC"),
    ("large", False, "cpu", "PPP"),
    ("large and wide", False, "cpu", "CCC"),
    ("wide", False, "cpu", "PCP"),
    *((layer, True, "tpu", "CCC") for layer in ("one channel", "large")),
    ("one channel", True, "cuda", "PPP"),
    ("large", True, "cuda", "PPP"),
    ("many summands", True, "rocm", "CCC"),
  )
  def test_forms(self, layer, fast, platform, forms):
    shape, window, filters = LAYERS[layer]
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    kernel = jax.ShapeDtypeStruct((*window, shape[-1], filters), jnp.float32)
    conv = functools.partial(convolution.conv, padding="VALID")

    def to_images(images, kernel):
      return jax.vjp(lambda images: conv(images, kernel), images)[1]

    def to_kernel(images, kernel):
      return jax.vjp(lambda kernel: conv(images, kernel), kernel)[1]

    out = jax.eval_shape(conv, images, kernel)
    functions = (
      lambda images, kernel, _: conv(images, kernel),
      lambda images, kernel, cotangent: to_images(images, kernel)(cotangent),
      lambda images, kernel, cotangent: to_kernel(images, kernel)(cotangent),
    )
    found = ""
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(convolution_operations, "_FAST", fast)
      for function in functions:
        traced = jax.jit(function).trace(images, kernel, out)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        is_product = "stablehlo.dot_general" in text
        self.assertNotEqual(is_product, "stablehlo.convolution" in text)
        found += "P" if is_product else "C"
    self.assertEqual(found, forms)

  def test_a_large_layer_on_gpu_is_a_convolution(self):
    conv = jax.jit(functools.partial(convolution.conv, padding="SAME"))
    images = jax.ShapeDtypeStruct((64, 99, 99, 48), jnp.float32)
    kernel = jax.ShapeDtypeStruct((5, 5, 48, 16), jnp.float32)
    traced = conv.trace(images, kernel)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    self.assertIn("stablehlo.convolution", text)

  def test_no_convolution_is_grouped_for_seeds_on_cpu(self):
    """XLA computes these number by number."""
    images = jax.ShapeDtypeStruct((5, 2, 26, 27, 32), jnp.float32)
    kernels = jax.ShapeDtypeStruct((5, 3, 3, 32, 2), jnp.float32)
    conv = functools.partial(convolution.conv, padding="VALID")
    traced = jax.jit(jax.vmap(conv)).trace(images, kernels)
    text = traced.lower(lowering_platforms=("cpu",)).as_text()
    self.assertIn("feature_group_count = 1", text)
    self.assertNotIn("feature_group_count = 5", text)


if __name__ == "__main__":
  absltest.main()
