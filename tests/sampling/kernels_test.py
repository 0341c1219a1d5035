"""The compiled kernel, with its code and without, against the gather kernel."""

import contextlib
import functools
from unittest import mock

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import sampling
from stnjax.sampling.kernels import (
  compiled as compiled_kernel,
)
from stnjax.sampling.kernels import (
  gather,
  library,
  plain,
)
from stnjax.sampling.methods import LINEAR
from stnjax.sampling.padding import PADDINGS, apply_padding

compiled = pytest.mark.skipif(
  not library.is_compiled(), reason="sampler.cc was not compiled here"
)
MODES = dict(
  padding=("zeros", "border", "reflection", "wrap"),
  align_corners=(False, True),
)
BY_GATHER = functools.partial(gather.sample, method=LINEAR)
OURS = functools.partial(compiled_kernel.sample, method=LINEAR)


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
  return mock.patch.object(library, "is_compiled", lambda: False)


def check_against_gather(shape, channels, padding, align_corners, dtype):
  rng = np.random.default_rng(0)
  image = rng.normal(size=(*shape, channels)).astype(dtype)
  points = some_points(rng, shape, dtype)
  cotangent = rng.normal(size=(len(points), channels)).astype(dtype)
  options = dict(padding=PADDINGS[padding], align_corners=align_corners)
  ours, expected = (
    # Afresh, so that it is lowered afresh.
    jax.jit(functools.partial(all_of, functools.partial(sample, **options)))(
      image, points, cotangent
    )
    for sample in (OURS, BY_GATHER)
  )
  chex.assert_trees_all_close(
    ours, expected, atol=1e-12 if dtype == np.float64 else 1e-4
  )


@pytest.mark.usefixtures("x64")
class AgainstGatherTest(parameterized.TestCase):
  @parameterized.parameters(
    ((5, 6), "zeros", False),
    ((5, 6), "reflection", True),
    ((1, 4), "border", True),
    ((3, 1), "wrap", False),
    ((1, 1), "reflection", True),
  )
  @compiled
  def test_compiled(self, shape, padding, align_corners):
    check_against_gather(shape, 3, padding, align_corners, np.float64)

  @parameterized.product(shape=((5, 6), (1, 4), (3, 1), (1, 1)), **MODES)
  @pytest.mark.slow
  @compiled
  def test_all_modes_compiled(self, shape, padding, align_corners):
    check_against_gather(shape, 3, padding, align_corners, np.float64)

  @parameterized.product(channels=(1, 21), dtype=(np.float32, np.float64))
  @compiled
  @pytest.mark.slow
  def test_channels(self, channels, dtype):
    check_against_gather((4, 5), channels, "zeros", False, dtype)

  @parameterized.product(
    channels=(2, 3, 4, 7, 8), dtype=(np.float32, np.float64)
  )
  @pytest.mark.slow
  @compiled
  def test_more_channels(self, channels, dtype):
    check_against_gather((4, 5), channels, "zeros", False, dtype)

  @pytest.mark.slow
  def test_without_compiler(self):
    with without_compiler():
      check_against_gather((5, 6), 2, "reflection", True, np.float64)

  @parameterized.parameters(0, 12)
  def test_many_images_on_all_threads(self, batch):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(batch, 70, 50, 3)).astype(np.float32)
    points = rng.uniform(-3, 73, (batch, 60, 40, 2)).astype(np.float32)
    cotangent = rng.normal(size=(batch, 60, 40, 3)).astype(np.float32)
    options = dict(padding=PADDINGS["zeros"], align_corners=False)
    ours, expected = (
      jax.jit(
        functools.partial(
          all_of, jax.vmap(functools.partial(sample, **options))
        )
      )(image, points, cotangent)
      for sample in (OURS, BY_GATHER)
    )
    chex.assert_trees_all_close(ours, expected, atol=1e-4)

  @parameterized.parameters(
    ((5, 4), "zeros", False, 3),
    ((1, 3), "wrap", False, 3),
    ((2, 2), "zeros", False, 0),
  )
  def test_gradient_on_gpus(self, shape, padding, align_corners, channels):
    self.check_scatter(shape, padding, align_corners, channels)

  @parameterized.product(shape=((5, 4), (1, 3)), **MODES)
  @pytest.mark.slow
  def test_all_modes_on_gpus(self, shape, padding, align_corners):
    self.check_scatter(shape, padding, align_corners, 3)

  def check_scatter(self, shape, padding, align_corners, channels):
    """By the operations that are meant for GPUs, on the CPU."""
    padding = PADDINGS[padding]
    rng = np.random.default_rng(0)
    # Padded, as `sample` hands them on.
    x, y = (
      apply_padding(jnp.asarray(position), size, padding, align_corners)
      for position, size in zip(
        some_points(rng, shape, np.float64).T, shape[::-1]
      )
    )
    values = rng.normal(size=(2, len(x), channels))
    values[:, 0], values[:, 1] = np.nan, np.inf
    batch = (jnp.stack([position, position[::-1]]) for position in (x, y))
    operands = (values, *batch)
    options = dict(
      shape=shape, method=LINEAR, padding=padding, align_corners=align_corners
    )
    np.testing.assert_allclose(
      *(
        jax.jit(functools.partial(gradient, **options))(*operands)
        for gradient in (
          plain.grad_image_at_once,
          plain.grad_image,
        )
      ),
      atol=1e-12,
    )

  def test_pixels_that_are_not_finite_stay_where_they_are_read(self):
    image = jnp.zeros((4, 4, 1)).at[0, 0].set(jnp.nan).at[3, 3].set(jnp.inf)
    points = jnp.array([[-2.0, 0.0], [1.5, 1.5], [4.5, 3.0], [0.5, 0.0]])
    values = jax.jit(sampling.sample_pixels)(image, points[:, None])
    np.testing.assert_array_equal(values.ravel(), [0.0, 0.0, 0.0, np.nan])


@pytest.mark.usefixtures("x64")
class TransformationTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.image = rng.normal(size=(4, 5, 6, 2))
    self.points = rng.uniform(-1, 6, (4, 9, 2))
    self.sample, self.expected = (
      functools.partial(sample, padding=PADDINGS["border"], align_corners=False)
      for sample in (OURS, BY_GATHER)
    )

  def check(self, transformed, *operands, atol=1e-11):
    ours, expected = (
      jax.jit(transformed(sample))(*operands)
      for sample in (self.sample, self.expected)
    )
    chex.assert_trees_all_close(ours, expected, atol=atol)

  @parameterized.parameters((0, 0), (0, None), (None, 1), (2, 1))
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

  @pytest.mark.slow
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

    def adjoint_and_gradient(sample):
      def loss(values, points):
        adjoint = jax.linear_transpose(lambda i: sample(i, points), image)
        return (adjoint(values)[0] ** 2).sum()

      return jax.value_and_grad(loss, (0, 1))

    self.check(adjoint_and_gradient, values, points)

  @pytest.mark.slow
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

  @pytest.mark.slow
  def test_shard_map_of_a_batch(self):
    self.check_shard_map(True, ("batch", "rest"))

  @parameterized.parameters(
    (False, ("batch",)), (False, ("batch", "rest")), (True, ("batch",))
  )
  @pytest.mark.slow
  def test_shard_map_of_a_batch_otherwise(self, built, axes):
    self.check_shard_map(built, axes)

  def check_shard_map(self, built, axes):
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


if __name__ == "__main__":
  absltest.main()
