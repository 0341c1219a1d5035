"""Files that a benchmark writes: every measurement as JSON, and the tables."""

from collections.abc import Mapping, Sequence
import io
import json
import typing
from typing import Any

from absl import flags

from experiments.lib.tables import Table, markdown
from stnjax import files

if typing.TYPE_CHECKING:
  from matplotlib.figure import Figure


class Output:
  """The flags --output and --overwrite of a benchmark, and its files."""

  def __init__(self, name: str, endings: Sequence[str] = ("json", "md")):
    """Defines the flags.

    Args:
      name: Name of the benchmark, which its files and its folder have.
      endings: Endings of the files' names.
    """
    self._name = name
    self._endings = endings
    self._written = False
    self._folder = flags.DEFINE_string(
      "output", f"runs/{name}", "Folder that the results are written to."
    )
    self._overwrite = flags.DEFINE_boolean(
      "overwrite", False, "Replace existing results."
    )

  def prepare(self) -> None:
    """Creates the folder, before anything is measured.

    Raises:
      ValueError: If it holds results that may not be replaced, or cannot be
        created.
    """
    output = self._folder.value
    folder = files.place("--output", output)
    exists = any(self._path(ending).exists() for ending in self._endings)
    if exists and not self._overwrite.value:
      raise ValueError(
        f"--output={output} holds results; --overwrite replaces them"
      )
    try:
      folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ValueError(
        f"--output={output} cannot be created ({error.strerror or error});"
        " choose another folder"
      ) from None

  def write(
    self, values: dict[str, Any], text: str, figure: "Figure | None" = None
  ) -> None:
    """Writes the files; prints where they are, the first time.

    Written anew after each measurement, they have what is there if the rest
    does not come.

    Args:
      values: All measurements, for JSON.
      text: Tables, in Markdown.
      figure: Figure of a benchmark with a .png.
    """
    contents: dict[str, str | bytes] = {
      "json": json.dumps(values) + "\n",
      "md": text + "\n",
    }
    if figure is not None:
      drawn = io.BytesIO()
      figure.savefig(drawn, format="png", dpi=150)
      contents["png"] = drawn.getvalue()
    for ending, content in contents.items():
      files.write_whole(self._path(ending), content)
    if not self._written:
      written = ", ".join(str(self._path(ending)) for ending in self._endings)
      print(f"written: {written}", flush=True)
    self._written = True

  def _path(self, ending: str):
    return files.place("--output", self._folder.value) / (
      f"{self._name}.{ending}"
    )


def sections(tables: Mapping[str, Table]) -> str:
  """Tables as Markdown, each after its title; tables without rows are left out.

  Args:
    tables: Tables by title.
  """
  return "\n\n".join(
    f"{title}:\n\n{markdown(table)}"
    for title, table in tables.items()
    if table.rows
  )


def last_row(table: Table) -> str:
  """The last row of a table as Markdown, to show progress."""
  return markdown(table).splitlines()[-1]
