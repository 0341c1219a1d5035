"""Audits which layers of trained networks a spatial warp could align.

  python -m experiments.audit --workdir=runs

transforms test images, and measures how far a warp of each layer's features
can undo it, for the trained network and for what it was before training; see
`stnjax.alignability`. It prints what it found, writes audit.json to the run's
folder, and the report anew, which then has tables and a figure. About a minute
for a network of the digits on 2 CPU cores.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import re
import time

from absl import flags
import jax
import numpy as np

from experiments import report, sweep, train
from experiments.lib import cli
from experiments.reporting import finished
from stnjax import alignability, files
from stnjax.training import runs, steps

STATES = ("trained", "untrained")


def finished_runs(workdir: str, only: str) -> list[runs.Run]:
  """The finished runs of a workdir whose names match.

  Damaged ones are left out, and named on the terminal.

  Raises:
    ValueError: for an expression that is none, or a workdir that is neither
      local nor `gs://`.
    RunError: where no run is left.
  """
  root = files.place("workdir", workdir)
  try:
    pattern = re.compile(only)
  except re.error as error:
    raise ValueError(
      f"--only={only!r} is not a valid regular expression: {error}"
    ) from error
  found, left = [], []
  for folder in files.subfolders(root):
    if not (folder / "DONE").exists() or not pattern.search(folder.name):
      continue
    try:
      found.append(runs.Run(workdir, runs.read_settings(folder)))
    except runs.Damaged as error:
      left.append(finished.LeftOut(f"{folder.name} (damaged)", str(error)))
  finished.announce(left)
  if not found:
    raise runs.RunError(f"{root} holds no finished run that matches {only!r}")
  return found


def audit(
  run: runs.Run,
  load: train.Load | None = None,
  *,
  count: int = 24,
  steps: int = 40,
  method: str = "linear",
) -> dict[str, alignability.Audit]:
  """Audits the blocks of a run's network, on images that are not perturbed.

  Args:
    run: finished.
    load: see `train.train`.
    count: of images.
    steps: see `alignability.audit`.
    method: see `alignability.audit`.

  Returns:
    An audit for each of `STATES`.
  """
  load = load or train.loading()
  train_data, eval_data = load(run.settings)
  found = {}
  for state in STATES:
    network, recipe = runs.network_of(
      run, train_data.images, trained=state == "trained"
    )
    images = prepare(recipe, eval_data.images[:count])
    geometry = network.geometry()
    shape = images.shape[1:3]
    reach = max(max(where.reach) for where in geometry.values())
    found[state] = alignability.audit(
      network.features,
      images,
      families=families(geometry, shape),
      geometry=geometry,
      margin=margin(reach, max(shape) / 2),
      method=method,
      steps=steps,
    )
  return found


def margin(reach: float, half: float) -> int:
  """Pixels by which the default families take features out of the image.

  An octave doubles the distance to the middle, where features see as far as
  ever; a shear by 0.8 widens what they see.
  """
  return math.ceil(max(half + reach, 1.8 * reach))


def prepare(recipe: steps.Recipe, images: np.ndarray) -> jax.Array:
  """Images as a network sees them, but for the perturbation."""
  keys = jax.random.split(jax.random.key(0), len(images))
  plain = dataclasses.replace(recipe, perturbation="none")
  return plain.prepare(keys, images, None)[0]


def families(
  geometry: Mapping[str, alignability.Geometry], shape: Sequence[int]
) -> dict[str, alignability.Family]:
  """Those of `alignability`, with shifts by whole strides of every layer."""
  step = max(max(where.step) for where in geometry.values())
  shifts = [n * step for n in (1, 2, 3) if n == 1 or n * step <= max(shape) / 2]
  return {
    **alignability.FAMILIES,
    "translation": alignability.FAMILIES["translation"]._replace(
      magnitudes=tuple(shifts)
    ),
  }


def main() -> None:
  load, errors = train.loading(_DATA_DIR.value), []
  for run in finished_runs(cli.WORKDIR.value, _ONLY.value):
    try:
      _audit_and_print(run, load)
    except runs.RunError as error:
      print(f"{run.settings.name}: {error}", flush=True)
      errors.append(error)
  print(f"report: {report.write(cli.WORKDIR.value)}")
  sweep.fail_for(errors)


def _audit_and_print(run: runs.Run, load: train.Load) -> None:
  started = time.monotonic()
  audits = audit(
    run,
    load,
    count=_IMAGES.value,
    steps=_STEPS.value,
    method=_METHOD.value,
  )
  finished.write_audits(run.path, audits)
  print(f"{run.settings.name}: {time.monotonic() - started:.0f} s")
  for state, one in audits.items():
    for family, shares in one.profile().items():
      parts = [
        f"{layer} {100 * share:.0f} %"
        for layer, share in zip(one.layers, shares, strict=True)
      ]
      print(f"  {state}, {family} undone: {', '.join(parts)}", flush=True)


if __name__ == "__main__":
  _ONLY = flags.DEFINE_string(
    "only", "^CNN", "Runs whose name matches this regular expression."
  )
  _IMAGES = flags.DEFINE_integer(
    "images", 24, "How many test images to transform.", lower_bound=2
  )
  _STEPS = flags.DEFINE_integer(
    "steps", 40, "Steps of the search for the best warp.", lower_bound=0
  )
  _METHOD = flags.DEFINE_enum(
    "method", "linear", alignability.METHODS, "Interpolation of the warps."
  )
  _DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TFDS directory for data sets that are not embedded."
  )
  flags.adopt_module_key_flags(cli)
  cli.run(main)
