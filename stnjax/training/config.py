"""config.json of a run folder: its settings, its task, and its images."""

import dataclasses
import os
from typing import Any, NamedTuple
import zlib

from etils import epath
import numpy as np

from stnjax import files, placement
from stnjax.files import Damaged
from stnjax.placement.names import UnknownNetwork
from stnjax.training import description, settings
from stnjax.training.description import TaskDescription
from stnjax.training.settings import Settings

NAME = "config.json"


class NotRegistered(Damaged):
  """A run of a placement that no imported module registers."""


class Config(NamedTuple):
  """Settings and inputs of a run.

  Attributes:
    settings: Settings of the run.
    task: Task of the run.
    images: Fingerprint of the training images, see `fingerprint`.
    source: Checksum of the checkpoint that the run started from, see
      `warm_start.Source`; empty without a warm start.
  """

  settings: Settings
  task: TaskDescription
  images: str = ""
  source: str = ""

  @property
  def axes(self) -> dict[str, description.AxisDescription]:
    """Axes along which the run measures alignment, by name."""
    without = not placement.parse(self.settings.network).depths
    return {} if without else dict(self.task.axes)

  def to_json(self) -> str:
    """The text of config.json."""
    values = {
      **dataclasses.asdict(self.settings),
      "task": self.task.to_json(),
      "data": self.images,
      **({"warm_start_sha256": self.source} if self.source else {}),
    }
    return files.to_json(values, indent=2) + "\n"


def folder(workdir: str, of: Settings) -> epath.Path:
  """Folder of the run with these settings, which need not exist.

  Raises:
    ValueError: for a workdir that is neither local nor `gs://`.
  """
  return files.place("workdir", workdir) / of.name


def read(folder: epath.PathLike) -> Config:
  """Reads config.json of a run folder.

  Raises:
    NotRegistered: for a placement that no imported module registers.
    Damaged: where it is missing, unreadable, or that of a run with another
      name; the message gives a remedy.
  """
  path = epath.Path(folder) / NAME
  try:
    config = _read(path)
  except UnknownNetwork as error:
    raise NotRegistered(
      f"{path}: {error}; import the module that registers the placement"
      " (--imports=...)"
    ) from error
  if config.settings.name != path.parent.name:
    raise Damaged(
      f"{path} is that of a run named {config.settings.name}, and a folder has"
      " the name of its run; rename the folder, or delete it"
    )
  return config


def _read(path: epath.Path) -> Config:
  with files.advising(retraining(path.parent)):
    values = files.read_json(path)
    if not isinstance(values, dict):
      raise Damaged(f"cannot read {path}: it holds no settings")
    try:
      images = str(values.pop("data", ""))
      source = str(values.pop("warm_start_sha256", ""))
      task = description.from_json(values.pop("task", {}))
      return Config(settings.from_json(values), task, images, source)
    except UnknownNetwork:
      raise
    except files.UNREADABLE as error:
      raise Damaged(f"cannot read {path}: {error}") from error


def changes(before: Config, now: Settings) -> str:
  """The settings that differ, in words; empty where none does."""
  values: dict[str, Any] = dataclasses.asdict(before.settings)
  return ", ".join(
    f"{name}: {values[name]} there, {value} here"
    for name, value in dataclasses.asdict(now).items()
    if values[name] != value
  )


def retraining(folder: epath.PathLike) -> str:
  """Advice about a run that is damaged beyond its results."""
  return f"delete {os.fspath(folder)} to train the run again"


def fingerprint(images: np.ndarray) -> str:
  """A short text that differs for other images."""
  return f"crc32 {zlib.crc32(np.ascontiguousarray(images).data):08x}"
