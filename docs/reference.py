"""Writes the API reference: a page for each public package, a name an entry.

A name of a package is public if its module docstring's package imports or
defines it without a leading underscore. Constants are documented by the string
below their definition.
"""

import ast
import importlib
import inspect
import pathlib
import textwrap
from types import ModuleType
from typing import Any, NamedTuple


class Page(NamedTuple):
  """A page of the reference.

  Attributes:
    title: Title of the page.
    modules: Names of the modules on it, in order.
  """

  title: str
  modules: tuple[str, ...]


PAGES = {
  "warping": Page("Warping", ("stnjax", "stnjax.coordinates")),
  "transforms": Page("Transforms", ("stnjax.transforms",)),
  "sampling": Page("Grids and sampling", ("stnjax.sampling",)),
  "augmentation": Page("Augmentation", ("stnjax.augmentation",)),
  "nn": Page(
    "Layers",
    (
      "stnjax.nn",
      "stnjax.nn.equivariant_localisation",
      "stnjax.nn.canonicalisation",
      "stnjax.nn.group_convolution",
      "stnjax.nn.convolution",
      "stnjax.nn.banded",
      "stnjax.nn.deformation",
      "stnjax.nn.initialisers",
      "stnjax.nn.predictors",
      "stnjax.nn.receptive_fields",
    ),
  ),
  "placement": Page("Networks by placement", ("stnjax.placement",)),
  "alignability": Page("Alignability", ("stnjax.alignability",)),
  "data": Page("Data", ("stnjax.data",)),
  "evaluation": Page("Evaluation", ("stnjax.evaluation", "stnjax.consistency")),
  "training": Page(
    "Training",
    (
      "stnjax.training",
      "stnjax.training.settings",
      "stnjax.training.building",
      "stnjax.training.trainer",
      "stnjax.training.trained",
    ),
  ),
  "paper": Page(
    "The paper's experiments",
    (
      "stnjax.paper",
      "stnjax.paper.classifiers",
      "stnjax.paper.claims",
      "stnjax.paper.pose_claims",
      "stnjax.paper.comparisons",
    ),
  ),
  "plots": Page("Figures", ("stnjax.plots",)),
  "registries": Page("Registries", ("stnjax.registry",)),
}


def write(folder: pathlib.Path) -> None:
  """Writes the pages to a folder, and leaves unchanged ones alone."""
  folder.mkdir(exist_ok=True)
  for name, page in PAGES.items():
    text = "\n".join([*_heading(page.title, "="), *_sections(page)])
    path = folder / f"{name}.rst"
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def public_names(module: ModuleType) -> dict[str, Any]:
  """The public objects of a module by name, modules excepted.

  Of a package those that it offers; of a module those that it defines.
  """
  constants = _constants(module)
  found = {}
  for name, value in vars(module).items():
    if name.startswith("_") or inspect.ismodule(value):
      continue
    origin = getattr(value, "__module__", None) or ""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
      if name in constants:
        found[name] = value
    elif origin == module.__name__ or (
      hasattr(module, "__path__") and origin.startswith("stnjax")
    ):
      found[name] = value
  return found


def _sections(page: Page) -> list[str]:
  lines = []
  for name in page.modules:
    module = importlib.import_module(name)
    if len(page.modules) > 1:
      lines += _heading(name, "-")
    lines += [f".. automodule:: {name}", "   :no-members:", ""]
    for entry, value in public_names(module).items():
      lines += _entry(module, entry, value)
  return lines


def _entry(module: ModuleType, name: str, value: Any) -> list[str]:
  path = f"{module.__name__}.{name}"
  if inspect.isclass(value):
    options = ["   :members:", "   :special-members: __call__"]
    if "Attributes:" in (value.__doc__ or ""):  # which has the fields
      fields = ", ".join(inspect.get_annotations(value))
      options.append(f"   :exclude-members: {fields}")
    return [f".. autoclass:: {path}", *options, ""]
  if inspect.isroutine(value):
    return [f".. autofunction:: {path}", ""]
  text = textwrap.indent(_constants(module)[name], "   ")
  return [f".. py:data:: {path}", "", text, ""]


def _constants(module: ModuleType) -> dict[str, str]:
  """The documented constants that a module defines or imports, by name."""
  tree = ast.parse(inspect.getsource(module))
  found = {}
  for statement in tree.body:
    if isinstance(statement, ast.ImportFrom) and statement.module:
      if not statement.module.startswith("stnjax."):
        continue
      source = importlib.import_module(statement.module)
      if source is module:
        continue
      documented = _own_constants(source)
      for alias in statement.names:
        if alias.asname and alias.name in documented:
          found[alias.asname] = documented[alias.name]
  return {**found, **_own_constants(module)}


def _own_constants(module: ModuleType) -> dict[str, str]:
  found = {}
  body = ast.parse(inspect.getsource(module)).body
  for statement, following in zip(body, body[1:], strict=False):
    text = getattr(following, "value", None)
    if not isinstance(text, ast.Constant) or not isinstance(text.value, str):
      continue
    if isinstance(statement, ast.Assign | ast.AnnAssign):
      target = statement.targets[0] if hasattr(statement, "targets") else None
      target = target or statement.target
      if isinstance(target, ast.Name) and not target.id.startswith("_"):
        found[target.id] = inspect.cleandoc(text.value)
  return found


def _heading(title: str, line: str) -> list[str]:
  return [title, line * len(title), ""]
