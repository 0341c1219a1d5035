"""Turns the finished runs of a workdir into tables and figures.

  python -m experiments.report --workdir=runs

writes runs/report/report.md with its figures as PNG, results.json with what all
runs found, and report.html, one page that holds everything. Runs that differ in
more than network and seed, in their data set or epochs for instance, get a
section each. Damaged runs are left out and named, in the report and on stderr;
the exit status is 0 all the same, as there is a report.
"""

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import html
import io
from typing import Any
from urllib.parse import quote

from absl import flags
from etils import epath
from matplotlib.figure import Figure
import numpy as np
from PIL import Image

from experiments.lib import cli, tables
from experiments.lib.tables import Table
from experiments.reporting import finished
from experiments.reporting.finished import Finished, LeftOut
from stnjax import alignability, data, evaluation, files, plots
from stnjax.data import perturbations
from stnjax.placement import placements
from stnjax.training import runs

_TITLE = "Where the spatial transformer sits"


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

  Damaged runs are left out, and named in the report and on the terminal.

  Args:
    workdir: folder of the runs.

  Returns:
    The path of the HTML page; report.md lies beside it.

  Raises:
    RunError: where no run is finished, or a file cannot be written.
    ValueError: for a workdir that is neither local nor `gs://`.
  """
  root = files.place("workdir", workdir)
  found, left = finished.read(root)
  finished.announce(left)
  if not found:
    raise finished.none_in(root, left)
  output = root / "report"
  with files.writing(output):
    output.mkdir(parents=True, exist_ok=True)
  sections = [
    _section(settings, members, output, number)
    for number, (settings, members) in enumerate(groups(found), 1)
  ]
  sections += left_out(left)
  files.write_whole(output / "report.md", markdown(_TITLE, sections))
  values = [
    {"settings": dataclasses.asdict(run.settings), "results": run.results}
    for run in found
  ]
  files.write_whole(
    output / "results.json", files.to_json(values, indent=1) + "\n"
  )
  page = output / "report.html"
  files.write_whole(page, _page(sections))
  return page


def left_out(left: Sequence[LeftOut]) -> list[Section]:
  """A section that names the runs that are left out, and why; if any."""
  names = ", ".join(sorted(one.name for one in left if not one.damage))
  damaged = sorted(str(one) for one in left if one.damage)
  parts = [f"Not finished: {names}."] if names else []
  parts += [f"Damaged: {one}." for one in damaged]
  return [Section("Left out", parts)] if parts else []


def groups(
  found: Sequence[Finished],
) -> Iterator[tuple[runs.Settings, dict[str, list[Finished]]]]:
  """Runs alike but for network and seed, by network."""
  groups: dict[runs.Settings, dict[str, list[Finished]]] = {}
  for run in found:
    # Any network that takes all settings: a CNN takes no more iterations.
    common = dataclasses.replace(run.settings, network="STN-C0", seed=0)
    by_network = groups.setdefault(common, {})
    by_network.setdefault(run.settings.network, []).append(run)
  for common, by_network in groups.items():
    names = sorted(by_network, key=order)
    yield common, {name: by_network[name] for name in names}


def order(network: str) -> tuple[int, tuple[int, ...]]:
  """A key to sort networks by: kind, CNN first, then depths."""
  placement = placements.parse(network)
  return placements.KINDS.index(placement.kind), placement.depths


_ALIGNMENT = (
  " Left: standard deviation of what is left of the perturbation after the"
  " transformer, about the pose common to the class; 0 is perfect, and a"
  " transformer that does nothing leaves {none}."
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
    f"{field.name} {plain(getattr(settings, field.name))}"
    for field in dataclasses.fields(settings)
    if field.name not in ("network", "seed")
  ]
  hardware = sorted(
    {run.results["hardware"] for group in members.values() for run in group}
  )
  parts: list[str | Table | Picture] = [
    f"Settings: {', '.join(changed)}. Hardware: {'; '.join(hardware)}.",
    table(members),
    "Mean ± standard deviation over the seeds, and their range."
    + _explanation(members),
    *_by_class(members),
  ]
  for name, caption, figure in _figures(members):
    path = output / f"{name}_{number}.png"
    files.write_whole(path, png(figure))
    parts.append(Picture(path, caption))
  for name, group in members.items():
    # Those of the first seed that has some.
    audits = next((run.audits for run in group if run.audits), None)
    if not audits:
      continue
    path = output / f"audit_{name}_{number}.png"
    files.write_whole(path, png(plots.alignability(audits)))
    parts += [
      f"{name}: what a spatial warp of each layer's features undoes of a"
      " transform of the image, by its inverse / by the best warp found / with"
      " the best mixing of channels behind, in % of what the transform changes;"
      " of the input, what interpolation allows.",
      _audit_table(audits),
      Picture(
        path,
        f"{name}: what is left of transforms, relative to the features,"
        " behind the best spatial warp of each layer (dotted: without any),"
        " mean and standard deviation over images; and what is undone, against"
        " depth. The input shows what interpolation leaves.",
      ),
    ]
  return Section(title, parts)


def png(figure: Figure) -> bytes:
  """A PNG in 256 colours: a third of the size, for the eye the same."""
  drawn, small = io.BytesIO(), io.BytesIO()
  figure.savefig(drawn, format="png", dpi=110)
  image = Image.open(drawn).convert("RGB").quantize(256)
  image.save(small, format="png", optimize=True)
  return small.getvalue()


def _audit_table(audits: Mapping[str, alignability.Audit]) -> Table:
  """What a warp undoes of each family, per state and layer."""
  first = next(iter(audits.values()))
  rows = []
  for state, audit in audits.items():
    profiles = [audit.profile(kind) for kind in ("aligned", "best", "mixed")]
    for place, layer in enumerate(audit.layers):
      shares = [
        " / ".join(f"{100 * profile[name][place]:.0f}" for profile in profiles)
        for name in audit.families
      ]
      rows.append([f"{layer}, {state}", *shares])
  return Table(["layer", *(f"{n} (%)" for n in first.families)], rows)


def _axes(group: Sequence[Finished]) -> list[str]:
  """The axes along which a network's alignment was measured."""
  return list(group[0].results.get("alignment", ()))


