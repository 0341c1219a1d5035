"""Lists the scripts, each with its purpose."""

import ast
import pathlib


def main() -> None:
  print("python -m experiments.NAME --help explains each script:")
  for path in sorted(pathlib.Path(__file__).parent.glob("[!_]*.py")):
    purpose = ast.get_docstring(ast.parse(path.read_text())) or ""
    print(f"  {path.stem:22}{purpose.splitlines()[0]}")


if __name__ == "__main__":
  main()
