"""A sweep: train all jobs, then write the report."""

from collections.abc import Sequence
from typing import Any

import jax

from experiments.lib import planning, processes, running
from experiments.lib.jobs import Job
from experiments.reporting import report
from stnjax.files import RunError


def run_and_report(
  jobs: Sequence[Job], workdir: str, **options: Any
) -> list[RunError]:
  """Trains all jobs and writes the report; options as for `train`.

  With several processes, they share the jobs out, and the first one reports.
  Each shares its own out over its devices.

  Returns:
    Why jobs could not be finished; to be raised when the others need this
    process no more.
  """
  plan = planning.make_plan(jobs)
  plan.check(options.get("data_dir"))
  print(plan.text, end="", flush=True)
  errors = running.run_all(plan.jobs, workdir, plan.device_groups, **options)
  processes.wait("the report")
  if jax.process_index() == 0:
    try:
      print(f"report: {report.write(workdir)}")
    except RunError as error:
      errors.append(error)
  return errors
