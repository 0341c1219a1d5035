"""Warm starts: what is taken from a run, and what is refused."""

import dataclasses

from absl.testing import absltest, parameterized
import jax
import numpy as np
import pytest

from stnjax import placement
from stnjax.files import RunError
from stnjax.training import (
  building,
  checkpoints,
  optimisers,
  steps,
  trained,
  warm_start,
)
from stnjax.training.run_folder import Run
from stnjax.training.settings import Settings
from tests.training import toy_trainers

SMALL = Settings(width=0.03125, batch_size=16, epochs=1)
IMAGES = toy_trainers.examples(16).images


def settings(network, **changes):
  return dataclasses.replace(SMALL, network=network, **changes)


def state_of(chosen):
  """The state of a run with its initial values."""
  network = building.build_network(chosen, building.find(chosen))
  optimiser = optimisers.make_optimiser("adam", 1e-3, 10, network.placement)
  return steps.init_state(network, optimiser)


def network_of(chosen, state):
  """The network with the values of a state."""
  network = building.build_network(chosen, building.find(chosen))
  parts = steps.split(network)
  return steps.TrainSpec(parts.graphdef, parts.streams, None, None, 1).network(
    state
  )


def finished(workdir, chosen, step=3):
  """A finished run whose parameters are noise, and its network."""
  run = Run(str(workdir), chosen)
  run.start(building.find(chosen).describe())
  rng = np.random.default_rng(chosen.seed)
  state = jax.tree.map(
    lambda x: np.asarray(rng.normal(size=x.shape), x.dtype), state_of(chosen)
  )._replace(step=np.int32(step))
  run.save(state)
  (run.path / "DONE").touch()
  return run, network_of(chosen, state)


def started(chosen):
  """How a run starts, and its network."""
  start = warm_start.start(state_of(chosen), chosen, building.find(chosen))
  return start, network_of(chosen, start.state)


def assert_alike(module, other):
  """The same variables in both."""
  a, b = map(
    checkpoints.named_arrays,
    (steps.split(module)[1::2], steps.split(other)[1::2]),
  )
  assert a.keys() == b.keys()
  for name, value in a.items():
    np.testing.assert_array_equal(value, b[name], err_msg=name)


