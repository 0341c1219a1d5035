"""Costs that are read from compiled programs."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp

from experiments.bench import compiled
import stnjax

PROGRAM = """
HloModule jit_step, is_scheduled=true

%fused_1 (p: f32[4,8], q: f32[8,2]) -> f32[4,2] {
  %p = f32[4,8]{1,0:T(8,128)} parameter(0)
  %q = f32[8,2]{1,0:T(8,128)} parameter(1)
  ROOT %c = f32[4,2]{1,0:T(8,128)} convolution(%p, %q), dim_labels=bf_io->bf
}

%fused_2 (p: f32[4,8], q: f32[8,2]) -> (f32[2], f32[4,2]) {
  %inner = f32[4,2]{1,0:T(8,128)} fusion(%p, %q), kind=kOutput, calls=%fused_1
  ROOT %t = (f32[2]{0}, f32[4,2]{1,0:T(8,128)}) tuple(%r, %inner)
}

%fused_3 (p: f32[4]) -> f32[4] {
  ROOT %n = f32[4]{0} negate(%p)
}

%tiles (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %d = f32[4]{0} fusion(%a, %b), kind=kOutput, calls=%fused_1, metadata={\
op_name="jit(f)/while/body/jvp(jit(sample))/dot"}, backend_config={\
"estimated_cycles":"100"}
  %m = f32[4]{0} fusion(%d), kind=kLoop, calls=%fused_3, metadata={\
op_name="jit(f)/while/body/add"}, backend_config={"estimated_cycles":"10"}
}

%tiles_left (t: (s32[], f32[4])) -> pred[] {
  %end = s32[]{:T(128)} constant(7)
  ROOT %less = pred[]{:T(512)} compare(%i, %end), direction=LT
}

%step (t: (s32[], s32[], f32[4])) -> (s32[], s32[], f32[4]) {
  %w.1 = (s32[], f32[4]{0}) while(%t.1), condition=%tiles_left, body=%tiles
  %f.2 = (f32[2]{0}, f32[4,2]{1,0:T(8,128)}) fusion(%x, %y), calls=%fused_2, \
metadata={op_name="jit(f)/conv"}, backend_config={"estimated_cycles":"2000"}
  %f.3 = f32[4]{0} fusion(%z), kind=kLoop, calls=%fused_3, metadata={\
op_name="jit(f)/neg"}, backend_config={"estimated_cycles":"3"}
  %pool = f32[4]{0:T(128)} select-and-scatter(%z, %s, %c), window={size=2}
}

%steps_left (t: (s32[], s32[], f32[4])) -> pred[] {
  ROOT %less.1 = pred[]{:T(512)} compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[4], n: s32[]) -> f32[4] {
  %before = f32[4]{0} copy(%x), backend_config={"estimated_cycles":"5000"}
LOOP
}
"""

STEPS = """  ROOT %w.2 = (s32[], s32[], f32[4]{0}) while(%t.2), \
condition=%steps_left, body=%step
"""

GPU_PROGRAM = """
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


class CompiledTest(parameterized.TestCase):
  def test_cycles_of_one_turn_of_the_loop_over_steps(self):
    found = compiled.cycles(PROGRAM.replace("LOOP", STEPS))
    self.assertEqual(
      found,
      {"convolutions": 2000, "sampling": 700, "rest": 73, "unknown": 1},
    )

  def test_cycles_of_a_program_that_is_no_such_loop(self):
    loop = (
      "  ROOT %w.1 = (s32[], f32[4]{0}) while(%t), condition=%tiles_left,"
      " body=%tiles"
    )
    found = compiled.cycles(PROGRAM.replace("LOOP", loop))
    self.assertEqual(
      found,
      {"convolutions": 0, "sampling": 700, "rest": 5070, "unknown": 0},
    )

  @parameterized.parameters(
    ("direction=LT", "direction=LE"),
    ("constant(7)", "constant(-7)"),
    ("ROOT %less = ", "ROOT %less = pred[] and(%l, %m)\n  %less = "),
  )
  def test_a_loop_inside_that_ends_otherwise_is_refused(self, old, new):
    text = PROGRAM.replace("LOOP", STEPS).replace(old, new, 1)
    with self.assertRaisesRegex(ValueError, "iterations of tiles_left"):
      compiled.cycles(text)

  def test_collectives(self):
    text = """
  %all-reduce.1 = (f32[2,3]{1,0:T(8,128)S(1)}, bf16[4]{0}) all-reduce(%a, %b)
  %g = u32[]{:T(128)} all-gather-start(%c), dimensions={0}
  %done = u32[] all-gather-done(%g)
  ROOT %x = f32[9]{0} add(%all-reduce.1, %y)
"""
    found = compiled.collectives(text)
    self.assertEqual(found, [("all-reduce", 32), ("all-gather", 4)])

  def test_operations_of_a_program_for_gpus(self):
    self.assertEqual(
      compiled.gpu_counts(GPU_PROGRAM),
      {"kernels": 5, "sorts": 1, "scatters": 2, "unordered": 1},
    )

  def test_sampling_is_known_by_its_name(self):
    for implementation in ("gather", "matmul"):

      def warp(image, implementation=implementation):
        theta = stnjax.transforms.identity()[None]
        return stnjax.warp(image, theta, implementation=implementation)

      lowered = jax.jit(warp).lower(jnp.zeros((1, 8, 8, 1)))
      text = lowered.compile().as_text()
      self.assertIn(compiled.SAMPLING, text)


if __name__ == "__main__":
  absltest.main()
