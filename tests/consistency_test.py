"""Consistency: known transforms and their residuals."""

import math

import numpy as np
import pytest

from stnjax import consistency, transforms


def smallest_mean_distance(values, period):
  """The statistic of one image, in loops."""
  means = []
  for i, one in enumerate(values):
    distances = []
    for j, other in enumerate(values):
      if i != j:
        gap = math.fabs(one - other)
        if period:
          gap = math.fmod(gap, period)
          gap = min(gap, period - gap)
        distances.append(gap)
    means.append(sum(distances) / len(distances))
  return min(means)


@pytest.mark.parametrize("period", [None, 180.0, 7.5])
def test_spread_is_the_smallest_mean_distance(period):
  values = np.random.default_rng(0).uniform(-400, 400, (3, 2, 17))
  found = consistency.spread(values, period)
  assert found.shape == (3, 2)
  for index in np.ndindex(3, 2):
    expected = smallest_mean_distance(values[index], period)
    assert found[index] == pytest.approx(expected, abs=1e-9)


def test_spread_of_one_pose_and_of_none():
  assert consistency.spread(np.full((2, 5), 30.0)).tolist() == [0, 0]
  assert consistency.spread([10.0, 190.0, -170.0], 180.0) == 0
  assert consistency.spread([179.0, -179.0, 0.0], 180.0) == pytest.approx(1.0)
  assert np.isnan(consistency.spread([0.0, 1.0, np.nan]))
  # Of 17 rotations over the circle, axes are 180 / 17 deg apart.
  angles = consistency.versions("rotation", 17)
  apart = 180 / 17 * np.array([*range(1, 9)]) * 2
  expected = apart.sum() / 16
  assert consistency.spread(angles, 180.0) == pytest.approx(expected)


@pytest.mark.parametrize(
  "family, bounds, expected",
  [
    ("rotation", (None, None), [-180, -90, 0, 90]),
    ("rotation", (-90, 90), [-90, -30, 30, 90]),
    ("scale", (None, None), [-1, -1 / 3, 1 / 3, 1]),
  ],
)
def test_versions(family, bounds, expected):
  found = consistency.versions(family, 4, *bounds)
  np.testing.assert_allclose(found, expected)


def pose(rng, projective=False):
  """A random pose without shear: rotation, scale and translation."""
  angle, log_scale = rng.uniform(-3, 3), rng.uniform(-1, 1)
  matrix = np.asarray(
    transforms.compose(
      transforms.translation(rng.uniform(-1, 1, 2)),
      transforms.rotation(angle),
      transforms.scaling(np.full(2, 2.0**log_scale)),
    )
  )
  return matrix, np.degrees(angle), log_scale


@pytest.mark.slow
def test_residuals_are_sums_of_what_was_applied_and_predicted():
  rng = np.random.default_rng(1)
  poses = [[pose(rng) for _ in range(3)] for _ in range(4)]
  thetas = np.array([[matrix for matrix, _, _ in row] for row in poses])
  for family, place, period in (("rotation", 1, 360), ("scale", 2, 1000)):
    values = consistency.versions(family, 3)
    applied = consistency.matrices(family, values)
    found = consistency.residuals(family, applied, thetas)
    expected = values + np.array([[p[place] for p in row] for row in poses])
    gap = (found - expected + period / 2) % period - period / 2
    np.testing.assert_allclose(gap, 0, atol=1e-4)
    square = np.asarray(transforms.to_homogeneous(thetas)) * 3.0
    again = consistency.residuals(family, applied, square)
    np.testing.assert_allclose(again, found, atol=1e-4)


@pytest.mark.slow
def test_an_ideal_transformer_leaves_nothing():
  values = consistency.versions("rotation", 17)
  applied = consistency.matrices("rotation", values)
  ideal = np.asarray(transforms.invert(applied))[None]
  left = consistency.residuals("rotation", applied, ideal)
  assert consistency.spread(left, 180.0) == pytest.approx([0], abs=1e-4)
  idle = np.broadcast_to(np.eye(2, 3), (1, 17, 2, 3))
  left = consistency.residuals("rotation", applied, idle)
  gap = (left[0] - values) % 360
  np.testing.assert_allclose(np.minimum(gap, 360 - gap), 0, atol=1e-4)


def test_the_closest_rotation_and_scale_of_a_sheared_matrix():
  rng = np.random.default_rng(2)
  matrix = np.concatenate([np.eye(2) + rng.normal(size=(2, 2)) / 3,
                           np.zeros((2, 1))], 1)  # fmt: skip
  left, sizes, right = np.linalg.svd(matrix[:, :2])
  turn = left @ right  # of the polar decomposition
  angle = math.degrees(math.atan2(turn[1, 0], turn[0, 0]))
  assert np.linalg.det(turn) > 0
  assert consistency.rotation_degrees(matrix) == pytest.approx(angle)
  octaves = np.log2(sizes).mean()
  assert consistency.scale_octaves(matrix) == pytest.approx(octaves)


def test_projective_poses_are_taken_at_the_centre():
  rng = np.random.default_rng(3)
  square = np.eye(3) + rng.normal(size=(3, 3)) / 5

  def mapped(point):
    x, y, w = square @ [*point, 1.0]
    return np.array([x / w, y / w])

  step = 1e-6
  jacobian = np.stack(
    [(mapped(step * e) - mapped(-step * e)) / (2 * step) for e in np.eye(2)], 1
  )
  applied = consistency.matrices("scale", [0.0])
  found = consistency.residuals("scale", applied, square[None, None])
  expected = np.log2(abs(np.linalg.det(jacobian))) / 2
  assert found == pytest.approx(np.array([[expected]]), abs=1e-6)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: consistency.versions("rotation", 1), "count must be at least 2"),
    (lambda: consistency.versions("rotation", 3, 5, 5), "low must be less"),
    (lambda: consistency.versions("scale", 3, 5, np.inf), "both finite"),
    (lambda: consistency.versions("affine", 3), "accepted: rotation, scale"),
    (lambda: consistency.spread([1.0]), "V of at least 2, got shape"),
    (lambda: consistency.spread(1.0), r"got shape \(\)"),
    (lambda: consistency.spread([1.0, 2.0], 0.0), "period must be above 0"),
  ],
)
def test_mistakes(call, message):
  with pytest.raises(ValueError, match=message):
    call()
