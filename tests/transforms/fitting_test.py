"""Transforms fitted to points: against NumPy, OpenCV and scikit-image."""

import functools

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import skimage.transform

import stnjax
from stnjax import transforms
from tests.sampling import compiled

FAMILIES = ("rigid", "similarity", "affine", "projective")
QUICK = (("rigid", 3), ("similarity", 2), ("affine", 2), ("projective", 2))
SLOW = (("rigid", 2), ("similarity", 3), ("affine", 3), ("projective", 3))
fit = compiled.from_points


@functools.partial(jax.jit, static_argnames="family")
def jacobian(source, target, weights, family):
  return jax.jacrev(
    lambda s, t, w: transforms.from_points(s, t, family, weights=w), (0, 1, 2)
  )(source, target, weights)


def noisy_points(num_axes=2, count=9, size=100.0, noise=0.02, seed=0):
  """Points, and what a transform and noise make of them."""
  rng = np.random.default_rng(seed)
  source = rng.uniform(0, 1, (count, num_axes))
  linear = np.linalg.qr(rng.normal(size=(num_axes, num_axes)))[0]
  linear *= np.linalg.det(linear) * 1.3
  target = source @ linear.T + rng.normal(size=num_axes)
  target += noise * rng.normal(size=target.shape)
  return size * source, size * target


def mapped(matrix, points):
  """A matrix applied to points, one by one."""
  out = []
  for point in np.asarray(points):
    image = np.asarray(matrix, np.float64) @ [*point, 1.0]
    if len(image) > len(point):
      image = image[:-1] / image[-1]
    out.append(image)
  return np.array(out)


def homography_points(count=8, noise=0.0, seed=0):
  source = np.random.default_rng(seed).uniform(0, 60, (count, 2))
  matrix = np.array([[1.1, 0.2, 5], [-0.1, 0.9, -7], [1e-3, -2e-3, 1]])
  target = mapped(matrix, source)
  rng = np.random.default_rng(seed + 1)
  return matrix, source, target + noise * rng.normal(size=target.shape)


