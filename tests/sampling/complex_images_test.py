"""Complex images: values and gradients are those of both parts."""

import functools

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import stnjax
from stnjax import sampling, transforms
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import (
  check_gradients,
  off_lattice_grid,
  random_grid,
)

SHAPE = (5, 6)


def complex_image(*shape, dtype=np.complex64):
  parts = np.random.default_rng(0).normal(size=(2, *shape))
  return (parts[0] + 1j * parts[1]).astype(dtype)


class ValuesTest(parameterized.TestCase):
  @parameterized.product(
    method=("nearest", "linear"), implementation=("auto", "matmul")
  )
  @pytest.mark.usefixtures("x64")
  def test_by_definition(self, method, implementation):
    self.check(method, implementation)

  @parameterized.parameters("cubic", "spline")
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_other_methods_by_definition(self, method):
    self.check(method, "auto")

  def check(self, method, implementation):
    image = complex_image(*SHAPE, 2, dtype=np.complex128)
    grid = random_grid(np.random.default_rng(1), 2)
    options = dict(method=method, padding="border")
    found = compiled.grid_sample(
      image, grid, implementation=implementation, **options
    )
    self.assertEqual(found.dtype, jnp.complex128)
    real, imaginary = (
      reference.sample(part, grid, align_corners=False, **options)
      for part in (image.real, image.imag)
    )
    np.testing.assert_allclose(found, real + 1j * imaginary, atol=1e-10)

  def test_fill_mask_and_batches(self):
    images = complex_image(3, *SHAPE, 2)
    theta = transforms.scaling(jnp.array([[2.0, 1.5], [1.0, 1.0], [3.0, 1.0]]))
    fill = np.array([2 - 1j, 0.5j])
    options = dict(padding="constant", return_mask=True, output_shape=(4, 4))
    found, mask = compiled.warp(images, theta, fill_value=fill, **options)
    self.assertEqual(found.dtype, jnp.complex64)
    self.assertEqual(found.shape, (3, 4, 4, 2))
    parts = [
      compiled.warp(images.real, theta, fill_value=fill.real, **options),
      compiled.warp(images.imag, theta, fill_value=fill.imag, **options),
    ]
    (real, expected), (imaginary, _) = parts
    np.testing.assert_allclose(found, real + 1j * imaginary, atol=1e-6)
    np.testing.assert_array_equal(mask, expected)

  @parameterized.parameters(3.0, 2j)
  def test_a_fill_for_all_channels(self, fill):
    found = sampling.sample_pixels(
      complex_image(*SHAPE, 2), jnp.full((1, 1, 2), 40.0), padding="constant",
      fill_value=fill,
    )  # fmt: skip
    np.testing.assert_array_equal(found, np.full((1, 1, 2), fill))

  @parameterized.parameters(
    functools.partial(stnjax.resize, output_shape=(3, 9), antialias=True),
    functools.partial(stnjax.spline_coefficients, padding="wrap"),
    functools.partial(
      stnjax.warp,
      transform=np.array([[2.0, 0.5, 0], [0, 2, 0.3]]),
      antialias=True,
    ),
    functools.partial(
      stnjax.warp,
      transform=np.array([[0.9, 0.1, 0], [0, 0.8, 0.3]]),
      method="linearised",
      key=jax.random.key(0),
    ),
  )
  @pytest.mark.slow
  def test_other_functions_of_an_image(self, function):
    image = complex_image(*SHAPE, 2)
    found = jax.jit(function)(image)
    expected = function(image.real) + 1j * function(image.imag)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(function(image=image), expected, atol=1e-5)

  def test_splat_is_the_adjoint(self):
    grid = random_grid(np.random.default_rng(1), 2).astype(np.float32)
    image = complex_image(*SHAPE, 2)
    values = complex_image(*grid.shape[:-1], 2)
    left = jnp.vdot(stnjax.splat(values, grid, SHAPE), image)
    right = jnp.vdot(values, stnjax.grid_sample(image, grid))
    np.testing.assert_allclose(left, right, rtol=1e-4)

  def test_a_list_of_arrays(self):
    image = np.random.default_rng(0).normal(size=(4, 5, 2)) + 1j
    theta = np.eye(2, 3) * 0.8

    @jax.jit
    def pair(image):
      return stnjax.warp([image, image], theta)

    for one in (image, image.real):
      found = pair(one)
      np.testing.assert_array_equal(found[0], found[1])
      np.testing.assert_allclose(found[0], stnjax.warp(one, theta), atol=1e-6)

  def test_a_zero_of_numpy_is_no_fill(self):
    image = np.ones((4, 5, 2)) * 1j
    expected = stnjax.warp(image, np.eye(2, 3) * 2)
    for zero in (np.float32(0), np.complex64(0)):
      found = stnjax.warp(image, np.eye(2, 3) * 2, fill_value=zero)
      np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("x64")
class GradientTest(absltest.TestCase):
  def test_numerical(self):
    image = complex_image(*SHAPE, 1, dtype=np.complex128)
    grid = off_lattice_grid(np.random.default_rng(0), SHAPE, -2, 7, False)
    check_gradients(
      lambda image, grid, fill: stnjax.grid_sample(
        image, grid, padding="constant", fill_value=fill
      ),
      image,
      grid,
      np.array([0.3 - 2j]),
    )

  def test_those_of_torch(self):
    """Of a real loss; torch's gradient is the conjugate of JAX's."""
    image = complex_image(*SHAPE, 1, dtype=np.complex128)
    grid = random_grid(np.random.default_rng(0), 2)

    def loss(image, grid):
      return (jnp.abs(stnjax.grid_sample(image, grid) - 1j) ** 2).sum()

    to_image, to_grid = jax.grad(loss, (0, 1))(image, grid)
    theirs = torch.tensor(image[..., 0], requires_grad=True)
    places = torch.tensor(grid[None], requires_grad=True)
    parts = torch.stack([theirs.real, theirs.imag])[None]
    real, imaginary = torch.nn.functional.grid_sample(
      parts, places, align_corners=False
    )[0]
    (real**2 + (imaginary - 1) ** 2).sum().backward()
    np.testing.assert_allclose(
      to_image[..., 0], theirs.grad.numpy().conj(), atol=1e-12
    )
    np.testing.assert_allclose(to_grid, places.grad.numpy()[0], atol=1e-12)


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(image=np.zeros((3, 3), complex)), r"got shape \(3, 3\)"),
    (
      dict(padding="constant", fill_value=np.ones(3)),
      r"fill_value must be a number or \[1\].*got shape \(3,\)",
    ),
    (dict(fill_value=1j), "fill_value needs padding='constant'"),
  )
  def test_wrong_values_are_named(self, arguments, message):
    call = dict(image=complex_image(3, 3, 1), transform=jnp.eye(2, 3))
    with self.assertRaisesRegex(ValueError, message):
      stnjax.warp(**{**call, **arguments})

  def test_complex_transforms_are_refused(self):
    with self.assertRaisesRegex(TypeError, "transform must hold real"):
      stnjax.warp(complex_image(3, 3, 1), jnp.eye(2, 3, dtype=complex))

  def test_labels_are_not_complex(self):
    with self.assertRaisesRegex(TypeError, "needs an image of integers"):
      stnjax.warp(complex_image(3, 3, 1), jnp.eye(2, 3), method="label")


if __name__ == "__main__":
  absltest.main()
