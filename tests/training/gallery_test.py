"""Warped images by epoch: kept while training, taken back, and checked."""

import numpy as np
import pytest

from stnjax.files import Damaged, RunError
from stnjax.training import gallery, records
from stnjax.training.run_folder import Run
from tests import toy_sets
from tests.training import run_folder_test


def shown(epoch):
  return np.full((2, 3, 3, 1), epoch, np.uint8)


def keep(run, *epochs):
  for epoch in epochs:
    run.append(run_folder_test.line(epoch))
    run.keep_images(epoch, shown(epoch))


def assert_kept(folder, *epochs):
  found = gallery.read(folder)
  assert list(found) == [*epochs]
  for epoch in epochs:
    np.testing.assert_array_equal(found[epoch], shown(epoch))


@pytest.mark.parametrize("epochs", [1, 2, 6, 15, 300])
def test_first_and_last_epochs_are_shown(epochs):
  found = gallery.epochs_shown(epochs)
  assert (found[0], found[-1]) == (1, epochs)
  assert list(found) == sorted(set(found)) and len(found) <= 6


def test_images_after_the_checkpoint_are_taken_back(tmp_path):
  run = run_folder_test.start(str(tmp_path))
  keep(run, 1, 2, 3)
  assert_kept(run.path, 1, 2, 3)
  run.save(run_folder_test.at_step(20))
  run.restore(run_folder_test.fresh_state())
  assert_kept(run.path, 1, 2)
  keep(run, 3)
  assert_kept(run.path, 1, 2, 3)


def test_without_a_checkpoint_none_are_left(tmp_path):
  run = run_folder_test.start(str(tmp_path))
  keep(run, 1)
  run.restore(run_folder_test.fresh_state())
  assert_kept(run.path)


def test_a_damaged_file_is_named_before_training(tmp_path):
  run = run_folder_test.start(str(tmp_path))
  (run.path / gallery.NAME).write_bytes(b"PK")
  with pytest.raises(RunError, match="gallery.npz is damaged.*; delete"):
    run.restore(run_folder_test.fresh_state())


@pytest.mark.parametrize(
  "arrays",
  [
    {"epoch": np.array([1])},
    {"epoch": np.array([1, 2]), "images": np.stack([shown(1)])},
    {"epoch": np.array([1, 1]), "images": np.stack([shown(1)] * 2)},
    {"epoch": np.array([1.0]), "images": np.stack([shown(1)])},
    {"epoch": np.array([1]), "images": np.stack([shown(1) / 255])},
    {"epoch": np.array([1]), "images": shown(1)[..., 0]},
  ],
)
def test_arrays_of_another_form_are_named(arrays, tmp_path):
  np.savez(tmp_path / gallery.NAME, **arrays)
  run = Run(str(tmp_path), run_folder_test.SETTINGS)
  with pytest.raises(Damaged, match="gallery.npz is damaged"):
    gallery.read(run.path.parent)


def test_a_finished_run_has_its_checksum(tmp_path):
  run = run_folder_test.start(str(tmp_path))
  run.keep_images(1, shown(1))
  toy_sets.finish(run)
  records.read(run.path)
  gallery.write(run.path, {1: shown(2)})
  with pytest.raises(Damaged, match="gallery.npz is damaged: its checksum"):
    records.read(run.path)
