"""The spatial transformer as a layer, and affine fits of grids."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import coordinates, nn, transforms

IMAGES = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32)
FEATURES = np.random.default_rng(1).normal(size=(2, 4, 5, 2))
FEATURES = FEATURES.astype(np.float32)


def constant(*values):
  """A localiser that says the same of all images."""
  return lambda features: jnp.tile(jnp.array(values), (len(features), 1))


def bulge(params, shape):
  points = coordinates.lattice(shape)
  return points * (
    1 + params[..., None, None, :] * (points**2).sum(-1)[..., None]
  )


BULGE = transforms.Family(name="bulge", num_params=lambda n: 1, grid=bulge)
PARAMETERS = (0.1, -0.2, 0.3, 0.05, -0.1, 0.2)


class TransformerTest(parameterized.TestCase):
  @parameterized.parameters(*transforms.FAMILIES, BULGE)
  @pytest.mark.slow
  def test_zeros_are_the_identity(self, family):
    count = transforms.num_params(family)
    for padding in ("zeros", "border"):
      transformer = nn.SpatialTransformer(
        constant(*[0.0] * count), family, padding
      )
      warped, _ = transformer(IMAGES)
      np.testing.assert_allclose(warped, IMAGES, atol=1e-5)

  @parameterized.product(
    padding=("zeros", "border", "reflection"), edge_gradient=(True, False)
  )
  def test_it_warps_its_features(self, padding, edge_gradient):
    transformer = nn.SpatialTransformer(
      constant(*PARAMETERS), "affine", padding, edge_gradient=edge_gradient
    )
    warped, theta = transformer(FEATURES)
    expected = np.eye(2, 3) + np.reshape(PARAMETERS, (2, 3))
    np.testing.assert_allclose(theta, np.stack([expected] * 2), atol=1e-6)
    np.testing.assert_allclose(
      warped, stnjax.warp(FEATURES, theta, padding=padding), atol=1e-5
    )

  @pytest.mark.slow
  def test_it_warps_images_where_features_say(self):
    weights = np.random.default_rng(2).normal(0, 0.2, (2, 4)).astype(np.float32)

    def localiser(features):
      return features.mean(axis=(1, 2)) @ weights

    transformer = nn.SpatialTransformer(
      localiser, "similarity", output_shape=(5, 6)
    )
    warped, theta = transformer(FEATURES, warps=IMAGES)
    params = FEATURES.mean(axis=(1, 2)) @ weights
    np.testing.assert_allclose(
      theta, transforms.matrix(params, "similarity"), atol=1e-6
    )
    expected = stnjax.warp(IMAGES, theta, output_shape=(5, 6), padding="border")
    np.testing.assert_allclose(warped, expected, atol=1e-5)

  @parameterized.parameters("zeros", "border", "wrap")
  def test_a_family_of_grids(self, padding):
    transformer = nn.SpatialTransformer(constant(0.3), BULGE, padding)
    warped, theta = transformer(IMAGES)
    np.testing.assert_allclose(theta, [[0.3]] * 2)
    expected = stnjax.grid_sample(IMAGES, bulge(theta, (9, 7)), padding=padding)
    np.testing.assert_allclose(warped, expected, atol=1e-5)

  @pytest.mark.slow
  def test_two_pixels_can_leave_the_identity(self):
    """A map that is all edge has a gradient with respect to the shift."""
    ramp = jnp.arange(4.0).reshape(1, 2, 2, 1)

    def total(shift, edge_gradient):
      transformer = nn.SpatialTransformer(
        lambda features: shift[None],
        "translation",
        edge_gradient=edge_gradient,
      )
      return transformer(ramp)[0][0, 0, 0, 0]

    with_edge = jax.grad(total)(jnp.zeros(2), True)
    # Half the width is a pixel: one to the right, two below.
    np.testing.assert_allclose(with_edge, [1, 2], atol=1e-6)

  @pytest.mark.slow
  def test_in_a_module_it_learns(self):
    rngs = nnx.Rngs(0)
    localiser = nn.LocalisationNet((9, 7, 1), 6, convs=((4, 3),), rngs=rngs)
    transformer = nn.SpatialTransformer(localiser)
    images = jnp.exp(-4 * coordinates.lattice((9, 7)) ** 2).prod(axis=-1)
    images = jnp.tile(images[None, ..., None], (2, 1, 1, 1))
    shift = transforms.translation(jnp.array([0.3, 0.2]))
    wanted = stnjax.warp(images, shift, padding="border")

    @nnx.jit
    def step(transformer):
      def loss(transformer):
        return ((transformer(images)[0] - wanted) ** 2).mean()

      value, gradient = nnx.value_and_grad(loss)(transformer)
      params = nnx.state(transformer, nnx.Param)
      nnx.update(
        transformer, jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient)
      )
      return value

    losses = [step(transformer) for _ in range(20)]
    self.assertLess(losses[-1], 0.5 * losses[0])

  @parameterized.parameters(
    (dict(family="euclid"), "family='euclid'"),
    (dict(padding="constant"), "padding='constant'.*'border'"),
    (dict(output_shape=(0, 3)), "output_shape must be"),
  )
  def test_options_are_checked(self, options, message):
    with self.assertRaisesRegex(ValueError, message):
      nn.SpatialTransformer(constant(0.0), **options)

  def test_the_number_of_parameters_is_checked(self):
    transformer = nn.SpatialTransformer(constant(0.0, 0.0), "rotation")
    with self.assertRaisesRegex(
      ValueError, r"localiser must return .*\[B, 1\].*'rotation'.*\(2, 2\)"
    ):
      transformer(IMAGES)


class FitTest(parameterized.TestCase):
  @parameterized.parameters((4, 6), (5, 1), (3, 3))
  def test_against_least_squares(self, *shape):
    rng = np.random.default_rng(0)
    lattice = np.asarray(coordinates.lattice(shape))
    grid = lattice + rng.normal(0, 0.3, (3, *shape, 2)).astype(np.float32)
    transformer = nn.SpatialTransformer(
      constant(0.0),
      transforms.Family(
        name="given", num_params=lambda n: 1, grid=lambda p, shape: grid
      ),
    )
    pose = np.asarray(transformer.pose(jnp.zeros((3, 1)), shape))
    moved = (grid - lattice).reshape(3, -1, 2)
    design = np.concatenate([lattice, np.ones((*shape, 1))], axis=-1)
    for index in range(3):  # of least norm, where an axis has one pixel
      fit, *_ = np.linalg.lstsq(design.reshape(-1, 3), moved[index], rcond=None)
      np.testing.assert_allclose(pose[index], np.eye(2, 3) + fit.T, atol=1e-5)

  def test_of_matrices_it_is_theta(self):
    transformer = nn.SpatialTransformer(constant(0.0), "projective")
    theta = jnp.ones((2, 3, 3))
    self.assertIs(transformer.pose(theta, (3, 4)), theta)


if __name__ == "__main__":
  absltest.main()
