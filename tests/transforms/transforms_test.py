"""Transforms against matrix algebra in NumPy."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage

import stnjax
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
    matrix = jax.jit(lambda p: transforms.matrix(p, family))
    for scale in (0.0, 0.3):
      params = scale * np.arange(1.0, transforms.num_params(family) + 1)
      check_grads(matrix, (params,), 2, ("fwd", "rev"))

  def test_half_precision_parameters_make_wide_matrices(self):
    matrix = transforms.matrix(jnp.zeros(6, jnp.bfloat16), "affine")
    self.assertEqual(matrix.dtype, jnp.float32)


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


class MultipleTest(parameterized.TestCase):
  """Homographies times a number, in pixels: entries from 1e-6 to 300."""

  matrix = np.array([[1.1, 0.2, 300], [-0.1, 0.9, -200], [1e-6, -2e-6, 1]])

  def check(self, ours, expected):
    ours = np.asarray(ours, np.float64)
    np.testing.assert_allclose(
      ours / ours[2, 2], expected / expected[2, 2], rtol=1e-5
    )

  @parameterized.parameters(1.0, 1e-8, 1e-30, -1e30, 3.0)
  def test_algebra(self, scale):
    multiple = (self.matrix * scale).astype(np.float32)
    inverse = np.linalg.inv(self.matrix)
    self.check(transforms.invert(multiple), inverse)
    np.testing.assert_allclose(
      transforms.invert(multiple), inverse / scale, rtol=1e-5
    )
    product = self.matrix @ self.matrix
    self.check(transforms.compose(multiple, multiple), product)
    shift = np.array([[1, 0, 0.5], [0, 1, -0.5]])
    shifted = np.vstack([shift, [0, 0, 1]]) @ product
    self.check(transforms.compose(shift, multiple, multiple), shifted)
    shapes = ((300, 400), (200, 500))
    into, out = (
      np.array([[2 / w, 0, 1 / w - 1], [0, 2 / h, 1 / h - 1], [0, 0, 1]])
      for h, w in shapes
    )
    theta = transforms.from_pixels(multiple, *shapes)
    self.check(theta, into @ self.matrix @ np.linalg.inv(out))
    theta = transforms.from_opencv(multiple, *shapes)
    self.check(theta, into @ inverse @ np.linalg.inv(out))

  @parameterized.parameters(1e-30, 1e30)
  def test_gradient_of_the_inverse_of_a_multiple(self, scale):
    matrix = np.array([[1.1, 0.2, 0.3], [-0.1, 0.9, -0.2], [0.1, -0.2, 1]])

    multiple = (matrix * scale).astype(np.float32)
    grad = jax.grad(lambda m: transforms.invert(m)[0, 1] * scale)(multiple)
    inverse = np.linalg.inv(matrix)
    # d inv = -inv d inv
    expected = -np.outer(inverse[0], inverse[:, 1])
    np.testing.assert_allclose(grad * scale, expected, rtol=1e-5, atol=1e-6)


class SingularTest(parameterized.TestCase):
  @parameterized.parameters((3, 1), (3, 2), (4, 1), (4, 3))
  def test_no_entry_of_the_inverse_is_finite(self, width, rank):
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 500, width, width))
    product = left[..., :rank] @ right[..., :rank, :]
    whole = np.round(left[..., :rank] * 3) @ np.round(right[..., :rank, :] * 3)
    sizes = np.exp(rng.normal(size=(2, 500, width)) * 5)
    uneven = product * sizes[0, :, None] * sizes[1, :, :, None]
    invert = jax.jit(transforms.invert)
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
      inverse = transforms.invert(np.array(rows, np.float32))
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
    error = np.abs(transforms.invert(matrix) - inverse)
    size = np.abs(inverse)
    bound = 1e-3 * size + 1e-6 * size.max(axis=-1, keepdims=True)
    self.assertTrue((error <= bound).all())

  @pytest.mark.usefixtures("x64")
  def test_gradient_beside_a_singular_matrix(self):
    matrices = np.array([[[1.2, 0.3, 0.1], [-0.2, 0.8, 0]], np.ones((2, 3))])
    invert = jax.jit(transforms.invert)
    check_grads(invert, (matrices[:1],), 2, ("fwd", "rev"))
    inverse, pull = jax.vjp(invert, matrices)
    (alone,) = jax.vjp(invert, matrices[:1])[1](jnp.ones((1, 2, 3)))
    (grad,) = pull(jnp.ones((2, 2, 3)))
    self.assertTrue(np.isnan(inverse[1]).all())
    np.testing.assert_allclose(grad[:1], alone, rtol=1e-12)
    np.testing.assert_array_equal(grad[1], 0)


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
    np.testing.assert_allclose(recompose(matrix), matrix, atol=1e-12)

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
        JACOBIAN(jnp.array(matrix)),
      )
      for leaf in jax.tree.leaves((value, jacobian)):
        self.assertTrue(np.isfinite(leaf).all())

  def test_decompose_gradient(self):
    matrix = np.random.default_rng(0).normal(size=(3, 2, 3))
    check_grads(jax.jit(transforms.decompose), (matrix,), 1, ("fwd", "rev"))


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


class ScaleOfDecompositionTest(parameterized.TestCase):
  @parameterized.parameters(1e-30, 1e-22, 1.0, 1e25, 1e37)
  def test_any_size_comes_back(self, size):
    matrix = np.array([[1, 3, 0], [0.5, -2, 0]]) * size
    parts = transforms.decompose(matrix)
    again = transforms.compose(
      transforms.rotation(parts.rotation),
      transforms.shearing(parts.shear),
      transforms.scaling(parts.scale),
    )
    np.testing.assert_allclose(again / size, matrix / size, atol=1e-6)

  @parameterized.parameters(1e-30, 1e-12, 1e-6, 1e20)
  def test_a_column_of_another_size_comes_back(self, size):
    turned = np.array([[0.6, 1, 0], [-0.8, 2, 0]])
    turned[:, 0] *= size
    parts = transforms.decompose(turned)
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


class VolumeTest(parameterized.TestCase):
  def test_parameters_mean_what_they_say(self):
    cases = {
      "translation": ([0.1, 0.2, 0.3], np.eye(3), [0.1, 0.2, 0.3]),
      "scale": ([np.log(2)], 2 * np.eye(3), 0),
      "rotation": (  # a quarter turn about z: +x towards +y
        [0, 0, np.pi / 2],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        0,
      ),
      "similarity": (
        [np.log(2), np.pi / 2, 0, 0, 0.1, 0.2, 0.3],
        [[2, 0, 0], [0, 0, -2], [0, 2, 0]],
        [0.1, 0.2, 0.3],
      ),
    }
    for family, (params, linear, offset) in cases.items():
      matrix = transforms.matrix(jnp.array(params), family, num_axes=3)
      np.testing.assert_allclose(matrix[:, :3], linear, atol=1e-6)
      np.testing.assert_allclose(matrix[:, 3], np.zeros(3) + offset, atol=1e-6)
    params = np.arange(15.0) / 10
    affine = transforms.matrix(params[:12], "affine", num_axes=3)
    np.testing.assert_allclose(
      affine, np.eye(3, 4) + params[:12].reshape(3, 4), rtol=1e-6
    )
    projective = transforms.matrix(params, "projective", num_axes=3)
    expected = np.eye(4) + np.append(params, 0).reshape(4, 4)
    np.testing.assert_allclose(projective, expected, rtol=1e-6)

  @parameterized.parameters(*transforms.FAMILIES)
  @pytest.mark.usefixtures("x64")
  def test_zeros_are_the_identity_and_gradients_are_right(self, family):
    size = transforms.num_params(family, num_axes=3)
    zero = transforms.matrix(np.zeros(size), family, num_axes=3)
    np.testing.assert_array_equal(zero, np.eye(*zero.shape))
    matrix = jax.jit(lambda p: transforms.matrix(p, family, num_axes=3))
    for scale in (0.0, 1e-9, 0.3):
      params = scale * np.arange(1.0, size + 1)
      check_grads(matrix, (params,), 2, ("rev",))

  @parameterized.parameters(0.0, 1e-4, 1.0, 3.0, 7.0)
  @pytest.mark.usefixtures("x64")
  def test_rotation_vector_is_the_exponential(self, angle):
    vector = angle * np.array([2.0, -1.0, 2.0]) / 3
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = transforms.matrix(vector, "rotation", num_axes=3)
    np.testing.assert_allclose(
      matrix[:, :3], scipy.linalg.expm(cross), atol=1e-12
    )

  @pytest.mark.usefixtures("x64")
  def test_rotation_vector_is_smooth_near_the_identity(self):
    hessian = jax.jit(
      jax.hessian(lambda p: transforms.matrix(p, "rotation", num_axes=3))
    )
    at_zero = hessian(jnp.zeros(3))
    for size in (1e-300, 1e-15, 1e-10, 1e-6):
      near = hessian(jnp.full(3, size))
      np.testing.assert_allclose(near, at_zero, atol=2 * size)

  @parameterized.parameters("x", "y", "z")
  def test_rotation_about_an_axis(self, axis):
    vector = 0.7 * np.eye(3)["xyz".index(axis)]
    np.testing.assert_allclose(
      transforms.rotation(0.7, axis=axis),
      transforms.matrix(vector, "rotation", num_axes=3),
      atol=1e-6,
    )
    batch = transforms.rotation(np.array([[0.1, 0.2]]), axis=axis)
    self.assertEqual(batch.shape, (1, 2, 3, 4))


def asymmetric_image(shape=(40, 52)):
  """Smooth, with a blob off the middle and a ramp: every mix-up shows."""
  rows, columns = np.indices(shape).astype(np.float32)
  blob = np.exp(-((rows - 12) ** 2 + (columns - 33) ** 2 / 3) / 40)
  return (blob + 0.01 * columns + 0.003 * rows).astype(np.float32)


AFFINE = np.array([[0.9, 0.25, -3.0], [-0.2, 1.1, 4.0]])
PROJECTIVE = np.vstack([AFFINE, [0.002, -0.003, 1.0]])


class ConverterTest(parameterized.TestCase):
  """The same picture as the other library makes, away from its edges."""

  def check(self, theta, expected, image, align_corners):
    shape = expected.shape
    ours, mask = stnjax.warp(
      image[..., None],
      theta,
      output_shape=shape,
      align_corners=align_corners,
      return_mask=True,
    )
    inside = np.asarray(mask) == 1
    self.assertGreater(inside.mean(), 0.4)
    # OpenCV rounds coordinates to a 32nd of a pixel.
    np.testing.assert_allclose(ours[inside][:, 0], expected[inside], atol=0.01)

  @parameterized.product(
    matrix=("affine", "projective"),
    inverse_map=(False, True),
    align_corners=(False, True),
  )
  def test_opencv(self, matrix, inverse_map, align_corners):
    cv2 = pytest.importorskip("cv2")
    image, (height, width) = asymmetric_image(), (33, 47)
    flags = cv2.INTER_LINEAR | (cv2.WARP_INVERSE_MAP if inverse_map else 0)
    if matrix == "affine":
      pixels, warp = AFFINE, cv2.warpAffine
    else:
      pixels, warp = PROJECTIVE, cv2.warpPerspective
    expected = warp(image, pixels, (width, height), flags=flags)
    theta = transforms.from_opencv(
      pixels,
      image.shape,
      (height, width),
      inverse_map=inverse_map,
      align_corners=align_corners,
    )
    self.check(theta, expected, image, align_corners)

  @parameterized.product(
    matrix=("affine", "projective"), align_corners=(False, True)
  )
  def test_skimage(self, matrix, align_corners):
    skimage = pytest.importorskip("skimage.transform")
    image, shape = asymmetric_image(), (33, 47)
    pixels = PROJECTIVE if matrix == "projective" else AFFINE
    inverse_map = np.vstack([AFFINE, [0, 0, 1]])
    if matrix == "projective":
      inverse_map = PROJECTIVE
    expected = skimage.warp(image, inverse_map, output_shape=shape, order=1)
    theta = transforms.from_pixels(
      pixels, image.shape, shape, align_corners=align_corners
    )
    self.check(theta, expected, image, align_corners)

  @parameterized.parameters(2, 3)
  def test_scipy(self, num_axes):
    # scipy's matrix is in array order.
    shape, output_shape = (20, 24, 18)[:num_axes], (15, 21, 17)[:num_axes]
    rng = np.random.default_rng(0)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=shape), 2)
    linear = np.eye(num_axes) + 0.1 * rng.normal(size=(num_axes, num_axes))
    offset = rng.normal(size=num_axes)
    expected = scipy.ndimage.affine_transform(
      image, linear, offset, output_shape=output_shape, order=1
    )
    pixels = np.concatenate([linear, offset[:, None]], axis=1)
    pixels[:, :num_axes] = pixels[:, :num_axes][:, ::-1]
    theta = transforms.from_pixels(pixels[::-1], shape, output_shape)
    self.check(theta, expected, image, False)

  @parameterized.product(
    shape=((4, 7), (1, 5), (3, 4, 5)),
    projective=(False, True),
    align_corners=(False, True),
  )
  @pytest.mark.usefixtures("x64")
  def test_round_trip(self, shape, projective, align_corners):
    if align_corners and 1 in shape:
      shape = (2, 5)
    num_axes, rng = len(shape), np.random.default_rng(0)
    theta = rng.normal(size=(2, num_axes + projective, num_axes + 1))
    call = dict(
      input_shape=shape,
      output_shape=(5, 3, 2)[:num_axes],
      align_corners=align_corners,
    )
    pixels = transforms.to_pixels(theta, **call)
    np.testing.assert_allclose(transforms.from_pixels(pixels, **call), theta)

  @parameterized.product(
    sizes=(((333, 1001), (333, 1001)), ((37, 41), (30, 49)), ((1, 28), (5, 1))),
    align_corners=(False, True),
    function=("from_pixels", "from_opencv"),
  )
  def test_whole_pixels_are_copied_exactly(
    self, sizes, align_corners, function
  ):
    into, out = sizes
    if align_corners and 1 in into:
      into = (2, 28)
    image = np.random.default_rng(0).normal(size=(*into, 1)).astype(np.float32)
    call = dict(align_corners=align_corners)
    warp = jax.jit(
      lambda m: stnjax.warp(
        image,
        getattr(transforms, function)(m, into, out, **call),
        output_shape=out,
        return_mask=True,
        **call,
      )
    )
    rows, columns = np.indices(out)
    # The identity, shifts, a mirror, and a turn with a stretch; and multiples.
    for (a, b, x), (c, d, y) in (
      ((1, 0, 0), (0, 1, 0)),
      ((1, 0, 7), (0, 1, -3)),
      ((1, 0, into[1] - 2), (0, 1, 1 - into[0])),
      ((-1, 0, into[1] - 1), (0, 1, 2)),
      ((0, 1, 3), (-1, 0, into[0] // 2)),
    ):
      pixels = np.array([[a, b, x], [c, d, y], [0, 0, 1]])
      xs, ys = a * columns + b * rows + x, c * columns + d * rows + y
      inside = (xs >= 0) & (xs < into[1]) & (ys >= 0) & (ys < into[0])
      expected = np.where(
        inside, image[ys % into[0], xs % into[1], 0], np.float32(0)
      )
      if function == "from_opencv":
        pixels = np.linalg.inv(pixels).round()
      for matrix in (pixels[:2], pixels, 3 * pixels):
        moved, mask = warp(matrix.astype(np.float32))
        np.testing.assert_array_equal(mask, inside)
        np.testing.assert_array_equal(moved[..., 0], expected)

  @parameterized.parameters(False, True)
  def test_whole_pixels_at_every_size(self, align_corners):
    rng = np.random.default_rng(0)
    for size in range(1 + align_corners, 131):
      shifts = np.array([0, 1, -3, size // 2, 1 - size, rng.integers(size)])
      others = np.array([size, size + 3, size * 2, 2 * size // 3 + 1])
      other = int(rng.choice(others))
      call = dict(
        input_shape=(size, size),
        output_shape=(other, other),
        align_corners=align_corners,
      )
      pixels = np.tile(np.eye(2, 3, dtype=np.float32), (6, 1, 1))
      pixels[:, 0, 2], pixels[:, 1, 2] = shifts, -shifts
      theta = transforms.from_pixels(pixels, **call)
      np.testing.assert_array_equal(transforms.to_pixels(theta, **call), pixels)
      theta = transforms.from_opencv(pixels, **call)
      np.testing.assert_array_equal(
        transforms.to_pixels(theta, **call)[..., 2], -pixels[..., 2]
      )
      # As users write it: a shift over half the size, rounded once.
      units = 2 * shifts / max(size - align_corners, 1)
      theta = transforms.translation(np.stack([units, -units], axis=-1))
      call["output_shape"] = None
      np.testing.assert_array_equal(transforms.to_pixels(theta, **call), pixels)

  def test_gradient_of_conversions_at_whole_pixels(self):
    # 15.5 of 28 pixels come back as 15.5 only by agreement.
    theta = transforms.from_pixels(
      jnp.array([[1.0, 0, 15.5], [0, 1, 0]]), (28, 28)
    )
    slopes = jax.jacfwd(lambda t: transforms.to_pixels(t, (28, 28)))(theta)
    expected = np.zeros((2, 3, 2, 3))
    for row, column in np.ndindex(2, 3):
      expected[row, column, row, column] = 14 if column == 2 else 1
      if column < 2:
        expected[row, 2, row, column] = -13.5
    np.testing.assert_allclose(slopes, expected)

  @parameterized.parameters(
    (ValueError, "matrix must be", dict(matrix=np.eye(2))),
    (ValueError, r"input_shape must be \(H, W\)", dict(input_shape=(4,))),
    (ValueError, r"output_shape must be \(H", dict(output_shape=(4, 4, 4))),
    (TypeError, "align_corners must be", dict(align_corners=0)),
    (
      ValueError,
      "input_shape must have sizes of at least 2",
      dict(input_shape=(1, 4), align_corners=True),
    ),
  )
  def test_wrong_arguments_are_named(self, error, message, arguments):
    call = {"matrix": np.eye(3), "input_shape": (4, 4), **arguments}
    for function in (transforms.from_pixels, transforms.from_opencv):
      with self.assertRaisesRegex(error, message):
        function(**call)

  def test_wrong_options_are_named(self):
    with self.assertRaisesRegex(ValueError, r"matrix must be \[..., 2, 3\]"):
      transforms.from_opencv(np.eye(4), (4, 4))
    with self.assertRaisesRegex(TypeError, "inverse_map must be"):
      transforms.from_opencv(np.eye(3), (4, 4), inverse_map="yes")
    with self.assertRaisesRegex(ValueError, "axis='w' is unknown"):
      transforms.rotation(0.1, axis="w")
    with self.assertRaisesRegex(ValueError, "num_axes=4 is unknown"):
      transforms.matrix(np.zeros(4), "affine", num_axes=4)
    with self.assertRaisesRegex(ValueError, r"params.*\[..., 12\]"):
      transforms.matrix(np.zeros(6), "affine", num_axes=3)


if __name__ == "__main__":
  absltest.main()
