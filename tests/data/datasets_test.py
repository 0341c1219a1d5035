"""Loading, through tiny TFDS directories made here and the embedded set."""

import contextlib
import io
import os
import pathlib
import re
import resource
import signal
import struct
import subprocess
import sys
import time
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from stnjax import data as datasets
from stnjax.data.builders import mnist_subset
from stnjax.data.prepared import builders, folders, records
from stnjax.data.synthetic import street_numbers
from tests import scripts

IMAGE = tfds.features.Image
LABEL = tfds.features.ClassLabel


def examples(features, count=12):
  """Images at random, with the labels 0 to 9 again and again."""
  shape = features["image"].shape
  noise = np.random.default_rng(0)
  images = noise.integers(0, 255, (count, *shape), np.uint8)
  for index, image in enumerate(images):
    example = {"image": builders.png(image), "label": index % 10}
    if "id" in features:
      example["id"] = f"train_{index:05}"
    yield index, example


def expected(name, count=12):
  """Labels by the bytes of the images; TFDS shuffles when it prepares."""
  shape = datasets.SETS[name].image_shape
  noise = np.random.default_rng(0)
  images = noise.integers(0, 255, (count, *shape), np.uint8)
  return {image.tobytes(): n % 10 for n, image in enumerate(images)}


def found(data):
  return {
    image.tobytes(): label
    for image, label in zip(data.images, data.labels, strict=True)
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
    yield from examples(self.info.features)


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
    for index, example in examples(self.info.features):
      label = np.array([index % 10, 1, 10, 10, 10])
      yield index, example | {"label": label}


def prepare(folder, builder_class=Stock):
  builder = builder_class(data_dir=folder, file_format="array_record")
  builders.prepare(builder)
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
    for _, example in examples(features)
  )
  for path in folder.glob("*.array_record*"):
    name = path.name.replace("array_record", "tfrecord")
    (folder / name).write_bytes(content)
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
      p.stat().st_size for p in folders.EMBEDDED.rglob("*") if p.is_file()
    )
    self.assertLess(size, 5_000_000)

  def test_shape_is_that_of_the_description(self):
    data = datasets.load("mnist_subset", "train")
    description = datasets.SETS["mnist_subset"]
    self.assertEqual(data.images.shape[1:], description.image_shape)


class LoadTest(parameterized.TestCase):
  @parameterized.parameters(Stock, Cifar10, SvhnCropped)
  def test_array_record_and_tfrecord_directories(self, builder_class):
    name = builder_class.name
    root = self.create_tempdir().full_path
    folder = prepare(root, builder_class)
    for convert in (lambda f: None, to_tfrecord):
      convert(folder)
      for split in builder_class.SPLITS:
        data = datasets.load(name, split, root)
        self.assertEqual(data.images.shape[1:], datasets.SETS[name].image_shape)
        self.assertEqual(data.images.dtype, np.uint8)
        self.assertEqual(data.labels.dtype, np.int32)
        self.assertEqual(data.labels.shape, (12,))
        self.assertEqual(found(data), expected(name))

  def test_several_splits_in_their_order(self):
    root = self.create_tempdir().full_path
    prepare(root, SvhnCropped)
    both = datasets.load("svhn_cropped", "extra+train", root)
    parts = [datasets.load("svhn_cropped", s, root) for s in ("extra", "train")]
    for array, pieces in zip(both, zip(*parts, strict=True), strict=True):
      np.testing.assert_array_equal(array, np.concatenate(pieces))

  def test_more_than_one_chunk(self):
    root = self.create_tempdir().full_path
    prepare(root)
    with mock.patch.object(records, "CHUNK", 5):
      data = datasets.load("mnist", "train", root)
    self.assertEqual(found(data), expected("mnist"))

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
    path.write_bytes(whole + whole[: length + 16])
    with self.assertRaisesRegex(ValueError, "holds 13 examples.*says 12"):
      datasets.load("mnist", "train", root)

  def test_examples_that_do_not_fit_the_description(self):
    root = self.create_tempdir().full_path
    prepare(root)
    for change, message in (
      ({"image_shape": (28, 28, 3)}, r"\(28, 28, 1\).*accepted: \(28, 28, 3\)"),
      ({"heads": 5}, r"features.json: label is .*; accepted.*\(5,\)"),
      ({"num_classes": 9}, r"train.array_record.*label.*\[9\].*0 to 8"),
    ):
      other = datasets.SETS["mnist"]._replace(**change)
      with (
        mock.patch.dict(datasets.SETS, mnist=other),
        self.assertRaisesRegex(ValueError, message),
      ):
        datasets.load("mnist", "train", root)

  def test_unprepared_set_says_at_once_how_to_get_it(self):
    root = self.create_tempdir().full_path
    with self.assertRaisesRegex(
      FileNotFoundError, "not prepared.*data_dir.*mnist_subset"
    ):
      datasets.load("mnist", "train", root)
    with self.assertRaisesRegex(FileNotFoundError, "leave out data_dir"):
      datasets.load("mnist_subset", "train", root)
    for name in ("svhn", "plankton"):
      with self.assertRaisesRegex(
        FileNotFoundError,
        f"python -m experiments.prepare_data --dataset={name}"
        f" --manual_dir=<.*> --data_dir={root}",
      ):
        datasets.load(name, "train", root)
    for name in ("cifar10", "svhn_cropped"):
      with self.assertRaisesRegex(FileNotFoundError, r"stnjax\[prepare\]"):
        datasets.load(name, "train", root)

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "dataset='fashion'.*mnist_subset"):
      datasets.load("fashion", "train")
    with self.assertRaisesRegex(ValueError, "split='dev'.*train, test"):
      datasets.load("mnist_subset", "dev")
    for split in ("train+dev", "train+", "", "+", "train[:5]"):
      with self.assertRaisesRegex(ValueError, "split=.*accepted: train, test"):
        datasets.load("mnist_subset", split)


class GeneratedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    patch = mock.patch.object(
      street_numbers, "StreetNumbers", TinyStreetNumbers
    )
    self.enter_context(patch)
    self.root = self.create_tempdir().full_path

  def load(self, root):
    """Loads, and returns the data and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
      data = datasets.load("street_numbers", "train", root)
    return data, printed.getvalue()

  def test_generated_once(self):
    data, printed = self.load(self.root)
    self.assertRegex(
      printed, f"^generating .*street_numbers.* in {self.root}.*\n"
    )
    self.assertEqual(data.images.shape, (12, 64, 64, 3))
    self.assertEqual(data.labels.shape, (12, 5))
    self.assertEqual(
      {image: label.tolist() for image, label in found(data).items()},
      {
        image: [digit, 1, 10, 10, 10]
        for image, digit in expected("street_numbers").items()
      },
    )
    again, printed = self.load(self.root)
    self.assertEmpty(printed)
    np.testing.assert_array_equal(again.images, data.images)

  def test_another_version_is_not_taken_for_this_one(self):
    self.load(self.root)
    with mock.patch.object(
      TinyStreetNumbers, "VERSION", tfds.core.Version("1.1.0")
    ):
      _, printed = self.load(self.root)
    self.assertIn("1.1.0", printed)

  def test_another_process_is_faster(self):
    generate = TinyStreetNumbers._generate_examples
    first = []

    def slowly(builder):
      with mock.patch.object(TinyStreetNumbers, "_generate_examples", generate):
        first.append(self.load(self.root)[0])
      return generate(builder)

    with mock.patch.object(TinyStreetNumbers, "_generate_examples", slowly):
      data, _ = self.load(self.root)
    np.testing.assert_array_equal(data.images, first[0].images)

  def test_full_disk(self):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
      with self.assertRaisesRegex(
        OSError, f"{self.root}/street_numbers/1.0.0 cannot be written.*room"
      ):
        self.load(self.root)
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)
    self.assertEmpty(list(pathlib.Path(self.root, "street_numbers").iterdir()))
    data, printed = self.load(self.root)  # at the second attempt
    self.assertLen(data.images, 12)
    self.assertNotIn("incomplete", printed.splitlines()[0])

  def test_what_a_killed_preparation_left_is_named(self):
    left = pathlib.Path(self.root, "street_numbers/incomplete.ABCDEF_1.0.0")
    left.mkdir(parents=True)
    data, printed = self.load(self.root)
    self.assertIn(f"{left} is left from a preparation", printed)
    self.assertLen(data.images, 12)

  def test_folder_that_cannot_be_written(self):
    file = pathlib.Path(self.root, "file")
    file.touch()
    with self.assertRaisesRegex(
      OSError, f"{file}/x/street_numbers/.* cannot be written.*data_dir"
    ):
      self.load(f"{file}/x")


class SubsetTest(absltest.TestCase):
  def test_builder_takes_the_first_of_each_class(self):
    root = self.create_tempdir().full_path
    prepare(root)
    builder = mnist_subset.MnistSubset(
      data_dir=root, file_format="array_record"
    )
    one = {"train": 1, "test": 1}
    with mock.patch.object(mnist_subset, "PER_CLASS", one):
      builders.prepare(builder, root)
    source = datasets.load("mnist", "train", root)
    subset = datasets.load("mnist_subset", "train", root)
    first = [source.labels.tolist().index(label) for label in range(10)]
    self.assertCountEqual(
      [i.tobytes() for i in subset.images],
      [i.tobytes() for i in source.images[first]],
    )


class PrepareDataTest(absltest.TestCase):
  def prepare(self, *flags):
    """Runs the script; its exit status, stdout and stderr."""
    return scripts.finish(scripts.start("prepare_data", *flags))

  def test_prepares(self):
    root = self.create_tempdir()
    for index in range(4):
      path = root.create_file(f"train/copepod/{index}.jpg").full_path
      Image.new("L", (40, 30), index).save(path)
    data_dir = f"{root.full_path}/tfds"
    code, out, err = self.prepare(
      "--dataset=plankton",
      f"--manual_dir={root.full_path}",
      f"--data_dir={data_dir}",
    )
    self.assertEqual(code, 0, err)
    self.assertEqual(
      out,
      f"plankton prepared in {data_dir}/plankton/1.0.0: 3 train, 1 test\n",
    )
    self.assertLen(datasets.load("plankton", "train", data_dir).images, 3)
    # No bars of progress in a log, and no folder for downloads.
    self.assertNotIn("\r", err)
    self.assertEqual(os.listdir(data_dir), ["plankton"])

  def test_data_dir_that_is_none(self):
    root = self.create_tempdir()
    file = root.create_file("manual/x").full_path
    damaged = root.create_file("tfds/svhn/1.0.0/svhn-train").full_path
    for data_dir, message in (
      ("http://a/b", "data_dir='http://a/b' is not supported; accepted"),
      (file, f"data_dir='{file}' is a file"),
      (
        f"{root.full_path}/tfds",
        f"{damaged.removesuffix('svhn-train')}dataset_info.json is missing",
      ),
    ):
      code, _, err = self.prepare(
        "--dataset=svhn",
        f"--manual_dir={root.full_path}/manual",
        f"--data_dir={data_dir}",
      )
      self.assertEqual(code, 1)
      self.assertRegex(err, f"^error: {re.escape(message)}.*\n$")

  def test_interrupted(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    for split in ("train", "test", "extra"):
      os.mkfifo(root / f"{split}.tar.gz")  # opening one waits for a writer
    process = scripts.start(
      "prepare_data",
      "--dataset=svhn",
      f"--manual_dir={root}",
      f"--data_dir={root}/tfds",
    )
    deadline = time.monotonic() + 60
    while not list(root.glob("tfds/svhn/incomplete.*")):
      self.assertLess(time.monotonic(), deadline)
      time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    code, _, err = scripts.finish(process)
    self.assertEqual(code, 128 + signal.SIGTERM)
    self.assertRegex(
      err, "(^|\n)interrupted; .*svhn/1.0.0 was not prepared.*\n$"
    )
    self.assertEmpty(list(root.glob("tfds/svhn/*")))

  def test_mistakes_are_one_line(self):
    root = self.create_tempdir()
    root.create_file("in/x")
    needs = "--dataset=svhn needs --manual_dir: .*train.tar.gz"
    below = "/proc/x/svhn/1.0.0 cannot be written .*choose another data_dir"
    for flags, message in (
      ([], needs),
      (["--manual_dir="], needs),
      (["--manual_dir=~nobody-here/x"], "--manual_dir=~nobody-here/x is no"),
      ([f"--manual_dir={root.full_path}/in", "--data_dir=/proc/x"], below),
    ):
      code, _, err = self.prepare("--dataset=svhn", *flags)
      self.assertEqual(code, 1)
      self.assertRegex(err, f"^error: {message}.*\n$")


class ImportTest(absltest.TestCase):
  def test_importing_stnjax_is_light_and_touches_no_device(self):
    code = (
      "import sys, stnjax, stnjax.placement.networks, stnjax.training.steps\n"
      "from jax._src import xla_bridge\n"
      "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'torch'}\n"
      "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
      "assert not xla_bridge._backends, xla_bridge._backends\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

  def test_loading_needs_neither_tensorflow_nor_opencv(self):
    code = (
      "import sys\n"
      "sys.modules['cv2'] = None\n"
      "from stnjax import datasets\n"
      "datasets.load('mnist_subset', 'test')\n"
      "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
      [sys.executable, "-c", code], check=True, capture_output=True
    )
    self.assertEqual((done.stdout, done.stderr), (b"", b""))


if __name__ == "__main__":
  absltest.main()
