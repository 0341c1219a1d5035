"""The steps: what they compute, and that devices and seeds change nothing."""

import dataclasses
import functools
from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stnjax import data, placement
from stnjax.paper import classifiers
from stnjax.paper.classifiers import Conv
from stnjax.placement import networks
from stnjax.training import (
  building,
  optimisers,
  steps,
  trainer,
)
from stnjax.training.keys import random_key
from stnjax.training.settings import Settings

# Batch norm, dropout of both kinds and a leaky nonlinearity.
RICH = classifiers.Classifier(
  convs=(
    Conv(4, 5, pool=2, padding="VALID", batch_norm=True, dropout=0.3),
    Conv(4, 3, pool=2, batch_norm=True),
  ),
  dense=(8,),
  dropout=0.5,
  slope=0.1,
  localisation={"small": classifiers.Localisation(((2, 5),), (4,))},
)
CLASSIFIERS = {"plain": classifiers.MNIST.resized(0.0625, 1.0), "rich": RICH}


def toy_data(n, seed=0):
  """Bright squares in the quarter that the label names."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 4, n).astype(np.int32)
  images = rng.integers(0, 30, (n, 28, 28, 1)).astype(np.uint8)
  for image, label in zip(images, labels, strict=True):
    y, x = divmod(int(label), 2)
    image[4 + 12 * y : 12 + 12 * y, 4 + 12 * x : 12 + 12 * x] = 220
  return data.Examples(images, labels)


def stacked(states):
  """The states of several seeds, as `Program` takes them."""
  return jax.tree.map(lambda *x: jnp.stack(x), *states)


def of(states, place):
  """The state of one seed, on the host."""
  return jax.tree.map(lambda x: np.asarray(x)[place], states)


def make_afresh(
  name="STN-SL1",
  *,
  classifier="plain",
  devices=1,
  batch_size=16,
  perturbation="rotation",
  optimiser=None,
  batch_norm=False,
  seeds=(0,),
  heads=1,
):
  """A program and the states of its seeds, which start alike."""
  side = 60 if perturbation == "translation" else 28
  network = networks.SpatialTransformerNetwork(
    placement.parse(name),
    CLASSIFIERS[classifier],
    (side, side, 1),
    4,
    heads=heads,
    batch_norm=batch_norm,
    rngs=nnx.Rngs(0),
  )
  if classifier == "rich":
    # Off the identity, where the transformer samples on the kinks of bilinear
    # sampling, and rounding decides between two slopes.
    for net in network.localisers.values():
      net.head.bias[...] = jnp.sin(jnp.arange(net.head.bias.size) + 1.0) / 40
  optimiser = optimiser or optimisers.make_optimiser(
    "adam", 1e-3, 100, network.placement
  )
  graphdef, state = steps.init_state(network, optimiser)
  recipe = steps.TrainSpec(
    graphdef, optimiser, perturbation, (0.1,), (0.3,), batch_size
  )
  sources = toy_data(8, 3).images if perturbation == "translation" else None
  program = trainer.Trainer(recipe, seeds, sources, jax.devices()[:devices])
  return program, stacked([state] * len(seeds))


make = functools.cache(make_afresh)  # compiled once for all tests


def noting_prepare(note):
  """Calls `note(images, truth)` with each batch that is prepared."""
  prepare = steps.TrainSpec.prepare

  def noting(recipe, keys, images, *args, **options):
    result, truth = prepare(recipe, keys, images, *args, **options)
    jax.debug.callback(
      lambda *arrays: note(*jax.tree.map(np.asarray, arrays)), images, truth
    )
    return result, truth

  return mock.patch.object(steps.TrainSpec, "prepare", noting)


def max_difference(a, b):
  gaps = jax.tree.map(
    lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), a, b
  )
  # NumPy's maximum of a NaN is one, Python's may not be.
  return np.max(jax.tree.leaves(gaps), initial=0)


def assert_close(a, b):
  """Equal but for rounding, as XLA may compile one seed otherwise than two."""
  for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


class DeviceTest(parameterized.TestCase):
  @parameterized.named_parameters(
    ("c", "STN-C1", {"batch_norm": True}, 4),
    # Every image drops the same, wherever it is.
    ("dropout", "STN-SL1", {"classifier": "rich"}, 3),
  )
  def test_pmap_on_four_devices_equals_jit_on_one(self, name, options, steps):
    self.check_pmap(name, options, steps)

  @parameterized.named_parameters(
    ("cnn", "CNN", {}, 4),
    ("sl", "STN-SL1", {}, 4),
    # Every image is cluttered the same, too.
    ("clutter", "STN-C0", {"perturbation": "translation"}, 1),
    ("ucn", "STN-UCN0", {"classifier": "rich"}, 3),
    ("def", "DEF1", {"classifier": "rich", "batch_norm": True}, 3),
  )
  @pytest.mark.slow
  def test_pmap_of_other_networks(self, name, options, steps):
    self.check_pmap(name, options, steps)

  def check_pmap(self, name, options, steps):
    data, test = toy_data(64), toy_data(23, 1)
    states, predictions = [], []
    for devices in (1, 4):
      program, state = make(name, devices=devices, **options)
      state = program.train(state, data, steps)
      states.append(of(state, 0))
      predictions.append(program.evaluate(state, test, 0)[0])
    self.assertLess(max_difference(states[0].totals, states[1].totals), 1e-4)
    one, four = states
    for sums in zip(one.totals, four.totals, strict=True):
      np.testing.assert_allclose(*sums, rtol=1e-5)
    self.assertLess(max_difference(one.stats, four.stats), 1e-5)
    # Adam divides by the gradient's size, so that rounding of a vanishing
    # gradient moves its parameter.
    self.assertLess(max_difference(one.params, four.params), 2e-4)
    np.testing.assert_allclose(
      predictions[0].loss, predictions[1].loss, atol=1e-4
    )
    self.assertNotEmpty(predictions[0].truth)
    for kind, value in predictions[0].truth.items():
      np.testing.assert_array_equal(value, predictions[1].truth[kind])

  def test_batch_that_does_not_divide_is_refused(self):
    with self.assertRaisesRegex(ValueError, "batch_size=18.*multiple of 4"):
      make_afresh(devices=4, batch_size=18)

  def test_batch_larger_than_the_set_is_refused(self):
    program, state = make(batch_size=64)
    with self.assertRaisesRegex(
      ValueError, "larger than the training set of 32"
    ):
      program.train(state, toy_data(32), 1)


class SeedTest(parameterized.TestCase):
  SEEDS = (4, 0, 9, 7)

  def test_together_each_comes_out_as_alone(self):
    self.check_together("STN-SL1", {"classifier": "rich"})

  @parameterized.named_parameters(
    ("cnn", "CNN", {}),
    ("sl", "STN-SL1", {}),
    ("def", "DEF1", {"classifier": "rich"}),
  )
  @pytest.mark.slow
  def test_together_other_networks_come_out_as_alone(self, name, options):
    self.check_together(name, options)

  def check_together(self, name, options):
    data, test = toy_data(64), toy_data(9, 1)
    together, states = make(name, seeds=self.SEEDS[:2], **options)
    states = together.train(states, data, 3)
    predicted = together.evaluate(states, test, 1)
    shown = together.examples(states, test.images[:2], 0)
    for place, seed in enumerate(self.SEEDS[:2]):
      program, state = make(name, seeds=(seed,), **options)
      state = program.train(state, data, 3)
      assert_close(of(states, place), of(state, 0))
      alone = program.evaluate(state, test, 1)[0]
      assert_close(predicted[place], alone)
      drawn = program.examples(state, test.images[:2], 0)[0]
      assert_close(shown[place], drawn)
    self.assertGreater(
      max_difference(of(states, 0).params, of(states, 1).params), 1e-4
    )
    self.assertGreater(max_difference(*shown), 0.1)

  def test_side_by_side_is_one_after_the_other(self):
    """What runs on GPUs, here on CPU; few steps, as rounding grows."""
    data, test = toy_data(64), toy_data(9, 1)
    setup = {"name": "STN-SL1", "classifier": "rich", "seeds": self.SEEDS[:2]}
    program, start = make(**setup)
    expected = program.train(start, data, 3)
    side_by_side, _ = make_afresh(**setup)
    with mock.patch.object(
      trainer.Trainer, "_each_seed", lambda _, one: jax.vmap(one)
    ):
      found = side_by_side.train(start, data, 3)
      predicted = side_by_side.evaluate(expected, test, 1)
    self.assertLess(max_difference(found.params, expected.params), 2e-4)
    self.assertLess(max_difference(found.stats, expected.stats), 1e-5)
    for sums in zip(found.totals, expected.totals, strict=True):
      np.testing.assert_allclose(*sums, rtol=1e-5)
    for ours, theirs in zip(
      predicted, program.evaluate(expected, test, 1), strict=True
    ):
      np.testing.assert_allclose(ours.loss, theirs.loss, atol=1e-4)
      np.testing.assert_array_equal(
        ours.truth["rotation"], theirs.truth["rotation"]
      )

  @pytest.mark.slow
  def test_spread_over_devices_each_comes_out_as_on_one(self):
    data, test = toy_data(64), toy_data(9, 1)
    results = []
    for count in (1, 2):
      program, states = make("STN-SL1", seeds=self.SEEDS, devices=count)
      states = program.train(states, data, 2)
      results.append(
        (
          jax.tree.map(np.asarray, states),
          program.evaluate(states, test, 0),
          program.examples(states, test.images[:2], 0),
        )
      )
    assert_close(*results)
    self.assertEqual(results[1][0].step.tolist(), [2] * 4)

  @parameterized.parameters(
    (1, 4, 4), (2, 4, 2), (3, 4, 3), (4, 4, 4), (5, 4, 1), (6, 4, 3), (9, 2, 1)
  )
  def test_as_many_devices_as_divide_the_seeds(self, seeds, devices, used):
    program, _ = make_afresh("CNN", seeds=range(seeds), devices=devices)
    many = (
      f"{'seeds' if seeds > 1 else 'each batch'} spread over {used} devices"
    )
    self.assertEqual(program.layout, many if used > 1 else "on one device")

  def test_spread_seeds_leave_the_batch_whole(self):
    make_afresh("CNN", seeds=(0, 1, 2), devices=3, batch_size=16)
    with self.assertRaisesRegex(ValueError, "batch_size=16.*multiple of 3"):
      make_afresh("CNN", seeds=(0,), devices=3, batch_size=16)

  def test_a_purpose_has_a_key_of_its_own(self):
    purposes = ("initialise", "order", "train", "evaluate", "examples")
    drawn = {
      jax.random.key_data(random_key(seed, purpose)).tobytes()
      for seed in (0, 1, 2**32 - 1)
      for purpose in purposes
    }
    self.assertLen(drawn, 15)


class TrainTest(parameterized.TestCase):
  def test_one_step_is_the_optimiser_on_the_mean_gradient(self):
    """Against a step written out: SGD on the batch that the order names."""
    optimiser = optimisers.make_optimiser(
      "sgd", 0.1, 100, placement.parse("CNN")
    )
    program, states = make("CNN", optimiser=optimiser, perturbation="none")
    data, recipe, state = toy_data(40), program.recipe, of(states, 0)
    order = jax.random.permutation(
      jax.random.fold_in(random_key(0, "order"), 0), 40
    )[:16]
    images = (data.images[order].astype(np.float32) / 255 - 0.1) / 0.3

    def loss(params):
      model = nnx.merge(recipe.graphdef, params, state.stats)
      chosen = jax.nn.log_softmax(model(images).logits)
      return -chosen[np.arange(16), data.labels[order]].mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    after = of(program.train(states, data, 1), 0)
    self.assertLess(max_difference(after.params, expected), 1e-6)
    np.testing.assert_allclose(after.totals.loss / 16, value, rtol=1e-5)
    self.assertEqual(int(after.totals.count), 16)

  def test_dispatches_change_nothing(self):
    data = toy_data(64)
    program, state = make()
    whole = program.train(state, data, 4)
    for count in (1, 2, 1):
      state = program.train(state, data, count)
    self.assertEqual(max_difference(whole, state), 0)

  def test_totals_start_anew_with_the_epoch(self):
    data = toy_data(36)  # two whole batches of 16
    program, state = make()
    state = program.train(state, data, 2)
    self.assertEqual(int(state.totals.count[0]), 32)
    state = program.train(state, data, 1)
    self.assertEqual(int(state.totals.count[0]), 16)
    with self.assertRaisesRegex(ValueError, "num_steps=2 leaves the epoch"):
      program.train(state, data, 2)

  def test_every_image_is_seen_once_an_epoch_in_another_order(self):
    data = toy_data(32)
    data.images[:, 0, 0, 0] = np.arange(32)  # a mark to know an image by
    program, state = make("CNN", batch_size=8)
    orders = []
    for _ in range(2):
      seen = []
      with noting_prepare(lambda images, _, seen=seen: seen.append(images)):
        program, _ = make_afresh("CNN", batch_size=8)
        state = program.train(state, data, 4)
        jax.effects_barrier()
      orders.append(np.concatenate(seen)[:, 0, 0, 0].tolist())
    for order in orders:
      self.assertCountEqual(order, range(32))
    self.assertNotEqual(*orders)

  def test_every_image_of_every_step_is_perturbed_afresh(self):
    """With the same images in a batch, only the perturbation can differ."""
    data = toy_data(16)
    data = data.Examples(np.repeat(data.images[:1], 16, 0), data.labels)
    seen = []
    program, state = make_afresh("CNN", batch_size=4)
    with noting_prepare(lambda _, truth: seen.append(truth["rotation"])):
      program.train(state, data, 4)
      jax.effects_barrier()
    self.assertLen(np.unique(np.concatenate(seen)), 16)

  def test_one_compilation_serves_all_dispatches(self):
    program, state = make_afresh("CNN")
    data = toy_data(96)
    once = chex.assert_max_traces(steps.train_step, n=1)
    with mock.patch.object(steps, "train_step", once):
      for count in (1, 3, 2):
        state = program.train(state, data, count)
    self.assertEqual(int(state.step[0]), 6)

  def test_the_device_that_is_named_is_used(self):
    _, state = make("CNN")
    program = trainer.Trainer(
      make("CNN")[0].recipe, (0,), devices=jax.devices()[2:3]
    )
    state = program.train(state, toy_data(16), 1)
    self.assertEqual(state.step.devices(), {jax.devices()[2]})

  def test_it_learns(self):
    data = toy_data(256)
    program, state = make("STN-SL1", perturbation="none", batch_size=32)
    for _ in range(8):
      state = program.train(state, data, 8)
    predicted = program.evaluate(state, toy_data(100, 5), 0)[0].label
    self.assertLess(np.mean(predicted != toy_data(100, 5).labels), 0.05)

  def test_seed_decides(self):
    data = toy_data(64)
    runs = []
    for seed in (0, 0, 1):
      program, state = make(seeds=(seed,))
      runs.append(program.train(state, data, 2))
    self.assertEqual(max_difference(runs[0].params, runs[1].params), 0)
    self.assertGreater(max_difference(runs[0].params, runs[2].params), 1e-4)


class GrowingTest(parameterized.TestCase):
  """More iterations, from an epoch on."""

  def build(self, scheme="group", more_iterations=(1,)):
    settings = Settings(
      width=0.0625,
      batch_size=16,
      epochs=4,
      optimiser="sgd",
      schedule="constant",
      learning_rate=0.01,
      more_iterations=more_iterations,
      localisation_scheme=scheme,
      localisation_lr=0.5,
    )
    images = toy_data(32).images
    program, states = building.build_trainer(
      [settings], images, jax.devices()[:1]
    )
    # Off the identity, where iterations differ.
    head = states.params["localisers"]["1"]["head"]["bias"]
    head[...] = head[...] + 0.1
    return program, states

  def test_each_phase_trains_and_evaluates_its_own_network(self):
    self.check_phases("group")

  @pytest.mark.slow
  def test_phases_whose_gradients_are_scaled(self):
    self.check_phases("gradient")

  def check_phases(self, scheme):
    data, test = toy_data(32), toy_data(6, 1)
    program, states = self.build(scheme)
    recipe = program.recipe
    graphdefs = [recipe.graphdef, *(graphdef for _, graphdef in recipe.later)]
    keys = jax.vmap(
      lambda i: jax.random.fold_in(
        jax.random.fold_in(random_key(0, "evaluate"), 0), i
      )
    )(np.arange(6))
    images, _ = recipe.prepare(keys, test.images, None)
    structure = jax.tree.structure(states)
    for epoch, graphdef in enumerate(graphdefs):
      own = trainer.Trainer(
        dataclasses.replace(recipe, graphdef=graphdef, later=()),
        (0,),
        devices=jax.devices()[:1],
      )
      expected = own.train(states, data, 2)
      states = program.train(states, data, 2)
      self.assertEqual(max_difference(states, expected), 0)
      self.assertEqual(jax.tree.structure(states), structure)
      # By hand: as many runs of the transformer as there are by now.
      after = of(states, 0)
      network = nnx.merge(graphdef, after.params, after.stats)
      output = network(images)
      self.assertLen(output.thetas, epoch + 1)
      found = program.evaluate(states, test, 0)[0]
      np.testing.assert_allclose(found.pose, output.pose, atol=1e-4)
      if epoch:
        moved = output.thetas[-1] - output.thetas[-2]
        self.assertGreater(np.abs(moved).max(), 1e-2)

  def test_a_resume_across_the_switch_changes_nothing(self):
    data = toy_data(32)
    program, states = self.build()
    whole = states
    for _ in range(2):
      whole = program.train(whole, data, 2)
    states = program.train(states, data, 2)
    states = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), states)
    program, _ = self.build()
    for count in (1, 1):
      states = program.train(states, data, count)
    self.assertEqual(max_difference(states, whole), 0)

  @parameterized.parameters(
    ("group", [0.5, 0.5, 0.25, 0.25, 0.125]), ("gradient", [1] * 5)
  )
  def test_localisation_s_rate_is_halved(self, scheme, expected):
    program, states = self.build(scheme, more_iterations=(1, 2))
    state = of(states, 0)
    ones = jax.tree.map(np.ones_like, state.params)
    optimiser, rates = state.optimiser, []
    for _ in range(5):
      updates, optimiser = program.recipe.optimiser.update(
        ones, optimiser, state.params
      )
      rates.append(
        float(updates["localisers"]["1"]["head"]["bias"][...][0])
        / float(updates["head"]["bias"][...][0])
      )
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


class OptimiserTest(parameterized.TestCase):
  @parameterized.parameters("STN-DL1", "STN-SL1")
  def test_localisation_has_its_own_rate(self, name):
    """SGD moves by rate x gradient: the ratio of moves is the multiplier."""
    data = toy_data(32)
    moves = []
    for multiplier in (1.0, 0.25):
      optimiser = optimisers.make_optimiser(
        "sgd",
        1e-3,
        100,
        placement.parse(name),
        localisation_lr=multiplier,
      )
      program, state = make(name, optimiser=optimiser)
      after = program.train(state, data, 1)
      moves.append(
        jax.tree.map(
          lambda a, b: np.asarray(a - b)[0], after.params, state.params
        )
      )
    head = [m["localisers"]["1"]["head"]["bias"][...] for m in moves]
    np.testing.assert_allclose(head[1], 0.25 * head[0], rtol=1e-3, atol=1e-9)
    self.assertGreater(np.abs(head[0]).max(), 1e-7)
    own = [m["blocks"][0]["conv"]["kernel"][...] for m in moves]
    np.testing.assert_allclose(own[1], own[0], rtol=1e-3, atol=1e-8)

  @parameterized.parameters(
    ("CNN", 1, 1),
    ("STN-C0", 1, 1),
    ("STN-C1", 0.5, 1),
    ("STN-C2", 0.5, 0.5),
    ("STN-DL2", 1, 1),
    ("STN-SL1", 0.5, 1),
    ("STN-SL0,2", 0.5, 0.5),
  )
  def test_every_part_has_its_own_rate(self, name, first, second):
    placement = placement.parse(name)
    network = networks.SpatialTransformerNetwork(
      placement, RICH, (28, 28, 1), 4, rngs=nnx.Rngs(0)
    )
    params = nnx.state(network, nnx.Param)
    optimiser = optimisers.make_optimiser(
      "sgd", 0.1, 100, placement, localisation_lr=0.25, pre_transformer_lr=0.5
    )
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimiser.update(ones, optimiser.init(params), params)
    expected = {"localisers": 0.25, "copies": 0.25, "dense": 1, "head": 1}
    for path, update in nnx.to_flat_state(updates):
      if path[0] == "blocks":
        rate = (first, second)[int(path[1])]
      else:
        rate = expected[path[0]]
      np.testing.assert_allclose(
        update.get_value(), -0.1 * rate, rtol=1e-5, err_msg=str(path)
      )

  @parameterized.parameters("sgd", "adam")
  def test_halvings_are_localisation_s_alone(self, name):
    placement = placement.parse("STN-SL1")
    optimiser = optimisers.make_optimiser(
      name, 1.0, 100, placement, localisation_lr=0.5, halvings=(2, 3)
    )
    params = {"localisers": jnp.zeros(()), "head": jnp.zeros(())}
    ones = jax.tree.map(jnp.ones_like, params)
    state, ratios = optimiser.init(params), []
    for _ in range(5):
      updates, state = optimiser.update(ones, state, params)
      ratios.append(float(updates["localisers"] / updates["head"]))
    np.testing.assert_allclose(ratios, [0.5, 0.5, 0.25, 0.125, 0.125])

  @parameterized.parameters(
    ("constant", [1, 1, 1, 1]),
    ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ("step", [1, 1, 0.1, 0.01]),
  )
  def test_schedules(self, schedule, expected):
    tx = optimisers.make_optimiser(
      "sgd", 1.0, 100, placement.parse("CNN"), schedule=schedule
    )
    params = {"head": jnp.zeros(())}
    rates = []
    for start in (0, 25, 50, 75):
      state = tx.init(params)
      state = jax.tree.map(
        lambda x, start=start: (
          x + start if jnp.issubdtype(x.dtype, jnp.integer) else x
        ),
        state,
      )
      updates, _ = tx.update({"head": jnp.ones(())}, state, params)
      rates.append(-float(updates["head"]))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "optimiser='lion'.*adam"):
      optimisers.make_optimiser("lion", 0.1, 10, placement.parse("CNN"))
    with self.assertRaisesRegex(ValueError, "schedule='linear'.*cosine"):
      optimisers.make_optimiser(
        "sgd", 0.1, 10, placement.parse("CNN"), schedule="linear"
      )


class EvaluateTest(parameterized.TestCase):
  @parameterized.parameters(1, 19)
  def test_every_image_counts_once_whatever_the_batch(self, n):
    data = toy_data(n)
    program, state = make("STN-SL1")
    (result,) = program.evaluate(state, data, 3)
    self.assertEqual(result.label.shape, (n,))
    self.assertEqual(result.pose.shape, (n, 2, 3))
    # One by one, by hand, with each image's own key.
    recipe = program.recipe
    pass_key = jax.random.fold_in(random_key(0, "evaluate"), 3)
    own = of(state, 0)
    model = nnx.merge(recipe.graphdef, own.params, own.stats)
    for index in range(n):
      key = jax.random.fold_in(pass_key, index)
      image, truth = recipe.prepare(
        key[None], data.images[index : index + 1], None
      )
      logits = model(image).logits
      loss = optax.softmax_cross_entropy_with_integer_labels(
        logits, data.labels[index : index + 1]
      )
      np.testing.assert_allclose(result.loss[index], loss[0], atol=1e-4)
      np.testing.assert_allclose(
        result.truth["rotation"][index], truth["rotation"][0], atol=1e-6
      )

  def test_passes_differ_and_repeat(self):
    program, state = make()
    data = toy_data(20)
    first, again, other = (
      program.evaluate(state, data, i)[0] for i in (0, 0, 1)
    )
    np.testing.assert_array_equal(first.loss, again.loss)
    angles = [p.truth["rotation"] for p in (first, other)]
    self.assertGreater(np.abs(angles[0] - angles[1]).min(), 0)

  def test_examples_show_what_the_transformer_sees_and_makes(self):
    program, state = make("STN-SL1")
    images = toy_data(3).images
    ((before, after),) = program.examples(state, images, 0)
    self.assertEqual(before.shape, images.shape)
    np.testing.assert_allclose(before, after, atol=1e-5)  # still the identity
    self.assertGreater(np.abs(before - images / 255).max(), 0.1)  # turned
    self.assertBetween(before.max(), 0.5, 1.0)


class HeadsTest(absltest.TestCase):
  """Several answers per image, such as the digits of a house number."""

  def data(self):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (16, 3)).astype(np.int32)
    return data.Examples(toy_data(16).images, labels)

  def expected(self, program, states, data):
    """Each image's loss and labels, by NumPy."""
    own = of(states, 0)
    model = nnx.merge(program.recipe.graphdef, own.params, own.stats)
    images = (data.images.astype(np.float32) / 255 - 0.1) / 0.3
    logits = np.asarray(model(images).logits, np.float64)
    self.assertEqual(logits.shape, (16, 3, 4))
    shares = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    losses = np.zeros(16)
    for image in range(16):
      for head in range(3):
        losses[image] -= np.log(shares[image, head, data.labels[image, head]])
    return losses, logits.argmax(axis=-1)

  def test_losses_add_up_and_all_heads_must_be_right(self):
    program, states = make("CNN", heads=3, perturbation="none")
    data = self.data()
    losses, labels = self.expected(program, states, data)
    # Some images are right in every head, some in all but one.
    data.labels[:5] = labels[:5]
    data.labels[5:9, 1:] = labels[5:9, 1:]
    data.labels[5:9, 0] = (labels[5:9, 0] + 1) % 4
    losses, labels = self.expected(program, states, data)
    wrong = sum(
      any(a != b for a, b in zip(*pair))
      for pair in zip(labels.tolist(), data.labels.tolist())
    )
    self.assertBetween(wrong, 4, 11)
    (found,) = program.evaluate(states, data, 0)
    np.testing.assert_allclose(found.loss, losses, rtol=1e-4)
    np.testing.assert_array_equal(found.label, labels)
    totals = of(program.train(states, data, 1), 0).totals
    np.testing.assert_allclose(totals.loss, losses.sum(), rtol=1e-4)
    self.assertEqual((int(totals.count), int(totals.wrong)), (16, wrong))


