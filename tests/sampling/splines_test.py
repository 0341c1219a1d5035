"""The spline's prefilter against scipy, and apart from sampling."""

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stnjax
from tests.sampling import compiled
from tests.sampling.cases import random_grid


class SplineTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_coefficients_can_be_reused(self):
    self.check_reuse(2, {"padding": "constant"})

  @parameterized.product(
    num_axes=(2, 3),
    padding=("zeros", "border", "reflection", "wrap"),
    align_corners=(False, True),
  )
  @pytest.mark.slow
  def test_all_coefficients_can_be_reused(self, num_axes, **mode):
    self.check_reuse(num_axes, mode)

  def check_reuse(self, num_axes, mode):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, *(4, 5, 3)[:num_axes], 2)).astype(np.float32)
    grid = random_grid(rng, num_axes, (2,)).astype(np.float32)
    coefficients = compiled.spline_coefficients(
      image, num_axes=num_axes, **mode
    )
    self.assertEqual(coefficients.shape, image.shape)
    np.testing.assert_allclose(
      stnjax.grid_sample(
        coefficients, grid, method="spline", prefilter=False, **mode
      ),
      stnjax.grid_sample(image, grid, method="spline", **mode),
      atol=1e-5,
    )

  @parameterized.parameters(jnp.bfloat16, jnp.uint8)
  def test_coefficients_are_wide(self, dtype):
    coefficients = compiled.spline_coefficients(jnp.ones((3, 3, 1), dtype))
    self.assertEqual(coefficients.dtype, jnp.float32)

  @parameterized.parameters("wrap", "reflection")
  @pytest.mark.usefixtures("x64")
  def test_filter(self, padding):
    image = np.random.default_rng(0).normal(size=(2, 16, 15, 3))
    mode = {"wrap": "grid-wrap", "reflection": "reflect"}[padding]
    expected = np.stack(
      [
        scipy.ndimage.spline_filter(image[b, ..., c], 3, mode=mode)
        for b in range(2)
        for c in range(3)
      ]
    ).reshape(2, 3, 16, 15)
    np.testing.assert_allclose(
      compiled.spline_coefficients(image, padding=padding),
      np.moveaxis(expected, 1, -1),
      atol=1e-10,
    )

  @parameterized.parameters(
    (ValueError, "num_axes=4", dict(num_axes=4)),
    (ValueError, "padding='same'", dict(padding="same")),
    (ValueError, "image must be", dict(image=jnp.ones(4))),
    (TypeError, "image must hold", dict(image=jnp.ones((4, 4, 1), bool))),
    (TypeError, "align_corners must be", dict(align_corners=0)),
  )
  def test_wrong_arguments_of_the_filter(self, error, message, arguments):
    with self.assertRaisesRegex(error, message):
      stnjax.spline_coefficients(**{"image": jnp.ones((4, 4, 1)), **arguments})


if __name__ == "__main__":
  absltest.main()
