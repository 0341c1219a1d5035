"""Families of transforms: directions, units, defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability
from stnjax.alignability import Geometry, ImageTransforms
from tests.alignability.examples import matrix

transformed = jax.jit(alignability.transformed)

IMAGES = np.zeros((1, 17, 21, 1), np.float32)
IMAGES[:, 6:9, 8:12] = [[[1], [2], [3], [4]]]


def centre_and_spread(image):
  """Mean and covariance of (x, y) about the centre, weighted by an image."""
  height, width = image.shape
  y, x = np.mgrid[:height, :width]
  places = np.stack([x - (width - 1) / 2, y - (height - 1) / 2])
  weight = image / image.sum()
  mean = (places * weight).sum(axis=(1, 2))
  apart = places - mean[:, None, None]
  return mean, np.einsum("ahw,bhw,hw->ab", apart, apart, weight)


def test_translation_is_to_the_right():
  moved = transformed(IMAGES, matrix("translation", 4))
  np.testing.assert_allclose(moved, np.roll(IMAGES, 4, axis=2), atol=1e-5)


def test_rotation_is_clockwise():
  square = IMAGES[:, :, 2:-2]
  turned = transformed(square, matrix("rotation", 90))
  np.testing.assert_allclose(turned[0], np.rot90(square[0], -1), atol=1e-4)


def test_shear_leans_and_keeps_rows():
  leant = np.asarray(transformed(IMAGES, matrix("shear", 0.5)))
  np.testing.assert_allclose(leant.sum(axis=2), IMAGES.sum(axis=2), rtol=1e-5)
  for row in (6, 7):  # above the middle, 8: by half a pixel for each row
    before, after = (
      (np.arange(21) * image[0, row, :, 0]).sum() / image[0, row].sum()
      for image in (IMAGES, leant)
    )
    assert after - before == pytest.approx((8 - row) * 0.5, abs=1e-4)


def test_an_octave_doubles_sizes():
  y, x = np.mgrid[:64, :64] - 31.5
  blob = np.exp(-((x / 4) ** 2 + (y / 3) ** 2 + x * y / 20) / 2)
  grown = transformed(
    blob[None, ..., None].astype(np.float32), matrix("scale", 1)
  )
  _, before = centre_and_spread(blob)
  _, after = centre_and_spread(np.asarray(grown[0, ..., 0], np.float64))
  np.testing.assert_allclose(after, 4 * before, rtol=0.02)


@pytest.mark.parametrize(
  "steps, shape, shifts",
  [
    ((1, 2), (28, 28), (2, 4, 6)),
    ((4, 3), (20, 24), (4, 8, 12)),
    ((4,), (20, 20), (4, 8)),
    ((16, 1), (20, 20), (16,)),
  ],
)
def test_default_translations_are_by_whole_strides(steps, shape, shifts):
  geometry = {
    str(step): Geometry((0.0, 0.0), (1.0, float(step)), (1.0, 1.0))
    for step in steps
  }
  families = alignability.default_transforms(geometry, shape)
  assert families["translation"].magnitudes == shifts
  assert {**families, "translation": alignability.FAMILIES["translation"]} == (
    dict(alignability.FAMILIES)
  )


def test_a_registered_family_is_audited_by_default(monkeypatch):
  monkeypatch.setattr(
    alignability.FAMILIES, "_objects", dict(alignability.FAMILIES)
  )
  mirror = ImageTransforms(lambda x: jnp.diag(x * jnp.ones(3)), (1.0,), "")
  alignability.FAMILIES.register("mirror", mirror)
  geometry = {"a": Geometry((0.0, 0.0), (1.0, 1.0), (1.0, 1.0))}
  assert alignability.default_transforms(geometry, (9, 9))["mirror"] is mirror


@pytest.mark.parametrize(
  "reaches, shape, margin",
  [((2, 3.5), (24, 20), 16), ((0,), (9, 11), 7), ((40,), (28, 28), 72)],
)
def test_default_margin(reaches, shape, margin):
  geometry = {
    str(reach): Geometry((0.0, 0.0), (1.0, 1.0), (1.0, float(reach)))
    for reach in reaches
  }
  assert alignability.default_margin(geometry, shape) == margin


def test_the_margin_repeats_the_edges():
  images = np.arange(12.0).reshape(1, 3, 4, 1)
  found = alignability.extended(images, 2)
  np.testing.assert_array_equal(
    found[0, ..., 0], np.pad(images[0, ..., 0], 2, mode="edge")
  )
