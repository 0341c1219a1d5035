"""Data sets of one's own: checks, registry, arrays, held-out shares."""

import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import data
from stnjax.data import dataset as dataset_module
from stnjax.data import splitting
from stnjax.registry import Registry

IMAGES = np.zeros((6, 4, 5, 3), np.uint8)
LABELS = np.arange(6, dtype=np.int64) % 3


def dataset(images=IMAGES, labels=LABELS, **fields):
  """A data set that reads these arrays, whatever the split."""
  return data.Dataset(
    **{
      "name": "cells",
      "image_shape": (4, 5, 3),
      "num_classes": 3,
      "read": lambda split, data_dir: (images, labels),
    }
    | fields
  )


class DatasetTest(parameterized.TestCase):
  def test_labels_become_int32_and_a_split_and_folder_are_passed_on(self):
    calls = []

    def read(split, data_dir):
      calls.append((split, data_dir))
      return IMAGES, LABELS

    examples = dataset(read=read).load("dev", "/somewhere")
    self.assertEqual(calls, [("dev", "/somewhere")])
    self.assertEqual(examples.labels.dtype, np.int32)
    np.testing.assert_array_equal(examples.labels, LABELS)

  @parameterized.parameters(
    (IMAGES[:, :3], LABELS, r"images must be uint8 of shape \(N, 4, 5, 3\)"),
    (IMAGES.astype(np.float32), LABELS, "images must be uint8.*float32"),
    (IMAGES, LABELS[:5], r"labels must be .*\(6,\).*\(5,\)"),
    (IMAGES, LABELS[:, None], r"labels must be .*\(6,\).*\(6, 1\)"),
    (IMAGES, LABELS * 1.0, "labels must be integers.*float64"),
    (IMAGES, LABELS + 1, "labels must be 0 to 2, got 1 to 3"),
    (IMAGES, LABELS - 1, "labels must be 0 to 2, got -1 to 1"),
    (IMAGES[:0], LABELS[:0], "no images"),
  )
  def test_what_is_read_is_compared_with_the_description(
    self, images, labels, message
  ):
    with self.assertRaisesRegex(
      ValueError, f"dataset 'cells', split 'test': .*{message}"
    ):
      dataset(images, labels).load("test")

  def test_heads(self):
    both = np.stack([LABELS, LABELS], 1)
    self.assertEqual(dataset(labels=both, heads=2).load("x").labels.ndim, 2)
    with self.assertRaisesRegex(ValueError, r"labels must be .*\(6, 2\)"):
      dataset(heads=2).load("train")

  def test_a_reader_must_return_arrays(self):
    for wrong in (None, IMAGES, (IMAGES,), ([1], [2])):
      with self.assertRaisesRegex(TypeError, "must return arrays"):
        dataset(read=lambda *_, wrong=wrong: wrong).load("train")

  @parameterized.parameters(
    ({"image_shape": (4, 5)}, ValueError, "image_shape"),
    ({"image_shape": (4, 5, 0)}, ValueError, "image_shape"),
    ({"image_shape": (4, 5.0, 3)}, TypeError, "image_shape"),
    ({"num_classes": 1}, ValueError, "num_classes must be at least 2"),
    ({"heads": 0}, ValueError, "heads must be at least 1"),
    ({"class_names": ("a", "b")}, ValueError, "class_names has 2 names.*3"),
  )
  def test_descriptions_are_checked(self, fields, error, message):
    with self.assertRaisesRegex(error, message):
      dataset(**fields)

  def test_default_backbone(self):
    self.assertEqual(dataset().default_backbone("none"), "plain")
    by_name = dataset(backbone=lambda perturbation: f"for_{perturbation}")
    self.assertEqual(by_name.default_backbone("rotation"), "for_rotation")

  def test_normalisation_is_that_of_each_channel(self):
    images = np.random.default_rng(0).integers(0, 256, (2500, 3, 4, 2))
    images = images.astype(np.uint8)
    images[..., 1] //= 3
    mean, std = dataset().normalisation("rotation", images)
    values = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std((0, 1, 2)), rtol=1e-12)


class FindTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    registry = Registry("dataset")
    for name, value in data.DATASETS.items():
      registry.register(name, value)
    self.enter_context(mock.patch.object(dataset_module, "DATASETS", registry))
    self.registry = registry

  def test_a_set_of_one_s_own(self):
    self.registry.register("cells", dataset())
    self.assertEqual(data.find("cells").num_classes, 3)
    self.assertLen(data.load("cells", "train").images, 6)
    self.assertIsNone(data.find("cells").count("train", None))

  def test_a_description_that_depends_on_files(self):
    @self.registry.register("scans")
    def describe(data_dir, image_size):
      return dataset(name="scans", licence=f"{data_dir}, {image_size}")

    self.assertEqual(data.find("scans", "/x", 32).licence, "/x, 32")
    self.assertLen(data.load("scans", "train", "/x").images, 6)

  def test_image_size_of_a_set_of_fixed_size(self):
    square = dataset(image_shape=(4, 4, 3), images=IMAGES[:, :, :4])
    self.registry.register("square", square)
    self.assertIs(data.find("square", image_size=4), square)
    with self.assertRaisesRegex(ValueError, r"image_size=5 .*\(4, 4, 3\)"):
      data.find("square", image_size=5)
    for size, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
      with self.assertRaisesRegex(error, "image_size"):
        data.find("square", image_size=size)

  def test_unknown_names_list_the_known_ones(self):
    for name in ("cell", "", None, 3):
      with self.assertRaisesRegex(
        ValueError, "dataset=.* is unknown; accepted: .*folder.*tfds:NAME"
      ):
        data.find(name)


