"""Digits in rings: what is drawn, against a renderer in NumPy."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stnjax import data, placement
import stnjax.paper  # noqa: F401, registers the task
from stnjax.placement import Task

COUNT = 400
BLANK = np.zeros((COUNT, 28, 28, 1), np.float32)
NO_INK = np.zeros((5, 28, 28, 1), np.uint8)


def drawn(images, clutter=NO_INK, seed=0):
  keys = jax.random.split(jax.random.key(seed), len(images))
  pictures, truth = data.perturb(keys, images, "ringed_digits", clutter)
  return np.asarray(pictures), {k: np.asarray(v) for k, v in truth.items()}


def ring(place, octaves):
  """Ink of the ring that is open at the top."""
  y, x = np.mgrid[:48, :48] - 23.5
  x, y = x - place[0], y - place[1]
  far = np.hypot(x, y)
  line = np.clip(1.25 - np.abs(far - 8.5 * 2**octaves), 0, 1)
  from_top = np.degrees(np.abs(np.angle(-y + 1j * x)))
  return line * np.clip(np.radians(from_top - 35) * far + 0.5, 0, 1)


class PicturesTest(parameterized.TestCase):
  def test_the_target_is_where_the_truth_says(self):
    """Where it is alone, the picture is its ring and nothing else."""
    pictures, truth = drawn(BLANK)
    ink = np.abs(pictures[..., 0] - 0.5) * 2
    alone = 0
    for image, place, octaves in zip(
      ink, truth["translation"], truth["scale"], strict=True
    ):
      expected = ring(place, octaves)
      self.assertLess(np.max(expected - image), 1e-4)
      alone += bool(np.allclose(image, expected, atol=1e-4))
    self.assertBetween(alone / COUNT, 0.24, 0.43)  # a third

  @pytest.mark.slow
  def test_distributions(self):
    pictures, truth = drawn(BLANK, seed=1)
    for values in truth["translation"].T:
      uniform = stats.uniform(-13, 26)
      self.assertGreater(stats.kstest(values, uniform.cdf).pvalue, 0.001)
    sizes = stats.uniform(-0.2, 0.4)
    self.assertGreater(stats.kstest(truth["scale"], sizes.cdf).pvalue, 0.001)
    light = (pictures > 0.6).any((1, 2, 3))
    dark = (pictures < 0.4).any((1, 2, 3))
    self.assertTrue(np.all(light ^ dark))
    self.assertBetween(light.mean(), 0.4, 0.6)

  @pytest.mark.slow
  def test_distractors_have_as_much_ink_as_the_target(self):
    """A ring covers as much wherever it is open."""
    pictures, truth = drawn(BLANK, seed=2)
    ink = 2 * np.abs(pictures[..., 0] - 0.5).sum((1, 2))
    poses = truth["translation"], truth["scale"]
    ring_ink = np.array([ring(p, s).sum() for p, s in zip(*poses, strict=True)])
    rings = ink / ring_ink
    # Rings of other sizes, some cut off by the edge: about whole numbers.
    self.assertBetween(rings.mean(), 1.8, 2.05)
    self.assertBetween(rings.max(), 2.8, 3.6)

  @pytest.mark.slow
  def test_the_digit_is_inside_its_ring(self):
    square = BLANK[:8].copy()
    square[:, 12:16, 12:16] = 1  # the middle of the image
    pictures, truth = drawn(square)
    for image, (x, y) in zip(pictures, truth["translation"], strict=True):
      row, column = round(23.5 + y), round(23.5 + x)
      self.assertGreater(abs(image[row, column, 0] - 0.5), 0.3)

  @pytest.mark.slow
  def test_undone(self):
    """The ideal theta puts the target's ring into the middle, at one size."""
    keys = jax.random.split(jax.random.key(0), 40)
    pictures, _ = data.perturb(keys, BLANK[:40], "ringed_digits_undone", NO_INK)
    self.assertEqual(pictures.shape, (40, 24, 24, 1))
    ink = np.abs(np.asarray(pictures)[..., 0] - 0.5) * 2
    wanted = ring((0, 0), 0)[12:36, 12:36]
    alike = np.corrcoef(ink.mean(0).ravel(), wanted.ravel())[0, 1]
    self.assertGreater(alike, 0.9)


class BackboneTest(parameterized.TestCase):
  @parameterized.parameters("CNN", "STN-C0", "STN-SL3", "STN-DL4", "STN-C2")
  @pytest.mark.slow
  def test_networks(self, name):
    network = placement.create(
      "ring_reader",
      name,
      Task((48, 48, 1), 10),
      family="attention",
      rngs=nnx.Rngs(0),
    )
    output = network(jnp.zeros((2, 48, 48, 1)))
    self.assertEqual(output.logits.shape, (2, 10))
    # 3 x 3 kernels, batch norms of two numbers, a dense layer of 12 x 12 x 32.
    filters = (1, 8, 16, 32, 32)
    blocks = sum(
      9 * a * b + 2 * b for a, b in zip(filters, filters[1:], strict=False)
    )
    counts = placement.count_parameters(network)
    self.assertEqual(counts["classifier"], blocks + 4608 * 10 + 10)

  @pytest.mark.slow
  def test_localisation_sees_all_of_a_layer(self):
    network = placement.create(
      "ring_reader",
      "STN-SL1",
      Task((48, 48, 1), 10),
      family="attention",
      rngs=nnx.Rngs(0),
    )
    seen = 24 * 24 * 8
    counts = placement.count_parameters(network)
    self.assertEqual(
      counts["localisation"], seen * 32 + 32 + 32 * 32 + 32 + 32 * 3 + 3
    )

  def test_receptive_fields_grow_past_a_ring(self):
    network = placement.create(
      "ring_reader", "CNN", Task((48, 48, 1), 10), rngs=nnx.Rngs(0)
    )
    reaches = [where.reach[0] for where in network.geometry().values()]
    # By hand: 3 px, and as many steps of 1, 2, 4, 4 px; pooled twice.
    self.assertEqual([2 * reach + 1 for reach in reaches], [4, 10, 18, 26])
    diameter = 2 * 8.5
    self.assertLess(2 * reaches[1], diameter)
    self.assertGreater(2 * reaches[3], diameter)


if __name__ == "__main__":
  absltest.main()
