"""Names of networks, and what placements say of themselves."""

import dataclasses
from typing import ClassVar

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import numpy as np
import pytest

from stnjax import placement
from tests.placement import tiny


class NameTest(parameterized.TestCase):
  @parameterized.parameters(
    ("CNN", "CNN", ()),
    ("STN-C0", "C", (0,)),
    ("STN-DL12", "DL", (12,)),
    ("STN-SL0,3,6", "SL", (0, 3, 6)),
    ("STN-SL1x2", "SL", (1, 1)),
    ("STN-C0x2,1x3", "C", (0, 0, 1, 1, 1)),
    ("STN-DL3,1", "DL", (3, 1)),
    ("STN-UCN1", "UCN", (1,)),
    ("DEF12", "DEF", (12,)),
    ("GCNN", "GCNN", ()),
  )
  def test_names(self, name, kind, depths):
    parsed = placement.parse(name)
    self.assertEqual(parsed.kind, kind)
    self.assertEqual(parsed.depths, depths)
    self.assertEqual(parsed.name, name)
    self.assertIs(type(parsed), placement.PLACEMENTS[parsed.prefix])

  @parameterized.parameters(
    "",
    "cnn",
    "STN",
    "STN-",
    "STN-C",
    "STN-X1",
    "STN-SL1,",
    "STN-SL1x0",
    "STN-SL-1",
    "STN-C1,0",
    "STN-C1 ",
    "CNN1",
    "UCN1",
    "STN-UCN",
    "STN-UCN0,1",
    "STN-UCN1x2",
    "DEF",
    "GCNN1",
    "STN-DEF1",
    "DEF1x2",
    "DEF-1",
    None,
  )
  def test_other_names_are_refused(self, name):
    with self.assertRaisesRegex(ValueError, "network"):
      placement.parse(name)

  @parameterized.parameters(
    ("CNN", False, False, 0),
    ("STN-C0", True, True, 0),
    ("STN-C0,1", False, True, 1),
    ("STN-DL2", True, True, 0),
    ("STN-SL0,1", True, True, 1),
    ("STN-UCN0", False, False, 0),
    ("DEF1", False, False, 1),
    ("GCNN", False, False, 0),
  )
  def test_what_a_name_means(self, name, warps_input, repeats, through):
    parsed = placement.parse(name)
    self.assertEqual(parsed.warps_input, warps_input)
    self.assertEqual(parsed.repeats, repeats)
    self.assertEqual(parsed.looks_through, through)
    self.assertStartsWith(name, parsed.prefix)

  def test_kinds_are_in_the_order_of_reports(self):
    self.assertEqual(
      list(placement.PLACEMENTS)[:9],
      [
        *("CNN", "STN-C", "STN-DL", "STN-SL", "STN-UCN", "DEF"),
        *("STN-CAN", "STN-EQ", "GCNN"),
      ],
    )

  @parameterized.parameters(
    ("STN-SL1x33", "accepted: at most 32"),
    ("STN-SL0x16,1x16,2", "accepted: at most 32"),
    ("STN-C" + ",".join("0" * 33), "accepted: at most 32"),
    ("STN-DL1x" + "9" * 5000, "accepted: at most 32"),
    ("STN-DL" + "9" * 5000, "accepted: 0 to 99"),
    ("DEF100", "accepted: 0 to 99"),
    ("STN-C١", "accepted: CNN"),
    ("STN-C00", "accepted: CNN"),
    ("STN-C1x01", "accepted: CNN"),
  )
  def test_names_without_end_are_refused_at_once(self, name, message):
    with self.assertRaisesRegex(ValueError, message) as caught:
      placement.parse(name)
    self.assertLess(len(str(caught.exception)), 400)

  def test_as_many_iterations_as_are_accepted(self):
    parsed = placement.parse("STN-SL0x16,2x16")
    self.assertEqual(parsed.depths, (0,) * 16 + (2,) * 16)

  def test_iterated_repeats_the_last_depth(self):
    parsed = placement.parse("STN-SL0,1")
    self.assertEqual(parsed.iterated(2), placement.parse("STN-SL0,1x3"))
    self.assertEqual(parsed.iterated(0), parsed)

  def test_iterated_leaves_out_the_last_runs(self):
    parsed = placement.parse("STN-SL0,1x2")
    self.assertEqual(parsed.iterated(-1), placement.parse("STN-SL0,1"))
    self.assertEqual(parsed.iterated(-2), placement.parse("STN-SL0"))
    for more in (-3, -4, placement.MOST_ITERATIONS):
      with self.assertRaisesRegex(ValueError, "takes 1 to 32 depths, got"):
        parsed.iterated(more)


