"""Readers against scipy and closed forms; localisability of known features."""

from absl.testing import absltest, parameterized
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from stnjax import alignability
from stnjax.alignability import readers


def ridge_by_hand(x, y, x_test, penalties):
  """Primal ridge with an intercept; the penalty of least leave-one-out error.

  Each example is left out in turn, and the regression solved again.
  """

  def solve(x, y, penalty):
    middle, mean = x.mean(0), y.mean()
    inner = (x - middle).T @ (x - middle) + penalty * np.eye(x.shape[1])
    weights = linalg.solve(inner, (x - middle).T @ (y - mean))
    return lambda new: (new - middle) @ weights + mean

  losses = []
  for penalty in penalties:
    rest = [np.arange(len(x)) != i for i in range(len(x))]
    errors = [(solve(x[r], y[r], penalty)(x[~r]) - y[~r])[0] for r in rest]
    losses.append(np.mean(np.square(errors)))
  return solve(x, y, penalties[int(np.argmin(losses))])(x_test)


def leaving_groups_out(x, y, groups, x_test):
  """Primal ridge; the penalty of least error of groups that are left out."""

  def solve(x, y, penalty):
    middle, mean = x.mean(0), y.mean()
    inner = (x - middle).T @ (x - middle) + penalty * np.eye(x.shape[1])
    weights = linalg.solve(inner, (x - middle).T @ (y - mean))
    return lambda new: (new - middle) @ weights + mean

  unit = ((x - x.mean(0)) ** 2).sum() / len(x)
  losses = {}
  for penalty in unit * 10.0 ** np.arange(-6, 2):
    errors = [
      solve(x[groups != g], y[groups != g], penalty)(x[groups == g])
      - y[groups == g]
      for g in np.unique(groups)
    ]
    losses[penalty] = np.mean(np.square(np.concatenate(errors)))
  return solve(x, y, min(losses, key=losses.get))(x_test)


