"""The linear kernel: compiled and not, against the gather kernel."""

import _ctypes
import contextlib
import functools
import itertools
import pathlib
from unittest import mock
import warnings

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import sampling
from stnjax.sampling.kernels import bilinear, gather, taps

compiled = pytest.mark.skipif(
  not bilinear.is_compiled(), reason="bilinear.cc was not compiled here"
)
MODES = dict(
  padding=("zeros", "border", "reflection", "wrap"),
  align_corners=(False, True),
)


def some_points(rng, shape, dtype):
  """Between pixels, on them, at the edges, outside and nowhere."""
  height, width = shape
  sizes = np.array([width, height])
  inside = rng.uniform(-1.5, 1.5, (40, 2)) * sizes + sizes / 2
  lattice = np.stack(np.meshgrid(*(np.arange(-2, s + 2) for s in sizes)), -1)
  edges = np.stack(np.meshgrid(*([-1, -0.5, s - 0.5, s] for s in sizes)), -1)
  odd = [[np.nan, 0], [0, np.nan], [np.inf, 0], [0, -np.inf], [1e30, -1e30]]
  little = np.finfo(dtype).eps / 8
  odd += [
    [-little, 0],
    [0, -little],
    [width * (1 - little), -height * (1 + little)],
    [-1e-30, 0],
  ]
  parts = [part.reshape(-1, 2) for part in (inside, lattice, edges)]
  return np.concatenate([*parts, odd]).astype(dtype)


def all_of(sample, image, points, cotangent):
  """Values and both gradients."""
  values, vjp = jax.vjp(sample, image, points)
  return values, *vjp(cotangent)


def without_compiler():
  return mock.patch.object(bilinear, "is_compiled", lambda: False)


def check_against_gather(shape, channels, padding, align_corners, dtype):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(*shape, channels)).astype(dtype)
  points = some_points(rng, shape, dtype)
  cotangent = rng.normal(size=(len(points), channels)).astype(dtype)
  options = dict(padding=padding, align_corners=align_corners)
  ours, expected = (
    # Afresh, so that it is lowered afresh.
    jax.jit(functools.partial(all_of, functools.partial(sample, **options)))(
      image, points, cotangent
    )
    for sample in (
      bilinear.sample,
      functools.partial(gather.sample, method="linear"),
    )
  )
  chex.assert_trees_all_close(
    ours, expected, atol=1e-12 if dtype == np.float64 else 1e-4
  )


@pytest.mark.usefixtures("x64")
class AgainstGatherTest(parameterized.TestCase):
  @parameterized.product(shape=((5, 6), (1, 4), (3, 1), (1, 1)), **MODES)
  @compiled
  def test_compiled(self, shape, padding, align_corners):
    check_against_gather(shape, 3, padding, align_corners, np.float64)

  @parameterized.product(
    channels=(1, 2, 3, 4, 7, 8, 21), dtype=(np.float32, np.float64)
  )
  @compiled
  def test_channels(self, channels, dtype):
    check_against_gather((4, 5), channels, "zeros", False, dtype)

  @parameterized.product(**MODES)
  def test_without_compiler(self, padding, align_corners):
    with without_compiler():
      check_against_gather((5, 6), 2, padding, align_corners, np.float64)

  @parameterized.parameters(0, 1, 50)
  def test_many_images_on_all_threads(self, batch):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, 70, 50, 3)).astype(np.float32)
    points = rng.uniform(-3, 73, (batch, 60, 40, 2)).astype(np.float32)
    cotangent = rng.normal(size=(batch, 60, 40, 3)).astype(np.float32)
    options = dict(padding="zeros", align_corners=False)
    ours, expected = (
      jax.jit(functools.partial(all_of, jax.vmap(sample)))(
        image, points, cotangent
      )
      for sample in (
        functools.partial(bilinear.sample, **options),
        functools.partial(gather.sample, method="linear", **options),
      )
    )
    chex.assert_trees_all_close(ours, expected, atol=1e-4)

  @parameterized.parameters(
    *itertools.product(((5, 4), (1, 3)), *MODES.values(), (3,)),
    ((2, 2), "zeros", False, 0),
  )
  def test_spread_on_gpus(self, shape, padding, align_corners, channels):
    """By the operations that are meant for GPUs, on the CPU."""
    rng = np.random.default_rng(0)
    # Folded, as `sample` hands them on.
    x, y = (
      taps.fold(taps.bound(place, size, padding), size, padding, align_corners)
      for place, size in zip(some_points(rng, shape, np.float64).T, shape[::-1])
    )
    values = rng.normal(size=(2, len(x), channels))
    values[:, 0], values[:, 1] = np.nan, np.inf
    batch = (jnp.stack([place, place[::-1]]) for place in (x, y))
    spread = (values, *batch)
    options = dict(shape=shape, padding=padding, align_corners=align_corners)
    np.testing.assert_allclose(
      jax.jit(functools.partial(bilinear._spread_at_once, **options))(*spread),
      jax.jit(functools.partial(bilinear._spread, **options))(*spread),
      atol=1e-12,
    )

  def test_pixels_that_are_not_finite_stay_where_they_are_read(self):
    image = jnp.zeros((4, 4, 1)).at[0, 0].set(jnp.nan).at[3, 3].set(jnp.inf)
    points = jnp.array([[-2.0, 0.0], [1.5, 1.5], [4.5, 3.0], [0.5, 0.0]])
    values = bilinear.sample(
      image, points, padding="zeros", align_corners=False
    )
    np.testing.assert_array_equal(
      values[:, 0], np.array([0.0, 0.0, 0.0, np.nan])
    )


