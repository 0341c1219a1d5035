"""Types of results, which mypy checks: `assert_type` does nothing when run."""

import inspect
from typing import assert_type

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp

import stnjax
from stnjax import nn, sampling, transforms
from stnjax.registry import Registry
from stnjax.sampling import options

_IMAGE = jnp.ones((4, 5, 1))
_THETA = transforms.identity()
_GRID = stnjax.affine_grid(_THETA, (2, 3))


class TypesTest(parameterized.TestCase):
  def test_without_a_mask_the_result_is_an_array(self) -> None:
    warped = stnjax.warp(_IMAGE, _THETA, output_shape=(2, 3), antialias=True)
    sampled = stnjax.grid_sample(_IMAGE, _GRID, return_mask=False)
    at_pixels = sampling.sample_pixels(_IMAGE, _GRID, method="cubic")
    assert_type(warped, jax.Array)
    assert_type(sampled, jax.Array)
    assert_type(at_pixels, jax.Array)
    for result in (warped, sampled, at_pixels):
      self.assertEqual(result.shape, (2, 3, 1))

  def test_with_a_mask_the_result_is_a_pair(self) -> None:
    warped = stnjax.warp(_IMAGE, _THETA, return_mask=True, antialias=True)
    sampled = stnjax.grid_sample(_IMAGE, _GRID, return_mask=True)
    at_pixels = sampling.sample_pixels(_IMAGE, _GRID, return_mask=True)
    assert_type(warped, tuple[jax.Array, jax.Array])
    assert_type(sampled, tuple[jax.Array, jax.Array])
    assert_type(at_pixels, tuple[jax.Array, jax.Array])
    for image, mask in (warped, sampled, at_pixels):
      self.assertEqual(image.shape, (*mask.shape, 1))

  @parameterized.parameters(True, False)
  def test_with_a_flag_the_result_is_either(self, return_mask: bool) -> None:
    result = stnjax.warp(_IMAGE, _THETA, return_mask=return_mask)
    assert_type(result, jax.Array | tuple[jax.Array, jax.Array])
    self.assertEqual(isinstance(result, tuple), return_mask)

  def test_a_transformer_returns_images_and_parameters(self) -> None:
    net = nn.LocalisationNet((28, 28, 1), 6, rngs=nnx.Rngs(0))
    transformer = nn.SpatialTransformer(net, family="affine")
    warped, theta = transformer(jnp.ones((2, 28, 28, 1)))
    assert_type(warped, jax.Array)
    assert_type(theta, jax.Array)
    self.assertEqual(warped.shape, (2, 28, 28, 1))

  def test_a_registry_returns_what_it_is_given(self) -> None:
    sizes: Registry[int] = Registry("size")
    size = sizes.register("small", 1)
    assert_type(size, int)
    self.assertEqual(sizes["small"], size)

  @parameterized.parameters(
    (stnjax.grid_sample, options.SamplingOptions),
    (sampling.sample_pixels, options.SamplingOptions),
    (stnjax.warp, options.WarpOptions),
  )
  def test_typed_options_are_those_of_the_function(self, function, typed):
    parameters = inspect.signature(function).parameters.values()
    keywords = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    self.assertCountEqual([*typed.__annotations__, "return_mask"], keywords)


if __name__ == "__main__":
  absltest.main()
