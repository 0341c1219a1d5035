"""Texts from files in report.md, read by a Markdown parser of its own."""

import html
import pathlib
import re
from unittest import mock
import urllib.parse

from absl.testing import absltest, parameterized
import markdown_it

from experiments import report
from stnjax.training import runs

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
    picture = report.Picture(pathlib.Path("p.png"), text)
    table = report.Table([text, "n"], [[text, text]])
    section = report.Section(text, [text, table, picture])
    source = report.markdown(text, [section])
    page = PARSER.render(source)
    tags = set(re.findall(r"<(\w+)", page))
    table_tags = {"table", "thead", "tbody", "tr", "th", "td"}
    self.assertEqual(tags, {"h1", "h2", "p", "img"} | table_tags)
    for tag, count in {"h1": 1, "h2": 1, "th": 2, "td": 2, "p": 3}.items():
      found = rendered(tag, source)
      self.assertLen(found, count)
      if tag in ("th", "p"):  # the other column, and the picture
        del found[1]
      for part in found:
        self.assertEqual(html.unescape(part), shown)
    (alt,) = re.findall('alt="(.*?)"', page)
    self.assertEqual(html.unescape(alt), shown)

  def test_prose_is_left_alone(self):
    prose = "error of STN-C0 < STN-C1 (mnist_subset): -0.09 [-0.1, 0]; 3 * 4."
    table = report.Table(["x"], [[prose], ["1. Iterations help."]])
    text = report.markdown("A title", [report.Section(prose, [prose, table])])
    self.assertNotIn("\\", text)

  @parameterized.parameters("audit_STN-SL0,1_1.png", "a b(c)[d]%2F<e>#1.png")
  def test_links_lead_to_files_of_any_name(self, name):
    picture = report.Picture(pathlib.Path("report") / name, "caption")
    page = PARSER.render(report.markdown("", [report.Section("", [picture])]))
    (link,) = re.findall('src="(.*?)"', page)
    self.assertEqual(urllib.parse.unquote(html.unescape(link)), name)


class SameNetworkTest(absltest.TestCase):
  def test_two_names_of_one_network_are_one_point_with_all_seeds(self):
    members = {
      name: [report.Finished(runs.Settings(name), {"error": error}, [], None)]
      for name, error in {
        "STN-SL1": 0.1, "STN-SL1,1": 0.2, "STN-SL1x2": 0.3,
        "STN-C0": 0.4, "STN-SL0": 0.5,
      }.items()
    }  # fmt: skip
    with mock.patch.object(report.plots, "error_lines") as draw:
      list(report._error_figures(members))
    found = {call.args[0]: call.args[1] for call in draw.call_args_list}
    self.assertEqual(found["iterations"]["STN-SL1"], {1: [10], 2: [20, 30]})
    self.assertEqual(found["depth"]["STN-SL"], {0: [40, 50], 1: [10]})


if __name__ == "__main__":
  absltest.main()