@pytest.mark.usefixtures("x64")
class TransformationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.image = rng.normal(size=(4, 5, 6, 2))
    self.points = rng.uniform(-1, 6, (4, 9, 2))
    self.sample, self.expected = (
      functools.partial(sample, padding="border", align_corners=False)
      for sample in (
        bilinear.sample,
        functools.partial(gather.sample, method="linear"),
      )
    )

  def check(self, transformed, *operands, atol=1e-11):
    ours, expected = (
      jax.jit(transformed(sample))(*operands)
      for sample in (self.sample, self.expected)
    )
    chex.assert_trees_all_close(ours, expected, atol=atol)

  @parameterized.parameters(
    (0, 0), (0, None), (None, 0), (2, 1), (None, 1), (1, None)
  )
  def test_vmap_with_gradients(self, image_axis, points_axis):
    image = self.image[0] if image_axis is None else self.image
    points = self.points[0] if points_axis is None else self.points
    if image_axis is not None:
      image = np.moveaxis(image, 0, image_axis)
    if points_axis is not None:
      points = np.moveaxis(points, 0, points_axis)
    self.check(
      lambda sample: jax.value_and_grad(
        lambda *o: (jax.vmap(sample, (image_axis, points_axis))(*o) ** 2).sum(),
        (0, 1),
      ),
      image,
      points,
    )

  def test_vmap_of_vmap(self):
    points = np.stack([self.points, self.points + 0.3])
    self.check(
      lambda sample: jax.vmap(jax.vmap(sample), (None, 0)), self.image, points
    )
    self.check(
      lambda sample: jax.vmap(jax.vmap(sample, (None, 0)), (0, None)),
      self.image,
      self.points,
    )

  def test_points_of_one_image_do_not_copy_it(self):
    many = jax.jit(jax.vmap(self.sample, (None, 0)))
    text = many.lower(self.image[0], self.points).as_text()
    self.assertNotIn("tensor<4x5x6x2xf64>", text)

  def test_forward_mode_and_second_derivatives(self):
    image, points = self.image[0], self.points[0, :3]
    moves = np.ones_like(image), np.full_like(points, 0.3)
    self.check(lambda s: lambda *o: jax.jvp(s, o, moves)[1], image, points)

    def cube(sample):
      return lambda *operands: (sample(*operands) ** 3).sum()

    self.check(lambda s: jax.hessian(cube(s), (0, 1)), image, points)
    self.check(
      lambda s: jax.jacrev(jax.jacfwd(cube(s), (0, 1)), (0, 1)), image, points
    )

  def test_adjoint_and_its_gradient(self):
    image, points = self.image[0], self.points[0]
    values = np.random.default_rng(1).normal(size=(9, 2))

    def spread(sample):
      def loss(values, points):
        adjoint = jax.linear_transpose(lambda i: sample(i, points), image)
        return (adjoint(values)[0] ** 2).sum()

      return jax.value_and_grad(loss, (0, 1))

    self.check(spread, values, points)

  def test_shard_map_with_one_image_for_all(self):
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    split, whole = jax.P("batch"), jax.P()

    def gradients(sample):
      def loss(image, points):
        values = jax.vmap(sample, (None, 0))(image, points)
        return jax.lax.psum((values**2).sum(), "batch")

      return jax.shard_map(
        jax.grad(loss, (0, 1)),
        mesh=mesh,
        in_specs=(whole, split),
        out_specs=(whole, split),
      )

    self.check(gradients, self.image[0], self.points)

  @parameterized.product(
    built=(True, False), axes=(("batch",), ("batch", "rest"))
  )
  def test_shard_map_of_a_batch(self, built, axes):
    """All axes manual, or one; by the compiled code and without."""
    mesh = jax.make_mesh(
      (2, 2), ("batch", "rest"), axis_types=(jax.sharding.AxisType.Auto,) * 2
    )
    split = jax.P("batch")

    def gradients(image, points, sample):
      def loss(*operands):
        return (jax.vmap(sample)(*operands) ** 3).sum()

      def slope(*operands):
        return sum((g**2).sum() for g in jax.grad(loss, (0, 1))(*operands))

      return [jax.grad(f, (0, 1))(image, points) for f in (loss, slope)]

    mapped = jax.jit(
      jax.shard_map(
        functools.partial(gradients, sample=self.sample),
        mesh=mesh,
        in_specs=split,
        out_specs=split,
        axis_names=set(axes),
      )
    )
    operands = self.image, self.points
    with contextlib.nullcontext() if built else without_compiler():
      found = mapped(*operands)
      text = mapped.lower(*operands).compile().as_text()
    self.assertNotIn("all-reduce", text)
    expected = jax.jit(functools.partial(gradients, sample=self.expected))
    chex.assert_trees_all_close(found, expected(*operands), atol=1e-9)

  def test_the_same_sums_every_time(self):
    image = jnp.ones((8, 40, 40, 3), jnp.float32)
    points = jax.random.uniform(jax.random.key(0), (8, 9000, 2)) * 39
    cotangent = jax.random.normal(jax.random.key(1), (8, 9000, 3))
    vjp = jax.jit(
      lambda *operands: all_of(jax.vmap(self.sample), *operands)[1:]
    )
    first = vjp(image, points, cotangent)
    for _ in range(5):
      chex.assert_trees_all_equal(vjp(image, points, cotangent), first)


