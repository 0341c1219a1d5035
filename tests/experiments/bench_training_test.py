"""The benchmark of training: that it compares the same networks, and runs."""

import dataclasses
import functools
import json
import pathlib

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import numpy as np
import optax
import pytest
import torch

from experiments.bench import training, training_stnjax, training_torch
from experiments.bench.training_spec import TrainingSpec
from stnjax import placement
from stnjax.training import optimisers
from tests import scripts


@functools.cache
def settings_of(name, protocol="sweep"):
  """The settings of a narrow network."""
  followed, changes = training.PROTOCOLS[protocol](), {"batch_size": 4}
  # Few filters of many layers would all be dead.
  changes["width"] = 0.2 if protocol == "house_numbers" else 0.05
  return training.settings_of(followed, [name], 1, **changes)[0]


@functools.cache
def network_of(settings):
  return training_stnjax.warping(training_stnjax.build_network(settings))


def peer_of(settings, network):
  peer = training_torch.Network(training_stnjax.network_spec(settings))
  training_torch.load_weights(peer, training_stnjax.weights(network))
  return peer


def pair(name, protocol="sweep"):
  """A network whose transformer warps, torch's with its weights, images."""
  settings = settings_of(name, protocol)
  network = network_of(settings)
  peer = peer_of(settings, network)
  images = np.random.default_rng(0).normal(size=(4, *peer.spec.image_shape))
  return network, peer, images.astype(np.float32)


def stnjax_optimiser(settings, total_steps):
  """The optimiser of a run of so many steps."""
  return optimisers.make_optimiser(
    settings.optimiser,
    settings.learning_rate,
    total_steps,
    placement.parse(settings.network),
    momentum=settings.momentum,
    schedule_name=settings.schedule,
    localisation_lr=settings.localisation_lr,
    pre_transformer_lr=settings.pre_transformer_lr,
  )


class SameNetworkTest(parameterized.TestCase):
  def check_until_a_weight_changes(self, name, protocol):
    network, peer, images = pair(name, protocol)
    training.check_same_size(name, network, peer)
    training.check_same_logits(name, network, peer, images)
    changing = [peer.blocks[0].conv]
    if peer.localiser is not None:
      changing.append(peer.localiser.head)
    for layer in changing:
      before = layer.bias.detach().clone()
      with torch.no_grad():
        layer.bias += 0.1
        with self.assertRaisesRegex(RuntimeError, f"{name} .* logits are off"):
          training.check_same_logits(name, network, peer, images)
        layer.bias.copy_(before)
    training.check_same_logits(name, network, peer, images)

  @pytest.mark.slow
  def test_same_logits_until_a_weight_changes(self):
    self.check_until_a_weight_changes("STN-C1", "sweep")

  @parameterized.parameters(
    ("CNN", "sweep"),
    ("STN-C0", "sweep"),
    ("STN-C1", "paper"),
    ("STN-DL1", "sweep"),
    ("STN-DL1", "paper"),
    ("STN-SL1", "sweep"),
    ("CNN", "cifar"),
    ("STN-SL2", "cifar"),
    ("STN-C0", "house_numbers"),
    ("STN-DL3", "house_numbers"),
  )
  @pytest.mark.slow
  def test_same_logits_of_other_networks(self, name, protocol):
    self.check_until_a_weight_changes(name, protocol)

  @pytest.mark.slow
  def test_logits_that_are_no_numbers_are_noticed(self):
    network, peer, images = pair("STN-C1")
    with torch.no_grad():
      peer.head.last.bias.fill_(np.nan)
    with self.assertRaisesRegex(RuntimeError, "logits are off by up to nan"):
      training.check_same_logits("STN-C1", network, peer, images)

  def test_another_size_is_noticed(self):
    settings = settings_of("STN-C1")
    spec = training_stnjax.network_spec(settings)
    wider = dataclasses.replace(spec.localiser, hidden=(32, 32, 33))
    peer = training_torch.Network(dataclasses.replace(spec, localiser=wider))
    with self.assertRaisesRegex(RuntimeError, "STN-C1 .* parameters instead"):
      training.check_same_size("STN-C1", network_of(settings), peer)


