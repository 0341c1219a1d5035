"""Optimisers: schedules, and a learning rate for each part of a network."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stnjax import placement
from stnjax.training import optimisers
from tests.training import toy_trainers
from tests.training.toy_trainers import examples, make


class PartsTest(parameterized.TestCase):
  @parameterized.parameters("STN-DL1", "STN-SL1")
  @pytest.mark.slow
  def test_localisation_has_its_own_rate(self, name):
    """SGD moves by rate x gradient: the ratio of moves is the multiplier."""
    train = examples(32)
    moves = []
    for multiplier in (1.0, 0.25):
      optimiser = optimisers.make_optimiser(
        "sgd",
        1e-3,
        100,
        placement.parse(name),
        localisation_lr=multiplier,
      )
      built, state = make(name, optimiser=optimiser)
      after = built.train(state, train, 1)
      moves.append(
        jax.tree.map(
          lambda a, b: np.asarray(a - b)[0], after.params, state.params
        )
      )
    head = [toy_trainers.localisation_bias(move)[...] for move in moves]
    np.testing.assert_allclose(head[1], 0.25 * head[0], rtol=1e-3, atol=1e-9)
    self.assertGreater(np.abs(head[0]).max(), 1e-7)
    own = [m["stages"][0]["conv"]["kernel"][...] for m in moves]
    np.testing.assert_allclose(own[1], own[0], rtol=1e-3, atol=1e-8)

  @parameterized.parameters(
    ("CNN", 1, 1),
    ("STN-C0", 1, 1),
    ("STN-C1", 0.5, 1),
    ("STN-C2", 0.5, 0.5),
    ("STN-DL2", 1, 1),
    ("STN-SL1", 0.5, 1),
    ("STN-SL0,2", 0.5, 0.5),
    ("STN-UCN1", 0.5, 1),
    ("DEF1", 0.5, 1),
  )
  def test_every_part_has_its_own_rate(self, name, first, second):
    network = nnx.eval_shape(
      lambda: placement.create(
        toy_trainers.BACKBONES["rich"],
        name,
        placement.Task((28, 28, 1), 4),
        rngs=nnx.Rngs(0),
      )
    )
    params = jax.tree.map(
      lambda x: np.zeros(x.shape, x.dtype), nnx.state(network, nnx.Param)
    )
    optimiser = optimisers.make_optimiser(
      "sgd",
      0.1,
      100,
      network.placement,
      localisation_lr=0.25,
      pre_transformer_lr=0.5,
    )
    ones = jax.tree.map(np.ones_like, params)
    updates, _ = optimiser.update(ones, optimiser.init(params), params)
    seen = set()
    for path, update in nnx.to_flat_state(updates):
      seen.add(path[0])
      if path[0] == "stages":
        rate = (first, second)[int(path[1])]
      else:
        rate = {"sites": 0.25, "head": 1}[path[0]]
      np.testing.assert_allclose(
        update.get_value(), -0.1 * rate, rtol=1e-5, err_msg=str(path)
      )
    self.assertEqual("sites" in seen, name != "CNN")


class HalvingTest(parameterized.TestCase):
  @parameterized.parameters("sgd", "adam")
  def test_halvings_are_localisation_s_alone(self, name):
    optimiser = optimisers.make_optimiser(
      name,
      1.0,
      100,
      placement.parse("STN-SL1"),
      localisation_lr=0.5,
      halvings=(2, 3),
    )
    params = {"sites": jnp.zeros(()), "head": jnp.zeros(())}
    ones = jax.tree.map(jnp.ones_like, params)
    state, ratios = optimiser.init(params), []
    for _ in range(5):
      updates, state = optimiser.update(ones, state, params)
      ratios.append(float(updates["sites"] / updates["head"]))
    np.testing.assert_allclose(ratios, [0.5, 0.5, 0.25, 0.125, 0.125])


class TorchTest(parameterized.TestCase):
  """Steps of the optimiser and its schedule against torch's."""

  @parameterized.parameters(
    ("sgd", {}),
    ("sgd", {"weight_decay": 0.1}),
    ("sgd", {"momentum": 0.9, "weight_decay": 0.1}),
    ("sgd", {"momentum": 0.8, "nesterov": True}),
    ("sgd", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.2}),
    ("adam", {"weight_decay": 0.1}),
  )
  @pytest.mark.slow
  def test_steps(self, name, options):
    torch = pytest.importorskip("torch")
    start = np.array([0.5, -2.0, 1.0], np.float32)
    theirs = torch.tensor(start, requires_grad=True)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[name]
    optimiser = kind([theirs], lr=0.1, **options)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimiser, [2, 5])
    if name == "sgd":
      options = {"momentum": 0.0, **options}
    ours = optimisers.make_optimiser(
      name,
      0.1,
      100,
      placement.parse("CNN"),
      schedule_name="step",
      drop_steps=(2, 5),
      **options,
    )
    params = {"head": jnp.asarray(start)}
    state, update = ours.init(params), jax.jit(ours.update)
    for _ in range(7):
      optimiser.zero_grad()
      torch.sin(theirs).sum().backward()
      optimiser.step()
      drops.step()
      gradient = {"head": jnp.cos(params["head"])}
      updates, state = update(gradient, state, params)
      params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(
      params["head"], theirs.detach().numpy(), rtol=1e-5
    )
    self.assertGreater(np.abs(params["head"] - start).max(), 0.01)


