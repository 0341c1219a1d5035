"""SVHN, from tiny archives of the original format made here."""

import contextlib
import io
import pathlib
import sys
import tarfile
from unittest import mock

from absl.testing import absltest
import h5py
import numpy as np
from PIL import Image

from stnjax import datasets
from stnjax.datasets import preparing, svhn


def photo(seed, width=80, height=60, channels=3):
  shape = (height // 4, width // 4, channels)
  small = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
  return small.repeat(4, 0).repeat(4, 1)


def png(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(file, "PNG")
  return file.getvalue()


def digit_struct(entries):
  """A digitStruct.mat of (name, boxes), as MATLAB 7.3 writes it.

  A box is left, top, width, height, label.
  """
  buffer = io.BytesIO()
  with h5py.File(buffer, "w", userblock_size=512) as file:
    elsewhere = file.create_group("#refs#")

    def unnamed(values):
      return elsewhere.create_dataset(f"v{len(elsewhere)}", data=values)

    names, groups = [], []
    for name, boxes in entries:
      codes = np.array([[ord(letter)] for letter in name], np.uint16)
      names.append([unnamed(codes).ref])
      group = elsewhere.create_group(f"g{len(elsewhere)}")
      groups.append([group.ref])
      fields = ("left", "top", "width", "height", "label")
      for field, values in zip(fields, np.transpose(boxes), strict=True):
        doubles = [np.array([[value]], np.float64) for value in values]
        if len(doubles) == 1:
          group[field] = doubles[0]
        else:
          references = [[unnamed(value).ref] for value in doubles]
          group.create_dataset(field, data=references, dtype=h5py.ref_dtype)
    for field, references in (("name", names), ("bbox", groups)):
      file.create_dataset(
        f"digitStruct/{field}", data=references, dtype=h5py.ref_dtype
      )
  header = b"MATLAB 7.3 MAT-file".ljust(512)
  return header + buffer.getvalue()[512:]


def write_archive(path, files):
  with tarfile.open(path, "w:gz") as archive:
    folder = path.name.removesuffix(".tar.gz")
    for name, content in files.items():
      member = tarfile.TarInfo(f"{folder}/{name}")
      member.size = len(content)
      archive.addfile(member, io.BytesIO(content))


def write_small(folder, *splits):
  """Archives of one number each, 42."""
  boxes = [(10, 10, 8, 20, 4), (20, 10, 8, 20, 2)]
  mat = digit_struct([("1.png", boxes)])
  for split in splits:
    files = {"1.png": png(photo(1)), "digitStruct.mat": mat}
    write_archive(folder / f"{split}.tar.gz", files)


def prepare(manual_dir, data_dir):
  """Prepares, and returns what was printed."""
  printed = io.StringIO()
  with contextlib.redirect_stderr(printed):
    preparing.prepare(
      svhn.Svhn(data_dir=str(data_dir), file_format="array_record"),
      str(manual_dir),
    )
  return printed.getvalue()


def resized(pixels):
  return np.asarray(Image.fromarray(pixels).resize((64, 64), 2))  # bilinear


DIGIT = (10, 12, 8, 20, 3)
SIX = [(5 * i, 10, 4, 10, 1) for i in range(6)]
FIVE = [(10 + 5 * i, 20, 4, 10, label) for i, label in enumerate(range(6, 11))]
# Two boxes of 10 wide and 20 high: their union is x 20-50, y 16-40.
TWO = [(20, 20, 10, 20, 1), (40, 16, 10, 20, 10)]
ENTRIES = {
  "1.png": [(30, 20, 10, 20, 5)],
  "2.png": TWO,
  "3.png": [DIGIT],  # in grey
  "4.png": SIX,
  "5.png": [(-4, 45, 20, 30, 9)],  # partly outside
  "6.png": [(90, 10, 8, 8, 2)],
  "7.png": [(10, 10, 0, 20, 2)],
  "8.png": [DIGIT],  # broken
  "9.png": [DIGIT],  # without PNG
  "10.png": FIVE,
  "11.png": [DIGIT],  # cut short
  "12.png": [(-30, 10, 30, 8, 2)],  # touches the left edge from outside
}


def train_files():
  files = {
    name: png(photo(index, channels=1 if name == "3.png" else 3))
    for index, name in enumerate(ENTRIES)
    if name != "9.png"
  }
  files["8.png"] = b"no PNG"
  files["11.png"] = files["11.png"][:-300]
  files |= {"stray.png": png(photo(0)), "see_bboxes.m": b"%"}
  # The .mat need not come first.
  return files | {
    "._1.png": b"",
    "digitStruct.mat": digit_struct(ENTRIES.items()),
  }


class SvhnTest(absltest.TestCase):
  @classmethod
  def setUpClass(cls):
    super().setUpClass()
    cls.root = pathlib.Path(cls.create_tempdir(cls()).full_path)
    write_archive(cls.root / "train.tar.gz", train_files())
    write_small(cls.root, "extra", "test")
    # Five examples of twelve entries: six files, of which three stay empty.
    with mock.patch.object(svhn, "_SHARD", 2):
      cls.printed = prepare(cls.root, cls.root / "tfds")
    cls.data = datasets.load("svhn", "train", str(cls.root / "tfds"))

  def test_labels_are_padded_with_blank(self):
    b = datasets.BLANK
    self.assertEqual(
      self.data.labels.tolist(),
      [
        [5, b, b, b, b],
        [1, 0, b, b, b],
        [3, b, b, b, b],
        [9, b, b, b, b],
        [6, 7, 8, 9, 0],
      ],
    )
    self.assertEqual(self.data.labels.dtype, np.int32)
    self.assertEqual(self.data.images.dtype, np.uint8)

  def test_pixels_are_those_of_the_grown_box(self):
    # 10 x 20 grows by 1.5 and 3 on each side: x 28.5-41.5, y 17-43.
    # 30 x 24 by 4.5 and 3.6: x 15.5-54.5, y 12.4-43.6.
    # 8 x 20 by 1.2 and 3: x 8.8-19.2, y 9-35.
    # 20 x 30 by 3 and 4.5: x -7-19, y 40.5-79.5, in an image of 80 x 60.
    # 24 x 10 by 3.6 and 1.5: x 6.4-37.6, y 18.5-31.5.
    grey = photo(2, channels=1).repeat(3, -1)
    expected = [
      photo(0)[17:43, 28:42],
      photo(1)[12:44, 15:55],
      grey[9:35, 8:20],
      photo(4)[40:60, 0:19],
      photo(9)[18:32, 6:38],
    ]
    np.testing.assert_array_equal(
      self.data.images, [resized(crop) for crop in expected]
    )

  def test_what_is_left_out_is_named(self):
    for line in (
      "1 left out, of more than 5 digits: 4.png",
      "3 left out, box without area or outside the image: 6.png, 7.png, 12.png",
      "left out, in digitStruct.mat without PNG: 9.png",
      "1 left out, not in digitStruct.mat: stray.png",
      "2 left out, broken PNG: 8.png, 11.png",
    ):
      self.assertIn(line, self.printed)
    self.assertNotIn("._1.png", self.printed)

  def test_train_and_extra(self):
    split = datasets.SETS["svhn"].train_split
    data = datasets.load("svhn", split, str(self.root / "tfds"))
    self.assertEqual(data.images.shape, (6, 64, 64, 3))
    self.assertEqual(data.labels[5].tolist(), [4, 2, 10, 10, 10])
    np.testing.assert_array_equal(data.images[:5], self.data.images)
    with self.assertRaisesRegex(ValueError, "'extra.dev'.*train, extra, test"):
      datasets.load("svhn", "extra+dev", str(self.root / "tfds"))

  def test_tensorflow_is_not_imported(self):
    self.assertNotIn("tensorflow", sys.modules)


class RefusedTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def refuses(self, files, message):
    write_small(self.root, "extra", "test")
    write_archive(self.root / "train.tar.gz", files)
    with self.assertRaisesRegex(ValueError, message):
      prepare(self.root, self.root / "tfds")

  def test_missing_archive(self):
    write_small(self.root, "train", "test")
    message = f"no extra.tar.gz in {self.root};.*{svhn.HOMEPAGE}"
    with self.assertRaisesRegex(FileNotFoundError, message):
      prepare(self.root, self.root / "tfds")

  def test_damaged_archive(self):
    write_small(self.root, *svhn.SPLITS)
    path = self.root / "test.tar.gz"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for content in (whole[:-200], bytes(flipped), b"", b"<html>", whole[:-4]):
      path.write_bytes(content)
      with self.assertRaisesRegex(ValueError, f"{path} is damaged"):
        prepare(self.root, self.root / "tfds")
    # Nothing that could be taken for a prepared set stays behind.
    self.assertEmpty(list(self.root.rglob("dataset_info.json")))

  def test_archive_of_another_format(self):
    self.refuses({"train_32x32.mat": b""}, "train.tar.gz holds no digitStruct")

  def test_unreadable_digit_struct(self):
    self.refuses({"digitStruct.mat": b"x" * 99}, "of .*train.tar.gz cannot be")

  def test_unknown_labels(self):
    for label in (0, 11, 2.5, np.nan):
      mat = digit_struct([("1.png", [DIGIT]), ("7.png", [(1, 1, 5, 5, label)])])
      self.refuses(
        {"digitStruct.mat": mat}, f"'7.png': labels must be 1 to 10.*{label}"
      )

  def test_two_entries_of_one_name(self):
    mat = digit_struct([("1.png", [DIGIT]), ("1.png", [DIGIT])])
    self.refuses({"digitStruct.mat": mat}, "'1.png': a second entry")

  def test_nothing_to_be_used(self):
    mat = digit_struct([("1.png", [DIGIT])])
    self.refuses({"digitStruct.mat": mat}, "train.tar.gz holds no number")

  def test_without_h5py(self):
    with (
      mock.patch.dict(sys.modules, {"h5py": None}),
      self.assertRaisesRegex(ImportError, "svhn needs h5py: pip install h5py"),
    ):
      svhn.read_digit_struct(b"", "train.tar.gz")


class CropBoxTest(absltest.TestCase):
  def test_boxes_without_a_crop(self):
    for boxes in (
      np.zeros((0, 4)),
      np.array([[np.nan, 1, 5, 5]]),
      np.array([[10, 10, 5, 0]]),
      np.array([[10, 10, -5, 5]]),
      np.array([[0, 60, 5, 5]]),
    ):
      self.assertIsNone(svhn.crop_box(boxes, 80, 60))

  def test_one_flat_box_among_others(self):
    boxes = np.array([[10, 10, 0, 20], [20, 10, 10, 20]])
    self.assertEqual(svhn.crop_box(boxes, 80, 60), (7, 7, 33, 33))


if __name__ == "__main__":
  absltest.main()
