"""README's Python runs, and prints what its comments say."""

import pathlib
import re

from absl.testing import absltest
import numpy as np

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()


class ReadmeTest(absltest.TestCase):
  def test_python_blocks_run_and_print_what_they_say(self):
    names, checked = {}, 0
    for block in re.findall(r"```python\n(.*?)```", README, re.S):
      for line in block.splitlines():
        code, _, comment = line.partition("  #")
        comment = comment.strip()
        if re.match(r"(import|from|\w+ = )", code):
          exec(code, names)
          if comment.startswith("["):
            shape = names[code.split()[0]].shape
            self.assertEqual(str(list(shape)), comment, line)
            checked += 1
        elif code:
          value = eval(code, names)
          if comment.startswith("Array("):
            number = float(re.match(r"Array\((.+?),", comment)[1])
            np.testing.assert_allclose(value, number, rtol=1e-5)
            checked += 1
          elif comment.startswith("{"):
            self.assertEqual(value, eval(comment))
            checked += 1
          elif comment.startswith("["):
            self.assertEqual(str(list(value.shape)), comment, line)
            checked += 1
    self.assertEqual(checked, 5)

  def test_every_link_to_a_file_leads_somewhere(self):
    root = pathlib.Path(__file__).parent.parent
    for target in re.findall(r"\]\((?!http)(.+?)\)", README):
      self.assertTrue((root / target).exists(), target)


if __name__ == "__main__":
  absltest.main()
