"""Optional packages: one line says which is missing and how to install it."""

from collections.abc import Iterator
import contextlib

_PACKAGES = {"PIL": "pillow"}  # where the import has another name


@contextlib.contextmanager
def needed(purpose: str) -> Iterator[None]:
  """Names the package in errors of imports in the body.

  Args:
    purpose: Subject of the message, such as "dataset 'mnist'".

  Raises:
    ImportError: If a package is not installed.
  """
  try:
    yield
  except ModuleNotFoundError as error:
    module = (error.name or "").partition(".")[0]
    if module in ("", "stnjax"):
      raise
    package = _PACKAGES.get(module, module.replace("_", "-"))
    raise ImportError(
      f"{purpose} needs {package}: pip install 'stnjax[experiments]'"
    ) from error
