"""Audits: defaults, shares that are undone, mistakes."""

import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import INPUT, Geometry, ImageTransforms
from tests.alignability.examples import (
  STEPS,
  VALID5,
  audit,
  blobs,
  conv,
  family,
  kernels,
)


@pytest.mark.slow
def test_all_defaults_keep_features_in_the_image():
  found = alignability.audit(conv(kernels()), blobs(), steps=STEPS)
  assert found.geometry["features"] == VALID5
  assert found.layers == (INPUT, "features")
  assert list(found.families) == list(alignability.FAMILIES)
  assert found.families["translation"].magnitudes == (1, 2, 3)
  for by_family in found.residuals.values():
    for residuals in by_family.values():
      np.testing.assert_array_equal(residuals.coverage, 1)


def test_undone_and_profile():
  def residuals(unaligned, aligned):
    values = [np.array(v)[:, None] for v in (unaligned, aligned)]
    return alignability.Residuals(
      values[0], values[1], values[1], values[1], np.ones(2)
    )

  found = alignability.Audit(
    {"shear": alignability.FAMILIES["shear"]},
    {},
    {
      INPUT: {"shear": residuals([0.5, 1.0], [0.1, 0.2])},
      "deep": {"shear": residuals([0.3, 0.1], [0.2, 0.1])},
    },
  )
  np.testing.assert_allclose(
    found.undone("shear"), [[0.8, 0.8], [1 / 3, 0]], atol=1e-6
  )
  np.testing.assert_allclose(found.profile()["shear"], [0.8, 0.25])
  with pytest.raises(ValueError, match="family"):
    found.undone("tilt")
  with pytest.raises(ValueError, match="kind"):
    found.undone("shear", "worst")


@pytest.mark.parametrize(
  "options, message",
  [
    ({"method": "nearest"}, "method"),
    ({"margin": -1}, "margin"),
    ({"steps": -1}, "steps"),
    ({"images": jnp.zeros((1, 9, 9, 1))}, r"B of at least 2.*\(1, 9, 9, 1\)"),
    ({"images": jnp.zeros((9, 9, 1))}, r"must be \[B, H, W, C\]"),
    ({"families": family("shear")}, "'shear' has no magnitudes"),
    (
      {"families": {"a": ImageTransforms(None, (1.0,), "px")}},
      "'a' has no matrix",
    ),
    ({"geometry": {"features": Geometry(0, 1, 0)}}, "Geometry of pairs"),
    (
      {"geometry": {"features": Geometry(0, 1, 0)}, "margin": None},
      "Geometry of pairs",
    ),
    (
      {"geometry": {"other": VALID5}},
      r"must name the layers \['features'\], got \['other'\]",
    ),
    (
      {"families": family("translation", 60.0)},
      "margin=14 is too small: after translation by 60 px, every feature of"
      " 'input'",
    ),
  ],
)
def test_mistakes(options, message):
  with pytest.raises(ValueError, match=message):
    audit(conv(kernels()), **{"geometry": {"features": VALID5}, **options})