@pytest.mark.usefixtures("x64")
class ParityTest(parameterized.TestCase):
  @parameterized.product(
    family=("rigid", "similarity", "affine"), num_axes=(2, 3)
  )
  def test_no_other_member_of_the_family_is_closer(self, family, num_axes):
    source, target = noisy_points(num_axes, size=1.0, noise=0.1)
    weights = np.random.default_rng(2).uniform(0.2, 2, len(source))
    matrix = np.asarray(fit(source, target, family, weights=weights))
    if family == "affine":
      root = np.sqrt(weights)[:, None]
      columns = np.concatenate([source, np.ones_like(source[:, :1])], 1)
      expected = np.linalg.lstsq(root * columns, root * target)[0].T
      np.testing.assert_allclose(matrix, expected, atol=1e-12)
      return
    linear = matrix[:, :-1]
    scale = np.linalg.det(linear) ** (1 / num_axes)
    np.testing.assert_allclose(
      linear.T @ linear, scale**2 * np.eye(num_axes), atol=1e-12
    )

    def error(candidate):
      rest = mapped(candidate, source) - target
      return (weights[:, None] * rest**2).sum()

    if family == "rigid":
      self.assertAlmostEqual(scale, 1)
    rng = np.random.default_rng(3)
    for _ in range(50):
      spin = 1e-3 * rng.normal(size=(num_axes, num_axes))
      change = np.linalg.qr(np.eye(num_axes) + spin - spin.T)[0]
      change *= np.sign(np.diag(change))
      if family == "similarity":
        change = change * (1 + 1e-3 * rng.normal())
      moved = np.concatenate(
        [
          change @ linear,
          matrix[:, -1:] + 1e-3 * rng.normal(size=(num_axes, 1)),
        ],
        1,
      )
      self.assertLess(error(matrix), error(moved))

  def test_affine_is_that_of_opencv(self):
    source, target = noisy_points()
    expected, _ = cv2.estimateAffine2D(
      source, target, ransacReprojThreshold=1e6, refineIters=100
    )
    np.testing.assert_allclose(
      fit(source, target, "affine"), expected, atol=1e-5
    )
    three = source[:3].astype(np.float32), target[:3].astype(np.float32)
    np.testing.assert_allclose(
      fit(*three, "affine"), cv2.getAffineTransform(*three), rtol=1e-5
    )

  def test_similarity_is_that_of_opencv_and_skimage(self):
    source, target = noisy_points()
    expected, _ = cv2.estimateAffinePartial2D(
      source, target, ransacReprojThreshold=1e6, refineIters=100
    )
    ours = fit(source, target, "similarity")
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    for family, name in (("similarity", "similarity"), ("rigid", "euclidean")):
      expected = skimage.transform.estimate_transform(name, source, target)
      np.testing.assert_allclose(
        fit(source, target, family), expected.params[:2], atol=1e-10
      )

  @parameterized.parameters("similarity", "euclidean")
  def test_volumes_are_those_of_skimage(self, name):
    source, target = noisy_points(3)
    kinds = {
      "similarity": skimage.transform.SimilarityTransform,
      "euclidean": skimage.transform.EuclideanTransform,
    }
    expected = kinds[name].from_estimate(source, target).params[:3]
    family = {"euclidean": "rigid"}.get(name, name)
    np.testing.assert_allclose(
      fit(source, target, family), expected, atol=1e-10
    )

  @parameterized.parameters((8, 0.3), (4, 0.0))
  def test_homography_is_that_of_skimage(self, count, noise):
    _, source, target = homography_points(count, noise)
    expected = skimage.transform.estimate_transform(
      "projective", source, target
    )
    np.testing.assert_allclose(
      fit(source, target, "projective"),
      expected.params / expected.params[2, 2],
      atol=1e-9,
    )

  def test_homography_is_that_of_opencv(self):
    matrix, source, target = homography_points()
    ours = fit(source, target, "projective")
    np.testing.assert_allclose(ours, matrix, atol=1e-9)
    np.testing.assert_allclose(
      ours, cv2.findHomography(source, target, 0)[0], atol=1e-5
    )
    # With noise OpenCV goes on to the least geometric error.
    _, source, target = homography_points(20, noise=0.1)
    expected = cv2.findHomography(source, target, 0)[0]
    np.testing.assert_allclose(
      mapped(fit(source, target, "projective"), source),
      mapped(expected, source),
      atol=0.05,
    )

  def test_homography_of_volumes(self):
    rng = np.random.default_rng(0)
    matrix = np.eye(4) + 0.1 * rng.normal(size=(4, 4))
    matrix[3, 3] = 1
    source = rng.uniform(-1, 1, (6, 3))
    np.testing.assert_allclose(
      fit(source, mapped(matrix, source), "projective"), matrix, atol=1e-9
    )

  @parameterized.parameters(*FAMILIES)
  def test_weights_are_repeated_points(self, family):
    source, target = noisy_points(count=6)
    weights = np.array([1.0, 2, 1, 1, 3, 0])
    times = weights.astype(int)
    ours = fit(
      np.where(weights[:, None] > 0, source, np.nan),
      target,
      family,
      weights=7 * weights,
    )
    expected = fit(
      np.repeat(source, times, axis=0), np.repeat(target, times, axis=0), family
    )
    np.testing.assert_allclose(ours, expected, rtol=1e-8, atol=1e-10)

  @parameterized.product(family=FAMILIES, num_axes=(2, 3))
  def test_batches_are_loops(self, family, num_axes):
    pairs = [noisy_points(num_axes, seed=seed) for seed in range(3)]
    source, target = (np.stack(points) for points in zip(*pairs, strict=True))
    ours = fit(source[:, None], target[0], family)
    self.assertEqual(ours.shape[:2], (3, 1))
    for index in range(3):
      np.testing.assert_allclose(
        ours[index, 0], fit(source[index], target[0], family), rtol=1e-8
      )


