"""Public functions under the strict modes of JAX give the same results."""

from absl.testing import absltest, parameterized
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax import coordinates, sampling, transforms

KEY = jax.random.key(0)
DTYPES = ("float32", "bfloat16", "float16", "uint8", "int32")


def image(dtype="float32", shape=(2, 5, 6, 3)):
  return jnp.asarray(np.arange(np.prod(shape)).reshape(shape) % 50, dtype)


def grid(shape=(2, 4, 3, 2)):
  values = np.random.default_rng(0).uniform(-1.2, 1.2, shape)
  return jnp.asarray(values, jnp.float32)


def sampled(method, padding, dtype="float32", **options):
  options.update(method=method, padding=padding)
  if method == "linearised":
    options["key"] = KEY
  if padding == "constant":
    options["fill_value"] = np.array([1, 2, 3], np.int32)
  if sampling.METHODS[method].takes_labels:
    dtype = "int32"
  return lambda: stnjax.grid_sample(
    image(dtype), grid(), return_mask=True, **options
  )


THETA = jnp.array([[1.1, 0.1, 0.2], [0, 0.9, 0]])
SQUARE = transforms.to_homogeneous(THETA)
VOLUME = transforms.matrix(jnp.full(7, 0.1), "similarity", num_axes=3)
CALLS = {
  **{
    f"{method}_{padding}": sampled(method, padding)
    for method in sampling.METHODS
    for padding in ("zeros", "constant", "reflection", "wrap")
  },
  **{f"dtype_{dtype}": sampled("linear", "border", dtype) for dtype in DTYPES},
  "nearest_of_bool": lambda: stnjax.grid_sample(
    image("bool"), grid(), method="nearest"
  ),
  "matmul": sampled("cubic", "zeros", implementation="matmul"),
  "warp": lambda: stnjax.warp(image("uint8"), THETA),
  "warp_by_integers": lambda: stnjax.warp(
    image(), np.eye(2, 3, dtype=np.int32)
  ),
  "warp_antialiased": lambda: stnjax.warp(
    image("bfloat16"), SQUARE, antialias=True, output_shape=(2, 2)
  ),
  "warp_volume": lambda: stnjax.warp(
    image(shape=(4, 3, 5, 1)), VOLUME, padding="reflection", align_corners=True
  ),
  "splat": lambda: stnjax.splat(jnp.ones((4, 3, 1), jnp.uint8), grid(), (5, 6)),
  "splat_volume": lambda: stnjax.splat(
    jnp.ones((2, 3, 2, 1)), grid((2, 3, 2, 3)), (3, 3, 3)
  ),
  "spline_coefficients": lambda: stnjax.spline_coefficients(image("uint8")),
  "affine_grid": lambda: stnjax.affine_grid(SQUARE, (3, 4)),
  "affine_grid_volume": lambda: stnjax.affine_grid(VOLUME, (3, 4, 2)),
  "tps_grid": lambda: stnjax.tps_grid(grid((2, 3, 4, 2)), (5, 4)),
  "tps_grid_volume": lambda: stnjax.tps_grid(grid((2, 3, 2, 3)), (5, 4, 3)),
  "flow_grid": lambda: stnjax.flow_grid(grid()),
  "velocity_grid": lambda: stnjax.velocity_grid(grid()),
  "flow_grid_pixels": lambda: stnjax.flow_grid(grid(), units="pixels"),
  "compose_flows": lambda: sampling.compose_flows(grid(), grid()[0]),
  "invert_flow": lambda: sampling.invert_flow(grid(), steps=2),
  "jacobian_determinant": lambda: sampling.jacobian_determinant(grid()),
  "jacobian_determinant_volume": lambda: sampling.jacobian_determinant(
    grid((2, 3, 2, 3))
  ),
  "sample_pixels": lambda: sampling.sample_pixels(
    image("uint8"), np.ones((4, 3, 2), np.int32)
  ),
  "to_pixels": lambda: coordinates.to_pixels(grid(), (5, 6)),
  "to_normalised": lambda: coordinates.to_normalised(grid(), (5, 6)),
  "lattice": lambda: coordinates.lattice((2, 3), dtype=jnp.bfloat16),
  **{
    f"{family}_{axes}": lambda family=family, axes=axes: transforms.matrix(
      np.full((2, transforms.num_params(family, num_axes=axes)), 1, np.int32),
      family,
      num_axes=axes,
    )
    for family, entry in transforms.FAMILIES.items()
    for axes in (2, 3)
    if entry.matrix
  },
  **{
    f"{family}_grid": lambda family=family: sampling.family_grid(
      np.full((2, transforms.num_params(family)), 1, np.int32), family, (3, 4)
    )
    for family in transforms.FAMILIES
  },
  "rotation": lambda: transforms.rotation(jnp.ones(2, jnp.float16)),
  "rotation_about": lambda: transforms.rotation(0.3, axis="z"),
  "shearing": lambda: transforms.shearing(jnp.ones(2, jnp.bfloat16)),
  "scaling": lambda: transforms.scaling(np.array([1, 2])),
  "translation": lambda: transforms.translation([[0.1, 0.2]]),
  "identity": transforms.identity,
  "compose": lambda: transforms.compose(THETA, SQUARE, jnp.stack([THETA] * 2)),
  "invert": lambda: transforms.invert(jnp.stack([SQUARE] * 2)),
  "from_pixels": lambda: transforms.from_pixels(THETA, (4, 5), (3, 2)),
  "to_pixels_matrix": lambda: transforms.to_pixels(SQUARE, (4, 5)),
  "from_opencv": lambda: transforms.from_opencv(SQUARE, (4, 5)),
  "decompose": lambda: transforms.decompose(jnp.stack([THETA] * 2)),
  "decompose_volume": lambda: transforms.decompose(jnp.stack([VOLUME] * 2)),
  "shearing_of_volumes": lambda: transforms.shearing([1, 2, 3], num_axes=3),
  "about": lambda: transforms.about(THETA, np.array([1, 2])),
  **{
    f"from_points_{family}_{axes}": lambda family=family, axes=axes: (
      transforms.from_points(
        np.arange(15).reshape(5, 3)[:, :axes] ** 2,
        jnp.stack([grid((5, axes))] * 2),
        family,
        weights=np.arange(5),
      )
    )
    for family in ("rigid", "similarity", "affine", "projective")
    for axes in (2, 3)
  },
  "from_boxes": lambda: transforms.from_boxes(
    np.ones((2, 3, 4), np.int32), (4, 5), align_corners=True
  ),
  "apply_to_points": lambda: transforms.apply_to_points(
    jnp.stack([SQUARE] * 2), np.ones((3, 2), np.int32), input_shape=(4, 5)
  ),
  "apply_to_boxes": lambda: transforms.apply_to_boxes(
    jnp.stack([SQUARE] * 2), np.ones((3, 4), np.int32), input_shape=(4, 5)
  ),
  "fit_output": lambda: transforms.fit_output(np.asarray(THETA), (4, 5))[0],
  "from_physical": lambda: transforms.from_physical(
    VOLUME, (1, 2, 3), (4, 5, 6), origin=(0, 0, 0)
  ),
  "to_homogeneous": lambda: transforms.to_homogeneous(THETA),
}


