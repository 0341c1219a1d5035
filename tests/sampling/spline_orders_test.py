"""Splines of order 2 to 5: by definition, scipy's, fill and gradients."""

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import stnjax
from stnjax import sampling
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, random_grid

OTHERS = {"spline2": 2, "spline4": 4, "spline5": 5}
MODES = (
  ("zeros", False),
  ("border", False),
  ("reflection", False),
  ("reflection", True),
  ("wrap", False),
)
SCIPY = {
  ("zeros", False): "grid-constant",
  ("border", False): "nearest",
  ("reflection", False): "reflect",
  ("reflection", True): "mirror",
  ("wrap", False): "grid-wrap",
}
SMALL = ((1, 2), (2, 3), (3, 1))  # with fewer pixels than taps


def cases(quick, slow):
  marked = [
    pytest.param(*c, marks=pytest.mark.slow) for c in slow if c not in quick
  ]
  return [*quick, *marked]


def check_definition(shape, method, padding, align_corners):
  rng = np.random.default_rng(0)
  image, grid = rng.normal(size=(*shape, 2)), random_grid(rng, len(shape))
  options = dict(method=method, padding=padding, align_corners=align_corners)
  found = compiled.grid_sample(image, grid, **options)
  expected = reference.sample(image, grid, **options)
  np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.usefixtures("x64")
class TestDefinition:
  @pytest.mark.parametrize(
    ("shape", "method", "mode"),
    cases(
      [
        ((2, 3), "spline4", ("border", False)),
        ((1, 2), "spline5", ("zeros", False)),
        ((5, 6), "spline2", ("wrap", False)),
        ((5, 6), "spline5", ("border", False)),
      ],
      [
        (shape, method, mode)
        for shape in ((5, 6), *SMALL)
        for method in OTHERS
        for mode in MODES
      ],
    ),
  )
  def test_images(self, shape, method, mode):
    check_definition(shape, method, *mode)

  @pytest.mark.parametrize("method", OTHERS)
  @pytest.mark.slow
  def test_volumes(self, method):
    check_definition((3, 4, 2), method, ("zeros", "border", "wrap"), False)

  @pytest.mark.parametrize(
    ("method", "mode"),
    cases(
      [("spline4", ("reflection", True)), ("spline5", ("zeros", False))],
      [(method, mode) for method in OTHERS for mode in MODES],
    ),
  )
  def test_those_of_scipy(self, method, mode):
    padding, align_corners = mode
    rng = np.random.default_rng(0)
    image = rng.normal(size=(20, 24))
    points = rng.uniform(-11, 30, (7, 8, 2))
    points[0] = np.round(2 * points[0]) / 2  # centres, and in the middle
    expected = scipy.ndimage.map_coordinates(
      image,
      np.moveaxis(points, -1, 0)[::-1],
      order=OTHERS[method],
      mode=SCIPY[mode],
    )
    found = sampling.sample_pixels(
      image[..., None],
      points,
      method=method,
      padding=padding,
      align_corners=align_corners,
    )
    # scipy continues "nearest" and "grid-constant" for 12 pixels only.
    short = padding in ("zeros", "border")
    np.testing.assert_allclose(
      found[..., 0], expected, atol=1e-4 if short else 1e-10
    )


class SplineTest(parameterized.TestCase):
  @parameterized.parameters(*OTHERS)
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_numerical_gradients_also_at_and_between_pixels(self, method):
    image = np.random.default_rng(0).normal(size=(6, 7, 1))
    points = np.array([[[3.0, 2], [2.5, 3.25], [4.999, 1.5], [-0.3, 7.4]]])
    check_gradients(
      lambda image, points, fill: sampling.sample_pixels(
        image, points, method=method, padding="constant", fill_value=fill
      ),
      image,
      points,
      np.array(0.7),
    )

  @parameterized.parameters(*OTHERS)
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_fill(self, method):
    rng = np.random.default_rng(0)
    image, grid = rng.normal(size=(5, 6, 1)), random_grid(rng, 2)
    found = compiled.grid_sample(
      image, grid, method=method, padding="constant", fill_value=3.0
    )
    options = dict(method=method, padding="zeros", align_corners=False)
    expected = 3 + reference.sample(image - 3, grid, **options)
    np.testing.assert_allclose(found, expected, atol=1e-10)

  @parameterized.parameters(*OTHERS.items())
  @pytest.mark.slow
  def test_coefficients_can_be_reused(self, method, order):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(5, 6, 2)).astype(np.float32)
    grid = random_grid(rng, 2).astype(np.float32)
    padding = "border", "wrap"
    coefficients = compiled.spline_coefficients(
      image, order=order, padding=padding
    )
    options = dict(method=method, padding=padding)
    found = compiled.grid_sample(coefficients, grid, prefilter=False, **options)
    expected = compiled.grid_sample(image, grid, **options)
    np.testing.assert_allclose(found, expected, atol=1e-5)

  @parameterized.parameters(*OTHERS)
  def test_pixels_of_single_precision(self, method):
    """The spline goes through the pixels, also in float32."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 12, 2)).astype(np.float32)
    found = compiled.warp(image, jnp.eye(2, 3), method=method, padding="border")
    np.testing.assert_allclose(found, image, atol=2e-5)

  def test_an_order_that_is_not_there(self):
    image = jnp.ones((3, 4, 1))
    with self.assertRaisesRegex(ValueError, "order=6 is unknown; accepted: 2"):
      stnjax.spline_coefficients(image, order=6)
    with self.assertRaisesRegex(ValueError, "method='spline6' is unknown"):
      stnjax.warp(image, jnp.eye(2, 3), method="spline6")


if __name__ == "__main__":
  absltest.main()
