"""What a user may rely on, over all families and drawn inputs."""

from absl.testing import absltest
import hypothesis
from hypothesis import given
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import coordinates, transforms
from tests.sampling import compiled
from tests.sampling.cases import determinants, smooth_field
from tests.transforms.matrices_test import recompose

hypothesis.settings.register_profile(
  "stnjax", max_examples=6, deadline=None, derandomize=True
)
hypothesis.settings.load_profile("stnjax")

pytestmark = pytest.mark.usefixtures("x64")

MATRICES = [f for f in transforms.FAMILIES if transforms.FAMILIES[f].matrix]
FAMILIES = st.sampled_from(MATRICES)
AXES = st.sampled_from((2, 3))
SEEDS = st.integers(0, 2**32 - 1)
FLAGS = st.booleans()
SHAPES = st.sampled_from(((7, 6), (4, 1, 5)))  # few: each compiles


def draw_matrix(seed, family, num_axes, size=0.3):
  """Within `size` of the identity, where every family can be inverted."""
  count = transforms.num_params(family, num_axes=num_axes)
  params = np.random.default_rng(seed).uniform(-1, 1, count) * size
  if family == "projective":
    params[-num_axes:] /= 3  # the denominator stays away from 0
  return compiled.matrix(params, family, num_axes=num_axes)


def smooth_image(seed, num_axes, size=24):
  """Low waves that fade towards the edges."""
  rng = np.random.default_rng(seed)
  points = np.asarray(
    coordinates.lattice((size,) * num_axes, dtype=jnp.float64)
  )
  waves = [
    rng.normal() * np.sin(points @ rng.normal(size=num_axes) * 3 + rng.normal())
    for _ in range(3)
  ]
  window = np.exp(-4 * (points**2).sum(-1))
  return (sum(waves) * window)[..., None]


compose = jax.jit(transforms.compose)


def homogeneous(matrix):
  """The square matrix."""
  last = np.eye(matrix.shape[-1])[-1:]
  square = matrix.shape[-2] == matrix.shape[-1]
  return np.asarray(matrix) if square else np.concatenate([matrix, last])


def read_inside(matrix, image):
  """Where a warp reads away from edges, beyond which the image is lost."""
  grid = compiled.affine_grid(matrix, image.shape[:-1])
  return np.asarray(np.abs(grid).max(axis=-1) < 0.75)


def random_grid(seed, num_axes):
  shape = (4, 3, 2)[:num_axes]
  return np.random.default_rng(seed).uniform(-1.5, 1.5, (*shape, num_axes))


class TransformProperties(absltest.TestCase):
  @given(SEEDS, FAMILIES, AXES)
  @pytest.mark.slow
  def test_a_transform_and_its_inverse_are_the_identity(
    self, seed, family, num_axes
  ):
    matrix = draw_matrix(seed, family, num_axes)
    product = compose(matrix, compiled.invert(matrix))
    scale = product[-1, -1] if family == "projective" else 1
    np.testing.assert_allclose(
      product / scale, np.eye(*product.shape), atol=1e-12
    )

  @given(SEEDS, FAMILIES, FAMILIES, AXES)
  @pytest.mark.slow
  def test_composition_is_one_after_the_other(self, seed, a, b, num_axes):
    a = draw_matrix(seed, a, num_axes)
    b = draw_matrix(seed + 1, b, num_axes)
    points = np.random.default_rng(seed).uniform(-1, 1, (5, num_axes))

    def move(matrix, points):
      ones = np.ones_like(points[:, :1])
      moved = np.concatenate([points, ones], -1) @ homogeneous(matrix).T
      return moved[:, :-1] / moved[:, -1:]

    np.testing.assert_allclose(
      move(compose(a, b), points), move(a, move(b, points))
    )

  @given(
    SEEDS,
    st.sampled_from([f for f in MATRICES if f != "projective"]),
  )
  def test_parts_make_the_whole(self, seed, family):
    matrix = draw_matrix(seed, family, 2)
    np.testing.assert_allclose(recompose(matrix), matrix, atol=1e-12)

  @given(SEEDS, FAMILIES, AXES, FLAGS)
  @pytest.mark.slow
  def test_pixels_and_back(self, seed, family, num_axes, align_corners):
    matrix = draw_matrix(seed, family, num_axes)
    rng = np.random.default_rng(seed)
    shapes = rng.integers(2, 50, (2, num_axes)).tolist()
    shapes = [tuple(shape) for shape in shapes]
    call = dict(align_corners=align_corners)
    pixels = transforms.to_pixels(matrix, *shapes, **call)
    again = transforms.from_pixels(pixels, *shapes, **call)
    np.testing.assert_allclose(again, matrix, atol=1e-11)


