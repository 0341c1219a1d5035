"""Python blocks of a page of the docs: run, with what their comments state.

  python -m tests.pages docs/start.md

runs the blocks of a page in order, as its reader would, in a process that has
imported nothing else, and fails where a value is not what its comment states.
"""

import ast
from collections.abc import Iterator
import math
import pathlib
import re
import sys


def blocks(path: pathlib.Path) -> list[str]:
  """The Python blocks of a page."""
  return re.findall(r"```python\n(.*?)```", path.read_text(), re.S)


def run(path: pathlib.Path) -> int:
  """Runs a page; returns how many values were compared."""
  names, compared = {}, 0
  for node, comment in _statements(path):
    value = None
    if isinstance(node, ast.Expr):
      value = eval(ast.unparse(node), names)
    else:
      exec(ast.unparse(node), names)
      if isinstance(node, ast.Assign):
        value = eval(ast.unparse(node.targets[0]), names)
    stated = _stated(comment, value)
    if stated is not None:
      compared += 1
      assert stated, f"{path}: {ast.unparse(node)} is {value!r}, not {comment}"
  return compared


def _statements(path: pathlib.Path) -> Iterator[tuple[ast.stmt, str]]:
  """Statements, each with the comment behind it."""
  for block in blocks(path):
    lines = block.splitlines()
    for node in ast.parse(block).body:
      yield node, lines[node.end_lineno - 1].partition("  # ")[2]


def _stated(comment: str, value: object) -> bool | None:
  """Whether a value is what a comment states; None if it states nothing."""
  if comment.startswith("Array("):
    number = float(re.match(r"Array\((.+?),", comment)[1])
    return math.isclose(value, number, rel_tol=1e-5)
  if comment.startswith("[") and not isinstance(value, tuple):
    return str(list(value.shape)) == comment
  if comment.startswith(("(", "{")):
    return value == ast.literal_eval(comment)
  return None


if __name__ == "__main__":
  print(run(pathlib.Path(sys.argv[1])))
