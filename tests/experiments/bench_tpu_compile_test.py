"""Compiling for TPUs without one: the arithmetic, and a small program."""

import importlib.util
import json
import pathlib
import re

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from experiments import bench_tpu_compile as bench
from stnjax.placement import networks
from stnjax.sampling.kernels import matmul
from stnjax.training import runs
from tests import scripts


def run(*flags):
  return scripts.run("bench_tpu_compile", *flags)


class FakeCompiler:
  """Says that everything costs as many seconds as it reads points."""

  def costs(self, f, image, parameters, cotangent):
    del f, image, cotangent
    cost = float(np.prod(parameters[1:]))
    keys = ("seconds", "flops", "bytes", "temporary_bytes", "gathers")
    return dict.fromkeys((*keys, "scatters", "in_and_out_bytes"), cost) | {
      "unknown": 0
    }


class PartsTest(parameterized.TestCase):
  def test_further_tiles_cost_what_a_second_one_adds(self):
    shape = (2, 64, 64, 3)
    tile = matmul.tile_size(shape[1:], 64 * 64)
    self.assertLess(tile, 64 * 64)
    row = bench.measure(FakeCompiler(), "stnjax", shape, "forward")
    self.assertEqual(row["tiles"], -(-64 * 64 // tile))
    # Points have two coordinates each.
    self.assertEqual(row["seconds"], 2 * tile * row["tiles"])
    one = bench.measure(FakeCompiler(), "stnjax", (2, 4, 4, 3), "forward")
    self.assertEqual((one["seconds"], one.get("tiles", 1)), (6.0, 1))

  def test_tiles_are_those_of_the_kernel(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    points = rng.uniform(-1, 6, (2, 24, 2)).astype(np.float32)
    one, two = (bench.tiles_fn(n)(image, points) for n in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-6)

  def test_kernels_agree(self):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    theta = np.array([[[0.9, 0.1, 0], [0, 1.1, 0.2]]] * 2, np.float32)
    expected = bench.warp_fn("gather")(image, theta)[:, 1:-1, 1:-1]
    for kernel in bench.KERNELS:
      found = bench.warp_fn(kernel)(image, theta)[:, 1:-1, 1:-1]
      np.testing.assert_allclose(found, expected, atol=1e-5)

  def test_steps_are_those_of_the_paper(self):
    for text in bench.STEPS:
      settings = bench.step_settings(text, 64)
      self.assertEqual(settings.network, text.partition(":")[2])
      self.assertEqual((settings.batch_size, settings.width), (64, 1))

  @parameterized.parameters("rotation", "rotation:STN-C9", "none:CNN")
  def test_unknown_steps(self, text):
    with self.assertRaisesRegex(ValueError, f"{text}.*PRESET:NETWORK"):
      bench.step_settings(text, 64)

  @parameterized.parameters("8x8x1", "0x8x8x1", "axbxcxd")
  def test_wrong_shapes(self, text):
    with self.assertRaisesRegex(ValueError, f"{text}.*BATCHxHEIGHT"):
      bench.shapes([text])

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
    self.assertTrue(re.search(r"\| both \| stnjax \|", result.stdout))
    (step,) = kept["steps"]
    self.assertEqual((step["chips"], step["batch_size"]), (4, 8))
    self.assertEqual({name for name, _ in step["collectives"]}, {"all-reduce"})
    # The gradients once, and a few sums.
    sizes = [size for _, size in step["collectives"]]
    settings = bench.step_settings("rotation:CNN", 8)
    network = runs.abstract_network(settings)
    count = networks.count_parameters(network)["total"]
    self.assertBetween(sum(sizes), 4 * count, 4 * count + 100)
    again = run(*flags)
    self.assertIn("--overwrite", again.stderr)


if __name__ == "__main__":
  absltest.main()
