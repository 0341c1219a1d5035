"""Families: parameters to matrices, worked out by hand, and families added."""

from unittest import mock

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
from jax.test_util import check_grads
import numpy as np
import pytest
import scipy.linalg

import stnjax
from stnjax import sampling, transforms
from tests.sampling import compiled

EXPECTED = {  # parameters -> matrix, worked out by hand
  "translation": ([0.3, -0.2], [[1, 0, 0.3], [0, 1, -0.2]]),
  "rotation": ([np.pi / 6], [[3**0.5 / 2, -0.5, 0], [0.5, 3**0.5 / 2, 0]]),
  "scale": ([np.log(2)], [[2, 0, 0], [0, 2, 0]]),
  "rotation_scale": ([np.log(2), np.pi / 2], [[0, -2, 0], [2, 0, 0]]),
  "attention": ([np.log(2), 0.1, 0.4], [[2, 0, 0.1], [0, 2, 0.4]]),
  "similarity": (
    [np.log(2), np.pi / 2, 0.1, 0.4],
    [[0, -2, 0.1], [2, 0, 0.4]],
  ),
  "affine": (
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    [[1.1, 0.2, 0.3], [0.4, 1.5, 0.6]],
  ),
  "projective": (
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    [[1.1, 0.2, 0.3], [0.4, 1.5, 0.6], [0.7, 0.8, 1]],
  ),
}
FAMILIES = [f for f in transforms.FAMILIES if transforms.FAMILIES[f].matrix]


class FamilyTest(parameterized.TestCase):
  def test_every_family_is_covered(self):
    self.assertEqual(list(EXPECTED), FAMILIES)

  @parameterized.parameters(*EXPECTED.items())
  def test_parameters_mean_what_they_say(self, family, expected):
    params, matrix = expected
    np.testing.assert_allclose(
      compiled.matrix(jnp.array(params), family), matrix, atol=1e-6
    )
    self.assertEqual(transforms.num_params(family), len(params))

  @parameterized.product(family=FAMILIES, batch=((0,), (2, 3)))
  def test_batched_equals_one_by_one(self, family, batch):
    params = np.random.default_rng(0).normal(
      size=(*batch, transforms.num_params(family))
    )
    matrices = compiled.matrix(params, family)
    self.assertEqual(matrices.shape[:-2], batch)
    for place in np.ndindex(*batch):
      np.testing.assert_allclose(
        matrices[place], compiled.matrix(params[place], family), rtol=1e-6
      )

  @parameterized.parameters("rotation", "similarity")
  @pytest.mark.usefixtures("x64")
  def test_gradients(self, family):
    self.check_gradients(family, 2)

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradients_of_volumes(self):
    self.check_gradients("similarity", 3)

  @parameterized.product(family=FAMILIES, num_axes=(2, 3))
  @pytest.mark.slow
  @pytest.mark.usefixtures("x64")
  def test_gradients_of_every_family(self, family, num_axes):
    self.check_gradients(family, num_axes)

  def check_gradients(self, family, num_axes):
    matrix = jax.jit(lambda p: transforms.matrix(p, family, num_axes=num_axes))
    size = transforms.num_params(family, num_axes=num_axes)
    for scale in (0.0, 1e-9, 0.3):
      params = scale * np.arange(1.0, size + 1)
      check_grads(matrix, (params,), 2, ("rev",))

  def test_half_precision_parameters_make_wide_matrices(self):
    matrix = transforms.matrix(jnp.zeros(6, jnp.bfloat16), "affine")
    self.assertEqual(matrix.dtype, jnp.float32)


