"""What scripts share imports no script."""

import pathlib

import grimp

ROOT = pathlib.Path(__file__).parent.parent.parent


def test_what_scripts_share_imports_no_script():
  graph = grimp.build_graph("experiments", cache_dir=None)
  packages = {
    f"experiments.{path.parent.name}"
    for path in ROOT.glob("experiments/*/__init__.py")
  }
  scripts = graph.find_children("experiments") - packages
  assert "experiments.sweep" in scripts and "experiments.lib" in packages
  for package in packages:
    for module in graph.find_descendants(package):
      found = graph.find_modules_directly_imported_by(module) & scripts
      assert not found, f"{module} imports {found}"
