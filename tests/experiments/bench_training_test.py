"""The benchmark of training: that it compares the same networks, and runs."""

import json
import pathlib

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import numpy as np
import optax
import pytest
import torch

from experiments import bench_training
from stnjax import data as datasets
from stnjax.placement import placements
from stnjax.training import runs, steps
from tests import scripts


def run(*flags):
  return scripts.run("bench_training", *flags)


def settings_of(name, protocol="sweep", **changes):
  changes = {"width": 0.05, "batch_size": 4} | changes
  return bench_training.PROTOCOLS[protocol].of(name, **changes)


def pair(name, **changes):
  """A network whose transformer warps, torch's with its weights, images."""
  settings = settings_of(name, **changes)
  network = bench_training.turned(runs.build_network(settings))
  peer = bench_training.torch_network(settings)
  bench_training.copy_weights(network, peer)
  images = np.random.default_rng(0).normal(size=(4, 28, 28, 1))
  return network, peer, images.astype(np.float32)


class SameNetworkTest(parameterized.TestCase):
  @parameterized.parameters(
    *((name, "sweep") for name in bench_training.NETWORKS),
    ("STN-C1", "paper"),
    ("STN-DL1", "paper"),
  )
  def test_same_logits_until_a_weight_changes(self, name, protocol):
    network, peer, images = pair(name, protocol=protocol)
    bench_training.check_same_size(name, network, peer)
    bench_training.check_same_logits(name, network, peer, images)
    for changed in (
      peer.blocks[0],
      *(p["head"] for p in peer.localisers.values()),
    ):
      before = changed.bias.detach().clone()
      with torch.no_grad():
        changed.bias += 0.1
        with self.assertRaisesRegex(RuntimeError, f"{name} .* logits are off"):
          bench_training.check_same_logits(name, network, peer, images)
        changed.bias.copy_(before)
    bench_training.check_same_logits(name, network, peer, images)

  def test_logits_that_are_no_numbers_are_noticed(self):
    network, peer, images = pair("CNN")
    with torch.no_grad():
      peer.head.bias.fill_(np.nan)
    with self.assertRaisesRegex(RuntimeError, "logits are off by up to nan"):
      bench_training.check_same_logits("CNN", network, peer, images)

  def test_another_size_is_noticed(self):
    network, _, _ = pair("CNN", width=0.05)
    _, peer, _ = pair("CNN", width=0.1)
    with self.assertRaisesRegex(RuntimeError, "CNN .* parameters instead of"):
      bench_training.check_same_size("CNN", network, peer)

  @parameterized.parameters(
    ("STN-SL1", "paper", {}),
    ("STN-C1", "paper", dict(before_lr=0.5)),
    ("STN-DL1", "sweep", dict(localisation_lr=0.3)),
  )
  def test_same_steps_of_the_optimiser(self, name, protocol, changes):
    """From the same gradients, through all of the schedule."""
    settings = settings_of(name, protocol, **changes)
    network, peer, _ = pair(name, protocol=protocol, **changes)
    gradients = nnx.clone(network)  # as large as the weights, not the weights
    slopes = bench_training.torch_network(settings)
    bench_training.copy_weights(gradients, slopes)
    for parameter, slope in zip(peer.parameters(), slopes.parameters()):
      parameter.grad = slope.detach().clone()
    ours = steps.make_optimiser(
      settings.optimiser,
      settings.learning_rate,
      8,
      placements.parse(name),
      schedule=settings.schedule,
      localisation_lr=settings.localisation_lr,
      before_lr=settings.before_lr,
    )
    params, grads = (
      nnx.state(module, nnx.Param) for module in (network, gradients)
    )
    state = ours.init(params)
    optimiser, schedule = bench_training.torch_optimiser(settings, peer, 8)
    for _ in range(8):
      updates, state = ours.update(grads, state, params)
      params = optax.apply_updates(params, updates)
      optimiser.step()
      schedule.step()
    nnx.update(network, params)
    expected = bench_training.torch_network(settings)
    bench_training.copy_weights(network, expected)
    for (path, ours), theirs in zip(
      expected.named_parameters(), peer.parameters()
    ):
      np.testing.assert_allclose(
        ours.detach(), theirs.detach(), rtol=1e-4, atol=1e-6, err_msg=path
      )

  @pytest.mark.slow
  def test_torch_learns(self):
    torch.manual_seed(0)
    settings = settings_of("CNN", batch_size=16)
    rng = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int32) % 2
    images = rng.integers(0, 100, (64, 28, 28, 1)).astype(np.uint8)
    images[labels == 1] += 100
    data = datasets.Data(images, labels)
    program, _ = runs.build_program([settings], images, jax.devices()[:1])
    peer = bench_training.torch_network(settings)

    def loss():
      x = torch.tensor(images).permute(0, 3, 1, 2) / 255
      with torch.no_grad():
        logits = peer((x - 0.1307) / 0.3081)
      expected = torch.tensor(labels).long()
      return float(torch.nn.functional.cross_entropy(logits, expected))

    before = loss()
    bench_training.torch_training(settings, program.recipe, peer, data, 30)()
    self.assertLess(loss(), 0.9 * before)


class ScriptTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_small_run_and_no_overwriting(self):
    output = self.create_tempdir().full_path
    done = run(
      "--networks=STN-SL1",
      "--width=0.05",
      "--batch_size=4",
      "--steps=1",
      "--rounds=1",
      "--seeds=2",
      f"--output={output}",
    )
    self.assertEqual(done.returncode, 0, done.stderr)
    text = (pathlib.Path(output) / "bench_training.md").read_text()
    self.assertIn(
      "| stnjax (s/epoch) | stnjax, 2 seeds (s/epoch) | torch (s/epoch) |", text
    )
    self.assertIn("All of it, 15 epochs of each, in minutes: stnjax ", text)
    self.assertIn("| STN-SL1 | ", text)
    results = json.loads(
      (pathlib.Path(output) / "bench_training.json").read_text()
    )
    self.assertEqual(results["machine"]["backend"], "cpu")
    self.assertEqual(results["settings"]["batch_size"], 4)
    self.assertEqual((results["protocol"], results["images"]), ("sweep", 10000))
    self.assertEqual(
      [(row["library"], row["seeds"]) for row in results["rows"]],
      [("stnjax", 1), ("stnjax", 2), ("torch", 1)],
    )
    for row in results["rows"]:
      (seconds,) = row["seconds"]
      self.assertGreater(seconds, 0)
      self.assertAlmostEqual(row["seconds_per_epoch"], 2500 * seconds)
    again = run(f"--output={output}")
    self.assertEqual(again.returncode, 1)
    self.assertIn("--overwrite replaces them", again.stderr + again.stdout)

  @parameterized.parameters(
    ("--networks=DEF1", "network='DEF1' has no counterpart in torch"),
    ("--networks=STN-SL1x2", "has no counterpart in torch"),
    ("--networks=CNN,STN-C5", "depth 5 is deeper than the classifier"),
    ("--networks=CNN,CNN", "--networks must name at least one, each once"),
    ("--width=0", "width must be positive"),
    ("--batch_size=20000", "--batch_size must be at most 10000"),
    ("--steps=0", "--steps"),
    ("--seeds=0", "--seeds"),
    ("--protocol=svhn", "--protocol"),
    ("--shapes=2x8x8x1", "shapes"),
    ("now", "unexpected argument 'now'"),
  )
  def test_wrong_flags_are_named(self, flag, message):
    done = run(flag, f"--output={self.create_tempdir().full_path}")
    self.assertNotEqual(done.returncode, 0)
    self.assertIn(message, done.stderr + done.stdout)
    self.assertNotIn("Traceback", done.stderr)


if __name__ == "__main__":
  absltest.main()
