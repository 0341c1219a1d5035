"""Lists and prepares data sets.

  python -m stnjax.data list
  python -m stnjax.data prepare --dataset=svhn --manual_dir=/path/to/archives

A data set is prepared once, as a TFDS directory. Those of TFDS are downloaded,
which needs TensorFlow (`pip install 'stnjax[prepare]'`). Others are made from
files that were downloaded by hand; without --manual_dir, the error names them.
"""

import argparse
from collections.abc import Sequence
import importlib
import signal
import sys

from stnjax import data, extras

_OURS = "stnjax.paper"


def main(arguments: Sequence[str] | None = None) -> int:
  """Runs the command line.

  Args:
    arguments: Those of the command line; of this process if None.

  Returns:
    The exit status: 0, 1 after an error, 128 and the signal's number.
  """
  flags = _parser().parse_args(arguments)
  for module in (_OURS, *filter(None, flags.imports.split(","))):
    importlib.import_module(module)
  before = {
    number: signal.signal(number, _interrupt)
    for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    print(_list() if flags.command == "list" else _prepare(flags))
  except KeyboardInterrupt as stop:
    print(
      f"interrupted; {flags.dataset} was not prepared, rerun the command",
      file=sys.stderr,
    )
    return 128 + int(stop.args[0])
  except (ValueError, OSError, ImportError) as error:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return 1
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  return 0


def _parser() -> argparse.ArgumentParser:
  parser = argparse.ArgumentParser(
    prog="python -m stnjax.data",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  parser.add_argument(
    "--imports",
    default="",
    help="modules that register further data sets, separated by commas",
  )
  commands = parser.add_subparsers(dest="command", required=True)
  commands.add_parser("list", help="list the data sets")
  prepare = commands.add_parser(
    "prepare", help="prepare a data set", allow_abbrev=False
  )
  prepare.add_argument(
    "--dataset", required=True, help="name of the data set, or tfds:NAME"
  )
  prepare.add_argument(
    "--manual_dir", help="folder of the files that were downloaded by hand"
  )
  prepare.add_argument(
    "--data_dir",
    help="TFDS directory to write to, TFDS's own default if left out; a"
    " version that is there already is kept",
  )
  return parser


def _list() -> str:
  """A line for each data set: name, shape, classes, origin."""
  lines = []
  for name, dataset in data.DATASETS.items():
    if not isinstance(dataset, data.Dataset):
      lines.append(f"{name:18} needs --data_dir")
    elif dataset.name == name:  # not under an older name
      shape = "x".join(map(str, dataset.image_shape))
      heads = f"{dataset.heads} x " if dataset.heads > 1 else ""
      classes = f"{heads}{dataset.num_classes} classes"
      lines.append(f"{name:18} {shape:9} {classes:15} {dataset.origin}")
  lines.append(f"{'tfds:NAME':18} any prepared classification set of TFDS")
  return "\n".join(line.rstrip() for line in lines)


def _prepare(flags: argparse.Namespace) -> str:
  """Prepares a data set; returns a line about it."""
  extras.needs("tensorflow_datasets", "array_record", extra="experiments")
  import tensorflow_datasets as tfds

  tfds.display_progress_bar(sys.stderr.isatty())  # which clutter a log
  if flags.dataset.startswith("tfds:"):
    from stnjax.data.tfds_reader import describing

    return describing.parse(flags.dataset).prepare(flags.data_dir)
  dataset = data.find(flags.dataset)
  if dataset.prepare is None:
    raise ValueError(f"dataset {flags.dataset!r} needs no preparation")
  return dataset.prepare(flags.data_dir, flags.manual_dir)


def _interrupt(number: int, frame: object) -> None:
  """Lets TFDS remove what it has written so far."""
  del frame
  raise KeyboardInterrupt(signal.Signals(number))


if __name__ == "__main__":
  sys.exit(main())
