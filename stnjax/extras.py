"""Optional dependencies: a missing package names the extra that brings it."""

import importlib.util


def needs(*packages: str, extra: str) -> None:
  """Checks that optional packages are installed, without importing them.

  Args:
    *packages: Names of top-level packages to import, such as "flax".
    extra: Extra of stnjax that installs them, such as "nn".

  Raises:
    ModuleNotFoundError: If a package is not installed. The message names the
      package and the command that installs it.
  """
  for package in packages:
    if importlib.util.find_spec(package) is None:
      raise ModuleNotFoundError(
        f"{package} is not installed; run: pip install 'stnjax[{extra}]'",
        name=package,
      )
