"""The examples run: each trains on toy images, and asserts that it learns."""

import contextlib
import importlib.util
import io
import pathlib
import runpy

from absl.testing import absltest, parameterized

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"
NEEDS = {"equinox_network": "equinox"}


class ExamplesTest(parameterized.TestCase):
  @parameterized.parameters(
    *(path.stem for path in sorted(EXAMPLES.glob("*_network.py"))),
    "own_backbone",
  )
  def test_it_learns(self, name):
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
      self.skipTest(f"{needed} is not installed: pip install -e '.[test]'")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
      names = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    self.assertLess(names["losses"][-1], 0.5 * names["losses"][0])
    self.assertStartsWith(printed.getvalue(), "loss ")


if __name__ == "__main__":
  absltest.main()