class ArraysTest(parameterized.TestCase):
  def test_splits_counts_and_names(self):
    train, test = (IMAGES, LABELS), (IMAGES[:2] + 7, LABELS[:2])
    made = data.from_arrays(
      "cells", train, test, class_names=("a", "b", "c"), licence="CC0"
    )
    self.assertEqual(made.image_shape, (4, 5, 3))
    self.assertEqual(made.num_classes, 3)
    self.assertEqual(made.class_names, ("a", "b", "c"))
    self.assertEqual(made.licence, "CC0")
    self.assertEqual(made.count("train", None), 6)
    examples = made.load("test")
    np.testing.assert_array_equal(examples.images, test[0])
    np.testing.assert_array_equal(examples.labels, test[1])
    with self.assertRaisesRegex(ValueError, "split='dev'.*train, test"):
      made.load("dev")

  @parameterized.parameters(
    ([[0, 255], [128, 7]], np.uint8, [[0, 255], [128, 7]]),
    ([[0, 255], [128, 7]], np.int64, [[0, 255], [128, 7]]),
    ([[0, 65535], [32768, 256]], np.uint16, [[0, 255], [128, 1]]),
    ([[False, True], [True, False]], np.bool_, [[0, 255], [255, 0]]),
    ([[0, 1], [0.5, 0.1]], np.float64, [[0, 255], [128, 26]]),
    ([[0, 1], [0.25, 0.75]], np.float16, [[0, 255], [64, 191]]),
    ([[0, 1], [0.25, 0.75]], jnp.bfloat16, [[0, 255], [64, 191]]),
  )
  def test_dtypes(self, pixels, dtype, expected):
    images = jnp.asarray if dtype == jnp.bfloat16 else np.asarray
    images = images(pixels).astype(dtype)[None].repeat(4, 0)
    made = data.from_arrays("x", (images, [0, 1, 0, 1]), (images, [1] * 4))
    found = made.load("train").images
    self.assertEqual((found.shape, found.dtype), ((4, 2, 2, 1), np.uint8))
    np.testing.assert_array_equal(found[3, ..., 0], expected)

  def test_several_heads(self):
    labels = np.stack([LABELS, LABELS + 4], 1)
    made = data.from_arrays("x", (IMAGES, labels), (IMAGES, labels))
    self.assertEqual((made.heads, made.num_classes), (2, 7))
    column = data.from_arrays("x", (IMAGES, LABELS[:, None]), (IMAGES, LABELS))
    self.assertEqual(column.heads, 1)

  @parameterized.parameters(
    ((IMAGES * 1.0 + 2, LABELS), ValueError, r"in \[0, 1\], got 2.0 to 2.0"),
    ((IMAGES * np.nan, LABELS), ValueError, r"in \[0, 1\], got nan"),
    ((IMAGES.astype(int) - 1, LABELS), ValueError, r"in \[0, 255\], got -1"),
    ((IMAGES + 0j, LABELS), TypeError, "complex"),
    ((IMAGES[0, 0], LABELS), ValueError, r"\[N, H, W, C\]"),
    ((IMAGES[:0], LABELS[:0]), ValueError, r"\[N, H, W, C\]"),
    ((IMAGES, LABELS * 1.0), TypeError, "labels must be integers"),
    ((IMAGES, LABELS[:3]), ValueError, "labels must be .* for 6 images"),
    ((IMAGES, LABELS - 1), ValueError, "labels must be 0 or more, got -1"),
    (IMAGES, TypeError, "a pair of images and labels"),
  )
  def test_what_is_refused_names_the_part(self, part, error, message):
    good = IMAGES, LABELS
    with self.assertRaisesRegex(error, f"'cells', train: .*{message}"):
      data.from_arrays("cells", part, good)
    with self.assertRaisesRegex(error, f"'cells', test: .*{message}"):
      data.from_arrays("cells", good, part)

  def test_splits_that_disagree(self):
    with self.assertRaisesRegex(ValueError, "images of test .*train"):
      data.from_arrays("x", (IMAGES, LABELS), (IMAGES[:, 1:], LABELS))
    with self.assertRaisesRegex(ValueError, "split 'test'.* 0 to 1, got 0 to"):
      data.from_arrays(
        "x", (IMAGES, LABELS % 2), (IMAGES, LABELS), num_classes=2
      )

    with self.assertRaisesRegex(ValueError, "test go up to 2.*up to 1"):
      data.from_arrays("x", (IMAGES, LABELS % 2), (IMAGES, LABELS))
    with self.assertRaisesRegex(ValueError, "2 names for labels 0 to 2"):
      data.from_arrays(
        "x", (IMAGES, LABELS), (IMAGES, LABELS), class_names=("a", "b")
      )

  def test_without_test_a_share_is_held_out_and_told_once(self):
    images = np.arange(60, dtype=np.uint8).reshape(60, 1, 1, 1)
    labels = np.arange(60) % 3
    with mock.patch("sys.stderr") as err:
      made = [data.from_arrays("cells", (images, labels)) for _ in range(2)]
    told = "".join(str(call.args[0]) for call in err.write.call_args_list)
    self.assertIn("'cells' has no test split: 6 of 60", told)
    self.assertEqual(told.count("cells"), 1)
    train, test = made[0].load("train"), made[0].load("test")
    self.assertEqual(np.bincount(test.labels).tolist(), [2, 2, 2])
    both = np.concatenate([train.images, test.images]).ravel()
    np.testing.assert_array_equal(np.sort(both), np.arange(60))
    np.testing.assert_array_equal(test.images.ravel() % 3, test.labels)
    again = made[1].load("test")
    np.testing.assert_array_equal(again.images, test.images)


