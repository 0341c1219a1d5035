"""Folders of pictures by class, made here."""

import contextlib
import io
import pathlib
import unicodedata

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
from scipy import ndimage

from stnjax import data
from stnjax.data import images


def noise(seed, height=6, width=8, mode="RGB"):
  """A picture at random."""
  shape = (height, width, len(mode)) if len(mode) > 1 else (height, width)
  pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return Image.fromarray(pixels, mode if mode in ("LA", "CMYK") else None)


class FolderTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = pathlib.Path(self.create_tempdir().full_path)

  def write(self, name, image, **options):
    path = self.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path

  def write_two_classes(self, count=2, splits=("train", "test")):
    for split in splits:
      for label, name in enumerate(("cat", "dog")):
        for index in range(count):
          self.write(f"{split}/{name}/{index}.png", noise(100 * label + index))

  def find(self, **options):
    """Finds the folder; the data set and what was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
      found = data.find("folder", str(self.root), **options)
    return found, printed.getvalue()

  def refuses(self, message, *, error=ValueError, image_size=None):
    with self.assertRaisesRegex(error, message) as caught:
      data.load("folder", "train", str(self.root), image_size)
    self.assertNotIn("\n", str(caught.exception))
    return str(caught.exception)

  def test_images_labels_and_names(self):
    self.write_two_classes()
    found, printed = self.find()
    self.assertEqual(printed, "")
    self.assertEqual(found.image_shape, (6, 8, 3))
    self.assertEqual(found.class_names, ("cat", "dog"))
    self.assertTrue(found.needs_files(None))
    for split in ("train", "test"):
      examples = data.load("folder", split, str(self.root))
      self.assertEqual(examples.labels.tolist(), [0, 0, 1, 1])
      self.assertEqual(found.count(split, None), 4)
      expected = [np.asarray(noise(seed)) for seed in (0, 1, 100, 101)]
      np.testing.assert_array_equal(examples.images, expected)
    with self.assertRaisesRegex(ValueError, "split='dev'.*train, test"):
      found.load("dev")

  def test_another_folder_than_the_one_that_was_described(self):
    self.write_two_classes()
    found, _ = self.find()
    self.assertLen(found.load("train", f"{self.root}/").images, 4)
    with self.assertRaisesRegex(
      ValueError, "data_dir='/tmp' is not the folder"
    ):
      found.load("train", "/tmp")

  @parameterized.parameters((24, 12), (10, 31), (16, 16), (3, 40), (9, 2))
  def test_pictures_of_other_sizes_are_whole_and_on_black(self, height, width):
    # A bright picture, and an independent idea of where it must be.
    ones = Image.fromarray(np.full((height, width), 255, np.uint8))
    for name in ("a", "b"):
      self.write(f"train/{name}/0.png", ones)
      self.write(f"test/{name}/0.png", ones)
    image = data.load("folder", "train", str(self.root), 16).images[0]
    self.assertEqual(image.shape, (16, 16, 1))
    scale = 16 / max(height, width)
    rows, columns = (max(1, round(n * scale)) for n in (height, width))
    centre = ndimage.center_of_mass(image[..., 0])
    np.testing.assert_allclose(centre, 7.5, atol=0.5)
    self.assertEqual((image == 255).sum(), rows * columns)
    self.assertEqual((image == 0).sum(), 256 - rows * columns)

  def test_resizing_averages(self):
    steps = np.random.default_rng(0).integers(0, 2, (64, 64), np.uint8) * 255
    for name in ("a", "b"):
      self.write(f"train/{name}/0.png", Image.fromarray(steps))
      self.write(f"test/{name}/0.png", Image.fromarray(steps))
    small = data.load("folder", "test", str(self.root), 8).images[0, ..., 0]
    blocks = steps.reshape(8, 8, 8, 8).mean((1, 3))
    self.assertGreater(np.corrcoef(small.ravel(), blocks.ravel())[0, 1], 0.8)
    self.assertLess(small.std(), 20)  # single pixels: 127

  def test_sizes_that_differ_ask_for_image_size(self):
    self.write_two_classes()
    self.write("train/dog/large.png", noise(0, 7, 8))
    self.refuses(r"2 sizes, such as 6x8 \(.*\) and 7x8 \(.*image_size")
    found, _ = self.find(image_size=5)
    self.assertEqual(found.image_shape, (5, 5, 3))

  def test_grey_only_if_all_are(self):
    palette = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8))
    for name in ("a", "b"):
      self.write(f"train/{name}/l.png", noise(0, mode="L"))
      self.write(f"train/{name}/la.png", noise(0, mode="LA"))
      self.write(f"train/{name}/bits.png", noise(0, mode="L").convert("1"))
      self.write(f"test/{name}/p.png", palette.convert("P"))
    self.assertEqual(self.find()[0].image_shape, (6, 8, 1))
    p = data.load("folder", "test", str(self.root)).images[0, ..., 0]
    np.testing.assert_array_equal(p, np.asarray(palette))
    self.write("test/a/colour.jpg", noise(0))
    self.assertEqual(self.find()[0].image_shape, (6, 8, 3))
    grey = data.load("folder", "train", str(self.root)).images
    np.testing.assert_array_equal(grey, grey[..., :1].repeat(3, -1))

  def test_modes_are_converted(self):
    rgba, la = noise(1, mode="RGBA"), noise(2, mode="LA")
    colours = noise(4).quantize(7)
    cmyk = noise(5, mode="CMYK")
    deep = np.random.default_rng(6).integers(0, 2**16, (6, 8), np.uint16)
    for name in ("a", "b"):
      self.write(f"train/{name}/0.png", rgba)
      self.write(f"train/{name}/1.png", la)
      self.write(f"train/{name}/2.png", colours)
      self.write(f"train/{name}/3.jpg", cmyk, quality=100)
      self.write(f"train/{name}/4.png", Image.fromarray(deep))
      self.write(f"test/{name}/0.png", noise(0))
    images = data.load("folder", "train", str(self.root)).images[:5]
    values = np.asarray(rgba, np.float64)
    on_black = values[..., :3] * values[..., 3:] / 255
    np.testing.assert_allclose(images[0], on_black, atol=1)
    values = np.asarray(la, np.float64)
    on_black = values[..., :1] * values[..., 1:] / 255
    np.testing.assert_allclose(images[1], on_black.repeat(3, -1), atol=1)
    np.testing.assert_array_equal(images[2], colours.convert("RGB"))
    decoded = Image.open(self.root / "train/a/3.jpg").convert("RGB")
    np.testing.assert_array_equal(images[3], decoded)
    np.testing.assert_array_equal(images[4], np.stack([deep // 256] * 3, -1))

  def test_a_transparent_palette(self):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 10, 20, 30, 40, 50])
    image.putdata([0, 1])
    for name in ("train/a", "train/b", "test/a"):
      self.write(f"{name}/0.png", image, transparency=0)
    found = data.load("folder", "train", str(self.root)).images[0]
    np.testing.assert_array_equal(found, [[[0, 0, 0], [30, 40, 50]]])

  def test_exif_orientation_is_applied(self):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) * 5)
    for name in ("a", "b"):
      self.write(f"train/{name}/0.png", picture, exif=exif)
      self.write(f"test/{name}/0.png", noise(0, 8, 6, "L"))
    found = data.load("folder", "train", str(self.root)).images[0, ..., 0]
    np.testing.assert_array_equal(found, np.rot90(picture, -1))

  def test_without_test_a_share_is_held_out_and_told(self):
    self.write_two_classes(10, splits=("train",))
    found, printed = self.find()
    self.assertRegex(printed, "has no test/, so 2 of 20 pictures are held out")
    train, test = found.load("train"), found.load("test")
    self.assertEqual(np.bincount(train.labels).tolist(), [9, 9])
    self.assertEqual(np.bincount(test.labels).tolist(), [1, 1])
    both = [i.tobytes() for part in (train, test) for i in part.images]
    self.assertLen(set(both), 20)
    # The share stays the same as pictures of another class come and go.
    np.testing.assert_array_equal(
      self.find()[0].load("test").images, test.images
    )

  def test_classes_without_train(self):
    for label, name in enumerate("ab"):
      for index in range(10):
        self.write(f"{name}/{index}.png", noise(10 * label + index))
    found, printed = self.find()
    self.assertIn("held out", printed)
    self.assertEqual(found.class_names, ("a", "b"))
    self.assertEqual(found.count("train", None), 18)
    (self.root / "notes").mkdir()
    self.refuses("no PNG or JPEG in .*/notes")

  def test_broken_pictures_are_all_named(self):
    self.write_two_classes(5)
    (self.root / "train/cat/1.png").write_bytes(b"no picture")
    (self.root / "test/dog/0.png").write_bytes(b"")
    message = self.refuses("2 of 20 pictures cannot be used")
    self.assertIn("train/cat/1.png (broken PNG)", message)
    self.assertIn("test/dog/0.png (broken PNG)", message)
    # Of others, the header is whole.
    self.write("train/cat/1.png", noise(0))
    self.write("test/dog/0.png", noise(0))
    for name in ("train/cat/0.png", "train/dog/4.png"):
      path = self.root / name
      path.write_bytes(path.read_bytes()[:-40])
    message = self.refuses("2 of 10 pictures cannot be used")
    self.assertIn("cat/0.png", message)
    self.assertIn("dog/4.png", message)

  def test_pictures_that_are_too_large(self):
    self.write_two_classes()
    side = int(images.MAX_PIXELS**0.5) + 1
    self.write("train/cat/bomb.png", Image.new("1", (side, side)))
    self.refuses("bomb.png .of more than 67,108,864 pixels")

  def test_names_of_any_kind(self):
    names = ("Zebra", "a b", "été", "日本", "[x]*", "zèbre", "100%")
    for name in names:
      self.write(
        f"train/{unicodedata.normalize('NFD', name)}/é 1.PNG", noise(0)
      )
      self.write(f"train/{unicodedata.normalize('NFD', name)}/b.JPeg", noise(1))
      self.write(f"test/{unicodedata.normalize('NFC', name)}/x.jpg", noise(0))
    found, printed = self.find()
    self.assertEqual(printed, "")
    self.assertEqual(found.class_names, tuple(sorted(names)))
    self.assertEqual(found.load("test").labels.tolist(), list(range(7)))
    self.assertEqual(found.count("train", None), 14)
    self.write(f"train/{unicodedata.normalize('NFC', 'été')}/0.png", noise(0))
    self.refuses("two folders of the name 'été'")

  def test_contents_decide_not_suffixes(self):
    self.write_two_classes()
    self.write("train/cat/really_jpeg.png", noise(0), format="JPEG")
    self.write("train/cat/really_png.jpg", noise(0), format="PNG")
    self.assertLen(data.load("folder", "train", str(self.root)).images, 6)

  def test_other_files_are_left_out_and_told(self):
    self.write_two_classes()
    for name in (".DS_Store", "train/.hidden/x.png", "train/cat/._0.png"):
      path = self.root / name
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(b"x")
    for name in ("train/list.csv", "train/dog/Thumbs.db", "readme.txt"):
      (self.root / name).write_bytes(b"x")
    self.write("train/cat/more/0.png", noise(0))
    self.write("val/cat/0.png", noise(0))
    found, printed = self.find()
    self.assertEqual(found.count("train", None), 4)
    for line in (
      "1 left out, in no folder of a class: list.csv",
      "2 left out, neither PNG nor JPEG: cat/more, dog/Thumbs.db",
      "2 left out, neither train/ nor test/: readme.txt, val",
    ):
      self.assertIn(line, printed)
    self.assertNotIn("hidden", printed)
    self.assertNotIn("._0", printed)
    self.assertEqual(self.find()[1], "")  # told once

  def test_folders_that_are_refused(self):
    with self.assertRaisesRegex(ValueError, "needs data_dir .--data_dir=...."):
      data.find("folder")
    with self.assertRaisesRegex(FileNotFoundError, "data_dir='.*none'.*train"):
      data.find("folder", f"{self.root}/none")
    self.refuses("holds no folders of pictures.*train/<class>")
    (self.root / "train").mkdir()
    self.refuses("holds no folders of pictures")
    self.write("train/0.png", noise(0))  # "train" may be a class
    self.refuses("train holds no folders of pictures")
    (self.root / "train/cat").mkdir()
    self.refuses("holds no folders of pictures")
    self.write("train/cat/0.png", noise(0))
    self.write("train/cat/1.png", noise(0))
    self.refuses("pictures of one class, cat; accepted: at least two")
    (self.root / "train/dog").mkdir()
    self.refuses("no PNG or JPEG in .*train/dog")
    self.write("train/dog/0.png", noise(0))
    (self.root / "test").mkdir()
    self.refuses("test holds no folders of pictures")
    self.write("test/cat/0.png", noise(0))
    self.assertLen(data.load("folder", "train", str(self.root)).images, 3)
    self.write("test/bird/0.png", noise(0))
    self.refuses("test has classes that train/ lacks: bird")

  def test_a_class_that_only_train_has(self):
    self.write_two_classes()
    self.write("train/ant/0.png", noise(0))
    found, _ = self.find()
    self.assertEqual(found.class_names, ("ant", "cat", "dog"))
    self.assertEqual(found.load("test").labels.tolist(), [1, 1, 2, 2])

  def test_without_train(self):
    self.write("test/cat/0.png", noise(0))
    self.refuses("has test/, but no train/")


if __name__ == "__main__":
  absltest.main()