class UseTest(parameterized.TestCase):
  """In single precision, and with `warp`."""

  @parameterized.product(family=FAMILIES, num_axes=(2, 3))
  def test_single_precision(self, family, num_axes):
    source, target = noisy_points(num_axes)
    with jax.enable_x64(True):
      expected = fit(source, target, family)
    ours = fit(source.astype(np.float32), target.astype(np.float32), family)
    self.assertEqual(ours.dtype, jnp.float32)
    np.testing.assert_allclose(
      mapped(ours, source), mapped(expected, source), atol=2e-3
    )

  def test_thin_points_in_single_precision(self):
    rng = np.random.default_rng(0)
    source = rng.uniform(-1, 1, (20, 2)) * [1, 1e-3] @ [[0.6, 0.8], [-0.8, 0.6]]
    matrix = np.array([[1, 0.5, 2], [0.3, 1, -1]])
    ours = fit(
      source.astype(np.float32),
      mapped(matrix, source).astype(np.float32),
      "affine",
    )
    np.testing.assert_allclose(ours, matrix, atol=2e-3)

  @pytest.mark.slow
  def test_convention_for_warp(self):
    image = np.zeros((20, 30, 1), np.float32)
    image[4, 7], image[9, 20], image[15, 11] = 1, 2, 3
    places = np.array([[7.0, 4], [20, 9], [11, 15]])
    wanted = np.array([[5.0, 3], [12, 2], [6, 10]])
    theta = transforms.from_pixels(
      transforms.from_points(wanted, places, "affine"), (20, 30), (12, 16)
    )
    shown = stnjax.warp(image, theta, output_shape=(12, 16))
    for (x, y), value in zip(wanted.astype(int), (1, 2, 3), strict=True):
      self.assertAlmostEqual(float(shown[y, x, 0]), value, delta=1e-4)
    pushed = transforms.from_opencv(
      transforms.from_points(places, wanted, "affine"), (20, 30), (12, 16)
    )
    np.testing.assert_allclose(pushed, theta, atol=1e-5)


