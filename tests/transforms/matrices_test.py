"""Matrices against matrix algebra in NumPy."""

from absl.testing import absltest, parameterized
import chex
import cv2
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import scipy.spatial.transform

from stnjax import transforms
from tests.sampling import compiled

compose = jax.jit(transforms.compose)
homogeneous = jax.jit(transforms.to_homogeneous)


def random_matrix(family, seed=0, batch=()):
  params = np.random.default_rng(seed).uniform(
    -0.4, 0.4, (*batch, transforms.num_params(family))
  )
  return compiled.matrix(params, family)


@jax.jit
def recompose(matrix):
  """An affine matrix from the parts that it falls into."""
  parts = transforms.decompose(matrix)
  return transforms.compose(
    transforms.translation(parts.translation),
    transforms.rotation(parts.rotation),
    transforms.shearing(parts.shear),
    transforms.scaling(parts.scale),
  )


JACOBIAN = jax.jit(jax.jacobian(transforms.decompose))


class BuildersTest(parameterized.TestCase):
  @parameterized.parameters(2, 3)
  def test_identity(self, num_axes):
    matrix = transforms.identity(num_axes=num_axes)
    np.testing.assert_array_equal(matrix, np.eye(num_axes, num_axes + 1))
    self.assertEqual(matrix.dtype, jnp.float32)
    short = transforms.identity(jnp.bfloat16, num_axes=num_axes)
    self.assertEqual(short.dtype, jnp.bfloat16)
    with self.assertRaisesRegex(ValueError, "num_axes=1 is unknown"):
      transforms.identity(num_axes=1)

  def test_values(self):
    np.testing.assert_allclose(
      transforms.shearing(0.5), [[1, 0.5, 0], [0, 1, 0]]
    )
    np.testing.assert_allclose(
      transforms.scaling(jnp.array([2.0, 3.0])), [[2, 0, 0], [0, 3, 0]]
    )
    np.testing.assert_allclose(
      transforms.translation(jnp.array([1.0, 2.0, 3.0])),
      [[1, 0, 0, 1], [0, 1, 0, 2], [0, 0, 1, 3]],
    )
    self.assertEqual(transforms.rotation(jnp.zeros((2, 3))).shape, (2, 3, 2, 3))

  def test_unknown_axis_is_named(self):
    with self.assertRaisesRegex(ValueError, "axis='w' is unknown"):
      transforms.rotation(0.1, axis="w")

  def test_shears_of_volumes(self):
    matrix = transforms.shearing(jnp.array([2.0, 3.0, 4.0]), num_axes=3)
    np.testing.assert_array_equal(
      matrix, [[1, 2, 3, 0], [0, 1, 4, 0], [0, 0, 1, 0]]
    )
    batch = transforms.shearing(jnp.zeros((2, 5, 3)), num_axes=3)
    self.assertEqual(batch.shape, (2, 5, 3, 4))

  @parameterized.product(num_axes=(2, 3), projective=(False, True))
  @pytest.mark.slow
  def test_about_a_centre(self, num_axes, projective):
    rng = np.random.default_rng(0)
    size = num_axes + 1
    matrix = rng.normal(size=(2, 1, num_axes + projective, size))
    centre = rng.normal(size=(3, num_axes))
    ours = transforms.about(matrix, centre)
    self.assertEqual(ours.shape, (2, 3, *matrix.shape[-2:]))
    for i, j in np.ndindex(2, 3):
      square = np.eye(size)
      square[: num_axes + projective] = matrix[i, 0]
      shift = np.eye(size)
      shift[:num_axes, num_axes] = centre[j]
      expected = shift @ square @ np.linalg.inv(shift)
      np.testing.assert_allclose(
        ours[i, j], expected[: num_axes + projective], atol=1e-5
      )

  @parameterized.parameters((30.0, 1.0), (-100.0, 0.7))
  def test_about_is_the_rotation_of_opencv(self, angle, scale):
    centre = (11.0, 4.5)
    np.testing.assert_allclose(
      transforms.about(
        transforms.compose(
          transforms.scaling([scale, scale]),
          transforms.rotation(-np.radians(angle)),
        ),
        centre,
      ),
      cv2.getRotationMatrix2D(centre, angle, scale),
      atol=1e-5,
    )


