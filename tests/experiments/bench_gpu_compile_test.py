"""What the benchmark for GPUs counts; compiling needs JAX's plugin for CUDA."""

import importlib.util

from absl.testing import absltest, parameterized

from experiments import bench_gpu_compile
from tests import scripts

PROGRAM = """
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %r = f32[] add(%a, %b)
}

%fused_1 (p0: f32[4], p1: s32[9,1], p2: f32[9]) -> f32[4] {
  ROOT %s.1 = f32[4]{0} scatter(%p0, %p1, %p2), inserted_window_dims={0}, \
indices_are_sorted=true, unique_indices=true, to_apply=%sum
}

%fused_2 (p0: f32[4], p1: s32[9,1], p2: f32[9]) -> f32[4] {
  ROOT %s.2 = f32[4]{0} scatter(%p0, %p1, %p2), inserted_window_dims={0}, \
to_apply=%sum
}

%fused_3 (p0: s32[9], p1: f32[9]) -> (s32[9], f32[9]) {
  ROOT %s.3 = (s32[9]{0}, f32[9]{0}) sort(%p0, %p1), dimensions={0}
}

ENTRY %main (x: f32[4], i: s32[9,1], v: f32[9]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %i = s32[9,1]{1,0} parameter(1)
  %v = f32[9]{0} parameter(2)
  %b = s32[9]{0} bitcast(%i)
  %sorted = (s32[9]{0}, f32[9]{0}) fusion(%b, %v), kind=kCustom, calls=%fused_3
  %w = f32[9]{0} get-tuple-element(%sorted), index=1
  %c = f32[4]{0} copy(%x)
  %f.1 = f32[4]{0} fusion(%c, %i, %w), kind=kInput, calls=%fused_1
  %many = (f32[4]{0}, f32[4]{0}, f32[4]{0}, f32[4]{0}, f32[4]{0}, \
/*index=5*/f32[4]{0}) fusion(%f.1), kind=kLoop, calls=%fused_4
  ROOT %f.2 = f32[4]{0} fusion(%f.1, %i, %v), kind=kInput, calls=%fused_2
}
"""


class BenchGpuCompileTest(parameterized.TestCase):
  def test_counts(self):
    self.assertEqual(
      bench_gpu_compile.counts(PROGRAM),
      {"kernels": 5, "sorts": 1, "scatters": 2, "unordered": 1},
    )

  def test_sums_in_one_order_are_sorted_first(self):
    try:
      bench_gpu_compile.device()
    except ValueError as error:
      self.skipTest(str(error))
    shape = (2, 8, 8, 3)
    free, bound = (
      bench_gpu_compile.measure("stnjax", shape, "both", sums)
      for sums in bench_gpu_compile.SUMS
    )
    self.assertEqual((free["sorts"], free["unordered"]), (0, 1))
    self.assertEqual((bound["sorts"], bound["unordered"]), (1, 0))
    theta = bench_gpu_compile.measure("stnjax", shape, "theta", "any order")
    self.assertEqual(theta["scatters"], 0)

  @parameterized.parameters(
    ("--shapes=2x8x8", "--shapes='2x8x8'; accepted: BATCHxHEIGHTxWIDTH"),
    ("--kernel=torch", "--kernel"),
    ("now", "unexpected argument 'now'"),
  )
  def test_wrong_flags_are_named(self, flag, message):
    output = self.create_tempdir().full_path
    done = scripts.run("bench_gpu_compile", flag, f"--output={output}")
    self.assertNotEqual(done.returncode, 0)
    self.assertIn(message, done.stderr + done.stdout)
    self.assertNotIn("Traceback", done.stderr)

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