class VolumeTest(parameterized.TestCase):
  def test_parameters_mean_what_they_say(self):
    cases = {
      "translation": ([0.1, 0.2, 0.3], np.eye(3), [0.1, 0.2, 0.3]),
      "scale": ([np.log(2)], 2 * np.eye(3), 0),
      "rotation": (  # a quarter turn about z: +x towards +y
        [0, 0, np.pi / 2],
        [[0, -1, 0], [1, 0, 0], [0, 0, 1]],
        0,
      ),
      "attention": (
        [np.log(2), 0.1, 0.2, 0.3],
        2 * np.eye(3),
        [0.1, 0.2, 0.3],
      ),
      "similarity": (
        [np.log(2), np.pi / 2, 0, 0, 0.1, 0.2, 0.3],
        [[2, 0, 0], [0, 0, -2], [0, 2, 0]],
        [0.1, 0.2, 0.3],
      ),
    }
    for family, (params, linear, offset) in cases.items():
      matrix = compiled.matrix(jnp.array(params), family, num_axes=3)
      np.testing.assert_allclose(matrix[:, :3], linear, atol=1e-6)
      np.testing.assert_allclose(matrix[:, 3], np.zeros(3) + offset, atol=1e-6)
    params = np.arange(15.0) / 10
    affine = compiled.matrix(params[:12], "affine", num_axes=3)
    np.testing.assert_allclose(
      affine, np.eye(3, 4) + params[:12].reshape(3, 4), rtol=1e-6
    )
    projective = compiled.matrix(params, "projective", num_axes=3)
    expected = np.eye(4) + np.append(params, 0).reshape(4, 4)
    np.testing.assert_allclose(projective, expected, rtol=1e-6)

  @parameterized.parameters(*FAMILIES)
  def test_zeros_are_the_identity(self, family):
    size = transforms.num_params(family, num_axes=3)
    zero = compiled.matrix(np.zeros(size), family, num_axes=3)
    np.testing.assert_array_equal(zero, np.eye(*zero.shape))

  @parameterized.parameters(0.0, 1e-4, 1.0, 3.0, 7.0)
  @pytest.mark.usefixtures("x64")
  def test_rotation_vector_is_the_exponential(self, angle):
    vector = angle * np.array([2.0, -1.0, 2.0]) / 3
    x, y, z = vector
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = compiled.matrix(vector, "rotation", num_axes=3)
    np.testing.assert_allclose(
      matrix[:, :3], scipy.linalg.expm(cross), atol=1e-12
    )

  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_rotation_vector_is_smooth_near_the_identity(self):
    hessian = jax.jit(
      jax.hessian(lambda p: transforms.matrix(p, "rotation", num_axes=3))
    )
    at_zero = hessian(jnp.zeros(3))
    for size in (1e-300, 1e-15, 1e-10, 1e-6):
      near = hessian(jnp.full(3, size))
      np.testing.assert_allclose(near, at_zero, atol=2 * size)

  @parameterized.parameters("x", "y", "z")
  def test_rotation_about_an_axis(self, axis):
    vector = 0.7 * np.eye(3)["xyz".index(axis)]
    np.testing.assert_allclose(
      transforms.rotation(0.7, axis=axis),
      compiled.matrix(vector, "rotation", num_axes=3),
      atol=1e-6,
    )
    batch = transforms.rotation(np.array([[0.1, 0.2]]), axis=axis)
    self.assertEqual(batch.shape, (1, 2, 3, 4))


class OwnFamilyTest(absltest.TestCase):
  """A family that a user adds is used like any other."""

  MIRROR = transforms.Family(
    name="mirror_and_shift",
    num_params=lambda num_axes: num_axes,
    matrix=lambda params, num_axes: transforms.compose(
      transforms.translation(params),
      transforms.scaling(jnp.array([-1.0, *[1.0] * (num_axes - 1)])),
    ),
  )

  def check(self, family):
    self.assertEqual(transforms.num_params(family, num_axes=3), 3)
    params = jnp.array([0.5, 0.0])
    matrix = transforms.matrix(params, family)
    np.testing.assert_allclose(matrix, [[-1, 0, 0.5], [0, 1, 0]])
    ramp = jnp.arange(4.0).reshape(1, 4, 1)
    expected = [0.0, 3.0, 2.0, 1.0]  # mirrored, and a pixel to the right
    np.testing.assert_allclose(stnjax.warp(ramp, matrix).ravel(), expected)
    grid = sampling.family_grid(params, family, (1, 4))
    out = stnjax.grid_sample(ramp, grid)
    np.testing.assert_allclose(out.ravel(), expected, atol=1e-6)

  @pytest.mark.slow
  def test_as_an_object(self):
    self.check(self.MIRROR)
    self.assertNotIn(self.MIRROR.name, transforms.FAMILIES)

  def test_by_name(self):
    families = transforms.FAMILIES
    with mock.patch.dict(families._objects):
      families.register(self.MIRROR.name, self.MIRROR)
      self.check(self.MIRROR.name)
    with self.assertRaisesRegex(ValueError, "family='mirror_and_shift' is unk"):
      transforms.num_params(self.MIRROR.name)

  def test_a_family_has_either_matrices_or_grids(self):
    for given in ({}, dict(matrix=lambda p, n: p, grid=lambda p, s: p)):
      with self.assertRaisesRegex(ValueError, "'odd' needs either matrix or"):
        transforms.Family(name="odd", num_params=lambda n: 1, **given)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(
    (lambda: transforms.num_params("euclid"), "family='euclid'.*accepted"),
    (lambda: transforms.matrix(jnp.zeros(5), "affine"), r"\[..., 6\]"),
    (lambda: transforms.matrix(0.0, "rotation"), r"params.*\[..., 1\]"),
    (
      lambda: transforms.matrix(np.zeros(4), "affine", num_axes=4),
      "num_axes=4 is unknown",
    ),
    (
      lambda: transforms.matrix(np.zeros(6), "affine", num_axes=3),
      r"params.*\[..., 12\]",
    ),
    (lambda: transforms.num_params(["affine"]), "family=.*is unknown"),
  )
  def test_wrong_arguments_are_named(self, call, message):
    with self.assertRaisesRegex(ValueError, message):
      call()


if __name__ == "__main__":
  absltest.main()
