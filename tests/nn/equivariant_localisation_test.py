"""Localisers whose pose moves as the image does."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import numpy as np
import optax
import pytest

from stnjax import nn, transforms
from stnjax.nn import equivariant_localisation

SIDE, ANGLES = 20, 16
STEP = 360 / ANGLES
OCTAVE = np.log(2)


def make(family, shape=(SIDE, SIDE, 1), seed=0, **options):
  """A small localiser in evaluation."""
  options = dict(filters=(4,), angles=ANGLES) | options
  net = nn.EquivariantLocaliser(shape, family, rngs=nnx.Rngs(seed), **options)
  net.eval()
  return net


@nnx.jit
def predict(net, x):
  return net(x)


@nnx.jit
def predict_polar(net, polar):
  return net.pose(polar)


@nnx.jit
def canonical(net, x):
  return net.canonical(x)


def images(count=4, shape=(SIDE, SIDE, 1), seed=0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(count, *shape)).astype(np.float32)


def degrees(after, before):
  """Difference of angles, in -180 to 180 degrees."""
  turned = np.degrees(np.asarray(after) - np.asarray(before))
  return (turned + 180) % 360 - 180


def bumps(turn=0.0, growth=1.0, shift=(0.0, 0.0), side=SIDE):
  """Three bumps, turned from +x towards +y and grown, `[1, H, W, 1]`."""
  y, x = np.mgrid[:side, :side] - (side - 1) / 2
  x, y = x - shift[0], y - shift[1]
  cos, sin = np.cos(turn) / growth, np.sin(turn) / growth
  x, y = cos * x + sin * y, cos * y - sin * x
  places = [(4, 1, 1.0), (-2, 4, 0.6), (-3, -3, -0.8)]
  image = sum(
    height * np.exp(-((x - a) ** 2 + (y - b) ** 2) / 6)
    for a, b, height in places
  )
  return image[None, ..., None].astype(np.float32)


def train(net, steps=100):
  """Trains by the warped images, one target for all, at random angles."""
  transformer = nn.SpatialTransformer(net, net.family)
  transformer.train()
  optimiser = nnx.Optimizer(transformer, optax.adam(0.01), wrt=nnx.Param)

  @nnx.jit
  def step(transformer, optimiser, x):
    def loss(transformer):
      warped, _ = transformer(x)
      return ((warped - bumps()) ** 2).mean()

    value, gradient = nnx.value_and_grad(loss)(transformer)
    optimiser.update(transformer, gradient)
    return value

  rng = np.random.default_rng(0)
  bank = np.concatenate([bumps(turn) for turn in rng.uniform(0, 6.28, 64)])
  losses = [
    step(transformer, optimiser, bank[i % 4 :: 4]) for i in range(steps)
  ]
  transformer.eval()
  return losses


class RotationTest(parameterized.TestCase):
  @parameterized.parameters("rotation", "rotation_scale")
  @pytest.mark.slow
  def test_quarter_turns_of_the_image(self, family):
    net, x = make(family), images()
    # np.rot90 turns from +y towards +x.
    for turns in (1, 2, 3):
      after = predict(net, np.rot90(x, turns, axes=(1, 2)))
      turned = degrees(after[:, -1], predict(net, x)[:, -1])
      np.testing.assert_allclose(
        np.abs(degrees(np.radians(turned), -np.pi / 2 * turns)), 0, atol=5e-3
      )
      np.testing.assert_allclose(
        after[:, :-1], predict(net, x)[:, :-1], atol=1e-4
      )

  @parameterized.product(trained=(False, True), prior=(False, True))
  @pytest.mark.slow
  def test_whole_steps_of_the_polar_image(self, trained, prior):
    net = make("rotation", prior=prior)
    if trained:
      losses = train(net)
      self.assertLess(losses[-1], 0.8 * losses[0])
    polar = canonical(net, images())
    if prior and trained:  # exact where no prior of these shares can choose
      polar = canonical(net, np.concatenate([bumps(t) for t in (0, 1, 2)]))
      log_prior = net.pose_prior(net.poses(polar))
      margins = [score_margin(net, one) for one in polar]
      self.assertGreater(np.min(margins), np.ptp(log_prior))
    before = predict_polar(net, polar)
    for steps in (1, 5, 8, 15):
      after = predict_polar(net, np.roll(polar, steps, axis=1))
      error = degrees(after, before + np.radians(steps * STEP))
      np.testing.assert_allclose(error, 0, atol=5e-3)

  @parameterized.parameters(False, True)
  @pytest.mark.slow
  def test_between_steps_within_half_a_step(self, trained):
    net = make("rotation")
    if trained:
      train(net)
    turns = np.radians(np.linspace(0, 360, 13))
    x = np.concatenate([bumps(turn) for turn in turns])
    moved = np.exp(1j * (predict(net, x)[:, 0] - turns))
    error = np.degrees(np.angle(moved / moved.mean()))
    self.assertLess(np.abs(error).max(), STEP / 2)

  @pytest.mark.slow
  def test_a_transformer_brings_turned_images_to_one(self):
    transformer = nn.SpatialTransformer(make("rotation"), "rotation", "zeros")
    x = images()
    warped, _ = predict(transformer, x)
    again, _ = predict(transformer, np.rot90(x, axes=(1, 2)))
    np.testing.assert_allclose(again, warped, atol=1e-3)

  def test_images_that_are_not_square(self):
    shape = (SIDE, SIDE + 8, 1)
    net = make("rotation", shape)
    wide = np.pad(bumps(), [(0, 0), (0, 0), (4, 4), (0, 0)])
    turned = np.rot90(bumps(), 1, axes=(1, 2))
    turned = np.pad(turned, [(0, 0), (0, 0), (4, 4), (0, 0)])
    turn = degrees(predict(net, turned), predict(net, wide))
    np.testing.assert_allclose(turn, -90, atol=5e-3)


class PriorChoiceTest(absltest.TestCase):
  @pytest.mark.slow
  def test_it_chooses_among_peaks_alone(self):
    net, x = make("rotation"), images(16)
    free = make("rotation", prior=False)
    shares = np.full(ANGLES, 1e-9)
    shares[:3] = 1
    net.pose_prior.shares[...] = shares[:, None] / shares.sum()
    chosen, best = predict(net, x)[:, 0], predict(free, x)[:, 0]
    scores = np.asarray(free.poses(canonical(free, x)))[..., 0]
    log_prior = np.log(0.95 * shares / shares.sum() + 0.05 / ANGLES)
    self.assertTrue((np.abs(degrees(chosen, best)) > STEP).any())
    for pose, row in zip(chosen, scores):
      peak = np.argmax(row + log_prior)
      reach = 45 + STEP / 2 + STEP  # of the peak about it, and between steps
      self.assertLess(abs(degrees(pose, np.radians(peak * STEP))), reach)

  @pytest.mark.slow
  def test_a_call_changes_nothing_before_train(self):
    net = nn.EquivariantLocaliser(
      (SIDE, SIDE, 1), "rotation", filters=(4,), rngs=nnx.Rngs(0)
    )
    before = np.array(net.pose_prior.shares[...])
    jax.jit(lambda x: net(x))(images())
    np.testing.assert_array_equal(net.pose_prior.shares[...], before)
    net.train()
    net(images())
    self.assertGreater(np.abs(net.pose_prior.shares[...] - before).max(), 0)


def score_margin(net, polar):
  """Highest score over the highest beyond its reach, of one polar image."""
  scores = np.asarray(net.poses(polar[None]))[0, :, 0]
  peak, reach = scores.argmax(), round(45 / STEP)
  beyond = np.roll(scores, -peak)[reach + 1 : len(scores) - reach]
  return scores[peak] - beyond.max()


class ScaleTest(absltest.TestCase):
  @pytest.mark.slow
  def test_whole_steps_of_the_log_polar_image(self):
    net = make("scale")
    # Peaks in the middle, so that steps do not leave the range.
    polar = np.array(canonical(net, bumps(growth=0.8)))
    before = predict_polar(net, polar)
    step = OCTAVE / equivariant_localisation.STEPS_PER_OCTAVE
    for steps in (-2, 3):
      moved = np.roll(polar, steps, axis=2)
      np.testing.assert_allclose(
        predict_polar(net, moved), before + steps * step, atol=1e-4
      )

  @pytest.mark.slow
  def test_grown_images(self):
    net = make("scale", (40, 40, 1), octaves=(-2.5, 1.0))
    growth = 2 ** np.array([0.5, 0.75, 1.0, 1.25, 1.4])
    x = np.concatenate([bumps(growth=g, side=40) for g in growth])
    octaves = predict(net, x)[:, 0] / OCTAVE
    np.testing.assert_allclose(
      octaves - octaves[2], np.log2(growth) - 1, atol=0.5 / 6
    )

  @pytest.mark.slow
  def test_scores_stay_within_the_range(self):
    net = make("scale", octaves=(-1.0, 0.5))
    octaves = predict(net, 100 * images(32)) / OCTAVE
    self.assertGreater(octaves.min(), -1.001)
    self.assertLess(octaves.max(), 0.501)


class PlaceTest(parameterized.TestCase):
  @parameterized.parameters("translation", "attention", "similarity")
  @pytest.mark.slow
  def test_whole_pixels(self, family):
    net = make(family, (28, 32, 1))
    x = np.zeros((1, 28, 32, 1), np.float32)
    x[:, 9:17, 10:18] = bumps(side=8)
    before = predict(net, x)
    after = predict(net, np.roll(x, (2, -3), axis=(1, 2)))
    np.testing.assert_allclose(
      after[0, -2:] - before[0, -2:], [-3 * 2 / 32, 2 * 2 / 28], atol=1e-4
    )
    np.testing.assert_allclose(after[:, :-2], before[:, :-2], atol=1e-3)

  @pytest.mark.slow
  def test_extent_is_a_factor(self):
    whole, part = (
      make("translation", extent=extent) for extent in ((1, 1), (0.5, 0.8))
    )
    np.testing.assert_allclose(
      predict(part, images()),
      predict(whole, images()) * np.array([0.5, 0.8]),
      rtol=1e-5,
    )

  @pytest.mark.slow
  def test_large_features_are_reduced(self):
    net = make("translation", (96, 90, 1))
    x = np.zeros((1, 96, 90, 1), np.float32)
    x[:, 30:50, 30:50] = bumps()
    moved = predict(net, np.roll(x, (6, 9), axis=(1, 2))) - predict(net, x)
    np.testing.assert_allclose(moved, [[0.2, 0.125]], atol=1e-4)


class OrientationsTest(absltest.TestCase):
  def features(self, turn, filters=2, count=8):
    """Derivatives of turned bumps along `count` directions."""
    near = [
      bumps(turn, shift=(-a, -b)) - bumps(turn, shift=(a, b))
      for a, b in ((0.5, 0), (0, 0.5))
    ]
    # Counter-clockwise as drawn is from +x towards -y.
    angles = -2 * np.pi * np.arange(count) / count
    along = np.cos(angles) * near[0] + np.sin(angles) * near[1]
    both = np.stack([np.maximum(along, 0), along**2], axis=-2)
    return both.reshape(1, SIDE, SIDE, filters * count)

  def test_a_turn_by_any_angle_is_a_shift_along_the_angles(self):
    shape = (SIDE, SIDE, 16)
    net = make("rotation", shape, orientations=8)
    plain = make("rotation", shape)
    for steps in (2, 5):
      turn = np.radians(steps * STEP)
      still, turned = self.features(0.0), self.features(turn)
      size = np.abs(canonical(net, still)).max()

      def error(net, still=still, turned=turned, steps=steps):
        shifted = np.roll(canonical(net, still), steps, axis=1)
        return np.abs(canonical(net, turned) - shifted).max()

      self.assertLess(error(net), 0.2 * size)
      self.assertGreater(error(plain), 0.6 * size)

  def test_quarter_turns(self):
    net = make("rotation", (SIDE, SIDE, 16), orientations=8)
    x = images(shape=(SIDE, SIDE, 16))
    grouped = np.rot90(x, axes=(1, 2)).reshape(4, SIDE, SIDE, 2, 8)
    turned = np.roll(grouped, 2, axis=-1).reshape(x.shape)
    np.testing.assert_allclose(
      degrees(predict(net, turned), predict(net, x)), -90, atol=5e-3
    )


class GradientTest(parameterized.TestCase):
  @parameterized.parameters(*nn.EQUIVARIANT_FAMILIES)
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_numerically(self, family):
    net = make(family, (12, 12, 1), filters=(2,), angles=8)
    net = jax.tree.map(lambda p: p.astype(np.float64), net)
    x = images(1, (12, 12, 1)).astype(np.float64)
    direction = images(1, (12, 12, 1), seed=1).astype(np.float64)
    weights = np.arange(1.0, 5)[: transforms.num_params(family)]

    @jax.jit
    def along(t):
      return net(x + t * direction)[0] @ weights

    slope = jax.jit(jax.grad(along))(0.0)
    numeric = (along(1e-6) - along(-1e-6)) / 2e-6
    self.assertGreater(abs(numeric), 1e-6)
    np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-7)

  @parameterized.parameters("rotation", "similarity")
  @pytest.mark.slow
  def test_is_finite_where_all_transforms_are_equally_good(self, family):
    net = make(family, (12, 12, 1), filters=(2,), angles=8)
    loss = jax.jit(jax.grad(lambda x: net(x).sum()))
    for x in (np.zeros((1, 12, 12, 1)), np.ones((1, 12, 12, 1))):
      self.assertTrue(np.isfinite(loss(x)).all())


class PriorTest(absltest.TestCase):
  def test_is_learnt_in_training_alone(self):
    net = make("rotation")
    shares = np.array(net.pose_prior.shares[...])
    predict(net, 10 * images())
    np.testing.assert_array_equal(net.pose_prior.shares[...], shares)
    net.train()
    predict(net, 10 * images())
    learnt = np.array(net.pose_prior.shares[...])
    self.assertGreater(np.abs(learnt - shares).max(), 1e-6)
    self.assertAlmostEqual(learnt.sum(), 1.0, places=5)

  def test_none(self):
    net = make("similarity", prior=False)
    self.assertEmpty(jax.tree.leaves(nnx.state(net, nnx.BatchStat)))


class ArgumentsTest(parameterized.TestCase):
  @parameterized.parameters(
    (dict(family="affine"), "family='affine' is unknown; accepted: 'rotation'"),
    (dict(in_shape=(20, 20)), r"in_shape must be \(H, W, C\)"),
    (dict(orientations=2), "multiple of orientations"),
    (dict(orientations=0), "orientations must be at least 1"),
    (dict(angles=4), "angles must be at least 8"),
    (dict(octaves=(1.0, 1.0)), "octaves must be two finite numbers"),
    (dict(octaves=(-1.0, np.inf)), "octaves must be two finite numbers"),
    (dict(octaves=(0.0, 1.0, 2.0)), "octaves must be two finite numbers"),
    (dict(filters=(8, 0)), "filters must be at least 1"),
    (dict(in_shape=(3, 9, 1)), "in_shape=.*at least 4 pixels"),
    (dict(in_shape=(1, 9, 8), orientations=8), "in_shape=.*at least 2 pixels"),
    (dict(in_shape=(0, 9, 1), family="translation"), "in_shape=.*at least 1"),
  )
  def test_are_named(self, arguments, message):
    call = dict(in_shape=(SIDE, SIDE, 1), family="rotation")
    with self.assertRaisesRegex(ValueError, message):
      nn.EquivariantLocaliser(**(call | arguments), rngs=nnx.Rngs(0))

  @parameterized.parameters(*equivariant_localisation.EQUIVARIANT_FAMILIES)
  def test_no_images(self, family):
    net = make(family)
    count = transforms.num_params(family)
    self.assertEqual(predict(net, images(0)).shape, (0, count))

  def test_features_of_another_shape(self):
    with self.assertRaisesRegex(ValueError, "in_shape of this Equivariant"):
      make("rotation")(np.zeros((1, SIDE, SIDE, 2)))


if __name__ == "__main__":
  absltest.main()