class SameOptimiserTest(parameterized.TestCase):
  def check_steps(self, name, protocol, changes):
    """From the same gradients, through all of the schedule."""
    network, peer, _ = pair(name)
    settings = dataclasses.replace(
      training.PROTOCOLS[protocol]().settings, network=name, **changes
    )
    network = nnx.clone(network)
    # As large as the weights, and in the same places.
    for parameter in peer.parameters():
      parameter.grad = parameter.detach().clone()
    params = gradients = nnx.state(network, nnx.Param)
    ours = stnjax_optimiser(settings, 8)
    state = ours.init(params)
    optimiser, schedule = training_torch.make_optimiser(
      peer, spec_of(settings, total_steps=8)
    )

    @jax.jit
    def step(params, state):
      updates, state = ours.update(gradients, state, params)
      return optax.apply_updates(params, updates), state

    for _ in range(8):
      params, state = step(params, state)
      optimiser.step()
      schedule.step()
    nnx.update(network, params)
    expected = peer_of(settings_of(name), network)
    for (path, ours), theirs in zip(
      expected.named_parameters(), peer.parameters(), strict=True
    ):
      np.testing.assert_allclose(
        ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-6, err_msg=path
      )

  @pytest.mark.slow
  def test_sgd_with_a_factor_in_front_of_the_transformer(self):
    self.check_steps("STN-C1", "paper", dict(pre_transformer_lr=0.5))

  @parameterized.parameters(
    ("STN-SL1", "paper", {}),
    ("STN-DL1", "sweep", dict(localisation_lr=0.3)),
  )
  @pytest.mark.slow
  def test_others(self, name, protocol, changes):
    self.check_steps(name, protocol, changes)


def spec_of(settings, **changes):
  images = np.zeros((settings.batch_size, 28, 28, 1), np.uint8)
  spec = training_stnjax.training_spec(settings, images)
  return dataclasses.replace(spec, **changes)


@pytest.mark.slow
def test_torch_learns():
  torch.manual_seed(0)
  rng = np.random.default_rng(0)
  labels = np.arange(64, dtype=np.int32) % 2
  images = rng.integers(0, 100, (64, 28, 28, 1)).astype(np.uint8)
  images[labels == 1] += 100
  spec = TrainingSpec(
    rotated=True,
    batch_size=16,
    total_steps=60,
    optimiser="adam",
    momentum=0.0,
    learning_rate=1e-3,
    schedule="cosine",
    localisation_lr=1.0,
    pre_transformer_lr=1.0,
    mean=[0.1307],
    std=[0.3081],
  )
  network = training_stnjax.network_spec(settings_of("CNN"))
  peer = training_torch.Network(network)

  def loss():
    pixels = (images / np.float32(255) - spec.mean) / spec.std
    logits = training_torch.logits(peer, pixels.astype(np.float32))
    expected = torch.tensor(labels).long()
    return float(
      torch.nn.functional.cross_entropy(torch.tensor(logits), expected)
    )

  before = loss()
  training_torch.training(peer, spec, images, labels, 30)()
  assert loss() < 0.9 * before


@pytest.mark.parametrize(
  "networks, changes, message",
  [
    (["DEF1"], {}, "network='DEF1' has no counterpart in torch"),
    (["STN-SL1x2"], {}, "has no counterpart in torch"),
    (["CNN", "STN-C5"], {}, "depth 5 is deeper than the backbone"),
    (["CNN"], {"width": 0.0}, "width must be positive"),
    (["CNN"], {"batch_size": 20000}, "--batch_size must be at most 10000"),
    (["STN-C0"], {"width": 1e4}, "accepted: at most 2,147,483,647"),
  ],
)
def test_networks_that_cannot_be_built(networks, changes, message):
  with pytest.raises(ValueError, match=message):
    training.settings_of(training.PROTOCOLS["sweep"](), networks, 1, **changes)


def test_steps_beyond_an_epoch():
  protocol = training.PROTOCOLS["sweep"]()
  training.check_steps(protocol, protocol.settings, 156)
  with pytest.raises(ValueError, match="--steps must be at most 156.*got 157"):
    training.check_steps(protocol, protocol.settings, 157)


@pytest.mark.slow
def test_small_run(tmp_path):
  done = scripts.run(
    "bench_training",
    "--networks=STN-SL1",
    "--width=0.05",
    "--batch_size=4",
    "--steps=1",
    "--rounds=1",
    "--seeds=2",
    f"--output={tmp_path}",
  )
  assert done.returncode == 0, done.stderr
  text = pathlib.Path(tmp_path, "bench_training.md").read_text()
  assert "| STN-SL1 | " in text
  results = json.loads((tmp_path / "bench_training.json").read_text())
  assert results["machine"]["backend"] == "cpu"
  assert results["settings"]["batch_size"] == 4
  assert (results["protocol"], results["images"]) == ("sweep", 10000)
  assert [(row["library"], row["seeds"]) for row in results["rows"]] == [
    ("stnjax", 1),
    ("stnjax", 2),
    ("torch", 1),
  ]
  for row in results["rows"]:
    (seconds,) = row["seconds"]
    assert seconds > 0
    assert row["seconds_per_epoch"] == pytest.approx(2500 * seconds)


if __name__ == "__main__":
  absltest.main()
