"""Tests whether measurements of a plain CNN predict where a transformer works.

  python -m experiments.audit --workdir=runs
  python -m experiments.localisability --workdir=runs
  python -m experiments.prediction --workdir=runs
  python -m experiments.prediction --workdir=experiments/results

compares the share of a transform that a warp of the features after block X of
the CNN can undo, see `stnjax.alignability`, with STN-CX, which warps those
features; and how well the pose is read from them with STN-SLX, which localises
in them: error relative to the CNN's, and residual share of the perturbation. It
reads runs as `experiments.claims` does, and writes prediction.md, .json and
figures to the workdir.
"""

from absl import flags

from experiments.lib import cli
from experiments.reporting import correlations, finished, groups, page, verdicts
from experiments.reporting.correlations import Correlation
from stnjax import files

TITLE = "Do measurements of the CNN predict placements?"


def write(workdir: str) -> dict[str, dict[str, Correlation]]:
  """Writes prediction.md, prediction.json and figures.

  Args:
    workdir: Folder of runs, or of folders of runs or reports.

  Returns:
    By predictor, the correlations with "error" and "residual".

  Raises:
    RunError: If there are too few runs, or they cannot be read.
    ValueError: For a workdir that is neither local nor `gs://`.
  """
  root = files.place("workdir", workdir)
  runs, left_out = finished.read_all(root)
  results = verdicts.results_of(groups.group(runs))
  every, content, values = {}, [], {}
  for predictor in correlations.PREDICTORS:
    points = list(correlations.points(results, predictor))
    found = correlations.correlate_all(points)
    if not found:
      continue
    path = root / f"prediction_{predictor.name}.png"
    picture = page.Picture(path, predictor.caption)
    files.write_whole(path, page.png(correlations.figure(points, predictor)))
    content.append(correlations.section(points, found, picture, predictor))
    every[predictor.name] = found
    values[predictor.name] = {
      "points": [point._asdict() for point in points],
      "correlations": {q: value._asdict() for q, value in found.items()},
    }
  if not every:
    raise files.RunError(
      f"fewer than {correlations.LEAST_POINTS} networks have a measured CNN;"
      " run experiments.audit or experiments.localisability first"
    )
  content += page.left_out(left_out)
  files.write_whole(root / "prediction.md", page.markdown(TITLE, content))
  text = files.to_json(values, indent=1) + "\n"
  files.write_whole(root / "prediction.json", text)
  return every


def main() -> None:
  for predictor, found in write(cli.WORKDIR.value).items():
    for quantity, correlation in found.items():
      print(f"{quantity} against {predictor}: {correlation}")
  print(f"written: {cli.WORKDIR.value}/prediction.md, .json and figures")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
