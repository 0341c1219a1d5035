"""Scripts: `python -m experiments.<name> --help` from the repository's root."""

import sys

try:
  from stnjax import extras

  extras.needs(
    *("absl", "flax", "matplotlib", "orbax", "scipy", "tensorflow_datasets"),
    extra="experiments",
  )
except ModuleNotFoundError as error:
  sys.exit(f"error: {error}")  # before any script could say so in one line
