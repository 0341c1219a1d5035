"""PlanktonSet 1.0 of the National Data Science Bowl, as a TFDS set."""

from collections.abc import Iterator
import hashlib
import pathlib
import sys

import numpy as np
import tensorflow_datasets as tfds

from stnjax.data import images
from stnjax.data.notes import Notes

HOMEPAGE = "https://www.kaggle.com/c/datasciencebowl"
NUM_CLASSES = 121
"""Classes of PlanktonSet 1.0."""

_SUFFIXES = (".jpg", ".jpeg")


class Plankton(tfds.core.GeneratorBasedBuilder):
  """Grey photographs of plankton in folders by class, as they are.

  The labels of the competition's test images are not public: of each class, one
  image in ten of train/, rounded down and at least one of two, is in "test".
  Which ones is decided by a hash of the file names.

  Files that are not JPEGs, broken, hidden or too large (2**26 pixels) are left
  out and named, as are classes without any image. Those in colour are converted
  to grey, and named.
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
    notes, empty = Notes(source), True
    for path in paths:
      name = f"{path.parent.name}/{path.name}"
      try:
        with images.open_image(path, "JPEG") as image:
          colour = image.mode != "L"
          pixels = np.asarray(image.convert("L"))[..., None]
      except images.ImageError as error:
        notes.add(f"left out, {error}", name)
        continue
      if colour:
        notes.add("in colour, converted to grey", name)
      empty = False
      # Decoders of JPEG differ; a PNG is the same whoever reads it.
      png = images.png(pixels)
      yield name, {"image": png, "label": path.parent.name}
    notes.tell()
    if empty:
      raise ValueError(f"{source}: all of its {len(paths)} JPEGs are broken")


def _classes(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
  """The JPEGs of each class, in the order of the names."""
  notes = Notes(f"plankton, {folder}")
  classes: dict[str, list[pathlib.Path]] = {}
  resolved: set[pathlib.Path] = set()
  for entry in sorted(folder.iterdir()):
    if not entry.is_dir():
      notes.add("left out, in no folder of a class", entry.name)
    elif why := _unusual(entry.name):
      notes.add(f"left out, a folder of {why}", entry.name)
    elif entry.resolve() in resolved:
      notes.add("left out, a link to another class", entry.name)
    elif paths := _jpegs(entry, notes):
      classes[entry.name] = paths
      resolved.add(entry.resolve())
    else:
      notes.add("left out, a folder without JPEGs", entry.name)
  notes.tell()
  if not classes:
    raise ValueError(
      f"{folder} holds no folders of JPEGs, one for each class; extract"
      f" train.zip of {HOMEPAGE} there"
    )
  print(
    f"plankton: {len(classes)} classes in {folder}; PlanktonSet 1.0 has"
    f" {NUM_CLASSES}",
    file=sys.stderr,
  )
  if len(classes) > NUM_CLASSES:
    raise ValueError(
      f"{folder} holds {len(classes)} folders of JPEGs; accepted: one for each"
      f" class, at most {NUM_CLASSES}"
    )
  return classes


def _jpegs(folder: pathlib.Path, notes: Notes) -> list[pathlib.Path]:
  """The JPEGs of a class, and notes on its other files."""
  paths = []
  for path in sorted(folder.iterdir()):
    name = f"{folder.name}/{path.name}"
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
      notes.add("left out, no JPEG", name)
    elif why := _unusual(path.name):
      notes.add(f"left out, a file of {why}", name)
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
