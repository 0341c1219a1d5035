"""The command line that lists and prepares data sets."""

import contextlib
import importlib.util
import io
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from unittest import mock

from absl.testing import absltest
import numpy as np
from PIL import Image
import pytest

from stnjax import data
from stnjax.data import __main__ as command
from tests.data import tiny_sets


def run(*arguments):
  """Runs the command; its exit status, stdout and stderr."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = command.main(arguments)
  return code, out.getvalue(), err.getvalue()


class PrepareTest(absltest.TestCase):
  def test_prepares(self):
    root = self.create_tempdir()
    for index in range(4):
      path = root.create_file(f"train/copepod/{index}.jpg").full_path
      Image.new("L", (40, 30), index).save(path)
    data_dir = f"{root.full_path}/tfds"
    arguments = (
      "prepare",
      "--dataset=plankton",
      f"--manual_dir={root.full_path}",
      f"--data_dir={data_dir}",
    )
    code, out, err = run(*arguments)
    self.assertEqual(code, 0, err)
    self.assertEqual(
      out,
      f"plankton prepared in {data_dir}/plankton/1.0.0: 3 train, 1 test\n",
    )
    self.assertLen(data.load("plankton", "train", data_dir).images, 3)
    # No bars of progress in a log, and no folder for downloads.
    self.assertNotIn("\r", err)
    self.assertEqual(os.listdir(data_dir), ["plankton"])
    code, out, _ = run(*arguments)
    self.assertIn("plankton was there already in", out)

  def test_sets_of_tfds(self):
    # A builder of TFDS that needs neither a download nor TensorFlow.
    root = self.create_tempdir().full_path
    self.assertEqual(tiny_sets.TinyFlowers.name, "tiny_flowers")
    with mock.patch.object(importlib.util, "find_spec"):
      code, out, err = run(
        "prepare", "--dataset=tfds:tiny_flowers", f"--data_dir={root}"
      )
    self.assertEqual(code, 0, err)
    self.assertIn("tiny_flowers prepared in", out)
    self.assertLen(data.load("tfds:tiny_flowers", "train", root).images, 12)

  def test_without_tensorflow(self):
    find = importlib.util.find_spec
    with mock.patch.object(
      importlib.util,
      "find_spec",
      lambda name, *rest: None if name == "tensorflow" else find(name, *rest),
    ):
      for name in ("mnist", "tfds:mnist"):
        code, _, err = run("prepare", f"--dataset={name}")
        self.assertEqual(code, 1)
        self.assertRegex(err, r"error: .*tensorflow: pip .*stnjax\[prepare\]")

  def test_data_dir_that_is_none(self):
    root = self.create_tempdir()
    file = root.create_file("manual/x").full_path
    damaged = root.create_file("tfds/svhn/1.0.0/svhn-train").full_path
    for data_dir, message in (
      ("http://a/b", "data_dir='http://a/b' is not supported; accepted"),
      (file, f"data_dir='{file}' is a file"),
      (
        f"{root.full_path}/tfds",
        f"{damaged.removesuffix('svhn-train')}dataset_info.json is missing",
      ),
    ):
      code, _, err = run(
        "prepare",
        "--dataset=svhn",
        f"--manual_dir={root.full_path}/manual",
        f"--data_dir={data_dir}",
      )
      self.assertEqual(code, 1)
      self.assertStartsWith(err, f"error: {message}")
      self.assertEqual(err.count("\n"), 1)

  def test_mistakes_are_one_line(self):
    root = self.create_tempdir()
    root.create_file("in/x")
    needs = "dataset 'svhn' needs manual_dir .*train.tar.gz"
    below = "/proc/x/svhn/1.0.0 cannot be written .*choose another data_dir"
    for flags, message in (
      (["svhn"], needs),
      (["svhn", "--manual_dir="], needs),
      (["svhn", "--manual_dir=~nobody-here/x"], "manual_dir='~nobody-here/x'"),
      (
        ["svhn", f"--manual_dir={root.full_path}/in", "--data_dir=/proc/x"],
        below,
      ),
      (["svnh"], "dataset='svnh' is unknown; accepted: .*svhn"),
      (["folder"], "dataset 'folder' needs data_dir"),
      (["tfds:"], "dataset='tfds:' is unknown; accepted: tfds:NAME"),
    ):
      name, *rest = flags
      code, _, err = run("prepare", f"--dataset={name}", *rest)
      self.assertEqual(code, 1)
      self.assertRegex(err, f"^error: {message}.*\n$")

  def test_interrupted(self):
    root = pathlib.Path(self.create_tempdir().full_path)
    for split in ("train", "test", "extra"):
      os.mkfifo(root / f"{split}.tar.gz")  # opening one waits for a writer
    stopped = []

    def stop():
      deadline = time.monotonic() + 60
      while time.monotonic() < deadline and not stopped:
        stopped.extend(root.glob("tfds/svhn/incomplete.*"))
        time.sleep(0.05)
      os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=stop)
    stopper.start()
    code, _, err = run(
      "prepare",
      "--dataset=svhn",
      f"--manual_dir={root}",
      f"--data_dir={root}/tfds",
    )
    stopper.join()
    self.assertLen(stopped, 1)
    self.assertEqual(code, 128 + signal.SIGTERM)
    self.assertRegex(err, "(^|\n)interrupted; svhn was not prepared.*\n$")
    self.assertEmpty(list(root.glob("tfds/svhn/*")))
    self.assertIs(signal.getsignal(signal.SIGTERM), before)

  @pytest.mark.slow
  def test_as_a_command(self):
    done = subprocess.run(
      [sys.executable, "-m", "stnjax.data", "prepare", "--dataset=svhn"],
      capture_output=True,
      text=True,
    )
    self.assertEqual((done.returncode, done.stdout), (1, ""))
    self.assertRegex(done.stderr, "^error: dataset 'svhn' needs manual_dir.*")


class ListTest(absltest.TestCase):
  def test_every_set_once_with_its_shape(self):
    code, out, _ = run("list")
    self.assertEqual(code, 0)
    names = [line.split()[0] for line in out.splitlines()]
    self.assertContainsSubset(
      ["folder", "mnist", "synthetic_digits", "tfds:NAME"], names
    )
    self.assertNotIn("street_digits", names)
    self.assertLen(set(names), len(names))
    self.assertRegex(out, r"plankton +95x95x1 +121 classes")

  def test_sets_of_other_modules(self):
    folder = self.create_tempdir()
    folder.create_file(
      "tiny_cells.py",
      "import numpy as np\n"
      "from stnjax import data\n"
      "part = np.zeros((4, 9, 8, 3), np.uint8), np.arange(4) % 2\n"
      "cells = data.from_arrays('tiny_cells', part, part)\n"
      "data.DATASETS.register('tiny_cells', cells)\n",
    )
    self.addCleanup(data.DATASETS._objects.pop, "tiny_cells", None)
    with mock.patch.object(sys, "path", [folder.full_path, *sys.path]):
      code, out, _ = run("--imports=tiny_cells", "list")
    self.assertEqual(code, 0)
    self.assertRegex(out, r"tiny_cells +9x8x3 +2 classes")
    self.assertEqual(
      np.asarray(data.load("tiny_cells", "test").labels).tolist(), [0, 1, 0, 1]
    )


if __name__ == "__main__":
  absltest.main()
