"""Run folders: what is written comes back; what does not fit is refused."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from unittest import mock

from absl.testing import absltest
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import placement
from stnjax.files import RunError
from stnjax.training import config, optimisers, steps
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import files_test, toy_sets
from tests.training import nnx_backbone, toy_trainers

SETTINGS = Settings(network="STN-SL1", width=0.03125)
TASK = toy_sets.task_of(SETTINGS)


@functools.cache
def fresh_state(batch_norm=True, backbone=toy_trainers.BACKBONES["bare"]):
  """A state of the right shapes, of nothing but zeros."""

  def make():
    network = placement.create(
      backbone,
      "STN-SL1",
      placement.Task((28, 28, 1), 4),
      batch_norm=batch_norm,
      rngs=nnx.Rngs(0),
    )
    optimiser = optimisers.make_optimiser("adam", 1e-3, 10, network.placement)
    return steps.init_state(network, optimiser)

  return jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(make)
  )


def at_step(step, **options):
  return fresh_state(**options)._replace(step=jnp.int32(step))


def start(workdir, settings=SETTINGS, task=TASK, images=""):
  run = Run(workdir, settings)
  run.start(task, images)
  return run


def line(epoch):
  return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch}


class FolderTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.create_tempdir().full_path
    self.folder = pathlib.Path(self.workdir) / SETTINGS.name


class RunTest(FolderTest):
  def test_other_settings_are_refused_and_nothing_is_lost(self):
    run = start(self.workdir)
    run.append(line(1))
    other = dataclasses.replace(SETTINGS, epochs=7)
    self.assertEqual(other.name, SETTINGS.name)
    with self.assertRaisesRegex(RunError, "epochs: 30 there, 7 here"):
      Run(self.workdir, other)
    self.assertEqual(start(self.workdir).metrics(), [line(1)])

  def test_another_task_is_refused_and_nothing_is_lost(self):
    """The same settings, where a registered object has changed."""
    run = start(self.workdir, images="crc32 1")
    run.append(line(1))
    for changes in (
      {"num_classes": TASK.num_classes + 1, "class_names": ()},
      {"image_shape": (32, 32, 1)},
      {"axes": {}},
    ):
      other = dataclasses.replace(TASK, **changes)
      with self.assertRaisesRegex(RunError, "another task of mnist_subset"):
        start(self.workdir, task=other, images="crc32 1")
    self.assertEqual(config.read(self.folder).task, TASK)
    self.assertEqual(start(self.workdir).metrics(), [line(1)])

  def test_other_images_are_refused(self):
    start(self.workdir, images="crc32 1")
    start(self.workdir, images="crc32 1")
    with self.assertRaisesRegex(RunError, "other images of mnist_subset"):
      start(self.workdir, images="crc32 2")
    self.assertEqual(config.read(self.folder).images, "crc32 1")

  def test_a_foreign_folder_is_refused(self):
    self.folder.mkdir(parents=True)
    (self.folder / "thesis.txt").write_text("precious")
    with self.assertRaisesRegex(RunError, "is not a run folder"):
      start(self.workdir)
    self.assertEqual((self.folder / "thesis.txt").read_text(), "precious")

  def test_a_folder_that_a_kill_left_half_made_is_used(self):
    self.folder.mkdir(parents=True)
    (self.folder / "config.json.partial").write_text('{"net')
    start(self.workdir).append(line(1))
    self.assertEqual(config.read(self.folder).settings, SETTINGS)

  def test_a_workdir_that_is_a_file_is_refused(self):
    path = pathlib.Path(self.workdir) / "file"
    path.write_text("")
    with self.assertRaisesRegex(RunError, "cannot (use|write)"):
      start(str(path))

  def test_a_damaged_config_is_refused(self):
    start(self.workdir)
    (self.folder / "config.json").write_text("{")
    with self.assertRaisesRegex(RunError, "cannot read.*config.json"):
      start(self.workdir)

  def test_a_run_without_its_config_is_refused(self):
    start(self.workdir).append(line(1))
    (self.folder / "config.json").unlink()
    with self.assertRaisesRegex(RunError, "config.json is missing"):
      start(self.workdir)

  def test_looking_makes_no_folder(self):
    run = Run(self.workdir, SETTINGS)
    self.assertFalse(run.done)
    self.assertEqual(run.saved_step(), 0)
    self.assertFalse(self.folder.exists())

  def test_finish_marks_the_run_last(self):
    run = start(self.workdir)
    self.assertFalse(run.done)
    toy_sets.finish(run, error=0.5)
    self.assertTrue(run.done)
    self.assertEqual(run.results()["error"], 0.5)
    self.assertEqual(config.read(self.folder).settings, SETTINGS)

  def test_a_failure_keeps_its_reason(self):
    run = start(self.workdir)
    self.assertEqual(run.failed, "")
    run.fail("the loss is not finite")
    self.assertEqual(
      Run(self.workdir, SETTINGS).failed, "the loss is not finite"
    )

  @pytest.mark.slow
  def test_a_run_that_another_process_trains_is_refused(self):
    run = start(self.workdir)
    with files_test.held(self.folder) as other:
      told = f"another process is training {self.folder} .process {other.pid}"
      with self.assertRaisesRegex(RunError, told), run.claimed():
        pass
    with run.claimed():
      self.assertTrue((self.folder / "lock").exists())


class MetricsTest(FolderTest):
  @pytest.mark.slow
  def test_metrics_after_the_checkpoint_are_taken_back(self):
    run = start(self.workdir)
    for epoch in (1, 2, 3):
      run.append(line(epoch))
    run.save(at_step(20))
    with (self.folder / "metrics.jsonl").open("a") as file:
      file.write('{"epoch": 4, "st')  # cut off by a kill
    self.assertLen(run.metrics(), 3)
    run.restore(fresh_state())
    self.assertEqual(run.metrics(), [line(1), line(2)])
    run.append(line(3))
    self.assertEqual(run.metrics(), [line(1), line(2), line(3)])

  def test_two_writers_of_one_run_are_noticed(self):
    first, second = start(self.workdir), start(self.workdir)
    first.append(line(1))
    with self.assertRaisesRegex(RunError, "another process"):
      second.append(line(1))
    self.assertEqual(first.metrics(), [line(1)])

  def test_a_damaged_line_of_metrics_is_named(self):
    run = start(self.workdir)
    (self.folder / "metrics.jsonl").write_text("no json\n")
    with self.assertRaisesRegex(RunError, "cannot read.*metrics.jsonl"):
      run.metrics()


class CheckpointTest(FolderTest):
  @pytest.mark.slow
  def test_state_comes_back_to_the_bit(self):
    """Also that of layers which keep more than a batch norm does."""
    for backbone in (
      toy_trainers.BACKBONES["bare"],
      nnx_backbone.backbone,
    ):
      fresh = fresh_state(backbone=backbone)
      rng = np.random.default_rng(0)
      state = jax.tree.map(
        lambda x, rng=rng: jnp.asarray(rng.normal(0, 9, x.shape), x.dtype),
        fresh,
      )
      step = 20 if backbone is nnx_backbone.backbone else 10
      settings = dataclasses.replace(SETTINGS, seed=step)
      state = state._replace(step=jnp.int32(step))
      start(self.workdir, settings).save(state)
      back = start(self.workdir, settings).restore(fresh)
      self.assertEqual(jax.tree.structure(back), jax.tree.structure(state))
      for a, b in zip(*map(jax.tree.leaves, (back, state)), strict=True):
        np.testing.assert_array_equal(a, b)
        self.assertEqual(np.asarray(a).dtype, np.asarray(b).dtype)

  def test_without_a_checkpoint_a_run_starts_afresh(self):
    run, state = start(self.workdir), fresh_state()
    run.append(line(1))
    self.assertIs(run.restore(state), state)
    self.assertEmpty(run.metrics())

  def test_a_damaged_checkpoint_is_named_and_kept(self):
    run = start(self.workdir)
    for step in (10, 20):
      run.append(line(step // 10))
      run.save(at_step(step))
    folder = self.folder / "checkpoints" / "20"
    for path in folder.rglob("*"):
      if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    with self.assertRaisesRegex(RunError, "checkpoints/20 cannot be read"):
      run.restore(fresh_state())
    self.assertTrue(folder.exists())
    self.assertLen(run.metrics(), 2)
    # The message's advice works: the one before it takes over.
    folder.rename(self.folder / "damaged")
    self.assertEqual(int(run.restore(fresh_state()).step), 10)
    self.assertLen(run.metrics(), 1)

  @pytest.mark.slow
  def test_a_half_written_checkpoint_is_none(self):
    """A kill before it has its name leaves the one before, and no obstacle."""
    run, state = start(self.workdir), fresh_state()
    run.save(at_step(20))
    killed = mock.patch("os.rename", side_effect=OSError("killed"))
    with killed, self.assertRaisesRegex(Exception, "killed"):
      run.save(at_step(40))
    names = [path.name for path in (self.folder / "checkpoints").iterdir()]
    self.assertGreater(len(names), 1)
    run = start(self.workdir)
    self.assertEqual(run.saved_step(), 20)
    self.assertEqual(run.restore(state).step, 20)
    run.save(at_step(40))
    self.assertEqual(run.saved_step(), 40)
    self.assertEqual(run.restore(state).step, 40)

  def test_a_checkpoint_of_another_shape_is_refused(self):
    run = start(self.workdir)
    run.save(at_step(10))
    with self.assertRaisesRegex(RunError, "checkpoints/10 cannot be read"):
      run.restore(fresh_state(batch_norm=False))

  def test_the_step_of_the_last_checkpoint(self):
    run = start(self.workdir)
    self.assertEqual(run.saved_step(), 0)
    for step in (10, 20):
      run.save(at_step(step))
      self.assertEqual(run.saved_step(), step)
      self.assertEqual(Run(self.workdir, SETTINGS).saved_step(), step)

  def test_a_relative_workdir(self):
    with contextlib.chdir(self.workdir):
      start("here").save(at_step(10))
      self.assertEqual(int(start("here").restore(fresh_state()).step), 10)


if __name__ == "__main__":
  absltest.main()
