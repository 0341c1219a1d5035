"""The best-scored pose: exact under quarter turns, with softmax's gradient."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import stnjax
from stnjax import nn, transforms
from stnjax.nn.canonicalisation import POSES, score_net

IMAGES = np.random.default_rng(0).normal(size=(3, 12, 12, 2)).astype(np.float32)


def random_scorer(shape=(12, 12, 2), seed=0):
  """A score net whose last layer is not zero."""
  net = score_net(shape, rngs=nnx.Rngs(seed))
  values = np.random.default_rng(seed).normal(size=net.head.kernel.shape)
  net.head.kernel[...] = jnp.asarray(values, jnp.float32)
  return net


def quarter_turned(images):
  return np.rot90(images, axes=(1, 2))


class CopiesTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_copies_are_the_images_turned_by_each_angle(self):
    search = nn.PoseSearch(random_scorer(), "rotation", padding="zeros")
    copies = search.copies(IMAGES)
    self.assertEqual(copies.shape, (3, 16, 12, 12, 2))
    for index in range(16):
      # scipy turns counterclockwise on the screen, as pulled rotations do.
      expected = ndimage.rotate(
        IMAGES[1, ..., 1].astype(np.float64),
        22.5 * index,
        reshape=False,
        order=1,
        mode="grid-constant",
      )
      np.testing.assert_allclose(copies[1, index, ..., 1], expected, atol=1e-5)

  @parameterized.parameters(*POSES)
  @pytest.mark.slow
  def test_copies_are_warps_by_the_matrices_of_the_poses(self, family):
    poses = POSES[family]
    self.assertBetween(len(poses), 2, 64)
    np.testing.assert_array_equal(poses[0], 0)
    search = nn.PoseSearch(random_scorer(), family)
    copies = search.copies(IMAGES[:1])
    np.testing.assert_array_equal(copies[:, 0], IMAGES[:1])
    for index in (1, len(poses) // 2, len(poses) - 1):
      theta = transforms.matrix(poses[index].astype(np.float32), family)
      expected = stnjax.warp(IMAGES[:1], theta, padding="border")
      np.testing.assert_allclose(copies[:, index], expected, atol=1e-4)

  @parameterized.parameters(("rotation", 4), ("similarity", 2))
  @pytest.mark.slow
  def test_a_quarter_turn_moves_copies_and_changes_no_pixel(self, family, step):
    search = nn.PoseSearch(random_scorer(), family)
    per_turn = len(np.unique(POSES[family][:, POSES[family].shape[1] // 3]))
    before = np.asarray(search.copies(IMAGES))
    after = np.asarray(search.copies(quarter_turned(IMAGES)))
    # The angle is the last index that runs.
    shape = (3, -1, per_turn, *IMAGES.shape[1:])
    moved = np.roll(before.reshape(shape), -step, axis=2)
    np.testing.assert_array_equal(after.reshape(shape), moved)

  @pytest.mark.slow
  def test_images_that_are_not_square_are_interpolated(self):
    images = IMAGES[:, :8]
    copies = nn.PoseSearch(random_scorer((8, 12, 2)), "rotation").copies(images)
    theta = transforms.rotation(np.pi / 2)
    expected = stnjax.warp(images, theta, padding="border")
    np.testing.assert_allclose(copies[:, 4], expected, atol=1e-4)


class InvarianceTest(parameterized.TestCase):
  def trained(self, images, family="rotation"):
    """A search after some steps on a loss of its theta."""
    search = nn.PoseSearch(random_scorer(images.shape[1:]), family)
    graphdef, params = nnx.split(search, nnx.Param)
    target = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3)))

    @jax.jit
    @jax.grad
    def gradient(params):
      theta, _ = nnx.merge(graphdef, params)(images)
      return (theta * target.astype(theta.dtype)).sum()

    for _ in range(3):
      steps = gradient(params)
      params = jax.tree.map(lambda p, g: p - 0.1 * g, params, steps)
    kernel = steps["scorer"]["convs"][0]["kernel"][...]
    self.assertGreater(np.abs(kernel).max(), 1e-5)
    return nnx.merge(graphdef, params)

  @pytest.mark.slow
  def test_a_quarter_turn_shifts_the_choice_by_four_steps(self):
    for search in (
      nn.PoseSearch(random_scorer(), "rotation"),
      self.trained(IMAGES),
    ):
      before, scores = search(IMAGES)
      after, turned = search(quarter_turned(IMAGES))
      moved = np.roll(scores, -4, axis=1)
      np.testing.assert_allclose(turned, moved, rtol=1e-5)
      self.assertGreater(np.ptp(scores, axis=1).min(), 0.1)
      # The object is turned back by a quarter turn less.
      expected = np.array([[0, 1], [-1, 0]]) @ np.asarray(before[:, :2])
      np.testing.assert_array_equal(after, expected)

  @pytest.mark.slow
  def test_a_shift_by_whole_steps_shifts_the_choice(self):
    """By 4 pixels of 32, with zeros about the object."""
    images = np.zeros((2, 32, 32, 1), np.float32)
    images[:, 12:20, 10:18] = IMAGES[:2, :8, :8, :1]
    search = self.trained(images, "translation")
    shifted = np.roll(images, 4, axis=2)
    before, after = search.copies(images), search.copies(shifted)
    scores, moved = search(images)[1], search(shifted)[1]
    poses = [tuple(pose) for pose in search.poses]
    pairs = [
      (index, poses.index((x + 0.25, y)))
      for index, (x, y) in enumerate(poses)
      if (x + 0.25, y) in poses
    ]
    self.assertLen(pairs, 20)
    for index, other in pairs:
      np.testing.assert_array_equal(after[:, other], before[:, index])
      np.testing.assert_allclose(moved[:, other], scores[:, index], rtol=1e-5)

  @pytest.mark.slow
  def test_other_steps_shift_the_choice_but_for_interpolation(self):
    """Smooth images, which interpolation hardly changes."""
    rows, columns = np.indices((33, 33)) - 16.0
    rng = np.random.default_rng(3)
    images = sum(
      rng.normal(size=(8, 1, 1))
      * np.exp(
        -((rows - rng.uniform(-6, 6, (8, 1, 1))) ** 2) / 18
        - (columns - rng.uniform(-6, 6, (8, 1, 1))) ** 2 / 18
      )
      for _ in range(4)
    )
    images = images[..., None].astype(np.float32)
    turned = stnjax.warp(images, transforms.rotation(np.radians(22.5)))
    search = nn.PoseSearch(
      random_scorer((33, 33, 1)), "rotation", padding="zeros"
    )
    before, after = (
      np.asarray(search(x)[1]).argmax(axis=1) for x in (images, turned)
    )
    np.testing.assert_array_equal(after, (before - 1) % 16)


class ChoiceTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_the_choice_is_exactly_one_pose(self):
    search = nn.PoseSearch(random_scorer(), "similarity")
    scores = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    found = search.choose(jnp.asarray(scores))
    np.testing.assert_array_equal(found.number, scores.argmax(axis=1))
    poses = POSES["similarity"][scores.argmax(axis=1)]
    for theta, (log, angle, x, y) in zip(found.theta, poses, strict=True):
      turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
      expected = np.hstack([np.exp(log) * np.array(turn), [[x], [y]]])
      np.testing.assert_allclose(theta, expected, atol=1e-7)
    alone = search.choose(jnp.eye(32)).theta
    np.testing.assert_array_equal(found.theta, alone[found.number])

  def test_of_equal_scores_the_first_wins(self):
    search = nn.PoseSearch(score_net((12, 12, 2), rngs=nnx.Rngs(0)), "rotation")
    theta, scores = search(IMAGES)
    np.testing.assert_array_equal(scores, 0)
    np.testing.assert_array_equal(theta, np.tile(np.eye(2, 3), (3, 1, 1)))

  def test_nan_is_passed_on(self):
    search = nn.PoseSearch(random_scorer(), "rotation")
    scores = jnp.zeros((2, 16)).at[0, 3].set(jnp.nan)
    theta = search.choose(scores).theta
    self.assertTrue(np.isnan(theta[0]).any())
    self.assertTrue(np.isfinite(theta[1]).all())

  @parameterized.parameters(1.0, 0.3)
  def test_gradient_is_that_of_the_softmax(self, temperature):
    with jax.enable_x64(True):
      search = nn.PoseSearch(
        lambda x: x[:, 0, 0, 0], "rotation", temperature=temperature
      )
      rng = np.random.default_rng(0)
      for scores in (rng.normal(size=(2, 16)), np.zeros((2, 16))):
        weight = rng.normal(size=(2, 2, 3))

        def soft_mean(scores, weight=weight):
          share = np.exp(scores / temperature)
          share /= share.sum(axis=1, keepdims=True)
          angles = 2 * np.pi * np.arange(16) / 16
          zero = 0 * angles
          rows = [np.cos(angles), -np.sin(angles), zero]
          rows += [np.sin(angles), np.cos(angles), zero]
          matrices = np.stack(rows, axis=-1).reshape(16, 2, 3)
          return (weight * np.einsum("bk,kij->bij", share, matrices)).sum()

        def hard(scores, weight=weight):
          return (weight * search.choose(scores).theta).sum()

        found = jax.grad(hard)(jnp.asarray(scores))
        self.assertEqual(found.dtype, np.float64)
        for place in np.ndindex(2, 16):
          step = np.zeros((2, 16))
          step[place] = 1e-6
          slope = (soft_mean(scores + step) - soft_mean(scores - step)) / 2e-6
          self.assertAlmostEqual(float(found[place]), slope, delta=1e-7)

  def test_gradient_is_finite_for_scores_of_any_size(self):
    search = nn.PoseSearch(random_scorer(), "scale")
    scores = jnp.array([[0.0] * 9, [1e30] + [0.0] * 8, [-1e30] * 9])
    gradient = jax.grad(lambda s: search.choose(s).theta.sum())(scores)
    self.assertTrue(np.isfinite(gradient).all())


class OptionsTest(parameterized.TestCase):
  @pytest.mark.slow
  def test_poses_of_one_s_own(self):
    poses = [[0.0] * 6, [0.1, 0, 0, 0, 0.1, 0.5]]
    search = nn.PoseSearch(lambda x: -x.mean((1, 2, 3)), "affine", poses)
    images = jnp.ones((2, 6, 6, 1)).at[:, 3:].set(2.0)
    theta, scores = search(images)
    self.assertEqual(scores.shape, (2, 2))
    self.assertEqual(theta.shape, (2, 2, 3))

  @parameterized.parameters(
    (dict(family="affine"), "family='affine' has no usual.*rotation, scale"),
    (dict(family="euclid"), "family='euclid'"),
    (dict(padding="edge"), "padding='edge'"),
    (dict(temperature=0.0), "temperature must be positive and finite, got 0"),
    (dict(poses=[[0.0]]), r"must be \[K, 1\] with K of at least 2.*\(1, 1\)"),
    (dict(poses=[[0.0, 1], [1, 2]]), r"must be \[K, 1\].*\(2, 2\)"),
    (dict(poses=[[0.0], [np.nan]]), "poses must be finite, got NaN"),
  )
  def test_mistakes_are_named(self, options, message):
    options = {"family": "rotation", **options}
    with self.assertRaisesRegex(ValueError, message):
      nn.PoseSearch(random_scorer(), **options)

  def test_a_family_of_grids_is_refused(self):
    family = transforms.Family(
      name="bulge", num_params=lambda n: 1, grid=lambda p, shape: p
    )
    with self.assertRaisesRegex(ValueError, "family='bulge' has grids"):
      nn.PoseSearch(random_scorer(), family, [[0.0], [1.0]])

  def test_inputs_are_checked(self):
    search = nn.PoseSearch(lambda x: x[:, 0, 0], "rotation")
    with self.assertRaisesRegex(ValueError, r"scores \[N\] or \[N, 1\] of 48"):
      search(IMAGES)
    with self.assertRaisesRegex(ValueError, r"scores must be \[B, 16\]"):
      search.choose(jnp.zeros((2, 3)))
    with self.assertRaisesRegex(ValueError, r"images must be \[B, H, W, C\]"):
      search.copies(IMAGES[0])

  def test_scorers_of_all_sizes(self):
    for side in (2, 8, 9, 28, 60, 112):
      net = jax.eval_shape(
        lambda side=side: score_net((side, side + 3, 4), rngs=nnx.Rngs(0))
      )
      x = jax.ShapeDtypeStruct((5, side, side + 3, 4), jnp.float32)
      found = nnx.eval_shape(lambda net, x: net(x), net, x)
      self.assertEqual(found.shape, (5, 1))
      count = sum(p.size for p in jax.tree.leaves(nnx.state(net)))
      self.assertLess(count, 10_000)


if __name__ == "__main__":
  absltest.main()