class WarpProperties(absltest.TestCase):
  @given(SEEDS, FAMILIES, FAMILIES, st.just(2))
  @pytest.mark.slow
  def test_twice_is_once_by_the_product(self, seed, a, b, num_axes):
    image = smooth_image(seed, num_axes)
    a = draw_matrix(seed, a, num_axes, 0.15)
    b = draw_matrix(seed + 1, b, num_axes, 0.15)
    call = dict(method="spline", padding="border")
    twice = compiled.warp(compiled.warp(image, a, **call), b, **call)
    once = compiled.warp(image, compose(a, b), **call)
    inner = read_inside(b, image)
    np.testing.assert_allclose(
      twice[inner], once[inner], atol=0.02 * np.abs(image).max()
    )

  @given(SEEDS, FAMILIES, st.just(2))
  @pytest.mark.slow
  def test_there_and_back(self, seed, family, num_axes):
    image = smooth_image(seed, num_axes)
    matrix = draw_matrix(seed, family, num_axes, 0.15)
    call = dict(method="spline", padding="border")
    there = compiled.warp(image, matrix, **call)
    inverse = compiled.invert(matrix)
    back = compiled.warp(there, inverse, **call)
    inner = read_inside(inverse, image)
    np.testing.assert_allclose(
      back[inner], image[inner], atol=0.02 * np.abs(image).max()
    )

  @given(
    SEEDS,
    st.sampled_from(("linear", "spline")),
    st.just(False),
    st.just((7, 6)),
  )
  @pytest.mark.slow
  def test_mask_says_how_much_is_fill(self, seed, method, align_corners, shape):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(*shape, 2))
    fill = rng.normal(size=2)
    grid = random_grid(seed, len(shape))
    call = dict(method=method, align_corners=align_corners)
    zeros, mask = compiled.grid_sample(image, grid, return_mask=True, **call)
    filled = compiled.grid_sample(
      image, grid, padding="constant", fill_value=fill, **call
    )
    np.testing.assert_allclose(
      filled, zeros + (1 - mask[..., None]) * fill, atol=1e-12
    )
    # An image of nothing but fill has no edge.
    flat = compiled.grid_sample(
      np.broadcast_to(fill, image.shape),
      grid,
      padding="constant",
      fill_value=fill,
      **call,
    )
    np.testing.assert_allclose(
      flat, np.broadcast_to(fill, flat.shape), atol=1e-12
    )

  @given(
    SEEDS,
    st.sampled_from(("zeros", "border", "reflection", "wrap")),
    FLAGS,
    SHAPES,
  )
  @pytest.mark.slow
  def test_splat_is_the_adjoint_of_sampling(
    self, seed, padding, align_corners, shape
  ):
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(*shape, 2))
    grid = random_grid(seed, len(shape))
    values = rng.normal(size=(*grid.shape[:-1], 2))
    call = dict(padding=padding, align_corners=align_corners)
    read = jnp.vdot(compiled.grid_sample(image, grid, **call), values)
    added = jnp.vdot(image, compiled.splat(values, grid, shape, **call))
    np.testing.assert_allclose(read, added, atol=1e-12)

  @given(SEEDS, st.sampled_from(("linear", "cubic")), SHAPES)
  def test_sampling_is_linear_in_the_image(self, seed, method, shape):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, *shape, 1))
    grid = random_grid(seed, len(shape))

    def sample(image):
      return compiled.grid_sample(image, grid, method=method)

    np.testing.assert_allclose(
      sample(2 * a - b), 2 * sample(a) - sample(b), atol=1e-12
    )


class GridProperties(absltest.TestCase):
  @given(SEEDS, st.floats(0.05, 0.6))
  @pytest.mark.slow
  def test_velocities_make_diffeomorphisms(self, seed, size):
    shape = (40, 48)
    velocity = smooth_field(np.random.default_rng(seed), shape, size)
    there = compiled.velocity_grid(velocity)
    back = compiled.velocity_grid(-velocity)
    self.assertGreater(determinants(there).min(), 0)
    # Where `there` leads, what does `back` say? Sampled as a displacement.
    lattice = coordinates.lattice(shape, dtype=jnp.float64)
    again = there + compiled.grid_sample(
      back - lattice, there, padding="border"
    )
    inside = (np.abs(there) < 0.95).all(axis=-1)
    np.testing.assert_allclose(again[inside], lattice[inside], atol=0.01)

  @given(SEEDS, FLAGS)
  def test_thin_plates_pass_through_their_control_points(
    self, seed, align_corners
  ):
    count = 4
    offsets = np.random.default_rng(seed).normal(size=(count, count, 2))
    grid = compiled.tps_grid(offsets, (count, count), align_corners=True)
    expected = offsets + coordinates.lattice(
      (count, count), align_corners=True, dtype=jnp.float64
    )
    np.testing.assert_allclose(grid, expected, atol=1e-10)
    # Linear in the offsets.
    call = dict(output_shape=(5, 6), align_corners=align_corners)
    identity = compiled.tps_grid(0 * offsets, **call)
    half = compiled.tps_grid(offsets / 2, **call) - identity
    whole = compiled.tps_grid(offsets, **call) - identity
    np.testing.assert_allclose(2 * half, whole, atol=1e-12)

  @given(SEEDS, FAMILIES, AXES)
  def test_a_flow_that_is_affine_is_the_affine_grid(
    self, seed, family, num_axes
  ):
    matrix = draw_matrix(seed, family, num_axes)
    shape = (4, 5, 3)[:num_axes]
    grid = compiled.affine_grid(matrix, shape)
    flow = grid - coordinates.lattice(shape, dtype=jnp.float64)
    np.testing.assert_allclose(compiled.flow_grid(flow), grid, atol=1e-14)
    image = np.random.default_rng(seed).normal(size=(*shape, 1))
    np.testing.assert_allclose(
      compiled.grid_sample(image, compiled.flow_grid(flow)),
      compiled.warp(image, matrix),
      atol=1e-12,
    )


if __name__ == "__main__":
  absltest.main()
