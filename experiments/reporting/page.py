"""Sections of text, tables and pictures, and their Markdown.

`html_page` makes an HTML page of them.
"""

from collections.abc import Sequence
import dataclasses
import io
from urllib.parse import quote

from etils import epath
from matplotlib.figure import Figure
from PIL import Image

from experiments.lib import tables
from experiments.lib.tables import Table
from experiments.reporting.finished import LeftOut


@dataclasses.dataclass
class Picture:
  """A PNG file beside the report, with a caption."""

  path: epath.Path
  caption: str


@dataclasses.dataclass
class Folded:
  """Text or a picture that a page hides behind a heading, such as "Settings".

  Attributes:
    heading: Heading, without a colon.
    content: Text, or a picture whose caption says what the heading says.
  """

  heading: str
  content: str | Picture


Part = str | Table | Picture | Folded


@dataclasses.dataclass
class Section:
  """A title and its content, in order."""

  title: str
  parts: Sequence[Part]


def png(figure: Figure) -> bytes:
  """A figure as PNG in 256 colours, a third of the size of full colour."""
  full, reduced = io.BytesIO(), io.BytesIO()
  figure.savefig(full, format="png", dpi=110)
  image = Image.open(full).convert("RGB").quantize(256)
  image.save(reduced, format="png", optimize=True)
  return reduced.getvalue()


def left_out(items: Sequence[LeftOut]) -> list[Section]:
  """A section that names the runs that are left out, and why; if any."""
  unfinished = ", ".join(sorted(item.name for item in items if not item.damage))
  damaged = sorted(str(item) for item in items if item.damage)
  parts = [f"Not finished: {unfinished}."] if unfinished else []
  parts += [f"Damaged: {text}." for text in damaged]
  return [Section("Left out", parts)] if parts else []


def markdown(title: str, sections: Sequence[Section]) -> str:
  """Sections as Markdown, with links to pictures in the same folder.

  Args:
    title: Title of the page.
    sections: Sections of the page; their texts appear as they are, escaped.

  Returns:
    The text of the file.
  """
  lines = [f"# {tables.escaped(title)}", ""]
  for section in sections:
    lines += [f"## {tables.escaped(section.title)}", ""]
    for part in section.parts:
      if isinstance(part, Folded) and isinstance(part.content, Picture):
        part = part.content
      if isinstance(part, Table):
        lines.append(tables.markdown(part))
      elif isinstance(part, Picture):
        alt = tables.escaped(part.caption, tables.IN_LINK)
        link = quote(part.path.name)
        lines += [f"![{alt}]({link})", "", tables.paragraph(part.caption)]
      elif isinstance(part, Folded):
        lines.append(tables.paragraph(f"{part.heading}: {part.content}"))
      else:
        lines.append(tables.paragraph(part))
      lines.append("")
  return "\n".join(lines)
