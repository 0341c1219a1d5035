"""Reading prepared TFDS directories, made here or embedded."""

import contextlib
import dataclasses
import io
import pathlib
import resource
import struct
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
import pytest
import tensorflow_datasets as tfds

from stnjax import data
from stnjax.data import mnist
from stnjax.data.synthetic import street_numbers
from stnjax.data.tfds_builders import mnist_subset, writing
from stnjax.data.tfds_reader import folders, records
from tests.data import tiny_sets


class EmbeddedTest(absltest.TestCase):
  @pytest.mark.slow
  def test_it_is_balanced_and_small(self):
    for split, count in (("train", 1000), ("test", 200)):
      examples = data.load("mnist_subset", split)
      shape = data.find("mnist_subset").image_shape
      self.assertEqual(examples.images.shape, (10 * count, *shape))
      self.assertEqual(examples.images.dtype, np.uint8)
      self.assertEqual(np.bincount(examples.labels).tolist(), [count] * 10)
    size = sum(
      p.stat().st_size for p in folders.EMBEDDED.rglob("*") if p.is_file()
    )
    self.assertLess(size, 5_000_000)


class LoadTest(parameterized.TestCase):
  @parameterized.parameters(
    tiny_sets.Stock, tiny_sets.Cifar10, tiny_sets.SvhnCropped
  )
  def test_array_record_and_tfrecord_directories(self, builder_class):
    name = builder_class.name
    root = self.create_tempdir().full_path
    folder = tiny_sets.prepare(root, builder_class)
    for convert in (lambda f: None, tiny_sets.to_tfrecord):
      convert(folder)
      for split in builder_class.SPLITS:
        examples = data.load(name, split, root)
        self.assertEqual(examples.images.shape[1:], data.find(name).image_shape)
        self.assertEqual(examples.images.dtype, np.uint8)
        self.assertEqual(examples.labels.dtype, np.int32)
        self.assertEqual(examples.labels.shape, (12,))
        self.assertEqual(
          tiny_sets.labels_by_image(examples), tiny_sets.expected(name)
        )

  def test_several_splits_in_their_order(self):
    root = self.create_tempdir().full_path
    tiny_sets.prepare(root, tiny_sets.SvhnCropped)
    both = data.load("svhn_cropped", "extra+train", root)
    parts = [data.load("svhn_cropped", s, root) for s in ("extra", "train")]
    for array, pieces in zip(both, zip(*parts, strict=True), strict=True):
      np.testing.assert_array_equal(array, np.concatenate(pieces))

  def test_more_than_one_chunk(self):
    root = self.create_tempdir().full_path
    tiny_sets.prepare(root)
    with mock.patch.object(records, "CHUNK", 5):
      examples = data.load("mnist", "train", root)
    self.assertEqual(
      tiny_sets.labels_by_image(examples), tiny_sets.expected("mnist")
    )

  def test_broken_tfrecord_is_named(self):
    root = self.create_tempdir().full_path
    folder = tiny_sets.prepare(root)
    tiny_sets.to_tfrecord(folder)
    path = folder / "mnist-train.tfrecord-00000-of-00001"
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with self.assertRaisesRegex(ValueError, "train.tfrecord.*breaks off"):
      data.load("mnist", "train", root)
    (length,) = struct.unpack_from("<Q", whole)
    path.write_bytes(whole[: length + 16])
    with self.assertRaisesRegex(ValueError, "holds 1 examples.*says 12"):
      data.load("mnist", "train", root)
    path.write_bytes(whole + whole[: length + 16])
    with self.assertRaisesRegex(ValueError, "holds 13 examples.*says 12"):
      data.load("mnist", "train", root)

  def test_examples_that_do_not_fit_the_description(self):
    root = self.create_tempdir().full_path
    tiny_sets.prepare(root)
    for change, message in (
      ({"image_shape": (28, 28, 3)}, r"\(28, 28, 1\).*accepted: \(28, 28, 3\)"),
      ({"heads": 5}, r"features.json: label is .*; accepted.*\(5,\)"),
      ({"num_classes": 9}, r"train.array_record.*label.*\[9\].*0 to 8"),
    ):
      other = dataclasses.replace(mnist.MNIST, **change)
      with self.assertRaisesRegex(ValueError, message):
        other.read("train", root)

  def test_unprepared_set_says_at_once_how_to_get_it(self):
    root = self.create_tempdir().full_path
    with self.assertRaisesRegex(
      FileNotFoundError, "not prepared.*data_dir.*mnist_subset"
    ):
      data.load("mnist", "train", root)
    with self.assertRaisesRegex(FileNotFoundError, "leave out data_dir"):
      data.load("mnist_subset", "train", root)
    for name in ("svhn", "plankton"):
      with self.assertRaisesRegex(
        FileNotFoundError,
        f"python -m stnjax.data prepare --dataset={name}"
        f" --manual_dir=<.*> --data_dir={root}",
      ):
        data.load(name, "train", root)
    for name in ("cifar10", "svhn_cropped"):
      with self.assertRaisesRegex(
        FileNotFoundError,
        rf"stnjax\[prepare\].*stnjax.data prepare --dataset={name} --data_dir",
      ):
        data.load(name, "train", root)

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "dataset='fashion'.*mnist_subset"):
      data.load("fashion", "train")
    with self.assertRaisesRegex(ValueError, "split='dev'.*train, test"):
      data.load("mnist_subset", "dev")
    for split in ("train+dev", "train+", "", "+", "train[:5]"):
      with self.assertRaisesRegex(ValueError, "split=.*accepted: train, test"):
        data.load("mnist_subset", split)


