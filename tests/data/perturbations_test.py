"""Building blocks, and perturbations and axes of one's own."""

import dataclasses
import functools
from unittest import mock
import warnings

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import data, transforms
from stnjax.data import perturbations
from stnjax.registry import Registry


def keys(count, seed=0):
  return jax.random.split(jax.random.key(seed), count)


def darken(key, image):
  """A perturbation whose truth is neither a rotation, shift nor scale."""
  stops = jax.random.uniform(key, (), jnp.float32, 0.0, 3.0)
  return image * 2**-stops, {"stops": stops}


EXPOSURE = data.Axis(
  name="exposure",
  unit="stops",
  true=lambda truth: -np.asarray(truth["stops"], np.float64),
  predicted=lambda poses, shape: np.zeros(len(poses)),
)
DARK = data.Perturbation(name="dark", draw=darken, axes=(EXPOSURE,))


class OwnPerturbationTest(absltest.TestCase):
  def test_by_object_and_by_name(self):
    images = np.random.default_rng(0).random((5, 4, 3, 2), np.float32)
    found, truth = data.perturb(keys(5), images, DARK)
    for image, dark, stops in zip(images, found, truth["stops"], strict=True):
      np.testing.assert_allclose(dark, image / 2.0**stops, rtol=1e-6)
    self.assertEqual(data.output_shape(DARK, (4, 3, 2)), (4, 3, 2))
    registry = Registry("perturbation")
    registry.register("dark", DARK)
    with mock.patch.object(perturbations, "PERTURBATIONS", registry):
      again, _ = jax.jit(data.perturb, static_argnums=2)(
        keys(5), images, "dark"
      )
    np.testing.assert_allclose(again, found, rtol=1e-6)

  def test_its_own_axis_measures_its_own_truth(self):
    _, truth = data.perturb(keys(9), jnp.zeros((9, 2, 2, 1)), DARK)
    (axis,) = DARK.axes
    np.testing.assert_allclose(axis.true(truth), -truth["stops"])
    self.assertIsNone(axis.period)

  @pytest.mark.slow
  def test_clutter_is_passed_on(self):
    def overlay(key, image, clutter_images):
      chosen = jax.random.randint(key, (), 0, len(clutter_images))
      return image + clutter_images[chosen] / 255, {"chosen": chosen}

    mixed = data.Perturbation(name="mixed", draw=overlay, needs_clutter=True)
    others = np.arange(4, dtype=np.uint8)[:, None, None, None] * 50
    images = np.zeros((6, 1, 1, 1), np.float32)
    found, truth = data.perturb(keys(6), images, mixed, others)
    expected = np.asarray(truth["chosen"]) * 50 / 255
    np.testing.assert_allclose(found.ravel(), expected, rtol=1e-6)
    with self.assertRaisesRegex(ValueError, "clutter_images must.*'mixed'"):
      data.perturb(keys(6), images, mixed)

  def test_output_shape_must_be_that_of_the_images(self):
    def crop(key, image):
      return image[1:-1, 1:-1], {}

    images = jnp.zeros((2, 6, 5, 1))
    wrong = data.Perturbation(name="crop", draw=crop)
    with self.assertRaisesRegex(
      ValueError, r"'crop'.*\(4, 3, 1\); its output_shape is \(6, 5, 1\)"
    ):
      data.perturb(keys(2), images, wrong)
    right = data.Perturbation(
      name="crop",
      draw=crop,
      output_shape=lambda shape: (shape[0] - 2, shape[1] - 2, shape[2]),
    )
    found, _ = data.perturb(keys(2), images, right)
    self.assertEqual(found.shape[1:], data.output_shape(right, (6, 5, 1)))


def along(true=lambda truth: truth["shift"], **fields):
  """An axis of shifts to the right."""
  fields = {"predicted": lambda poses, shape: poses[:, 0, 2]} | fields
  return data.Axis(name="shift", unit="px", true=true, **fields)


def raising(*_):
  raise RuntimeError("a bug")


