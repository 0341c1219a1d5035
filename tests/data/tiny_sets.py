"""Tiny TFDS directories, made with TFDS's own writer."""

import pathlib
import struct

import numpy as np
import tensorflow_datasets as tfds

from stnjax import data
from stnjax.data.images import png
from stnjax.data.tfds_builders import writing
import stnjax.paper  # noqa: F401

IMAGE = tfds.features.Image
LABEL = tfds.features.ClassLabel


def generate(features, count=12):
  """Images at random, with the labels 0 to 9 again and again."""
  shape = features["image"].shape
  noise = np.random.default_rng(0)
  images = noise.integers(0, 255, (count, *shape), np.uint8)
  for index, image in enumerate(images):
    example = {"image": png(image), "label": index % 10}
    if "id" in features:
      example["id"] = f"train_{index:05}"
    yield index, example


def expected(name, count=12):
  """Labels by the bytes of the images; TFDS shuffles when it prepares."""
  shape = data.find(name).image_shape
  noise = np.random.default_rng(0)
  images = noise.integers(0, 255, (count, *shape), np.uint8)
  return {image.tobytes(): n % 10 for n, image in enumerate(images)}


def labels_by_image(examples):
  return {
    image.tobytes(): label
    for image, label in zip(examples.images, examples.labels, strict=True)
  }


class Stock(tfds.core.GeneratorBasedBuilder):
  """Twelve images a split, under the name of a set of TFDS."""

  name = "mnist"
  VERSION = tfds.core.Version("3.0.1")
  SPLITS = ("train", "test")
  FEATURES = {"image": IMAGE(shape=(28, 28, 1)), "label": LABEL(num_classes=10)}

  def _info(self):
    features = tfds.features.FeaturesDict(self.FEATURES)
    return tfds.core.DatasetInfo(builder=self, features=features)

  def _split_generators(self, dl_manager):
    del dl_manager
    return {s: self._generate_examples() for s in self.SPLITS}

  def _generate_examples(self):
    yield from generate(self.info.features)


class Cifar10(Stock):
  name = "cifar10"
  FEATURES = {
    "id": tfds.features.Text(),
    "image": IMAGE(shape=(32, 32, 3)),
    "label": LABEL(num_classes=10),
  }


class SvhnCropped(Stock):
  name = "svhn_cropped"
  SPLITS = ("train", "test", "extra")
  FEATURES = {"image": IMAGE(shape=(32, 32, 3)), "label": LABEL(num_classes=10)}


class TinyStreetNumbers(Stock, skip_registration=True):
  """Instead of the generated set, which takes a minute."""

  name = "street_numbers"
  VERSION = tfds.core.Version("1.0.0")
  FEATURES = {
    "image": IMAGE(shape=(64, 64, 3)),
    "label": tfds.features.Tensor(shape=(5,), dtype=np.int64),
  }

  def _generate_examples(self):
    for index, example in generate(self.info.features):
      label = np.array([index % 10, 1, 10, 10, 10])
      yield index, example | {"label": label}


def prepare(folder, builder_class=Stock):
  builder = builder_class(data_dir=folder, file_format="array_record")
  writing.prepare(builder)
  return pathlib.Path(builder.data_dir)


def masked_crc32c(content):
  """The checksum of TFRECORD, bit by bit."""
  register = 0xFFFFFFFF
  for byte in content:
    register ^= byte
    for _ in range(8):
      register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
  crc = register ^ 0xFFFFFFFF
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def framed(record):
  """A record of a TFRECORD file."""
  length = struct.pack("<Q", len(record))
  return b"".join(
    part + struct.pack("<I", masked_crc32c(part)) for part in (length, record)
  )


def to_tfrecord(folder):
  """Rewrites a prepared directory as TFRECORD, the format that GCS has."""
  builder = tfds.builder_from_directory(folder)
  features = builder.info.features
  content = b"".join(
    framed(features.serialize_example(example))
    for _, example in generate(features)
  )
  for path in folder.glob("*.array_record*"):
    name = path.name.replace("array_record", "tfrecord")
    (folder / name).write_bytes(content)
    path.unlink()
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))


class TinyFlowers(Stock):
  """A set that nothing here describes, named classes and all."""

  name = "tiny_flowers"
  VERSION = tfds.core.Version("1.2.0")
  FEATURES = {
    "image": IMAGE(shape=(9, 8, 3)),
    "label": LABEL(names=[f"flower{n}" for n in range(10)]),
  }
