"""Tables and text as Markdown: the only writer of tables in the project."""

from collections.abc import Sequence
import dataclasses
import re


@dataclasses.dataclass
class Table:
  """A heading row and rows of cells.

  Attributes:
    heading: Name of each column.
    rows: Cells of each row, as many as there are columns.
    text_columns: Number of leading columns that hold text, aligned left; the
      others hold numbers, aligned right.
  """

  heading: Sequence[str]
  rows: Sequence[Sequence[str]]
  text_columns: int = 1


def markdown(table: Table) -> str:
  """A table as Markdown lines; cells appear as they are, escaped."""
  numbers = len(table.heading) - table.text_columns
  rule = "|---" * table.text_columns + "|--:" * numbers + "|"
  lines = [_row(table.heading), rule]
  return "\n".join([*lines, *map(_row, table.rows)])


def _row(cells: Sequence[str]) -> str:
  return f"| {' | '.join(map(escaped, cells))} |"


_MARKUP = re.compile(
  r"[\\`|~$]"
  r"|(?<!\s)\*|\*(?!\s)"  # emphasis touches a word
  r"|(?<![^\W_])_|_(?![^\W_])"  # and is not inside of one
  r"|<(?=[A-Za-z/!?])"  # tags and links
  r"|\[(?=\^)|\](?=[(\[:])"  # links, footnotes and what they refer to
  r"|&(?=#?\w+;)"
  r"|#(?=#*$)"  # ends a heading
)
IN_LINK = re.compile(rf"{_MARKUP.pattern}|[\[\]]")
"""Markup inside the text of a link."""

_BLOCK = re.compile(r"^([0-9]{0,9})([#>+=-]|(?<=[0-9])[.)](?=\s|$))")


def escaped(text: str, markup: re.Pattern = _MARKUP) -> str:
  """Text for Markdown, in one line, that shows as it is.

  Escapes only what would be markup at its position, so that prose stays as
  legible in the file as on the page.
  """
  text = " ".join(str(text).split())
  text = "".join(c if c.isprintable() else "\ufffd" for c in text)
  return markup.sub(r"\\\g<0>", text)


def paragraph(text: str) -> str:
  """A paragraph; never a heading, quote, list or rule, whatever its start."""
  return _BLOCK.sub(r"\1\\\2", escaped(text))