def _all_axes(members: dict[str, list[Finished]]) -> list[str]:
  return list(
    dict.fromkeys(axis for group in members.values() for axis in _axes(group))
  )


def _in_words(axis: str) -> str:
  return f"{axis.replace('_', ' ')} left ({evaluation.UNITS[axis]})"


def _explanation(members: dict[str, list[Finished]]) -> str:
  """What the columns of alignment mean, where there are any."""
  none = {
    axis: run.results["alignment"][axis]["none"]
    for group in members.values()
    for run in group
    for axis in _axes([run])
  }
  if not none:
    return ""
  units = {axis: evaluation.UNITS[axis] for axis in none}
  words = dict.fromkeys(f"{v:.3g} {units[axis]}" for axis, v in none.items())
  return _ALIGNMENT.format(none=" or ".join(words))


def table(members: dict[str, list[Finished]]) -> Table:
  """What the runs of a group found, a row per network."""
  axes = _all_axes(members)
  heading = [
    "network",
    "parameters",
    "of these localisation",
    "error (%)",
    *(_in_words(axis) for axis in axes),
    "seeds",
    "seconds per epoch",
    "peak memory (MB)",
  ]
  rows = []
  for name, group in members.items():
    results = [run.results for run in group]
    parameters = results[0]["parameters"]
    rows.append(
      [
        name,
        f"{parameters['total']:,}",
        f"{parameters['localisation']:,}",
        spread([100 * r["error"] for r in results], 2),
        *(
          spread([r["alignment"][axis]["std"] for r in results], 2)
          if axis in _axes(group)
          else "–"
          for axis in axes
        ),
        str(len(group)),
        f"{np.mean([r['seconds_per_epoch'] for r in results]):.1f}",
        f"{max(r['peak_memory_mb'] for r in results):,}",
      ]
    )
  return Table(heading, rows)


def _by_class(members: dict[str, list[Finished]]) -> Iterator[str | Table]:
  """What is left for each class: means over the seeds that have it."""
  for axis in _all_axes(members):
    found = {
      name: [
        dict(zip(run.classes, run.results["alignment"][axis]["by_class"]))
        for run in group
      ]
      for name, group in members.items()
      if axis in _axes(group)
    }
    classes = sorted(
      {k for one in found.values() for left in one for k in left}
    )
    rows = [
      [
        name,
        *(
          spread([np.mean([left[k] for left in one if k in left] or np.nan)], 2)
          for k in classes
        ),
      ]
      for name, one in found.items()
    ]
    yield f"{_in_words(axis).capitalize()}, by class, mean over the seeds:"
    yield Table(["network", *map(str, classes)], rows)