@pytest.mark.usefixtures("x64")
class GradientTest(parameterized.TestCase):
  @parameterized.parameters(*QUICK)
  @pytest.mark.slow
  def test_against_differences(self, family, num_axes):
    self.check_differences(family, num_axes)

  @parameterized.parameters(*SLOW)
  @pytest.mark.slow
  def test_other_families_against_differences(self, family, num_axes):
    self.check_differences(family, num_axes)

  def check_differences(self, family, num_axes):
    source, target = noisy_points(num_axes, count=7, size=1.0, noise=0.1)
    weights = np.random.default_rng(1).uniform(0.5, 1.5, 7)
    check_grads(
      jax.jit(lambda s, t, w: transforms.from_points(s, t, family, weights=w)),
      (source, target, weights),
      1,
      ("fwd", "rev"),
      atol=1e-4,
      rtol=1e-4,
    )

  @parameterized.parameters(*QUICK)
  @pytest.mark.slow
  def test_of_symmetric_points(self, family, num_axes):
    self.check_symmetric_points(family, num_axes)

  @parameterized.parameters(*SLOW)
  @pytest.mark.slow
  def test_of_symmetric_points_of_other_families(self, family, num_axes):
    self.check_symmetric_points(family, num_axes)

  def check_symmetric_points(self, family, num_axes):
    # A cube: all singular values of the moments coincide, and residuals are 0.
    cube = np.stack(np.meshgrid(*[[-1.0, 1]] * num_axes), -1)
    cube = cube.reshape(-1, num_axes)
    check_grads(
      jax.jit(lambda s, t: transforms.from_points(s, t, family)),
      (cube, cube),
      1,
      ("fwd", "rev"),
      atol=1e-4,
      rtol=1e-4,
    )

  @parameterized.parameters(*QUICK)
  @pytest.mark.slow
  def test_undetermined_points_are_nan_with_zero_gradient(
    self, family, num_axes
  ):
    self.check_undetermined(family, num_axes)

  @parameterized.parameters(*SLOW)
  @pytest.mark.slow
  def test_undetermined_points_of_other_families(self, family, num_axes):
    self.check_undetermined(family, num_axes)

  def check_undetermined(self, family, num_axes):
    count = num_axes + 2
    line = np.arange(float(count))[:, None] * np.ones(num_axes)
    cases = [np.ones((count, num_axes)), 0.1 * np.ones((count, num_axes))]
    if family in ("affine", "projective") or num_axes == 3:
      cases.append(line)
    ones = np.ones(count)
    for points in cases:
      np.testing.assert_array_equal(fit(points, points, family), np.nan)
      for slope in jacobian(points, points, ones, family):
        np.testing.assert_array_equal(slope, 0)
    rng = np.random.default_rng(0)
    points = rng.normal(size=(count, num_axes))
    nothing = fit(points, points, family, weights=0 * ones)
    np.testing.assert_array_equal(nothing, np.nan)
    for slope in jacobian(points, points, 0 * ones, family):
      np.testing.assert_array_equal(slope, 0)

  @pytest.mark.slow
  def test_three_of_four_points_of_a_homography_on_a_line(self):
    line = np.array([[0.0, 0], [1, 1], [2, 2], [0, 3]])
    other = np.array([[0.0, 0], [1.5, 1], [3, 2], [5, 1]])
    square = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    np.testing.assert_array_equal(fit(line, other, "projective"), np.nan)
    for pair in ((line, square), (square, line)):
      matrix = fit(*pair, "projective")
      self.assertLess(np.linalg.svd(matrix)[1][-1], 1e-12)
      for slope in jacobian(*pair, np.ones(4), "projective"):
        self.assertTrue(np.isfinite(slope).all())

  @parameterized.parameters(*FAMILIES)
  @pytest.mark.slow
  def test_of_a_weight_of_zero(self, family):
    source, target = noisy_points(count=7, size=1.0, noise=0.1)
    weights = np.array([0.0, 1, 2, 1, 1, 1, 1])
    step = np.array([1e-6, *[0] * 6])
    ends = [
      np.asarray(fit(source, target, family, weights=weights + times * step))
      for times in (0, 1, 2)
    ]
    expected = (4 * ends[1] - ends[2] - 3 * ends[0]) / 2e-6
    self.assertGreater(np.abs(expected).max(), 1e-3)
    np.testing.assert_allclose(
      jacobian(source, target, weights, family)[2][..., 0], expected, atol=1e-6
    )


class ErrorTest(parameterized.TestCase):
  points = np.zeros((4, 2))

  @parameterized.parameters(
    (dict(source=np.zeros(2)), r"source must be \[..., K, 2\]"),
    (dict(target=np.zeros((4, 4))), r"target must be \[..., K, 2\]"),
    (dict(target=np.zeros((3, 2))), "the same number of points"),
    (dict(target=np.zeros((4, 3))), "the same number of points"),
    (
      dict(family="euclidean"),
      "family='euclidean' is unknown; accepted: 'rigid",
    ),
    (
      dict(source=np.zeros((3, 2)), target=np.zeros((3, 2))),
      "at least 4 points",
    ),
    (dict(weights=np.ones(3)), r"weights must be \[..., 4\]"),
    (dict(weights=np.ones((2, 4)), source=np.zeros((3, 4, 2))), "weights and"),
    (dict(source=np.zeros((2, 4, 2)), target=np.zeros((3, 4, 2))), "broadcast"),
  )
  def test_wrong_arguments_are_named(self, arguments, message):
    call = dict(source=self.points, target=self.points, family="projective")
    with self.assertRaisesRegex(ValueError, message):
      transforms.from_points(**{**call, **arguments})

  @parameterized.parameters("source", "target", "weights")
  def test_wrong_types_are_named(self, name):
    call = dict(source=self.points, target=self.points, family="affine")
    shape = 4 if name == "weights" else (4, 2)
    call[name] = np.zeros(shape, complex)
    with self.assertRaisesRegex(TypeError, f"{name} must hold real"):
      transforms.from_points(**call)


if __name__ == "__main__":
  absltest.main()
