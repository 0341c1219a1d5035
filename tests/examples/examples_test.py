"""The examples run: each trains on toy images, and asserts that it learns."""

import contextlib
import importlib.util
import io
import pathlib
import runpy

from absl.testing import absltest, parameterized
import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "docs" / "examples"
NEEDS = {"equinox_network": "equinox"}


class ExamplesTest(parameterized.TestCase):
  @parameterized.parameters("nnx_network", "own_backbone")
  @pytest.mark.slow
  def test_it_learns(self, name):
    self.check(name)

  @parameterized.parameters(
    "equinox_network", "linen_network", "plain_jax_network"
  )
  @pytest.mark.slow
  def test_it_learns_in_other_frameworks(self, name):
    self.check(name)

  def test_none_is_left_out(self):
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    self.assertEqual(names, {
      "equinox_network", "linen_network", "nnx_network", "plain_jax_network",
      "own_backbone",
      "my_objects", "more_objects",  # tests/experiments/stranger_test.py
    })  # fmt: skip

  def check(self, name):
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