class SplittingTest(parameterized.TestCase):
  @parameterized.parameters(
    ([1000, 500, 20],),
    ([10, 10],),
    ([15] * 7,),
    ([5] * 200,),
    ([3, 1, 1, 4],),
    ([1, 1, 2],),
    ([97, 11, 3, 1],),
  )
  def test_a_tenth_of_each_class_as_nearly_as_it_can_be(self, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(0).shuffle(labels)
    chosen = splitting.held_out(labels)
    self.assertEqual(chosen.sum(), splitting.held_out_count(len(labels)))
    of_class = np.bincount(labels[chosen], minlength=len(counts))
    share = splitting.held_out_count(len(labels)) / len(labels)
    self.assertLess(np.abs(of_class - share * np.array(counts)).max(), 1.0)
    self.assertTrue((of_class < counts).all())

  def test_it_does_not_depend_on_the_order_of_named_images(self):
    names = [f"picture{index}" for index in range(40)]
    labels = np.arange(40) % 4
    chosen = splitting.held_out(labels, names)
    order = np.random.default_rng(0).permutation(40)
    shuffled = splitting.held_out(labels[order], [names[i] for i in order])
    np.testing.assert_array_equal(shuffled, chosen[order])

  def test_it_is_no_pattern_of_the_index(self):
    chosen = np.flatnonzero(splitting.held_out(np.zeros(2000, int)))
    self.assertGreater(len(set(np.diff(chosen).tolist())), 15)
    self.assertAlmostEqual(chosen.mean(), 1000, delta=150)

  def test_classes_of_single_images(self):
    with self.assertRaisesRegex(ValueError, "too few to hold out a tenth"):
      splitting.held_out(np.arange(30))


class StratifiedTest(parameterized.TestCase):
  @parameterized.parameters(([70, 30],), ([40] * 5,), ([97, 11, 3, 1],))
  def test_any_first_images_have_all_classes_in_their_shares(self, counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    for order_of_labels in (0, 1):
      if order_of_labels:
        np.random.default_rng(0).shuffle(labels)
      order = splitting.stratified(labels)
      np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
      for count in (1, 10, 33, len(labels)):
        found = np.bincount(labels[order[:count]], minlength=len(counts))
        shares = count * np.array(counts) / len(labels)
        self.assertLess(np.abs(found - shares).max(), 1.5)
      for label in range(len(counts)):
        members = order[labels[order] == label]
        self.assertTrue((np.diff(members) > 0).all())

  def test_of_several_heads_the_first_counts(self):
    labels = np.stack([np.arange(40) % 4, np.arange(40) % 7], axis=1)
    np.testing.assert_array_equal(
      splitting.stratified(labels), splitting.stratified(labels[:, 0])
    )


class ImportTest(absltest.TestCase):
  def run_python(self, code):
    return subprocess.run(
      [sys.executable, "-c", code], capture_output=True, text=True
    )

  @pytest.mark.slow
  def test_reading_needs_neither_tensorflow_nor_opencv(self):
    done = self.run_python(
      "import sys\n"
      "sys.modules['cv2'] = None\n"
      "from stnjax import data, paper\n"
      "data.load('mnist_subset', 'test')\n"
      "assert 'tensorflow' not in sys.modules\n"
    )
    self.assertEqual((done.stdout, done.stderr), ("", ""))

  @pytest.mark.slow
  def test_importing_is_light_and_missing_packages_are_one_line(self):
    done = self.run_python(
      "import sys, stnjax.data\n"
      "from jax._src import xla_bridge\n"
      "heavy = {'tensorflow', 'tensorflow_datasets', 'PIL', 'matplotlib'}\n"
      "heavy |= {'flax', 'optax', 'absl'}\n"
      "print(heavy & set(sys.modules), xla_bridge._backends)\n"
      "sys.modules |= {'tensorflow_datasets': None, 'PIL': None}\n"
      "from stnjax import data, paper\n"
      "for name in ('mnist_subset', 'tfds:mnist', 'folder'):\n"
      "  try:\n"
      "    data.load(name, 'train', '/tmp')\n"
      "  except ImportError as error:\n"
      "    print(error)\n"
    )
    install = "pip install 'stnjax[experiments]'"
    self.assertEqual(
      done.stdout.splitlines(),
      [
        "set() {}",
        f"tensorflow_datasets is not installed; run: {install}",
        f"tensorflow_datasets is not installed; run: {install}",
        f"PIL is not installed; run: {install}",
      ],
      done.stderr,
    )


if __name__ == "__main__":
  absltest.main()
