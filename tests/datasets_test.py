"""Loading, through tiny TFDS directories made here and the embedded set."""

import pathlib
import struct
import subprocess
import sys
from unittest import mock

from absl.testing import absltest
import numpy as np
import tensorflow_datasets as tfds

from stnjax import datasets
from stnjax.datasets import loading, mnist_subset


def images(n):
  return np.random.default_rng(0).integers(0, 255, (n, 28, 28, 1), np.uint8)


class Mnist(mnist_subset.MnistSubset):
  """Twelve images a split, under MNIST's name."""

  name = "mnist"
  MANUAL_DOWNLOAD_INSTRUCTIONS = None

  def _split_generators(self, dl_manager):
    del dl_manager
    return {s: self._generate_examples(None, s) for s in ("train", "test")}

  def _generate_examples(self, source, split):
    for index, image in enumerate(images(12)):
      yield index, {"image": mnist_subset.png(image), "label": index % 10}


def prepare(folder):
  builder = Mnist(data_dir=folder, file_format="array_record")
  builder.download_and_prepare()
  return pathlib.Path(builder.data_dir)


def to_tfrecord(folder):
  """Rewrites a prepared directory as TFRECORD, the format that GCS has."""
  for path in folder.glob("*.array_record*"):
    split = "train" if "train" in path.name else "test"
    builder = tfds.builder_from_directory(folder)
    records = [
      builder.info.features.serialize_example(
        {"image": image, "label": index % 10}
      )
      for index, image in enumerate(mnist_subset.png(i) for i in images(12))
    ]
    content = b"".join(
      struct.pack("<QI", len(r), 0) + r + struct.pack("<I", 0) for r in records
    )
    name = f"mnist-{split}.tfrecord-00000-of-00001"
    (folder / name).write_bytes(content)
  for path in folder.glob("*.array_record*"):
    path.unlink()
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))


class EmbeddedTest(absltest.TestCase):
  def test_it_is_balanced_and_small(self):
    for split, count in (("train", 1000), ("test", 200)):
      data = datasets.load("mnist_subset", split)
      self.assertEqual(data.images.shape, (10 * count, 28, 28, 1))
      self.assertEqual(data.images.dtype, np.uint8)
      self.assertEqual(np.bincount(data.labels).tolist(), [count] * 10)
    size = sum(
      p.stat().st_size for p in loading.EMBEDDED.rglob("*") if p.is_file()
    )
    self.assertLess(size, 5_000_000)

  def test_pixels_are_those_of_the_description(self):
    data = datasets.load("mnist_subset", "train")
    description = datasets.SETS["mnist_subset"]
    self.assertAlmostEqual(
      (data.images / 255).mean(), description.mean, delta=0.005
    )
    self.assertAlmostEqual(
      (data.images / 255).std(), description.std, delta=0.005
    )
    self.assertEqual(data.images.shape[1:], description.image_shape)


class LoadTest(absltest.TestCase):
  def test_array_record_and_tfrecord_directories(self):
    root = self.create_tempdir().full_path
    folder = prepare(root)
    for convert in (lambda f: None, to_tfrecord):
      convert(folder)
      data = datasets.load("mnist", "test", root)
      # TFDS shuffles when it prepares.
      found = {i.tobytes(): n for i, n in zip(*data, strict=True)}
      expected = {i.tobytes(): n % 10 for n, i in enumerate(images(12))}
      self.assertEqual(found, expected)

  def test_broken_tfrecord_is_named(self):
    root = self.create_tempdir().full_path
    folder = prepare(root)
    to_tfrecord(folder)
    path = folder / "mnist-train.tfrecord-00000-of-00001"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with self.assertRaisesRegex(ValueError, "train.tfrecord.*breaks off"):
      datasets.load("mnist", "train", root)
    (length,) = struct.unpack_from("<Q", whole)
    path.write_bytes(whole[: length + 16])
    with self.assertRaisesRegex(ValueError, "holds 1 examples.*says 12"):
      datasets.load("mnist", "train", root)

  def test_unprepared_set_says_at_once_how_to_get_it(self):
    root = self.create_tempdir().full_path
    with self.assertRaisesRegex(
      FileNotFoundError, "not prepared.*data_dir.*mnist_subset"
    ):
      datasets.load("mnist", "train", root)
    with self.assertRaisesRegex(FileNotFoundError, "leave out data_dir"):
      datasets.load("mnist_subset", "train", root)

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "dataset='fashion'.*mnist_subset"):
      datasets.load("fashion", "train")
    with self.assertRaisesRegex(ValueError, "split='dev'.*train, test"):
      datasets.load("mnist_subset", "dev")


class SubsetTest(absltest.TestCase):
  def test_builder_takes_the_first_of_each_class(self):
    root = self.create_tempdir().full_path
    prepare(root)
    builder = mnist_subset.MnistSubset(
      data_dir=root, file_format="array_record"
    )
    config = tfds.download.DownloadConfig(manual_dir=root)
    one = {"train": 1, "test": 1}
    with mock.patch.object(mnist_subset, "PER_CLASS", one):
      builder.download_and_prepare(download_config=config)
    source = datasets.load("mnist", "train", root)
    subset = datasets.load("mnist_subset", "train", root)
    first = [source.labels.tolist().index(label) for label in range(10)]
    self.assertCountEqual(
      [i.tobytes() for i in subset.images],
      [i.tobytes() for i in source.images[first]],
    )


class ImportTest(absltest.TestCase):
  def test_importing_stnjax_is_light_and_touches_no_device(self):
    code = (
      "import sys, stnjax, stnjax.networks, stnjax.training\n"
      "from jax._src import xla_bridge\n"
      "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'torch'}\n"
      "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
      "assert not xla_bridge._backends, xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

  def test_loading_needs_no_tensorflow(self):
    code = (
      "import sys\n"
      "from stnjax import datasets\n"
      "datasets.load('mnist_subset', 'test')\n"
      "assert 'tensorflow' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
  absltest.main()
