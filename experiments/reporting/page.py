"""Sections of text, tables and pictures as a Markdown file or an HTML page."""

import base64
from collections.abc import Iterator, Sequence
import dataclasses
import html
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
class Section:
  """A title and its content, in order."""

  title: str
  parts: Sequence[str | Table | Picture]


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
      if isinstance(part, Table):
        lines.append(tables.markdown(part))
      elif isinstance(part, Picture):
        alt = tables.escaped(part.caption, tables.IN_LINK)
        link = quote(part.path.name)
        lines += [f"![{alt}]({link})", "", tables.paragraph(part.caption)]
      else:
        lines.append(tables.paragraph(part))
      lines.append("")
  return "\n".join(lines)


_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #ddd;
         text-align: right; }
th { font-weight: 600; border-bottom: 2px solid #888; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; }
figcaption { color: #555; }
"""


def page(title: str, sections: Sequence[Section]) -> str:
  """Sections as one HTML page that contains its pictures.

  Args:
    title: Title of the page.
    sections: Sections of the page; their texts appear as they are, escaped.

  Returns:
    The text of the file.
  """
  body = [f"<h1>{html.escape(title)}</h1>"]
  for section in sections:
    body.append(f"<h2>{html.escape(section.title)}</h2>")
    for part in section.parts:
      body += _elements(part)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    "</head><body>\n" + "\n".join(body) + "\n</body></html>\n"
  )


def _elements(part: str | Table | Picture) -> Iterator[str]:
  """Lines of HTML."""
  if isinstance(part, Table):
    yield "<table>"
    for tag, row in [("th", part.heading), *(("td", row) for row in part.rows)]:
      cells = (f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
      yield f"<tr>{''.join(cells)}</tr>"
    yield "</table>"
  elif isinstance(part, Picture):
    content = base64.b64encode(part.path.read_bytes()).decode()
    caption = html.escape(part.caption)
    yield (
      f'<figure><img alt="{caption}" src="data:image/png;base64,{content}">'
      f"<figcaption>{caption}</figcaption></figure>"
    )
  else:
    yield f"<p>{html.escape(part)}</p>"
