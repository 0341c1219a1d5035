"""Products with banded matrices, compiled and by einsum, against NumPy."""

import functools

from absl.testing import absltest, parameterized
import jax
from jax import export, lax
import jax.numpy as jnp
import numpy as np
import pytest

import stnjax
from stnjax.sampling.kernels import bands
from stnjax.sampling.kernels.bands import Band
from tests.sampling.cases import check_gradients
from tests.sampling.filters_test import afresh

RNG = np.random.default_rng(0)


def banded(count, size, taps):
  """A matrix whose rows have numbers at places that move down."""
  matrix = np.zeros((count, size))
  for row, start in enumerate(np.linspace(0, size - taps, count).astype(int)):
    matrix[row, start : start + taps] = RNG.normal(size=taps)
  return matrix


MATRICES = {
  "shrinks": banded(5, 40, 9),
  "grows": banded(40, 9, 2),
  "one tap": np.eye(7)[::-1].copy(),
  "all": RNG.normal(size=(6, 8)),
  "nothing": np.zeros((3, 4)),
  "some rows of nothing": banded(9, 9, 3) * (np.arange(9) % 2)[:, None],
  "one row": RNG.normal(size=(1, 8)),
  "one column": RNG.normal(size=(8, 1)),
  "many rows": banded(70, 90, 4),
}


@pytest.mark.usefixtures("x64")
class BandsTest(parameterized.TestCase):
  @parameterized.product(
    matrix=tuple(MATRICES), before=(1, 3), after=(1, 2, 3, 4, 5)
  )
  def test_values_and_gradient(self, matrix, before, after):
    self.check(MATRICES[matrix], before, after, compiled=True)

  @parameterized.product(matrix=tuple(MATRICES))
  def test_without_the_compiler(self, matrix):
    self.check(MATRICES[matrix], 2, 3, compiled=False)

  @parameterized.parameters("shrinks", "grows", "many rows")
  def test_long_rows(self, matrix):
    self.check(MATRICES[matrix], 2, 2100, compiled=True)

  def check(self, matrix, before, after, compiled):
    array = RNG.normal(size=(before, matrix.shape[1], after))
    cotangent = RNG.normal(size=(before, matrix.shape[0], after))

    def run(array):
      call = functools.partial(bands.product, band=Band.of(matrix), axis=1)
      value, vjp = jax.vjp(call, array)
      return value, *vjp(jnp.asarray(cotangent))

    value, gradient = afresh(run, array, compiled=compiled)
    expected = np.einsum("oi,bia->boa", matrix, array)
    np.testing.assert_allclose(value, expected, atol=1e-12)
    expected = np.einsum("oi,boa->bia", matrix, cotangent)
    np.testing.assert_allclose(gradient, expected, atol=1e-12)

  @parameterized.product(axis=(0, 1, 2, 3), dtype=(np.float32, np.float64))
  def test_axes_and_dtypes(self, axis, dtype):
    matrix = MATRICES["shrinks"]
    shape = [3, 4, 5, 2]
    shape[axis] = matrix.shape[1]
    array = RNG.normal(size=shape).astype(dtype)
    value = afresh(lambda x: bands.product(x, Band.of(matrix), axis), array)
    expected = np.moveaxis(np.tensordot(matrix, array, (1, axis)), 0, axis)
    self.assertEqual(value.dtype, dtype)
    accepted = 1e-4 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(value, expected, atol=accepted)

  @parameterized.product(after=(1, 3, 9), compiled=(True, False))
  def test_bytes(self, after, compiled):
    matrix = MATRICES["shrinks"]
    array = RNG.integers(0, 256, (2, 40, after)).astype(np.uint8)
    value = afresh(
      lambda x: bands.product(x, Band.of(matrix), 1),
      array,
      compiled=compiled,
    )
    self.assertEqual(value.dtype, np.float32)
    expected = np.einsum("oi,bia->boa", matrix, array)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-3)

  def test_derivatives_forward_and_further(self):
    matrix = MATRICES["grows"]

    def loss(array):
      return jnp.sin(bands.product(array, Band.of(matrix), 1)).sum()

    check_gradients(loss, RNG.normal(size=(2, 9, 3)))
    check_gradients(
      lambda array: jnp.cos(jax.grad(loss)(array)).sum(),
      RNG.normal(size=(2, 9, 3)),
    )

  @parameterized.parameters(0, 1, 2)
  def test_vmap(self, mapped):
    matrix, array = MATRICES["shrinks"], RNG.normal(size=(2, 40, 3, 4))
    array = np.moveaxis(array, 3, mapped)
    found = jax.jit(
      jax.vmap(lambda x: bands.product(x, Band.of(matrix), 1), mapped, 3)
    )(array)
    array = np.moveaxis(array, mapped, 3)
    expected = np.einsum("oi,bian->boan", matrix, array)
    np.testing.assert_allclose(found, expected, atol=1e-12)

  def test_vmap_of_a_choice(self):
    """Constants of its branches get the axis that is mapped, too."""
    image = RNG.uniform(size=(2, 8, 9, 3)).astype(np.float32)

    def run(choice, image):
      resized = [
        functools.partial(stnjax.resize, output_shape=(4, 5), method=method)
        for method in ("linear", "cubic")
      ]
      return lax.switch(choice, resized, image)

    found = jax.jit(jax.vmap(run))(np.array([1, 0]), image)
    for index, method in enumerate(("cubic", "linear")):
      expected = stnjax.resize(image[index], (4, 5), method=method)
      np.testing.assert_allclose(found[index], expected, atol=1e-6)

  @parameterized.parameters(*MATRICES)
  def test_a_band_has_all_of_its_matrix(self, name):
    band = Band.of(MATRICES[name])
    np.testing.assert_array_equal(band.matrix, MATRICES[name])
    np.testing.assert_array_equal(band.transposed.matrix, MATRICES[name].T)
    self.assertEqual(band, Band.of(MATRICES[name]))
    self.assertEqual(hash(band), hash(Band.of(MATRICES[name])))
    self.assertNotEqual(band, Band.of(MATRICES[name] + 1))

  def test_outside_jit(self):
    matrix, array = MATRICES["shrinks"], RNG.normal(size=(40, 3))
    value = bands.product(jnp.asarray(array), Band.of(matrix), 0)
    np.testing.assert_allclose(value, matrix @ array, atol=1e-12)

  def test_exported_for_a_batch_of_any_size(self):
    matrix = MATRICES["shrinks"]
    call = jax.jit(lambda x: bands.product(x, Band.of(matrix), 1))
    (batch,) = export.symbolic_shape("b")
    known = jax.ShapeDtypeStruct((batch, 40, 3), np.float64)
    program = export.export(call, platforms=("cpu", "tpu", "cuda"))(known)
    array = RNG.normal(size=(2, 40, 3))
    expected = np.einsum("oi,bia->boa", matrix, array)
    np.testing.assert_allclose(program.call(array), expected, atol=1e-12)


if __name__ == "__main__":
  absltest.main()