def strictly(call):
  """What a function returns under both strict modes."""
  with (
    jax.numpy_rank_promotion("raise"),
    jax.numpy_dtype_promotion("strict"),
  ):
    return call()


class StrictModesTest(parameterized.TestCase):
  @parameterized.parameters(*CALLS)
  def test_the_same_program(self, name):
    # Functions of their own, so that each is traced anew.
    strict = strictly(lambda: jax.make_jaxpr(lambda: CALLS[name]())())
    self.assertEqual(str(strict), str(jax.make_jaxpr(lambda: CALLS[name]())()))

  @parameterized.parameters(*CALLS)
  @pytest.mark.slow
  def test_the_same_results(self, name):
    chex.assert_trees_all_equal(strictly(CALLS[name]), CALLS[name]())

  @parameterized.parameters(("linear", 2), ("linearised", 2))
  @pytest.mark.slow
  def test_gradients_that_are_worked_out_later(self, method, num_axes):
    self.check_gradients(method, num_axes)

  @parameterized.parameters(("cubic", 2), ("linear", 3))
  @pytest.mark.slow
  def test_longer_gradients_that_are_worked_out_later(self, method, num_axes):
    self.check_gradients(method, num_axes)

  def check_gradients(self, method, num_axes):
    """Transposed, lowered and differentiated again in the caller's mode."""
    shape = (5, 6, 4)[:num_axes]
    pixels, points = image(shape=(2, *shape, 3)), grid((2, *shape, num_axes))
    key = KEY if method == "linearised" else None

    def loss(pixels, points):
      return (
        stnjax.grid_sample(pixels, points, method=method, key=key) ** 2
      ).sum()

    def slope(pixels, points):
      parts = jax.grad(loss, (0, 1))(pixels, points)
      return sum((part**2).sum() for part in parts)

    def programs():
      # "linearised" is differentiated once.
      orders = [loss] if method == "linearised" else [loss, slope]
      return [
        jax.jit(jax.grad(lambda *operands, f=order: f(*operands), (0, 1)))
        .lower(pixels, points)
        .as_text()
        for order in orders
      ]

    self.assertEqual(strictly(programs), programs())


if __name__ == "__main__":
  absltest.main()
