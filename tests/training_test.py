"""The steps: what they compute, and that devices change nothing."""

from unittest import mock

from absl.testing import absltest, parameterized
import chex
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from stnjax import datasets, networks, training


def toy_data(n, seed=0):
  """Bright squares in the quarter that the label names."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 4, n).astype(np.int32)
  images = rng.integers(0, 30, (n, 28, 28, 1)).astype(np.uint8)
  for image, label in zip(images, labels, strict=True):
    y, x = divmod(int(label), 2)
    image[4 + 12 * y : 12 + 12 * y, 4 + 12 * x : 12 + 12 * x] = 220
  return datasets.Data(images, labels)


def make(
  name="STN-SL1",
  *,
  devices=1,
  batch_size=16,
  perturbation="rotation",
  optimiser=None,
  batch_norm=False,
  seed=0,
):
  network = networks.create(
    name, filters=(4, 4), num_classes=4, batch_norm=batch_norm, rngs=nnx.Rngs(0)
  )
  optimiser = optimiser or training.make_optimiser("adam", 1e-3, 100)
  graphdef, state = training.init_state(network, optimiser)
  recipe = training.Recipe(
    graphdef, optimiser, perturbation, 0.1, 0.3, batch_size, seed
  )
  return training.Program(recipe, jax.devices()[:devices]), state


def noting_prepare(note):
  """Calls `note(images, truth)` with each batch that is prepared."""
  prepare = training.Recipe.prepare

  def noting(recipe, keys, images):
    result, truth = prepare(recipe, keys, images)
    jax.debug.callback(
      lambda *arrays: note(*jax.tree.map(np.asarray, arrays)), images, truth
    )
    return result, truth

  return mock.patch.object(training.Recipe, "prepare", noting)


def max_difference(a, b):
  gaps = jax.tree.map(
    lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), a, b
  )
  return max(jax.tree.leaves(gaps), default=0)


class DeviceTest(parameterized.TestCase):
  @parameterized.parameters(
    ("CNN", False), ("STN-C1", True), ("STN-SL1", False)
  )
  def test_pmap_on_four_devices_equals_jit_on_one(self, name, batch_norm):
    data, test = toy_data(64), toy_data(23, 1)
    states, predictions = [], []
    for devices in (1, 4):
      program, state = make(name, devices=devices, batch_norm=batch_norm)
      state = program.train(state, data, 4)
      states.append(state)
      predictions.append(program.evaluate(state, test, 0))
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
    np.testing.assert_array_equal(
      predictions[0].truth["rotation"], predictions[1].truth["rotation"]
    )

  def test_batch_that_does_not_divide_is_refused(self):
    with self.assertRaisesRegex(ValueError, "batch_size=18.*multiple of 4"):
      make(devices=4, batch_size=18)

  def test_batch_larger_than_the_set_is_refused(self):
    program, state = make(batch_size=64)
    with self.assertRaisesRegex(
      ValueError, "larger than the training set of 32"
    ):
      program.train(state, toy_data(32), 1)


class TrainTest(parameterized.TestCase):
  def test_one_step_is_the_optimiser_on_the_mean_gradient(self):
    """Against a step written out: SGD on the batch that the order names."""
    optimiser = training.make_optimiser("sgd", 0.1, 100)
    program, state = make("CNN", optimiser=optimiser, perturbation="none")
    data, recipe = toy_data(40), program.recipe
    order = jax.random.permutation(
      jax.random.fold_in(recipe.key("order"), 0), 40
    )[:16]
    images = (data.images[order].astype(np.float32) / 255 - 0.1) / 0.3

    def loss(params):
      model = nnx.merge(recipe.graphdef, params, state.stats)
      chosen = jax.nn.log_softmax(model(images).logits)
      return -chosen[np.arange(16), data.labels[order]].mean()

    value, grads = jax.value_and_grad(loss)(state.params)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params, grads)
    after = program.train(state, data, 1)
    self.assertLess(max_difference(after.params, expected), 1e-6)
    np.testing.assert_allclose(after.totals.loss / 16, value, rtol=1e-5)
    self.assertEqual(int(after.totals.count), 16)

  def test_dispatches_change_nothing(self):
    data = toy_data(64)
    program, state = make()
    whole = program.train(state, data, 4)
    for steps in (1, 2, 1):
      state = program.train(state, data, steps)
    self.assertEqual(max_difference(whole, state), 0)

  def test_totals_start_anew_with_the_epoch(self):
    data = toy_data(36)  # two whole batches of 16
    program, state = make()
    state = program.train(state, data, 2)
    self.assertEqual(int(state.totals.count), 32)
    state = program.train(state, data, 1)
    self.assertEqual(int(state.totals.count), 16)
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
        program, _ = make("CNN", batch_size=8)
        state = program.train(state, data, 4)
        jax.effects_barrier()
      orders.append(np.concatenate(seen)[:, 0, 0, 0].tolist())
    for order in orders:
      self.assertCountEqual(order, range(32))
    self.assertNotEqual(*orders)

  def test_every_image_of_every_step_is_perturbed_afresh(self):
    """With the same images in a batch, only the perturbation can differ."""
    data = toy_data(16)
    data = datasets.Data(np.repeat(data.images[:1], 16, 0), data.labels)
    seen = []
    program, state = make("CNN", batch_size=4)
    with noting_prepare(lambda _, truth: seen.append(truth["rotation"])):
      program.train(state, data, 4)
      jax.effects_barrier()
    self.assertLen(np.unique(np.concatenate(seen)), 16)

  def test_one_compilation_serves_all_dispatches(self):
    program, state = make("CNN")
    data = toy_data(96)
    once = chex.assert_max_traces(training.train_step, n=1)
    with mock.patch.object(training, "train_step", once):
      for steps in (1, 3, 2):
        state = program.train(state, data, steps)
    self.assertEqual(int(state.step), 6)

  def test_the_device_that_is_named_is_used(self):
    _, state = make("CNN")
    program = training.Program(make("CNN")[0].recipe, jax.devices()[2:3])
    state = program.train(state, toy_data(16), 1)
    self.assertEqual(state.step.devices(), {jax.devices()[2]})

  def test_it_learns(self):
    data = toy_data(256)
    program, state = make("STN-SL1", perturbation="none", batch_size=32)
    for _ in range(8):
      state = program.train(state, data, 8)
    predicted = program.evaluate(state, toy_data(100, 5), 0).label
    self.assertLess(np.mean(predicted != toy_data(100, 5).labels), 0.05)

  def test_seed_decides(self):
    data = toy_data(64)
    runs = []
    for seed in (0, 0, 1):
      program, state = make(seed=seed)
      runs.append(program.train(state, data, 2))
    self.assertEqual(max_difference(runs[0].params, runs[1].params), 0)
    self.assertGreater(max_difference(runs[0].params, runs[2].params), 1e-4)


class OptimiserTest(parameterized.TestCase):
  @parameterized.parameters("STN-DL1", "STN-SL1")
  def test_localisation_has_its_own_rate(self, name):
    """SGD moves by rate x gradient: the ratio of moves is the multiplier."""
    data = toy_data(32)
    moves = []
    for multiplier in (1.0, 0.25):
      optimiser = training.make_optimiser(
        "sgd", 1e-3, 100, localisation_lr=multiplier
      )
      program, state = make(name, optimiser=optimiser)
      after = program.train(state, data, 1)
      moves.append(
        jax.tree.map(lambda a, b: np.asarray(a - b), after.params, state.params)
      )
    head = [m["localisers"]["1"]["head"]["bias"][...] for m in moves]
    np.testing.assert_allclose(head[1], 0.25 * head[0], rtol=1e-3, atol=1e-9)
    self.assertGreater(np.abs(head[0]).max(), 1e-7)
    own = [m["blocks"][0]["conv"]["kernel"][...] for m in moves]
    np.testing.assert_allclose(own[1], own[0], rtol=1e-3, atol=1e-8)

  @parameterized.parameters(
    ("constant", [1, 1, 1, 1]),
    ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ("step", [1, 1, 0.1, 0.01]),
  )
  def test_schedules(self, schedule, expected):
    tx = training.make_optimiser("sgd", 1.0, 100, schedule=schedule)
    params = {"blocks": jnp.zeros(())}
    rates = []
    for start in (0, 25, 50, 75):
      state = tx.init(params)
      state = jax.tree.map(
        lambda x, start=start: (
          x + start if jnp.issubdtype(x.dtype, jnp.integer) else x
        ),
        state,
      )
      updates, _ = tx.update({"blocks": jnp.ones(())}, state, params)
      rates.append(-float(updates["blocks"]))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "optimiser='lion'.*adam"):
      training.make_optimiser("lion", 0.1, 10)
    with self.assertRaisesRegex(ValueError, "schedule='linear'.*cosine"):
      training.make_optimiser("sgd", 0.1, 10, schedule="linear")


class EvaluateTest(parameterized.TestCase):
  @parameterized.parameters(1, 16, 19)
  def test_every_image_counts_once_whatever_the_batch(self, n):
    data = toy_data(n)
    program, state = make("STN-SL1")
    result = program.evaluate(state, data, 3)
    self.assertEqual(result.label.shape, (n,))
    self.assertEqual(result.pose.shape, (n, 2, 3))
    # One by one, by hand, with each image's own key.
    recipe = program.recipe
    pass_key = jax.random.fold_in(recipe.key("evaluate"), 3)
    model = nnx.merge(recipe.graphdef, state.params, state.stats)
    for index in range(n):
      key = jax.random.fold_in(pass_key, index)
      image, truth = recipe.prepare(key[None], data.images[index : index + 1])
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
    first, again, other = (program.evaluate(state, data, i) for i in (0, 0, 1))
    np.testing.assert_array_equal(first.loss, again.loss)
    angles = [p.truth["rotation"] for p in (first, other)]
    self.assertGreater(np.abs(angles[0] - angles[1]).min(), 0)

  def test_examples_show_what_the_transformer_sees_and_makes(self):
    program, state = make("STN-SL1")
    images = toy_data(3).images
    before, after = program.examples(state, images, 0)
    self.assertEqual(before.shape, images.shape)
    np.testing.assert_allclose(before, after, atol=1e-5)  # still the identity
    self.assertGreater(np.abs(before - images / 255).max(), 0.1)  # turned
    self.assertBetween(before.max(), 0.5, 1.0)


if __name__ == "__main__":
  absltest.main()
