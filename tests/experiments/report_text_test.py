"""Texts from files in report.md, read by an independent Markdown parser."""

import html
import html.parser
import pathlib
import re
import urllib.parse

from absl.testing import absltest, parameterized
import markdown_it

from experiments.lib.tables import Table
from experiments.reporting import (
  figures,
  groups,
  html_page,
  metrics,
  names,
  page,
)
from tests.experiments import made_up

PARSER = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])


def rendered(tag, text):
  """What a browser would show in each element of a kind."""
  page = PARSER.render(text)
  return re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", page, re.S)


class TextTest(parameterized.TestCase):
  @parameterized.parameters(
    "a|b", r"a\|b", "a`b|c`", "\\", "<script>alert(1)</script>", "<!-- c",
    "<http://x.y>", "*x*", "**b**", "x*y*z", "*a *", "`code`", "``a", "_it_",
    "__b__", "a_b_c", "a_ b_", "~~s~~", "[x](http://y)", "![x](y)", "[ref][a]",
    "[a]: http://b", "[^1]", "[", "]", "&amp; &#35;", "# h", "x ##", "- l",
    "+ l", "> q", "1. x", "12) x", "---", "===", "***", "```", "~~~", "| a |",
    "line\nbreak", "    code", "a\rb\x00", "2 * 3 < 4", "-1.2 [3, 4]", "$x$",
  )  # fmt: skip
  def test_it_shows_as_it_is(self, text):
    shown = " ".join(text.split()).replace("\0", "\ufffd")
    picture = page.Picture(pathlib.Path("p.png"), text)
    table = Table([text, "n"], [[text, text]])
    section = page.Section(text, [text, table, picture])
    source = page.markdown(text, [section])
    shown_page = PARSER.render(source)
    tags = set(re.findall(r"<(\w+)", shown_page))
    table_tags = {"table", "thead", "tbody", "tr", "th", "td"}
    self.assertEqual(tags, {"h1", "h2", "p", "img"} | table_tags)
    for tag, count in {"h1": 1, "h2": 1, "th": 2, "td": 2, "p": 3}.items():
      found = rendered(tag, source)
      self.assertLen(found, count)
      if tag in ("th", "p"):  # the other column, and the picture
        del found[1]
      for part in found:
        self.assertEqual(html.unescape(part), shown)
    (alt,) = re.findall('alt="(.*?)"', shown_page)
    self.assertEqual(html.unescape(alt), shown)

  def test_prose_is_left_alone(self):
    prose = "error of STN-C0 < STN-C1 (mnist_subset): -0.09 [-0.1, 0]; 3 * 4."
    table = Table(["x"], [[prose], ["1. Iterations help."]])
    text = page.markdown("A title", [page.Section(prose, [prose, table])])
    self.assertNotIn("\\", text)

  @parameterized.parameters("audit_STN-SL0,1_1.png", "a b(c)[d]%2F<e>#1.png")
  def test_links_lead_to_files_of_any_name(self, name):
    picture = page.Picture(pathlib.Path("report") / name, "caption")
    source = page.markdown("", [page.Section("", [picture])])
    (link,) = re.findall('src="(.*?)"', PARSER.render(source))
    self.assertEqual(urllib.parse.unquote(html.unescape(link)), name)


