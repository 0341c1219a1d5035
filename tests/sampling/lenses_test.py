"""Grids that undo the distortion of a lens: against OpenCV."""

import functools

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import coordinates, sampling
from tests.sampling.cases import check_gradients

CAMERA = np.array([[60.0, 0, 31.2], [0, 55, 24.7], [0, 0, 1]])
NEW_CAMERA = np.array([[50.0, 0.7, 30], [0, 45, 20], [0, 0, 1]])
COEFFICIENTS = np.array(
  [0.1, -0.05, 0.01, 0.02, 0.03, 0.1, 0.02, 0.01]
  + [0.01, 0.02, 0.03, 0.04, 0.1, -0.2]
)
ROTATION = cv2.Rodrigues(np.array([0.05, -0.1, 0.2]))[0]
SHAPE = (48, 64)

lens_grid = jax.jit(
  sampling.lens_grid,
  static_argnames=("output_shape", "input_shape", "model", "align_corners"),
)


def opencv_maps(count, model, rotation=None, new_camera=CAMERA):
  function = {
    "brown_conrady": cv2.initUndistortRectifyMap,
    "fisheye": cv2.fisheye.initUndistortRectifyMap,
  }[model]
  rotation = np.eye(3) if rotation is None else rotation
  coefficients = COEFFICIENTS[:count]
  maps = function(
    CAMERA, coefficients, rotation, new_camera, SHAPE[::-1], cv2.CV_32FC1
  )
  return np.stack(maps, -1)


