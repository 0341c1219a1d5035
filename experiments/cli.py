"""What the scripts share: flags from settings, and errors as one line."""

from collections.abc import Callable
import dataclasses
import sys
from typing import Any

from absl import app, flags, logging

from stnjax import runs


class Interrupted(Exception):
  """A signal asked a script to stop; what it was doing is saved."""

  def __init__(self, message: str, signal: int):
    super().__init__(message)
    self.signal = signal


WORKDIR = flags.DEFINE_string(
  "workdir",
  "runs",
  "Folder of the runs, local or gs:// (which needs the extra gcs).",
)


def define_place() -> None:
  """Defines the flags that decide where a run goes, not what it computes."""
  flags.DEFINE_string(
    "data_dir",
    None,
    "TFDS directory, local or gs://, for data sets that are not embedded.",
  )
  flags.DEFINE_float(
    "checkpoint_seconds", 30.0, "Time between checkpoints of a run."
  )


def define_training(exclude: tuple[str, ...] = ()) -> None:
  """Defines the flags of a script that trains: one for each setting, and where.

  Args:
    exclude: settings that the script sets itself.
  """
  define_place()
  for field in dataclasses.fields(runs.Settings):
    if field.name in exclude:
      continue
    help, accepted = field.metadata["help"], field.metadata["accepted"]
    if accepted:
      names = [name for name in accepted if name is not None]
      flags.DEFINE_enum(field.name, field.default, names, help)
    elif field.type is bool:
      flags.DEFINE_boolean(field.name, field.default, help)
    elif field.type is int:
      flags.DEFINE_integer(field.name, field.default, help)
    elif field.type is float:
      flags.DEFINE_float(field.name, field.default, help)
    elif field.type is str:
      flags.DEFINE_string(field.name, field.default, help)
    else:
      default = [str(value) for value in field.default]
      flags.DEFINE_list(field.name, default, help)


def settings_from_flags(**overrides: Any) -> runs.Settings:
  """Reads the flags into settings, once.

  Raises:
    ValueError: for a value that is not accepted.
  """
  values = {}
  for field in dataclasses.fields(runs.Settings):
    if field.name in overrides:
      continue
    value = flags.FLAGS[field.name].value
    if isinstance(value, list):
      value = integers(field.name, value)
    values[field.name] = value
  return runs.Settings(**values, **overrides)


def training_options() -> dict[str, Any]:
  """The values of the flags of `define_place`, and the workdir."""
  names = ("workdir", "data_dir", "checkpoint_seconds")
  return {name: flags.FLAGS[name].value for name in names}


def integers(name: str, values: list[str]) -> tuple[int, ...]:
  """Turns the strings of a list flag into ints.

  Raises:
    ValueError: for what is no int.
  """
  try:
    return tuple(int(value) for value in values)
  except ValueError:
    raise ValueError(
      f"--{name} must be whole numbers separated by commas,"
      f" got {','.join(values)}"
    ) from None


def seeds(values: list[str]) -> tuple[int, ...]:
  """Turns the strings of --seeds into ints.

  Raises:
    ValueError: for what is no int, or a seed named twice.
  """
  found = integers("seeds", values)
  if len(set(found)) < len(found):
    raise ValueError(f"--seeds must differ, got {','.join(values)}")
  return found


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> None:
  """Runs a script; what the user can mend is one line and exit status 1.

  `--verbosity=1` shows where an error came from.

  Args:
    main: of the script.
    takes_arguments: whether `main` takes what the command line has besides
      flags; else that is an error.
  """

  def guarded(argv: list[str]) -> None:
    if len(argv) > 1 and not takes_arguments:
      raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if not flags.FLAGS["verbosity"].present:
      logging.set_verbosity(logging.ERROR)  # orbax tells of every step
    try:
      main(*([argv[1:]] if takes_arguments else []))
    except (runs.RunError, ValueError, OSError, ImportError) as error:
      if logging.get_verbosity() >= logging.DEBUG:
        raise
      sys.exit(f"error: {error}")
    except Interrupted as stop:
      print(stop, file=sys.stderr)
      sys.exit(128 + stop.signal)

  app.run(guarded)
