"""The presets: all can be built, and the quick ones need no downloads."""

import dataclasses

from absl.testing import absltest, parameterized
import pytest

from experiments import paper
from stnjax.placement import networks
from stnjax.training import runs

AT_HAND = ("mnist_subset", "street_numbers", "street_digits", "drifters")


class PresetTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_every_network_can_be_built(self):
    """In the quick size all of them, in the full size one of each preset."""
    built = set()
    for make in paper.PRESETS.values():
      preset = make()
      for member in [*preset.settings("quick"), preset.settings("full")[-1]]:
        # What does not change the network.
        alike = dataclasses.replace(member, epochs=1, more_iterations=())
        if alike not in built:
          network = runs.abstract_network(member)
          counts = networks.count_parameters(network)
          self.assertGreater(counts["classifier"], 1000)
          self.assertEqual(counts["localisation"] > 0, member.network != "CNN")
        built.add(alike)

  @parameterized.product(name=list(paper.PRESETS), size=paper.SIZES)
  def test_networks_differ_in_placement_alone(self, name, size):
    settings = paper.PRESETS[name]().settings(size)
    common = {dataclasses.replace(s, network="STN-C0") for s in settings}
    self.assertLen(common, 1)

  @parameterized.parameters(*paper.PRESETS)
  def test_quick_runs_on_what_is_at_hand_and_says_so(self, name):
    preset = paper.PRESETS[name]()
    (dataset,) = {s.dataset for s in preset.settings("quick")}
    self.assertIn(dataset, AT_HAND)
    self.assertIn("instead of" if "mnist" not in dataset else "of MNIST's",
                  preset.stand_in)  # fmt: skip

  @parameterized.parameters(*paper.PRESETS)
  def test_full_is_the_papers(self, name):
    for settings in paper.PRESETS[name]().settings("full"):
      self.assertEqual(settings.width, 1)
      self.assertEqual(settings.localisation_width, 1)
      self.assertEqual(settings.shrink, 1)
      self.assertEqual(settings.family, "affine")
      self.assertEqual(settings.optimiser, "sgd")
      if settings.dataset == "mnist":
        self.assertEqual((settings.batch_size, settings.epochs), (256, 640))

  def test_every_preset_is_described(self):
    for name in paper.PRESETS:
      text = paper.describe(name)
      self.assertIn("STN-", text)
      self.assertRegex(text, "(?s)Shows|Each|there is|augmentation|beside")


if __name__ == "__main__":
  absltest.main()
