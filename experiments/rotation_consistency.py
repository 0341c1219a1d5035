"""Measures whether networks bring rotated versions of an image to one pose.

  python -m experiments.rotation_consistency --workdir=runs

rotates each test image by 17 angles over the circle, and compares the residual
rotations after the transformer: the smallest mean distance of one version from
the others, modulo 180 deg, averaged over the images. --family=scale does so for
scalings, --low and --high change the range. Writes <family>_consistency.json to
each run's folder, and <family>_consistency.md to the workdir. Networks without
a transformer are left out and named. About a minute for a network of the digits
on 2 CPU cores.
"""

from absl import flags

from experiments.lib import cli, loading, running, selection, tables
from experiments.reporting import analysing, consistent
from stnjax import consistency


def flagged() -> consistent.Versions:
  """The versions that the flags describe.

  Raises:
    ValueError: For flags that cannot be used.
  """
  family, period = _FAMILY.value, _PERIOD.value
  values = consistency.versions(family, _COUNT.value, _LOW.value, _HIGH.value)
  if period is None:
    period = consistency.COORDINATES[family].period
  return consistent.Versions(family, values, period or None)


def main() -> None:
  versions, load = flagged(), loading.once(_DATA_DIR.value)
  name = f"{versions.family}_consistency"
  analysed = analysing.analyse(
    cli.WORKDIR.value,
    _ONLY.value,
    name,
    lambda run: consistent.measure(run, load, versions, _IMAGES.value),
  )

  def parts(group, number):
    del number
    table = consistent.table(analysed, group)
    print(f"{group.title}\n{tables.markdown(table)}", flush=True)
    return [consistent.explanation(versions), table]

  title = f"Consistency under {versions.family}"
  path = analysing.write_page(analysed, name, title, parts)
  print(f"written: {path}")
  running.raise_if_any(analysed.errors)


if __name__ == "__main__":
  _FAMILY = flags.DEFINE_string(
    "family", "rotation", "Family of the transforms: rotation or scale."
  )
  _COUNT = flags.DEFINE_integer("count", 17, "Number of versions.")
  _LOW = flags.DEFINE_float(
    "low", None, "Lowest value, deg or octaves; -180 deg or -1 by default."
  )
  _HIGH = flags.DEFINE_float(
    "high", None, "Highest value, deg or octaves; 180 deg or 1 by default."
  )
  _PERIOD = flags.DEFINE_float(
    "period", None, "Period of distances; 180 deg by default, 0 for none."
  )
  _IMAGES = flags.DEFINE_integer(
    "images", None, "Number of test images; all by default.", lower_bound=1
  )
  _ONLY, _DATA_DIR = selection.define_finished()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(selection)
  cli.run(main, check=flagged)
