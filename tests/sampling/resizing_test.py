"""Resizing: against torch, `jax.image` and OpenCV."""

import functools

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import stnjax
from stnjax import transforms
from tests.sampling.cases import check_gradients

SHAPE = (9, 12)
SHAPES = ((4, 5), (3, 4), (20, 31), (5, 13), (1, 1), SHAPE)

resize = jax.jit(
  stnjax.resize,
  static_argnames=("output_shape", "method", "antialias", "align_corners"),
)


def pixels(shape=SHAPE, channels=2, batch=()):
  rng = np.random.default_rng(0)
  return rng.normal(size=(*batch, *shape, channels)).astype(np.float32)


def torch_resize(image, shape, mode, **options):
  first = torch.tensor(np.moveaxis(image, -1, 0)[None])
  result = torch.nn.functional.interpolate(first, shape, mode=mode, **options)
  return np.moveaxis(result[0].numpy(), 0, -1)


class ResizeTest(parameterized.TestCase):
  @parameterized.product(
    shape=SHAPES, method=("linear", "cubic"), align_corners=(False, True)
  )
  def test_without_antialias_as_torch(self, shape, method, align_corners):
    if shape == (1, 1) and align_corners:
      return  # torch reads the first pixel
    image = pixels()
    result = resize(image, shape, method=method, align_corners=align_corners)
    mode = {"linear": "bilinear", "cubic": "bicubic"}[method]
    expected = torch_resize(image, shape, mode, align_corners=align_corners)
    np.testing.assert_allclose(result, expected, atol=1e-5)

  @parameterized.product(shape=SHAPES, method=("linear", "catmull_rom"))
  def test_with_antialias_as_torch(self, shape, method):
    image = pixels()
    result = resize(image, shape, method=method, antialias=True)
    mode = {"linear": "bilinear", "catmull_rom": "bicubic"}[method]
    expected = torch_resize(image, shape, mode, antialias=True)
    np.testing.assert_allclose(result, expected, atol=1e-5)

  @parameterized.product(
    shape=SHAPES, method=("linear", "catmull_rom", "lanczos3")
  )
  def test_with_antialias_as_jax_image(self, shape, method):
    image = pixels()
    name = {"catmull_rom": "cubic"}.get(method, method)
    expected = jax.image.resize(image, (*shape, 2), name)
    result = resize(image, shape, method=method, antialias=True)
    np.testing.assert_allclose(result, expected, atol=1e-5)

  @parameterized.product(
    shape=((4, 5), (20, 31), (5, 13), SHAPE),
    method=("linear", "cubic", "lanczos4"),
  )
  def test_as_opencv(self, shape, method):
    flag = {
      "linear": cv2.INTER_LINEAR,
      "cubic": cv2.INTER_CUBIC,
      "lanczos4": cv2.INTER_LANCZOS4,
    }[method]
    image = pixels()
    expected = cv2.resize(image, shape[::-1], interpolation=flag)
    result = resize(image, shape, method=method)
    np.testing.assert_allclose(result, expected, atol=1e-4)

  @parameterized.parameters((4, 5), (3, 4), (9, 7), (1, 1))
  def test_area_as_opencv(self, *shape):
    image = pixels()
    expected = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    expected = expected.reshape(*shape, 2)
    np.testing.assert_allclose(
      resize(image, shape, method="area"), expected, atol=1e-5
    )

  def test_area_as_torch_for_whole_factors(self):
    image = pixels()
    np.testing.assert_allclose(
      resize(image, (3, 4), method="area"),
      torch_resize(image, (3, 4), "area"),
      atol=1e-6,
    )

  @parameterized.parameters(*SHAPES)
  def test_nearest_as_torch_and_jax_image(self, *shape):
    image = np.arange(SHAPE[0] * SHAPE[1], dtype=np.int16).reshape(*SHAPE, 1)
    result = resize(image, shape, method="nearest")
    self.assertEqual(result.dtype, np.int16)
    expected = torch_resize(image.astype(float), shape, "nearest-exact")
    np.testing.assert_array_equal(result, expected)
    expected = jax.image.resize(image, (*shape, 1), "nearest")
    np.testing.assert_array_equal(result, expected)

  @parameterized.product(
    align_corners=(False, True), method=("linear", "cubic")
  )
  @pytest.mark.slow
  def test_is_the_warp_by_the_identity(self, align_corners, method):
    image = pixels(batch=(2,))
    for shape in ((4, 5), (1, 20)):
      expected = stnjax.warp(
        image,
        transforms.identity(),
        output_shape=shape,
        method=method,
        padding="border",
        align_corners=align_corners,
      )
      result = resize(image, shape, method=method, align_corners=align_corners)
      np.testing.assert_allclose(result, expected, atol=1e-5)

  @parameterized.parameters(False, True)
  def test_volumes_as_torch_and_jax_image(self, align_corners):
    image = pixels((4, 5, 6))
    result = resize(image, (3, 7, 5), align_corners=align_corners)
    expected = torch_resize(
      image, (3, 7, 5), "trilinear", align_corners=align_corners
    )
    np.testing.assert_allclose(result, expected, atol=1e-5)
    result = resize(image, (3, 7, 5), antialias=True)
    expected = jax.image.resize(image, (3, 7, 5, 2), "linear")
    np.testing.assert_allclose(result, expected, atol=1e-5)

  def test_antialias_with_aligned_corners_keeps_a_line(self):
    # Away from the edges, a symmetric kernel leaves a line where it is.
    ramp = np.arange(41.0).reshape(1, 41, 1)
    result = resize(ramp, (1, 9), antialias=True, align_corners=True)
    np.testing.assert_allclose(
      result[0, 1:-1, 0], np.arange(5, 40, 5), atol=1e-4
    )

  @parameterized.parameters(
    "linear", "cubic", "catmull_rom", "lanczos3", "lanczos4", "area"
  )
  @pytest.mark.usefixtures("x64")
  def test_gradients(self, method):
    image = np.random.default_rng(0).normal(size=(5, 6, 1))
    check_gradients(
      functools.partial(resize, output_shape=(3, 4), method=method), image
    )

  @parameterized.parameters(np.uint8, np.int16, jnp.bfloat16, np.float16)
  def test_dtypes(self, dtype):
    image = np.array([0, 100, 250, 250], dtype).reshape(1, 4, 1)
    result = resize(image, (1, 8), method="cubic")
    self.assertEqual(result.dtype, dtype)
    exact = resize(image.astype(np.float32), (1, 8), method="cubic")
    self.assertGreater(exact.max(), 255)
    expected = np.asarray(exact)
    if dtype == np.uint8:
      expected = np.clip(np.round(expected), 0, 255)
    elif dtype == np.int16:
      expected = np.round(expected)
    np.testing.assert_allclose(
      np.asarray(result, np.float32), expected, rtol=1e-2
    )

  @parameterized.parameters(
    (dict(method="spline"), "method='spline' is unknown; accepted: 'nearest'"),
    (dict(method="nearest", antialias=True), "antialias=True needs a method"),
    (dict(method="area", antialias=True), "antialias=True needs a method"),
    (dict(method="area", align_corners=True), "needs align_corners=False"),
    (dict(method="area", output_shape=(4, 20)), r"output_shape of at most"),
    (dict(output_shape=(4,)), r"output_shape must be \(H, W\)"),
    (dict(output_shape=(4, 0)), r"output_shape must be \(H, W\)"),
    (dict(image=np.zeros((4, 5))), r"image must be \[..., H, W, C\]"),
    (dict(output_shape=(4, 5, 6)), r"image must be \[..., D, H, W, C\]"),
  )
  def test_wrong_arguments_are_named(self, arguments, message):
    call = dict(image=np.zeros((9, 12, 1)), output_shape=(4, 5))
    with self.assertRaisesRegex(ValueError, message):
      stnjax.resize(**{**call, **arguments})

  @parameterized.parameters(
    (dict(image=np.zeros((4, 5, 1), bool)), "bool needs method='nearest'"),
    (dict(antialias=1), "antialias must be True or False"),
    (dict(align_corners=None), "align_corners must be True or False"),
    (dict(output_shape=3), "output_shape must be a static"),
  )
  def test_wrong_types_are_named(self, arguments, message):
    call = dict(image=np.zeros((9, 12, 1)), output_shape=(4, 5))
    with self.assertRaisesRegex(TypeError, message):
      stnjax.resize(**{**call, **arguments})


if __name__ == "__main__":
  absltest.main()