class Elements(html.parser.HTMLParser):
  """Tags with their attributes, and the text of cells and of folded parts."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.cells, self.inside = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    self.inside.append(tag)
    if tag in ("td", "p", "summary"):
      self.cells.append("")

  def handle_endtag(self, tag):
    while self.inside and self.inside.pop() != tag:
      pass

  def handle_data(self, data):
    if {"td", "p", "summary"} & set(self.inside):
      self.cells[-1] += data


class HtmlTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    picture = pathlib.Path(self.create_tempdir()) / "a.png"
    picture.write_bytes(b"PNG")
    self.odd = '<b onclick="x">&amp; "a" (1)</b>'
    parts = [
      self.odd,
      Table(["network", self.odd], [[self.odd, "1,200 ± 3 (1 to 2)"]]),
      page.Picture(picture, self.odd),
      page.Folded("Settings", self.odd),
      page.Folded("Figure", page.Picture(picture, self.odd)),
    ]
    self.text = html_page.page(self.odd, [page.Section(self.odd, parts)])
    self.elements = Elements(self.text)

  def test_text_is_shown_as_it_is(self):
    self.assertNotIn("b", [tag for tag, _ in self.elements.tags])
    self.assertNotIn("onclick", {k for _, a in self.elements.tags for k in a})
    odd = self.odd
    cells = [odd, odd, "1,200 ± 3(1 to 2)", "Settings", odd, "Figure"]
    self.assertEqual(self.elements.cells, cells)
    images = [a for tag, a in self.elements.tags if tag == "img"]
    self.assertEqual([image["alt"] for image in images], [self.odd] * 2)

  def test_nothing_is_loaded(self):
    for tag, attributes in self.elements.tags:
      self.assertNotIn(tag, ("link", "iframe", "object"))
      source = attributes.get("src", "data:")
      self.assertStartsWith(source, "data:", tag)
    self.assertNotIn("@import", self.text)
    self.assertNotIn("url(", self.text)

  def test_headings_of_columns_are_buttons(self):
    tags = [tag for tag, _ in self.elements.tags]
    self.assertEqual(tags.count("button"), tags.count("th"))
    self.assertEqual(tags.count("details"), 2)


class PlacementTest(absltest.TestCase):
  def test_two_names_of_one_network_are_one_point_with_all_seeds(self):
    errors = {
      "STN-SL1": 10, "STN-SL1,1": 20, "STN-SL1x2": 30, "STN-C0": 40,
      "STN-SL0": 50,
    }  # fmt: skip
    made = [made_up.run(name, 0, error) for name, error in errors.items()]
    (group,) = groups.group(made)
    depths, iterations, _ = figures.errors_by_placement(group.members)
    self.assertEqual(iterations["STN-SL1"], {1: [10], 2: [20, 30]})
    self.assertEqual(depths["STN-SL"], {0: [40, 50], 1: [10]})

  def test_networks_are_ordered_and_drawn_by_kind_and_depth(self):
    order = ("CNN", "STN-C0", "STN-C1", "STN-C10", "STN-SL1", "STN-UCN0",
             "STN-UCN1", "DEF0", "DEF1")  # fmt: skip
    self.assertEqual(sorted(reversed(order), key=names.order), [*order])
    made = [made_up.run(name, 0, 25.0 * i) for i, name in enumerate(order)]
    (group,) = groups.group(reversed(made))
    self.assertSequenceEqual(list(group.members), order)
    depths, iterations, baseline = figures.errors_by_placement(group.members)
    self.assertEqual(
      depths,
      {
        "STN-C": {0: [25.0], 1: [50.0], 10: [75.0]},
        "STN-SL": {0: [25.0], 1: [100.0]},
        "STN-UCN": {0: [125.0], 1: [150.0]},
        "DEF": {0: [175.0], 1: [200.0]},
      },
    )
    self.assertEqual((iterations, baseline), ({}, [0.0]))

  def test_the_baseline_is_the_cnn_alone(self):
    errors = {"CNN": 40, "GCNN": 10, "STN-C0": 30, "STN-C1": 20}
    made = [made_up.run(name, 0, error) for name, error in errors.items()]
    (group,) = groups.group(made)
    *_, baseline = figures.errors_by_placement(group.members)
    self.assertEqual(baseline, [40.0])

  def test_added_iterations_count(self):
    made = [made_up.run("STN-SL1", 0, 10, more_iterations=(1, 2))]
    made += [made_up.run("STN-SL1x2", 0, 20, more_iterations=(1, 2))]
    (group,) = groups.group(made)
    depths, iterations, _ = figures.errors_by_placement(group.members)
    self.assertEqual(iterations, {"STN-SL1": {3: [10], 4: [20]}})
    self.assertEqual(depths, {})

  def test_cells_of_several_seeds(self):
    self.assertEqual(metrics.spread([1.25], 1), "1.2")
    self.assertEqual(metrics.spread([1.0, 3.0], 1), "2.0 ± 1.4 (1.0 to 3.0)")
    self.assertEqual(metrics.spread([1.0, float("nan")], 1), "–")


if __name__ == "__main__":
  absltest.main()
