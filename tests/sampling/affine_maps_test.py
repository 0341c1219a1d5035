"""Affine warps in compiled code, against samples at given points."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import sampling
from tests.sampling.kernels_test import compiled as needs_library

PADDINGS = ("zeros", "border", "reflection", "wrap", "mixed")
SHAPES = {2: (7, 9), 3: (4, 5, 6)}


def inputs(num_axes, dtype=np.float32, batch=(3,)):
  rng = np.random.default_rng(0)
  image = rng.uniform(0, 255, (*batch, *SHAPES[num_axes], 3)).astype(dtype)
  theta = rng.normal(size=(3, num_axes, num_axes + 1)) / 2
  theta += np.eye(num_axes, num_axes + 1)
  return image, theta.astype(np.float32)


def at_points(image, theta, output_shape=None, align_corners=False, **options):
  """The warp, by points that are worked out before, and XLA's gathers."""
  shape = image.shape[-theta.shape[-1] : -1]
  options["align_corners"] = align_corners
  points = sampling.affine_pixel_grid(
    theta, shape, output_shape or shape, align_corners=align_corners
  )
  return sampling.sample_pixels(
    image, points, implementation="gather", **options
  )


def lowered(**options):
  warp = functools.partial(stnjax.warp, **options)
  return jax.jit(warp).lower(*inputs(2)).as_text()


class ValuesTest(parameterized.TestCase):
  @parameterized.product(
    method=("nearest", "linear", "cubic"),
    padding=PADDINGS,
    dtype=(np.float32, np.uint8),
  )
  def test_equal_those_at_points(self, method, padding, dtype):
    self.compare(2, method, padding, dtype)

  @parameterized.product(method=("nearest", "linear"), padding=PADDINGS)
  def test_of_volumes(self, method, padding):
    self.compare(3, method, padding, np.float32)

  @parameterized.parameters(*PADDINGS)
  @pytest.mark.slow
  def test_of_cubic_volumes(self, padding):
    self.compare(3, "cubic", padding, np.uint8)

  def compare(self, num_axes, method, padding, dtype):
    if padding == "mixed":
      padding = ("wrap", "zeros", "border")[:num_axes]
    operands = inputs(num_axes, dtype)
    options = dict(method=method, padding=padding)
    ours, theirs = (
      jax.jit(functools.partial(f, **options))(*operands).astype(np.float32)
      for f in (stnjax.warp, at_points)
    )
    # A sum that is half a byte may be rounded to either side.
    error = 1 if dtype == np.uint8 else 1e-3
    np.testing.assert_allclose(ours, theirs, atol=error)
    self.assertLess(np.mean(ours != theirs), 0.01 if error == 1 else 1)

  @parameterized.parameters(
    ((), ()), ((), (3,)), ((1,), (3,)), ((3,), ()), ((2, 1), (3,))
  )
  def test_batches_broadcast(self, image_batch, theta_batch):
    image, theta = inputs(2, batch=image_batch)
    theta = theta if theta_batch else theta[0]
    ours, theirs = (jax.jit(f)(image, theta) for f in (stnjax.warp, at_points))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)

  @parameterized.parameters(((None, 0),), ((0, None),), ((0, 0),))
  def test_vmap(self, axes):
    operands = [
      operand if axis == 0 else operand[0]
      for operand, axis in zip(inputs(2), axes, strict=True)
    ]
    mapped = jax.jit(jax.vmap(stnjax.warp, axes))(*operands)
    np.testing.assert_allclose(mapped, at_points(*operands), atol=1e-3)

  @parameterized.parameters(np.nan, np.inf, -np.inf, 1e30)
  def test_matrices_that_lead_nowhere(self, entry):
    image, theta = inputs(2)
    theta[:, 0, 2] = entry
    np.testing.assert_array_equal(jax.jit(stnjax.warp)(image, theta), 0)