class WarmStartTest(parameterized.TestCase):
  def workdir(self):
    return self.create_tempdir().full_path

  @pytest.mark.slow
  def test_a_classifier_starts_a_network_with_shared_stages(self):
    run, source = finished(self.workdir(), settings("CNN"))
    chosen = settings("STN-SL1", warm_start=str(run.path))
    start, warm = started(chosen)
    assert_alike(warm.stages, source.stages)
    assert_alike(warm.head, source.head)
    fresh = state_of(chosen)
    assert_alike(warm.sites, network_of(chosen, fresh).sites)
    self.assertEqual(int(start.state.step), 0)
    self.assertEqual(
      toy_trainers.max_difference(start.state.optimiser, fresh.optimiser), 0
    )
    self.assertIn("initial values: transformer of depth 1", start.report)

  def test_copied_stages_are_copies_of_the_trained_ones(self):
    run, source = finished(self.workdir(), settings("CNN"))
    chosen = settings("STN-DL1", warm_start=f"{run.path}/checkpoints/3")
    start, warm = started(chosen)
    assert_alike(warm.sites["1"]["stages"][0], source.stages[0])
    self.assertIn("copied stages of depth 1 (from its stages)", start.report)

  @pytest.mark.slow
  def test_sites_are_taken_where_they_fit(self):
    dl = settings("STN-DL1", batch_norm=True)
    run, source = finished(self.workdir(), dl)
    again = dataclasses.replace(dl, warm_start=str(run.path), seed=1)
    start, warm = started(again)
    for name in ("stages", "sites", "head"):
      assert_alike(getattr(warm, name), getattr(source, name))
    np.testing.assert_array_equal(
      warm.norms[0].mean[...], source.norms[0].mean[...]
    )
    self.assertNotIn("initial values", start.report)
    # Another family has another head of localisation: whole or not at all.
    _, warm = started(dataclasses.replace(again, family="rotation"))
    assert_alike(warm.sites["1"]["stages"], source.sites["1"]["stages"])
    own = building.build_network(
      dataclasses.replace(again, family="rotation"), building.find(again)
    )
    assert_alike(warm.sites["1"]["transformer"], own.sites["1"]["transformer"])

  def test_the_seed_in_a_path(self):
    workdir = self.workdir()
    sources = [finished(workdir, settings("CNN", seed=seed)) for seed in (0, 1)]
    path = str(sources[0][0].path).removesuffix("0") + "{seed}"
    for seed, (_, source) in enumerate(sources):
      _, warm = started(settings("STN-C1", warm_start=path, seed=seed))
      assert_alike(warm.stages, source.stages)

  @pytest.mark.slow
  def test_the_untrained_network_of_a_run_is_the_warm_one(self):
    workdir = self.workdir()
    source_run, source = finished(workdir, settings("CNN"))
    chosen = settings("STN-C0", warm_start=str(source_run.path))
    network, _ = trained.network_of(
      Run(workdir, chosen), building.find(chosen), IMAGES, trained=False
    )
    assert_alike(network.stages, source.stages)

  @parameterized.parameters(
    (
      {"width": 0.0625},
      r"head.last.kernel has shape \(8, 10\) in .* \(16, 10\) h",
    ),
    ({"backbone": "plain"}, "has backbone='plain'"),
    ({"dataset": "synthetic_digits"}, "another backbone: it has .* parameter"),
  )
  @pytest.mark.slow
  def test_networks_that_do_not_fit(self, changes, message):
    run, _ = finished(self.workdir(), settings("CNN"))
    with self.assertRaisesRegex(RunError, message):
      started(settings("STN-C1", warm_start=str(run.path), **changes))

  def test_what_is_no_run(self):
    workdir = self.workdir()
    for path, message in (
      (f"{workdir}/none", "no run there; accepted: the folder of a finished"),
      ("", "must|not supported"),
      ("s3://bucket/run", "is not supported"),
    ):
      with self.assertRaisesRegex((RunError, ValueError), message):
        warm_start.read(path)
    run, _ = finished(workdir, settings("CNN"))
    with self.assertRaisesRegex(RunError, "no checkpoint there"):
      warm_start.read(f"{run.path}/checkpoints/4")
    (run.path / "DONE").unlink()
    with self.assertRaisesRegex(RunError, "is not finished"):
      warm_start.read(str(run.path))
    self.assertTrue(warm_start.read(f"{run.path}/checkpoints/3").checksum)

  def test_a_run_goes_on_from_the_same_source_only(self):
    workdir = self.workdir()
    source, _ = finished(workdir, settings("CNN"))
    chosen = settings("STN-C1", warm_start=str(source.path))
    task = building.find(chosen).describe()
    start, _ = started(chosen)
    Run(workdir, chosen).start(task, "images", start.checksum)
    Run(workdir, chosen).start(task, "images", start.checksum)
    finished(f"{workdir}/other", settings("CNN", seed=1))
    other, _ = finished(workdir, settings("CNN"), step=4)
    again, _ = started(chosen)
    self.assertNotEqual(again.checksum, start.checksum)
    with self.assertRaisesRegex(RunError, "began from another checkpoint"):
      Run(workdir, chosen).start(task, "images", again.checksum)

  def test_names_of_runs(self):
    cold = settings("STN-SL1").name
    path = "runs/STN-C0,1-affine-mnist_subset-rotation-lr_0.001-seed_{seed}"
    warm = settings("STN-SL1", warm_start=path).name
    self.assertEqual(warm, cold.replace("seed", "warm_STN-C0,1-seed"))
    for other in (f"{path}/", f"{path}/checkpoints/12"):
      self.assertEqual(settings("STN-SL1", warm_start=other).name, warm)
    self.assertNotIn("/", settings("STN-SL1", warm_start="a b/ü?*{c}").name)
    alone = settings("STN-SL1", trained="localisation").name
    self.assertEqual(alone, cold.replace("seed", "localisation_only-seed"))


@pytest.mark.slow
def test_parts_cover_all_arrays_of_a_network():
  for name in ("CNN", "STN-DL1", "STN-C1", "STN-UCN1", "DEF1"):
    chosen = settings(name, batch_norm=True)
    fresh = state_of(chosen)
    source = warm_start.Source(
      "there", chosen, checkpoints.named_arrays(fresh._replace(
        params=jax.tree.map(lambda x: x + 1, fresh.params),
        stats=jax.tree.map(lambda x: x + 1, fresh.stats),
      )), "",
    )  # fmt: skip
    state, _ = warm_start.warm_state(fresh, source)
    for part in ("params", "stats"):
      moved = jax.tree.map(lambda x: x + 1, getattr(fresh, part))
      assert toy_trainers.max_difference(moved, getattr(state, part)) == 0
    assert placement.parse(name).depths or not network_of(chosen, state).sites


if __name__ == "__main__":
  absltest.main()
