"""Methods, paddings and kernels that a user adds are used like any other."""

import math
from unittest import mock

from absl.testing import absltest, parameterized
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import sampling
from stnjax.sampling import KERNELS, METHODS, Kernel, Method
from stnjax.sampling.kernels import gather
from tests.sampling import compiled
from tests.sampling.cases import check_gradients


def smoothstep(t):
  weight = t * t * (3 - 2 * t)
  return 1 - weight, weight


def lagrange(t):
  """Weights of the polynomial through six pixels."""
  nodes = range(-2, 4)
  return [
    math.prod((t - n) / (node - n) for n in nodes if n != node)
    for node in nodes
  ]


SMOOTH = Method(
  name="smooth", support=2, weights=smoothstep, pads_position=True
)
LAGRANGE = Method(name="lagrange", support=6, weights=lagrange)


def windowed_sinc(radius):
  return lambda x: np.sinc(x) * np.sinc(x / radius) * (np.abs(x) < radius)


def catmull_rom(x):
  x = np.abs(x)
  near = 1.5 * x**3 - 2.5 * x**2 + 1
  far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
  return np.where(x < 1, near, np.where(x < 2, far, 0))


KERNELS_BY_METHOD = {
  "catmull_rom": catmull_rom,
  "lanczos3": windowed_sinc(3),
  "lanczos4": windowed_sinc(4),
}


class KernelTest(parameterized.TestCase):
  """Methods by kernels: their values, their gradients, and OpenCV's."""

  @parameterized.product(
    name=tuple(KERNELS_BY_METHOD), padding=("zeros", "border", "wrap")
  )
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_values_of_the_kernel(self, name, padding):
    line = np.random.default_rng(0).normal(size=9)
    near = np.array([0, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-9])
    places = np.concatenate([4 + near, near - 1, 7 + near])
    taps = np.arange(-20, 30)
    mode = {"border": "edge", "zeros": "constant"}.get(padding, padding)
    padded = np.pad(line, (20, 21), mode)
    weights = KERNELS_BY_METHOD[name](places[:, None] - taps)
    weights /= weights.sum(axis=1, keepdims=True)
    points = np.stack([places, 0 * places], -1)[None]
    expected = weights @ padded[:50]
    found = sampling.sample_pixels(
      np.tile(line, (9, 1))[..., None],
      points + [0, 4],
      method=name,
      padding=padding,
    )
    np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-7)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_volumes_by_many_taps(self):
    rng = np.random.default_rng(0)
    volume = rng.normal(size=(5, 6, 7, 2))
    # Inside, on pixels, at the edge, outside.
    points = np.array([[3.2, 2.7, 1.9], [2, 3, 4], [6.1, -0.3, 0], [9, 1, 1]])
    taps = np.arange(-20, 30)
    padded = np.pad(volume, [(20, 25), (20, 24), (20, 23), (0, 0)], "edge")
    weights = KERNELS_BY_METHOD["lanczos3"](points[..., None] - taps)
    weights /= weights.sum(axis=-1, keepdims=True)
    x, y, z = np.moveaxis(weights, 1, 0)
    expected = np.einsum("zyxc,px,py,pz->pc", padded, x, y, z, optimize=True)

    def sample(volume, points):
      return sampling.sample_pixels(
        volume,
        points[:, None, None],
        method="lanczos3",
        padding="border",
        implementation="gather",
      )[:, 0, 0]

    np.testing.assert_allclose(sample(volume, points), expected, atol=1e-7)
    check_gradients(sample, volume, points, modes=("rev",))

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients_also_at_pixels(self):
    self.check_gradients_of("catmull_rom")

  @parameterized.parameters("lanczos3", "lanczos4")
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients_of_lanczos_also_at_pixels(self, name):
    self.check_gradients_of(name)

  def check_gradients_of(self, name):
    image = np.random.default_rng(0).normal(size=(7, 8, 1))
    points = np.array([[[3.0, 2], [2.5, 3.25], [4.999, 1.5], [-0.3, 6.4]]])
    check_gradients(
      lambda i, p: sampling.sample_pixels(
        i, p, method=name, padding="border", implementation="matmul"
      ),
      image,
      points,
    )

  @parameterized.parameters(*KERNELS_BY_METHOD)
  @pytest.mark.slow
  def test_the_identity_and_shifts_copy_pixels_exactly(self, name):
    image = np.random.default_rng(0).normal(size=(9, 12, 2)).astype(np.float32)
    y, x = np.indices((9, 12))
    points = np.stack([x, y], -1).astype(np.float32)
    found = sampling.sample_pixels(image, points, method=name)
    np.testing.assert_array_equal(found, image)
    found = sampling.sample_pixels(image, points + 2, method=name)
    np.testing.assert_array_equal(found[:-2, :-2], image[2:, 2:])

  @pytest.mark.slow
  def test_lanczos_is_that_of_opencv(self):
    image = np.random.default_rng(0).normal(size=(20, 24)).astype(np.float32)
    rng = np.random.default_rng(1)
    # Multiples of 1/32 pixel, to which OpenCV rounds.
    points = rng.integers(32 * 5, 32 * 14, (6, 7, 2)).astype(np.float32) / 32
    expected = cv2.remap(
      image, points[..., 0], points[..., 1], cv2.INTER_LANCZOS4
    )
    found = sampling.sample_pixels(image[..., None], points, method="lanczos4")
    np.testing.assert_allclose(found[..., 0], expected, atol=1e-4)


class OwnMethodTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    registry = mock.patch.dict(METHODS._objects)
    self.enterContext(registry)
    rng = np.random.default_rng(0)
    self.image = rng.normal(size=(12, 14, 2)).astype(np.float32)

  @parameterized.product(
    method=(SMOOTH, LAGRANGE), implementation=("gather", "matmul")
  )
  def test_values_by_name_and_as_an_object(self, method, implementation):
    METHODS.register(method.name, method)
    x = np.array([3.25, 6.5, 7.0, 5.9])
    y = np.array([4.5, 6.0, 5.75, 3.1])
    pixels = np.stack([x, y], -1)
    grid = (2 * pixels + 1) / [14, 12] - 1
    expected = np.zeros((4, 2))
    half = method.support // 2
    for place in range(4):
      rows, columns = (
        np.ravel(method.weights(np.asarray(v[place] % 1)[None])) for v in (y, x)
      )
      top, left = (int(v[place]) + 1 - half for v in (y, x))
      part = self.image[top : top + 2 * half, left : left + 2 * half]
      expected[place] = np.einsum("y,x,yxc->c", rows, columns, part)
    for value in (method.name, method):
      out = compiled.grid_sample(
        self.image,
        grid[None].astype(np.float32),
        method=value,
        implementation=implementation,
      )
      np.testing.assert_allclose(out[0], expected, atol=1e-4)

  @pytest.mark.slow
  def test_warp_with_fill_mask_and_gradient(self):
    METHODS.register(SMOOTH.name, SMOOTH)

    @jax.jit
    def run(image, theta, fill):
      def loss(theta):
        picture, mask = stnjax.warp(
          image,
          theta,
          method="smooth",
          padding="constant",
          fill_value=fill,
          return_mask=True,
        )
        return (picture**2).sum(), (picture, mask)

      return jax.grad(loss, has_aux=True)(theta)

    # Half a pixel to the right: both weights are a half, the last one's fill.
    theta = jnp.array([[1, 0, 1 / 14], [0, 1, 0]])
    gradient, (picture, mask) = run(self.image, theta, 3.0)
    beyond = np.full_like(self.image[:, :1], 3.0)
    expected = (self.image + np.concatenate([self.image[:, 1:], beyond], 1)) / 2
    np.testing.assert_allclose(picture, expected, atol=1e-5)
    np.testing.assert_allclose(mask[:, :-1], 1, atol=1e-5)
    np.testing.assert_allclose(mask[:, -1], 0.5, atol=1e-5)
    self.assertTrue(np.isfinite(gradient).all())
    self.assertGreater(np.abs(gradient[0]).min(), 0)
    np.testing.assert_array_equal(gradient[1], 0)  # flat at pixel centres

  def test_unregistered_it_is_unknown(self):
    with self.assertRaisesRegex(ValueError, "method='smooth' is unknown"):
      stnjax.warp(self.image, jnp.eye(2, 3), method="smooth")

  @parameterized.parameters(
    (dict(support=3, weights=smoothstep), "must be even with weights, got 3"),
    (dict(support=2), "must be 1 without weights, got 2"),
    (dict(support=0), "support must be at least 1, got 0"),
  )
  def test_a_support_that_does_not_fit(self, fields, message):
    with self.assertRaisesRegex(ValueError, message):
      Method(name="odd", **fields)


class OwnKernelTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.enterContext(mock.patch.dict(KERNELS._objects))
    self.image, self.grid = jnp.ones((3, 4, 1)), jnp.zeros((2, 2, 2))

  def doubling(self, **fields):
    """A kernel whose samples are twice too large, to tell it apart."""
    kernel = Kernel(
      name="doubling",
      supports=lambda image, points, method: method.name == "nearest",
      sample=lambda *args, **kwargs: 2 * gather.sample(*args, **kwargs),
      reads="images with method='nearest'",
      **fields,
    )
    KERNELS.register(kernel.name, kernel)

  def sample(self, **options):
    return stnjax.grid_sample(self.image, self.grid, **options)[0, 0, 0]

  def test_by_name(self):
    self.doubling(platforms=("tpu",))
    call = dict(implementation="doubling")
    self.assertEqual(self.sample(method="nearest", **call), 2)
    with self.assertRaisesRegex(ValueError, "'doubling' reads images with.*"):
      self.sample(method="cubic", **call)

  def test_automatically_where_it_supports_the_image(self):
    self.assertEqual(self.sample(method="nearest"), 1)
    self.doubling(platforms=("cpu",))
    self.assertEqual(self.sample(method="nearest"), 2)
    self.assertEqual(self.sample(method="linear"), 1)

  def test_on_its_platforms_only(self):
    self.doubling(platforms=("tpu",))
    self.assertEqual(self.sample(method="nearest"), 1)

  def test_for_all_platforms(self):
    self.doubling()
    self.assertEqual(self.sample(method="nearest"), 2)


class BuiltInTest(absltest.TestCase):
  def test_names(self):
    self.assertContainsSubset(
      {
        "nearest",
        "linear",
        "cubic",
        "catmull_rom",
        "lanczos3",
        "lanczos4",
        "spline",
        "linearised",
      },
      METHODS,
    )
    self.assertContainsSubset({"gather", "matmul"}, KERNELS)
    self.assertEqual(
      sampling.UNFILLED, ("zeros", "border", "reflection", "wrap")
    )


if __name__ == "__main__":
  absltest.main()
