"""Hard edges: Pillow's, by every method and kernel; fill, mask, gradients."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

import stnjax
from stnjax import sampling, transforms
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import check_gradients, off_lattice_grid, random_grid

SHAPE = (5, 6)
# What Pillow's transforms have, of a steeper kernel than its `resize`.
STEEP = sampling.Method(
  name="steep",
  support=4,
  weights=lambda t: (
    -t + 2 * t**2 - t**3,
    1 - 2 * t**2 + t**3,
    t + t**2 - t**3,
    t**3 - t**2,
  ),
)
RESAMPLING = {
  "nearest": ("nearest", Image.Resampling.NEAREST),
  "linear": ("linear", Image.Resampling.BILINEAR),
  "cubic": (STEEP, Image.Resampling.BICUBIC),
}
# The whole image and around it, turned, sheared, and never on an edge.
MATRICES = (
  [[0.31, 0.0, -2.4], [0.0, 0.43, -1.3]],
  [[0.5, 0.23, -3.4], [-0.31, 0.62, 2.6]],
)


def inside(grid, shape, axes):
  """Whether places are in the pixels of an image, along some axes."""
  result = ~np.isnan(grid).any(axis=-1)
  for axis in axes:
    result &= np.abs(grid[..., axis]) <= 1
  return result


class PillowTest(parameterized.TestCase):
  @parameterized.product(kind=tuple(RESAMPLING), matrix=MATRICES)
  def test_values(self, kind, matrix):
    method, resample = RESAMPLING[kind]
    rng = np.random.default_rng(0)
    image = rng.normal(size=(7, 9)).astype(np.float32)
    # Pillow's places are 0 at the outer edge of the first pixel.
    expected = Image.fromarray(image).transform(
      (24, 20),
      Image.Transform.AFFINE,
      np.ravel(matrix).tolist(),
      resample=resample,
      fillcolor=3.0,
    )
    x, y = np.meshgrid(np.arange(24) + 0.5, np.arange(20) + 0.5)
    places = np.stack([x, y, np.ones_like(x)], -1) @ np.transpose(matrix) - 0.5
    found = sampling.sample_pixels(
      image[..., None],
      places,
      method=method,
      padding="constant",
      fill_value=3.0,
      edge="hard",
    )
    self.assertGreater((found == 3).mean(), 0.1)
    np.testing.assert_allclose(found[..., 0], expected, atol=2e-5)


class ValuesTest(parameterized.TestCase):
  @parameterized.product(
    implementation=tuple(sampling.KERNELS),
    padding=("zeros", "constant", ("wrap", "constant")),
  )
  @pytest.mark.usefixtures("x64")
  def test_linear_by_every_kernel(self, implementation, padding):
    self.check(SHAPE, "linear", padding, implementation)

  @parameterized.product(
    method=("nearest", "cubic", "spline"),
    padding=("constant", ("constant", "reflection")),
  )
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_every_method(self, method, padding):
    self.check(SHAPE, method, padding)

  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_volumes(self):
    self.check((3, 4, 5), "linear", "constant")

  def check(self, shape, method, padding, implementation="auto"):
    rng = np.random.default_rng(0)
    num_axes = len(shape)
    image, grid = rng.normal(size=(*shape, 2)), random_grid(rng, num_axes)
    grid[(-1,) * num_axes][0] = np.nan
    grid[(1,) * num_axes] = 1.0  # the outer corner belongs to the image
    fill = (
      {"fill_value": np.array([2.0, -3.0])} if "constant" in padding else {}
    )
    found, mask = compiled.grid_sample(
      image,
      grid,
      method=method,
      padding=padding,
      **fill,
      edge="hard",
      return_mask=True,
      implementation=implementation,
    )
    names = (padding,) * num_axes if isinstance(padding, str) else padding
    filled = [name in ("zeros", "constant") for name in names]
    read = [
      "border" if fills else name
      for fills, name in zip(filled, names, strict=True)
    ]
    axes = [axis for axis, fills in enumerate(filled[::-1]) if fills]
    expected = np.where(
      inside(grid, shape, axes)[..., None],
      reference.sample(
        image, grid, method=method, padding=read, align_corners=False
      ),
      fill.get("fill_value", 0),
    )
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_array_equal(mask, inside(grid, shape, range(num_axes)))

  def test_integers(self):
    image = np.full((2, 2, 1), 200, np.uint8)
    points = np.array([[[-0.5, 1.5], [-0.51, 0.0], [np.inf, 0.0]]], np.float32)
    found = sampling.sample_pixels(
      image, points, padding="constant", fill_value=9.6, edge="hard"
    )
    self.assertEqual(found.dtype, jnp.uint8)
    self.assertEqual(found.ravel().tolist(), [200, 10, 10])

  @pytest.mark.slow
  def test_antialiased(self):
    """The fill stays out of the image that a warp shrinks."""
    theta = transforms.scaling(jnp.array([3.0, 3.0]))
    found, mask = stnjax.warp(
      jnp.ones((8, 8, 1)),
      theta,
      padding="constant",
      fill_value=5.0,
      edge="hard",
      antialias=True,
      return_mask=True,
    )
    places = np.abs(3 * (np.arange(8) - 3.5)) <= 4
    expected = places[:, None] & places
    np.testing.assert_allclose(mask, expected)
    np.testing.assert_allclose(
      found[..., 0], np.where(expected, 1, 5), atol=1e-5
    )


class GradientTest(parameterized.TestCase):
  @parameterized.parameters(*sampling.KERNELS)
  @pytest.mark.usefixtures("x64")
  def test_numerical(self, implementation):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*SHAPE, 2))
    grid = off_lattice_grid(rng, SHAPE, -2, 7, False)
    grid += 0.001  # beside the middle between two pixels, where edges are
    check_gradients(
      lambda image, grid, fill: stnjax.grid_sample(
        image,
        grid,
        padding="constant",
        fill_value=fill,
        edge="hard",
        implementation=implementation,
      ),
      image,
      grid,
      np.array([0.7, 0.2]),
    )

  def test_finite_on_the_edge_and_where_nothing_is_finite(self):
    image = np.random.default_rng(0).normal(size=(*SHAPE, 1))
    points = np.array(
      [[[-0.5, 4.5], [0, 0], [5, 4], [np.nan, 1], [np.inf, 1]]], np.float32
    )

    def total(image, points, fill):
      return sampling.sample_pixels(
        image, points, padding="constant", fill_value=fill, edge="hard"
      )[:, :3].sum()

    gradients = jax.grad(total, (0, 1))(image, points, jnp.inf)
    for gradient in gradients:
      self.assertTrue(np.isfinite(gradient).all())


class ErrorsTest(parameterized.TestCase):
  @parameterized.parameters("border", "wrap", (("reflection", "wrap"),))
  def test_nothing_to_fill(self, padding):
    with self.assertRaisesRegex(
      ValueError, "edge='hard' needs padding='zeros' or 'constant', got"
    ):
      stnjax.warp(
        jnp.ones((3, 4, 1)), jnp.eye(2, 3), padding=padding, edge="hard"
      )

  def test_unknown(self):
    message = "edge='sharp' is unknown; accepted: 'blend', 'hard'"
    with self.assertRaisesRegex(ValueError, message):
      stnjax.warp(jnp.ones((3, 4, 1)), jnp.eye(2, 3), edge="sharp")


if __name__ == "__main__":
  absltest.main()