class RegisterTest(absltest.TestCase):
  def test_a_placement_is_one_class(self):
    """The quarter turn of the input that a number of stages asks for."""

    @placement.register
    @dataclasses.dataclass(frozen=True)
    class Turned(placement.Placement):
      prefix: ClassVar[str] = "TURNED"
      most_depths: ClassVar[int] = 1

      def build(self, site, rngs):
        return {"gate": nnx.Linear(1, 1, rngs=rngs)}

      def run(self, network, images, context):
        turned = jax.numpy.rot90(images, self.depths[0], axes=(1, 2))
        turned = network.sites[str(self.depths[0])]["gate"](turned)
        return placement.Passed(network.through(turned, context))

    network = tiny.create("TURNED2")
    gate = network.sites["2"]["gate"]
    turned = gate(np.rot90(tiny.IMAGES, 2, axes=(1, 2)))
    expected = tiny.answer(network, turned)
    output = network(tiny.IMAGES)
    np.testing.assert_allclose(output.logits, expected, atol=1e-5)
    np.testing.assert_array_equal(output.warped, tiny.IMAGES)
    self.assertEqual(placement.count_parameters(network)["localisation"], 2)
    with self.assertRaisesRegex(ValueError, "TURNED followed by one depth"):
      placement.parse("TURNED1,2")
    with self.assertRaisesRegex(ValueError, "already registered"):
      placement.register(Turned)


class OperationsTest(absltest.TestCase):
  def test_a_dense_network(self):
    """Every multiplication and every addition of two dense layers."""
    backbone = placement.Backbone(
      [nnx.Linear(3, 5, use_bias=False, rngs=nnx.Rngs(0))],
      make_head=lambda shape, *, rngs: placement.MeanHead(5, 7, rngs=rngs),
    )
    network = placement.place(
      backbone, "CNN", placement.Task((4, 6, 3), 7), rngs=nnx.Rngs(0)
    )
    by_pixel = 24 * 5 * 3 * 2
    mean, dense = 24 * 5, 7 * 5 * 2 + 7
    counted = placement.count_operations(network)
    self.assertBetween(counted / (by_pixel + mean + dense), 0.97, 1.03)

  @pytest.mark.slow
  def test_a_transformer_costs_its_localisation(self):
    counts = {
      name: placement.count_operations(
        nnx.eval_shape(lambda name=name: tiny.create(name))
      )
      for name in ("CNN", "STN-C0", "STN-C0x2", "STN-SL1")
    }
    once = counts["STN-C0"] - counts["CNN"]
    self.assertGreater(once, 0)
    more = counts["STN-C0x2"] - counts["STN-C0"]
    self.assertBetween(more / once, 0.5, 1.5)
    self.assertGreater(counts["STN-SL1"], counts["STN-C0"])


class PartTest(parameterized.TestCase):
  @parameterized.parameters(
    ("CNN", "rest", "rest"),
    ("STN-C0", "rest", "rest"),
    ("STN-C1", "before", "rest"),
    ("STN-SL2", "before", "before"),
    ("STN-SL0,1", "before", "rest"),
    ("STN-DL2", "rest", "rest"),
    ("STN-UCN1", "before", "rest"),
    ("DEF0", "rest", "rest"),
  )
  def test_parts(self, name, first, second):
    network = nnx.eval_shape(lambda: tiny.create(name))
    parts = {"sites": set(), 0: set(), 1: set()}
    for path, _ in nnx.to_flat_state(nnx.state(network, nnx.Param)):
      part = placement.part(path, network.placement)
      self.assertIn(part, placement.PARTS)
      key = path[1] if path[0] == "stages" else path[0]
      parts.setdefault(key, set()).add(part)
    self.assertEqual(parts[0], {first})
    self.assertEqual(parts[1], {second})
    self.assertEqual(parts["head"], {"rest"})
    self.assertLessEqual(parts["sites"], {"localisation"})


if __name__ == "__main__":
  absltest.main()
