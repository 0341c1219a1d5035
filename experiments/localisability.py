"""Measures from which layer of finished networks the pose can be read.

  python -m experiments.localisability --workdir=runs

The counterpart of `experiments.audit`: an audit shows which layers a warp can
align, so where to warp; this shows where to look. Reads the true pose of
perturbed test images from the features of every layer, trained and untrained,
by cross-validation; see `stnjax.alignability.read_poses`. Writes
localisability.json to each run's folder, localisability.md with figures to the
workdir, and adds both to its report. About a minute for a network of the digits
on 2 CPU cores.
"""

from absl import flags

from experiments.lib import cli, loading, running, selection
from experiments.reporting import analysing, localising, page, report
from stnjax import alignability, files


def main() -> None:
  load, name = loading.once(_DATA_DIR.value), localising.NAME
  analysed = analysing.analyse(
    cli.WORKDIR.value,
    _ONLY.value,
    name,
    lambda run: localising.measure(run, load, _IMAGES.value, _READERS.value),
  )

  def parts(group, number):
    readouts = {
      network: localising.Readouts(analysed.of(runs))
      for network, runs in group.members.items()
    }
    content = [localising.EXPLANATION]
    for drawn in localising.figures(readouts):
      path = analysed.root / f"{drawn.name}_{number}.png"
      files.write_whole(path, page.png(drawn.figure))
      content.append(page.Picture(path, drawn.caption))
    return [*content, localising.table(readouts)]

  path = analysing.write_page(analysed, name, localising.TITLE, parts)
  print(f"written: {path}")
  print(f"report: {report.write(cli.WORKDIR.value)}")
  running.raise_if_any(analysed.errors)


if __name__ == "__main__":
  _ONLY, _DATA_DIR = selection.define_finished("^CNN")
  _IMAGES = flags.DEFINE_integer(
    "images", 1000, "Number of test images, perturbed once.", lower_bound=10
  )
  _READERS = flags.DEFINE_multi_enum(
    "reader", list(alignability.READERS), alignability.READERS, "Readers."
  )
  flags.adopt_module_key_flags(cli)
  flags.adopt_module_key_flags(selection)
  cli.run(main)
