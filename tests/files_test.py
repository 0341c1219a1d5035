"""Paths that users name, files written whole, and one process for each run."""

import contextlib
import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
from etils import epath
import numpy as np

from stnjax import files

HOLDER = """
import sys, time
from etils import epath
from stnjax import files
with files.claimed(epath.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(100)
"""


@contextlib.contextmanager
def held(folder):
  """Another process that claims a folder."""
  process = subprocess.Popen(
    [sys.executable, "-c", HOLDER, folder],
    stdout=subprocess.PIPE,
    cwd=pathlib.Path(__file__).parent.parent,
  )
  process.stdout.readline()
  try:
    yield process
  finally:
    process.kill()
    process.wait()
    process.stdout.close()


class PlaceTest(parameterized.TestCase):
  @parameterized.parameters(
    "http://host/runs",
    "https://host/runs",
    "ftp://host/runs",
    "file:///runs",
    "s3://bucket/runs",
    "GS://bucket/runs",
    "gs://",
    "gs:/bucket",
    "/gs/runs",
    "/s3/runs",
    "~no_such_user/runs",
    "",
    " ",
  )
  def test_what_is_not_accepted_is_named(self, path):
    with self.assertRaisesRegex(ValueError, "data_dir=.*accepted: a local fo"):
      files.place("data_dir", path)

  @parameterized.parameters(
    "rel",
    "rel/",
    "./rel//here",
    "rel/../rel2",
    "link/../rel2",
    "link/runs",
    "a[1]*?/runs",
    "none/../rel2",
    "/",
  )
  def test_a_local_folder_is_where_the_system_finds_it(self, path):
    root = pathlib.Path(self.create_tempdir().full_path)
    for name in ("rel", "far/away"):
      (root / name).mkdir(parents=True)
    (root / "link").symlink_to(root / "far" / "away")
    with contextlib.chdir(root):
      found = os.fspath(files.place("workdir", path))
      self.assertEqual(found, str(pathlib.Path(path).resolve()))

  def test_home_and_buckets(self):
    with mock.patch.dict(os.environ, {"HOME": "/home/somebody"}):
      found = os.fspath(files.place("workdir", "~/runs"))
    self.assertEqual(found, "/home/somebody/runs")
    found = os.fspath(files.place("workdir", "gs://bucket/runs/"))
    self.assertEqual(found, "gs://bucket/runs")


class WriteTest(absltest.TestCase):
  def test_a_full_disk_is_named(self):
    path = pathlib.Path(self.create_tempdir().full_path) / "file"
    path.symlink_to("/dev/full")
    with self.assertRaisesRegex(files.RunError, f"write {path}: No space left"):
      files.write(path, "text")

  def test_a_file_is_written_whole_or_stays(self):
    path = epath.Path(self.create_tempdir().full_path) / "file"
    files.write_whole(path, "before")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
      mock.patch.object(type(path), "write_bytes", side_effect=full),
      self.assertRaisesRegex(files.RunError, "cannot write .*file.*: No space"),
    ):
      files.write_whole(path, "after")
    self.assertEqual(path.read_text(), "before")

  def test_numbers_that_json_has_not_are_null(self):
    value = {"a": [1.5, np.nan, (-np.inf, 2)], "b": {"c": np.inf}, "d": "NaN"}
    found = json.loads(files.to_json(value), parse_constant=self.fail)
    expected = {"a": [1.5, None, [None, 2]], "b": {"c": None}, "d": "NaN"}
    self.assertEqual(found, expected)

  def test_checksums_are_those_of_sha256sum(self):
    folder = pathlib.Path(self.create_tempdir().full_path)
    (folder / "empty").write_text("")
    (folder / "full").write_bytes(bytes(range(256)))
    sums = files.checksums(epath.Path(folder), ["empty", "full"])
    expected = subprocess.run(
      ["sha256sum", "empty", "full"], cwd=folder, capture_output=True, text=True
    )
    self.assertEqual(sums, expected.stdout)


class ClaimTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.create_tempdir().full_path)
    self.folder = epath.Path(root) / "run"

  def test_another_process_is_kept_off_until_it_dies(self):
    with held(self.folder) as other:
      self.folder.joinpath("config.json").write_text("{}")
      told = f"another process is training {self.folder} .process {other.pid} "
      with self.assertRaisesRegex(files.RunError, told):
        files.claimed(self.folder).__enter__()
      other.send_signal(signal.SIGKILL)
      other.wait()
      self.assertTrue((self.folder / "lock").exists())
      with files.claimed(self.folder):
        pass
    self.assertEqual(os.listdir(self.folder), ["config.json"])

  def test_a_folder_that_stays_empty_is_removed(self):
    with files.claimed(self.folder):
      self.assertTrue(self.folder.exists())
      with self.assertRaisesRegex(files.RunError, "another process"):
        files.claimed(self.folder).__enter__()
    self.assertFalse(self.folder.exists())

  def test_a_file_system_without_locks_is_used_without(self):
    missing = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    with (
      mock.patch.object(files.fcntl, "flock", side_effect=missing),
      files.claimed(self.folder),
    ):
      self.assertTrue(self.folder.exists())

  def test_a_folder_that_cannot_be_made_is_named(self):
    epath.Path(self.folder).write_text("a file")
    with self.assertRaisesRegex(files.RunError, f"cannot write {self.folder}"):
      files.claimed(self.folder / "below").__enter__()


if __name__ == "__main__":
  absltest.main()
