"""A bare install, a missing extra, and which extra brings which package."""

import ast
from importlib import metadata
import pathlib
import re
import subprocess
import sys
import tomllib

from absl.testing import absltest
import pytest

ROOT = pathlib.Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# Nothing can be imported but stnjax, jax, numpy, what these two depend on, and
# the standard library.
BARE = """
import sys
from importlib import machinery

PRESENT = {
  *sys.stdlib_module_names, "stnjax", "jax", "jaxlib", "numpy", "scipy",
  "ml_dtypes", "opt_einsum",
}

class Present(machinery.PathFinder):
  @classmethod
  def find_spec(cls, name, path=None, target=None):
    top = name.partition(".")[0]
    if top in PRESENT or top.startswith("_sysconfigdata"):
      return super().find_spec(name, path, target)

sys.meta_path[:] = [
  machinery.BuiltinImporter, machinery.FrozenImporter, Present
]
"""
ARRAYS = """
import jax
import jax.numpy as jnp
import stnjax
from stnjax import coordinates, sampling, transforms

image = jnp.arange(48.0).reshape(4, 4, 3)
theta = transforms.matrix(jnp.full(6, 0.1), "affine")
value = lambda theta: stnjax.warp(image, theta, antialias=True).sum()
print(jax.grad(value)(theta).shape)
print(stnjax.warp(image, theta, method="spline").shape)
for family in transforms.FAMILIES:
  zeros = jnp.zeros(transforms.num_params(family))
  grid = sampling.family_grid(zeros, family, (4, 4))
  assert jnp.abs(stnjax.grid_sample(image, grid) - image).max() < 1e-3, family
"""
# Imports modules without packages that are installed here.
IMPORTS = """
import importlib
import sys

packages, modules = (words.split() for words in sys.argv[1:])
sys.modules.update(dict.fromkeys(packages))
for name in modules:
  try:
    importlib.import_module(name)
  except ModuleNotFoundError as error:
    print(name, error, sep=": ")
"""
MISSING = {
  "stnjax.nn": ("flax", "nn"),
  "stnjax.placement": ("flax", "nn"),
  "stnjax.alignability": ("optax", "nn"),
  "stnjax.files": ("etils", "experiments"),
  "stnjax.data": ("etils", "experiments"),
  "stnjax.training": ("flax", "experiments"),
  "stnjax.plots": ("matplotlib", "experiments"),
}


def python(code, *arguments):
  return subprocess.run(
    [sys.executable, "-c", code, *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


def distributions(extra):
  """Names of what an extra installs, as pip compares them."""
  names = set()
  for requirement in PROJECT["optional-dependencies"][extra]:
    name, inner = re.match(r"([\w.-]+)(?:\[([\w,-]+)\])?", requirement).groups()
    if name == PROJECT["name"]:
      names.update(*map(distributions, inner.split(",")))
    names.add(normalised(name))
  return names


def normalised(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def needs():
  """What the code checks: `(file, package, extra)` of each call of `needs`."""
  for path in sorted(ROOT.glob("stnjax/**/*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
        "extras.needs"
      ):
        (extra,) = (ast.literal_eval(word.value) for word in node.keywords)
        for package in node.args:
          yield path.name, ast.literal_eval(package), extra


class ExtrasTest(absltest.TestCase):
  @pytest.mark.slow
  def test_arrays_are_warped_with_jax_and_numpy_alone(self):
    done = python(BARE + ARRAYS)
    self.assertEqual(done.stdout, "(2, 3)\n(4, 4, 3)\n", done.stderr)

  def test_every_check_names_an_extra_that_brings_the_package(self):
    installed_by = metadata.packages_distributions()
    found = set(needs())
    self.assertNotEmpty(found)
    for file, package, extra in found:
      brought = set(map(normalised, installed_by[package]))
      self.assertTrue(brought & distributions(extra), (file, package, extra))

  def test_a_missing_package_is_named_with_its_extra(self):
    packages = {package for package, _ in MISSING.values()}
    done = python(IMPORTS, " ".join(packages), " ".join(MISSING))
    expected = [
      f"{module}: {package} is not installed; run: pip install"
      f" 'stnjax[{extra}]'"
      for module, (package, extra) in MISSING.items()
    ]
    self.assertEqual(done.stdout.splitlines(), expected, done.stderr)

  @pytest.mark.slow
  def test_a_script_without_its_extra_ends_with_one_line(self):
    code = (
      "import runpy, sys; sys.modules['flax'] = None;"
      " runpy.run_module('experiments.sweep', run_name='__main__')"
    )
    done = python(code)
    self.assertEqual(done.returncode, 1)
    self.assertEqual(
      done.stderr,
      "error: flax is not installed; run: pip install 'stnjax[experiments]'\n",
    )


if __name__ == "__main__":
  absltest.main()