class LensGridTest(parameterized.TestCase):
  @parameterized.parameters(
    *[("brown_conrady", n) for n in (4, 5, 8, 12, 14)], ("fisheye", 4)
  )
  @pytest.mark.usefixtures("x64")
  def test_is_the_map_of_opencv(self, model, count):
    for moves in ({}, dict(rotation=ROTATION, new_camera=NEW_CAMERA)):
      grid = lens_grid(
        CAMERA,
        COEFFICIENTS[:count],
        SHAPE,
        model=model,
        input_shape=(50, 70),
        **moves,
      )
      np.testing.assert_allclose(
        coordinates.to_pixels(grid, (50, 70)),
        opencv_maps(count, model, **moves),
        atol=1e-5,  # the maps are float32
      )

  @parameterized.parameters(("brown_conrady", 14), ("fisheye", 4))
  def test_single_precision(self, model, count):
    arrays = (np.float32(a) for a in (CAMERA, COEFFICIENTS[:count]))
    grid = lens_grid(*arrays, SHAPE, model=model, align_corners=True)
    self.assertEqual(grid.dtype, np.float32)
    np.testing.assert_allclose(
      coordinates.to_pixels(grid, SHAPE, align_corners=True),
      opencv_maps(count, model),
      atol=1e-4,
    )

  def test_an_image_is_undistorted_as_opencv_does(self):
    image = np.random.default_rng(0).uniform(size=SHAPE).astype(np.float32)
    image = cv2.GaussianBlur(image, (9, 9), 2)
    expected = cv2.undistort(image, CAMERA, COEFFICIENTS[:5])
    grid = lens_grid(CAMERA, COEFFICIENTS[:5], SHAPE)
    result = sampling.grid_sample(image[..., None], grid)[..., 0]
    # OpenCV rounds places to 1/32 pixel.
    np.testing.assert_allclose(
      result[2:-2, 2:-2], expected[2:-2, 2:-2], atol=0.01
    )

  @parameterized.parameters(("brown_conrady", 14), ("fisheye", 4))
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients(self, model, count):
    # The pixel (3, 2) is on the optical axis.
    camera = np.array([[5.0, 0.1, 3], [0, 4, 2], [0, 0, 1]])
    function = functools.partial(lens_grid, output_shape=(4, 5), model=model)
    check_gradients(
      lambda k, d, r, p: function(k, d, rotation=r, new_camera=p),
      camera,
      COEFFICIENTS[:count],
      np.eye(3),
      camera,
    )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient_of_fisheye_where_series_ends(self):
    # Squared radii on both sides of 0.01.
    camera = np.array([[100.0, 0, 0], [0, 100, 0], [0, 0, 1]])
    check_gradients(
      lambda d, k: lens_grid(k, d, (2, 13), model="fisheye", new_camera=k),
      COEFFICIENTS[:4],
      camera,
    )

  @parameterized.parameters("brown_conrady", "fisheye")
  @pytest.mark.slow
  def test_directions_behind_the_camera_are_nan_without_gradient(self, model):
    turn = cv2.Rodrigues(np.array([0.0, 1.8, 0.0]))[0].astype(np.float32)

    def loss(coefficients, rotation):
      grid = lens_grid(
        CAMERA, coefficients, SHAPE, rotation=rotation, model=model
      )
      return jnp.nansum(grid), grid

    (_, grid), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
      0 * COEFFICIENTS[:4], turn
    )
    rays = np.linalg.inv(CAMERA @ turn)[2]
    rows, columns = np.indices(SHAPE)
    behind = rays[0] * columns + rays[1] * rows + rays[2] <= 0
    self.assertGreater(behind.sum(), 0)
    self.assertLess(behind.sum(), behind.size)
    np.testing.assert_array_equal(np.isnan(grid).any(-1), behind)
    for gradient in gradients:
      self.assertTrue(np.isfinite(gradient).all())
    singular = lens_grid(
      CAMERA, COEFFICIENTS[:4], SHAPE, rotation=np.zeros((3, 3)), model=model
    )
    self.assertTrue(np.isnan(singular).all())

  def test_batches_broadcast(self):
    cameras = np.stack([CAMERA, NEW_CAMERA])
    coefficients = (
      COEFFICIENTS[None, None, :5] * np.array([1, 2, 3])[:, None, None]
    )
    grids = lens_grid(cameras, coefficients, (4, 5))
    self.assertEqual(grids.shape, (3, 2, 4, 5, 2))
    np.testing.assert_allclose(
      grids[2, 1],
      lens_grid(cameras[1], coefficients[2, 0], (4, 5)),
      rtol=1e-5,
      atol=1e-5,
    )

  @parameterized.parameters(
    (dict(camera=np.eye(2, 3)), r"camera must be \[..., 3, 3\]"),
    (dict(new_camera=np.eye(4)), r"new_camera must be \[..., 3, 3\]"),
    (dict(rotation=np.zeros(3)), r"rotation must be \[..., 3, 3\]"),
    (dict(coefficients=np.zeros(6)), "D = 4 or 5 or 8 or 12 or 14"),
    (dict(coefficients=np.zeros(5), model="fisheye"), "D = 4 for model='fish"),
    (dict(coefficients=0.1), r"coefficients must be \[..., D\]"),
    (dict(model="pinhole"), "model='pinhole' is unknown; accepted: 'brown"),
    (dict(output_shape=(4,)), r"output_shape must be \(H, W\)"),
    (dict(input_shape=(4, 0)), r"input_shape must be \(H, W\)"),
    (
      dict(camera=np.zeros((2, 3, 3)), coefficients=np.zeros((3, 4))),
      "camera and coefficients must broadcast",
    ),
  )
  def test_wrong_arguments_are_named(self, arguments, message):
    call = dict(camera=CAMERA, coefficients=np.zeros(4), output_shape=(4, 5))
    with self.assertRaisesRegex(ValueError, message):
      sampling.lens_grid(**{**call, **arguments})

  @parameterized.parameters("camera", "new_camera", "rotation", "coefficients")
  def test_wrong_types_are_named(self, name):
    call = dict(camera=CAMERA, coefficients=np.zeros(4), output_shape=(4, 5))
    with self.assertRaisesRegex(TypeError, f"{name} must hold real"):
      sampling.lens_grid(**{**call, name: np.zeros((3, 3), complex)})


if __name__ == "__main__":
  absltest.main()
