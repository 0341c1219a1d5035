"""The benchmark of resizing: its implementations, its table, a small run."""

import json
import pathlib

from absl.testing import absltest, parameterized
import numpy as np
import pytest

from experiments.bench import resizing
from experiments.lib.tables import markdown
from tests import scripts


def photographs(dtype):
  return np.random.default_rng(0).integers(0, 256, (2, 9, 12, 3)).astype(dtype)


class ResizersTest(parameterized.TestCase):
  @parameterized.product(
    dtype=resizing.DTYPES, size=((4, 5), (18, 13), (3, 20))
  )
  def test_all_make_the_same_picture(self, dtype, size):
    built = {
      name: resizing.build(name, photographs(dtype), size)
      for name in resizing.available()
    }
    resizing.check_same_picture(built)
    self.assertIn("torch", built)
    for passes in built.values():
      result = np.asarray(passes["forward"]())
      self.assertEqual(result.dtype, dtype)
      self.assertEqual(result.shape, (2, *size, 3))

  def test_all_have_the_same_gradient(self):
    images, size = photographs("float32"), (4, 5)
    _, expected = resizing.build("torch", images, size)["image"]()
    expected = expected[0].movedim(1, -1)
    for name in ("stnjax", "jax.image"):
      _, (gradient, _) = resizing.build(name, images, size)["image"]()
      np.testing.assert_allclose(gradient, expected, atol=1e-5)

  def test_another_picture_is_noticed(self):
    passes = resizing.build("stnjax", photographs("float32"), (4, 5))
    other = {"forward": lambda: passes["forward"]() + 2}
    with self.assertRaisesRegex(RuntimeError, "peer makes another picture"):
      resizing.check_same_picture({"stnjax": passes, "peer": other})


class TableTest(absltest.TestCase):
  def test_times_and_ratios(self):
    case = {"shape": (1, 8, 9, 3), "output_shape": (4, 5), "dtype": "uint8"}
    case["pass"] = "forward"
    rows = [
      {**case, "peer": "stnjax", "seconds": [0.1, 0.2, 0.1]},
      {**case, "peer": "torch", "seconds": [0.2, 0.8, 0.3]},
    ]
    self.assertEqual(
      markdown(resizing.table(rows)).splitlines()[2:],
      ["| 1x8x9x3 | 4x5 | uint8 | forward | 100 | 3.00 (2.50 to 3.50) |"],
    )


class ScriptTest(parameterized.TestCase):
  @parameterized.parameters(
    ("1x8x8x1", "--cases='1x8x8x1' is not a case"),
    ("1x8x8x1:4", "--cases='1x8x8x1:4' is not a case"),
    ("8x8:4x4", "--shapes='8x8' is not a shape"),
  )
  def test_wrong_cases(self, value, message):
    with self.assertRaisesRegex(ValueError, message):
      resizing.parse([value])

  @pytest.mark.slow
  def test_small_run(self):
    output = self.create_tempdir().full_path
    flags = "--cases=2x8x8x1:4x5", "--rounds=3", f"--output={output}"
    done = scripts.run("bench_resizing", *flags)
    self.assertEqual(done.returncode, 0, done.stderr)
    folder = pathlib.Path(output)
    results = json.loads((folder / "bench_resizing.json").read_text())
    for row in results["rows"]:
      self.assertLen(row["seconds"], 3)
    text = (folder / "bench_resizing.md").read_text()
    self.assertEqual(text, markdown(resizing.table(results["rows"])) + "\n")


if __name__ == "__main__":
  absltest.main()
