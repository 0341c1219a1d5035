"""Remainders of coordinates, against NumPy's."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

from stnjax.sampling.padding import REMAINDER, divided
from tests.sampling.kernels_test import compiled as needs_library

ODD = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30, 2.0**30, 2.0**31)


def positions(period, dtype):
  """Next to multiples of the period, among others and far away."""
  rng = np.random.default_rng(0)
  multiples = rng.integers(-(2**20), 2**20, 999).astype(dtype) * dtype(period)
  return np.concatenate(
    [
      multiples,
      np.nextafter(multiples, dtype(np.inf)),
      np.nextafter(multiples, dtype(-np.inf)),
      rng.normal(0, 3 * period, 999).astype(dtype),
      np.array(ODD, dtype),
      rng.normal(0, 3 * period, 999).astype(dtype),
    ]
  )


class RemaindersTest(parameterized.TestCase):
  @parameterized.product(
    period=(1, 2, 3, 7, 28, 97, 1000, 2**20 + 1, 2**24 + 3, 2**28),
    dtype=(np.float32, np.float64),
  )
  def test_exact(self, period, dtype):
    given = positions(period, dtype)
    with np.errstate(invalid="ignore"):
      wanted = np.fmod(given, dtype(period))
    with jax.enable_x64(True):
      for rest in (
        REMAINDER.bind(jnp.asarray(given), period=period),
        jax.jit(lambda x: REMAINDER.bind(x, period=period))(given),
        divided(jnp.asarray(given), period=period),
      ):
        self.assertEqual(rest.dtype, dtype)
        np.testing.assert_array_equal(rest, wanted)
        known = ~np.isnan(wanted)
        signs = np.signbit(rest), np.signbit(wanted)
        np.testing.assert_array_equal(*(sign[known] for sign in signs))

  def test_moves_as_its_position(self):
    given = jnp.array([-7.5, -3.0, 0.0, 2.0, 9.25])

    def rest(x):
      return REMAINDER.bind(x, period=3)

    np.testing.assert_array_equal(jax.vmap(jax.grad(rest))(given), 1)
    value, change = jax.jvp(rest, (given,), (2 * given,))
    np.testing.assert_array_equal(value, np.fmod(given, 3))
    np.testing.assert_array_equal(change, 2 * given)

  @parameterized.parameters(0, 1, 2)
  def test_vmap(self, axis):
    given = jnp.linspace(-9, 9, 24).reshape(2, 3, 4)
    mapped = jax.vmap(lambda x: REMAINDER.bind(x, period=5), axis, axis)(given)
    np.testing.assert_array_equal(mapped, np.fmod(given, 5))

  def test_of_none(self):
    empty = jnp.zeros((0, 3))
    self.assertEqual(REMAINDER.bind(empty, period=5).shape, (0, 3))


@needs_library
class CallsTest(absltest.TestCase):
  def test_is_compiled_code(self):
    rest = jax.jit(lambda x: REMAINDER.bind(x, period=3))
    text = rest.lower(jnp.zeros(4)).as_text()
    self.assertIn("stnjax_sampler_remainder", text)


if __name__ == "__main__":
  absltest.main()
