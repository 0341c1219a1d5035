"""Rules that hold for every public function, by reflection."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

from absl.testing import absltest, parameterized
import pytest

import stnjax

WARPS = (
  stnjax.warp,
  stnjax.grid_sample,
  stnjax.resize,
  stnjax.splat,
  stnjax.spline_coefficients,
  stnjax.affine_grid,
  stnjax.tps_grid,
  stnjax.flow_grid,
  stnjax.velocity_grid,
)
MODULES = sorted(
  info.name for info in pkgutil.walk_packages(stnjax.__path__, "stnjax.")
)


def public(module):
  """Functions, classes and methods that a module defines for others."""
  for name, value in vars(module).items():
    if (
      name.startswith("_")
      or getattr(value, "__module__", "") != module.__name__
    ):
      continue
    if inspect.isfunction(value) or inspect.isclass(value):
      yield f"{module.__name__}.{name}", value
    if inspect.isclass(value):
      fields = getattr(value, "__dataclass_fields__", {})
      for method, function in vars(value).items():
        private = method.startswith("_") or method in fields
        if inspect.isfunction(function) and not private:
          yield f"{module.__name__}.{name}.{method}", function


class ApiTest(parameterized.TestCase):
  @parameterized.parameters(*MODULES)
  def test_public_things_have_docstrings(self, name):
    module = importlib.import_module(name)
    self.assertTrue(module.__doc__)
    for path, value in public(module):
      if issubclass(type(value), type) and issubclass(value, tuple):
        continue
      self.assertTrue(inspect.getdoc(value), path)

  @parameterized.parameters(*WARPS)
  def test_warps_document_and_name_their_options(self, function):
    for heading in (
      "Args:",
      "Returns:",
      "Raises:",
      "Gradient:",
      "Reference:",
      ">>> ",
    ):
      self.assertIn(heading, function.__doc__)
    self.assertIn("Convention", function.__doc__)
    for name, parameter in inspect.signature(function).parameters.items():
      self.assertIn(f"    {name}: ", function.__doc__)
      optional = parameter.default is not inspect.Parameter.empty
      self.assertEqual(optional, parameter.kind is parameter.KEYWORD_ONLY, name)

  def test_options_have_one_default_everywhere(self):
    defaults = {}
    for function in WARPS:
      for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
          defaults.setdefault(name, set()).add(parameter.default)
    self.assertEqual(defaults["align_corners"], {False})
    for name, values in defaults.items():
      self.assertLen(values, 1, name)

  def test_examples_of_a_warp_run(self):
    result = doctest.testmod(importlib.import_module("stnjax.sampling.warping"))
    self.assertGreater(result.attempted, 0)
    self.assertEqual(result.failed, 0)

  @parameterized.parameters(*MODULES)
  @pytest.mark.slow
  def test_examples_in_docstrings_run(self, name):
    result = doctest.testmod(importlib.import_module(name))
    self.assertEqual(result.failed, 0)

  def test_library_reads_no_flags(self):
    for path in pathlib.Path(stnjax.__file__).parent.rglob("*.py"):
      names = {
        alias.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
      }
      self.assertNotIn("flags", names, path)

  def test_version_is_packaged(self):
    self.assertTrue(re.fullmatch(r"\d+\.\d+\.\d+", stnjax.__version__))


if __name__ == "__main__":
  absltest.main()