class MultipleTest(parameterized.TestCase):
  """Homographies times a number, in pixels: entries from 1e-6 to 300."""

  matrix = np.array([[1.1, 0.2, 300], [-0.1, 0.9, -200], [1e-6, -2e-6, 1]])

  def check(self, ours, expected):
    ours = np.asarray(ours, np.float64)
    np.testing.assert_allclose(
      ours / ours[2, 2], expected / expected[2, 2], rtol=1e-5
    )

  @parameterized.parameters(1.0, 1e-8, 1e-30, -1e30)
  @pytest.mark.slow
  def test_algebra(self, scale):
    multiple = (self.matrix * scale).astype(np.float32)
    inverse = np.linalg.inv(self.matrix)
    self.check(compiled.invert(multiple), inverse)
    np.testing.assert_allclose(
      compiled.invert(multiple), inverse / scale, rtol=1e-5
    )
    product = self.matrix @ self.matrix
    self.check(compose(multiple, multiple), product)
    shift = np.array([[1, 0, 0.5], [0, 1, -0.5]])
    shifted = np.vstack([shift, [0, 0, 1]]) @ product
    self.check(compose(shift, multiple, multiple), shifted)
    shapes = ((300, 400), (200, 500))
    into, out = (
      np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])
      for h, w in shapes
    )
    theta = compiled.from_pixels(multiple, *shapes)
    self.check(theta, into @ self.matrix @ np.linalg.inv(out))
    theta = compiled.from_opencv(multiple, *shapes)
    self.check(theta, into @ inverse @ np.linalg.inv(out))

  @parameterized.parameters(1e-30, 1e30)
  def test_gradient_of_the_inverse_of_a_multiple(self, scale):
    matrix = np.array([[1.1, 0.2, 0.3], [-0.1, 0.9, -0.2], [0.1, -0.2, 1]])

    multiple = (matrix * scale).astype(np.float32)
    grad = jax.jit(jax.grad(lambda m: transforms.invert(m)[0, 1] * scale))(
      multiple
    )
    inverse = np.linalg.inv(matrix)
    # d inv = -inv d inv
    expected = -np.outer(inverse[0], inverse[:, 1])
    np.testing.assert_allclose(grad * scale, expected, rtol=1e-5, atol=1e-6)


