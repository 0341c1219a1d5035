"""Run folders: settings, metrics, checkpoints, and what must be refused."""

import contextlib
import dataclasses
import os
import pathlib

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from stnjax import networks, runs, training

SETTINGS = runs.Settings(network="STN-SL1", filters=(2, 2))


def fresh_state(batch_norm=True):
  network = networks.create(
    "STN-SL1", filters=(2, 2), batch_norm=batch_norm, rngs=nnx.Rngs(0)
  )
  optimiser = training.make_optimiser("adam", 1e-3, 10)
  return training.init_state(network, optimiser)[1]


def start(workdir, settings=SETTINGS):
  run = runs.Run(workdir, settings)
  run.start()
  return run


def line(epoch):
  return {"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / epoch}


class RunTest(absltest.TestCase):
  def setUp(self):
    super().setUp()
    self.workdir = self.create_tempdir().full_path
    self.folder = pathlib.Path(self.workdir) / SETTINGS.name

  def test_state_comes_back_to_the_bit(self):
    run, state = start(self.workdir), fresh_state()
    rng = np.random.default_rng(0)
    state = jax.tree.map(
      lambda x: jnp.asarray(rng.normal(0, 9, x.shape), x.dtype), state
    )._replace(step=jnp.int32(20))
    run.save(state)
    back = start(self.workdir).restore(fresh_state())
    self.assertEqual(jax.tree.structure(back), jax.tree.structure(state))
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(state), strict=True):
      np.testing.assert_array_equal(a, b)
      self.assertEqual(np.asarray(a).dtype, np.asarray(b).dtype)

  def test_without_a_checkpoint_a_run_starts_afresh(self):
    run, state = start(self.workdir), fresh_state()
    run.append(line(1))
    self.assertIs(run.restore(state), state)
    self.assertEmpty(run.metrics())

  def test_metrics_after_the_checkpoint_are_taken_back(self):
    run = start(self.workdir)
    for epoch in (1, 2, 3):
      run.append(line(epoch))
    run.save(fresh_state()._replace(step=jnp.int32(20)))
    with (self.folder / "metrics.jsonl").open("a") as file:
      file.write('{"epoch": 4, "st')  # cut off by a kill
    self.assertLen(run.metrics(), 3)
    run.restore(fresh_state())
    self.assertEqual(run.metrics(), [line(1), line(2)])
    run.append(line(3))
    self.assertEqual(run.metrics(), [line(1), line(2), line(3)])

  def test_other_settings_are_refused_and_nothing_is_lost(self):
    run = start(self.workdir)
    run.append(line(1))
    other = dataclasses.replace(SETTINGS, epochs=7)
    self.assertEqual(other.name, SETTINGS.name)
    with self.assertRaisesRegex(runs.RunError, "epochs: 30 there, 7 here"):
      runs.Run(self.workdir, other)
    self.assertEqual(start(self.workdir).metrics(), [line(1)])

  def test_a_foreign_folder_is_refused(self):
    self.folder.mkdir(parents=True)
    (self.folder / "thesis.txt").write_text("precious")
    with self.assertRaisesRegex(runs.RunError, "is not a run folder"):
      start(self.workdir)
    self.assertEqual((self.folder / "thesis.txt").read_text(), "precious")

  def test_a_folder_that_a_kill_left_half_made_is_used(self):
    self.folder.mkdir(parents=True)
    (self.folder / "config.json.partial").write_text('{"net')
    start(self.workdir).append(line(1))
    self.assertEqual(runs.read_settings(self.folder), SETTINGS)

  def test_a_workdir_that_is_a_file_is_refused(self):
    path = pathlib.Path(self.workdir) / "file"
    path.write_text("")
    with self.assertRaisesRegex(runs.RunError, "cannot (use|write)"):
      start(str(path))

  def test_a_damaged_config_is_refused(self):
    start(self.workdir)
    (self.folder / "config.json").write_text("{")
    with self.assertRaisesRegex(runs.RunError, "cannot read.*config.json"):
      start(self.workdir)
    with self.assertRaisesRegex(runs.RunError, "cannot read.*config.json"):
      runs.read_settings(self.folder)

  def test_a_damaged_checkpoint_is_named_and_kept(self):
    run = start(self.workdir)
    for step in (10, 20):
      run.append(line(step // 10))
      run.save(fresh_state()._replace(step=jnp.int32(step)))
    folder = self.folder / "checkpoints" / "20"
    for path in folder.rglob("*"):
      if path.is_file():
        os.truncate(path, path.stat().st_size // 2)
    with self.assertRaisesRegex(runs.RunError, "checkpoints/20 cannot be read"):
      run.restore(fresh_state())
    self.assertTrue(folder.exists())
    self.assertLen(run.metrics(), 2)
    # The message's advice works: the one before it takes over.
    folder.rename(self.folder / "damaged")
    self.assertEqual(int(run.restore(fresh_state()).step), 10)
    self.assertLen(run.metrics(), 1)

  def test_a_checkpoint_of_another_shape_is_refused(self):
    run = start(self.workdir)
    run.save(fresh_state(batch_norm=True)._replace(step=jnp.int32(10)))
    with self.assertRaisesRegex(runs.RunError, "checkpoints/10 cannot be read"):
      run.restore(fresh_state(batch_norm=False))

  def test_finish_marks_the_run_last(self):
    run = start(self.workdir)
    self.assertFalse(run.done)
    run.finish({"label": np.arange(3)}, {"error": 0.5})
    self.assertTrue(run.done)
    self.assertEqual(run.results(), {"error": 0.5})
    self.assertEqual(runs.read_settings(self.folder), SETTINGS)

  def test_a_relative_workdir(self):
    with contextlib.chdir(self.workdir):
      start("here").save(fresh_state()._replace(step=jnp.int32(10)))
      self.assertEqual(int(start("here").restore(fresh_state()).step), 10)

  def test_two_writers_of_one_run_are_noticed(self):
    first, second = start(self.workdir), start(self.workdir)
    first.append(line(1))
    with self.assertRaisesRegex(runs.RunError, "another process"):
      second.append(line(1))
    self.assertEqual(first.metrics(), [line(1)])

  def test_a_damaged_line_of_metrics_is_named(self):
    run = start(self.workdir)
    (self.folder / "metrics.jsonl").write_text("no json\n")
    with self.assertRaisesRegex(runs.RunError, "cannot read.*metrics.jsonl"):
      run.metrics()

  def test_looking_makes_no_folder(self):
    run = runs.Run(self.workdir, SETTINGS)
    self.assertFalse(run.done)
    self.assertFalse(self.folder.exists())


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"network": "STN-Q1"}, "network='STN-Q1'"),
    ({"dataset": "svhn"}, "dataset='svhn'.*mnist"),
    ({"perturbation": "shear"}, "perturbation='shear'"),
    ({"family": "euclid"}, "family='euclid'"),
    ({"padding": "constant"}, "padding='constant'"),
    ({"optimiser": "lion"}, "optimiser='lion'"),
    ({"schedule": "linear"}, "schedule='linear'"),
    ({"epochs": 0}, "epochs must be positive and finite, got 0"),
    ({"batch_size": -4}, "batch_size must be positive"),
    ({"learning_rate": 0.0}, "learning_rate must be positive"),
    ({"learning_rate": float("nan")}, "learning_rate must be positive"),
    ({"localisation_lr": float("inf")}, "localisation_lr must be positive"),
    ({"filters": ()}, "filters must be two"),
    ({"filters": (3, 0)}, "filters must be positive sizes"),
    ({"seed": -1}, "seed must not be negative"),
  )
  def test_values_are_checked_by_name(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      runs.Settings(**values)

  def test_the_name_tells_runs_of_a_sweep_apart(self):
    names = {
      runs.Settings(network=n, family=f, learning_rate=lr, seed=s).name
      for n in ("CNN", "STN-C1")
      for f in ("affine", "rotation")
      for lr in (1e-3, 1e-2)
      for s in (0, 1)
    }
    self.assertLen(names, 16)


if __name__ == "__main__":
  absltest.main()
