"""Prepares a data set as a TFDS directory; each needs it once.

  python -m experiments.prepare_data --dataset=svhn \
    --manual_dir=/path/to/archives --data_dir=~/tensorflow_datasets

Needs no TensorFlow and downloads nothing; what `--manual_dir` is:

- svhn: a folder with train.tar.gz, extra.tar.gz and test.tar.gz of format 1,
  from http://ufldl.stanford.edu/housenumbers. Takes about 12 minutes and 2 GB.
- plankton: the folder train/ of the National Data Science Bowl, extracted.
- mnist_subset: a TFDS directory in which the full mnist is prepared. What is
  in stnjax/datasets/embedded was made with
  `--data_dir=stnjax/datasets/embedded`; nobody needs to do it again.
- street_numbers, street_digits, drifters: not needed, the sets are generated.
"""

import os
import pathlib
import signal
import sys

from absl import flags
import tensorflow_datasets as tfds

from experiments.lib import cli
from stnjax.data.builders import mnist_subset, plankton, svhn
from stnjax.data.prepared import builders, folders
from stnjax.data.synthetic import drifters, street_digits, street_numbers

_BUILDERS = {
  "svhn": svhn.Svhn,
  "plankton": plankton.Plankton,
  "street_numbers": street_numbers.StreetNumbers,
  "street_digits": street_digits.StreetDigits,
  "drifters": drifters.Drifters,
  "mnist_subset": mnist_subset.MnistSubset,
}

_DATASET = flags.DEFINE_enum(
  "dataset", None, tuple(_BUILDERS), "What to prepare.", required=True
)
_MANUAL_DIR = flags.DEFINE_string(
  "manual_dir", None, "Folder of what was downloaded by hand."
)
_DATA_DIR = flags.DEFINE_string(
  "data_dir",
  None,
  "TFDS directory to write to, TFDS's own default where None; a version that"
  " is there already is kept.",
)


def main() -> None:
  name, builder_class = _DATASET.value, _BUILDERS[_DATASET.value]
  manual_dir = None
  if builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS:
    manual_dir = _manual_dir(builder_class.MANUAL_DOWNLOAD_INSTRUCTIONS)
  root = folders.root(_DATA_DIR.value)
  folder = root / name / str(builder_class.VERSION)
  kept = folder.is_dir() and any(folder.iterdir())
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, _interrupt)
  tfds.display_progress_bar(sys.stderr.isatty())  # which clutter a log
  try:
    if not kept:
      builder = builder_class(data_dir=root, file_format="array_record")
      builders.prepare(builder, manual_dir)
  except KeyboardInterrupt as stop:
    raise cli.Interrupted(
      f"interrupted; {folder} was not prepared, rerun the command", stop.args[0]
    ) from None
  with folders.advice(name, str(root)):
    builder = folders.restore(name, folder)
    for split in builder.info.splits:
      folders.shards(builder, split)
  splits = ", ".join(
    f"{info.num_examples:,} {split}"
    for split, info in builder.info.splits.items()
  )
  was = "was there already" if kept else "prepared"
  print(f"{name} {was} in {folder}: {splits}")


def _interrupt(number: int, frame: object) -> None:
  """Lets TFDS remove what it has written so far."""
  del frame
  raise KeyboardInterrupt(signal.Signals(number))


def _manual_dir(instructions: str) -> str:
  """The folder of the flag.

  Raises:
    ValueError: Without the flag, or if it is empty.
    FileNotFoundError: for a folder that is not there, or is empty.
  """
  given = _MANUAL_DIR.value
  if not (given or "").strip():
    raise ValueError(
      f"--dataset={_DATASET.value} needs --manual_dir: {instructions}"
    )
  folder = pathlib.Path(os.path.expanduser(given))
  if not folder.is_dir() or not any(folder.iterdir()):
    raise FileNotFoundError(
      f"--manual_dir={given} is no folder, or is empty: {instructions}"
    )
  return str(folder)


if __name__ == "__main__":
  cli.run(main)
