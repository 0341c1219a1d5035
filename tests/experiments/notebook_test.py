"""The tour runs from top to bottom and finds what it says it finds."""

import os
import pathlib
import re
from unittest import mock

from absl.testing import absltest
from matplotlib import mathtext
import nbclient
import nbformat
import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
NOTEBOOKS = ROOT / "experiments" / "notebooks"


def formulas(notebook):
  """The formulas of its texts."""
  texts = [c.source for c in notebook.cells if c.cell_type == "markdown"]
  return re.findall(r"\$[^$]+\$", "\n".join(texts))


def printed(notebook):
  return "\n".join(
    output["text"]
    for cell in notebook.cells
    for output in cell.get("outputs", [])
    if output.output_type == "stream"
  )


def prints(notebook):
  """Which of the cells of code have an output."""
  return [
    bool(cell.outputs) for cell in notebook.cells if cell.cell_type == "code"
  ]


def executed(name):
  """A notebook, run; it has outputs where the committed copy has them."""
  notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
  committed = prints(notebook)
  client = nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}
  )
  # It compiles far more than it computes, as the tests do.
  with mock.patch.dict(os.environ, JAX_DISABLE_MOST_OPTIMIZATIONS="1"):
    client.execute()
  assert committed == prints(notebook)
  return printed(notebook)


@pytest.mark.slow
class TourTest(absltest.TestCase):
  def test_runs_and_registers_both_images(self):
    text = executed("warp_tour.ipynb")
    for family in ("affine", "projective"):
      before, after = re.search(
        family + r": corners were ([\d.]+) pixels off, now ([\d.]+)", text
      ).groups()
      self.assertGreater(float(before), 30)
      self.assertLess(float(after), 0.05)
    flow, velocity = re.search(
      r"displacement: (\S+)\nvelocity: (\S+)", text
    ).groups()
    self.assertLess(float(flow), 0)
    self.assertGreater(float(velocity), 0)


class FormulaTest(absltest.TestCase):
  def test_every_formula_can_be_set(self):
    parser, found = mathtext.MathTextParser("path"), []
    for path in NOTEBOOKS.glob("*.ipynb"):
      for formula in formulas(nbformat.read(path, as_version=4)):
        self.assertNotIn("\\\\", formula)  # a new line, of a matrix
        parser.parse(formula)
        found.append(formula)
    self.assertTrue(found)


if __name__ == "__main__":
  absltest.main()
