"""README and docs: code runs, links lead somewhere, tables are of the runs."""

import ast
import importlib
import pathlib
import pkgutil
import re
import subprocess
import sys

from absl.testing import absltest, parameterized
from etils import epath
import pytest

from experiments.lib import tables
from experiments.reporting import (
  finished,
  gates,
  groups,
  guide,
  page,
  verdicts,
)
import stnjax
from stnjax.paper import claims
from tests import pages

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
RESULTS = ROOT / "experiments" / "results"
PAGES = sorted(
  [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
)
CHECKED = {  # values that comments state, by page
  "README.md": 3,
  "alignability.md": 2,
  "antialiasing.md": 2,
  "index.md": 1,
  "own_network.md": 2,
  "pose_estimators.md": 1,
  "start.md": 4,
  "warp.md": 3,
}


class CodeTest(parameterized.TestCase):
  @parameterized.parameters(*CHECKED)
  @pytest.mark.slow
  def test_blocks_run_and_give_what_comments_say(self, name):
    path = ROOT / name if name == "README.md" else DOCS / name
    found = subprocess.run(
      [sys.executable, "-m", "tests.pages", path],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    self.assertEqual(found.returncode, 0, found.stderr)
    self.assertEqual(int(found.stdout.splitlines()[-1]), CHECKED[name])

  def test_other_blocks_are_of_examples_that_run(self):
    examples = {
      ast.dump(node)
      for path in (DOCS / "examples").glob("*.py")
      for node in ast.parse(path.read_text()).body
    }
    for path in PAGES:
      if path.name in CHECKED:
        continue
      for block in pages.blocks(path):
        for node in ast.parse(block).body:
          self.assertIn(ast.dump(node), examples, ast.unparse(node))


class LinksTest(parameterized.TestCase):
  @parameterized.parameters(*PAGES)
  def test_links_to_files_lead_somewhere(self, path):
    for target in re.findall(r"\]\(\s*(?!http)(.+?)\)", path.read_text()):
      target, _, anchor = target.partition("#")
      found = (path.parent / target).resolve() if target else path
      if target.startswith("api/"):
        continue  # written when the site is built
      self.assertTrue(found.exists(), target)
      if anchor:
        titles = re.findall(r"^#+ (.+)", found.read_text(), re.M)
        anchors = {t.lower().replace(" ", "-") for t in titles}
        self.assertIn(anchor, anchors)


class ResultsTest(absltest.TestCase):
  def test_tables_are_of_the_committed_runs(self):
    grouped = groups.group(finished.read_all(epath.Path(RESULTS))[0])
    results = verdicts.results_of(grouped, gates.outcomes(epath.Path(RESULTS)))
    judged = claims.judge(results)
    text = (DOCS / "results.md").read_text()
    for table in (verdicts.overview(results), verdicts.verdicts(judged)):
      self.assertIn(tables.markdown(table), text)
    content = verdicts.content(grouped, judged)
    text = page.markdown(verdicts.TITLE, content)
    self.assertEqual((RESULTS / "claims.md").read_text(), text)

  def test_the_guide_to_pose_estimators_has_the_tables_of_its_runs(self):
    for names, axis in (
      (["pose_full_circle"], "rotation"),
      (["pose_full_circle_1000"], "rotation"),
      (["pose_rotation"], "rotation"),
      (["pose_scale"], "scale_x"),
      (["pose_similarity", "pose_similarity_c1"], "rotation"),
    ):
      runs = [
        run
        for name in names
        for run in finished.read_all(epath.Path(RESULTS / name))[0]
      ]
      (group,) = groups.group(runs)
      table = tables.markdown(guide.table(group, axis))
      self.assertIn(table, (DOCS / "pose_estimators.md").read_text())

  def test_readme_has_the_table_of_the_guide(self):
    guide = (RESULTS / "rotation" / "guide.md").read_text()
    table = re.search(r"^\|.+?\n(?!\|)", guide, re.M | re.S)[0]
    self.assertIn(table, (ROOT / "README.md").read_text())


class ReferenceTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    sys.path.insert(0, str(DOCS))
    self.addCleanup(sys.path.remove, str(DOCS))
    self.reference = importlib.import_module("reference")

  def test_every_package_has_a_page(self):
    on_pages = {m for p in self.reference.PAGES.values() for m in p.modules}
    packages = {
      f"stnjax.{info.name}"
      for info in pkgutil.iter_modules(stnjax.__path__)
      if info.ispkg
    }
    self.assertEmpty(packages - on_pages)

  def test_every_public_name_has_an_entry(self):
    folder = pathlib.Path(self.create_tempdir())
    self.reference.write(folder)
    entries = set()
    for path in folder.glob("*.rst"):
      entries |= set(re.findall(r"^\.\. .+?:: (.+)$", path.read_text(), re.M))
    missing = []
    for page_ in self.reference.PAGES.values():
      for name in page_.modules:
        module = importlib.import_module(name)
        for offered in re.findall(
          r"^from stnjax\S* import (?:\(\n\s*)?(\w+) as \1",
          pathlib.Path(module.__file__).read_text(),
          re.M,
        ):
          if hasattr(getattr(module, offered), "__path__"):
            continue
          path = f"{name}.{offered}"
          if path not in entries and path not in MODULES:
            missing.append(path)
    self.assertEmpty(missing)


MODULES = {
  info.name for info in pkgutil.walk_packages(stnjax.__path__, "stnjax.")
}

if __name__ == "__main__":
  absltest.main()
