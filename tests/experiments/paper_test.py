"""The presets: all can be built, and the quick ones need no downloads."""

import dataclasses

import pytest

from experiments import paper
from stnjax import placement
from stnjax.paper.presets import PRESETS, SIZES
from stnjax.training import building
from stnjax.training.settings import Settings
from tests import scripts

AT_HAND = (
  "mnist_subset", "street_numbers", "synthetic_digits", "synthetic_plankton",
)  # fmt: skip


def settings(name, size):
  return [Settings(**values) for values in PRESETS[name].settings(size)]


@pytest.mark.slow
def test_every_network_can_be_built():
  """In the quick size all of them, in the full size one of each preset."""
  built = set()
  for name in PRESETS:
    for member in [*settings(name, "quick"), settings(name, "full")[-1]]:
      # What does not change the network.
      alike = dataclasses.replace(member, epochs=1, more_iterations=())
      if alike not in built:
        setup = building.find(member)
        network = building.abstract_network(member, setup)
        counts = placement.count_parameters(network)
        assert counts["classifier"] > 1000
        assert (counts["localisation"] > 0) == (member.network != "CNN")
      built.add(alike)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PRESETS)
def test_networks_differ_in_placement_alone(name, size):
  members = settings(name, size)
  assert [m.network for m in members] == list(PRESETS[name].networks)
  assert len({dataclasses.replace(m, network="STN-C0") for m in members}) == 1


@pytest.mark.parametrize("name", PRESETS)
def test_quick_runs_on_data_at_hand(name):
  (dataset,) = {s.dataset for s in settings(name, "quick")}
  assert dataset in AT_HAND
  # A generated set is named; mnist_subset is part of the paper's own.
  assert dataset in PRESETS[name].stand_in or dataset == "mnist_subset"


@pytest.mark.parametrize("name", PRESETS)
def test_full_is_the_papers(name):
  for member in settings(name, "full"):
    assert member.width == member.localisation_width == member.downsample == 1
    assert (member.family, member.optimiser) == ("affine", "sgd")
    if member.dataset == "mnist":
      assert (member.batch_size, member.epochs) == (256, 640)
    assert (member.init, member.momentum) == ("torch", 0)


def test_another_size_is_refused():
  with pytest.raises(ValueError, match="size='huge'.*'quick', 'full'"):
    PRESETS["rotation"].settings("huge")


@pytest.mark.parametrize("name", PRESETS)
def test_descriptions_name_networks_and_settings(name):
  text = " ".join(paper.describe(name).split())
  for size in SIZES:
    for values in PRESETS[name].settings(size):
      assert all(
        f"{k}={v}" in text for k, v in values.items() if k != "network"
      )
      assert f" {values['network']}" in text


def test_the_list_and_a_missing_preset():
  listed = scripts.run("paper", "--list")
  assert listed.returncode == 0, listed.stderr
  assert all(f"--preset={name}\n" in listed.stdout for name in PRESETS)
  missing = scripts.run("paper")
  assert missing.returncode == 1 and "--preset is missing" in missing.stderr
