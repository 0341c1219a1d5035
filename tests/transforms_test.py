"""Transforms against matrix algebra in NumPy."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest

from stnjax import transforms

EXPECTED = {  # parameters -> matrix, worked out by hand
  "translation": ([0.3, -0.2], [[1, 0, 0.3], [0, 1, -0.2]]),
  "rotation": ([np.pi / 6], [[3**0.5 / 2, -0.5, 0], [0.5, 3**0.5 / 2, 0]]),
  "scale": ([np.log(2)], [[2, 0, 0], [0, 2, 0]]),
  "similarity": (
    [np.log(2), np.pi / 2, 0.1, 0.4],
    [[0, -2, 0.1], [2, 0, 0.4]],
  ),
  "affine": (
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    [[1.1, 0.2, 0.3], [0.4, 1.5, 0.6]],
  ),
  "projective": (
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    [[1.1, 0.2, 0.3], [0.4, 1.5, 0.6], [0.7, 0.8, 1]],
  ),
}


def random_matrix(family, seed=0, batch=()):
  params = np.random.default_rng(seed).uniform(
    -0.4, 0.4, (*batch, transforms.num_params(family))
  )
  return transforms.matrix(params, family)


class FamilyTest(parameterized.TestCase):
  def test_every_family_is_covered(self):
    self.assertEqual(tuple(EXPECTED), transforms.FAMILIES)

  @parameterized.parameters(*EXPECTED.items())
  def test_parameters_mean_what_they_say(self, family, expected):
    params, matrix = expected
    np.testing.assert_allclose(
      transforms.matrix(jnp.array(params), family), matrix, atol=1e-6
    )
    self.assertEqual(transforms.num_params(family), len(params))

  @parameterized.product(family=transforms.FAMILIES, batch=((), (0,), (2, 3)))
  def test_batched_equals_one_by_one(self, family, batch):
    params = np.random.default_rng(0).normal(
      size=(*batch, transforms.num_params(family))
    )
    matrices = transforms.matrix(params, family)
    self.assertEqual(matrices.shape[:-2], batch)
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        matrices[place], transforms.matrix(params[place], family), rtol=1e-6
      )

  @parameterized.parameters(*transforms.FAMILIES)
  @pytest.mark.usefixtures("x64")
  def test_gradients(self, family):
    for scale in (0.0, 0.3):
      params = scale * np.arange(1.0, transforms.num_params(family) + 1)
      check_grads(
        lambda p: transforms.matrix(p, family), (params,), 2, ("fwd", "rev")
      )

  def test_half_precision_parameters_make_wide_matrices(self):
    matrix = transforms.matrix(jnp.zeros(6, jnp.bfloat16), "affine")
    self.assertEqual(matrix.dtype, jnp.float32)


class BuildersTest(absltest.TestCase):
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


@pytest.mark.usefixtures("x64")
class AlgebraTest(parameterized.TestCase):
  @parameterized.product(
    first=transforms.FAMILIES, second=("affine", "projective")
  )
  def test_compose_is_the_matrix_product(self, first, second):
    a, b = random_matrix(first, 1, (3,)), random_matrix(second, 2)
    square = [np.asarray(transforms.to_homogeneous(m)) for m in (a, b)]
    product = transforms.compose(a, b)
    expected = square[0] @ square[1]
    if "projective" in (first, second):
      self.assertEqual(product.shape, (3, 3, 3))
    else:
      self.assertEqual(product.shape, (3, 2, 3))
      expected = expected[:, :2]
    np.testing.assert_allclose(product, expected, atol=1e-12)

  def test_compose_of_one_and_of_three(self):
    a, b, c = (random_matrix("affine", seed) for seed in range(3))
    np.testing.assert_array_equal(transforms.compose(a), a)
    np.testing.assert_allclose(
      transforms.compose(a, b, c),
      transforms.compose(transforms.compose(a, b), c),
      atol=1e-12,
    )

  @parameterized.parameters(*transforms.FAMILIES)
  def test_invert(self, family):
    matrix = random_matrix(family, 3, (4,))
    inverse = transforms.invert(matrix)
    self.assertEqual(inverse.shape, matrix.shape)
    product = transforms.to_homogeneous(transforms.compose(matrix, inverse))
    np.testing.assert_allclose(
      product, np.broadcast_to(np.eye(3), (4, 3, 3)), atol=1e-12
    )

  def test_volumes(self):
    rng = np.random.default_rng(0)
    matrix = np.eye(3, 4) + rng.uniform(-0.3, 0.3, (2, 3, 4))
    product = transforms.compose(matrix, transforms.invert(matrix))
    np.testing.assert_allclose(product, [np.eye(3, 4)] * 2, atol=1e-12)

  @parameterized.parameters(0, 1, 2, 3)
  def test_decompose_and_compose_round_trip(self, seed):
    matrix = np.random.default_rng(seed).normal(size=(5, 2, 3))
    parts = transforms.decompose(matrix)
    again = transforms.compose(
      transforms.translation(parts.translation),
      transforms.rotation(parts.rotation),
      transforms.shearing(parts.shear),
      transforms.scaling(parts.scale),
    )
    np.testing.assert_allclose(again, matrix, atol=1e-12)

  def test_decompose_reads_the_parts_back(self):
    parts = transforms.decompose(
      transforms.compose(
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
        transforms.decompose(matrix),
        jax.jacrev(transforms.decompose)(jnp.array(matrix)),
      )
      for leaf in jax.tree.leaves((value, jacobian)):
        self.assertTrue(np.isfinite(leaf).all())

  def test_decompose_gradient(self):
    matrix = np.random.default_rng(0).normal(size=(3, 2, 3))
    check_grads(transforms.decompose, (matrix,), 1, ("fwd", "rev"))


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (lambda: transforms.num_params("euclid"), "family='euclid'.*accepted"),
    (lambda: transforms.matrix(jnp.zeros(5), "affine"), r"\[..., 6\]"),
    (lambda: transforms.matrix(0.0, "rotation"), r"params.*\[..., 1\]"),
    (lambda: transforms.compose(), "at least one"),
    (lambda: transforms.compose(jnp.eye(2, 3), jnp.eye(4)), "2-D or all 3-D"),
    (lambda: transforms.compose(jnp.eye(2)), "matrices must be"),
    (lambda: transforms.invert(jnp.eye(5)), "matrix must be"),
    (lambda: transforms.decompose(jnp.eye(3)), r"\[..., 2, 3\]"),
    (lambda: transforms.translation(jnp.zeros(4)), "offset must be"),
    (lambda: transforms.scaling(2.0), "factors must be"),
  )
  def test_wrong_arguments_are_named(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == "__main__":
  absltest.main()
