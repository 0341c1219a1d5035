"""Configuration of the site: `python -m sphinx -W docs build/docs`."""

import inspect
import pathlib
import shutil
import sys

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(ROOT), str(DOCS)]

import reference  # noqa: E402

import stnjax  # noqa: E402

project = "stnjax"
author = "the stnjax developers"
release = version = stnjax.__version__

extensions = [
  "myst_nb",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
  "sphinx_copybutton",
]
exclude_patterns = ["examples", "_build"]
html_theme = "furo"
html_show_copyright = False
html_title = f"stnjax {release}"
html_theme_options = {"navigation_with_keys": True}
nb_execution_mode = "off"  # notebooks are committed with their output
suppress_warnings = ["myst.header"]  # pages of results start at any level

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "code"  # docstrings have single backquotes
autoclass_content = "both"  # the class, then its arguments
autodoc_typehints = "none"  # types are in the signature of the source
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_ivar = True
napoleon_use_rtype = False
toc_object_entries = False


# Reports and notebooks lie beside the scripts that write them. Pages link to
# them there, for readers of the repository; the site has copies.
COPIED = {
  "reports": ROOT / "experiments" / "results",
  "notebooks": ROOT / "experiments" / "notebooks",
}


def copy_reports() -> None:
  """Copies reports, as pages without a place in the contents, and notebooks."""
  for name, source in COPIED.items():
    target = DOCS / name
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(
      source, target, ignore=shutil.ignore_patterns("*.json", "__pycache__")
    )
    for page in target.rglob("*.md"):
      page.write_text("---\norphan: true\n---\n\n" + page.read_text())


def link_copies(app, name: str, source: list[str]) -> None:
  """Lets the links of a page lead to the copies."""
  del app
  if not name.startswith(("reports/", "notebooks/")):
    for copy, folder in COPIED.items():
      original = f"../{folder.relative_to(ROOT)}/"
      source[0] = source[0].replace(original, f"{copy}/")


def list_names(app, what, name, obj, options, lines: list[str]) -> None:
  """Makes a list of names that the docstring of a package describes."""
  del app, name, obj, options
  if what != "module":
    return
  in_list = False
  for index, line in enumerate(lines):
    starts = line.startswith("  `")
    in_list = starts or (in_list and line.startswith("    "))
    if in_list:
      lines[index] = ("- " if starts else "  ") + line.strip()
  for index in range(len(lines) - 1, 0, -1):
    before = lines[index - 1]
    if lines[index].startswith("- ") and before and before[0] not in "- ":
      lines.insert(index, "")


def sign_modules(app, what, name, obj, options, signature, returned):
  """Gives NNX modules, whose metaclass hides it, the signature of __init__."""
  del app, name, options
  if what == "class" and signature == "(*args, **kwargs)":
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    plain = [p.replace(annotation=p.empty) for p in parameters]
    signature = str(inspect.Signature(plain))
  return signature, returned


def setup(app):
  """Adds the pages that are not written by hand."""

  def write(_) -> None:
    reference.write(DOCS / "api")
    copy_reports()

  app.connect("builder-inited", write)
  app.connect("source-read", link_copies)
  app.connect("autodoc-process-docstring", list_names)
  app.connect("autodoc-process-signature", sign_modules)
