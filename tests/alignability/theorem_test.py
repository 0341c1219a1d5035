"""The theorem about warped features, as tests."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import INPUT, ImageTransforms
from tests.alignability.examples import (
  VALID5,
  audit,
  blobs,
  conv,
  family,
  gaussian,
  kernels,
  layers_of,
  matrix,
  means,
  relu_of,
  smooth,
)

# Whole pixels and quarter turns of squares copy pixels: nothing but rounding.
ROUNDING = 1e-5


def turned(bank):
  """Each filter `[k, k, 1, F]` by four quarter turns: `[k, k, 1, 4 F]`."""
  return np.concatenate([np.rot90(bank, i) for i in range(4)], axis=-1)


@pytest.mark.parametrize(
  "stride",
  [
    1,
    pytest.param(2, marks=pytest.mark.slow),
    pytest.param(4, marks=pytest.mark.slow),
  ],
)
def test_whole_strides_align_exactly(stride):
  features = relu_of(conv(kernels(), stride))
  found = audit(features, families=family("translation", 4.0, 8.0))
  (unaligned, *aligned), floor = means(found, "translation")
  assert floor.max() < ROUNDING
  assert np.max(aligned) < ROUNDING
  assert unaligned.min() > 0.3


@pytest.mark.slow
def test_parts_of_strides_do_not_align_exactly():
  features = relu_of(conv(kernels(), 4))
  found = audit(features, families=family("translation", 1.0, 2.0))
  (_, _, best, _), floor = means(found, "translation")
  assert floor.max() < ROUNDING
  assert best.min() > 0.05


@pytest.mark.slow
def test_generic_filters_do_not_align_under_quarter_turns():
  features = relu_of(conv(kernels()))
  found = audit(features, families=family("rotation", 20.0, 90.0))
  (_, aligned, best, mixed), floor = (
    [values[..., 1] for values in part] if isinstance(part, list) else part[1]
    for part in means(found, "rotation")
  )
  assert floor < ROUNDING
  assert aligned > 0.5
  assert best > 0.3  # no other warp does either
  assert mixed > 0.2  # and the channels are not there
  for by_family in found.residuals.values():
    residuals = by_family["rotation"]
    assert (residuals.best <= residuals.aligned + 1e-7).all()
    assert (residuals.best <= residuals.unaligned + 1e-7).all()
    assert (residuals.mixed <= residuals.best).all()


@pytest.mark.slow
def test_a_bank_closed_under_turns_aligns_once_channels_are_permuted():
  features = relu_of(conv(turned(kernels(5, 1))))
  images = blobs()
  found = audit(features, images, family("rotation", 90.0))
  (_, aligned, best, mixed), floor = means(found, "rotation")
  assert floor < ROUNDING
  assert min(aligned, best) > 0.3
  # Least squares finds the permutation, from moments in single precision.
  assert mixed < np.sqrt(np.finfo(np.float32).eps)

  # The object turns clockwise, so that filter i answers as i + 1 did.
  before = features(images)
  after = features(alignability.transformed(images, matrix("rotation", 90)))
  back = jnp.rot90(after, 1, axes=(1, 2))
  for shift in range(4):
    distance = jnp.abs(jnp.roll(back, shift, axis=3) - before).max()
    assert (distance < 1e-5) == (shift == 1), shift


@pytest.mark.slow
def test_mirrors_exchange_channels_too():
  mirror = ImageTransforms(
    lambda x: jnp.array([[-1.0, 0, 0], [0, 1, 0]]) * x, (1.0,), ""
  )
  bank, half = kernels(), kernels(5, 2)
  closed = np.concatenate([half, half[:, ::-1]], axis=-1)
  features = layers_of(
    generic=conv(bank), closed=conv(closed), even=conv(bank + bank[:, ::-1])
  )
  found = audit(features, families={"mirror": mirror})
  for name in ("generic", "closed"):
    (_, aligned, best, mixed), _ = means(found, "mirror", name)
    assert min(aligned, best) > 0.3
    assert (mixed < 1e-3) == (name == "closed")
  assert found.residuals["even"]["mirror"].aligned.max() < ROUNDING


def test_isotropic_filters_align_under_rotation():
  bank = np.concatenate([gaussian(5, w) for w in (0.6, 0.8, 1, 1.2)], axis=-1)
  found = audit(conv(bank), families=family("rotation", 20.0, 45.0, 90.0))
  (unaligned, aligned, *_), floor = means(found, "rotation")
  assert (aligned <= floor + ROUNDING).all()  # smooth: interpolated better
  assert unaligned.min() > 0.2


@pytest.mark.parametrize("name", ["scale", "shear"])
@pytest.mark.slow
def test_no_warp_aligns_isotropic_filters_under_scaling_and_shear(name):
  def difference(narrow, wide):
    narrow, wide = gaussian(5, narrow), gaussian(5, wide)
    return narrow / narrow.sum() - wide / wide.sum()

  widths = ((0.6, 1.2), (0.6, 2), (0.8, 2), (1, 2))
  bank = np.concatenate([difference(*pair) for pair in widths], axis=-1)
  magnitudes = alignability.FAMILIES[name].magnitudes[1:]
  found = audit(conv(bank), smooth(), family(name, *magnitudes))
  (_, aligned, best, _), floor = means(found, name)
  assert (np.minimum(aligned, best) > 2 * floor).all()
  assert (np.diff(aligned) > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["scale", "shear"])
def test_scaling_and_shear_leave_isotropic_filters_behind_any_mixing(name):
  magnitudes = alignability.FAMILIES[name].magnitudes[1:]
  difference = gaussian(9, 1.0) / gaussian(9, 1.0).sum()
  difference = difference - gaussian(9, 2.0) / gaussian(9, 2.0).sum()
  found = audit(conv(difference), families=family(name, *magnitudes))
  (_, aligned, best, mixed), floor = means(found, name)
  for residuals in (aligned, best, mixed):
    assert (residuals > 2 * floor).all()
  assert (np.diff(aligned) > 0).all()


def test_pointwise_features_are_invariant_and_align_as_the_image_does():
  kernel = np.zeros((5, 5, 1, 4))
  kernel[2, 2] = [[1, -2, 3, 0.5]]
  families = {
    name: family._replace(magnitudes=family.magnitudes[:1])
    for name, family in alignability.FAMILIES.items()
  }
  found = audit(conv(kernel), None, families, geometry={"features": VALID5})
  for name, residuals in found.residuals["features"].items():
    floor = found.residuals[INPUT][name]
    np.testing.assert_allclose(residuals.aligned, floor.aligned, atol=1e-6)
    np.testing.assert_allclose(residuals.unaligned, floor.unaligned, rtol=1e-4)


@pytest.mark.slow
def test_training_towards_invariance_aligns():
  """The residual is a loss: descending it makes filters invariant."""
  images = blobs()
  kernel = jnp.asarray(kernels(5, 2), jnp.float32)

  @jax.jit
  @jax.value_and_grad
  def loss(kernel):
    features = relu_of(conv(kernel))
    return alignability.residual(
      features, images, matrix("rotation", 90), geometry=VALID5
    ).mean()

  start, _ = loss(kernel)
  for _ in range(60):
    value, gradient = loss(kernel)
    kernel -= 0.05 * gradient
  assert start > 0.5
  assert value < start / 5
