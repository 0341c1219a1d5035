"""Run folders: settings, metrics, checkpoints, and what must be refused."""

import contextlib
import dataclasses
import os
import pathlib
from unittest import mock

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

from stnjax import placement
from stnjax.files import RunError
from stnjax.training import building, config, optimisers, runs, steps
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests import toy_sets

SETTINGS = Settings(network="STN-SL1", width=0.03125)


def fresh_state(batch_norm=True):
  network = placement.create(
    "STN-SL1", width=0.03125, batch_norm=batch_norm, rngs=nnx.Rngs(0)
  )
  optimiser = optimisers.make_optimiser("adam", 1e-3, 10, network.placement)
  return steps.init_state(network, optimiser)[1]


def start(workdir, settings=SETTINGS):
  run = Run(workdir, settings)
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
    with self.assertRaisesRegex(RunError, "epochs: 30 there, 7 here"):
      Run(self.workdir, other)
    self.assertEqual(start(self.workdir).metrics(), [line(1)])

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
    with self.assertRaisesRegex(RunError, "cannot read.*config.json"):
      config.read(self.folder).settings

  def test_a_damaged_checkpoint_is_named_and_kept(self):
    run = start(self.workdir)
    for step in (10, 20):
      run.append(line(step // 10))
      run.save(fresh_state()._replace(step=jnp.int32(step)))
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

  def test_a_half_written_checkpoint_is_none(self):
    """A kill before it has its name leaves the one before, and no obstacle."""
    run, state = start(self.workdir), fresh_state()
    first, second = (state._replace(step=jnp.int32(n)) for n in (20, 40))
    run.save(first)
    killed = mock.patch("os.rename", side_effect=OSError("killed"))
    with killed, self.assertRaisesRegex(Exception, "killed"):
      run.save(second)
    left = [path.name for path in (self.folder / "checkpoints").iterdir()]
    self.assertGreater(len(left), 1)
    run = start(self.workdir)
    self.assertEqual(run.saved_step(), 20)
    self.assertEqual(run.restore(state).step, 20)
    run.save(second)
    self.assertEqual(run.saved_step(), 40)
    self.assertEqual(run.restore(state).step, 40)

  def test_a_checkpoint_of_another_shape_is_refused(self):
    run = start(self.workdir)
    run.save(fresh_state(batch_norm=True)._replace(step=jnp.int32(10)))
    with self.assertRaisesRegex(RunError, "checkpoints/10 cannot be read"):
      run.restore(fresh_state(batch_norm=False))

  def test_the_step_of_the_last_checkpoint(self):
    run = start(self.workdir)
    self.assertEqual(run.saved_step(), 0)
    for step in (10, 20):
      run.save(fresh_state()._replace(step=jnp.int32(step)))
      self.assertEqual(run.saved_step(), step)
      self.assertEqual(Run(self.workdir, SETTINGS).saved_step(), step)

  def test_finish_marks_the_run_last(self):
    run = start(self.workdir)
    self.assertFalse(run.done)
    toy_sets.finish(run, error=0.5)
    self.assertTrue(run.done)
    self.assertEqual(run.results()["error"], 0.5)
    self.assertEqual(config.read(self.folder).settings, SETTINGS)

  def test_a_relative_workdir(self):
    with contextlib.chdir(self.workdir):
      start("here").save(fresh_state()._replace(step=jnp.int32(10)))
      self.assertEqual(int(start("here").restore(fresh_state()).step), 10)

  def test_a_bucket_is_no_local_folder(self):
    folder = config.folder("gs://bucket/runs", SETTINGS)
    self.assertEqual(os.fspath(folder), f"gs://bucket/runs/{SETTINGS.name}")

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

  def test_looking_makes_no_folder(self):
    run = Run(self.workdir, SETTINGS)
    self.assertFalse(run.done)
    self.assertEqual(run.saved_step(), 0)
    self.assertFalse(self.folder.exists())


class SettingsTest(parameterized.TestCase):
  @parameterized.parameters(
    ({"network": "STN-Q1"}, "network='STN-Q1'"),
    ({"dataset": "fashion"}, "dataset='fashion'.*mnist"),
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
    ({"pre_transformer_lr": 0.0}, "pre_transformer_lr must be positive"),
    ({"width": 0.0}, "width must be positive"),
    ({"width": float("nan")}, "width must be positive"),
    ({"localisation_width": -1.0}, "localisation_width must be positive"),
    ({"localisation": "huge"}, "localisation='huge'.*'large'"),
    ({"localisation_scheme": "all"}, "localisation_scheme='all'.*'gradient'"),
    ({"more_iterations": (0,)}, "more_iterations must be positive and rise"),
    ({"more_iterations": (-1, 2)}, "more_iterations must be positive and rise"),
    ({"more_iterations": (3, 3)}, "more_iterations must be.*rise, got .3, 3."),
    ({"more_iterations": (5, 2)}, "more_iterations must be positive and rise"),
    (
      {"network": "CNN", "more_iterations": (3,)},
      "more_iterations: a CNN has no transformer",
    ),
    (
      {"network": "DEF1", "more_iterations": (3,)},
      "more_iterations: a DEF has no transformer.*accepted: STN-C",
    ),
    (
      {"network": "STN-UCN1", "more_iterations": (3,)},
      "more_iterations: a UCN",
    ),
    ({"seed": -1}, "seed must not be negative"),
    ({"seed": 2**32}, "seed must be at most 4,294,967,295"),
    ({"batch_size": 2**31}, "batch_size must be at most 2,147,483,647"),
    (
      {"pre_transformer_lr": 1e39},
      "pre_transformer_lr must be at most 3.4e.38",
    ),
    ({"localisation_lr": 1e-40}, "localisation_lr must be at least 1.18e-38"),
    (
      {"downsample": 113, "perturbation": "scale"},
      "downsample must be at most 112",
    ),
    (
      {"network": "STN-SL1x30", "more_iterations": (1, 2, 3)},
      "more_iterations must name at most 2 epochs",
    ),
  )
  def test_values_are_checked_by_name(self, values, message):
    with self.assertRaisesRegex(ValueError, message):
      Settings(**values)

  @parameterized.parameters(
    ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
    ({"width": "1"}, "width must be a number, got '1'"),
    ({"seed": True}, "seed must be a whole number, got True"),
    ({"network": 1}, "network must be a string, got 1"),
    ({"dropout": 1}, "dropout must be True or False"),
    ({"more_iterations": (1.5,)}, "more_iterations must be whole numbers"),
  )
  def test_types_are_checked_by_name(self, values, message):
    with self.assertRaisesRegex(TypeError, message):
      Settings(**values)

  @parameterized.parameters(
    (99, 33, 5, 15), (100, 1, 2**31 - 1, None), (64, 64, 2**31 - 1, 2**31 - 1)
  )
  def test_steps_are_counted_in_int32(self, images, batch, epochs, expected):
    settings = Settings(batch_size=batch, epochs=epochs)
    if expected is None:
      with self.assertRaisesRegex(ValueError, "at most 2,147,483,647 steps"):
        building.num_steps(settings, images)
    else:
      self.assertEqual(building.num_steps(settings, images), expected)

  def test_a_network_too_large_is_refused_in_shapes_alone(self):
    # 64 * 102 filters of 7 x 7 for as many channels are 2.09e9, and there are
    # those of 9 x 9; of a factor of 104, more than 2^31.
    building.abstract_network(Settings(network="CNN", width=102.0))
    wide = Settings(network="CNN", width=104.0)
    for build in (runs.abstract_network, runs.build_network):
      with self.assertRaisesRegex(ValueError, "width=104.*accepted: at most"):
        build(wide)

  def test_values_that_are_accepted(self):
    for values in (
      {"padding": None},
      {"padding": "zeros"},
      {"more_iterations": (1, 2, 9)},
      {"dataset": "svhn", "perturbation": "none"},
      {"dataset": "plankton", "localisation": "large"},
      {"localisation_scheme": "gradient"},
    ):
      Settings(**values)

  def test_settings_come_back_from_the_folder(self):
    other = dataclasses.replace(
      SETTINGS, padding=None, more_iterations=(2, 5), localisation_width=0.5
    )
    run = start(self.create_tempdir().full_path, other)
    self.assertEqual(config.read(run.path).settings, other)

  def test_the_name_tells_runs_of_a_sweep_apart(self):
    names = {
      Settings(network=n, family=f, learning_rate=lr, seed=s).name
      for n in ("CNN", "STN-C1")
      for f in ("affine", "rotation")
      for lr in (1e-3, 1e-2)
      for s in (0, 1)
    }
    self.assertLen(names, 16)


IMAGES = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)


class BuildTest(parameterized.TestCase):
  def build(self, seeds=(0,), **values):
    values = {"batch_size": 16, "epochs": 9, "width": 0.03125, **values}
    settings = [Settings(**values, seed=seed) for seed in seeds]
    return building.build_trainer(settings, IMAGES, jax.devices()[:1])

  def phases(self, program, states):
    """The networks of a program, with the step from which on each serves."""
    own = jax.tree.map(lambda x: x[0], states)
    recipe = program.recipe
    return [
      (start, nnx.merge(graphdef, own.params, own.stats))
      for start, graphdef in ((0, recipe.graphdef), *recipe.later)
    ]

  @parameterized.parameters(
    ("group", (1.0, 1.0, 1.0)), ("gradient", (0.5, 0.25, 0.125))
  )
  def test_more_iterations(self, scheme, gradients):
    program, states = self.build(
      more_iterations=(1, 4), localisation_scheme=scheme, localisation_lr=0.5
    )
    phases = self.phases(program, states)
    self.assertEqual([start for start, _ in phases], [0, 2, 8])  # 2 an epoch
    self.assertEqual(
      [network.placement.depths for _, network in phases],
      [(1,), (1, 1), (1, 1, 1)],
    )
    self.assertEqual(
      tuple(network.theta_gradient for _, network in phases), gradients
    )

  def test_each_seed_has_its_own_initial_parameters(self):
    _, states = self.build(seeds=(3, 7))
    for place, seed in enumerate((3, 7)):
      _, alone = self.build(seeds=(seed,))
      for both, one in zip(*map(jax.tree.leaves, (states, alone)), strict=True):
        np.testing.assert_array_equal(both[place], one[0])
    kernel = states.params["blocks"][0]["conv"]["kernel"][...]
    self.assertGreater(np.abs(kernel[0] - kernel[1]).max(), 0.01)
    np.testing.assert_array_equal(states.step, [0, 0])

  def test_options_reach_the_network(self):
    network = building.build_network(
      Settings(
        dataset="plankton",
        perturbation="free_augmentation",
        network="STN-C0",
        width=0.1,
        localisation_width=0.25,
        localisation="large",
        padding="zeros",
        family="translation",
        batch_norm=True,
      )
    )
    net = network.localisers["0"]
    self.assertEqual([conv.out_features for conv in net.convs], [4] * 4)
    self.assertEqual([layer.out_features for layer in net.hidden], [16, 16])
    self.assertEqual(net.head.out_features, 2)
    self.assertEqual(network.padding, "zeros")
    self.assertEqual(network.blocks[0].conv.out_features, 3)
    self.assertEqual(network.head.out_features, 121)
    self.assertIn("0", network.norms)

  @parameterized.parameters(
    ("rotation", (0.1307,), (0.3081,), False),
    ("translation", (0.0363,), (0.1870,), True),
    ("scale", (0.0414,), (0.1751,), True),
  )
  def test_what_hangs_on_the_perturbation(self, name, mean, std, cluttered):
    program, _ = self.build(network="STN-C0", perturbation=name)
    self.assertEqual((program.recipe.mean, program.recipe.std), (mean, std))
    self.assertEqual(program._sources is not None, cluttered)


if __name__ == "__main__":
  absltest.main()