class SingularTest(parameterized.TestCase):
  @parameterized.parameters((3, 2), (4, 1))
  def test_no_entry_of_the_inverse_is_finite(self, width, rank):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 500, width, width))
    product = left[..., :rank] @ right[..., :rank, :]
    whole = np.round(left[..., :rank] * 3) @ np.round(right[..., :rank, :] * 3)
    sizes = np.exp(rng.normal(size=(2, 500, width)) * 5)
    uneven = product * sizes[0, :, None] * sizes[1, :, :, None]
    invert = compiled.invert
    for matrices in (product, whole, uneven):
      inverse = invert(matrices.astype(np.float32))
      self.assertFalse(np.isfinite(inverse).any())
    if rank < width - 1:
      affine = np.concatenate(
        [product[:, :-1, :-1], 100 * left[:, :-1, :1]], axis=-1
      )
      inverse = invert(affine.astype(np.float32))
      self.assertFalse(np.isfinite(inverse).any())

  def test_zeros_that_rounding_makes_nonzero(self):
    for rows in (
      [[18, 8, 8], [4, 0, 0], [-10, 0, 0]],
      [[-2, 0, 0], [-8, -6, -3], [-6, 0, 0]],
      [[0.1, 0.2, 5], [0.3, 0.6, 7]],
      np.zeros((2, 3)),
    ):
      inverse = compiled.invert(np.array(rows, np.float32))
      self.assertFalse(np.isfinite(inverse).any())

  @parameterized.parameters(
    ([[1e-6, 0, 40], [0, 1e3, -5]],),
    ([[1, 0, 1e6], [0, 1, 1e6]],),
    ([[1, 1e-6, 500], [2e-6, 1e-3, 400], [1e-6, -1e-7, 1]],),
    ([[1, 1e5, 0], [0, 1, 0]],),
    ([[1, 1, 0], [1, 1.0001, 0]],),
    ([[1e-12, 0, 0], [0, 1e12, 0], [0, 0, 1]],),
  )
  def test_scales_and_angles_that_are_not_singular(self, rows):
    matrix = np.array(rows, np.float32)
    square = np.eye(3)
    square[: len(rows)] = matrix
    inverse = np.linalg.inv(square)[: len(rows)]
    error = np.abs(compiled.invert(matrix) - inverse)
    size = np.abs(inverse)
    bound = 1e-3 * size + 1e-6 * size.max(axis=-1, keepdims=True)
    self.assertTrue((error <= bound).all())

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient_beside_a_singular_matrix(self):
    matrices = np.array([[[1.2, 0.3, 0.1], [-0.2, 0.8, 0]], np.ones((2, 3))])
    invert = compiled.invert
    check_grads(invert, (matrices[:1],), 1, ("rev",))

    @jax.jit
    def inverse_and_gradient(matrices):
      inverse, vjp = jax.vjp(transforms.invert, matrices)
      return inverse, vjp(jnp.ones_like(matrices))[0]

    inverse, grad = inverse_and_gradient(matrices)
    _, alone = inverse_and_gradient(matrices[:1])
    self.assertTrue(np.isnan(inverse[1]).all())
    np.testing.assert_allclose(grad[:1], alone, rtol=1e-12)
    np.testing.assert_array_equal(grad[1], 0)


