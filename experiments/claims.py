"""Tests the paper's claims on finished runs.

  python -m experiments.claims --workdir=runs
  python -m experiments.claims --workdir=experiments/results

reads the finished runs of the workdir and of its folders, or the results.json
of their reports, and writes claims.md and claims.json to the workdir, with the
tables of README. Runs that differ in network and seed alone are compared,
paired by seed. A comparison is decided if its p-value, adjusted for all
comparisons of the claim, is below 0.05; otherwise it is open, with the number
of seeds that would decide it. Comparisons with fewer than three seeds are
shown, but not evaluated; gates.json, see `experiments.gates`, lists the tasks
that count. Damaged runs are left out and named, on stderr too; the exit status
is still 0.
"""

from absl import flags

from experiments.lib import cli
from experiments.reporting import finished, gates, groups, page, verdicts
from stnjax import files
from stnjax.paper import claims


def write(workdir: str) -> list[claims.Judged]:
  """Judges all claims, and writes claims.md and claims.json.

  Args:
    workdir: Folder of runs, or of folders of runs or reports.

  Returns:
    The verdicts.

  Raises:
    RunError: If no run is finished, or a file cannot be written.
    ValueError: For a workdir that is neither local nor `gs://`.
  """
  root = files.place("workdir", workdir)
  runs, left_out = finished.read_all(root)
  grouped = groups.group(runs)
  passed = gates.outcomes(root)
  judged = claims.judge(verdicts.results_of(grouped, passed))
  content = verdicts.content(grouped, judged, left_out)
  files.write_whole(root / "claims.md", page.markdown(verdicts.TITLE, content))
  text = files.to_json(verdicts.to_json(judged), indent=1) + "\n"
  files.write_whole(root / "claims.json", text)
  return judged


def main() -> None:
  print("\n".join(verdicts.lines(write(cli.WORKDIR.value))))
  print(f"written: {cli.WORKDIR.value}/claims.md and claims.json")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
