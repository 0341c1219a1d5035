"""Random transforms: ranges, independence of the batch, and moved points."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import augmentation, transforms
from tests.sampling import compiled

SHAPE = (24, 36)
KEYS = jax.random.split(jax.random.key(0), 500)
AFFINE = dict(
  rotation=0.4, scale=(0.5, 1.5), shear=0.3, translation=0.1, mirror=True
)
DRAWS = {
  "affine": functools.partial(
    augmentation.random_affine, input_shape=SHAPE, **AFFINE
  ),
  "perspective": functools.partial(
    augmentation.random_perspective, displacement=0.3
  ),
  "crop": functools.partial(
    augmentation.random_crop, input_shape=SHAPE, area=(0.3, 1.0)
  ),
  "elastic": functools.partial(
    augmentation.random_elastic,
    input_shape=SHAPE,
    magnitude=1.5,
    smoothness=6.0,
  ),
}


@functools.lru_cache
def drawn(name):
  return jax.jit(DRAWS[name])(KEYS)


def blobs(points):
  """Images `[K, *SHAPE, 1]`, each bright around a point (x, y)."""
  y, x = np.indices(SHAPE)
  apart = (x - points[:, 0, None, None]) ** 2 + (
    y - points[:, 1, None, None]
  ) ** 2
  return np.exp(-apart / 8)[..., None].astype(np.float32)


class AugmentationTest(parameterized.TestCase):
  @parameterized.parameters(*DRAWS)
  @pytest.mark.slow
  def test_a_draw_depends_on_its_key_alone(self, name):
    one = jax.jit(DRAWS[name])(KEYS[7])
    np.testing.assert_allclose(one, drawn(name)[7], atol=1e-5)
    two_axes = jax.jit(DRAWS[name])(KEYS[:6].reshape(2, 3))
    np.testing.assert_allclose(
      two_axes.reshape(6, *one.shape), drawn(name)[:6], atol=1e-5
    )

  def test_affine_transforms_are_in_range(self):
    size = np.array(SHAPE[::-1])
    matrices = np.asarray(
      compiled.to_pixels(drawn("affine"), SHAPE), np.float64
    )
    middle = (size - 1) / 2
    shifts = matrices[..., :2] @ middle + matrices[..., 2] - middle
    linear = matrices[..., :2].copy()
    mirrored = np.linalg.det(linear) < 0
    self.assertBetween(mirrored.mean(), 0.4, 0.6)
    linear[mirrored, :, 0] *= -1
    angle = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
    scale = 1 / np.hypot(linear[:, 0, 0], linear[:, 1, 0])
    across = np.cos(angle) * linear[:, 0, 1] + np.sin(angle) * linear[:, 1, 1]
    for values, low, high in (
      (angle, -0.4, 0.4),
      (np.log(scale), np.log(0.5), np.log(1.5)),
      (across * scale, -0.3, 0.3),
      (shifts[:, 0] / size[0], -0.1, 0.1),
      (shifts[:, 1] / size[1], -0.1, 0.1),
    ):
      self.check_uniform(values, low, high)
    np.testing.assert_allclose(
      np.abs(np.linalg.det(linear)), scale**-2, rtol=1e-4
    )

  def check_uniform(self, values, low, high):
    width = high - low
    self.assertGreaterEqual(values.min(), low - 1e-4)
    self.assertLessEqual(values.max(), high + 1e-4)
    quarters = np.quantile(values, [0.25, 0.5, 0.75])
    expected = low + width * np.array([0.25, 0.5, 0.75])
    np.testing.assert_allclose(quarters, expected, atol=0.1 * width)

  @pytest.mark.slow
  def test_defaults_are_the_identity(self):
    np.testing.assert_allclose(
      augmentation.random_affine(KEYS[0], SHAPE),
      transforms.identity(),
      atol=1e-6,
    )

  def test_corners_move_by_the_displacement_at_most(self):
    corners = np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])
    moved = compiled.apply_to_points(drawn("perspective"), corners, pull=True)
    for axis in range(2):
      self.check_uniform(np.ravel((moved - corners)[..., axis]), -0.3, 0.3)

  def test_crops_have_the_area_and_aspect(self):
    draw = functools.partial(
      augmentation.random_crop,
      input_shape=SHAPE,
      area=(0.1, 0.4),
      aspect=(0.8, 1.25),
    )
    matrices = np.asarray(jax.jit(draw)(KEYS))
    np.testing.assert_array_equal(matrices[:, [0, 1], [1, 0]], 0)
    x, y = matrices[:, 0, 0], matrices[:, 1, 1]
    self.check_uniform(x * y, 0.1, 0.4)
    aspect = x * SHAPE[1] / (y * SHAPE[0])
    self.check_uniform(np.log(aspect), np.log(0.8), np.log(1.25))
    for share, middle in ((x, matrices[:, 0, 2]), (y, matrices[:, 1, 2])):
      self.check_uniform(middle / (1 - share), -1, 1)

  def test_elastic_fields_have_magnitude_and_smoothness(self):
    fields = np.asarray(drawn("elastic"))
    deviations = fields.std(axis=0)
    np.testing.assert_allclose(deviations, 1.5, rtol=0.2)
    slopes = (fields[:, :, 1:] - fields[:, :, :-1])[:, 6:-6, 6:-6]
    self.assertAlmostEqual(
      float(slopes.std()), 1.5 / (np.sqrt(2) * 6), delta=0.01
    )
    self.assertLess(abs(float(fields.mean())), 0.1)

  @parameterized.parameters("affine", "perspective", "crop")
  @pytest.mark.slow
  def test_points_move_with_the_image(self, name):
    rng = np.random.default_rng(0)
    points = rng.uniform([12, 8], [24, 16], (20, 2)).astype(np.float32)
    theta = drawn(name)[:20]
    images = compiled.warp(blobs(points), theta)[..., 0]
    moved = compiled.apply_to_points(theta, points[:, None], input_shape=SHAPE)[
      :, 0
    ]
    y, x = np.indices(SHAPE)
    seen = 0
    for image, (column, row) in zip(np.asarray(images), np.asarray(moved)):
      if not (6 < column < SHAPE[1] - 7 and 6 < row < SHAPE[0] - 7):
        continue
      brightest = np.unravel_index(image.argmax(), SHAPE)
      self.assertLess(np.hypot(brightest[0] - row, brightest[1] - column), 1.5)
      seen += 1
    self.assertGreater(seen, 5)

  def test_bytes_and_labels_stay_what_they_are(self):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, *SHAPE, 3), np.uint8)
    labels = rng.integers(0, 5, (4, *SHAPE, 1), np.uint8)
    theta = drawn("affine")[:4]
    moved = compiled.warp(images, theta, padding="border")
    self.assertEqual(moved.dtype, np.uint8)
    moved = compiled.warp(labels, theta, method="nearest", padding="border")
    self.assertEqual(moved.dtype, np.uint8)
    self.assertLess(int(moved.max()), 5)

  @parameterized.parameters(
    ("affine", dict(rotation=-1), "rotation must be at least 0, got -1"),
    ("affine", dict(scale=(0, 1)), r"scale must be above 0, in order"),
    ("affine", dict(scale=(2, 1)), r"scale must be above 0, in order"),
    ("affine", dict(input_shape=(3, 4, 5)), r"input_shape must be \(H, W\)"),
    ("perspective", dict(displacement=0.5), "displacement must be .*below 0.5"),
    ("crop", dict(area=(0.5, 2.0)), "area must be .*at most 1"),
    ("crop", dict(aspect=(0.0, 2.0)), "aspect must be above 0"),
    ("elastic", dict(smoothness=0), "smoothness must be above 0"),
    ("elastic", dict(magnitude=-1), "magnitude must be at least 0"),
  )
  def test_wrong_arguments_are_named(self, name, arguments, message):
    with self.assertRaisesRegex(ValueError, message):
      DRAWS[name](KEYS[0], **arguments)

  @parameterized.product(
    name=tuple(DRAWS), key=(3, np.zeros(2, np.uint32), jnp.zeros(2))
  )
  def test_wrong_keys_are_named(self, name, key):
    with self.assertRaisesRegex(TypeError, "key must be a jax.random.key"):
      DRAWS[name](key)


if __name__ == "__main__":
  absltest.main()