class CheckTest(parameterized.TestCase):
  def perturbation(self, *axes, truth=None, draw=None):
    truth = {"shift": jnp.ones(())} if truth is None else truth
    draw = draw or (lambda key, image: (image, truth))
    return data.Perturbation(name="push", draw=draw, axes=axes)

  @pytest.mark.slow
  def test_the_built_in_ones_pass(self):
    for name in data.PERTURBATIONS:
      data.check_perturbation(data.PERTURBATIONS[name], (28, 28, 1))
    data.check_perturbation(self.perturbation(along()), (9, 8, 3))

  @parameterized.parameters(
    (along(lambda truth: truth["turn"]), "true raised KeyError.*has shift"),
    (along(raising), "true raised RuntimeError: a bug"),
    (along(predicted=raising), "predicted raised RuntimeError: a bug"),
    (along(lambda truth: 0.0), r"true must .*\[N\], got .* for N = 2"),
    (along(predicted=lambda p, s: p), "predicted must return a number"),
  )
  def test_axes_that_do_not_measure(self, axis, message):
    with self.assertRaisesRegex(ValueError, f"'push', axis 'shift': {message}"):
      data.check_perturbation(self.perturbation(axis), (9, 8, 3))

  def test_names_of_axes_differ(self):
    with self.assertRaisesRegex(ValueError, "must differ, got shift, shift"):
      data.check_perturbation(self.perturbation(along(), along()), (9, 8, 3))

  def test_axes_of_the_authors_measure_one_or_several_numbers(self):
    both = along(lambda t: np.zeros((2, 3)), predicted=lambda p, s: p[:, 1])
    for axis in (along(), both):
      perturbation = dataclasses.replace(
        self.perturbation(along()), authors_axes=(axis,)
      )
      data.check_perturbation(perturbation, (9, 8, 3))
    for axes, message in (
      ((along(), both), "names of authors_axes must differ"),
      ((along(lambda truth: 0.0),), r"\[N\], or D numbers, \[N, D\], got"),
      ((along(lambda truth: np.zeros((2, 3))),), "must return the same shape"),
      ((along(predicted=raising),), "predicted raised RuntimeError: a bug"),
    ):
      perturbation = dataclasses.replace(self.perturbation(), authors_axes=axes)
      with self.assertRaisesRegex(ValueError, f"'push'.*{message}"):
        data.check_perturbation(perturbation, (9, 8, 3))

  @parameterized.parameters(
    lambda key, image: image,
    lambda key, image: (image, image),
    lambda key, image: (image, {}, {}),
  )
  def test_a_draw_returns_an_image_and_a_dict(self, draw):
    with self.assertRaisesRegex(ValueError, "'push' must draw .* a dict"):
      data.check_perturbation(self.perturbation(draw=draw), (9, 8, 3))


def drawn(count, draw, image, **options):
  """Images and truths of as many keys."""
  function = functools.partial(draw, **options)
  return jax.jit(jax.vmap(function, (0, None)))(keys(count), image)


cluttered = jax.jit(data.clutter, static_argnames="crop")


