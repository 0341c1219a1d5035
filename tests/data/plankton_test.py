"""PlanktonSet, from tiny folders made here."""

import contextlib
import io
import os
import pathlib
import re
import struct
import sys
import warnings

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image

from stnjax import data
from stnjax.data.tfds_builders import plankton, writing
from stnjax.paper.datasets import fit_plankton


def write_jpeg(path, seed, width=40, height=30, mode="L"):
  """Writes a photograph, and returns what is read from it in grey."""
  path.parent.mkdir(parents=True, exist_ok=True)
  shape = (6, 8) if mode == "L" else (6, 8, 3)
  small = np.random.default_rng(seed).integers(0, 255, shape, np.uint8)
  Image.fromarray(small).resize((width, height)).save(path, "JPEG")
  return np.asarray(Image.open(path).convert("L"))


def prepare(manual_dir, data_dir):
  """Prepares, and returns the builder and what was printed."""
  printed = io.StringIO()
  builder = plankton.Plankton(
    data_dir=str(data_dir), file_format="array_record"
  )
  with contextlib.redirect_stderr(printed):
    writing.prepare(builder, str(manual_dir))
  return builder, printed.getvalue()


class PlanktonTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)
    self.data_dir = str(self.root / "tfds")

  @parameterized.parameters("train", ".")
  def test_images_and_labels(self, below):
    manual = self.root / "manual"
    folder = manual / below
    photos = {}
    sizes = [(40, 30), (30, 40), (200, 50), (1, 30), (95, 95)]
    for label, name in enumerate(("amphipods", "copepod", "unknown")):
      for index in range(5):
        path = folder / name / f"{label}{index}.jpg"
        pixels = write_jpeg(path, 5 * label + index, *sizes[index])
        photos[fit_plankton(pixels[..., None]).tobytes()] = label
    builder, printed = prepare(manual, self.data_dir)
    self.assertIn("3 classes in", printed)
    self.assertIn("PlanktonSet 1.0 has 121", printed)
    found = {}
    for split, count in (("train", 12), ("test", 3)):
      examples = data.load("plankton", split, self.data_dir)
      self.assertEqual(examples.images.shape, (count, 95, 95, 1))
      self.assertEqual(np.bincount(examples.labels).tolist(), [count // 3] * 3)
      found |= {
        image.tobytes(): label
        for image, label in zip(examples.images, examples.labels, strict=True)
      }
    self.assertEqual(found, photos)
    self.assertEqual(
      builder.info.features["label"].names, ["amphipods", "copepod", "unknown"]
    )
    self.assertNotIn("tensorflow", sys.modules)

  def test_original_pixels_are_stored(self):
    pixels = [
      write_jpeg(self.root / "in" / "a" / f"{i}.jpg", i, 41, 29 + i)
      for i in range(2)
    ]
    builder, _ = prepare(self.root / "in", self.data_dir)
    stored = [
      builder.as_data_source(split=split)[0]["image"][..., 0]
      for split in ("train", "test")
    ]
    for image in stored:
      np.testing.assert_array_equal(image, pixels[len(image) - 29])

  def test_one_in_ten_of_each_class_is_for_testing(self):
    sizes = {"one": 1, "two": 2, "nine": 9, "nineteen": 19, "thirty": 30}
    for name, count in sizes.items():
      for index in range(count):
        write_jpeg(self.root / "in" / name / f"{name}{index}.jpg", index)
    tests = []
    for data_dir in ("a", "b"):
      builder, _ = prepare(self.root / "in", self.root / data_dir)
      source = builder.as_data_source(split="test")
      tests.append([source[i] for i in range(len(source))])
      # The files are found in another order when they are written anew.
      for path in sorted((self.root / "in" / "thirty").iterdir(), reverse=True):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    names = builder.info.features["label"].names
    labels = [names[example["label"]] for example in tests[0]]
    counts = {name: labels.count(name) for name in sizes}
    self.assertEqual(
      counts, {"one": 0, "two": 1, "nine": 1, "nineteen": 1, "thirty": 3}
    )
    for first, second in zip(*tests, strict=True):
      np.testing.assert_array_equal(first["image"], second["image"])
    self.assertEqual(builder.info.splits["train"].num_examples, 61 - 6)

  def test_what_is_no_grey_jpeg_is_named(self):
    folder = self.root / "in" / "train"
    for index in range(4):
      write_jpeg(folder / "a" / f"{index}.jpg", index)
    coloured = write_jpeg(folder / "b" / "red.JPEG", 4, mode="RGB")
    write_jpeg(folder / "b" / "grey.jpg", 5)
    broken = folder / "a" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-100])
    (folder / "a" / "3.jpg").write_bytes(b"no JPEG")
    (folder / "a" / "Thumbs.db").write_bytes(b"x")
    (folder / "list.csv").write_bytes(b"x")
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    (folder / "texts" / "read.me").write_bytes(b"x")
    builder, printed = prepare(self.root / "in", self.data_dir)
    for text in (
      "1 left out, in no folder of a class: list.csv",
      "2 left out, no JPEG: a/Thumbs.db, texts/read.me",
      "2 left out, a folder without JPEGs: empty, texts",
      "1 in colour, converted to grey: b/red.JPEG",
      "2 classes",
    ):
      self.assertIn(text, printed)
    # Of either split.
    for name in ("a/2.jpg", "a/3.jpg"):
      self.assertRegex(printed, f"left out, broken JPEG: .*{name}")
    self.assertEqual(builder.info.features["label"].names, ["a", "b"])
    images = [
      image.tobytes()
      for split in ("train", "test")
      for image in data.load("plankton", split, self.data_dir).images
    ]
    self.assertLen(images, 4)
    self.assertIn(fit_plankton(coloured[..., None]).tobytes(), images)

  def test_files_that_are_not_decoded(self):
    folder = self.root / "in"
    for index in range(3):
      write_jpeg(folder / "a" / f"{index}.jpg", index)
      write_jpeg(folder / "b" / f"b{index}.jpg", 3 + index)
    bomb = bytearray((folder / "a" / "0.jpg").read_bytes())
    start = bomb.index(b"\xff\xc0") + 5  # height and width of the frame
    bomb[start : start + 4] = struct.pack(">HH", 20_000, 20_000)
    (folder / "a" / "bomb.jpg").write_bytes(bomb)
    (folder / "a" / "empty.jpg").write_bytes(b"")
    Image.new("L", (9, 9)).save(folder / "a" / "png.jpg", "PNG")
    Image.new("L", (9, 9)).save(folder / "a" / "jpg.png", "JPEG")
    Image.new("CMYK", (9, 9)).save(folder / "a" / "print.jpg", "JPEG")
    (folder / "a" / ".DS_Store").write_bytes(b"x")
    (folder / "a" / "._0.jpg").write_bytes(b"x")
    (folder / "a" / "new\nline.jpg").write_bytes(b"x")
    (folder / "a" / "folder.jpg").mkdir()
    (folder / "a" / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "a" / "loop.jpg").symlink_to(folder / "a" / "loop.jpg")
    (folder / "a" / "up").symlink_to(folder)
    os.mkfifo(folder / "a" / "pipe.jpg")
    (folder / "again").symlink_to(folder / "b")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / ".DS_Store").write_bytes(b"x")
    write_jpeg(folder / ".copies" / "0.jpg", 0)
    with warnings.catch_warnings():
      warnings.simplefilter("error")
      builder, printed = prepare(folder, self.data_dir)
    for text in (
      "2 left out, in no folder of a class: .DS_Store, loop\n",
      "1 left out, a folder of a hidden name: .copies\n",
      "1 left out, a link to another class: b\n",
      "7 left out, no JPEG: a/.DS_Store, a/folder.jpg, a/gone.jpg, a/jpg.png,"
      " a/loop.jpg, a/pipe.jpg, a/up\n",
      "1 left out, a file of a hidden name: a/._0.jpg\n",
      "1 left out, a file of an unprintable name: 'a/new\\nline.jpg'\n",
      "1 left out, of more than 67,108,864 pixels: a/bomb.jpg\n",
      "1 in colour, converted to grey: a/print.jpg\n",
      "2 classes in",
    ):
      self.assertIn(text, printed)
    broken = ", ".join(re.findall("left out, broken JPEG: (.*)", printed))
    self.assertCountEqual(broken.split(", "), ["a/empty.jpg", "a/png.jpg"])
    # The folder comes first by its name.
    self.assertEqual(builder.info.features["label"].names, ["a", "again"])
    counts = [split.num_examples for split in builder.info.splits.values()]
    self.assertEqual(sum(counts), 3 + 3 + 1)

  def test_more_classes_than_known(self):
    for index in range(122):
      write_jpeg(self.root / "in" / f"class{index}" / "0.jpg", 0)
    with self.assertRaisesRegex(ValueError, "122 folders.*at most 121"):
      prepare(self.root / "in", self.data_dir)

  def test_refused(self):
    folder = self.root / "in"
    folder.mkdir()
    (folder / "train.zip").write_bytes(b"")
    with self.assertRaisesRegex(ValueError, "holds no folders of JPEGs.*zip"):
      prepare(folder, self.data_dir)
    write_jpeg(folder / "a" / "1.jpg", 0)
    with self.assertRaisesRegex(
      ValueError, "no class in .* has the two images"
    ):
      prepare(folder, self.data_dir)
    write_jpeg(folder / "a" / "2.jpg", 0)
    for name in "12":
      (folder / "a" / f"{name}.jpg").write_bytes(b"x")
    with self.assertRaisesRegex(ValueError, "all of its 1 JPEGs are broken"):
      prepare(folder, self.data_dir)


class FitTest(parameterized.TestCase):
  @parameterized.parameters((40, 95), (95, 40), (190, 10), (3, 500), (95, 95))
  def test_against_pillow(self, height, width):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (height, width, 1), np.uint8)
    fitted = fit_plankton(image)
    self.assertEqual((fitted.shape, fitted.dtype), ((95, 95, 1), np.uint8))
    longest = max(height, width)
    h, w = (
      max(1, round(95 * height / longest)),
      max(1, round(95 * width / longest)),
    )
    expected = np.asarray(
      Image.fromarray(255 - image[..., 0]).resize((w, h), 2)
    )
    top, left = (95 - h) // 2, (95 - w) // 2
    inside = np.zeros((95, 95), bool)
    inside[top : top + h, left : left + w] = True
    np.testing.assert_array_equal(fitted[inside, 0], expected.ravel())
    self.assertFalse(fitted[~inside].any())

  def test_a_white_ground_becomes_black(self):
    image = np.full((20, 30, 1), 255, np.uint8)
    self.assertFalse(fit_plankton(image).any())


if __name__ == "__main__":
  absltest.main()
