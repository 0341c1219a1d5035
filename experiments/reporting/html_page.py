"""Sections as one HTML page without external resources, light or dark.

Tables are sorted by a click on a heading; long parts are folded away.
"""

import base64
from collections.abc import Iterator, Sequence
import html

from experiments.lib.tables import Table
from experiments.reporting.page import Folded, Part, Picture, Section

_STYLE = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --soft: #555;
        --line: #ddd; --link: #0b57d0; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --back: #181a1b; --soft: #aaa; --line: #3a3d3f;
          --link: #8ab4f8; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem;
       margin: 2rem auto; padding: 0 1rem; color: var(--text);
       background: var(--back); }
a { color: var(--link); }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid var(--line);
         text-align: right; }
th { font-weight: 600; border-bottom: 2px solid var(--soft);
     vertical-align: bottom; }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--link); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
td { white-space: nowrap; }
.text { text-align: left; white-space: normal; min-width: 6rem; }
details { color: var(--soft); margin: 1rem 0; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; background: #fff; }
figcaption { color: var(--soft); }
"""

# A cell is compared by its first number; text behind numbers.
_SORT = """
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, index = head.cellIndex;
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentElement.cells)
      other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = row => {
      const text = row.cells[index].textContent;
      const number = parseFloat(text.replace(/,/g, ""));
      return [Number.isNaN(number), Number.isNaN(number) ? text : number];
    };
    const rows = [...body.rows].map(row => [value(row), row]);
    rows.sort(([[textA, a]], [[textB, b]]) => {
      if (textA !== textB) return textA - textB;
      const order = textA ? a.localeCompare(b) : a - b;
      return up ? order : -order;
    });
    body.append(...rows.map(([, row]) => row));
  });
}
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
  if len(sections) > 2:
    links = "".join(
      f'<li><a href="#section-{number}">{html.escape(section.title)}</a></li>'
      for number, section in enumerate(sections)
    )
    body.append(f"<nav><ul>{links}</ul></nav>")
  for number, section in enumerate(sections):
    heading = html.escape(section.title)
    body.append(f'<h2 id="section-{number}">{heading}</h2>')
    for part in section.parts:
      body += _elements(part)
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    "</head><body>\n"
    + "\n".join(body)
    + f"\n<script>{_SORT}</script></body></html>\n"
  )


def _elements(part: Part) -> Iterator[str]:
  """Lines of HTML."""
  if isinstance(part, Table):
    yield from _table(part)
  elif isinstance(part, Picture):
    content = base64.b64encode(part.path.read_bytes()).decode()
    caption = html.escape(part.caption)
    yield (
      f'<figure><img alt="{caption}" src="data:image/png;base64,{content}">'
      f"<figcaption>{caption}</figcaption></figure>"
    )
  elif isinstance(part, Folded):
    yield f"<details><summary>{html.escape(part.heading)}</summary>"
    yield from _elements(part.content)
    yield "</details>"
  else:
    yield f"<p>{html.escape(part)}</p>"


def _table(table: Table) -> Iterator[str]:
  def kind(column: int) -> str:
    return ' class="text"' if column < table.text_columns else ""

  yield '<div class="table"><table><thead><tr>'
  for column, name in enumerate(table.heading):
    button = f'<button type="button">{html.escape(name)}</button>'
    yield f'<th scope="col"{kind(column)}>{button}</th>'
  yield "</tr></thead><tbody>"
  for row in table.rows:
    cells = (
      f"<td{kind(column)}>{_cell(cell, column, table)}</td>"
      for column, cell in enumerate(row)
    )
    yield f"<tr>{''.join(cells)}</tr>"
  yield "</tbody></table></div>"


def _cell(cell: str, column: int, table: Table) -> str:
  """A cell, with the range behind a number on its own line."""
  text = html.escape(cell)
  return text if column < table.text_columns else text.replace(" (", "<br>(")
