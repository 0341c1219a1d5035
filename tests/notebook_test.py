"""The notebooks run from top to bottom and find what they say they find."""

import pathlib
import re

from absl.testing import absltest
import nbclient
import nbformat

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = ROOT / "experiments" / "notebooks"


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
  nbclient.NotebookClient(
    notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}
  ).execute()
  assert committed == prints(notebook)
  return printed(notebook)


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


class AlignabilityTest(absltest.TestCase):
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
