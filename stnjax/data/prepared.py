"""Data sets in TFDS directories: expected content, and builders.

TFDS is imported when a method is called.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np

from stnjax.data.dataset import Dataset, Examples


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
  """A data set in a TFDS directory, in `<data_dir>/<name>/<version>`.

  Attributes:
    name: Name of the TFDS builder.
    image_shape: `(H, W, C)` of every image, after `resize`.
    num_classes: Number of classes, of each head.
    heads: Number of labels per image.
    resize: Function from stored pixels `[h, w, C]` uint8 of any size to
      `image_shape`; None if all are of that shape.
    convert: Whether stored images of other channels are converted.
    image_key: Name of the feature of the images.
    label_key: Name of the feature of the labels.
    folder: Path from data_dir to the folder that holds the versions; the name
      if empty.
    version: Version to read; the newest if empty.
    builder: Function that returns the class of a TFDS builder of ours; None
      for a builder of TFDS.
    manual_dir: Folder that it is prepared from, in a few words; empty if it
      needs none.
    generated: Whether it is generated when it is read for the first time.
    embedded: Whether this package holds a copy, read if data_dir is None.
  """

  name: str
  image_shape: tuple[int, int, int]
  num_classes: int
  heads: int = 1
  resize: Callable[[np.ndarray], np.ndarray] | None = None
  convert: bool = False
  image_key: str = "image"
  label_key: str = "label"
  folder: str = ""
  version: str = ""
  builder: Callable[[], Any] | None = None
  manual_dir: str = ""
  generated: bool = False
  embedded: bool = False

  def read(self, split: str, data_dir: str | None = None) -> Examples:
    """Reads a split, or several joined by "+", into memory.

    Args:
      split: Name of the split.
      data_dir: TFDS directory, local or `gs://`; TFDS's default if None.

    Raises:
      ValueError: If the split is unknown, or files are damaged or not as
        described.
      FileNotFoundError: If the set is not prepared there.
    """
    from stnjax.data.tfds_reader import reader  # imports TFDS

    return reader.read(self, split, data_dir)

  def count(self, split: str, data_dir: str | None = None) -> int | None:
    """Counts the images of a split without reading them.

    Returns:
      The number of images; None for a set that is yet to be generated.

    Raises:
      ValueError: If the split is unknown, or files are damaged.
      FileNotFoundError: If the set is not prepared there.
    """
    from stnjax.data.tfds_reader import reader  # imports TFDS

    return reader.count(self, split, data_dir)

  def needs_files(self, data_dir: str | None = None) -> bool:
    """Whether the set must be prepared before it can be read."""
    return not (self.generated or self.embedded and data_dir is None)

  def prepare(
    self, data_dir: str | None = None, manual_dir: str | None = None
  ) -> str:
    """Prepares the set; a version that is there already is kept.

    Args:
      data_dir: TFDS directory to write to; TFDS's default if None.
      manual_dir: Folder that the set is prepared from, where it needs one.

    Returns:
      A one-line summary.

    Raises:
      ValueError: If manual_dir is missing.
      OSError: If the set cannot be written.
    """
    from stnjax.data.tfds_builders import preparing  # imports TFDS

    return preparing.prepare(self, data_dir, manual_dir)

  def origin(self) -> str:
    """The origin of the files, in a few words."""
    if self.generated:
      return "generated when it is first read"
    if self.embedded:
      return "embedded"
    if self.manual_dir:
      return f"prepared from the {self.manual_dir}"
    return "prepared by TFDS"

  def dataset(self, **fields: Any) -> Dataset:
    """The set as a `Dataset`.

    Args:
      **fields: Fields of `Dataset` beyond those that follow from this object;
        they take precedence.
    """
    known: dict[str, Any] = {
      "name": self.name,
      "image_shape": self.image_shape,
      "num_classes": self.num_classes,
      "heads": self.heads,
      "read": self.read,
      "count": self.count,
      "origin": self.origin(),
      "needs_files": self.needs_files,
      "prepare": self.prepare,
    }
    return Dataset(**known | fields)
