"""Compiling for TPUs without one: the arithmetic, and a small program."""

import importlib.util
import json
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from experiments.bench import (
  compiled_warps,
  tpu_steps,
  tpu_warps,
  training_stnjax,
)
from stnjax.sampling.kernels import matmul
from tests import scripts


def run(*flags):
  return scripts.run("bench_tpu_compile", *flags)


class FakeCompiler:
  """Its costs are the number of coordinates that a program reads at."""

  def costs(self, f, image, parameters, cotangent):
    del f, image, cotangent
    cost = float(np.prod(parameters[1:]))
    return dict.fromkeys(("seconds", "flops", "bytes"), cost) | {"unknown": 0}


class PartsTest(parameterized.TestCase):
  def test_further_tiles_cost_what_a_second_one_adds(self):
    shape = (2, 64, 64, 3)
    tile = matmul.tile_size(shape[1:], 64 * 64)
    self.assertLess(tile, 64 * 64)
    row = tpu_warps.measure(FakeCompiler(), "stnjax", shape, "forward")
    self.assertEqual(row["tiles"], -(-64 * 64 // tile))
    # Points have two coordinates each.
    self.assertEqual(row["seconds"], 2 * tile * row["tiles"])
    row = tpu_warps.measure(FakeCompiler(), "stnjax", (2, 4, 4, 3), "forward")
    self.assertEqual((row["seconds"], row.get("tiles", 1)), (6.0, 1))

  @pytest.mark.slow
  def test_tiles_are_those_of_the_kernel(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    points = rng.uniform(-1, 6, (2, 24, 2)).astype(np.float32)
    single, double = (tpu_warps.tiles_fn(n)(image, points) for n in (1, 2))
    np.testing.assert_allclose(single, double, atol=1e-6)

  def test_kernels_agree(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    theta = np.array([[[0.9, 0.1, 0], [0, 1.1, 0.2]]] * 2, np.float32)

    def inside(kernel):
      return compiled_warps.warp_fn(kernel)(image, theta)[:, 1:-1, 1:-1]

    for kernel in compiled_warps.KERNELS:
      np.testing.assert_allclose(inside(kernel), inside("gather"), atol=1e-5)

  def test_steps_are_those_of_the_paper(self):
    for text, settings in tpu_steps.parse(tpu_steps.STEPS, 64).items():
      self.assertEqual(settings.network, text.partition(":")[2])
      self.assertEqual((settings.batch_size, settings.width), (64, 1))

  @parameterized.parameters("rotation", "rotation:STN-C9", "none:CNN")
  def test_unknown_steps(self, text):
    with self.assertRaisesRegex(ValueError, f"{text}.*PRESET:NETWORK"):
      tpu_steps.parse([text], 64)

  def test_without_libtpu_it_says_what_to_install(self):
    if importlib.util.find_spec("libtpu"):
      pytest.skip("libtpu is installed")
    result = run("--shapes=1x4x4x1")
    self.assertEqual(result.returncode, 1)
    self.assertRegex(result.stderr, "(?s)error: --topology.*tpu-aot")


class CompileTest(absltest.TestCase):
  def test_a_small_warp_for_a_real_topology(self):
    if not importlib.util.find_spec("libtpu"):
      pytest.skip("libtpu is not installed: pip install -e '.[tpu-aot]'")
    output = self.create_tempdir().full_path
    flags = ["--topology=v5e:2x2", "--steps=rotation:CNN", "--batch_per_chip=2"]
    flags += ["--shapes=2x80x80x1", "--pass=both", f"--output={output}"]
    result = run(*flags)
    self.assertEqual(result.returncode, 0, result.stderr)
    kept = json.loads(
      pathlib.Path(output, "bench_tpu_compile.json").read_text()
    )
    ours = {row["kernel"]: row for row in kept["warps"]}["stnjax"]
    self.assertEqual((ours["gathers"], ours["scatters"]), (0, 0))
    self.assertGreater(ours["tiles"], 1)
    self.assertLess(ours["temporary_bytes"], 4 * ours["in_and_out_bytes"])
    (step,) = kept["steps"]
    self.assertEqual((step["chips"], step["batch_size"]), (4, 8))
    self.assertEqual({name for name, _ in step["collectives"]}, {"all-reduce"})
    # The gradients once, and a few sums.
    sizes = [size for _, size in step["collectives"]]
    settings = tpu_steps.step_settings("rotation:CNN", 8)
    network = training_stnjax.build_network(settings)
    count = training_stnjax.count_parameters(network)
    self.assertBetween(sum(sizes), 4 * count, 4 * count + 100)
    again = run(*flags)
    self.assertIn("--overwrite", again.stderr)


if __name__ == "__main__":
  absltest.main()
