"""Writes the report of a workdir."""

from etils import epath

from experiments.reporting import (
  finished,
  groups,
  html_page,
  page,
  sections,
)
from stnjax import files

TITLE = "Placement of the spatial transformer"


def write(workdir: str) -> epath.Path:
  """Writes the report of all finished runs.

  Damaged runs are left out, and named in the report and on stderr.

  Args:
    workdir: Folder of the runs.

  Returns:
    The path of the HTML page; report.md lies beside it.

  Raises:
    RunError: If no run is finished, or a file cannot be written.
    ValueError: For a workdir that is neither local nor `gs://`.
  """
  root = files.place("workdir", workdir)
  runs, left_out = finished.read(root)
  finished.announce(left_out)
  if not runs:
    raise finished.none_in(root, left_out)
  output = root / "report"
  with files.writing(output):
    output.mkdir(parents=True, exist_ok=True)
  grouped = groups.group(runs)
  content = [
    sections.summary(grouped),
    *(
      sections.section(group, output, number)
      for number, group in enumerate(grouped, 1)
    ),
  ]
  content += page.left_out(left_out)
  files.write_whole(output / "report.md", page.markdown(TITLE, content))
  values = [run.to_json() for run in runs]
  text = files.to_json(values, indent=1) + "\n"
  files.write_whole(output / "results.json", text)
  files.write_whole(output / "report.html", html_page.page(TITLE, content))
  return output / "report.html"
