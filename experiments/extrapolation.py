"""Evaluates networks on images transformed by fixed amounts.

  python -m experiments.extrapolation --workdir=runs
  python -m experiments.extrapolation --workdir=runs --family=scale

turns all test images by -180 to 180 degrees in steps of 15, or scales them by
-2 to 2.5 octaves in steps of 0.5, and evaluates every network on each: error
and residual, within the range of the training images and outside of it. Writes
<family>_extrapolation.json to each run's folder; <family>_extrapolation.md and
figures to the workdir. About a minute for a network of the digits on 2 CPU
cores.
"""

from absl import flags

from experiments.lib import cli, loading, running, selection
from experiments.reporting import analysing, extrapolating, page
from stnjax import files


def flagged() -> extrapolating.Amounts:
  """The amounts that the flags describe.

  Raises:
    ValueError: For flags that cannot be used.
  """
  return extrapolating.amounts(
    _FAMILY.value, _LOW.value, _HIGH.value, _STEP.value
  )


def main() -> None:
  wanted, load = flagged(), loading.once(_DATA_DIR.value)
  name = f"{wanted.family}_{extrapolating.NAME}"
  analysed = analysing.analyse(
    cli.WORKDIR.value,
    _ONLY.value,
    name,
    lambda run: extrapolating.measure(run, load, wanted, _IMAGES.value),
  )

  def parts(group, number):
    caption = extrapolating.CAPTION.format(family=wanted.family)
    picture = page.Picture(analysed.root / f"{name}_{number}.png", caption)
    figure = extrapolating.figure(analysed, group)
    files.write_whole(picture.path, page.png(figure))
    content = [picture, extrapolating.explanation(wanted)]
    for label, table in extrapolating.tables(analysed, group).items():
      content += [f"{label[:1].upper()}{label[1:]}:", table]
    return content

  path = analysing.write_page(analysed, name, extrapolating.TITLE, parts)
  print(f"written: {path}")
  running.raise_if_any(analysed.errors)


if __name__ == "__main__":
  _FAMILY = flags.DEFINE_string(
    "family", "rotation", "Family of the transforms: rotation or scale."
  )
  _LOW = flags.DEFINE_float(
    "low", None, "Lowest amount, deg or octaves; -180 deg or -2 by default."
  )
  _HIGH = flags.DEFINE_float(
    "high", None, "Highest amount, deg or octaves; 180 deg or 2.5 by default."
  )
  _STEP = flags.DEFINE_float(
    "step", None, "Distance of two amounts; 15 deg or 0.5 octaves by default."
  )
  _IMAGES = flags.DEFINE_integer(
    "images", None, "Number of test images; all by default.", lower_bound=1
  )
  _ONLY, _DATA_DIR = selection.define_finished()
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(selection)
  cli.run(main, check=flagged)
