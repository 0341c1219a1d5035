"""Audits which layers of trained networks a spatial warp could align.

  python -m experiments.audit --workdir=runs

transforms test images, and measures how far a warp of each layer's features
can undo it, for the trained network and for the network before training; see
`stnjax.alignability`. Networks of group convolutions are also measured with
permuted channels. It prints what it measured, writes audit.json to the run's
folder, and rewrites the report with tables and a figure. About a minute
for a network of the digits on 2 CPU cores.
"""

import time

from absl import flags

from experiments.lib import cli, loading, running, selection
from experiments.reporting import auditing, finished, report
from stnjax import alignability
from stnjax.files import RunError
from stnjax.training.run_folder import Run


def main() -> None:
  load, errors = loading.once(_DATA_DIR.value), []
  for run in auditing.finished_runs(cli.WORKDIR.value, _ONLY.value):
    try:
      _audit_and_print(run, load)
    except RunError as error:
      print(f"{run.settings.name}: {error}", flush=True)
      errors.append(error)
  print(f"report: {report.write(cli.WORKDIR.value)}")
  running.raise_if_any(errors)


def _audit_and_print(run: Run, load: loading.Load) -> None:
  started = time.monotonic()
  audits = auditing.audit(
    run,
    load,
    count=_IMAGES.value,
    steps=_STEPS.value,
    method=_METHOD.value,
  )
  finished.write_audits(run.path, audits)
  print(f"{run.settings.name}: {time.monotonic() - started:.0f} s")
  for state, measured in audits.items():
    for family, shares in measured.profile().items():
      parts = [
        f"{layer} {100 * share:.0f} %"
        for layer, share in zip(measured.layers, shares, strict=True)
      ]
      print(f"  {state}, {family} undone: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
  _ONLY, _DATA_DIR = selection.define_finished("^G?CNN")
  _IMAGES = flags.DEFINE_integer(
    "images", 24, "Number of test images to transform.", lower_bound=2
  )
  _STEPS = flags.DEFINE_integer(
    "steps", 40, "Steps of the search for the best warp.", lower_bound=0
  )
  _METHOD = flags.DEFINE_enum(
    "method", "linear", alignability.METHODS, "Interpolation of the warps."
  )
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(selection)
  cli.run(main)
