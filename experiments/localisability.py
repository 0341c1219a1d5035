"""Measures from which layer of finished networks the pose can be read.

  python -m experiments.localisability --workdir=runs

The counterpart of `experiments.audit`: an audit shows which layers a warp can
align, so where to warp; this shows where to look. Reads the true pose of
perturbed test images from the features of every layer, trained and untrained,
by cross-validation; see `stnjax.alignability.read_poses`. Writes
localisability.json to each run's folder, and localisability.md with figures to
the workdir. About a minute for a network of the digits on 2 CPU cores.
"""

from absl import flags

from experiments.lib import cli, loading, running, selection
from experiments.reporting import analysing, localising, page
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
    found = localising.of(analysed, group.runs)
    content = [localising.EXPLANATION]
    for axis in found.units:
      for reader in found.readers:
        file = f"{name}_{number}_{axis}_{reader}.png"
        caption = localising.CAPTION.format(axis=axis, reader=reader)
        picture = page.Picture(analysed.root / file, caption)
        figure = localising.figure(analysed, group, axis, reader)
        files.write_whole(picture.path, page.png(figure))
        content.append(picture)
    return [*content, localising.table(analysed, group)]

  path = analysing.write_page(analysed, name, localising.TITLE, parts)
  print(f"written: {path}")
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
