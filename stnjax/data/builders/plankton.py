"""PlanktonSet 1.0 of the National Data Science Bowl, as a TFDS set."""

from collections.abc import Iterator
import hashlib
import pathlib
import sys

import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from stnjax.data import SETS
from stnjax.data.prepared import builders

HOMEPAGE = "https://www.kaggle.com/c/datasciencebowl"
SIZE = 95
"""Height and width of the images that `fit` makes."""

_SUFFIXES = (".jpg", ".jpeg")


class Plankton(tfds.core.GeneratorBasedBuilder):
  """Grey photographs of plankton in folders by class, as they are.

  The labels of the competition's test images are not public: of each class, one
  image in ten of train/, rounded down and at least one of two, is in "test".
  Which ones is decided by a hash of the file names.

  Left out and named are files that are no JPEGs, broken, hidden or too large
  ones (2**26 pixels), and classes without any; those in colour are converted to
  grey, and named.
  """

  VERSION = tfds.core.Version("1.0.0")
  RELEASE_NOTES = {"1.0.0": "The labelled images, nine tenths and one tenth."}
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    "manual_dir is the folder train/ of the National Data Science Bowl's"
    f" train.zip, extracted, or the one that it is in; from {HOMEPAGE}."
  )

  def _info(self) -> tfds.core.DatasetInfo:
    return self.dataset_info_from_configs(
      description=(
        "PlanktonSet 1.0: plankton in the Straits of Florida, imaged in situ by"
        " ISIIS, as labelled for the National Data Science Bowl. R. K. Cowen,"
        " S. Sponaugle, K. Robinson, J. Luo; Oregon State University, 2015."
      ),
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(shape=(None, None, 1)),
          "label": tfds.features.ClassLabel(),  # names are those of the folders
        }
      ),
      supervised_keys=("image", "label"),
      homepage=HOMEPAGE,
    )

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    folder = pathlib.Path(dl_manager.manual_dir)
    if (folder / "train").is_dir():
      folder = folder / "train"
    classes = _classes(folder)
    self.info.features["label"].names = list(classes)
    splits: dict[str, list[pathlib.Path]] = {"train": [], "test": []}
    for paths in classes.values():
      paths = sorted(paths, key=_hash)
      held_out = max(len(paths) // 10, min(1, len(paths) - 1))
      splits["test"] += paths[:held_out]
      splits["train"] += paths[held_out:]
    if not splits["test"]:
      raise ValueError(
        f"no class in {folder} has the two images that a test split needs"
      )
    return {
      split: self._generate_examples(f"plankton, {split}", paths)
      for split, paths in splits.items()
    }

  def _generate_examples(
    self, source: str, paths: list[pathlib.Path]
  ) -> Iterator:
    found, empty = builders.Notes(source), True
    for path in paths:
      name = f"{path.parent.name}/{path.name}"
      try:
        with builders.open_image(path, "JPEG") as image:
          colour = image.mode != "L"
          pixels = np.asarray(image.convert("L"))[..., None]
      except builders.ImageError as error:
        found.add(f"left out, {error}", name)
        continue
      if colour:
        found.add("in colour, converted to grey", name)
      empty = False
      # Decoders of JPEG differ; a PNG is the same whoever reads it.
      png = builders.png(pixels)
      yield name, {"image": png, "label": path.parent.name}
    found.tell()
    if empty:
      raise ValueError(f"{source}: all of its {len(paths)} JPEGs are broken")


def _classes(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """The JPEGs of each class, in the order of the names."""
  found = builders.Notes(f"plankton, {folder}")
  classes: dict[str, list[pathlib.Path]] = {}
  places: set[pathlib.Path] = set()
  for entry in sorted(folder.iterdir()):
    if not entry.is_dir():
      found.add("left out, in no folder of a class", entry.name)
    elif why := _unusual(entry.name):
      found.add(f"left out, a folder of {why}", entry.name)
    elif entry.resolve() in places:
      found.add("left out, a link to another class", entry.name)
    elif paths := _jpegs(entry, found):
      classes[entry.name] = paths
      places.add(entry.resolve())
    else:
      found.add("left out, a folder without JPEGs", entry.name)
  found.tell()
  if not classes:
    raise ValueError(
      f"{folder} holds no folders of JPEGs, one for each class; extract"
      f" train.zip of {HOMEPAGE} there"
    )
  known = SETS["plankton"].num_classes
  print(
    f"plankton: {len(classes)} classes in {folder}; PlanktonSet 1.0 has"
    f" {known}",
    file=sys.stderr,
  )
  if len(classes) > known:
    raise ValueError(
      f"{folder} holds {len(classes)} folders of JPEGs; accepted: one for each"
      f" class, at most {known}"
    )
  return classes


def _jpegs(folder: pathlib.Path, found: builders.Notes) -> list[pathlib.Path]:
  """The JPEGs of a class, and notes on its other files."""
  paths = []
  for path in sorted(folder.iterdir()):
    name = f"{folder.name}/{path.name}"
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
      found.add("left out, no JPEG", name)
    elif why := _unusual(path.name):
      found.add(f"left out, a file of {why}", name)
    else:
      paths.append(path)
  return paths


def _unusual(name: str) -> str:
  """Why a file or folder of that name is none of the set's."""
  if name.startswith("."):  # as systems and editors make
    return "a hidden name"
  return "" if name.isprintable() else "an unprintable name"


def _hash(path: pathlib.Path) -> str:
  return hashlib.sha256(path.name.encode()).hexdigest()


def fit(image: np.ndarray) -> np.ndarray:
  """Inverts a photograph and fits it into a square, on black.

  Args:
    image: `[H, W, 1]`, uint8, of any size, dark on a light ground.

  Returns:
    `[95, 95, 1]`, uint8: resized (bilinear) so that the longest side is 95,
    centred, zeros around.
  """
  height, width = image.shape[:2]
  scale = SIZE / max(height, width)
  size = max(1, round(width * scale)), max(1, round(height * scale))
  inverted = Image.fromarray(255 - image[..., 0])
  small = np.asarray(inverted.resize(size, Image.Resampling.BILINEAR))
  top, left = (SIZE - size[1]) // 2, (SIZE - size[0]) // 2
  fitted = np.zeros((SIZE, SIZE, 1), np.uint8)
  fitted[top : top + size[1], left : left + size[0], 0] = small
  return fitted
