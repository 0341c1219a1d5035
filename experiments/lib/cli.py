"""Common parts of scripts: flags from settings, and errors as one line."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import importlib
import json
import math
import os
import pathlib
import re
import sys
import types
from typing import Any

from absl import app, flags, logging
import jax

from experiments.lib.signals import Interrupted as Interrupted
from stnjax import data, files
from stnjax.training import building
from stnjax.training.settings import Settings

WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs",
  "Folder of the runs, local or gs:// (which needs the extra gcs).",
)


IMPORTS = flags.DEFINE_list(
  "imports",
  [],
  "Modules or .py files to import first, separated by commas, which register"
  " data sets, perturbations, backbones, families or placements of your own.",
)


def define_place() -> None:
  """Defines the flags that decide where a run goes, not what it computes."""
  flags.DEFINE_string(
    "data_dir",
    None,
    "Folder of the data, local or gs://, for data sets that are not embedded:"
    " a TFDS directory, or the folder of train/ and test/ for"
    " --dataset=folder.",
  )
  flags.DEFINE_float(
    "checkpoint_seconds",
    30.0,
    "Seconds between checkpoints of a run, finite; 0 after every dispatch.",
  )
  flags.register_validator(
    "checkpoint_seconds",
    lambda seconds: seconds is not None and 0 <= seconds < math.inf,
    "--checkpoint_seconds must be a finite number of at least 0",
  )
  flags.DEFINE_boolean(
    "tensorboard",
    False,
    "Whether to write the scalars of each epoch for TensorBoard, into the"
    " folder tensorboard of each run; local only, and needs the extra"
    " tensorboard.",
  )


def define_training(exclude: tuple[str, ...] = ()) -> None:
  """Defines the flags of a script that trains: one for each setting, and where.

  Args:
    exclude: settings that the script sets itself.
  """
  define_place()
  for field in dataclasses.fields(Settings):
    if field.name in exclude:
      continue
    help, accepted = field.metadata["help"], field.metadata["accepted"]
    if accepted:
      names = [name for name in accepted if name is not None]
      flags.DEFINE_enum(field.name, field.default, names, help)
    elif field.type is bool:
      flags.DEFINE_boolean(field.name, field.default, help)
    elif field.type in (int, int | None):
      flags.DEFINE_integer(field.name, field.default, help)
    elif field.type in (float, float | None):
      flags.DEFINE_float(field.name, field.default, help)
    elif field.type is str:
      flags.DEFINE_string(field.name, field.default, help)
    else:
      default = [str(value) for value in field.default]
      flags.DEFINE_list(field.name, default, help)


def settings_from_flags(**overrides: Any) -> Settings:
  """Reads the flags into settings, once.

  Raises:
    ValueError: for a value that is not accepted.
  """
  values = {}
  for field in dataclasses.fields(Settings):
    if field.name in overrides:
      continue
    value = flags.FLAGS[field.name].value
    if isinstance(value, list):
      value = integers(field.name, value)
    values[field.name] = value
  return Settings(**values, **overrides)


def check_network(settings: Settings) -> None:
  """Checks that the network of a run can be built, without a look at files.

  A data set whose description depends on its files is checked when it is read.

  Raises:
    ValueError: for a name that is not registered, or a network that cannot be
      built.
  """
  # Probing a backbone computes, which must not come before processes join.
  joins = any(
    name in flags.FLAGS and flags.FLAGS[name].value
    for name in ("distributed", "coordinator")
  )
  if joins or _described_by_files(settings.dataset):
    building.check_names(settings)
  else:
    building.abstract_network(settings, building.find(settings))


def _described_by_files(name: str) -> bool:
  return name.startswith("tfds:") or callable(data.DATASETS.get(name))


def training_options() -> dict[str, Any]:
  """The values of the flags of `define_place`, and the workdir."""
  names = ("workdir", "data_dir", "checkpoint_seconds", "tensorboard")
  return {name: flags.FLAGS[name].value for name in names}


def integers(name: str, values: Sequence[str]) -> tuple[int, ...]:
  """Turns the strings of a list flag into ints.

  Raises:
    ValueError: if a value is not an integer in decimal digits.
  """
  if not all(re.fullmatch("[+-]?[0-9]{1,18}", value) for value in values):
    raise ValueError(
      f"--{name} must be whole numbers separated by commas, got"
      f" {','.join(values)[:80]}"
    )
  return tuple(int(value) for value in values)


def each_once(name: str, values: Sequence[Any]) -> Sequence[Any]:
  """Returns the values of a list flag, at least one, that all differ.

  Raises:
    ValueError: for none, or one that is given twice.
  """
  if not values:
    raise ValueError(f"--{name} is empty; accepted: at least one value")
  if len(set(values)) < len(values):
    listed = ",".join(map(str, values))[:80]
    raise ValueError(f"--{name} must differ, got {listed}")
  return values


def seeds(values: Sequence[str]) -> tuple[int, ...]:
  """Turns the strings of --seeds into ints.

  Raises:
    ValueError: unless they are at least one integer, all different, in the
      range of `Settings.seed`.
  """
  numbers = each_once("seeds", integers("seeds", values))
  for seed in numbers:
    Settings(seed=seed)  # raises beyond the range
  return numbers


def import_modules(names: Sequence[str]) -> None:
  """Imports modules that register objects.

  Args:
    names: Names of modules in the current folder or installed, or paths of
      files that end in .py.

  Raises:
    ValueError: If a module is not found or cannot be imported.
  """
  if os.getcwd() not in sys.path:
    sys.path.insert(0, os.getcwd())
  for name in names:
    path = pathlib.Path(name)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
      raise ValueError(f"--imports={name}: no such file")
    if is_file:
      sys.path.insert(0, str(path.parent.resolve()))
    module = _imported(name, path.stem if is_file else name)
    source = getattr(module, "__file__", None)
    if is_file and not (source and path.samefile(source)):
      raise ValueError(
        f"--imports={name}: another module is named {path.stem!r}; rename the"
        " file"
      )


def _imported(given: str, name: str) -> types.ModuleType:
  """Imports a module; `given` is the value of the flag."""
  try:
    return importlib.import_module(name)
  except Exception as error:  # whatever the user's code raises
    absent = isinstance(error, ModuleNotFoundError) and error.name
    if absent and f"{name}.".startswith(f"{absent}."):
      raise ValueError(
        f"--imports={given}: no such module; accepted: modules in the current"
        " folder or installed, or paths of .py files"
      ) from error
    raise ValueError(
      f"--imports={given}: {type(error).__name__}: {error}; --verbosity=1 shows"
      " where"
    ) from error


def run(
  main: Callable[..., None],
  *,
  takes_arguments: bool = False,
  check: Callable[[], Any] = lambda: None,
) -> None:
  """Runs a script; user errors are one line and exit status 1.

  `--verbosity=1` shows where an error came from. `--only_check_args` only
  checks the flags, as `check` does, and prints as JSON the values of `workdir`
  and `data_dir` and, for each of the `datasets` to train on, whether it needs
  files to be in place.

  Args:
    main: Function of the script.
    takes_arguments: Whether `main` takes the command line's arguments that are
      not flags; else these are an error.
    check: Reads the flags as `main` does, and raises for those that cannot be
      used, without a look at files or devices. May return `Settings`, in
      any nesting of tuples and lists.
  """

  def parse(argv: list[str]) -> list[str]:
    left = app.parse_flags_with_usage(argv)
    with _one_line():
      import_modules(IMPORTS.value)
      if len(left) > 1 and not takes_arguments:
        raise ValueError(
          f"unexpected argument {left[1]!r}; accepted: flags, --name=value"
        )
      if flags.FLAGS.only_check_args:
        print(_places(check()))
    return left

  def guarded(argv: list[str]) -> None:
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.ERROR)  # orbax logs every step
    with _one_line():
      main(*([argv[1:]] if takes_arguments else []))

  app.run(guarded, flags_parser=parse)


def _places(checked: Any) -> str:
  """The line of `--only_check_args`, from what the check returned.

  Raises:
    ValueError: If a folder is of a kind that is not accepted.
  """
  places = {}
  for name in ("workdir", "data_dir"):
    places[name] = flags.FLAGS[name].value if name in flags.FLAGS else None
    if places[name] is not None:
      files.place(name, places[name])
  every = [one for one in jax.tree.leaves(checked) if hasattr(one, "dataset")]
  datasets = {
    name: _described_by_files(name)
    or data.DATASETS[name].needs_files(places["data_dir"])
    for name in sorted({settings.dataset for settings in every})
  }
  return json.dumps({**places, "datasets": datasets})


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
  """Reports user errors in one line, and ends the script."""
  try:
    yield
  except (files.RunError, ValueError, OSError, ImportError) as error:
    if logging.get_verbosity() >= logging.DEBUG:
      raise
    sys.exit(f"error: {error}")
  except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(128 + stop.signal)
