"""Compiling for a GPU without one; it needs JAX's plugin for CUDA."""

import importlib.util

from absl.testing import absltest

from experiments.bench import gpu
from tests import scripts


class BenchGpuCompileTest(absltest.TestCase):
  def test_sums_in_one_order_are_sorted_first(self):
    try:
      gpu.device()
    except ValueError as error:
      self.skipTest(str(error))
    shape = (2, 8, 8, 3)
    free, bound = (
      gpu.measure("stnjax", shape, "both", sums) for sums in gpu.SUMS
    )
    self.assertEqual((free["sorts"], free["unordered"]), (0, 1))
    self.assertEqual((bound["sorts"], bound["unordered"]), (1, 0))
    theta = gpu.measure("stnjax", shape, "theta", "any order")
    self.assertEqual(theta["scatters"], 0)

  def test_without_the_plugin_it_says_what_is_missing(self):
    if any(
      map(importlib.util.find_spec, ("jax_cuda12_plugin", "jax_cuda13_plugin"))
    ):
      self.skipTest("the plugin is installed")
    output = self.create_tempdir().full_path
    done = scripts.run("bench_gpu_compile", f"--output={output}")
    self.assertEqual(done.returncode, 1)
    self.assertIn("pip install -e '.[gpu]'", done.stderr)
    self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
  absltest.main()
