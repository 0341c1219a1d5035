"""Crops of boxes, and boxes and points that move with the image."""

import functools

from absl.testing import absltest, parameterized
import cv2
import jax
from jax.test_util import check_grads
import numpy as np
import pytest

from stnjax import coordinates, transforms
from tests.sampling import compiled
from tests.sampling.cases import random_theta


def linear(image, x, y):
  """One pixel position of an image `[H, W]`, its edge continued."""
  height, width = image.shape
  x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
  left, top = min(int(x), width - 2), min(int(y), height - 2)
  right, low = x - left, y - top
  return (
    (1 - low) * (1 - right) * image[top, left]
    + (1 - low) * right * image[top, left + 1]
    + low * (1 - right) * image[top + 1, left]
    + low * right * image[top + 1, left + 1]
  )


def roi_align(image, box, size):
  """RoIAlign with aligned=True and sampling_ratio=1, from its definition."""
  x1, y1, x2, y2 = box - 0.5
  out = np.zeros(size)
  for row, column in np.ndindex(*size):
    x = x1 + (column + 0.5) * (x2 - x1) / size[1]
    y = y1 + (row + 0.5) * (y2 - y1) / size[0]
    out[row, column] = linear(image, x, y)
  return out


class CropTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    rng = np.random.default_rng(0)
    self.images = rng.normal(size=(2, 12, 17, 1)).astype(np.float32)
    low = rng.uniform(0, 6, (2, 3, 2))
    self.boxes = np.concatenate([low, low + rng.uniform(1, 5, (2, 3, 2))], -1)

  @pytest.mark.slow
  def test_mirrored_boxes_are_crops_mirrored(self):
    boxes = self.boxes.astype(np.float32)
    mirrored = boxes[..., [2, 1, 0, 3]]
    for corners in ("edges", "centres"):
      plain = self.crops(boxes, (5, 6), corners=corners)
      np.testing.assert_allclose(
        self.crops(mirrored, (5, 6), corners=corners),
        plain[..., ::-1],
        atol=1e-5,
      )
      np.testing.assert_allclose(
        transforms.apply_to_boxes(
          np.eye(2, 3), mirrored, corners=corners, input_shape=(12, 17)
        ),
        boxes,
        atol=1e-4,
      )

  def crops(self, boxes, size, **options):
    theta = compiled.from_boxes(boxes, (12, 17), **options)
    options.pop("corners", None)
    return compiled.warp(
      self.images[:, None],
      theta,
      output_shape=size,
      padding="border",
      **options,
    )[..., 0]

  def test_against_roi_align(self):
    ours = self.crops(self.boxes, (4, 3))
    self.assertEqual(ours.shape, (2, 3, 4, 3))
    for i, k in np.ndindex(2, 3):
      expected = roi_align(self.images[i, ..., 0], self.boxes[i, k], (4, 3))
      np.testing.assert_allclose(ours[i, k], expected, atol=1e-5)

  def test_against_opencv(self):
    # A crop of whole pixels, made larger.
    box = np.array([3, 2, 10, 8])
    expected = cv2.resize(
      np.ascontiguousarray(self.images[0, 2:8, 3:10, 0]), (14, 18)
    )
    ours = self.crops(box[None, None], (18, 14))[0, 0]
    # The crop of OpenCV knows nothing of the pixels around.
    np.testing.assert_allclose(
      ours[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5
    )

  @parameterized.parameters(
    ("edges", (0, 0, 17, 12)), ("centres", (0, 0, 16, 11))
  )
  def test_convention_the_whole_image_is_the_identity(self, corners, box):
    for align_corners in (False, True):
      np.testing.assert_allclose(
        compiled.from_boxes(
          np.array(box), (12, 17), corners=corners, align_corners=align_corners
        ),
        np.eye(2, 3),
        atol=1e-6,
      )

  def test_corner_pixels_with_align_corners(self):
    # As tf.image.crop_and_resize: from the first to the last place, inclusive.
    box = np.array([2.5, 1.0, 9.0, 7.5])
    ours = self.crops(
      box[None, None], (4, 5), corners="centres", align_corners=True
    )
    for row, y in enumerate(np.linspace(1.0, 7.5, 4)):
      for column, x in enumerate(np.linspace(2.5, 9.0, 5)):
        self.assertAlmostEqual(
          float(ours[0, 0, row, column]),
          linear(self.images[0, ..., 0], x, y),
          delta=1e-5,
        )

  def test_volumes(self):
    volume = np.random.default_rng(0).normal(size=(5, 6, 7, 1))
    theta = compiled.from_boxes(np.array([1, 2, 0, 4, 6, 3]), (5, 6, 7))
    self.assertEqual(theta.shape, (3, 4))
    np.testing.assert_allclose(
      compiled.warp(volume, theta, output_shape=(3, 4, 3)),
      volume[0:3, 2:6, 1:4],
      atol=1e-5,
    )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient(self):
    for corners, align_corners in (("edges", False), ("centres", True)):
      check_grads(
        jax.jit(
          functools.partial(
            transforms.from_boxes,
            input_shape=(4, 5),
            corners=corners,
            align_corners=align_corners,
          )
        ),
        (self.boxes,),
        1,
        ("fwd", "rev"),
      )


class MoveTest(parameterized.TestCase):
  @parameterized.parameters(False, True)
  def test_a_keypoint_stays_on_its_pixel(self, align_corners):
    image = np.zeros((24, 30, 1), np.float32)
    rows, columns = np.indices((24, 30))
    image[..., 0] = np.exp(-((rows - 9) ** 2 + (columns - 17) ** 2) / 8)
    theta = np.array([[0.8, 0.2, 0.1], [-0.1, 0.9, -0.2]], np.float32)
    call = dict(output_shape=(26, 22), align_corners=align_corners)
    shown = np.asarray(compiled.warp(image, theta, **call))[..., 0]
    mass = shown**4
    rows, columns = np.indices(shown.shape)
    found = np.array([(mass * columns).sum(), (mass * rows).sum()]) / mass.sum()
    ours = compiled.apply_to_points(
      theta, np.array([[17.0, 9.0]]), input_shape=(24, 30), **call
    )
    np.testing.assert_allclose(ours[0], found, atol=0.05)

  @parameterized.product(num_axes=(2, 3), projective=(False, True))
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_points_against_a_loop(self, num_axes, projective):
    rng = np.random.default_rng(0)
    theta = random_theta(rng, num_axes, projective, batch=(2, 1))
    points = rng.uniform(-1, 1, (3, 5, num_axes))
    pushed = compiled.apply_to_points(theta, points)
    self.assertEqual(pushed.shape, (2, 3, 5, num_axes))
    pulled = compiled.apply_to_points(theta, points, pull=True)
    for i, j, k in np.ndindex(2, 3, 5):
      place = theta[i, 0] @ [*points[j, k], 1]
      place = place[:num_axes] / (place[num_axes] if projective else 1)
      np.testing.assert_allclose(pulled[i, j, k], place, atol=1e-12)
    back = compiled.apply_to_points(theta, pushed, pull=True)
    np.testing.assert_allclose(
      back, np.broadcast_to(points, back.shape), atol=1e-12
    )

  @pytest.mark.usefixtures("x64")
  def test_pixels_are_normalised_points(self):
    rng = np.random.default_rng(0)
    theta, points = random_theta(rng, 2, True), rng.uniform(0, 9, (4, 2))
    shapes = dict(input_shape=(9, 7), output_shape=(5, 8))
    units = coordinates.to_normalised(points, (9, 7))
    np.testing.assert_allclose(
      compiled.apply_to_points(theta, points, **shapes),
      coordinates.to_pixels(compiled.apply_to_points(theta, units), (5, 8)),
    )

  @parameterized.product(
    corners=("edges", "centres"), projective=(False, True), num_axes=(2, 3)
  )
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_boxes_against_a_loop(self, corners, projective, num_axes):
    rng = np.random.default_rng(0)
    theta = random_theta(rng, num_axes, projective)
    into, out = (9, 7, 8)[:num_axes], (5, 8, 6)[:num_axes]
    low = rng.uniform(0, 3, (4, num_axes))
    high = low + rng.uniform(1, 3, low.shape)
    boxes = np.concatenate([low, high], -1)
    shapes = dict(input_shape=into, output_shape=out)
    ours = compiled.apply_to_boxes(theta, boxes, corners=corners, **shapes)
    half = 0.5 if corners == "centres" else 0
    shift = 0.5 if corners == "edges" else 0
    ends = np.stack([low - half, high + half]) - shift
    for k in range(4):
      picks = np.indices((2,) * num_axes).reshape(num_axes, -1).T
      points = np.array(
        [[ends[p, k, axis] for axis, p in enumerate(pick)] for pick in picks]
      )
      moved = (
        np.asarray(compiled.apply_to_points(theta, points, **shapes)) + shift
      )
      expected = [*(moved.min(0) + half), *(moved.max(0) - half)]
      np.testing.assert_allclose(ours[k], expected, atol=1e-12)

  @parameterized.parameters("edges", "centres")
  def test_a_crop_holds_its_box(self, corners):
    box = np.array([2.0, 1, 9, 6])
    theta = compiled.from_boxes(box, (12, 17), corners=corners)
    whole = [0, 0, 8, 6] if corners == "edges" else [0, 0, 7, 5]
    shapes = dict(input_shape=(12, 17), output_shape=(6, 8), corners=corners)
    np.testing.assert_allclose(
      compiled.apply_to_boxes(theta, box[None], **shapes)[0], whole, atol=1e-5
    )
    np.testing.assert_allclose(
      compiled.apply_to_boxes(theta, np.array([whole]), pull=True, **shapes)[0],
      box,
      atol=1e-5,
    )

  @parameterized.parameters(False, True)
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients(self, projective):
    rng = np.random.default_rng(0)
    theta, points = random_theta(rng, 2, projective), rng.uniform(-1, 1, (3, 2))
    boxes = np.concatenate([points - 0.3, points + 0.2], -1)
    shapes = dict(input_shape=(5, 6), output_shape=(4, 7))
    for function, value in (
      (transforms.apply_to_points, points),
      (transforms.apply_to_boxes, boxes),
    ):
      check_grads(
        jax.jit(functools.partial(function, **shapes)),
        (theta, value),
        1,
        ("fwd", "rev"),
        atol=1e-4,
        rtol=1e-4,
      )

  @parameterized.parameters("singular", "vanishing")
  @pytest.mark.slow
  def test_nan_has_a_zero_gradient(self, case):
    theta = np.zeros((3, 3), np.float32)
    if case == "vanishing":
      theta = np.eye(3, dtype=np.float32)
      theta[2] = [1, 0, -0.5]  # 0 at x = 0.5
    pull = case == "vanishing"
    points = np.array([[0.5, 0.25]], np.float32)
    boxes = np.array([[0.5, 0.25, 0.5, 0.5]], np.float32)
    for function, value in (
      (compiled.apply_to_points, points),
      (compiled.apply_to_boxes, boxes),
    ):
      np.testing.assert_array_equal(function(theta, value, pull=pull), np.nan)
      slopes = jax.jit(
        jax.grad(lambda *args, f=function: f(*args, pull=pull).sum(), (0, 1))
      )(theta, value)
      for slope in slopes:
        np.testing.assert_array_equal(slope, 0)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(boxes=np.zeros((2, 5))), r"boxes must be \[..., 4\] for images"),
    (dict(input_shape=(4, 4, 4)), r"boxes must be \[..., 6\] for volumes"),
    (dict(input_shape=(4,)), "input_shape must be"),
    (dict(corners="middle"), "corners='middle' is unknown; accepted: 'edges'"),
    (dict(input_shape=(1, 4), align_corners=True), "sizes of at least 2"),
  )
  def test_wrong_crops_are_named(self, arguments, message):
    call = dict(boxes=np.zeros(4), input_shape=(4, 4))
    with self.assertRaisesRegex(ValueError, message):
      transforms.from_boxes(**{**call, **arguments})

  @parameterized.parameters(
    (dict(matrix=np.eye(2)), "matrix must be"),
    (dict(points=np.zeros(2)), r"points must be \[..., K, 2\]"),
    (dict(points=np.zeros((3, 3))), "points must end in an axis of 2"),
    (dict(output_shape=(4, 4)), "output_shape needs input_shape"),
    (dict(input_shape=(4, 4, 4)), r"input_shape must be \(H, W\)"),
    (
      dict(matrix=np.zeros((2, 2, 3)), points=np.zeros((3, 4, 2))),
      "batch axes of matrix and points",
    ),
  )
  def test_wrong_points_are_named(self, arguments, message):
    call = dict(matrix=np.eye(3), points=np.zeros((3, 2)))
    with self.assertRaisesRegex(ValueError, message):
      transforms.apply_to_points(**{**call, **arguments})

  @parameterized.parameters(
    (dict(boxes=np.zeros(4)), r"boxes must be \[..., K, 4\]"),
    (dict(boxes=np.zeros((2, 6))), r"boxes must be \[..., K, 4\]"),
    (dict(corners=1), "corners=1 is unknown"),
    (dict(output_shape=(4, 4)), "output_shape needs input_shape"),
    (
      dict(matrix=np.zeros((2, 2, 3)), boxes=np.zeros((3, 4, 4))),
      "batch axes of matrix and boxes",
    ),
  )
  def test_wrong_boxes_are_named(self, arguments, message):
    call = dict(matrix=np.eye(3), boxes=np.zeros((3, 4)))
    with self.assertRaisesRegex(ValueError, message):
      transforms.apply_to_boxes(**{**call, **arguments})

  @parameterized.parameters("pull", "align_corners")
  def test_flags_are_named(self, name):
    with self.assertRaisesRegex(TypeError, f"{name} must be True or False"):
      transforms.apply_to_points(np.eye(3), np.zeros((1, 2)), **{name: 1})


if __name__ == "__main__":
  absltest.main()
