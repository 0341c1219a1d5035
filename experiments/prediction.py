"""Tests whether the audit of a plain CNN predicts where to place a transformer.

  python -m experiments.audit --workdir=runs
  python -m experiments.prediction --workdir=runs
  python -m experiments.prediction --workdir=experiments/results

compares the share of a transform that a warp of the features after block X of
the CNN can undo, see `stnjax.alignability`, with STN-CX, which warps those
features: its error relative to the CNN's, and its residual share of the
perturbation. It reads runs as `experiments.claims` does, and writes
prediction.md, .json and .png to the workdir.
"""

from absl import flags

from experiments.lib import cli
from experiments.reporting import correlations, finished, groups, page, verdicts
from experiments.reporting.correlations import Correlation
from stnjax import files

TITLE = "Does the audit predict STN-CX?"


def write(workdir: str) -> dict[str, Correlation]:
  """Writes prediction.md, .json and .png.

  Args:
    workdir: Folder of runs, or of folders of runs or reports.

  Returns:
    The correlations with "error" and "residual".

  Raises:
    RunError: If there are too few runs, or they cannot be read.
    ValueError: For a workdir that is neither local nor `gs://`.
  """
  root = files.place("workdir", workdir)
  runs, left_out = finished.read_all(root)
  results = verdicts.results_of(groups.group(runs))
  points = list(correlations.points(results))
  found = {
    q: correlations.correlate(points, q) for q in correlations.QUANTITIES
  }
  found = {quantity: value for quantity, value in found.items() if value}
  if not found:
    raise files.RunError(
      f"{len(points)} networks that warp features have an audited CNN, of at"
      f" least {correlations.LEAST_POINTS}; run experiments.audit first"
    )
  picture = page.Picture(root / "prediction.png", correlations.CAPTION)
  files.write_whole(picture.path, page.png(correlations.figure(points)))
  content = [
    correlations.section(points, found, picture),
    *page.left_out(left_out),
  ]
  files.write_whole(root / "prediction.md", page.markdown(TITLE, content))
  values = {
    "points": [point._asdict() for point in points],
    "correlations": {q: value._asdict() for q, value in found.items()},
  }
  text = files.to_json(values, indent=1) + "\n"
  files.write_whole(root / "prediction.json", text)
  return found


def main() -> None:
  for quantity, correlation in write(cli.WORKDIR.value).items():
    print(f"{quantity} against undone: {correlation}")
  print(f"written: {cli.WORKDIR.value}/prediction.md, .json and .png")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
