"""Widths against an exhaustive search, and networks of equal size."""

from absl.testing import absltest, parameterized
import pytest

from stnjax import placement
import stnjax.paper  # noqa: F401, registers its data sets
from stnjax.training import building, sizing
from stnjax.training.settings import Settings

NETWORKS = ("CNN", "STN-C0", "STN-C1", "STN-SL1", "STN-DL1", "STN-CAN0",
            "STN-CAN1", "STN-EQ0", "STN-EQ2", "GCNN")  # fmt: skip


def registered():
  """Those of the networks whose placements are registered."""
  prefixes = tuple(placement.PLACEMENTS)
  return [
    n for n in NETWORKS if n.rstrip("0123456789").rstrip("x,") in prefixes
  ]


def parameters(width):
  """Of two convolutions of 9 x 9 and 7 x 7 pixels, and a dense layer."""
  filters = max(1, round(64 * width))
  return 82 * filters + (49 * filters + 1) * filters + 40 * filters + 10


class WidthTest(parameterized.TestCase):
  @parameterized.parameters(1_300, 25_000, 28_000, 236_000, 5_000_000)
  def test_the_closest_number_is_found(self, target):
    width = sizing.fit_width(parameters, target)
    every = [parameters(filters / 64) for filters in range(1, 1000)]
    closest = min(abs(count - target) for count in every)
    self.assertEqual(abs(parameters(width) - target), closest)
    self.assertEqual(sizing.fit_width(parameters, target), width)

  def test_few_widths_are_tried(self):
    tried = []
    sizing.fit_width(lambda w: tried.append(w) or parameters(w), 28_000)
    self.assertLess(len(tried), 20)

  @parameterized.parameters(
    (10, r"no width .* 10 parameters within 10%.* 182 "),
    (10**15, "no width"),
  )
  def test_what_no_width_makes_is_refused(self, target, message):
    with self.assertRaisesRegex(ValueError, message):
      sizing.fit_width(parameters, target)

  def test_steps_that_are_too_coarse_are_refused(self):
    with self.assertRaisesRegex(ValueError, "closest have 1,000 .*2,000"):
      sizing.fit_width(lambda width: 1000 * (1 + (width > 0.3)), 1_400)


class NetworkTest(parameterized.TestCase):
  @parameterized.parameters(*registered())
  @pytest.mark.slow
  def test_networks_have_the_parameters_that_are_asked_for(self, name):
    settings = Settings(
      network=name,
      family="rotation",
      perturbation="full_rotation",
      parameters=28_000,
      localisation_width=0.5,
    )
    setup = building.find(settings)
    network = building.abstract_network(settings, setup)
    count = placement.count_parameters(network)["total"]
    self.assertAlmostEqual(count / 28_000, 1, delta=sizing.TOLERANCE)
    sized = building.sized(settings, setup)
    self.assertIsNone(sized.parameters)
    again = building.abstract_network(sized, setup)
    self.assertEqual(placement.count_parameters(again)["total"], count)

  def test_names_of_all_pose_estimators_are_known(self):
    for name in ("CNN", "STN-C0", "STN-CAN0"):
      self.assertIn(name, registered())

  @pytest.mark.slow
  def test_a_number_that_no_width_reaches_names_the_network(self):
    settings = Settings(network="STN-C0", parameters=100)
    with self.assertRaisesRegex(
      ValueError, "parameters=100 for network='STN-C0': no width"
    ):
      building.abstract_network(settings, building.find(settings))


if __name__ == "__main__":
  absltest.main()
