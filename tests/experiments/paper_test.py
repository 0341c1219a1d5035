"""The presets: all can be built, and the quick ones need no downloads."""

import dataclasses

import pytest

from experiments import paper
from stnjax import placement
from stnjax.paper.presets import PRESETS, SIZES
from stnjax.training import building
from stnjax.training.settings import Settings
from tests import scripts

OURS = [name for name in PRESETS if name.startswith("pose_")]
"""Presets that are not the paper's: transforms of the perturbation's group."""
AT_HAND = (
  "mnist_subset", "street_numbers", "synthetic_digits", "synthetic_plankton",
)  # fmt: skip


def registered(name):
  """The networks of a preset whose placements are registered."""
  known = []
  for network in PRESETS[name].networks:
    try:
      placement.parse(network)
    except ValueError:
      continue
    known.append(network)
  return known


def settings(name, size):
  known = registered(name)
  return [
    Settings(**values)
    for values in PRESETS[name].settings(size)
    if values["network"] in known
  ]


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
        transforms = bool(network.placement.depths)
        assert (counts["localisation"] > 0) == transforms
        if member.parameters:
          assert abs(counts["total"] / member.parameters - 1) < 0.1
      built.add(alike)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", PRESETS)
def test_networks_differ_in_placement_alone(name, size):
  members = settings(name, size)
  assert [m.network for m in members] == registered(name)
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
    assert member.localisation_width == member.downsample == 1
    assert member.optimiser == "sgd"
    if name not in OURS:
      assert (member.family, member.width) == ("affine", 1)
    if member.dataset == "mnist" and not member.train_images:
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


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_pose_estimators_have_the_parameters_of_the_papers_size(name):
  """Of STN-C0 at the width of the settings, or of the paper."""
  for size, width in (("quick", 0.25), ("full", 1.0)):
    (member,) = [m for m in settings(name, size) if m.network == "STN-C0"]
    if member.perturbation not in ("rotation", "full_rotation"):
      continue
    alike = dataclasses.replace(member, parameters=None, width=width)
    network = building.abstract_network(alike, building.find(alike))
    found = placement.count_parameters(network)["total"]
    assert found == pytest.approx(member.parameters, rel=0.02)
