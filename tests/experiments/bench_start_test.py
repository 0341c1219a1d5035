"""The benchmark of starts: its programs, its table, and a small run."""

import json
import pathlib

from absl.testing import absltest, parameterized
import pytest

from experiments.bench import starting
from experiments.lib.tables import markdown
from tests import scripts


class StartingTest(parameterized.TestCase):
  @parameterized.parameters("stnjax, eager", "stnjax, jitted")
  @pytest.mark.slow
  def test_steps_are_timed_in_a_process_of_its_own(self, name):
    seconds = starting.run(name, 8)
    self.assertEqual(tuple(seconds), starting.STEPS)
    self.assertGreater(min(seconds.values()), 0)
    # Nothing is compiled any more.
    self.assertLess(seconds["second call"], seconds["first call"])

  def test_a_program_that_fails_says_why(self):
    broken = {"jax alone": "missing()"}
    with (
      absltest.mock.patch.dict(starting.PROGRAMS, broken),
      self.assertRaisesRegex(RuntimeError, "(?s)jax alone failed.*NameError"),
    ):
      starting.run("jax alone", 8)

  def test_the_table_has_medians_and_quartiles(self):
    seconds = {
      "stnjax, eager": [
        dict.fromkeys(starting.STEPS, value) for value in (0.1, 0.2, 0.4)
      ],
      "jax alone": [{"import": 0.5, "backend": 0.01}],
    }
    self.assertEqual(
      markdown(starting.table(seconds)).splitlines()[2:],
      [
        "| stnjax, eager |" + " 200 (150 to 300) |" * 4,
        "| jax alone | 500 (500 to 500) | 10 (10 to 10) | – | – |",
      ],
    )


class ScriptTest(absltest.TestCase):
  @pytest.mark.slow
  def test_small_run(self):
    output = self.create_tempdir().full_path
    flags = "--rounds=1", "--side=8", f"--output={output}"
    done = scripts.run("bench_start", *flags)
    self.assertEqual(done.returncode, 0, done.stderr)
    folder = pathlib.Path(output)
    results = json.loads((folder / "bench_start.json").read_text())
    for name in ("stnjax, eager", "stnjax, jitted", "jax alone"):
      self.assertLen(results["seconds"][name], 1)
    text = (folder / "bench_start.md").read_text()
    table = starting.table(results["seconds"])
    self.assertEqual(text, markdown(table) + "\n")


if __name__ == "__main__":
  absltest.main()