class ScheduleTest(parameterized.TestCase):
  @parameterized.parameters(
    ("constant", [1, 1, 1, 1]),
    ("cosine", [1, 0.853553, 0.5, 0.146447]),
    ("step", [1, 1, 0.1, 0.01]),
  )
  def test_schedules(self, schedule, expected):
    rate = optimisers.schedule(schedule, 1.0, 100)
    steps = (0, 25, 50, 75)
    np.testing.assert_allclose([rate(k) for k in steps], expected, rtol=1e-5)
    optimiser = optimisers.make_optimiser(
      "sgd", 1.0, 100, placement.parse("CNN"), schedule_name=schedule
    )
    params, ones = {"head": jnp.zeros(())}, {"head": jnp.ones(())}
    rates = []
    for start in steps:
      state = jax.tree.map(
        lambda x, start=start: (
          x + start if jnp.issubdtype(x.dtype, jnp.integer) else x
        ),
        optimiser.init(params),
      )
      updates, _ = optimiser.update(ones, state, params)
      rates.append(-float(updates["head"]))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)

  @parameterized.parameters(
    ({}, [1, 1.9, 2.71]), ({"momentum": 0.0}, [1, 1, 1])
  )
  def test_momentum_of_sgd(self, options, expected):
    optimiser = optimisers.make_optimiser(
      "sgd", 1.0, 100, placement.parse("CNN"), **options
    )
    params, ones = {"head": jnp.zeros(())}, {"head": jnp.ones(())}
    state, moves = optimiser.init(params), []
    for _ in range(3):
      updates, state = optimiser.update(ones, state, params)
      moves.append(-float(updates["head"]))
    np.testing.assert_allclose(moves, expected, rtol=1e-6)

  def test_steps_at_which_the_rate_drops(self):
    rate = optimisers.schedule("step", 1.0, 100, (3, 7))
    np.testing.assert_allclose(
      [rate(k) for k in (0, 2, 3, 6, 7, 99)],
      [1, 1, 0.1, 0.1, 0.01, 0.01],
      rtol=1e-5,
    )

  def test_unknown_names(self):
    with self.assertRaisesRegex(ValueError, "optimiser='lion'.*adam"):
      optimisers.make_optimiser("lion", 0.1, 10, placement.parse("CNN"))
    with self.assertRaisesRegex(ValueError, "schedule='linear'.*cosine"):
      optimisers.make_optimiser(
        "sgd", 0.1, 10, placement.parse("CNN"), schedule_name="linear"
      )


if __name__ == "__main__":
  absltest.main()
