"""The benchmark of warps: timing, checks of results, memory, and a run."""

import itertools
import json
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from experiments.bench import memory, peers, sampling, timing
from tests import scripts


class TimingTest(absltest.TestCase):
  def test_ratio_is_the_median_of_ratios_in_the_same_round(self):
    # A round that is slow for both does not count.
    ours, theirs = [1.0, 10.0, 2.0], [2.0, 20.0, 8.0]
    self.assertEqual(timing.ratio(theirs, ours), "2.00 (2.00 to 3.00)")

  def test_calls_take_turns(self):
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.in_turns(calls, 4)
    self.assertEqual(
      {name: len(times) for name, times in seconds.items()},
      dict.fromkeys("abc", 4),
    )
    # Each turn is a call to wake up and one that counts.
    self.assertEqual(order[::2], order[1::2])
    for start in range(0, 12, 3):
      self.assertCountEqual(order[::2][start : start + 3], "abc")


class PeersTest(parameterized.TestCase):
  @parameterized.parameters(
    ("torch", "linear"),
    ("torch", "nearest"),
    ("map_coordinates", "linear"),
    ("dm_pix", "linear"),
    ("kornia", "linear"),
    ("opencv", "cubic"),  # OpenCV 5; 4 rounds coordinates
  )
  @pytest.mark.slow
  def test_another_picture_is_noticed(self, peer, method):
    if not peers.find(peer).available():
      pytest.skip(f"{peer} is not installed")
    shape = (2, 9, 8, 3)
    built = {
      name: peers.build(name, shape, method) for name in ("stnjax", peer)
    }
    sampling.check_same_picture(built, shape, method)
    right = built[peer]["forward"]
    built[peer]["forward"] = lambda: right() + 0.1
    with self.assertRaisesRegex(RuntimeError, f"{peer} makes another picture"):
      sampling.check_same_picture(built, shape, method)

  @parameterized.parameters("border", "reflection")
  def test_wide_numbers_and_paddings_are_those_of_torch(self, padding):
    case = (2, 9, 8, 3), "linear", "float64", padding
    ours, theirs = (
      np.asarray(peers.build(name, *case)["forward"]())
      for name in ("stnjax", "torch")
    )
    self.assertEqual(ours.dtype, np.float64)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)
    self.assertFalse(peers.find("kornia").supports(*case))

  @parameterized.parameters("torch", "map_coordinates")
  def test_gradients_are_those_of_stnjax(self, peer):
    shape = (2, 9, 8, 3)
    ours = peers.build("stnjax", shape, "linear")["theta"]()
    theirs = peers.build(peer, shape, "linear")["theta"]()
    _, (expected,) = ours
    *_, (gradient,) = [theirs] if peer == "torch" else theirs
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-3)


class MemoryTest(absltest.TestCase):
  def test_peak_memory_is_that_of_the_call(self):
    def allocate():
      return np.ones(64 * 2**20, np.uint8).sum()

    peak = memory.of_call(allocate) / 2**20
    self.assertAlmostEqual(peak, 64, delta=8)


class ReportTest(absltest.TestCase):
  def test_a_pass_that_a_peer_lacks_is_a_dash(self):
    case = {"shape": (2, 3, 4, 1), "method": "linear", "dtype": "float32"}
    rows = [
      {**case, "pass": which, "peer": peer, "seconds": [s], "peak_mib": mib}
      for which, peer, s, mib in [
        ("forward", "stnjax", 0.001, 1.0),
        ("forward", "copy", 0.0005, 2.0),
        ("theta", "stnjax", 0.002, 3.0),
      ]
    ]
    times, peaks = sampling.report(rows).split("\n\n")
    self.assertEqual(
      times.splitlines()[2:],
      [
        "| 2x3x4x1 | linear | float32 | forward | 1 | 0.50 (0.50 to 0.50) |",
        "| 2x3x4x1 | linear | float32 | theta | 2 | – |",
      ],
    )
    self.assertEqual(
      peaks.splitlines()[2:],
      [
        "| 2x3x4x1 | linear | float32 | forward | 1 | 2 |",
        "| 2x3x4x1 | linear | float32 | theta | 3 | – |",
      ],
    )


class ScriptTest(absltest.TestCase):
  def run_small(self, *flags):
    small = "--shapes=2x8x8x1", "--rounds=3"
    return scripts.run("bench_sampling", *small, *flags)

  def results(self, output, names):
    """Checks what a run wrote, and reads it."""
    folder = pathlib.Path(output)
    results = json.loads((folder / "bench_sampling.json").read_text())
    self.assertEqual(results["machine"]["backend"], "cpu")
    rows = {(row["peer"], row["pass"]): row for row in results["rows"]}
    # A copy has no gradient.
    expected = set(itertools.product(names, peers.PASSES))
    self.assertEqual(set(rows), expected | {("copy", "forward")})
    for row in rows.values():
      self.assertLen(row["seconds"], 3)
      self.assertGreater(min(row["seconds"]), 0)
    text = (folder / "bench_sampling.md").read_text()
    self.assertEqual(text, sampling.report(results["rows"]) + "\n")
    return results

  @pytest.mark.slow
  def test_small_run_and_no_overwriting(self):
    output = self.create_tempdir().full_path
    flags = f"--output={output}", "--nomemory", "--peers=copy"
    done = self.run_small(*flags)
    self.assertEqual(done.returncode, 0, done.stderr)
    results = self.results(output, ["stnjax"])
    for row in results["rows"]:
      self.assertIsNone(row["peak_mib"])
    again = self.run_small(*flags)
    self.assertEqual(again.returncode, 1)
    self.assertIn("--overwrite", again.stderr)

  @pytest.mark.slow
  def test_memory_in_fresh_processes_without_the_compiler(self):
    output = self.create_tempdir().full_path
    flags = "--peers=map_coordinates,copy", "--dtype=bfloat16", "--nocompiled"
    done = self.run_small(f"--output={output}", *flags)
    self.assertEqual(done.returncode, 0, done.stderr)
    results = self.results(output, ["stnjax", "map_coordinates"])
    self.assertFalse(results["machine"]["compiled_sampler"])
    for row in results["rows"]:
      self.assertEqual(row["dtype"], "bfloat16")
      self.assertGreaterEqual(row["peak_mib"], 0)


if __name__ == "__main__":
  absltest.main()
