"""Checkpoints: the saved state is restored, or an error is raised."""

import contextlib
import errno
import io
import logging
import os
import pathlib
import shutil
import subprocess
import sys
from unittest import mock

from absl.testing import absltest, parameterized
from etils import epath
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from stnjax.files import Damaged, RunError
from stnjax.training import checkpoints

RNG = np.random.default_rng(0)
ARRAYS = {
  ".params": RNG.normal(size=(7, 5)).astype(np.float32),
  ".half": np.asarray(jnp.arange(4.0, dtype=jnp.bfloat16)),
  ".zeros": np.zeros((40,), np.float32),
  ".step": np.asarray(10, np.int32),
}


def flip(path, place, bit):
  content = bytearray(path.read_bytes())
  content[place] ^= 1 << bit
  path.write_bytes(content)


def save_as_older_versions(folder, arrays):
  """Without checksums: by orbax alone."""
  folder.mkdir(parents=True)
  with ocp.CheckpointManager(epath.Path(folder)) as manager:
    manager.save(10, args=ocp.args.StandardSave(arrays))


class CheckpointsTest(parameterized.TestCase):
  def setUp(self):
    super().setUp()
    root = pathlib.Path(self.create_tempdir().full_path)
    self.folder = root / "checkpoints"
    self.kept = self.make()

  def make(self, folder=None):
    return checkpoints.Checkpoints(
      epath.Path(folder or self.folder), "name", [0]
    )

  def assert_restored(self, found, seconds=1.5):
    arrays, kept_seconds = found
    self.assertEqual(kept_seconds, seconds)
    self.assertEqual(set(arrays), set(ARRAYS))
    for name, array in ARRAYS.items():
      self.assertEqual(arrays[name].dtype, array.dtype)
      self.assertEqual(arrays[name].tobytes(), array.tobytes(), name)

  @parameterized.parameters(True, False)
  @pytest.mark.slow
  def test_a_flipped_bit_is_noticed_everywhere(self, with_sums):
    """In each file; without SHA256SUMS, by the checksum of the arrays."""
    self.kept.save(10, ARRAYS, 1.5)
    if not with_sums:
      (self.folder / "10" / "SHA256SUMS").unlink()
    refused = 0
    for path in sorted((self.folder / "10").rglob("*")):
      if not path.is_file():
        continue
      whole = path.read_bytes()
      count = 12 if with_sums else 6
      for i in range(count):
        flip(path, i * (len(whole) - 1) // (count - 1), i % 8)
        try:
          self.assert_restored(self.kept.restore(10, ARRAYS))
        except RunError as error:
          self.assertRegex(str(error), "checkpoints/10 cannot be read.*delete")
          refused += 1
        path.write_bytes(whole)
    self.assertGreater(refused, 10)
    self.assert_restored(self.kept.restore(10, ARRAYS))

  def test_older_versions_wrote_no_checksums(self):
    save_as_older_versions(self.folder, ARRAYS)
    with contextlib.redirect_stderr(io.StringIO()) as told:
      found = self.kept.restore(10, ARRAYS)
    self.assert_restored(found, seconds=0.0)
    (line,) = told.getvalue().splitlines()
    self.assertRegex(line, "^warning: .*checkpoints/10 has no checksum")
    self.kept.save(20, ARRAYS, 1.5)
    with contextlib.redirect_stderr(io.StringIO()) as told:
      self.assert_restored(self.kept.restore(20, ARRAYS))
    self.assertEmpty(told.getvalue())

  def test_without_checksum_what_is_not_finite_is_refused(self):
    wrong = {**ARRAYS, ".zeros": np.full((40,), np.nan, np.float32)}
    save_as_older_versions(self.folder, wrong)
    with self.assertRaisesRegex(RunError, "10 cannot be read.*not finite"):
      self.kept.restore(10, ARRAYS)

  def test_a_path_that_looks_like_a_pattern(self):
    kept = self.make(self.folder.parent / "a[1-3]*?" / "checkpoints")
    kept.save(10, ARRAYS, 1.5)
    kept.save(20, ARRAYS, 2.5)
    self.assertEqual(kept.last_step(), 20)
    self.assert_restored(kept.restore(10, ARRAYS))
    self.assert_restored(kept.restore(20, ARRAYS), 2.5)

  def test_a_missing_file_is_named(self):
    self.kept.save(10, ARRAYS, 1.5)
    shutil.rmtree(self.folder / "10" / "default" / "d")
    with self.assertRaisesRegex(
      RunError, r"\(\S+10/default/d/\S+ is missing\).*delete \S+/10 "
    ):
      self.kept.restore(10, ARRAYS)

  def test_what_cannot_be_listed_says_what_to_delete(self):
    self.folder.write_text("x")
    with self.assertRaisesRegex(
      Damaged, "cannot read .*checkpoints: Not a dir.*; delete it"
    ):
      self.kept.last_step()

  def test_damaged_metadata_prints_nothing(self):
    """Orbax logs an error, and restores all the same."""
    self.kept.save(10, ARRAYS, 1.5)
    (self.folder / "10" / "SHA256SUMS").unlink()
    for text in (b"", b"\xff", b'{"item_handlers": '):
      (self.folder / "10" / "_CHECKPOINT_METADATA").write_bytes(text)
      with self.assertNoLogs(level="ERROR"):
        self.assert_restored(self.kept.restore(10, ARRAYS))
    task = "Task exception was never retrieved\nfuture: <Task coro=<A() done, "
    with self.assertNoLogs("asyncio", level="ERROR"):
      logging.getLogger("asyncio").error(f"{task}defined at /orbax/a.py:1>")
    with self.assertLogs("asyncio", level="ERROR"):
      logging.getLogger("asyncio").error(f"{task}defined at /other/a.py:1>")

  def test_a_full_disk_is_named(self):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (
      mock.patch.object(ocp.CheckpointManager, "save", side_effect=full),
      self.assertRaisesRegex(
        RunError, "cannot write .*checkpoints/10: .*space"
      ),
    ):
      self.kept.save(10, ARRAYS, 1.5)

  @pytest.mark.slow
  def test_a_file_that_cannot_be_written_is_one_line_of_the_terminal(self):
    """Nothing of orbax's threads, which write the arrays."""
    script = """
import resource, sys
import numpy as np
from etils import epath
from stnjax.files import RunError
from stnjax.training import checkpoints
arrays = {f".{i}": np.random.default_rng(i).random(2000) for i in range(20)}
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
kept = checkpoints.Checkpoints(epath.Path(sys.argv[1]), "name", [0])
try:
  kept.save(10, arrays, 1.5)
except RunError as error:
  sys.exit(str(error))
"""
    result = subprocess.run(
      [sys.executable, "-c", script, self.folder],
      cwd=pathlib.Path(__file__).parent.parent.parent,
      capture_output=True,
      text=True,
    )
    told = [k for k in result.stderr.splitlines() if "WARNING" not in k]
    self.assertLen(told, 1, result.stderr)
    self.assertRegex(told[0], "cannot write .*checkpoints/10: File too large")

  def test_a_later_checkpoint_is_another_process(self):
    self.kept.save(20, ARRAYS, 1.5)
    self.kept.save(20, ARRAYS, 9.5)  # as before the evaluation
    self.assert_restored(self.kept.restore(20, ARRAYS))
    with self.assertRaisesRegex(RunError, "another process"):
      self.kept.save(10, ARRAYS, 1.5)


if __name__ == "__main__":
  absltest.main()
