"""The kernel for TPUs against the gathering one, and what it compiles to."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax.sampling import KERNELS, Kernel
from stnjax.sampling.kernels import gather, matmul
from tests.sampling import compiled

KEY = jax.random.key(0)


def sample_fn(**mode):
  return lambda image, grid: stnjax.grid_sample(image, grid, **mode)


def both(image, grid, f, **mode):
  """`f(sample)(image, grid)` with each kernel."""
  kernels = ("gather", "matmul")
  samples = (sample_fn(implementation=kernel, **mode) for kernel in kernels)
  return [jax.jit(f(sample))(image, grid) for sample in samples]


def with_gradients(sample):
  """Values and both gradients."""

  def run(image, grid):
    value, vjp = jax.vjp(sample, image, grid)
    cotangent = jnp.cos(jnp.arange(value.size, dtype=value.dtype))
    return value, *vjp(cotangent.reshape(value.shape))

  return run


def random(shape, grid_shape, batch=(2,), dtype=np.float64):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(*batch, *shape, 3)).astype(dtype)
  grid = rng.uniform(-1.6, 1.6, (*batch, *grid_shape, 2)).astype(dtype)
  return image, grid


def assert_close(found, expected, atol=1e-11):
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=atol, rtol=0)


@pytest.mark.usefixtures("x64")
class EqualityTest(parameterized.TestCase):
  @parameterized.parameters(
    ("linear", "zeros"),
    ("nearest", "reflection"),
  )
  def test_methods_and_paddings(self, method, padding):
    self.check_equality(method, padding)

  @parameterized.product(
    method=("nearest", "linear", "cubic", "spline"),
    padding=("zeros", "border", "reflection", "wrap"),
  )
  @pytest.mark.slow
  def test_all_methods_and_paddings(self, method, padding):
    self.check_equality(method, padding)

  def check_equality(self, method, padding):
    """Inside, far outside, on pixel centres and at NaN; odd and even sizes."""
    image, grid = random((5, 8), (4, 9))
    grid[0, 0] = np.linspace(-40, 40, 18).reshape(9, 2)
    grid[1, 1, 2:] = np.arange(-7, 7, 2).reshape(7, 1) / [8, 5]  # centres
    grid[1, 0, 0, 1] = np.nan
    mode = {"method": method, "padding": padding}
    assert_close(*both(image, grid, with_gradients, **mode))

  def test_values_of_cubic(self):
    image, grid = random((5, 8), (4, 9))
    assert_close(*both(image, grid, lambda sample: sample, method="cubic"))

  @pytest.mark.slow
  def test_corners_aligned(self):
    image, grid = random((6, 7), (5, 5))
    mode = {"padding": "reflection", "align_corners": True}
    assert_close(*both(image, grid, with_gradients, **mode))

  @parameterized.parameters(
    ((1, 6), (3, 2), ()),
    ((4, 4), (0, 2), (1,)),
    ((2, 350), (20, 33), (2,)),  # 660 samples, in tiles of 128
  )
  def test_sizes(self, shape, grid_shape, batch):
    self.check_sizes(shape, grid_shape, batch)

  @parameterized.parameters(
    ((1, 1), (3, 2), (2,)),
    ((4, 4), (1, 1), (0,)),
    ((2, 350), (16, 16), (1,)),  # whole tiles
  )
  @pytest.mark.slow
  def test_more_sizes(self, shape, grid_shape, batch):
    self.check_sizes(shape, grid_shape, batch)

  def check_sizes(self, shape, grid_shape, batch):
    image, grid = random(shape, grid_shape, batch)
    assert_close(*both(image, grid, with_gradients))

  @pytest.mark.slow
  def test_batches_broadcast(self):
    image, grid = random((4, 5), (3, 3), (2, 1))
    assert_close(*both(image, grid[0], with_gradients))

  @pytest.mark.slow
  def test_fill_mask_linearised_and_antialias(self):
    image, grid = random((6, 5), (12, 20))
    fill = {"padding": "constant", "fill_value": np.array([1.0, -2.0, 0.5])}
    assert_close(*both(image, grid, with_gradients, **fill))

    def mask(sample):
      return lambda image, grid: sample(image, grid)[1]

    assert_close(*both(image, grid, mask, return_mask=True))
    assert_close(
      *both(image, grid, with_gradients, method="linearised", key=KEY)
    )
    theta = np.array([[1.3, 0.4, 0.1], [-0.2, 1.6, 0.0]])
    warps = [
      compiled.warp(image, theta, antialias=True, implementation=kernel)
      for kernel in ("gather", "matmul")
    ]
    assert_close(*warps)

  @pytest.mark.slow
  def test_second_derivatives_and_forward_mode(self):
    image, grid = random((2, 350), (12, 12), (1,))  # in tiles

    def curvature(sample):
      def loss(image, grid):
        return jnp.sin(sample(image, grid)).sum()

      def along(image, grid):
        grads = jax.grad(loss, (0, 1))
        return jax.jvp(grads, (image, grid), (image * 0 + 0.3, grid))

      return along

    assert_close(*both(image, grid, curvature), atol=1e-10)

  def test_adjoint(self):
    """`splat` is the transpose of either kernel."""
    image, grid = random((5, 6), (9, 20))
    value = np.random.default_rng(1).normal(size=(2, 9, 20, 3))
    read = sample_fn(implementation="matmul")
    transposed = jax.linear_transpose(lambda x: read(x, grid), image)(value)
    assert_close(transposed[0], stnjax.splat(value, grid, (5, 6)))


class PrecisionTest(parameterized.TestCase):
  @parameterized.parameters(("float32", 1e-5), ("bfloat16", 0.02))
  def test_dtypes(self, dtype, atol):
    image, grid = random((12, 9), (12, 12), dtype=np.float32)
    image = jnp.asarray(image, dtype)
    found, expected = both(image, grid, lambda sample: sample)
    self.assertEqual(found.dtype, dtype)
    assert_close(
      found.astype(jnp.float32), expected.astype(jnp.float32), atol=atol
    )

  @pytest.mark.slow
  def test_what_it_does_not_read(self):
    grid = jnp.zeros((2, 2, 2))
    with self.assertRaisesRegex(ValueError, "'matmul' reads floating.*int32"):
      stnjax.grid_sample(
        jnp.zeros((3, 3, 1), jnp.int32), grid, implementation="matmul"
      )
    with self.assertRaisesRegex(ValueError, "'matmul'.*3 spatial axes"):
      stnjax.warp(
        jnp.zeros((3, 3, 3, 1)), jnp.eye(3, 4), implementation="matmul"
      )


class LoweringTest(parameterized.TestCase):
  def lowered(self, f, platform, *shapes):
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
    traced = jax.jit(f).trace(*shapes)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  @parameterized.parameters(
    ("nearest", "zeros"),
    ("linear", "reflection"),
    ("spline", "zeros"),
  )
  @pytest.mark.slow
  def test_tpu_programs_neither_gather_nor_scatter(self, method, padding):
    def grads(image, grid):
      def loss(*x):
        return sample_fn(method=method, padding=padding)(*x).sum()

      return jax.grad(loss, (0, 1))(image, grid)

    shapes = ((2, 6, 7, 3), (2, 20, 20, 2))
    on_tpu = self.lowered(grads, "tpu", *shapes)
    self.assertNotIn("gather", on_tpu)
    self.assertNotIn("scatter", on_tpu)
    self.assertIn("dot_general", on_tpu)
    if method != "nearest":
      self.assertRegex(self.lowered(grads, "cpu", *shapes), "gather|sampler")
    if method != "spline":  # of small images, coefficients are products
      self.assertNotIn("dot_general", self.lowered(grads, "cpu", *shapes))

  def test_volumes_and_integers_are_gathered_on_tpu_too(self):
    read = sample_fn()
    volume = self.lowered(read, "tpu", (3, 4, 5, 1), (2, 2, 2, 3))
    self.assertIn("gather", volume)

  @parameterized.parameters(((28, 28, 1),), ((224, 224, 3),))
  def test_no_temporary_grows_with_samples_times_pixels(self, shape):
    """Of one image, in the programs of its values and both gradients."""
    height, width, channels = shape
    image, grid = jnp.zeros(shape), jnp.zeros((height, width, 2))

    def grads(image, grid):
      def loss(*x):
        return sample_fn(implementation="matmul")(*x).sum()

      return jax.grad(loss, (0, 1))(image, grid)

    largest = max(sizes(jax.make_jaxpr(grads)(image, grid).jaxpr))
    # What a tile reads; XLA for TPU keeps it off the memory (see the compile
    # benchmark). A tile is not below 128 samples, though.
    floor = max(2**18, 128 * (height + width + width * channels))
    self.assertLessEqual(largest, max(16 * image.size, floor))
    if (untiled := height * width * width * channels) > 2 * floor:
      self.assertLessEqual(largest, untiled / 2)


class TilesTest(parameterized.TestCase):
  @parameterized.parameters(
    ((28, 28, 1), 784, 1),
    ((32, 32, 3), 1024, 1),
    ((95, 95, 1), 9025, 8),
    ((64, 64, 3), 4096, 4),
    ((224, 224, 3), 50176, 14),
    ((2, 350, 3), 129, 2),
    ((4000, 2, 1), 300, 3),
    ((5, 5, 0), 30, 1),
    ((5, 5, 1), 0, 1),
  )
  def test_small_images_are_read_at_once_others_in_even_tiles(
    self, shape, count, tiles
  ):
    tile = matmul.tile_size(shape, count)
    self.assertEqual(tile % 128, 0)
    self.assertEqual(max(1, -(-count // tile)), tiles)
    self.assertLessEqual(tile * tiles - count, 128 * tiles)  # filled up
    one = max(sum(shape[:2]), shape[1] * shape[2])
    at_most = max(2**18, 16 * np.prod(shape), 128 * one)
    self.assertLessEqual(tile * one, at_most)

  def test_tiles_of_large_batches_are_smaller(self):
    tiles = [
      matmul.tile_size((28, 28, 1), 784, 2**power) for power in range(8, 20)
    ]
    self.assertEqual(tiles, sorted(tiles, reverse=True))
    self.assertEqual((*tiles[:3], tiles[-1]), (896, 512, 256, 128))
    # 16 times the image is not too much for any batch.
    self.assertEqual(matmul.tile_size((64, 64, 3), 4096, 2**20), 1024)

  @parameterized.parameters(((), 1), ((3,), 3), ((2, 3), 6))
  def test_the_kernel_knows_the_batch(self, batch, expected):
    seen = []

    def sample(image, points, *, batch, **options):
      seen.append(batch)
      return gather.sample(image, points, **options)

    kernel = Kernel(
      name="spy", supports=lambda *_: True, sample=sample, reads="all images"
    )
    image, grid = random((4, 5), (7, 3), batch)
    with mock.patch.dict(KERNELS._objects, spy=kernel):
      stnjax.grid_sample(image[..., :2], grid, implementation="spy")
    self.assertEqual(set(seen), {expected})


def sizes(jaxpr):
  """Elements of every intermediate of a program, inner ones too."""
  for equation in jaxpr.eqns:
    for variable in equation.outvars:
      yield variable.aval.size
    for value in equation.params.values():
      for inner in jax.tree.leaves(
        value, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
      ):
        if hasattr(inner, "jaxpr"):
          inner = inner.jaxpr
        if hasattr(inner, "eqns"):
          yield from sizes(inner)


if __name__ == "__main__":
  absltest.main()
