"""The notebook runs from top to bottom and finds what it says it finds."""

import pathlib
import re

from absl.testing import absltest
import nbclient
import nbformat

ROOT = pathlib.Path(__file__).parent.parent
TOUR = ROOT / "experiments/notebooks/warp_tour.ipynb"


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


class TourTest(absltest.TestCase):
  def test_runs_and_registers_both_images(self):
    notebook = nbformat.read(TOUR, as_version=4)
    committed = prints(notebook)
    nbclient.NotebookClient(
      notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    text = printed(notebook)
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
    # The committed copy has an output wherever a run makes one.
    self.assertEqual(committed, prints(notebook))


if __name__ == "__main__":
  absltest.main()
