"""The benchmark of augmentation: its libraries, its table, and a small run."""

import json
import pathlib

from absl.testing import absltest, parameterized
import cv2
import numpy as np
import pytest

from experiments.bench import augmenting
from experiments.lib.tables import markdown
import stnjax
from stnjax import transforms
from tests import scripts

AVAILABLE = [
  name for name, peer in augmenting.AUGMENTERS.items() if peer.available()
]
SMALL = (4, 8, 9, 3)


def photographs(dtype):
  return np.random.default_rng(0).integers(0, 256, SMALL).astype(dtype)


class AugmentersTest(parameterized.TestCase):
  @parameterized.product(name=["stnjax", *AVAILABLE], dtype=augmenting.DTYPES)
  def test_each_call_draws_anew_in_the_dtype_of_the_images(self, name, dtype):
    call = augmenting.build(name, photographs(dtype))
    first, second = np.asarray(call()), np.asarray(call())
    for result in (first, second):
      self.assertEqual(result.dtype, dtype)
      self.assertEqual(result.shape, SMALL)
      self.assertBetween(result.max(), 1, 255)
    self.assertGreater((first != second).mean(), 0.5)

  @parameterized.parameters(*AVAILABLE)
  def test_as_much_of_the_images_is_inside(self, name):
    shape = (256, 16, 20, 1)
    share = augmenting.share_inside("stnjax", shape)
    self.assertAlmostEqual(
      augmenting.share_inside(name, shape), share, delta=0.03
    )

  def test_the_matrices_of_opencv_do_to_it_what_they_do_here(self):
    (image, *_), (height, width) = photographs("float32"), SMALL[1:3]
    matrix = augmenting.draw_matrix(np.random.default_rng(0), height, width)
    expected = cv2.warpAffine(image, matrix, (width, height))
    theta = transforms.from_opencv(matrix, (height, width))
    # OpenCV 4 rounds places to 1/32 pixel.
    np.testing.assert_allclose(stnjax.warp(image, theta), expected, atol=12)


class TableTest(absltest.TestCase):
  def test_rates_and_ratios(self):
    case = {"shape": (100, 8, 8, 5), "dtype": "uint8"}
    rows = [
      {**case, "peer": "stnjax", "seconds": [0.1, 0.2, 0.1]},
      {**case, "peer": "kornia", "seconds": [0.2, 0.8, 0.3]},
      {**case, "dtype": "float32", "peer": "stnjax", "seconds": [0.2]},
    ]
    self.assertEqual(
      markdown(augmenting.table(rows)).splitlines()[2:],
      [
        "| 100x8x8x5 | uint8 | 1,000 | 3.00 (2.50 to 3.50) |",
        "| 100x8x8x5 | float32 | 500 | – |",
      ],
    )

  def test_opencv_is_left_out_where_it_takes_no_such_channels(self):
    *_, rows = augmenting.measure_all([(2, 4, 4, 5)], ["uint8"], ["opencv"], 1)
    self.assertEqual([row["peer"] for row in rows], ["stnjax"])


class ScriptTest(absltest.TestCase):
  @pytest.mark.slow
  def test_small_run(self):
    output = self.create_tempdir().full_path
    flags = "--shapes=2x8x8x1", "--rounds=3", "--peers=opencv"
    done = scripts.run("bench_augmentation", *flags, f"--output={output}")
    self.assertEqual(done.returncode, 0, done.stderr)
    folder = pathlib.Path(output)
    results = json.loads((folder / "bench_augmentation.json").read_text())
    self.assertEqual(results["machine"]["backend"], "cpu")
    found = [(row["dtype"], row["peer"]) for row in results["rows"]]
    expected = [(d, p) for d in augmenting.DTYPES for p in ("stnjax", "opencv")]
    self.assertCountEqual(found, expected)
    for row in results["rows"]:
      self.assertLen(row["seconds"], 3)
      self.assertGreater(min(row["seconds"]), 0)
    text = (folder / "bench_augmentation.md").read_text()
    self.assertEqual(text, markdown(augmenting.table(results["rows"])) + "\n")


if __name__ == "__main__":
  absltest.main()
