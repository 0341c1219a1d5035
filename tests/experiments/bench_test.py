"""The benchmark: its arithmetic, its checks, and a small run of all of it."""

import json
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from experiments import bench_sampling
from experiments.bench import peers, timing
from tests import scripts


def run(*flags):
  return scripts.run("bench_sampling", *flags)


class PartsTest(parameterized.TestCase):
  def test_ratio_is_the_median_of_ratios_in_the_same_round(self):
    # A round that is slow for both does not count.
    ours, theirs = [1.0, 10.0, 2.0], [2.0, 20.0, 8.0]
    self.assertEqual(timing.ratio(theirs, ours), "2.00 (2.00 to 3.00)")

  def test_calls_take_turns(self):
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = timing.in_turns(calls, 4)
    self.assertEqual(
      {n: len(s) for n, s in seconds.items()}, dict.fromkeys("abc", 4)
    )
    # Each turn is a call to wake up and one that counts.
    self.assertEqual(order[::2], order[1::2])
    for start in range(0, 12, 3):
      self.assertCountEqual(order[::2][start : start + 3], "abc")

  @parameterized.parameters("torch", "map_coordinates", "dm_pix", "kornia")
  def test_another_picture_is_noticed(self, peer):
    if not peers.installed(peer):
      pytest.skip(f"{peer} is not installed")
    shape = (2, 9, 8, 3)
    built = {
      name: peers.build(name, shape, "linear") for name in ("stnjax", peer)
    }
    bench_sampling.check_same_picture(built, shape, "linear")
    right = built[peer]["forward"]
    built[peer]["forward"] = lambda: right() + 0.1
    with self.assertRaisesRegex(RuntimeError, f"{peer} makes another picture"):
      bench_sampling.check_same_picture(built, shape, "linear")

  def test_peak_memory_is_that_of_the_call(self):
    def allocate():
      return np.ones(64 * 2**20, np.uint8).sum()

    self.assertAlmostEqual(bench_sampling._peak(allocate, "numpy"), 64, delta=8)


class ScriptTest(parameterized.TestCase):
  def test_small_run_and_no_overwriting(self):
    output = self.create_tempdir().full_path
    flags = ("--shapes=2x8x8x1", "--rounds=3", f"--output={output}")
    chosen = "--peers=map_coordinates,copy", "--dtype=bfloat16"
    done = run(*flags, *chosen, "--nocompiled")
    self.assertEqual(done.returncode, 0, done.stderr)
    results = json.loads(
      (pathlib.Path(output) / "bench_sampling.json").read_text()
    )
    self.assertEqual(results["machine"]["backend"], "cpu")
    self.assertFalse(results["machine"]["compiled_sampler"])
    rows = {(row["peer"], row["pass"]): row for row in results["rows"]}
    self.assertLen(rows, 2 * 3 + 1)  # a copy has no gradient
    for row in rows.values():
      self.assertLen(row["seconds"], 3)
      self.assertGreater(min(row["seconds"]), 0)
      self.assertGreaterEqual(row["peak_mib"], 0)
    text = (pathlib.Path(output) / "bench_sampling.md").read_text()
    self.assertIn("| 2x8x8x1 | linear | bfloat16 | theta |", text)
    again = run(*flags)
    self.assertEqual(again.returncode, 1)
    self.assertIn("--overwrite replaces them", again.stderr + again.stdout)

  @parameterized.parameters(
    ("--shapes=2x8x8", "--shapes must be batch x height"),
    ("--shapes=2x8x8x1,2x8x8x1", "--shapes must name at least one, each once"),
    ("--peers=opencv", "--peers='opencv' is unknown"),
    ("--peers=", "--peers must name at least one"),
    ("--peers=deterministic", "is not there for this device"),
    ("--method=area", "--method"),
    ("--rounds=0", "--rounds"),
    ("--output=/dev/null/x", "--output=/dev/null/x cannot be made"),
    ("--output=", "--output='' is not supported"),
    ("now", "unexpected argument 'now'"),
  )
  def test_wrong_flags_are_named(self, flag, message):
    done = run(f"--output={self.create_tempdir().full_path}", flag)
    self.assertEqual(done.returncode, 1)
    self.assertIn(message, done.stderr)
    self.assertNotIn("Traceback", done.stderr)
    # Those of absl's own are followed by where to find help.
    self.assertLessEqual(len(done.stderr.splitlines() + [done.stdout]), 4)


if __name__ == "__main__":
  absltest.main()
