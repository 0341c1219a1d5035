"""Sets of TFDS by "tfds:NAME", prepared here with TFDS's own writer."""

import contextlib
import io
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
from PIL import Image
import tensorflow_datasets as tfds

from stnjax import data
from tests.data import tiny_sets

IMAGE, LABEL = tiny_sets.IMAGE, tiny_sets.LABEL
TEXT = tfds.features.Text()
INTEGER = tfds.features.Scalar(np.int64)


def encoded(image, kind="PNG"):
  file = io.BytesIO()
  image.save(file, kind)
  return file.getvalue()


def small_set(name, features, examples, splits=("train", "test"), **options):
  """A builder of a set that holds these examples in each split."""

  class Small(tiny_sets.Stock, skip_registration=True):
    VERSION = tfds.core.Version(options.get("version", "1.0.0"))
    SPLITS = splits
    FEATURES = features

    def _info(self):
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        supervised_keys=options.get("supervised_keys"),
      )

    def _generate_examples(self):
      yield from enumerate(examples)

  Small.name = name
  return Small


def coloured(count, height=5, width=5):
  noise = np.random.default_rng(0)
  shape = (count, height, width, 3)
  return noise.integers(0, 256, shape, np.uint8)


class NameTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    self.root = self.create_tempdir().full_path

  def prepare(self, *arguments, **options):
    with contextlib.redirect_stderr(io.StringIO()):
      return tiny_sets.prepare(self.root, small_set(*arguments, **options))

  def find(self, name, image_size=None):
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
      found = data.find(name, self.root, image_size)
    return found, printed.getvalue()

  def test_described_by_its_features(self):
    tiny_sets.prepare(self.root, tiny_sets.TinyFlowers)
    found, printed = self.find("tfds:tiny_flowers")
    self.assertEqual(printed, "")
    self.assertEqual(found.name, "tfds:tiny_flowers")
    self.assertEqual(found.image_shape, (9, 8, 3))
    self.assertEqual(found.class_names[3], "flower3")
    self.assertEqual(found.count("test", self.root), 12)
    self.assertEqual(found.count("train", None), 12)  # where it was found
    images = coloured(12, 9, 8)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 9, 8, 3), np.uint8)
    expected = {image.tobytes(): n % 10 for n, image in enumerate(images)}
    for version in ("", ":1.2.0"):
      examples = data.load(f"tfds:tiny_flowers{version}", "train", self.root)
      self.assertEqual(tiny_sets.labels_by_image(examples), expected)

  def test_versions(self):
    for version, level in (("1.0.0", 10), ("1.10.0", 20), ("1.9.0", 30)):
      image = Image.new("L", (4, 4), level)
      self.prepare(
        "grey",
        {"image": IMAGE(shape=(4, 4, 1)), "label": LABEL(num_classes=2)},
        [{"image": encoded(image), "label": label} for label in (0, 1)],
        version=version,
      )
    for name, level in (("tfds:grey", 20), ("tfds:grey:1.9.0", 30)):
      images = data.load(name, "train", self.root).images
      self.assertEqual(np.unique(images), level)
    with self.assertRaisesRegex(FileNotFoundError, "'grey' is not prepared"):
      self.find("tfds:grey:2.0.0")

  def test_configurations(self):
    folder = self.prepare(
      "noisy",
      {"image": IMAGE(shape=(4, 4, 1)), "label": LABEL(num_classes=2)},
      [{"image": encoded(Image.new("L", (4, 4))), "label": n} for n in (0, 1)],
    )
    below = folder.parent / "strong" / folder.name
    below.parent.mkdir()
    folder.rename(below)
    self.assertLen(data.load("tfds:noisy/strong", "test", self.root).images, 2)
    with self.assertRaisesRegex(
      FileNotFoundError, "--dataset=tfds:noisy/weak --data_dir"
    ):
      self.find("tfds:noisy/weak")

  def test_features_of_other_names_and_types(self):
    pixels = coloured(4)
    self.prepare(
      "birds",
      {"id": INTEGER, "photo": IMAGE(shape=(5, 5, 3)), "species": INTEGER},
      [
        {"id": 70 + n, "photo": encoded(Image.fromarray(p)), "species": n}
        for n, p in enumerate(pixels)
      ],
      supervised_keys=("photo", "species"),
    )
    found, _ = self.find("tfds:birds")
    self.assertEqual(found.num_classes, 4)  # counted
    self.assertEqual(found.class_names, ())
    expected = {image.tobytes(): n for n, image in enumerate(pixels)}
    examples = found.load("test", self.root)
    self.assertEqual(tiny_sets.labels_by_image(examples), expected)

  def test_images_of_several_sizes_and_modes(self):
    images = [
      Image.fromarray(coloured(1, 8, 4)[0]),
      Image.fromarray(coloured(1, 6, 6)[0]).convert("CMYK"),
      Image.fromarray(coloured(1, 4, 8)[0]).convert("L"),
    ]
    self.prepare(
      "mixed",
      {"image": IMAGE(shape=(None, None, 3)), "label": LABEL(num_classes=3)},
      [
        {"image": encoded(image, kind), "label": n}
        for n, (image, kind) in enumerate(
          zip(images, ("PNG", "JPEG", "JPEG"), strict=True)
        )
      ],
    )
    with self.assertRaisesRegex(ValueError, "several sizes; give image_size"):
      self.find("tfds:mixed")
    found, _ = self.find("tfds:mixed", 4)
    self.assertEqual(found.image_shape, (4, 4, 3))
    examples = found.load("train")
    by_label = dict(zip(examples.labels.tolist(), examples.images, strict=True))
    narrow = images[0].resize((2, 4), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(by_label[0][:, 1:3], narrow)
    self.assertFalse(by_label[0][:, [0, 3]].any())
    grey = by_label[2]
    np.testing.assert_array_equal(grey, grey[..., :1].repeat(3, -1))

  def test_image_size_of_a_set_of_one_size(self):
    tiny_sets.prepare(self.root, tiny_sets.TinyFlowers)
    found, _ = self.find("tfds:tiny_flowers", 6)
    self.assertEqual(found.load("train").images.shape, (12, 6, 6, 3))

  def test_without_test_a_share_is_held_out_and_told(self):
    pixels = coloured(40)
    self.prepare(
      "trees",
      {"image": IMAGE(shape=(5, 5, 3)), "label": LABEL(num_classes=4)},
      [
        {"image": encoded(Image.fromarray(p)), "label": n % 4}
        for n, p in enumerate(pixels)
      ],
      splits=("train", "validation"),
    )
    found, printed = self.find("tfds:trees")
    self.assertRegex(printed, "no split 'test' .*validation.*4 of 40 training")
    train, test = found.load("train"), found.load("test")
    self.assertEqual(np.bincount(test.labels).tolist(), [1, 1, 1, 1])
    self.assertEqual(found.count("train", None), len(train.labels))
    self.assertEqual(found.count("test", None), len(test.labels))
    both = [i.tobytes() for part in (train, test) for i in part.images]
    self.assertCountEqual(both, [p.tobytes() for p in pixels])
    for read in (found.load, lambda split: found.count(split, None)):
      with self.assertRaisesRegex(
        ValueError, "split='validation'.*train, test"
      ):
        read("validation")

  def test_sets_that_are_no_image_classification(self):
    png = encoded(Image.new("L", (4, 4)))
    image, label = IMAGE(shape=(4, 4, 1)), LABEL(num_classes=2)
    for name, features, example, message in (
      (
        "words",
        {"text": TEXT, "label": label},
        {"text": "a"},
        "images ..? amo",
      ),
      (
        "pixels",
        {"image": image, "text": TEXT},
        {"text": "a"},
        "labels ..? am",
      ),
      (
        "pair",
        {"left": image, "right": image, "label": label},
        {"left": png, "right": png},
        "images .'left', 'right'.",
      ),
    ):
      example = {"image": png, "label": 1, **example}
      example = {key: example[key] for key in features}
      self.prepare(name, features, [example])
      with self.assertRaisesRegex(
        ValueError, f"{name}' is not an image classification set.*{message}"
      ):
        self.find(f"tfds:{name}")
    self.prepare(
      "dev_only",
      {"image": image, "label": label},
      [{"image": png, "label": 1}],
      splits=("dev",),
    )
    with self.assertRaisesRegex(ValueError, "no split 'train', but dev"):
      self.find("tfds:dev_only")

  def test_damage_is_named(self):
    folder = tiny_sets.prepare(self.root, tiny_sets.TinyFlowers)
    found, _ = self.find("tfds:tiny_flowers")
    path = next(pathlib.Path(folder).glob("*train*"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with self.assertRaisesRegex(ValueError, f"{path}.*remove its folder"):
      found.load("train")
    (folder / "features.json").write_text("{")
    with self.assertRaisesRegex(ValueError, "features.json.*remove its folder"):
      self.find("tfds:tiny_flowers")

  @parameterized.parameters(
    "tfds:", "tfds:a b", "tfds:/x", "tfds:x:1", "tfds:x/"
  )
  def test_other_names(self, name):
    with self.assertRaisesRegex(ValueError, f"'{name}'.*tfds:NAME/CONFIG"):
      self.find(name)

  def test_a_set_that_is_not_prepared(self):
    with self.assertRaisesRegex(
      FileNotFoundError,
      f"stnjax.data prepare --dataset=tfds:flags --data_dir={self.root}",
    ):
      self.find("tfds:flags")


if __name__ == "__main__":
  absltest.main()