class LoweringTest(parameterized.TestCase):
  def text(self, sharding=None):
    image, points = jnp.ones((8, 4, 4, 1)), jnp.ones((8, 3, 3, 2))
    if sharding is not None:
      image, points = jax.device_put((image, points), sharding)
    # A new function, so that it is lowered anew.
    read = jax.jit(functools.partial(sampling.sample_pixels))
    return read.lower(image, points).as_text()

  @compiled
  def test_called_where_there_is_one_device(self):
    self.assertIn("stnjax_bilinear_read", self.text())

  @compiled
  def test_called_by_each_device_of_a_pmap(self):
    read = jax.pmap(sampling.sample_pixels)
    operands = jnp.ones((4, 2, 4, 4, 1)), jnp.ones((4, 2, 3, 3, 2))
    self.assertIn("stnjax_bilinear_read", read.lower(*operands).as_text())

  def test_not_called_where_xla_shares_out_the_batch(self):
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    text = self.text(jax.NamedSharding(mesh, jax.P("batch")))
    self.assertNotIn("custom_call @stnjax", text)

  def test_not_called_without_the_compiled_file(self):
    with without_compiler():
      self.assertNotIn("custom_call @stnjax", self.text())

  def test_one_scatter_on_gpus(self):
    """Also under `shard_map`, and without sums over devices."""
    mesh = jax.make_mesh(
      (4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,)
    )
    split = jax.P("batch")

    def gradient(image, points):
      _, vjp = jax.vjp(sampling.sample_pixels, image, points)
      return vjp(jnp.ones((len(points), 3, 3, 1)) + 0 * image[:1, :1, :1])

    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=split, out_specs=split)
    image, points = jnp.ones((8, 4, 4, 1)), jnp.ones((8, 3, 3, 2))
    for f in (gradient, mapped):
      traced = jax.jit(f).trace(image, points)
      text = traced.lower(lowering_platforms=("cuda",)).as_text()
      self.assertEqual(text.count('"stablehlo.scatter"'), 1)
      self.assertNotIn("all_reduce", text)


class RegistrationTest(absltest.TestCase):
  def test_a_missing_file_is_no_error(self):
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      self.assertFalse(bilinear._register(pathlib.Path("/none.ffi")))

  def test_a_file_for_another_machine_is_named(self):
    path = pathlib.Path(self.create_tempfile(content="not a library").full_path)
    with self.assertWarnsRegex(RuntimeWarning, "slower on CPU: .*/.*file"):
      self.assertFalse(bilinear._register(path))

  def test_a_file_of_another_version_is_named(self):
    with self.assertWarnsRegex(RuntimeWarning, "undefined symbol: stnjax"):
      self.assertFalse(bilinear._register(pathlib.Path(_ctypes.__file__)))

  @compiled
  def test_a_file_for_another_jaxlib_is_named(self):
    path = pathlib.Path(bilinear.__file__).with_name("libbilinear.ffi")
    refusal = jax.errors.JaxRuntimeError("API version (0.5) is incompatible")
    with (
      mock.patch.object(jax.ffi, "register_ffi_target", side_effect=refusal),
      self.assertWarnsRegex(RuntimeWarning, r"\(0.5\).*no-build-isolation"),
    ):
      self.assertFalse(bilinear._register(path))

  @compiled
  def test_a_file_for_a_newer_jaxlib_is_named_before_the_backend_starts(self):
    header = self.create_tempfile(
      "xla/ffi/api/c_api.h",
      "#define XLA_FFI_API_MAJOR 0\n#define XLA_FFI_API_MINOR 1\n",
    )
    older = str(pathlib.Path(header.full_path).parents[3])
    path = pathlib.Path(bilinear.__file__).with_name("libbilinear.ffi")
    with (
      mock.patch.object(jax.ffi, "include_dir", lambda: older),
      mock.patch.object(jax.ffi, "register_ffi_target") as register,
      self.assertWarnsRegex(RuntimeWarning, r"jaxlib has 0\.1.*no-build-isola"),
    ):
      self.assertFalse(bilinear._register(path))
    register.assert_not_called()


if __name__ == "__main__":
  absltest.main()
