"""Features of group convolutions align once their channels are permuted."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stnjax import alignability, nn, transforms
from stnjax.nn import convolution
from tests.alignability.examples import audit, conv, family, kernels, relu_of

ROUNDING = 1e-5


def group_features(count):
  """Two layers of group convolutions, with a pooling between them."""
  options = {"orientations": count, "padding": "VALID", "rngs": nnx.Rngs(0)}
  first = nn.LiftingConv(1, 2, 5, **options)
  second = nn.GroupConv(2, 2, 3, **options)

  def features(images):
    x = convolution.max_pool(jax.nn.relu(first(images)), 2)
    return {"first": x, "second": jax.nn.relu(second(x))}

  return features


def means(features, channels, name, *magnitudes):
  """The mean over images of each aligned residual, by layer: `[M]`."""
  found = audit(
    features,
    families=family(name, *magnitudes),
    channels=channels,
    steps=0,
  )
  return {
    layer: by_family[name].aligned.mean(axis=1)
    for layer, by_family in found.residuals.items()
  }


@pytest.mark.parametrize("count", [4, 8])
@pytest.mark.slow
def test_quarter_turns_align_exactly(count):
  features = group_features(count)
  channels = alignability.turned_channels(count)
  magnitudes = (-90.0, 90.0, 180.0)
  permuted = means(features, channels, "rotation", *magnitudes)
  plain = means(features, None, "rotation", *magnitudes)
  for layer in ("first", "second"):
    assert permuted[layer].max() < ROUNDING
    assert plain[layer].min() > 0.2
  assert plain["input"].max() < ROUNDING


@pytest.mark.slow
def test_eighths_align_nearly():
  features = group_features(8)
  channels = alignability.turned_channels(8)
  permuted = means(features, channels, "rotation", 45.0)
  plain = means(features, None, "rotation", 45.0)
  for layer in ("first", "second"):
    assert permuted[layer] < 0.6 * plain[layer]


@pytest.mark.slow
def test_random_permutations_do_not_align_ordinary_features():
  features = relu_of(conv(kernels(filters=8)))

  def shuffled(matrix, count):
    del matrix
    return np.random.default_rng(0).permutation(count)

  for channels in (shuffled, alignability.turned_channels(4)):
    found = means(features, channels, "rotation", 90.0, 180.0)
    assert found["features"].min() > 0.3
    assert found["input"].max() < ROUNDING  # the image is not permuted


def test_the_residual_without_a_warp_has_no_permutation():
  features = group_features(4)
  options = {"families": family("rotation", 90.0), "steps": 0}
  permuted = audit(
    features, channels=alignability.turned_channels(4), **options
  )
  plain = audit(features, **options)
  for layer in ("first", "second"):
    after, before = (
      one.residuals[layer]["rotation"] for one in (permuted, plain)
    )
    np.testing.assert_array_equal(after.unaligned, before.unaligned)
    assert after.best.max() < ROUNDING
    assert after.mixed.max() < ROUNDING


@pytest.mark.parametrize(
  "degrees, shift",
  [(0, 0), (45, 1), (90, 2), (-45, 7), (180, 4), (360, 0), (60, 1), (70, 2)],
)
def test_shift_of_a_rotation(degrees, shift):
  channels = alignability.turned_channels(8)
  for scale in (0.5, 2.0):
    matrix = transforms.compose(
      transforms.rotation(np.deg2rad(degrees)),
      transforms.scaling(jnp.array([scale, scale])),
    )
    found = np.asarray(channels(matrix, 16)).reshape(2, 8)
    expected = np.roll(np.arange(8), -shift) + np.array([[0], [8]])
    np.testing.assert_array_equal(found, expected)


def test_transforms_without_rotation_shift_nothing():
  channels = alignability.turned_channels(8)
  for name in ("translation", "scale"):
    matrix = alignability.FAMILIES[name].matrix(jnp.array(0.5))
    np.testing.assert_array_equal(channels(matrix, 8), np.arange(8))


@pytest.mark.slow
def test_mistakes():
  with pytest.raises(ValueError, match="orientations must be a multiple of 4"):
    alignability.turned_channels(6)
  with pytest.raises(ValueError, match="multiple of orientations=8 channels"):
    alignability.turned_channels(8)(transforms.rotation(0.0), 12)
  for wrong in ([0, 0, 1, 2], [0, 1, 2], [0.5, 1, 2, 3]):
    with pytest.raises(ValueError, match="permutation of 0 to 3, got"):
      means(conv(kernels()), lambda *_, w=wrong: w, "rotation", 90.0)
