"""Turns the finished runs of a workdir into tables and figures.

  python -m experiments.report --workdir=runs

writes runs/report/report.md with its figures as PNG, and report.html, one page
that holds everything. Runs that differ in more than network and seed, in their
data set or epochs for instance, get a section each.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import html
import io
import json
from typing import Any, NamedTuple

from absl import flags
from etils import epath
import numpy as np

from experiments import cli
from stnjax import evaluation, networks, plots, runs


class Finished(NamedTuple):
  """A finished run, read back."""

  settings: runs.Settings
  results: dict[str, Any]
  metrics: list[dict[str, Any]]
  folder: epath.Path

  def evaluation(self) -> Mapping[str, np.ndarray]:
    path = self.folder / "evaluation.npz"
    try:
      return np.load(io.BytesIO(path.read_bytes()))
    except (OSError, ValueError) as error:
      raise runs.RunError(f"cannot read {path}: {error}") from error


@dataclasses.dataclass
class Table:
  """A heading row and rows of cells; the first column is text."""

  heading: Sequence[str]
  rows: Sequence[Sequence[str]]


@dataclasses.dataclass
class Picture:
  """A PNG file beside the report."""

  path: epath.Path
  caption: str


@dataclasses.dataclass
class Section:
  """A title and what stands under it, in order."""

  title: str
  parts: list[str | Table | Picture]


def write(workdir: str) -> epath.Path:
  """Writes the report of all finished runs.

  Args:
    workdir: folder of the runs.

  Returns:
    The path of the HTML page; report.md lies beside it.

  Raises:
    RunError: where no run is finished, or one cannot be read.
  """
  root = epath.Path(workdir).expanduser()
  finished, unfinished = read(root)
  if not finished:
    raise runs.RunError(f"{root} holds no finished run")
  output = root / "report"
  output.mkdir(parents=True, exist_ok=True)
  sections = [
    _section(settings, members, output, number)
    for number, (settings, members) in enumerate(_groups(finished), 1)
  ]
  if unfinished:
    names = ", ".join(sorted(unfinished))
    sections.append(Section("Not finished, and left out", [names]))
  (output / "report.md").write_text(_markdown(sections))
  page = output / "report.html"
  page.write_text(_page(sections))
  return page


def read(root: epath.Path) -> tuple[list[Finished], list[str]]:
  """The finished runs of a workdir, and the names of the others.

  Raises:
    RunError: where a run's files cannot be read.
  """
  finished, unfinished = [], []
  configs = sorted(root.glob("*/config.json")) if root.exists() else []
  for folder in (config.parent for config in configs):
    if not (folder / "DONE").exists():
      unfinished.append(folder.name)
      continue
    try:
      results = json.loads((folder / "results.json").read_text())
    except (OSError, ValueError) as error:
      raise runs.RunError(
        f"cannot read results of {folder}: {error}"
      ) from error
    settings = runs.read_settings(folder)
    metrics = runs.read_metrics(folder)
    finished.append(Finished(settings, results, metrics, folder))
  return finished, unfinished


def _groups(
  finished: Sequence[Finished],
) -> Iterator[tuple[runs.Settings, dict[str, list[Finished]]]]:
  """Runs alike but for network and seed, by network."""
  groups: dict[runs.Settings, dict[str, list[Finished]]] = {}
  for run in finished:
    common = dataclasses.replace(run.settings, network="CNN", seed=0)
    by_network = groups.setdefault(common, {})
    by_network.setdefault(run.settings.network, []).append(run)
  for common, by_network in groups.items():
    order = sorted(by_network, key=_order)
    yield common, {name: by_network[name] for name in order}


def _order(network: str) -> tuple[int, tuple[int, ...]]:
  """CNN first, then C, DL, SL, each by depths."""
  placement = networks.parse_placement(network)
  return ("CNN", "C", "DL", "SL").index(placement.kind), placement.depths


_ALIGNMENT = (
  " Alignment std: of what is left of the rotation after the transformer, about"
  " the pose common to the class; 0 is perfect, a transformer that does nothing"
  " has that of the perturbation (51.96 for angles uniform in ±90)."
)


def _section(
  settings: runs.Settings,
  members: dict[str, list[Finished]],
  output: epath.Path,
  number: int,
) -> Section:
  """Table and figures of runs that differ in network and seed."""
  title = f"{settings.dataset}, {settings.perturbation}, {settings.family}"
  changed = [
    f"{field.name} {_plain(getattr(settings, field.name))}"
    for field in dataclasses.fields(settings)
    if field.name not in ("network", "seed")
  ]
  hardware = sorted(
    {run.results["hardware"] for group in members.values() for run in group}
  )
  parts: list[str | Table | Picture] = [
    f"Settings: {', '.join(changed)}. Hardware: {'; '.join(hardware)}.",
    _table(members),
    "Mean ± standard deviation over the seeds, and their range."
    + _ALIGNMENT * (settings.perturbation == "rotation"),
  ]
  for name, caption, figure in _figures(members):
    path = output / f"{name}_{number}.png"
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    path.write_bytes(content.getvalue())
    parts.append(Picture(path, caption))
  return Section(title, parts)


def _table(members: dict[str, list[Finished]]) -> Table:
  heading = [
    "network",
    "parameters",
    "of these localisation",
    "error (%)",
    "alignment std (deg)",
    "seeds",
    "training (s per run)",
  ]
  rows = []
  for name, group in members.items():
    results = [run.results for run in group]
    parameters = results[0]["parameters"]
    aligned = [r["alignment_std"] for r in results if "alignment_std" in r]
    rows.append(
      [
        name,
        f"{parameters['total']:,}",
        f"{parameters['localisation']:,}",
        spread([100 * r["error"] for r in results], 2),
        spread(aligned, 1) if aligned and name != "CNN" else "–",
        str(len(group)),
        f"{np.mean([r['seconds'] for r in results]):.0f}",
      ]
    )
  return Table(heading, rows)


def spread(values: Sequence[float], digits: int) -> str:
  """Mean ± standard deviation (smallest to largest); one value as it is."""
  if len(values) == 1:
    return f"{values[0]:.{digits}f}"
  low, high = f"{min(values):.{digits}f}", f"{max(values):.{digits}f}"
  return (
    f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
    f" ({low} to {high})"
  )


def _figures(members: dict[str, list[Finished]]) -> Iterator[tuple]:
  """Name, caption and figure of each picture."""
  by_seed = {
    name: {run.settings.seed: run for run in group}
    for name, group in members.items()
    if name != "CNN"
  }
  # The same seed perturbs alike: without one in common, nothing to compare.
  shared = set.intersection(*map(set, by_seed.values())) if by_seed else set()
  seed = min(shared, default=None)
  stns = {
    name: runs_of[seed].evaluation()
    for name, runs_of in by_seed.items()
    if shared
  }
  if stns:
    before = next(iter(stns.values()))["before"]
    after = {name: arrays["after"] for name, arrays in stns.items()}
    yield (
      "before_after",
      "What the transformers make of perturbed inputs: a column per class, a"
      " row per perturbation of the same image. For a network that warps"
      " features (STN-C1, ...), what its transform would have made of the"
      f" input. Seed {seed}.",
      plots.before_and_after(before, after),
    )
  if stns and "true_rotation" in next(iter(stns.values())):
    true, predicted = {}, {}
    for name, arrays in stns.items():
      true[name], predicted[name] = _angles(arrays)
    yield (
      "angles",
      "Predicted against true rotation, less the pose common to the class;"
      " blue: undone exactly (slope -1), red: orthogonal regression."
      f" Seed {seed}.",
      plots.angle_density(true, predicted),
    )
  curves = {
    label: {
      name: [
        np.array([scale * line[key] for line in run.metrics]) for run in group
      ]
      for name, group in members.items()
      if all(key in line for run in group for line in run.metrics)
      and not (key == "alignment_std" and name == "CNN")
    }
    for label, key, scale in (
      ("error (%)", "error", 100),
      ("alignment std (deg)", "alignment_std", 1),
      ("training loss", "train_loss", 1),
    )
  }
  yield (
    "curves",
    "Learning curves: mean over the seeds, and their range.",
    plots.learning_curves({k: v for k, v in curves.items() if v}),
  )


def _angles(
  arrays: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
  """True angles, and predicted ones less the common pose, in degrees."""
  true = arrays["true_rotation"].ravel()
  labels = np.tile(arrays["label"], len(arrays["true_rotation"]))
  predicted = evaluation.predicted_rotation(arrays["pose"]).ravel()
  residual = evaluation.rotation_residual(true, predicted, labels)
  return np.degrees(true), residual - np.degrees(true)


def _plain(value: Any) -> str:
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _markdown(sections: Sequence[Section]) -> str:
  lines = ["# Where the spatial transformer sits", ""]
  for section in sections:
    lines += [f"## {section.title}", ""]
    for part in section.parts:
      if isinstance(part, Table):
        lines.append(f"| {' | '.join(part.heading)} |")
        lines.append("|---" + "|--:" * (len(part.heading) - 1) + "|")
        lines += [f"| {' | '.join(row)} |" for row in part.rows]
      elif isinstance(part, Picture):
        lines += [f"![{part.caption}]({part.path.name})", "", part.caption]
      else:
        lines.append(part)
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


def _page(sections: Sequence[Section]) -> str:
  body = ["<h1>Where the spatial transformer sits</h1>"]
  for section in sections:
    body.append(f"<h2>{html.escape(section.title)}</h2>")
    for part in section.parts:
      if isinstance(part, Table):
        rows = [
          "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
          for tag, row in [
            ("th", part.heading),
            *(("td", row) for row in part.rows),
          ]
        ]
        body.append("<table>")
        body += [f"<tr>{row}</tr>" for row in rows]
        body.append("</table>")
      elif isinstance(part, Picture):
        data = base64.b64encode(part.path.read_bytes()).decode()
        caption = html.escape(part.caption)
        body.append(
          f'<figure><img alt="{caption}" src="data:image/png;base64,{data}">'
          f"<figcaption>{caption}</figcaption></figure>"
        )
      else:
        body.append(f"<p>{html.escape(part)}</p>")
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f"<title>Where the spatial transformer sits</title><style>{_STYLE}</style>"
    "</head><body>\n" + "\n".join(body) + "\n</body></html>\n"
  )


def main() -> None:
  print(f"report: {write(cli.WORKDIR.value)}")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
