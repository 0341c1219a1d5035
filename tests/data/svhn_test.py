"""SVHN, from tiny archives of the original format made here."""

import contextlib
import gzip
import io
import pathlib
import struct
import sys
import tarfile
from unittest import mock
import warnings
import zlib

from absl.testing import absltest, parameterized
import h5py
import numpy as np
from PIL import Image

from stnjax import data
from stnjax.data.house_numbers import BLANK
from stnjax.data.tfds_builders import svhn, writing
import stnjax.paper  # noqa: F401


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
    writing.prepare(
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
    cls.examples = data.load("svhn", "train", str(cls.root / "tfds"))

  def test_labels_are_padded_with_blank(self):
    b = BLANK
    self.assertEqual(
      self.examples.labels.tolist(),
      [
        [5, b, b, b, b],
        [1, 0, b, b, b],
        [3, b, b, b, b],
        [9, b, b, b, b],
        [6, 7, 8, 9, 0],
      ],
    )
    self.assertEqual(self.examples.labels.dtype, np.int32)
    self.assertEqual(self.examples.images.dtype, np.uint8)

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
      self.examples.images, [resized(crop) for crop in expected]
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
    split = data.find("svhn").train_split
    examples = data.load("svhn", split, str(self.root / "tfds"))
    self.assertEqual(examples.images.shape, (6, 64, 64, 3))
    self.assertEqual(examples.labels[5].tolist(), [4, 2, 10, 10, 10])
    np.testing.assert_array_equal(examples.images[:5], self.examples.images)
    with self.assertRaisesRegex(ValueError, "'extra.dev'.*train, extra, test"):
      data.load("svhn", "extra+dev", str(self.root / "tfds"))

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


def tar_header(name, size, kind=tarfile.REGTYPE):
  member = tarfile.TarInfo(f"train/{name}")
  member.size, member.type = size, kind
  return member.tobuf(tarfile.GNU_FORMAT)


def sparse_member(name, size):
  """A member of GNU tar that is one hole."""
  member = tarfile.TarInfo(f"train/{name}")
  member.type = tarfile.GNUTYPE_SPARSE
  header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
  header[483:495] = b"%011o\0" % size
  header[148:156] = b" " * 8
  header[148:156] = b"%06o\0 " % sum(header)
  return bytes(header)


class HarmfulTest(absltest.TestCase):
  """Archives that would hang, fill the memory or end in a traceback."""

  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    write_small(self.root, *svhn.SPLITS)

  def write(self, content):
    with gzip.open(self.root / "train.tar.gz", "wb") as file:
      file.write(content)

  def unpacked(self):
    """Of the training archive, without the blocks that end it."""
    with tarfile.open(self.root / "train.tar.gz") as archive:
      last = archive.getmembers()[-1]
    end = last.offset_data + -(-last.size // 512) * 512
    return gzip.decompress((self.root / "train.tar.gz").read_bytes())[:end]

  def refuses(self, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      prepare(self.root, self.root / "tfds")
    self.assertIn(str(self.root / "train.tar.gz"), str(caught.exception))
    self.assertNotIn("\n", str(caught.exception))

  def test_claims_of_a_terabyte(self):
    whole = self.unpacked()
    # An unknown type, the name of another member, a file to be skipped.
    for name, kind in (("2.png", b"0"), ("x", b"Z"), ("notes", b"0")):
      self.write(whole + tar_header(name, 2**40, kind) + bytes(2**14))
      self.refuses("damaged or incomplete.*claims 1,099,511,627,776 bytes")
    self.write(tar_header("digitStruct.mat", 2**40) + bytes(2**14))
    self.refuses("damaged or incomplete.*claims")

  def test_more_than_an_archive_can_hold(self):
    with mock.patch.object(svhn, "_ROOM", 2**20):
      self.write(
        tar_header("name", 2**23, tarfile.GNUTYPE_LONGNAME) + bytes(2**24)
      )
      self.refuses("unpacks to more than 1,048,576 bytes")

  def test_large_and_sparse_members_are_left_out(self):
    photograph = png(photo(1))
    mat = digit_struct([(f"{i}.png", [DIGIT]) for i in range(1, 6)])
    files = {"1.png": photograph, "3.png": bytes(5_000), "digitStruct.mat": mat}
    with tarfile.open(self.root / "train.tar.gz", "w") as archive:
      for name, content in files.items():
        member = tarfile.TarInfo(f"../{name}")  # no path is followed
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
      link = tarfile.TarInfo("train/4.png")
      link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
      archive.addfile(link)
      device = tarfile.TarInfo("train/5.png")
      device.type = tarfile.CHRTYPE
      archive.addfile(device)
    whole = (self.root / "train.tar.gz").read_bytes()
    self.write(sparse_member("2.png", 2**31) + whole)
    with mock.patch.object(svhn, "_LARGEST_PNG", len(photograph)):
      printed = prepare(self.root, self.root / "tfds")
    self.assertIn("3 left out, no plain file: 2.png, 4.png, 5.png", printed)
    self.assertRegex(printed, "1 left out, of more than .* bytes: 3.png")
    examples = data.load("svhn", "train", str(self.root / "tfds"))
    self.assertLen(examples.images, 1)

  def test_sparse_digit_struct(self):
    self.write(sparse_member("digitStruct.mat", 2**31) + self.unpacked())
    self.refuses("digitStruct.mat of .* is no plain file")

  def test_map_of_holes_that_breaks_off(self):
    header = bytearray(sparse_member("2.png", 2**31))
    header[482] = 1  # the map goes on
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    self.write(self.unpacked() + bytes(header))
    self.refuses("damaged or incomplete")

  def test_what_follows_a_broken_header_is_not_dropped(self):
    whole = bytearray(self.unpacked() + tar_header("2.png", 0) + bytes(1024))
    whole[-1024 - 300] ^= 1
    self.write(bytes(whole) + tar_header("3.png", 0))
    self.refuses("damaged or incomplete")

  def test_images_that_are_not_decoded(self):
    mat = digit_struct([(f"{i}.png", [DIGIT]) for i in range(1, 5)])
    bomb = bytearray(png(np.zeros((20, 20, 3), np.uint8)))
    bomb[16:24] = struct.pack(">II", 20_000, 20_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    deep = png(photo(1)[..., 0].astype(np.uint16) * 257)
    files = {"1.png": png(photo(1)), "2.png": bytes(bomb), "3.png": deep}
    files |= {"4.png": b"", "digitStruct.mat": mat, "x/digitStruct.mat": b""}
    write_archive(self.root / "train.tar.gz", files)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      printed = prepare(self.root, self.root / "tfds")
    for text in (
      "1 left out, of more than 67,108,864 pixels: 2.png",
      "1 left out, of more than 8 bits a channel: 3.png",
      "1 left out, broken PNG: 4.png",
      "1 left out, after the first of that name: digitStruct.mat",
    ):
      self.assertIn(text, printed)
    examples = data.load("svhn", "train", str(self.root / "tfds"))
    self.assertLen(examples.images, 1)

  def test_boxes_that_are_none(self):
    boxes = {
      "1.png": [DIGIT],
      "2.png": [(np.nan, 1, 5, 5, 1), DIGIT],
      "3.png": [(1, 1, np.inf, 5, 1), DIGIT],
      "4.png": [(10, 1, -5, 5, 1), DIGIT],
      "5.png": [(1e300, 1, 5, 5, 1)],
    }
    files = {name: png(photo(1)) for name in boxes}
    files["digitStruct.mat"] = digit_struct(boxes.items())
    write_archive(self.root / "train.tar.gz", files)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      printed = prepare(self.root, self.root / "tfds")
    self.assertIn(
      "4 left out, box without area or outside the image: 2.png, 3.png, 4.png,"
      " 5.png",
      printed,
    )


class DamagedStructTest(parameterized.TestCase):
  """A digitStruct.mat of which some entries are not as MATLAB writes them."""

  def read(self, change):
    """Reads three numbers after `change(file, names, groups)`."""
    two = [(10, 10, 8, 20, 4), (20, 10, 8, 20, 2)]
    entries = [("1.png", two), ("2.png", two), ("3.png", [DIGIT])]
    buffer = io.BytesIO(digit_struct(entries))
    with h5py.File(buffer, "r+") as file:
      names, groups = file["digitStruct/name"], file["digitStruct/bbox"]
      change(file, names, groups)
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
      numbers = svhn.read_digit_struct(buffer.getvalue(), "train.tar.gz")
    return numbers, printed.getvalue()

  @parameterized.named_parameters(
    ("null_name", lambda f, n, g: n.write_direct(null(3, n, 1))),
    ("null_box", lambda f, n, g: g.write_direct(null(3, g, 1))),
    ("null_digit", lambda f, n, g: set_field(f, g, "left", null(2))),
    ("field_missing", lambda f, n, g: f[g[1, 0]].__delitem__("label")),
    ("text", lambda f, n, g: set_field(f, g, "left", np.bytes_("x"))),
    ("complex", lambda f, n, g: set_field(f, g, "left", np.array([[1j]]))),
    ("too_few", lambda f, n, g: set_field(f, g, "left", np.array([[1.0]]))),
    ("none", lambda f, n, g: set_field(f, g, "left", np.zeros((0, 1)))),
    ("in_place", lambda f, n, g: set_field(f, g, "left", np.ones((2, 1)))),
    ("cycle", lambda f, n, g: set_field(f, g, "left", refs(g[1, 0], 2))),
    ("name_is_group", lambda f, n, g: n.__setitem__((1, 0), g[1, 0])),
    ("box_is_name", lambda f, n, g: g.__setitem__((1, 0), n[1, 0])),
    ("huge", lambda f, n, g: set_huge(f, g)),
  )
  def test_left_out_and_named(self, change):
    numbers, printed = self.read(change)
    self.assertEqual(list(numbers), ["1.png", "3.png"])
    self.assertEqual([n.digits for n in numbers.values()], [[4, 2], [3]])
    self.assertRegex(
      printed, "digitStruct.mat of train.tar.gz: 1 left out, .*(2.png|entry 2)"
    )

  @parameterized.named_parameters(
    ("lengths", lambda f, n, g: f.__setitem__("digitStruct/bbox", n[:2])),
    (
      "huge",
      lambda f, n, g: f.create_dataset(
        "digitStruct/bbox", (2**40, 1), h5py.ref_dtype, chunks=(1024, 1)
      ),
    ),
    ("group", lambda f, n, g: f.create_group("digitStruct/bbox")),
    ("missing", lambda f, n, g: None),
  )
  def test_refused_as_a_whole(self, change):
    def remove_and_change(file, names, groups):
      kept = names[()]
      del file["digitStruct/bbox"]
      change(file, kept, None)

    with self.assertRaisesRegex(ValueError, "of train.tar.gz cannot be read"):
      self.read(remove_and_change)


def null(count, dataset=None, row=None):
  """References of which one, or all, are null."""
  references = np.full((count, 1), h5py.Reference(), h5py.ref_dtype)
  if dataset is not None:
    references[:] = dataset[()]
    references[row] = h5py.Reference()
  return references


def refs(reference, count):
  return np.full((count, 1), reference, h5py.ref_dtype)


def set_field(file, groups, field, data):
  group = file[groups[1, 0]]
  del group[field]
  kind = h5py.ref_dtype if data.dtype == object else None
  group.create_dataset(field, data=data, dtype=kind)


def set_huge(file, groups):
  group = file[groups[1, 0]]
  del group["left"]
  group.create_dataset("left", (2**40, 1), np.float64, chunks=(1024, 1))


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
