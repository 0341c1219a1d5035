"""Scores of transforms, their peaks, and priors that are learnt."""

from absl.testing import absltest, parameterized
from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from stnjax.nn import group_scores


def scores_about(rows, count=16, height=8.0):
  """Scores `[B, count, 1]` with a peak about each of the rows, not whole."""
  distance = np.arange(count) - np.asarray(rows)[:, None]
  bump = height * np.cos(2 * np.pi / count * distance)
  return bump[..., None].astype(np.float32)


@jax.jit
def circle_peak(scores, log_prior=0.0):
  return group_scores.soft_peak(scores, log_prior, reach=(2, 0), circular=True)


@jax.jit
def row_sum(scores):
  return circle_peak(scores)[:, 0].sum()


row_gradient = jax.jit(jax.grad(row_sum))


def row(scores, log_prior=0.0):
  return np.asarray(circle_peak(scores, log_prior)[:, 0])


class CorrelationTest(absltest.TestCase):
  @pytest.mark.slow
  def test_circular_correlation_by_loops(self):
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(4, 3, 3))
    expected = np.zeros((2, 5, 4))
    for i in range(5):
      for j in range(4):
        for k in range(4):
          for m in range(3):
            expected[:, i, j] += x[:, (i + k) % 5, j + m] @ kernel[k, m]
    found = group_scores.circular_correlation(
      jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


class SoftPeakTest(parameterized.TestCase):
  def test_between_steps_and_around_the_circle(self):
    rows = np.array([0.0, 0.3, 7.5, 15.4, 15.9])
    distance = (row(scores_about(rows)) - rows + 8) % 16 - 8
    self.assertLess(np.abs(distance).max(), 0.25)

  def test_moves_by_whole_steps_exactly(self):
    scores = np.random.default_rng(0).normal(size=(6, 16, 1)).astype("f")
    for steps in (1, 5, 8, 15):
      moved = row(np.roll(scores, steps, axis=1)) - row(scores)
      np.testing.assert_allclose((moved - steps + 8) % 16, 8, atol=1e-5)

  @pytest.mark.slow
  def test_two_axes_and_their_ends(self):
    scores = np.zeros((1, 6, 5), np.float32)
    scores[0, 4, 0] = 50.0
    found = group_scores.soft_peak(scores, reach=(2, 2), circular=False)
    np.testing.assert_allclose(found, [[4, 0]], atol=0.01)

  def test_the_prior_selects_a_peak_and_does_not_move_it(self):
    scores = scores_about([3.0]) ** 2  # two peaks of one height
    slope = np.linspace(0, 4, 16)[:, None]
    np.testing.assert_allclose(row(scores, slope), row(scores) + 8, atol=1e-4)
    np.testing.assert_allclose(row(scores, -slope), row(scores), atol=1e-4)

  @pytest.mark.slow
  def test_flat_scores_have_a_position_and_a_gradient(self):
    flat = jnp.zeros((1, 16, 1))
    gradient = row_gradient(flat)
    self.assertTrue(np.isfinite(gradient).all())
    np.testing.assert_allclose(row(flat), 0, atol=1e-6)

  @parameterized.parameters(0.2, 8.1, 15.8)
  @pytest.mark.usefixtures("x64")
  @pytest.mark.slow
  def test_gradient(self, place):
    scores = scores_about([place], height=2.0).astype(np.float64)
    gradient = row_gradient(scores)
    numeric = np.zeros_like(scores)
    for index in range(16):
      step = np.zeros_like(scores)
      step[0, index] = 1e-6
      numeric[0, index] = (row_sum(scores + step) - row_sum(scores - step)) / (
        2e-6
      )
    self.assertGreater(np.abs(numeric).max(), 0.1)
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)


class LearnedPriorTest(absltest.TestCase):
  @pytest.mark.slow
  def test_one_step_is_that_of_em(self):
    prior = group_scores.LearnedPrior((4, 3), average=0.0)
    prior.train()
    scores = np.random.default_rng(0).normal(size=(5, 4, 3)).astype("f")
    shares = np.full((4, 3), 1 / 12)
    for _ in range(3):
      prior(scores)
      # Mixing proportions: those of EM, 5 % of them uniform.
      log_joint = scores + np.log(0.95 * shares + 0.05 / 12)
      norm = scipy.special.logsumexp(log_joint, axis=(1, 2), keepdims=True)
      shares = np.exp(log_joint - norm).mean(axis=0)
      np.testing.assert_allclose(prior.shares[...], shares, rtol=1e-5)

  @pytest.mark.slow
  def test_half_the_circle_concentrates_and_all_of_it_does_not(self):
    rng = np.random.default_rng(0)
    for low, high in ((0, 8), (0, 16)):
      prior = group_scores.LearnedPrior((16, 1), average=0.9)
      prior.train()
      step = nnx.jit(lambda prior, scores: prior(scores))
      for _ in range(60):
        step(prior, scores_about(rng.uniform(low, high, 64), height=20.0))
      shares = np.asarray(prior.shares[..., 0])
      within = shares[low : high + 1].sum()
      self.assertGreater(within, 0.9)
      self.assertLess(shares.max(), 1.6 / (high - low))
      self.assertGreater(shares[low + 1 : high].min(), 0.5 / (high - low))

  @pytest.mark.slow
  def test_evaluation_leaves_it_as_it_is(self):
    prior = group_scores.LearnedPrior((4, 1))
    prior.train()
    prior(np.eye(4, dtype=np.float32)[..., None])
    trained = np.array(prior.shares[...])
    prior.eval()
    prior(-np.eye(4, dtype=np.float32)[..., None])
    np.testing.assert_array_equal(prior.shares[...], trained)

  @pytest.mark.slow
  def test_images_without_finite_scores_do_not_count(self):
    scores = np.random.default_rng(0).normal(size=(4, 3, 2)).astype("f")
    one, other, empty = (group_scores.LearnedPrior((3, 2)) for _ in range(3))
    for prior in (one, other, empty):
      prior.train()
    spoilt = scores.copy()
    spoilt[2, 1, 0], spoilt[3] = np.nan, np.inf
    one(spoilt)
    other(scores[:2])
    np.testing.assert_allclose(one.shares[...], other.shares[...], rtol=1e-6)
    for nothing in (scores[:0], spoilt[2:]):
      empty(nothing)
      np.testing.assert_allclose(empty.shares[...], 1 / 6, rtol=1e-6)

  def test_scores_get_no_gradient(self):
    prior = group_scores.LearnedPrior((4, 1))
    prior.eval()
    gradient = jax.grad(lambda scores: prior(scores)[1, 0])(jnp.ones((2, 4, 1)))
    np.testing.assert_array_equal(gradient, 0)


if __name__ == "__main__":
  absltest.main()
