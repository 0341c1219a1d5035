"""The notebook on volumes runs, aligns their organs and does not fold."""

import re

from absl.testing import absltest
import numpy as np
import pytest

from tests.experiments.notebook_test import executed

ORGANS = 5


class RegistrationTest(absltest.TestCase):
  @pytest.mark.slow
  def test_organs_overlap_after_it_and_nothing_folds(self):
    text = executed("registration.ipynb")
    row = r"^([a-z].*?)  +" + r"(\d\.\d+) +" * ORGANS + r"(\d+\.\d+) +(\d+)$"
    rows = re.findall(row, text, re.M)
    names = [name for name, *_ in rows]
    self.assertEqual(names[:2], ["before", "matrix"])
    self.assertLen(names, 5)
    values = np.array([numbers for _, *numbers in rows], float)
    before, matrix, *_, last = values[:, :ORGANS]
    self.assertLess(before.max(), 0.8)
    self.assertTrue((matrix > before + 0.1).all(), matrix)
    self.assertTrue((last > matrix + 0.05).all(), last)
    self.assertGreater(last.min(), 0.9)
    distances, folds = values[:, ORGANS:].T
    self.assertLess(distances[-1], distances[0] / 3)
    self.assertEqual(folds.tolist(), [0] * len(rows))


if __name__ == "__main__":
  absltest.main()
