"""Calls outside `jit` start few programs, since each has to be compiled."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np

import stnjax
from stnjax import transforms

# Sizes that no other test has, so that nothing is compiled yet.
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(size=(23, 41, 3)))
THETA = jnp.asarray([[1, 0.1, 0.2], [-0.1, 1, 0.3]])
THETAS = jnp.stack([THETA] * 23)
CALLS = {
  "warp": (lambda: stnjax.warp(IMAGE, THETA), 5),
  "affine_grid": (lambda: stnjax.affine_grid(THETA, (23, 41)), 1),
  "invert": (lambda: transforms.invert(THETAS), 12),
}


class DispatchTest(parameterized.TestCase):
  @parameterized.parameters(*CALLS)
  def test_few_programs_are_compiled(self, name):
    call, most = CALLS[name]
    with jax.log_compiles(), self.assertLogs("jax", "WARNING") as logs:
      call()
    compiled = [line for line in logs.output if "Compiling" in line]
    self.assertNotEmpty(compiled)
    self.assertLessEqual(len(compiled), most, compiled)


if __name__ == "__main__":
  absltest.main()
