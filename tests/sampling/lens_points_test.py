"""Points through the distortion of a lens: against OpenCV."""

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import coordinates, sampling
from tests.sampling.cases import check_gradients
from tests.sampling.lenses_test import (
  CAMERA,
  COEFFICIENTS,
  NEW_CAMERA,
  ROTATION,
  SHAPE,
)

MODELS = [
  *[("brown_conrady", count) for count in (4, 5, 8, 12, 14)],
  ("fisheye", 4),
]
POINTS = np.random.default_rng(0).uniform((0, 0), (64, 48), (50, 2))
POINTS[0] = CAMERA[:2, 2]  # on the optical axis
EXACTLY = cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 500, 1e-15

undistort_points = jax.jit(
  sampling.undistort_points, static_argnames=("model",)
)
distort_points = jax.jit(sampling.distort_points, static_argnames=("model",))


def undistorted_by_opencv(coefficients, model, rotation, new_camera):
  module = cv2.fisheye if model == "fisheye" else cv2
  found = module.undistortPoints(
    POINTS[:, None],
    CAMERA,
    coefficients,
    R=rotation,
    P=new_camera,
    criteria=EXACTLY,
  )
  return found[:, 0]


class LensPointsTest(parameterized.TestCase):
  @parameterized.parameters(*MODELS)
  @pytest.mark.usefixtures("x64")
  def test_points_are_those_of_opencv(self, model, count):
    coefficients = COEFFICIENTS[:count]
    for rotation, new_camera in ((np.eye(3), CAMERA), (ROTATION, NEW_CAMERA)):
      moves = dict(rotation=rotation, new_camera=new_camera, model=model)
      found = undistort_points(POINTS, CAMERA, coefficients, **moves)
      expected = undistorted_by_opencv(
        coefficients, model, rotation, new_camera
      )
      np.testing.assert_allclose(found, expected, atol=1e-11)
      back = distort_points(found, CAMERA, coefficients, **moves)
      np.testing.assert_allclose(back, POINTS, atol=1e-11)

  @pytest.mark.usefixtures("x64")
  def test_distorted_points_are_those_of_opencv(self):
    plane = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    rays = np.concatenate([plane, np.ones((50, 1))], axis=1)
    expected, _ = cv2.projectPoints(
      rays, np.zeros(3), np.zeros(3), CAMERA, COEFFICIENTS
    )
    found = distort_points(plane, CAMERA, COEFFICIENTS, new_camera=np.eye(3))
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-11)
    expected = cv2.fisheye.distortPoints(
      plane[:, None], CAMERA, COEFFICIENTS[:4]
    )
    found = distort_points(
      plane, CAMERA, COEFFICIENTS[:4], new_camera=np.eye(3), model="fisheye"
    )
    np.testing.assert_allclose(found, expected[:, 0], atol=1e-11)

  @parameterized.parameters(("brown_conrady", 14), ("fisheye", 4))
  def test_points_move_with_the_image(self, model, count):
    coefficients = COEFFICIENTS[:count].astype(np.float32)
    grid = sampling.lens_grid(CAMERA, coefficients, SHAPE, model=model)
    places = coordinates.to_pixels(grid, SHAPE).reshape(-1, 2)
    found = undistort_points(places, CAMERA, coefficients, model=model)
    self.assertEqual(found.dtype, np.float32)
    rows, columns = np.indices(SHAPE)
    expected = np.stack([columns, rows], axis=-1).reshape(-1, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4)

  @parameterized.parameters("brown_conrady", "fisheye")
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_places_that_nothing_is_distorted_to_are_nan(self, model):
    # r (1 - r^2 / 4) is largest at r = 2 / sqrt(3); for angles alike.
    largest = 2 / np.sqrt(3) * 2 / 3
    radii = np.array([0, 0.5, 0.999 * largest, 1.001 * largest, 5, np.nan, 1e9])
    points = np.stack([radii, 0 * radii], axis=-1)
    coefficients = np.array([-0.25, 0, 0, 0])

    def loss(points, coefficients):
      found = sampling.undistort_points(
        points, np.eye(3), coefficients, model=model
      )
      return jnp.nansum(found), found

    (_, found), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(
      points, coefficients
    )
    np.testing.assert_array_equal(
      np.isnan(found).all(-1), [False] * 3 + [True] * 4
    )
    bent = np.arctan(found[:3, 0]) if model == "fisheye" else found[:3, 0]
    np.testing.assert_allclose(bent * (1 - bent**2 / 4), radii[:3], atol=1e-12)
    for gradient in gradients:
      self.assertTrue(np.isfinite(gradient).all())
    np.testing.assert_array_equal(gradients[0][3:], 0)

  @parameterized.parameters("brown_conrady", "fisheye")
  def test_rays_behind_a_camera_are_nan(self, model):
    turn = cv2.Rodrigues(np.array([0.0, np.pi, 0.0]))[0]
    call = dict(rotation=turn, model=model)
    for function in (undistort_points, distort_points):
      found = function(POINTS, CAMERA, np.zeros(4), **call)
      self.assertTrue(np.isnan(found).all())
    found = undistort_points(POINTS, np.zeros((3, 3)), np.zeros(4), model=model)
    self.assertTrue(np.isnan(found).all())

  @parameterized.product(
    (dict(model="brown_conrady", count=14), dict(model="fisheye", count=4)),
    function=(sampling.undistort_points, sampling.distort_points),
  )
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients(self, model, count, function):
    # The first point is on the axis; the next where the fisheye series ends.
    near = 0.1 * np.array([60 * 0.6, 55 * 0.8])
    points = np.stack([POINTS[0], POINTS[0] + near, *POINTS[1:4]])

    def call(points, camera, coefficients, rotation, new_camera):
      return function(
        points,
        camera,
        coefficients,
        rotation=rotation,
        new_camera=new_camera,
        model=model,
      )

    check_gradients(
      call, points, CAMERA, COEFFICIENTS[:count], ROTATION, NEW_CAMERA
    )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_second_derivatives(self):
    def radius(place, k):
      coefficients = jnp.array([k, 0, 0, 0])
      point = jnp.array([[place, 0]])
      return sampling.undistort_points(point, np.eye(3), coefficients)[0, 0]

    # r (1 + k r^2) = place, differentiated twice by hand at k = 0.1, r = 1.
    found = jax.jit(jax.hessian(radius))(1.1, 0.1)
    slope = 1 + 3 * 0.1
    np.testing.assert_allclose(found, -6 * 0.1 / slope**3, rtol=1e-9)

  def test_batches_broadcast(self):
    cameras = np.stack([CAMERA, NEW_CAMERA])
    coefficients = COEFFICIENTS[:5] * np.array([1, 2, 3])[:, None, None]
    for function in (undistort_points, distort_points):
      found = function(POINTS, cameras, coefficients)
      self.assertEqual(found.shape, (3, 2, 50, 2))
      np.testing.assert_allclose(
        found[2, 1],
        function(POINTS, cameras[1], coefficients[2, 0]),
        atol=1e-3,
      )

  @parameterized.product(
    (
      dict(given=dict(points=np.zeros((3, 3))), message="points must end in"),
      dict(given=dict(points=np.zeros(2)), message=r"points must be \[..., K"),
      dict(given=dict(camera=np.eye(2, 3)), message="camera must be"),
      dict(given=dict(new_camera=np.eye(4)), message="new_camera must be"),
      dict(given=dict(rotation=np.zeros(3)), message="rotation must be"),
      dict(given=dict(coefficients=np.zeros(6)), message="D = 4 or 5 or 8 or"),
      dict(
        given=dict(coefficients=np.zeros(5), model="fisheye"),
        message="D = 4 for model='fisheye'",
      ),
      dict(given=dict(model="pinhole"), message="model='pinhole' is unknown"),
      dict(
        given=dict(
          points=np.zeros((2, 5, 2)), coefficients=np.zeros((3, 4))
        ),
        message="coefficients and points must broadcast",
      ),
    ),
    function=(sampling.undistort_points, sampling.distort_points),
  )  # fmt: skip
  def test_wrong_arguments_are_named(self, given, message, function):
    call = dict(points=POINTS, camera=CAMERA, coefficients=np.zeros(4))
    with self.assertRaisesRegex(ValueError, message):
      function(**{**call, **given})

  @parameterized.parameters("points", "camera", "rotation", "coefficients")
  def test_wrong_types_are_named(self, name):
    call = dict(points=POINTS, camera=CAMERA, coefficients=np.zeros(4))
    with self.assertRaisesRegex(TypeError, f"{name} must hold real"):
      sampling.undistort_points(**{**call, name: np.zeros((3, 3), complex)})


if __name__ == "__main__":
  absltest.main()