class PrepareTest(parameterized.TestCase):
  def recipe(self, perturbation, mean=(0.1,), std=(0.3,)):
    return dataclasses.replace(
      make("CNN")[0].recipe, perturbation=perturbation, mean=mean, std=std
    )

  @parameterized.parameters("free_augmentation", "light_augmentation")
  def test_augmentation_is_for_training_alone(self, name):
    images, keys = toy_data(4).images, jax.random.split(jax.random.key(0), 4)
    plain = (images.astype(np.float32) / 255 - 0.1) / 0.3
    recipe = self.recipe(name)
    evaluated, truth = recipe.prepare(keys, images, None)
    np.testing.assert_allclose(evaluated, plain, atol=1e-5)
    self.assertEqual(truth, {})
    trained, truth = recipe.prepare(keys, images, None, train=True)
    self.assertEqual(truth, {})
    for image, other in zip(trained, plain, strict=True):
      self.assertGreater(np.abs(image - other).max(), 0.3)

  def test_the_program_augments_training_alone(self):
    data, flags = toy_data(16), []
    program, states = make_afresh("CNN", perturbation="light_augmentation")
    prepare = steps.TrainSpec.prepare

    def noting(recipe, *args, train=False):
      flags.append(train)
      return prepare(recipe, *args, train=train)

    with mock.patch.object(steps.TrainSpec, "prepare", noting):
      (found,) = program.evaluate(states, data, 0)
      self.assertEqual(set(flags), {False})
      flags.clear()
      program.train(states, data, 1)
      self.assertEqual(set(flags), {True})
    own = of(states, 0)
    model = nnx.merge(program.recipe.graphdef, own.params, own.stats)
    images = (data.images.astype(np.float32) / 255 - 0.1) / 0.3
    expected = optax.softmax_cross_entropy_with_integer_labels(
      model(images).logits, data.labels
    )
    np.testing.assert_allclose(found.loss, expected, atol=1e-4)

  def test_other_perturbations_are_for_evaluation_too(self):
    images, keys = toy_data(4).images, jax.random.split(jax.random.key(0), 4)
    recipe = self.recipe("rotation")
    pair = [recipe.prepare(keys, images, None, train=t) for t in (False, True)]
    self.assertEqual(max_difference(*pair), 0)

  def test_each_channel_is_normalised_by_its_own(self):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.5)
    found, _ = self.recipe("none", mean, std).prepare(
      jax.random.split(jax.random.key(0), 2), images, None
    )
    for channel in range(3):
      expected = (images[..., channel] / 255 - mean[channel]) / std[channel]
      np.testing.assert_allclose(found[..., channel], expected, atol=1e-5)

  @parameterized.parameters(
    ("mnist", "none", 0.1307, 0.3081),
    ("mnist_subset", "rotation", 0.1307, 0.3081),
    ("mnist", "translation", 0.0363, 0.1870),
    ("mnist_subset", "scale", 0.0414, 0.1751),
  )
  def test_mnist_is_normalised_as_in_the_paper(self, dataset, name, mean, std):
    images = np.zeros((1, 28, 28, 1), np.uint8)
    found = steps.normalisation(dataset, name, images)
    self.assertEqual(found, ((mean,), (std,)))

  def test_other_sets_are_normalised_by_their_statistics(self):
    rng = np.random.default_rng(0)
    images = rng.integers(0, [40, 256, 3], (50, 9, 8, 3)).astype(np.uint8)
    images[:, :2] = 255
    mean, std = steps.normalisation("cifar10", "light_augmentation", images)
    values = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-9)
    np.testing.assert_allclose(std, values.std(axis=(0, 1, 2)), rtol=1e-9)


if __name__ == "__main__":
  absltest.main()