@pytest.mark.usefixtures("x64")
class AlgebraTest(parameterized.TestCase):
  @parameterized.product(
    first=("rotation", "affine", "projective"),
    second=("affine", "projective"),
  )
  def test_compose_is_the_matrix_product(self, first, second):
    a, b = random_matrix(first, 1, (3,)), random_matrix(second, 2)
    square = [np.asarray(homogeneous(m)) for m in (a, b)]
    product = compose(a, b)
    expected = square[0] @ square[1]
    if "projective" in (first, second):
      self.assertEqual(product.shape, (3, 3, 3))
    else:
      self.assertEqual(product.shape, (3, 2, 3))
      expected = expected[:, :2]
    np.testing.assert_allclose(product, expected, atol=1e-12)

  def test_compose_of_one_and_of_three(self):
    a, b, c = (random_matrix("affine", seed) for seed in range(3))
    np.testing.assert_array_equal(compose(a), a)
    np.testing.assert_allclose(
      compose(a, b, c),
      compose(compose(a, b), c),
      atol=1e-12,
    )

  @parameterized.parameters("similarity", "projective")
  def test_invert(self, family):
    matrix = random_matrix(family, 3, (4,))
    inverse = compiled.invert(matrix)
    self.assertEqual(inverse.shape, matrix.shape)
    product = homogeneous(compose(matrix, inverse))
    np.testing.assert_allclose(
      product, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-12
    )

  def test_volumes(self):
    rng = np.random.default_rng(0)
    matrix = np.eye(3, 4) + rng.uniform(-0.3, 0.3, (2, 3, 4))
    product = compose(matrix, compiled.invert(matrix))
    np.testing.assert_allclose(product, [np.eye(3, 4)] * 2, atol=1e-12)

  @parameterized.parameters(0, 1, 2, 3)
  def test_decompose_and_compose_round_trip(self, seed):
    matrix = np.random.default_rng(seed).normal(size=(5, 2, 3))
    np.testing.assert_allclose(recompose(matrix), matrix, atol=1e-12)

  @pytest.mark.slow
  def test_decompose_reads_the_parts_back(self):
    parts = compiled.decompose(
      compose(
        transforms.translation(jnp.array([0.1, -0.7])),
        transforms.rotation(jnp.array(-2.0)),
        transforms.shearing(jnp.array(0.3)),
        transforms.scaling(jnp.array([0.5, 2.0])),
      )
    )
    self.assertAlmostEqual(float(parts.rotation), -2.0)
    self.assertAlmostEqual(float(parts.shear), 0.3)
    np.testing.assert_allclose(parts.scale, [0.5, 2.0])
    np.testing.assert_allclose(parts.translation, [0.1, -0.7])

  def test_decompose_is_finite_where_it_is_degenerate(self):
    for matrix in (np.zeros((2, 3)), np.array([[0.0, 1, 0], [0, 2, 0]])):
      value, jacobian = (
        compiled.decompose(matrix),
        JACOBIAN(jnp.array(matrix)),
      )
      for leaf in jax.tree.leaves((value, jacobian)):
        self.assertTrue(np.isfinite(leaf).all())

  def test_decompose_gradient(self):
    matrix = np.random.default_rng(0).normal(size=(3, 2, 3))
    check_grads(jax.jit(transforms.decompose), (matrix,), 1, ("fwd", "rev"))


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (lambda: transforms.compose(), "at least one"),
    (lambda: transforms.compose(jnp.eye(2, 3), jnp.eye(4)), "2-D or all 3-D"),
    (lambda: transforms.compose(jnp.eye(2)), "matrices must be"),
    (lambda: transforms.invert(jnp.eye(5)), "matrix must be"),
    (lambda: transforms.decompose(jnp.eye(3)), r"\[..., 2, 3\]"),
    (lambda: transforms.shearing(0.1, num_axes=3), r"shear must be \[..., 3\]"),
    (lambda: transforms.shearing(0.1, num_axes=4), "num_axes=4 is unknown"),
    (lambda: transforms.about(jnp.eye(2), jnp.zeros(2)), "matrix must be"),
    (lambda: transforms.about(jnp.eye(3), jnp.zeros(3)), "centre must end in"),
    (
      lambda: transforms.about(jnp.zeros((2, 2, 3)), jnp.zeros((3, 2))),
      "batch axes of matrix and centre",
    ),
    (lambda: transforms.translation(jnp.zeros(4)), "offset must be"),
    (lambda: transforms.scaling(2.0), "factors must be"),
  )
  def test_wrong_arguments_are_named(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


recompose_volume = jax.jit(
  lambda parts: transforms.compose(
    transforms.translation(parts.translation),
    transforms.matrix(parts.rotation, "rotation", num_axes=3),
    transforms.shearing(parts.shear, num_axes=3),
    transforms.scaling(parts.scale),
  )
)


@pytest.mark.usefixtures("x64")
class DecompositionOfVolumesTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_parts_make_the_matrix_again(self):
    matrix = np.random.default_rng(0).normal(size=(50, 3, 4))
    parts = compiled.decompose(matrix)
    self.assertEqual(parts.rotation.shape, (50, 3))
    np.testing.assert_allclose(recompose_volume(parts), matrix, atol=1e-10)
    self.assertTrue((parts.scale[:, :2] > 0).all())
    np.testing.assert_array_equal(
      parts.scale[:, 2] < 0, np.linalg.det(matrix[..., :3]) < 0
    )

  @parameterized.parameters(
    0.0, 1e-9, 1e-3, 0.09, 0.1, 2.0, np.pi - 1e-6, np.pi
  )
  def test_angles_are_those_of_scipy(self, angle):
    axes = np.random.default_rng(1).normal(size=(20, 3))
    axes = np.concatenate([axes, np.eye(3)])
    vectors = angle * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    turns = scipy.spatial.transform.Rotation.from_rotvec(vectors)
    matrix = np.concatenate([turns.as_matrix(), np.zeros((23, 3, 1))], -1)
    found = compiled.decompose(matrix).rotation
    again = scipy.spatial.transform.Rotation.from_rotvec(np.array(found))
    np.testing.assert_allclose(again.as_matrix(), turns.as_matrix(), atol=1e-12)
    if angle < 3.2 and angle != np.pi:
      np.testing.assert_allclose(found, vectors, atol=1e-8)

  @parameterized.parameters(0.0, 1e-5, 0.05, 1.0, 3.0)
  def test_gradient(self, angle):
    rng = np.random.default_rng(0)
    linear = scipy.spatial.transform.Rotation.from_rotvec(
      angle * np.array([0.6, 0.0, -0.8])
    ).as_matrix() @ (np.eye(3) + 0.1 * rng.normal(size=(3, 3)) * (angle > 0))
    matrix = np.concatenate([linear, rng.normal(size=(3, 1))], -1)
    check_grads(jax.jit(transforms.decompose), (matrix,), 1, ("fwd", "rev"))

  @pytest.mark.slow
  def test_is_finite_where_it_is_degenerate(self):
    column = np.array([1.0, 2, -1])
    matrices = [np.zeros((3, 4)), np.eye(3, 4), -np.eye(3, 4)]
    for picks in ((0, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)):
      matrix = np.zeros((3, 4))
      for place, pick in enumerate(picks):
        matrix[:, place] = (place + 1) * column if pick == 0 else [0, 1, 1]
      matrices.append(matrix)
    matrices += [
      np.diag([1.0, 1, 0]) @ np.eye(3, 4),
      np.diag([0.0, 1, 1, 1])[:3],
    ]
    for matrix in matrices:
      value, slopes = compiled.decompose(matrix), JACOBIAN(jnp.array(matrix))
      for leaf in jax.tree.leaves((value, slopes)):
        self.assertTrue(np.isfinite(leaf).all(), matrix)


class ScaleOfDecompositionTest(parameterized.TestCase):
  @parameterized.parameters(1e-30, 1e-22, 1.0, 1e25, 1e37)
  def test_any_size_comes_back(self, size):
    matrix = np.array([[1, 3, 0], [0.5, -2, 0]]) * size
    parts = compiled.decompose(matrix)
    again = compose(
      transforms.rotation(parts.rotation),
      transforms.shearing(parts.shear),
      transforms.scaling(parts.scale),
    )
    np.testing.assert_allclose(again / size, matrix / size, atol=1e-6)

  @parameterized.parameters(1e-30, 1e-12, 1e-6, 1e20)
  def test_a_column_of_another_size_comes_back(self, size):
    turned = np.array([[0.6, 1, 0], [-0.8, 2, 0]])
    turned[:, 0] *= size
    parts = compiled.decompose(turned)
    self.assertAlmostEqual(float(parts.scale[0] / size), 1, places=5)
    self.assertAlmostEqual(
      float(parts.rotation), np.arctan2(-0.8, 0.6), places=5
    )
    # Turned back: the second column is (shear, 1) times its scale.
    across, down = np.array([[0.6, -0.8], [0.8, 0.6]]) @ [1, 2]
    self.assertAlmostEqual(float(parts.scale[1]), down, places=5)
    self.assertAlmostEqual(float(parts.shear), across / down, places=5)

  @parameterized.parameters(0.0, 1e-30, 1e-20, 1e-12, 1e-6)
  def test_gradients_are_finite_next_to_singular(self, size):
    matrix = jnp.array([[size, 1.0, 0.0], [0.0, 1.0, 0.0]])
    chex.assert_tree_all_finite(JACOBIAN(matrix))


if __name__ == "__main__":
  absltest.main()
