"""README's Python runs, and prints what its comments say."""

import ast
import pathlib
import re

from absl.testing import absltest
from etils import epath
import numpy as np
import pytest

from experiments.lib import tables
from experiments.reporting import finished, gates, groups, page, verdicts
from stnjax.paper import claims

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


class ReadmeTest(absltest.TestCase):
  @pytest.mark.slow
  def test_python_blocks_run_and_print_what_they_say(self):
    names, checked = {}, 0
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
      lines = block.splitlines()
      for node in ast.parse(block).body:
        value = None
        if isinstance(node, ast.Expr):
          value = eval(ast.unparse(node), names)
        else:
          exec(ast.unparse(node), names)
          if isinstance(node, ast.Assign):
            value = eval(ast.unparse(node.targets[0]), names)
        comment = lines[node.end_lineno - 1].partition("  # ")[2]
        if comment.startswith("Array("):
          number = float(re.match(r"Array\((.+?),", comment)[1])
          np.testing.assert_allclose(value, number, rtol=1e-5)
        elif comment.startswith("{"):
          self.assertEqual(value, ast.literal_eval(comment))
        elif comment.startswith("["):
          self.assertEqual(str(list(value.shape)), comment)
        else:
          continue
        checked += 1
    self.assertEqual(checked, 7)

  def test_every_link_to_a_file_leads_somewhere(self):
    for target in re.findall(r"\]\((?!http)(.+?)\)", README):
      self.assertTrue((ROOT / target).exists(), target)

  def test_results_are_those_of_the_committed_runs(self):
    folder = ROOT / "experiments" / "results"
    grouped = groups.group(finished.read_all(epath.Path(folder))[0])
    results = verdicts.results_of(grouped, gates.outcomes(epath.Path(folder)))
    judged = claims.judge(results)
    for table in (verdicts.overview(results), verdicts.verdicts(judged)):
      self.assertIn(tables.markdown(table), README)
    content = verdicts.content(grouped, judged)
    text = page.markdown(verdicts.TITLE, content)
    self.assertEqual((folder / "claims.md").read_text(), text)


if __name__ == "__main__":
  absltest.main()