class CountTest(absltest.TestCase):
  def test_counts_without_reading(self):
    root = self.create_tempdir().full_path
    tiny_sets.prepare(root, tiny_sets.SvhnCropped)
    found = data.find("svhn_cropped")
    with mock.patch.object(records, "read", side_effect=AssertionError):
      self.assertEqual(found.count("train", root), 12)
      self.assertEqual(found.count("train+extra", root), 24)
      with self.assertRaisesRegex(ValueError, "split='dev'.*train, test"):
        found.count("dev", root)

  def test_a_set_that_is_yet_to_be_generated(self):
    root = self.create_tempdir().full_path
    self.assertIsNone(data.find("street_numbers").count("train", root))

  def test_which_sets_need_files(self):
    needing = [
      name
      for name in ("mnist", "mnist_subset", "street_numbers", "svhn")
      if data.find(name).needs_files(None)
    ]
    self.assertEqual(needing, ["mnist", "svhn"])
    self.assertTrue(data.find("mnist_subset").needs_files("/sets"))
    self.assertFalse(data.find("street_numbers").needs_files("/sets"))


class GeneratedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    patch = mock.patch.object(
      street_numbers, "StreetNumbers", tiny_sets.TinyStreetNumbers
    )
    self.enter_context(patch)
    self.root = self.create_tempdir().full_path

  def load(self, root):
    """Loads, and returns the data and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
      examples = data.load("street_numbers", "train", root)
    return examples, printed.getvalue()

  def test_generated_once(self):
    examples, printed = self.load(self.root)
    self.assertRegex(
      printed, f"^generating .*street_numbers.* in {self.root}.*\n"
    )
    self.assertEqual(examples.images.shape, (12, 64, 64, 3))
    self.assertEqual(examples.labels.shape, (12, 5))
    labels = tiny_sets.labels_by_image(examples)
    self.assertEqual(
      {image: label.tolist() for image, label in labels.items()},
      {
        image: [digit, 1, 10, 10, 10]
        for image, digit in tiny_sets.expected("street_numbers").items()
      },
    )
    again, printed = self.load(self.root)
    self.assertEmpty(printed)
    np.testing.assert_array_equal(again.images, examples.images)

  def test_another_version_is_not_taken_for_this_one(self):
    self.load(self.root)
    with mock.patch.object(
      tiny_sets.TinyStreetNumbers, "VERSION", tfds.core.Version("1.1.0")
    ):
      _, printed = self.load(self.root)
    self.assertIn("1.1.0", printed)

  def test_another_process_is_faster(self):
    generate = tiny_sets.TinyStreetNumbers._generate_examples
    first = []

    def patched(function):
      return mock.patch.object(
        tiny_sets.TinyStreetNumbers, "_generate_examples", function
      )

    def slowly(builder):
      with mock.patch.object(
        tiny_sets.TinyStreetNumbers, "_generate_examples", generate
      ):
        first.append(self.load(self.root)[0])
      return generate(builder)

    with mock.patch.object(
      tiny_sets.TinyStreetNumbers, "_generate_examples", slowly
    ):
      examples, _ = self.load(self.root)
    np.testing.assert_array_equal(examples.images, first[0].images)

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
    examples, printed = self.load(self.root)  # at the second attempt
    self.assertLen(examples.images, 12)
    self.assertNotIn("incomplete", printed.splitlines()[0])

  def test_what_a_killed_preparation_left_is_named(self):
    left = pathlib.Path(self.root, "street_numbers/incomplete.ABCDEF_1.0.0")
    left.mkdir(parents=True)
    examples, printed = self.load(self.root)
    self.assertIn(f"{left} is left from a preparation", printed)
    self.assertLen(examples.images, 12)

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
    tiny_sets.prepare(root)
    builder = mnist_subset.MnistSubset(
      data_dir=root, file_format="array_record"
    )
    counts = {"train": 1, "test": 1}
    with mock.patch.object(mnist_subset, "PER_CLASS", counts):
      writing.prepare(builder, root)
    source = data.load("mnist", "train", root)
    subset = data.load("mnist_subset", "train", root)
    first = [source.labels.tolist().index(label) for label in range(10)]
    self.assertCountEqual(
      [i.tobytes() for i in subset.images],
      [i.tobytes() for i in source.images[first]],
    )


if __name__ == "__main__":
  absltest.main()
