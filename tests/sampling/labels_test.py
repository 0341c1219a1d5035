"""Method "label": the argmax of linearly warped one-hot images."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import sampling, transforms
from tests import reference
from tests.sampling import compiled
from tests.sampling.cases import random_grid

SHAPE = (5, 6)


def by_one_hot(image, grid, padding, fill=0, hard=False):
  """The smallest class with the largest linear sample; the fill is a class."""
  names = (padding,) * grid.shape[-1] if isinstance(padding, str) else padding
  filled = [name in ("zeros", "constant") for name in names]
  read = ["zeros" if fills else n for fills, n in zip(filled, names)]
  if hard:
    read = ["border" if fills else n for fills, n in zip(filled, names)]
  classes = np.unique([*image.ravel(), fill])
  options = dict(method="linear", align_corners=False, padding=read)
  scores = np.stack(
    [reference.sample(image == c, grid, **options) for c in classes], -1
  )
  inside = reference.sample(np.ones(image.shape), grid, **options)
  scores[..., list(classes).index(fill)] += 1 - inside
  found = classes[scores.argmax(-1)]
  if hard:
    outside = np.isnan(grid).any(-1)
    for axis, fills in enumerate(filled[::-1]):
      outside |= fills & (np.abs(grid[..., axis]) > 1)
    found[outside] = fill
  return found


class ReferenceTest(parameterized.TestCase):
  @parameterized.parameters(
    (SHAPE, "zeros", np.int32),
    (SHAPE, "constant", np.uint8),
    (SHAPE, ("border", "wrap"), np.int32),
    ((3, 4, 5), "constant", np.int16),
  )
  @pytest.mark.usefixtures("x64")
  def test_argmax_of_one_hot_images(self, shape, padding, dtype):
    self.check(shape, padding, dtype)

  @parameterized.product(
    shape=(SHAPE, (3, 4, 5)), padding=("border", "reflection", "wrap", "zeros")
  )
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_every_padding(self, shape, padding):
    self.check(shape, padding, np.int64)

  @parameterized.parameters("zeros", "constant", (("wrap", "constant"),))
  @pytest.mark.usefixtures("x64")
  def test_hard_edge(self, padding):
    self.check(SHAPE, padding, np.int32, edge="hard")

  def check(self, shape, padding, dtype, **options):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4, (*shape, 2)).astype(dtype)
    grid = np.concatenate([random_grid(rng, len(shape)) for _ in range(4)])
    grid[(-1,) * len(shape)][0] = np.nan
    fill = 9 if "constant" in padding else 0
    if fill:
      options["fill_value"] = fill
    found = compiled.grid_sample(
      image, grid, method="label", padding=padding, **options
    )
    self.assertEqual(found.dtype, dtype)
    expected = by_one_hot(
      image, grid, padding, fill, hard=options.get("edge") == "hard"
    )
    np.testing.assert_array_equal(found, expected)

  def test_booleans_are_those_of_integers(self):
    rng = np.random.default_rng(0)
    image, grid = rng.uniform(size=(*SHAPE, 1)) < 0.5, random_grid(rng, 2)
    ours, integers = (
      stnjax.grid_sample(i, grid, method="label", padding="border")
      for i in (image, image.astype(np.int32))
    )
    self.assertEqual(ours.dtype, jnp.bool_)
    np.testing.assert_array_equal(ours, integers == 1)


class TiesTest(absltest.TestCase):
  def test_the_smallest_label_wins(self):
    image = np.array([[7, 3], [5, 3]], np.uint8)[..., None]
    points = np.array(
      [[[0.5, 0.0], [0.5, 0.5], [0.0, 0.5], [0.25, 0.0], [0.25, 0.5]]],
      np.float32,
    )
    found = sampling.sample_pixels(image, points, method="label")
    # The last one: 3/8 of 7 and of 5, and a quarter of 3.
    self.assertEqual(found.ravel().tolist(), [3, 3, 5, 7, 5])

  def test_a_tie_with_the_fill(self):
    image = np.full((2, 2, 1), 4, np.int32)
    points = np.array([[[-0.5, 0.0], [-0.5, -0.5]]], np.float32)
    for fill, expected in ((9, [4, 9]), (1, [1, 1])):
      found = sampling.sample_pixels(
        image, points, method="label", padding="constant", fill_value=fill
      )
      self.assertEqual(found.ravel().tolist(), expected)


class WarpTest(absltest.TestCase):
  def test_labels_that_floats_cannot_hold(self):
    big = np.array([[2**31 - 1], [2**31 - 2]], np.int32).repeat(3, 1)[..., None]
    found = compiled.warp(
      big,
      transforms.translation(jnp.array([0.1, 0.0])),
      method="label",
      padding="border",
    )
    np.testing.assert_array_equal(found, big)

  @pytest.mark.slow
  def test_batches_jit_and_mask(self):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 3, (2, *SHAPE, 1)).astype(np.uint8)
    theta = transforms.rotation(jnp.array([0.3, -0.8]))
    found, mask = compiled.warp(images, theta, method="label", return_mask=True)
    for index in range(2):
      grid = np.asarray(stnjax.affine_grid(theta[index], SHAPE), np.float64)
      expected = by_one_hot(images[index], grid, "zeros")
      np.testing.assert_array_equal(found[index], expected)
      linear = reference.sample(
        np.ones((*SHAPE, 1)), grid, method="linear", padding="zeros",
        align_corners=False,
      )  # fmt: skip
      np.testing.assert_allclose(mask[index], linear[..., 0], atol=1e-5)

  def test_no_gradient(self):
    image = np.random.default_rng(0).integers(0, 3, (*SHAPE, 1))

    def total(theta):
      warped = compiled.warp(image, theta, method="label")
      return warped.astype(jnp.float32).sum()

    np.testing.assert_array_equal(jax.grad(total)(jnp.eye(2, 3) * 0.9), 0)


class ErrorsTest(parameterized.TestCase):
  def test_floats_are_no_labels(self):
    message = (
      "method='label' needs an image of integers or booleans, got dtype float32"
    )
    with self.assertRaisesRegex(TypeError, message):
      stnjax.warp(jnp.ones((3, 4, 1)), jnp.eye(2, 3), method="label")

  def test_an_implementation_that_reads_no_labels_is_named(self):
    image = jnp.ones((3, 4, 1), jnp.int32)
    with self.assertRaisesRegex(ValueError, "'matmul'.* and method='label'"):
      stnjax.warp(image, jnp.eye(2, 3), method="label", implementation="matmul")

  def test_labels_cannot_be_blurred(self):
    image = jnp.ones((3, 4, 1), jnp.int32)
    with self.assertRaisesRegex(ValueError, "other than 'nearest' and 'label'"):
      stnjax.warp(image, jnp.eye(2, 3), method="label", antialias=True)


if __name__ == "__main__":
  absltest.main()
