"""Stages and heads of group convolutions, and networks of them."""

import functools

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import placement
import stnjax.paper  # noqa: F401, registers its backbones
from stnjax.placement import (
  Context,
  GroupConvBlock,
  GroupHead,
  MeanHead,
  Task,
  group_blocks,
)


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def keys(count):
  return jax.random.split(jax.random.key(0), count)


def by_filter(x, count):
  return np.asarray(x).reshape(*x.shape[:-1], -1, count)


class BlockTest(parameterized.TestCase):
  @parameterized.parameters("before_relu", "after_relu")
  @pytest.mark.slow
  def test_orientations_share_the_batch_norm(self, place):
    block = GroupConvBlock(
      2, 3, 3, orientations=4, pool=2, batch_norm=place, slope=0.1,
      init="torch", rngs=nnx.Rngs(0),
    )  # fmt: skip
    scale, shift = np.array([-2.0, 0.5, 1]), np.array([0.3, -0.1, 0])
    block.norm.scale[...] = jnp.asarray(scale, jnp.float32)
    block.norm.bias[...] = jnp.asarray(shift, jnp.float32)
    x = draw(5, 4, 6, 8)
    y = by_filter(block.conv.convolve(x), 4).astype(np.float64)

    def rectified(z):
      return np.where(z > 0, z, 0.1 * z)

    if place == "after_relu":
      y = rectified(y + np.asarray(block.conv.bias[...])[:, None])
    mean, variance = (f(y, axis=(0, 1, 2, 4)) for f in (np.mean, np.var))
    y = (y - mean[:, None]) / np.sqrt(variance + 1e-5)[:, None]
    y = scale[:, None] * y + shift[:, None]
    y = y.reshape(5, 2, 2, 3, 2, 3, 4).max(axis=(2, 4)).reshape(5, 2, 3, 12)
    y = rectified(y) if place == "before_relu" else y
    np.testing.assert_allclose(block(x, Context(True)), y, atol=1e-5)
    self.assertEqual(block.norm.mean.shape, (3,))
    np.testing.assert_allclose(block.norm.mean[...], 0.01 * mean, rtol=1e-4)

  def test_dropout_of_whole_filters(self):
    block = GroupConvBlock(
      1, 6, 3, orientations=4, lifts=True, dropout=0.5, drop_channels=True,
      rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = draw(20, 5, 5, 1)
    whole = by_filter(block(x), 4)
    ratio = by_filter(block(x, Context(True, keys(20))), 4)
    ratio = np.ma.masked_array(
      ratio / np.where(whole > 0, whole, 1), whole <= 0
    )
    least, most = ratio.min(axis=(1, 2, 4)), ratio.max(axis=(1, 2, 4))
    np.testing.assert_allclose(least, most, atol=1e-5)
    self.assertEqual(set(np.round(most, 4).ravel().tolist()), {0.0, 2.0})

  @pytest.mark.slow
  def test_dropout_of_values(self):
    block = GroupConvBlock(
      1, 6, 3, orientations=4, lifts=True, dropout=0.5, rngs=nnx.Rngs(0)
    )
    x = draw(4, 5, 5, 1)
    whole, dropped = block(x), block(x, Context(True, keys(4)))
    ratio = np.asarray(dropped)[whole > 0] / np.asarray(whole)[whole > 0]
    self.assertEqual(set(np.round(ratio, 4).tolist()), {0.0, 2.0})

  def test_windows_are_those_of_an_ordinary_block(self):
    options = {"padding": "VALID", "pool": 2, "rngs": nnx.Rngs(0)}
    group = GroupConvBlock(2, 3, 5, orientations=4, **options)
    ordinary = placement.ConvBlock(2, 3, 5, **options)
    self.assertEqual(group.windows, ordinary.windows)

  def test_it_cannot_be_deformed(self):
    block = GroupConvBlock(1, 1, 3, orientations=4, rngs=nnx.Rngs(0))
    self.assertNotIsInstance(block, placement.Deformable)

  def test_number_of_filters(self):
    self.assertEqual(group_blocks.scaled_filters(64, 1), 64)
    self.assertEqual(group_blocks.scaled_filters(64, 4), 32)
    self.assertEqual(group_blocks.scaled_filters(64, 8), 23)
    self.assertEqual(group_blocks.scaled_filters(1, 8), 1)
    with self.assertRaisesRegex(ValueError, "multiple of 4, got 6"):
      group_blocks.scaled_filters(64, 6)


class HeadTest(parameterized.TestCase):
  @parameterized.parameters((), (5, 7))
  @pytest.mark.slow
  def test_of_four_orientations(self, *widths):
    """Every turn of the filter, the largest, then dense layers."""
    head = GroupHead(
      (3, 3, 8), 6, orientations=4, widths=widths, slope=0.1, init="torch",
      rngs=nnx.Rngs(0),
    )  # fmt: skip
    x = draw(2, 3, 3, 8)
    kernel = np.asarray(head.conv.kernel[...], np.float64)
    kernel = kernel.reshape(3, 3, 2, 4, -1)
    self.assertEqual(kernel.shape[-1], (widths or (2,))[0])
    seen = by_filter(x, 4)
    units = [
      np.einsum(
        "bhwcg,hwcgf->bf", seen, np.rot90(np.roll(kernel, g, axis=3), g)
      )
      for g in range(4)
    ]
    y = np.max(units, axis=0) + np.asarray(head.conv.bias[...])
    y = np.where(y > 0, y, 0.1 * y)
    for layer in head.dense.hidden:
      y = y @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])
      y = np.where(y > 0, y, 0.1 * y)
    last = head.dense.last
    y = y @ np.asarray(last.kernel[...]) + np.asarray(last.bias[...])
    np.testing.assert_allclose(head(x), y, atol=1e-5)

  @parameterized.parameters((4, 3), (8, 3), (8, 4))
  @pytest.mark.slow
  def test_invariant_to_quarter_turns(self, count, side):
    head = GroupHead(
      (side, side, 2 * count), 5, orientations=count, rngs=nnx.Rngs(0)
    )
    x = draw(3, side, side, 2 * count)
    rotated = np.rot90(by_filter(x, count), axes=(1, 2))
    rotated = np.roll(rotated, count // 4, axis=-1).reshape(x.shape)
    np.testing.assert_allclose(head(rotated), head(x), atol=1e-5)
    self.assertGreater(
      np.abs(head(np.rot90(x, axes=(1, 2))) - head(x)).max(), 0.1
    )

  @pytest.mark.slow
  def test_dropout(self):
    head = GroupHead(
      (2, 2, 400), 3, orientations=4, dropout=0.5, rngs=nnx.Rngs(0)
    )
    head.dense.last.kernel[...] = jnp.ones((100, 3))
    x = draw(2, 2, 2, 400)
    once, again = (head(x, Context(True, keys(2))) for _ in range(2))
    np.testing.assert_array_equal(once, again)
    self.assertGreater(np.abs(once - head(x)).min(), 1e-3)
    dropping = GroupHead(
      (2, 2, 400), 3, orientations=4, dropout=0.5, drop_input=True,
      rngs=nnx.Rngs(0),
    )  # fmt: skip
    dropping.dense.last.kernel[...] = jnp.ones((100, 3))
    np.testing.assert_allclose(dropping(x), head(x), atol=1e-5)
    both = dropping(x, Context(True, keys(2)))
    self.assertGreater(np.abs(both - once).min(), 1e-3)

  def test_mean_over_places_then_largest(self):
    head = MeanHead(3, 5, orientations=4, rngs=nnx.Rngs(0))
    x = draw(2, 3, 4, 12)
    largest = by_filter(x.mean(axis=(1, 2)), 4).max(axis=-1)
    np.testing.assert_allclose(head(x), head.last(largest), atol=1e-6)

  def test_mistakes(self):
    with self.assertRaisesRegex(ValueError, r"square features.*\(3, 4, 8\)"):
      GroupHead((3, 4, 8), 5, orientations=4, rngs=nnx.Rngs(0))
    with self.assertRaisesRegex(ValueError, "multiple of orientations=8"):
      GroupHead((3, 3, 12), 5, orientations=8, rngs=nnx.Rngs(0))


@functools.lru_cache
def network(backbone, side, count=8):
  """A network whose batch norms have seen some images."""
  name = "GCNN" if count == 8 else "CNN"
  made = create(backbone, name, side, orientations=count, width=0.2)
  images = draw(4, side, side, 1, seed=5)
  nnx.jit(lambda made: made(images, train=True, keys=keys(4)).logits)(made)
  return made


@jax.jit
def _outputs(graphdef, state, x):
  made = nnx.merge(graphdef, state)
  return made(x).logits, made.features(x)


def outputs(made, x):
  return _outputs(*nnx.split(made), x)


def create(backbone, name, side, **options):
  task = Task((side, side, 1), 10)
  return placement.create(backbone, name, task, rngs=nnx.Rngs(0), **options)


def count_parameters(*args, **options):
  made = nnx.eval_shape(lambda: create(*args, **options))
  return placement.count_parameters(made)


class NetworkTest(parameterized.TestCase):
  @parameterized.parameters(
    ("mnist", 28, 8), ("plain", 32, 8), ("plain", 24, 4)
  )
  @pytest.mark.slow
  def test_quarter_turns_are_exact(self, backbone, side, count):
    made = network(backbone, side, count)
    self.assertEqual(made.orientations, count)
    x = draw(2, side, side, 1)
    logits, features = outputs(made, x)
    turned_logits, turned = outputs(made, np.rot90(x, axes=(1, 2)))
    np.testing.assert_allclose(turned_logits, logits, atol=1e-5)
    self.assertGreater(np.ptp(logits, axis=0).max(), 1e-2)
    for name, value in features.items():
      expected = np.rot90(by_filter(value, count), axes=(1, 2))
      expected = np.roll(expected, count // 4, axis=-1)
      np.testing.assert_allclose(
        by_filter(turned[name], count), expected, atol=2e-5
      )

  @pytest.mark.slow
  def test_a_pixel_that_pooling_leaves_over(self):
    """28-14-7-3: the last row and column of 7 are dropped."""
    made = network("plain", 28)
    x = draw(2, 28, 28, 1)
    logits, _ = outputs(made, x)
    turned, _ = outputs(made, np.rot90(x, axes=(1, 2)))
    error = np.abs(turned - logits).max() / np.abs(logits).max()
    self.assertBetween(float(error), 1e-3, 0.3)

  @parameterized.parameters(("plain", 28), ("plain", 96), ("mnist", 28))
  @pytest.mark.slow
  def test_about_as_many_parameters(self, backbone, side):
    for width in (0.25, 1.0):
      group, ordinary = (
        count_parameters(backbone, name, side, width=width)["total"]
        for name in ("GCNN", "CNN")
      )
      self.assertBetween(group / ordinary, 0.97, 1.03)

  def test_parameters_of_the_digits(self):
    """Taps in discs: 69 of 81, 37 of 49 and all of 4."""
    stages = 69 * 23 + 23 + 37 * 23 * 8 * 23 + 23
    head = 4 * 23 * 8 * 64 + 64 + 64 * 10 + 10
    self.assertEqual(
      count_parameters("mnist", "GCNN", 28),
      {"classifier": stages + head, "localisation": 0, "total": stages + head},
    )

  @pytest.mark.slow
  def test_nothing_is_warped(self):
    made = network("mnist", 28)
    x = draw(2, 28, 28, 1)
    output = nnx.jit(lambda made: made(x))(made)
    self.assertEqual(output.thetas, ())
    np.testing.assert_array_equal(output.warped, x)
    self.assertEqual(made.placement.name, "GCNN")
    self.assertEqual(made.placement.kind, "GCNN")

  @pytest.mark.slow
  def test_geometry_is_what_a_probe_finds(self):
    task = Task((28, 28, 1), 10)
    known = placement.probe_backbone("mnist", task, orientations=8, width=0.1)

    def bare(task, *, rngs, orientations=1):
      made = placement.BACKBONES["mnist"](
        task, rngs=rngs, orientations=orientations, width=0.1
      )
      made.geometry = None
      return made

    self.assertEqual(
      placement.probe_backbone(bare, task, orientations=8), known
    )

  def test_transformers_of_group_convolutions(self):
    """Other placements take them, too."""
    for name in ("STN-C1", "STN-SL1"):
      logits = nnx.eval_shape(
        lambda images, name=name: (
          create("mnist", name, 28, orientations=4, width=0.1)(images).logits
        ),
        jnp.zeros((2, 28, 28, 1)),
      )
      self.assertEqual(logits.shape, (2, 10))


class MistakesTest(parameterized.TestCase):
  def test_a_backbone_without_orientations(self):
    def ordinary(task, *, rngs):
      block = placement.ConvBlock(task.image_shape[-1], 4, 3, rngs=rngs)
      return placement.Backbone([block], MeanHead(4, 10, rngs=rngs))

    task = Task((8, 8, 1), 10)
    message = "'ordinary' does not take orientations=8.*GCNN.*such as 'plain'"
    with self.assertRaisesRegex(ValueError, message):
      placement.create(ordinary, "GCNN", task, rngs=nnx.Rngs(0))
    placement.create(ordinary, "CNN", task, rngs=nnx.Rngs(0))
    message = "network='GCNN' needs stages with 8 orientations.*orientations=1"
    with self.assertRaisesRegex(ValueError, message):
      made = ordinary(task, rngs=nnx.Rngs(0))
      placement.place(made, "GCNN", task, rngs=nnx.Rngs(0))

  @parameterized.parameters("plain", "mnist")
  @pytest.mark.slow
  def test_other_numbers_of_orientations(self, backbone):
    for count in (0, 3, 6):
      with self.assertRaisesRegex(ValueError, "orientations must be"):
        placement.BACKBONES[backbone](
          Task((28, 28, 1), 10), rngs=nnx.Rngs(0), orientations=count
        )
    with self.assertRaisesRegex(ValueError, "8 orientations, got a Backbone"):
      create(backbone, "GCNN", 28, orientations=4)

  def test_a_backbone_of_no_orientation(self):
    with self.assertRaisesRegex(ValueError, "orientations must be at least 1"):
      placement.Backbone([], MeanHead(1, 1, rngs=nnx.Rngs(0)), orientations=0)


if __name__ == "__main__":
  absltest.main()
