"""The search for the best warp, against warps that are known to be best."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax.alignability import Geometry
from stnjax.alignability.search import search, starts
from tests.alignability.examples import audit, conv, family, gaussian

INVERSE = jnp.array([[0.8, -0.6, 0.1], [0.6, 0.8, -0.2]])
IDENTITY = jnp.eye(2, 3)


@functools.partial(jax.jit, static_argnames="steps")
def searched(target, steps):
  def residual(theta):
    return jnp.sqrt(((theta - target) ** 2).mean(axis=(1, 2)) + 1e-12)

  begin = starts(INVERSE, IDENTITY)
  return *search(residual, begin, len(target), steps), jax.vmap(
    lambda start: residual(jnp.broadcast_to(start, target.shape))
  )(begin)


@pytest.mark.slow
def test_every_image_finds_its_own_warp():
  change = np.zeros((3, 3, 3))
  change[:, :2] = np.random.default_rng(0).uniform(-0.1, 0.1, (3, 2, 3))
  near = np.stack([np.eye(3), [*INVERSE, [0, 0, 1]], -np.eye(3)])
  near[2, 2, 2] = 1
  near[2, :2] = np.asarray(INVERSE) @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]
  target = jnp.asarray(near + change, jnp.float32)
  least, theta, _ = searched(target, 60)
  np.testing.assert_allclose(theta, target, atol=0.02)
  assert least.max() < 0.02


def test_without_steps_the_best_start_is_found():
  target = jnp.stack([jnp.eye(3), jnp.diag(jnp.array([-1.0, -1, 1]))])
  least, theta, begins = searched(target, 0)
  np.testing.assert_array_equal(least, begins.min(axis=0))
  np.testing.assert_allclose(theta[0], np.eye(3), atol=1e-6)


def test_nothing_is_found_where_there_is_no_residual():
  least, theta, _ = searched(jnp.full((1, 3, 3), jnp.nan), 60)
  assert jnp.isnan(least).all()
  assert jnp.isfinite(theta).all()


@pytest.mark.slow
def test_a_wrong_geometry_is_made_up_for():
  """With features put a pixel off, h^-1 is another warp than it seems."""
  features = conv(gaussian(5, 1.0))
  right = Geometry((2.0, 2.0), (1.0, 1.0), (2.0, 2.0))
  wrong = right._replace(first=(3.5, 2.0), reach=(4.0, 2.0))
  true, off = (
    audit(
      features,
      families=family("rotation", 60.0),
      geometry={"features": geometry},
      steps=120,
    ).residuals["features"]["rotation"]
    for geometry in (right, wrong)
  )
  assert off.aligned.mean() > 3 * true.aligned.mean()
  assert off.best.mean() < 1.5 * true.best.mean()