def spread(values: Sequence[float], digits: int) -> str:
  """Mean ± standard deviation (smallest to largest); one value as it is.

  A dash where a value is not known.
  """
  if not np.isfinite(values).all():
    return "–"
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
      " row per perturbation of the same image, or per image where nothing is"
      " perturbed. For a network that warps"
      " features (STN-C1, ...), what its transform would have made of the"
      " input; for STN-UCN and DEF, the mean of the transforms of all places."
      f" Seed {seed}.",
      plots.before_and_after(before, after),
    )
  shared_axes = [axis for axis in _all_axes(members) if stns]
  for axis in shared_axes:
    true, applied, labels = {}, {}, {}
    for name, arrays in stns.items():
      true[name], applied[name], labels[name] = _poses(
        axis, arrays, members[name][0]
      )
    yield (
      axis,
      f"What the transformer does against what was done:"
      f" {axis.replace('_', ' ')}, less the pose common to the class; dashed:"
      " undone exactly (slope -1), orange: orthogonal regression."
      f" Seed {seed}.",
      plots.pose_density(axis, true, applied, labels),
    )
  yield from _error_figures(members)
  curves = {
    "error (%)": _curves(members, lambda line: 100 * line["error"]),
    **{
      _in_words(axis): _curves(
        {n: g for n, g in members.items() if axis in _axes(g)},
        lambda line, axis=axis: line["alignment"][axis],
      )
      for axis in _all_axes(members)
    },
    "training loss": _curves(members, lambda line: line["train_loss"]),
  }
  yield (
    "curves",
    "Learning curves: mean over the seeds, and their range.",
    plots.learning_curves(curves),
  )


def _curves(
  members: dict[str, list[Finished]], value: Callable[[dict], float]
) -> dict[str, list[np.ndarray]]:
  """By network, one array for each seed."""
  return {
    name: [np.array([value(line) for line in run.metrics]) for run in group]
    for name, group in members.items()
  }


def _error_figures(members: dict[str, list[Finished]]) -> Iterator[tuple]:
  """Error against depth and against iterations, where runs differ in them."""
  depths: dict[str, dict[int, list[float]]] = {}
  iterations: dict[str, dict[int, list[float]]] = {}
  baseline: list[float] = []
  for name, group in members.items():
    errors = [100 * run.results["error"] for run in group]
    placement = placements.parse(name)
    if not placement.depths:
      baseline += errors
    elif len(set(placement.depths)) == 1:
      added = len(group[0].settings.more_iterations)
      depth, times = placement.depths[0], len(placement.depths) + added
      family = placements.prefix(placement.kind)
      # Two names can be one network: STN-SL1x2 and STN-SL1,1.
      line = iterations.setdefault(f"{family}{depth}", {})
      line.setdefault(times, []).extend(errors)
      if times == 1:
        # At depth 0 three kinds are one network.
        one = depth == 0 and not placement.deforms
        kinds = ("C", "DL", "SL") if one else (placement.kind,)
        for kind in kinds:
          line = depths.setdefault(placements.prefix(kind), {})
          line.setdefault(depth, []).extend(errors)
  depths = {name: line for name, line in depths.items() if len(line) > 1}
  if depths:
    yield (
      "depth",
      "Error against the depth of the placement; depth 0 is STN-C0 for STN-C,"
      " STN-DL and STN-SL. Mean and standard deviation over the seeds, which"
      " are dots.",
      plots.error_lines("depth", depths, baseline),
    )
  several = {name: line for name, line in iterations.items() if len(line) > 1}
  if several:
    yield (
      "iterations",
      "Error against the number of iterations. Mean and standard deviation over"
      " the seeds, which are dots.",
      plots.error_lines("iterations", several, baseline),
    )


def _poses(
  axis: str, arrays: Mapping[str, np.ndarray], run: Finished
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """What was done along an axis, what was applied, and the classes."""
  kinds = (kind for kind, names in evaluation.AXES.items() if axis in names)
  kind = next(kinds)
  truth = arrays[f"true_{kind}"]
  labels = np.tile(arrays["label"], len(truth))
  flat = truth.reshape(-1, *truth.shape[2:])
  true = evaluation.true({kind: flat})[axis]
  shape = perturbations.output_shape(
    run.settings.perturbation,
    data.SETS[run.settings.dataset].image_shape,
  )
  poses = arrays["pose"]
  poses = poses.reshape(-1, *poses.shape[2:])
  return true, evaluation.applied(poses, shape)[axis], labels


def plain(value: Any) -> str:
  """A setting's value as a flag takes it."""
  return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def markdown(title: str, sections: Sequence[Section]) -> str:
  """Sections as one Markdown text, pictures as links beside it.

  Texts, names and captions appear as they are: nothing in them is markup.
  """
  lines = [f"# {tables.escaped(title)}", ""]
  for section in sections:
    lines += [f"## {tables.escaped(section.title)}", ""]
    for part in section.parts:
      if isinstance(part, Table):
        lines.append(tables.markdown(part))
      elif isinstance(part, Picture):
        alt, link = (
          tables.escaped(part.caption, tables.IN_LINK),
          quote(part.path.name),
        )
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


def _page(sections: Sequence[Section]) -> str:
  body = [f"<h1>{_TITLE}</h1>"]
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
    f"<title>{_TITLE}</title><style>{_STYLE}</style>"
    "</head><body>\n" + "\n".join(body) + "\n</body></html>\n"
  )


def main() -> None:
  print(f"report: {write(cli.WORKDIR.value)}")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