class BuildingBlockTest(parameterized.TestCase):
  @parameterized.parameters(0, 3)
  def test_translation_is_a_shift_on_a_larger_image(self, margin):
    image = np.random.default_rng(0).random((5, 4, 2), np.float32)
    found, truth = drawn(40, data.translate, image, margin=margin)
    shifts = np.asarray(truth["translation"], int)
    self.assertEqual(np.abs(shifts).max(), margin)
    padded = np.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    for shifted, (x, y) in zip(found, shifts, strict=True):
      np.testing.assert_array_equal(shifted, np.roll(padded, (y, x), (0, 1)))

  def test_scale_within_bounds(self):
    image = np.zeros((8, 8, 1), np.float32)
    image[2:6, 2:6] = 1
    found, truth = drawn(
      200, data.scale, image, margin=4, min_octaves=-0.5, max_octaves=0.5
    )
    self.assertEqual(found.shape, (200, 16, 16, 1))
    octaves = np.asarray(truth["scale"])
    self.assertBetween(octaves.min(), -0.5, -0.45)
    self.assertBetween(octaves.max(), 0.45, 0.5)
    areas = np.asarray(found).sum((1, 2, 3))
    np.testing.assert_allclose(areas, 16 * 4.0**octaves, rtol=0.1)

  def test_rotation_within_bounds(self):
    image = jnp.zeros((4, 4, 1))
    _, truth = drawn(500, data.rotate, image, max_degrees=20)
    degrees = np.degrees(truth["rotation"])
    self.assertBetween(np.abs(degrees).max(), 19, 20.001)

  @pytest.mark.slow
  def test_clutter_is_where_it_is_told(self):
    bright = np.full((2, 9, 9, 1), 51, np.uint8)
    found = cluttered(
      keys(1)[0],
      jnp.zeros((20, 30, 1)),
      bright,
      [[3, 20], [0, 0], [-2, 27], [1, 1]],
      [7, 2, 4, 2],
      crop=3,
    )
    expected = np.zeros((20, 30))
    expected[3:10, 20:27] = 0.2
    expected[:2, :2] += 0.2
    expected[:2, 27:] += 0.2  # the rest is outside
    expected[1:3, 1:3] += 0.2
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-6)

  @parameterized.parameters(1, 2, 3, 5, 6, 7, 18)
  def test_clutter_is_resized_as_by_torch(self, size):
    torch = pytest.importorskip("torch")
    source = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 1), np.uint8)
    found = cluttered(
      keys(1)[0], jnp.zeros((25, 22, 1)), source, [[4, 2]], [size]
    )
    crop = torch.from_numpy(source[0, ..., 0] / np.float32(255))[None, None]
    expected = torch.nn.functional.interpolate(
      crop, size=(size, size), mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(
      found[4 : 4 + size, 2 : 2 + size, 0], expected[0, 0], atol=1e-6
    )
    self.assertAlmostEqual(
      float(found.sum()), float(expected.sum()), delta=1e-3
    )

  def test_margin_grows_each_side(self):
    shape = perturbations.with_margin(3)((5, 6, 1))
    self.assertEqual(shape, (11, 12, 1))


class RegistryTest(absltest.TestCase):
  def test_none_changes_nothing(self):
    images = np.random.default_rng(0).random((2, 5, 5, 1), np.float32)
    found, truth = data.perturb(keys(2), images, "none")
    np.testing.assert_array_equal(found, images)
    self.assertEqual(truth, {})

  def test_unknown_name(self):
    for call in (
      lambda: data.perturb(keys(1), jnp.zeros((1, 4, 4, 1)), "shift"),
      lambda: data.output_shape("shift", (28, 28, 1)),
    ):
      with self.assertRaisesRegex(ValueError, "perturbation='shift'.*none"):
        call()


class AxisTest(absltest.TestCase):
  def test_truth_in_the_units_of_the_axes(self):
    truth = {
      "rotation": np.array([0, np.pi / 2], np.float32),
      "translation": np.array([[1, 2], [3, 4]], np.float32),
      "scale": np.array([-1, 2], np.float32),
    }
    for axis, unit, expected in (
      (data.ROTATION, "deg", [0, 90]),
      (data.TRANSLATION_X, "px", [1, 3]),
      (data.TRANSLATION_Y, "px", [2, 4]),
      (data.SCALE_X, "octaves", [-1, 2]),
      (data.SCALE_Y, "octaves", [-1, 2]),
    ):
      self.assertEqual(axis.unit, unit)
      np.testing.assert_allclose(axis.true(truth), expected, atol=1e-5)
    both = {"scale": np.array([[-1, 1], [2, 3]])}
    np.testing.assert_array_equal(data.SCALE_Y.true(both), [1, 3])

  def test_only_angles_are_periodic(self):
    self.assertEqual(data.ROTATION.period, 360)
    for axis in (data.TRANSLATION_X, data.SCALE_Y):
      self.assertIsNone(axis.period)

  def test_predicted_is_a_part_of_the_object_s_motion(self):
    theta = np.random.default_rng(0).normal(0, 0.3, (7, 2, 3)) + np.eye(2, 3)
    motion = data.object_motion(theta, (40, 60, 1))
    self.assertLen(motion, 5)
    for axis in (
      *(data.ROTATION, data.TRANSLATION_X, data.TRANSLATION_Y),
      *(data.SCALE_X, data.SCALE_Y),
    ):
      np.testing.assert_array_equal(
        axis.predicted(theta, (40, 60, 1)), motion[axis.name]
      )

  @pytest.mark.slow
  def test_a_transformer_that_undoes_a_perturbation(self):
    images = jnp.zeros((50, 4, 4, 1))
    turned = data.Perturbation(name="turned", draw=data.rotate)
    perturb = jax.jit(data.perturb, static_argnums=2)
    truth = perturb(keys(50), images, turned)[1]
    theta = transforms.rotation(truth["rotation"])
    found = data.ROTATION.predicted(np.asarray(theta), (4, 4))
    np.testing.assert_allclose(found, -data.ROTATION.true(truth), atol=1e-3)


SHAPE = (40, 60, 1)  # 20 and 30 pixels are a unit of theta


class ObjectMotionTest(parameterized.TestCase):
  def test_every_axis_of_a_pose_made_by_hand(self):
    """The object shifts, shrinks and stretches, then turns."""
    turn = np.radians(30)
    # By 6 pixels right and 5 up, twice as wide, half as high, 30 degrees
    # clockwise, which in coordinates whose y points down is anticlockwise's
    # matrix; theta is the inverse, written out.
    shift = np.array([[1, 0, 6 / 30], [0, 1, -5 / 20], [0, 0, 1]])
    scale = np.diag([2, 0.5, 1])
    cos, sin = np.cos(turn), np.sin(turn)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    theta = np.linalg.inv(rotation @ scale @ shift)
    for pose in (theta[:2], -1.5 * theta):
      found = data.object_motion(np.stack([pose] * 2), SHAPE)
      expected = {
        "rotation": 30,
        "translation_x": 6,
        "translation_y": -5,
        "scale_x": 1,
        "scale_y": -1,
      }
      self.assertEqual(set(found), set(expected))
      for axis, value in expected.items():
        np.testing.assert_allclose(
          found[axis], [value] * 2, atol=1e-3, err_msg=axis
        )

  def test_rotation_is_read_from_poses_of_other_parts(self):
    angles = np.linspace(-3, 3, 7)
    theta = transforms.compose(
      transforms.rotation(-angles),
      transforms.translation(jnp.array([0.3, 0.1])),
      transforms.scaling(jnp.array([0.8, 0.8])),
    )
    projective = 2.5 * np.asarray(transforms.to_homogeneous(theta))
    for poses in (theta, projective):
      found = data.object_motion(poses, SHAPE)["rotation"]
      np.testing.assert_allclose(found, np.degrees(angles), atol=1e-3)

  def test_projective_pose_is_its_slope_at_the_centre(self):
    matrix = np.array([[0.9, -0.3, 0.2], [0.4, 1.1, -0.1], [0.2, -0.3, 1.0]])

    def apply(x, y):
      u, v, w = matrix @ [x, y, 1]
      return np.array([u / w, v / w])

    h = 1e-6
    columns = [
      (apply(h, 0) - apply(-h, 0)) / (2 * h),
      (apply(0, h) - apply(0, -h)) / (2 * h),
    ]
    numeric = np.column_stack([*columns, apply(0, 0)])
    found = data.object_motion(matrix, SHAPE)
    for axis, expected in data.object_motion(numeric, SHAPE).items():
      np.testing.assert_allclose(found[axis], expected, atol=1e-3)

  def test_a_mirrored_pose_has_the_size_of_its_scale(self):
    found = data.object_motion(np.array([[0.5, 0, 0], [0, -0.25, 0]]), SHAPE)
    self.assertAlmostEqual(float(found["scale_x"]), 1, places=4)
    self.assertAlmostEqual(float(found["scale_y"]), 2, places=4)

  def test_a_pose_that_is_no_pose_is_not_perfect(self):
    for pose in (np.full((2, 3), np.nan), np.zeros((2, 3))):
      poses = np.stack([np.eye(2, 3), pose])
      for axis, values in data.object_motion(poses, SHAPE).items():
        self.assertEqual(values[0], 0, axis)
        self.assertTrue(np.isnan(values[1]), axis)

  def test_a_pose_at_infinity_is_nan_without_warnings(self):
    poses = np.stack([np.eye(3), np.full((3, 3), np.inf), np.diag([1, 1, 0])])
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      found = data.object_motion(poses, (28, 28))
    for values in found.values():
      np.testing.assert_array_equal(values, [0, np.nan, np.nan])


if __name__ == "__main__":
  absltest.main()
