"""Methods, paddings and kernels that a user adds are used like any other."""

import math
from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import sampling
from stnjax.sampling import KERNELS, METHODS, Kernel, Method
from stnjax.sampling.kernels import gather
from tests.sampling import compiled


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
      {"nearest", "linear", "cubic", "spline", "linearised"}, METHODS
    )
    self.assertContainsSubset({"gather", "matmul"}, KERNELS)
    self.assertEqual(
      sampling.UNFILLED, ("zeros", "border", "reflection", "wrap")
    )


if __name__ == "__main__":
  absltest.main()
