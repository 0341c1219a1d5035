"""Turns the finished runs of a workdir into tables and figures.

  python -m experiments.report --workdir=runs

writes runs/report/report.md with its figures as PNG, results.json with the
settings, task and results of all runs, and report.html, one page that contains
everything. Runs that differ in more than network and seed, in their data set or
epochs for instance, get a section each. Damaged runs are left out and named, in
the report and on stderr; the exit status is 0 all the same, as there is a
report.
"""

from absl import flags

from experiments.lib import cli
from experiments.reporting import report


def main() -> None:
  print(f"report: {report.write(cli.WORKDIR.value)}")


if __name__ == "__main__":
  flags.adopt_module_key_flags(cli)
  cli.run(main)
