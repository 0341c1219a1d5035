"""A stranger's pictures, network and perturbation, without editing a file."""

import json
import pathlib
import shutil

from absl.testing import absltest
import numpy as np
from PIL import Image
import pytest

from tests import scripts

NETWORKS = "STN-C0 STN-C2 STN-DL2 STN-SL2"


def make_pictures(root):
  """Three classes of bars in pictures of mixed sizes, some in colour."""
  rng = np.random.default_rng(0)
  for split, count in (("train", 16), ("test", 8)):
    for label, name in enumerate(("both", "lying", "standing")):
      folder = root / split / name
      folder.mkdir(parents=True)
      for index in range(count):
        high, wide = rng.integers(24, 49, 2)
        pixels = rng.integers(0, 40, (high, wide, 3)).astype(np.uint8)
        if label != 2:
          pixels[high // 2 - 2 : high // 2 + 2, 4:-4] = 230
        if label != 1:
          pixels[4:-4, wide // 2 - 2 : wide // 2 + 2] = 230
        kind = "png" if index % 2 else "jpg"
        Image.fromarray(pixels).save(folder / f"{index}.{kind}")


class StrangerTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    source = scripts.ROOT / "docs/examples/my_objects.py"
    self.module = self.root / "my_objects.py"
    shutil.copy(source, self.module)

  def run_script(self, name, *flags):
    done = scripts.run(name, f"--workdir={self.root / 'runs'}", *flags)
    self.assertEqual(done.returncode, 0, done.stderr)
    return done.stdout

  def sweep(self, *flags):
    return self.run_script(
      "sweep",
      f"--imports={self.module}",
      "--backbone=three_stages",
      "--perturbation=lean",
      "--epochs=1",
      "--batch_size=16",
      "--eval_passes=1",
      *flags,
    )

  @pytest.mark.slow
  def test_own_objects_from_sweep_to_report(self):
    self.sweep("--dataset=bars", "--networks=STN-SL2")
    report = (self.root / "runs/report/report.md").read_text()
    self.assertIn("STN-SL2", report)
    self.assertIn("px/px", report)

  @pytest.mark.slow
  def test_own_placement_family_and_reader(self):
    module = scripts.ROOT / "docs/examples/more_objects.py"
    self.run_script(
      "sweep",
      f"--imports={module}",
      "--dataset=shapes",
      "--networks=STN-SG1 STN-SL1",
      "--family=stretch",
      "--epochs=1",
      "--eval_passes=1",
    )
    report = self.root / "runs/report/report.md"
    for name in ("STN-SG1", "STN-SL1", "Rotated shapes", "cross"):
      self.assertIn(name, report.read_text())
    # A class of placement is code: without it, its runs are left out.
    done = scripts.run("report", f"--workdir={self.root / 'runs'}")
    self.assertEqual(done.returncode, 0, done.stderr)
    self.assertRegex(done.stderr, r"STN-SG1.*\(not registered\).*--imports")
    self.assertNotIn("delete", done.stderr)
    self.assertIn("STN-SL1", report.read_text())

  @pytest.mark.slow
  def test_pictures_are_swept_and_audited(self):
    make_pictures(self.root / "pictures")
    data = (f"--data_dir={self.root / 'pictures'}", "--image_size=32")
    self.sweep("--dataset=folder", *data, f"--networks=CNN {NETWORKS}")
    self.run_script(
      "audit",
      f"--imports={self.module}",
      "--images=4",
      "--steps=2",
      data[0],
    )
    report = (self.root / "runs/report/report.md").read_text()
    for name in ("CNN", *NETWORKS.split(), "block 3", "standing"):
      self.assertIn(name, report)
    results = json.loads((self.root / "runs/report/results.json").read_text())
    by_network = {run["settings"]["network"]: run["results"] for run in results}
    self.assertNotIn("alignment", by_network["CNN"])
    self.assertIn("undone", by_network["CNN"])
    for name in NETWORKS.split():
      self.assertIn("shear", by_network[name]["alignment"])
    # Reading the report needs none of the objects.
    self.run_script("report")


if __name__ == "__main__":
  absltest.main()
