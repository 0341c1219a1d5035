"""Prepared sets that are damaged, or hold what they must not hold."""

import contextlib
import io
import json
import os
import pathlib
import shutil
from unittest import mock

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
import pytest
import tensorflow_datasets as tfds

from stnjax import data
from stnjax.data.tfds_reader import checksums, folders
from tests.data import tiny_sets

FORMATS = parameterized.named_parameters(
  ("array_record", "array_record"), ("tfrecord", "tfrecord")
)
ERRORS = (ValueError, OSError)


def prepare(root, builder_class=tiny_sets.Stock):
  with contextlib.redirect_stderr(io.StringIO()):  # progress bars of TFDS
    return tiny_sets.prepare(root, builder_class)


class DamagedTest(parameterized.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.pristine = {}
    for file_format in ("array_record", "tfrecord"):
      cls.pristine[file_format] = prepare(cls.create_tempdir(cls()).full_path)
    tiny_sets.to_tfrecord(cls.pristine["tfrecord"])

  def copy(self, file_format):
    """A fresh copy of the set: its root, folder and training file."""
    root = pathlib.Path(self.create_tempdir().full_path)
    folder = root / "mnist" / "3.0.1"
    shutil.copytree(self.pristine[file_format], folder)
    return root, folder, folder / f"mnist-train.{file_format}-00000-of-00001"

  def refuses(self, root, *fragments):
    """Asserts that loading gives one line that names these."""
    with self.assertRaises(ERRORS) as caught:
      data.load("mnist", "train", str(root))
    message = str(caught.exception)
    self.assertNotIn("\n", message)
    for fragment in fragments:
      self.assertIn(str(fragment), message)

  @FORMATS
  @pytest.mark.slow
  def test_flipped_bytes_are_refused_or_harmless(self, file_format):
    root, folder, _ = self.copy(file_format)
    good = data.load("mnist", "train", str(root))
    rng = np.random.default_rng(0)
    refused = 0
    for path in sorted(folder.iterdir()):
      whole = path.read_bytes()
      used = np.flatnonzero(np.frombuffer(whole, np.uint8))
      for offset in (0, len(whole) - 1, *rng.choice(used, 25)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
          examples = data.load("mnist", "train", str(root))
        except ERRORS as error:
          self.assertIn(str(folder), str(error))
          refused += 1
        else:
          for array, expected in zip(examples, good, strict=True):
            np.testing.assert_array_equal(array, expected)
      path.write_bytes(whole)
    self.assertGreater(refused, 50)

  @FORMATS
  def test_flipped_bytes_of_records(self, file_format):
    root, _, path = self.copy(file_format)
    whole = path.read_bytes()
    # All that follows the first PNG's header is data, up to the last one.
    first, last = whole.index(b"IDAT"), whole.rindex(b"IDAT")
    for offset in np.linspace(first, last, 20, dtype=int):
      damaged = bytearray(whole)
      damaged[offset] ^= 1
      path.write_bytes(damaged)
      self.refuses(root, path, "is damaged")

  @FORMATS
  def test_cut_files(self, file_format):
    root, folder, record_file = self.copy(file_format)
    paths = (
      record_file,
      folder / "dataset_info.json",
      folder / "features.json",
    )
    for path in paths:
      whole = path.read_bytes()
      for length in (0, 1, 13, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        self.refuses(root, path, "remove its folder")
      path.unlink()
      self.refuses(root, path, "is missing")
      path.mkdir()
      self.refuses(root, path)
      path.rmdir()
      path.write_bytes(whole)

  @FORMATS
  def test_other_numbers_of_files_and_examples(self, file_format):
    root, folder, path = self.copy(file_format)
    extra = folder / f"mnist-train.{file_format}-00001-of-00002"
    shutil.copy(path, extra)
    self.refuses(root, extra)
    extra.rename(f"{path}.bak")  # a user's copy is none of the set's files
    data.load("mnist", "train", str(root))
    for lengths, fragment in (
      (["11"], "holds 12 examples"),
      (["13"], "holds 12 examples"),
      (["99999999999999"], "too few"),
      (["9" * 30], "dataset_info.json"),
      (["-1"], "no examples"),
      (["0"], "no examples"),
      ([], "no examples"),
      (["6", "6"], "is missing"),
    ):
      self.edit(folder, lambda train, n=lengths: train.update(shardLengths=n))
      self.refuses(root, folder, fragment)

  def edit(self, folder, change):
    """Changes what dataset_info.json says of the split "train"."""
    path = folder / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info["splits"][0])
    path.write_text(json.dumps(info))

  @FORMATS
  def test_a_file_that_is_a_copy_of_another(self, file_format):
    root, folder, path = self.copy(file_format)
    copies = [
      folder / f"mnist-train.{file_format}-0000{i}-of-00002" for i in range(2)
    ]
    for copy in copies:
      shutil.copy(path, copy)
    path.unlink()
    self.edit(folder, lambda train: train.update(shardLengths=["12", "12"]))
    self.refuses(root, copies[0], copies[1], "the same examples")

  def test_descriptions_of_something_else(self):
    root, folder, _ = self.copy("array_record")
    info, features = folder / "dataset_info.json", folder / "features.json"
    for path, old, new, fragment in (
      (info, '"array_record"', '"riegeli"', "riegeli"),
      (info, '"array_record"', '"parquet"', "accepted: array_record, tfrecord"),
      (info, '"name": "mnist"', '"name": "emnist"', "is of dataset 'emnist'"),
      (info, "{SPLIT}", "{SPLAT}", "SPLAT"),
      (features, '"image": {', '"picture": {', "no 'image'"),
      (features, '"label": {', '"digit": {', "no 'label'"),
      (features, '"28"', '"29"', "accepted: (28, 28, 1)"),
      (features, "uint8", "float32", "uint8"),
      (features, "image_feature.Image", "image_feature.Imago", "damaged"),
    ):
      if path == info and old not in info.read_text():
        self.edit(
          folder, lambda train: train.update(filepathTemplate="{SPLIT}{SHARD}")
        )
      whole = path.read_text()
      self.assertIn(old, whole)
      path.write_text(whole.replace(old, new, 1))
      self.refuses(root, path, fragment)
      path.write_text(whole)

  def test_unknown_split_lists_those_there(self):
    root, _, _ = self.copy("array_record")
    for split in ("dev", "", "train+dev", None, ["train"]):
      with self.assertRaisesRegex(ValueError, "split=.*accepted: train, test"):
        data.load("mnist", split, str(root))


def other_set(features, example, version="3.0.1"):
  """A builder of a set under the name of MNIST."""

  class Other(tiny_sets.Stock, skip_registration=True):
    name = "mnist"
    FEATURES = features

    def _generate_examples(self):
      yield 0, example
      yield 1, example

  return Other


def png(array):
  file = io.BytesIO()
  Image.fromarray(array).save(file, "PNG")
  return file.getvalue()


GREY = np.arange(784, dtype=np.uint8).reshape(28, 28)
TENSOR, IMAGE = tfds.features.Tensor, tfds.features.Image
LABEL = tfds.features.ClassLabel(num_classes=10)
INTEGER = tfds.features.Scalar(np.int64)


class OtherContentTest(parameterized.TestCase):
  @parameterized.parameters(
    (INTEGER, -1, r"\[-1\].*0 to 9"),
    (INTEGER, 10, r"\[10\]"),
    (INTEGER, 2**32 + 3, r"\[4294967299\]"),
    (tfds.features.Scalar(np.uint64), 2**63 - 1, r"9223372036854775807"),
    (tfds.features.Scalar(np.float32), 3.7, "features.json.*label.*integers"),
    (tfds.features.Scalar(np.bool_), True, "features.json.*label.*integers"),
    (tfds.features.Text(), "3", "features.json.*label.*integers"),
    (TENSOR(shape=(2,), dtype=np.int64), [1, 2], "features.json.*label"),
    (tfds.features.Sequence(INTEGER), [1], "features.json.*label"),
  )
  def test_labels(self, feature, label, message):
    example = {"image": png(GREY), "label": label}
    features = {"image": IMAGE(shape=(28, 28, 1)), "label": feature}
    self.refuses(other_set(features, example), message)

  @parameterized.parameters(
    (IMAGE(shape=(28, 28, 1)), b"no PNG", "example 0: .*broken PNG"),
    (IMAGE(shape=(28, 28, 1)), png(GREY)[:-30], "broken PNG"),
    (IMAGE(shape=(28, 28, 1)), b"", "broken PNG"),
    (IMAGE(shape=(28, 28, 1)), png(GREY[:27]), r"\(27, 28, 1\).*\(28, 28, 1"),
    (IMAGE(shape=(None, None, 1)), png(GREY[1:]), r"\(27, 28, 1\)"),
    (
      IMAGE(shape=(28, 28, 1)),
      png(GREY.repeat(3).reshape(28, 28, 3)),
      r"\(28, 28, 3\)",
    ),
    (IMAGE(shape=(28, 28, 1)), png(GREY.astype(np.uint16) * 9), "8 bits"),
    (IMAGE(shape=(28, 28, 1)), png(np.zeros((9000, 9000), bool)), "pixels"),
    (
      TENSOR(shape=(28, 28, 1), dtype=np.float32),
      np.ones((28, 28, 1), np.float32),
      "features.json.*image.*uint8",
    ),
  )
  def test_images(self, feature, image, message):
    features = {"image": feature, "label": LABEL}
    self.refuses(other_set(features, {"image": image, "label": 1}), message)

  def refuses(self, builder_class, message):
    root = self.create_tempdir().full_path
    prepare(root, builder_class)
    with (
      self.assertRaisesRegex(ValueError, message) as caught,
      self.assertNoLogs(),
    ):
      data.load("mnist", "train", root)
    self.assertIn(root, str(caught.exception))

  def test_records_of_other_types_than_declared(self):
    # TFDS itself casts 3.7 to 3.
    root = self.create_tempdir().full_path
    image = IMAGE(shape=(28, 28, 1))
    features = {"image": image, "label": tfds.features.Scalar(np.float32)}
    example = {"image": png(GREY), "label": 3.7}
    path = prepare(root, other_set(features, example)) / "features.json"
    declared = tfds.features.FeaturesDict({"image": image, "label": LABEL})
    path.write_text(json.dumps(declared.to_json()))
    path.unlink()
    declared.save_config(path.parent)
    with self.assertRaisesRegex(ValueError, "train.array_record.*label"):
      data.load("mnist", "train", root)


class PlacesTest(parameterized.TestCase):
  @parameterized.parameters(
    "http://a/b", "https://a", "ftp://a/b", "file:///tmp", "s3://a/b", ""
  )
  def test_addresses_that_are_not_supported(self, data_dir):
    for name in ("mnist", "synthetic_digits"):
      with self.assertRaisesRegex(ValueError, "data_dir=.*local .*gs://"):
        data.load(name, "train", data_dir)

  def test_files_in_the_place_of_folders(self):
    file = self.create_tempfile("file").full_path
    for name in ("mnist", "synthetic_digits"):
      with self.assertRaisesRegex(OSError, f"data_dir='{file}' is a file"):
        data.load(name, "train", file)
    root = self.create_tempdir()
    root.create_file("mnist")
    with self.assertRaisesRegex(OSError, f"not prepared in {root.full_path}"):
      data.load("mnist", "train", root.full_path)

  def test_paths_of_unusual_names(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    prepare(root / "plain")
    good = data.load("mnist", "train", str(root / "plain"))
    for name in ("a[x]b", "[0:5]", "a*", "{b}", "sp ace", "%41"):
      shutil.copytree(root / "plain", root / name)
      examples = data.load("mnist", "train", str(root / name))
      np.testing.assert_array_equal(examples.images, good.images)
    here = os.getcwd()
    self.addCleanup(os.chdir, here)
    os.chdir(root)
    for name in ("plain/../a[x]b", "./plain", pathlib.Path("plain")):
      examples = data.load("mnist", "train", name)
      np.testing.assert_array_equal(examples.images, good.images)

  def test_versions_without_description(self):
    root = self.create_tempdir()
    for name, version in (("mnist", "3.0.1"), ("synthetic_digits", "1.0.0")):
      root.create_file(f"{name}/{version}/{name}-train.array_record")
      with self.assertRaisesRegex(
        ValueError, f"{name}/{version}/dataset_info.json is missing.*remove"
      ):
        data.load(name, "train", root.full_path)

  def test_a_damaged_embedded_set(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    shutil.copytree(folders.EMBEDDED, root / "embedded")
    path = next((root / "embedded").rglob("features.json"))
    path.write_bytes(b"")
    with (
      mock.patch.object(folders, "EMBEDDED", root / "embedded"),
      self.assertRaisesRegex(ValueError, f"{path}.*install stnjax again"),
    ):
      data.load("mnist_subset", "train")


class ChecksumTest(absltest.TestCase):
  def test_published_values(self):
    # RFC 3720, B.4, and the check value of CRC catalogues.
    for content, crc in (
      (b"123456789", 0xE3069283),
      (b"", 0),
      (bytes(32), 0x8A9136AA),
      (b"\xff" * 32, 0x62A8AB43),
      (bytes(range(32)), 0x46DD794E),
      (bytes(reversed(range(32))), 0x113FDB5C),
    ):
      self.assertEqual(checksums.crc32c([content])[0], crc)

  def test_records_of_all_lengths_at_once(self):
    rng = np.random.default_rng(0)
    records = [rng.bytes(length) for length in (*range(140), 3000, 5)]
    expected = [tiny_sets.masked_crc32c(record) for record in records]
    self.assertEqual(checksums.masked_crc32c(records).tolist(), expected)
    self.assertEqual(checksums.masked_crc32c([]).tolist(), [])


if __name__ == "__main__":
  absltest.main()