class ReadersTest(parameterized.TestCase):
  @parameterized.parameters(3, 30)  # fewer features than examples, and more
  def test_ridge(self, width):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, width)).astype(np.float32)
    y = x @ rng.standard_normal(width) + 0.5 * rng.standard_normal(24) + 3
    folds = np.arange(24) % 3
    readout = readers.read(x, {"y": y}, folds)["y"]
    predicted, means = np.empty(24), np.empty(24)
    for fold in range(3):
      test = folds == fold
      train = x[~test].astype(np.float64)
      values = np.linalg.eigvalsh(np.cov(train.T, bias=True) * len(train))
      # The mean over as many values as there are examples.
      unit = values.sum() / len(train)
      penalties = unit * 10.0 ** np.arange(-6, 2)
      predicted[test] = ridge_by_hand(train, y[~test], x[test], penalties)
      means[test] = y[~test].mean()
    error = np.sqrt(np.mean((predicted - y) ** 2))
    none = np.sqrt(np.mean((means - y) ** 2))
    np.testing.assert_allclose(readout.error, error, rtol=1e-4)
    np.testing.assert_allclose(readout.none, none, rtol=1e-6)
    np.testing.assert_allclose(readout.r2, 1 - (error / none) ** 2, atol=1e-4)

  @parameterized.parameters(*alignability.READERS)
  @pytest.mark.slow
  def test_noise_holds_no_pose(self, reader):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((90, 5)), rng.uniform(-1, 1, 90)
    folds = readers.folds_of(np.arange(90), 3, 0)
    self.assertLess(
      readers.read(x, {"y": y}, folds, reader=reader)["y"].r2, 0.1
    )

  @pytest.mark.slow
  def test_only_the_dense_net_reads_what_is_not_linear(self):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((600, 2))
    y = 10 * np.abs(x[:, 0]) + 4
    folds = readers.folds_of(np.arange(600), 3, 0)
    linear, net = (
      readers.read(x, {"y": y}, folds, reader=r)["y"].r2
      for r in alignability.READERS
    )
    self.assertLess(linear, 0.1)
    self.assertGreater(net, 0.9)

  @parameterized.parameters(*alignability.READERS)
  @pytest.mark.slow
  def test_angles_are_read_across_the_wrap(self, reader):
    rng = np.random.default_rng(3)
    angle = rng.uniform(0, 360, 300)
    phase = np.deg2rad(angle)
    x = np.stack([np.cos(phase), np.sin(phase)], 1)
    folds = readers.folds_of(np.arange(300), 3, 0)
    found = readers.read(
      x,
      {"circular": angle, "plain": angle},
      folds,
      reader=reader,
      periods={"circular": 360.0},
    )
    self.assertLess(found["circular"].error, 4)  # degrees
    self.assertGreater(found["circular"].r2, 0.99)
    if reader == "ridge":  # a line cannot follow the jump
      self.assertGreater(found["plain"].error, 30)

  def test_a_pose_is_read_alike_beside_others(self):
    """Also beside those that cannot be read, and those that do not vary."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((60, 5))
    y = x[:, 0] + 0.1 * rng.standard_normal(60)
    noise = {f"n{i}": rng.standard_normal(60) for i in range(4)}
    folds = readers.folds_of(np.arange(60), 3, 0)
    alone = readers.read(x, {"y": y}, folds)["y"]
    beside = readers.read(x, {**noise, "y": y, "c": np.full(60, 0.1)}, folds)
    np.testing.assert_allclose(beside["y"], alone)
    self.assertTrue(np.isnan(beside["c"].r2))

  @pytest.mark.slow
  def test_a_constant_pose_cannot_be_read_by_the_dense_net(self):
    x = np.random.default_rng(5).standard_normal((60, 5))
    folds = readers.folds_of(np.arange(60), 3, 0)
    found = readers.read(x, {"c": np.full(60, 0.1)}, folds, reader="dense")
    self.assertTrue(np.isnan(found["c"].r2))

  def test_groups_are_left_out_together(self):
    """Views of an image do not choose the penalty for other views of it."""
    rng = np.random.default_rng(6)
    groups = np.tile(np.arange(24), 4)
    own = rng.standard_normal((24, 40))
    x = (own[groups] + 0.1 * rng.standard_normal((96, 40))).astype(np.float32)
    y = rng.standard_normal(24)[groups]  # of the image, not of the features
    folds = readers.folds_of(groups, 3, 0)
    apart = readers.read(x, {"y": y}, folds)["y"]
    together = readers.read(x, {"y": y}, folds, groups=groups)["y"]
    self.assertLess(together.error, apart.error)
    expected = np.empty(96)
    for fold in range(3):
      train, test = folds != fold, folds == fold
      expected[test] = leaving_groups_out(
        x[train].astype(float), y[train], groups[train], x[test]
      )
    error = np.sqrt(np.mean((expected - y) ** 2))
    np.testing.assert_allclose(together.error, error, rtol=1e-4)

  def test_folds_keep_groups_together(self):
    groups = np.tile(np.arange(10), 4)
    folds = readers.folds_of(groups, 5, 0)
    for group in range(10):
      self.assertLen(set(folds[groups == group]), 1)
    self.assertEqual(np.bincount(folds).tolist(), [8] * 5)

  def test_wrong_arguments(self):
    with self.assertRaisesRegex(ValueError, "folds must be 2 to 3"):
      readers.folds_of(np.arange(3), 4, 0)
    folds = np.arange(4) % 2
    with self.assertRaisesRegex(ValueError, "reader='forest'"):
      readers.read(np.ones((4, 1)), {"y": np.ones(4)}, folds, reader="forest")
    with self.assertRaisesRegex(ValueError, "finite"):
      readers.read(np.full((4, 1), np.nan), {"y": np.ones(4)}, folds)


def blobs(centres, size=16):
  """Images of one bright spot each, `[N, size, size, 1]`."""
  at = np.arange(size)
  square = (at - centres[:, :1]) ** 2
  rows = (at - centres[:, 1:]) ** 2
  return np.exp(-(square[:, None, :] + rows[:, :, None]) / 4)[..., None].astype(
    np.float32
  )


class LocalisabilityTest(parameterized.TestCase):
  def test_positions_are_read_from_what_knows_them(self):
    """From centres of mass exactly, from means over all positions not."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(6, 9, (120, 2))
    images = jnp.asarray(blobs(centres))

    def features(x):
      at = jnp.arange(16.0)
      mass = x.sum((1, 2))
      right = (x * at[:, None]).sum((1, 2)) / mass
      below = (x * at[:, None, None]).sum((1, 2)) / mass
      return {
        "centre": jnp.stack([right, below], -1)[:, None],
        "mean": x.mean((1, 2), keepdims=True),
      }

    poses = {"x": centres[:, 0], "y": centres[:, 1]}
    found = alignability.read_poses(
      features,
      images,
      poses,
      units={"x": "px", "y": "px"},
      folds=4,
      reading=("ridge",),
    )
    self.assertEqual(found.layers, ("input", "centre", "mean"))
    self.assertEqual(dict(found.units), {"x": "px", "y": "px"})
    for axis in "xy":
      _, centre, mean = found.r2()[axis]
      self.assertGreater(centre, 0.99)
      self.assertLess(mean, 0.2)
    np.testing.assert_allclose(found.error()["x"][1], 0, atol=0.05)

  def test_layers_keep_their_order(self):
    images = jax.random.normal(jax.random.key(0), (10, 4, 4, 1))
    found = alignability.read_poses(
      lambda x: {f"block {i}": x for i in (9, 10, 2)},
      images,
      {"x": np.arange(10.0)},
      reading=("ridge",),
    )
    self.assertEqual(found.layers, ("input", "block 9", "block 10", "block 2"))

  @pytest.mark.slow
  def test_translations_of_images(self):
    """The true shift, in pixels, by a centre of mass worked out by hand."""
    rng = np.random.default_rng(1)
    images = jnp.asarray(blobs(rng.uniform(7.5, 8.5, (40, 2)), 17))
    family = alignability.FAMILIES["translation"]._replace(magnitudes=(4.0,))
    rotation = alignability.FAMILIES["rotation"]
    found = alignability.localisability(
      lambda x: (x * jnp.arange(17.0)[:, None]).sum((1, 2), keepdims=True),
      images,
      families={"translation": family, "rotation": rotation},
      repeats=4,
      reading=("ridge",),
    )
    self.assertEqual(found.units["translation"], "px")
    # What is left is where each spot was before: +-0.5 px, uniform.
    error = found.error()["translation"][1]
    self.assertBetween(error, 0.2, 0.4)
    readout = found.readouts["ridge"]["translation"]["input"]
    np.testing.assert_allclose(readout.none, 8 / 12**0.5, rtol=0.1)
    self.assertLess(found.r2()["rotation"][1], 0.2)  # about its centre

  def test_wrong_arguments(self):
    images = jnp.ones((6, 4, 4, 1))
    with self.assertRaisesRegex(ValueError, r"poses 'x' must be \[N\]"):
      alignability.read_poses(lambda x: x, images, {"x": np.ones(5)})
    with self.assertRaisesRegex(ValueError, "groups must be"):
      alignability.read_poses(
        lambda x: x, images, {"groups": np.ones(6)}, groups=np.ones(5)
      )
    with self.assertRaisesRegex(ValueError, "periods names xx; accepted: x"):
      alignability.read_poses(
        lambda x: x, images, {"x": np.ones(6)}, periods={"xx": 360.0}
      )
    with self.assertRaisesRegex(ValueError, "poses is empty"):
      alignability.read_poses(lambda x: x, images, {})
    with self.assertRaisesRegex(ValueError, "at least 4 images"):
      alignability.read_poses(
        lambda x: x, images[:3], {"x": np.arange(3.0)}, folds=2
      )
    with self.assertRaisesRegex(ValueError, "reading='tree'"):
      alignability.read_poses(
        lambda x: x, images, {"x": np.ones(6)}, reading=("tree",)
      )
    with self.assertRaisesRegex(ValueError, "folds must be 2 to 6"):
      alignability.read_poses(lambda x: x, images, {"x": np.ones(6)}, folds=7)
    found = alignability.read_poses(
      lambda x: x, images, {"x": np.arange(6.0)}, reading=("ridge",)
    )
    with self.assertRaisesRegex(ValueError, "reader='dense'"):
      found.r2("dense")


if __name__ == "__main__":
  absltest.main()