class GradientsTest(parameterized.TestCase):
  @parameterized.parameters("zeros", "border")
  def test_transposed_with_respect_to_images(self, padding):
    image, theta = inputs(2)
    values = np.random.default_rng(1).normal(size=image.shape)

    def adjoint(f):
      read = functools.partial(f, padding=padding)
      transposed = jax.linear_transpose(lambda i: read(i, theta), image)
      return transposed(values.astype(np.float32))

    self.compare(adjoint)

  @parameterized.parameters(*PADDINGS)
  def test_equal_those_at_points(self, padding):
    self.compare_gradients(2, "linear", padding)

  @parameterized.parameters((2, "nearest"), (2, "cubic"), (3, "linear"))
  def test_of_others(self, num_axes, method):
    self.compare_gradients(num_axes, method, "mixed")

  @parameterized.product(
    of=((2, "nearest"), (2, "cubic"), (3, "linear")), padding=PADDINGS[:-1]
  )
  @pytest.mark.slow
  def test_of_others_and_paddings(self, of, padding):
    self.compare_gradients(*of, padding)

  @parameterized.parameters("border", "reflection", "wrap")
  def test_of_another_shape_in_float64(self, padding):
    image, theta = inputs(2, np.float64)
    options = dict(padding=padding, method="cubic", output_shape=(11, 3))
    mask = np.random.default_rng(1).normal(size=(3, 11, 3, 1))
    with jax.enable_x64(True):
      theta = jnp.asarray(theta, jnp.float64)
      found, wanted = (
        jax.jit(
          jax.grad(lambda *a, f=f: (f(*a, **options) * mask).sum(), (0, 1))
        )(image, theta)
        for f in (stnjax.warp, at_points)
      )
      for ours, theirs in zip(found, wanted, strict=True):
        self.assertEqual(ours.dtype, np.float64)
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)

  def test_clamped_points_hide_what_is_not_finite(self):
    image, theta = inputs(2)
    theta = np.array([[[3, 0, 0.01], [0, 3, 0.02]]] * 3, np.float32)
    cotangent = np.zeros(image.shape, np.float32)
    cotangent[:, 0, 0] = np.inf  # beyond a corner

    def to_theta(theta):
      return stnjax.warp(image, theta, padding="border")

    (gradient,) = jax.vjp(to_theta, theta)[1](cotangent)
    np.testing.assert_array_equal(gradient, 0)

  @parameterized.parameters("compiled", "points", "gather")
  def test_derivatives_transposed(self, kind):
    # Both are linear in the image, the second one in its cotangent, too.
    image, theta = inputs(2)
    shape = image.shape[1:3]

    def read(image, theta):
      if kind == "compiled":
        return stnjax.warp(image, theta, implementation="compiled")
      points = sampling.affine_pixel_grid(theta, shape, shape)
      kernel = "gather" if kind == "gather" else "compiled"
      return sampling.sample_pixels(image, points, implementation=kernel)

    rng = np.random.default_rng(1)
    move, values = (
      rng.normal(size=a.shape).astype(np.float32) for a in (theta, image)
    )

    def slope(image):
      return jax.jvp(lambda t: read(image, t), (theta,), (move,))[1]

    def gradient(image, cotangent):
      return jax.vjp(lambda t: read(image, t), theta)[1](cotangent)[0]

    for f, given, cotangent in (
      (slope, image, values),
      (lambda i: gradient(i, values), image, move),
      (lambda c: gradient(image, c), values, move),
    ):
      (transposed,) = jax.linear_transpose(f, given)(cotangent)
      np.testing.assert_allclose(
        np.vdot(transposed, given), np.vdot(cotangent, f(given)), rtol=1e-3
      )

  @pytest.mark.slow
  def test_of_cubic_volumes(self):
    self.compare_gradients(3, "cubic", "mixed")

  def compare_gradients(self, num_axes, method, padding):
    if padding == "mixed":
      padding = ("wrap", "zeros", "border")[:num_axes]
    operands = inputs(num_axes)

    def gradients(f):
      def loss(image, theta):
        return (f(image, theta, method=method, padding=padding) ** 2).mean()

      return jax.grad(loss, (0, 1))(*operands), jax.jvp(
        loss, operands, operands
      )

    self.compare(gradients)

  @parameterized.product(
    padding=("zeros", "border", "reflection", "wrap"),
    align_corners=(False, True),
    size=(2, 5),
  )
  def test_on_pixels_and_mirrors(self, padding, align_corners, size):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(4, size, 5, 2)).astype(np.float32)
    theta = np.array(
      [[[1, 0, shift], [0, 1, -shift]] for shift in (0.0, -0.8, 2.0, 6.0)],
      np.float32,
    )
    mask = rng.normal(size=image.shape).astype(np.float32)
    options = dict(padding=padding, align_corners=align_corners)

    ours, theirs = (
      jax.jit(
        jax.grad(lambda theta, f=f: (f(image, theta, **options) * mask).sum())
      )(theta)
      for f in (stnjax.warp, at_points)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-4)

  @parameterized.parameters(((None, 0),), ((0, None),), ((0, 0),))
  def test_vmap(self, axes):
    operands = [
      operand if axis == 0 else operand[0]
      for operand, axis in zip(inputs(2), axes, strict=True)
    ]

    def gradients(f):
      def loss(image, theta):
        return (f(image, theta) ** 2).mean()

      return jax.vmap(jax.grad(loss, (0, 1)), axes)(*operands)

    self.compare(gradients)

  @parameterized.parameters(0, 1)
  def test_forward_along_one_operand(self, moving):
    operands = inputs(2)

    def change(f):
      def of_one(operand):
        return f(*operands[:moving], operand, *operands[moving + 1 :])

      return jax.jvp(of_one, operands[moving:][:1], operands[moving:][:1])

    self.compare(change)

  @pytest.mark.slow
  def test_second_derivatives(self):
    image, theta = inputs(2)

    def second(f):
      def loss(theta):
        return (f(image, theta, method="cubic") ** 2).mean()

      return jax.jvp(jax.grad(loss), (theta,), (theta,))

    self.compare(second)

  def compare(self, of_warp):
    found, wanted = (
      jax.tree.leaves(jax.jit(of_warp, static_argnums=0)(f))
      for f in (stnjax.warp, at_points)
    )
    for ours, theirs in zip(found, wanted, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-2)

  def test_bytes_have_none(self):
    image, theta = inputs(2, np.uint8)

    @jax.jit
    @jax.grad
    def gradient(theta):
      return stnjax.warp(image, theta).astype(jnp.float32).sum()

    np.testing.assert_array_equal(gradient(theta), 0)


@needs_library
class CallsTest(parameterized.TestCase):
  @parameterized.parameters("zeros", "constant", "border", "reflection", "wrap")
  def test_maps_pixels_itself(self, padding):
    self.assertIn("sampler_read_affine", lowered(padding=padding))

  def test_gradients_map_pixels_themselves(self):
    def loss(image, theta):
      return (stnjax.warp(image, theta) ** 2).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    text = gradient.lower(*inputs(2)).as_text()
    for name in ("read", "grad", "grad_image"):
      self.assertIn(f"stnjax_sampler_{name}_affine", text)
    self.assertNotIn("stnjax_sampler_grad_coords", text)

  def test_splines_read_at_points(self):
    self.check_reads_at_points(method="spline")

  @parameterized.parameters(dict(padding="constant"), dict(return_mask=True))
  def test_copies_at_the_points_of_the_mask(self, **options):
    # Of points on the edge, rounded otherwise, some would be neither pixel nor
    # fill.
    self.check_reads_at_points(method="nearest", **options)

  def check_reads_at_points(self, **options):
    text = lowered(**options)
    self.assertIn("stnjax_sampler_read", text)
    self.assertNotIn("sampler_read_affine", text)


if __name__ == "__main__":
  absltest.main()
