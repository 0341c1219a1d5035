"""The notebook on alignability runs, and finds what the theorem says."""

import re

from absl.testing import absltest
import pytest

from tests.experiments.notebook_test import executed


class AlignabilityTest(absltest.TestCase):
  @pytest.mark.slow
  def test_runs_and_finds_what_the_theorem_says(self):
    text = executed("alignability.ipynb")
    left = {
      tuple(names): float(value)
      for *names, value in re.findall(
        r"^(input|features) +(\w+) +(\d\.\d+)$", text, re.M
      )
    }
    self.assertLess(left["input", "aligned"], 1e-3)
    self.assertGreater(left["features", "best"], 0.5)
    self.assertLess(left["features", "mixed"], 1e-2)
    undone = {
      (state, family): [float(share) for share in shares.split(" %")[:-1]]
      for state, family, shares in re.findall(
        r"^(trained|untrained) +(\w+) (.+)$", text, re.M
      )
    }
    self.assertLen(undone, 8)
    for (_, family), shares in undone.items():
      if family == "translation":
        self.assertEqual(shares, [100, 100, 100])
      else:
        self.assertLess(max(shares[1:]), shares[0] - 5)


if __name__ == "__main__":
  absltest.main()
