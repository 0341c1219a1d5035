"""Gradient norms: against gradients of losses that are written out by hand."""

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stnjax import sampling
from stnjax.training import gradients, steps
from tests.placement import tiny
from tests.training import toy_trainers

LABELS = np.array([1, 4, 7])


def network_of(name, dtype=jnp.float64, **options):
  """A tiny network off the identity, in double precision."""
  network = tiny.shake(tiny.create(name, **options))
  graphdef, state = nnx.split(network)
  state = jax.tree.map(
    lambda x: x.astype(dtype) if x.dtype == jnp.float32 else x, state
  )
  return nnx.merge(graphdef, state)


def loss_of(logits):
  return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


def by_hand(seen, used, images, name):
  """The loss of one run of the transformer, written out.

  Args:
    seen: The network that theta is from.
    used: The network that classifies.
  """
  if name == "STN-C1":
    theta = tiny.theta(seen, 1, seen.stages[0](images))
    x = used.stages[0](images)
    transformer = used.sites["1"]["transformer"]
    return loss_of(tiny.answer(used, transformer.resample(x, theta), 1))
  stages = seen.stages
  if name == "STN-DL1":
    stages = seen.sites["1"]["stages"]
  theta = tiny.theta(seen, 1, stages[0](images))
  return loss_of(tiny.answer(used, sampling.warp(
    images, theta, padding="border")))  # fmt: skip


def norms_by_layer(gradient):
  layers = {}
  for path, leaf in nnx.to_flat_state(gradient):
    name = ".".join(map(str, path[:-1]))
    squares = np.sum(np.square(leaf.get_value()))
    layers[name] = layers.get(name, 0.0) + squares
  return {name: np.sqrt(squares) for name, squares in layers.items()}


@pytest.mark.parametrize("name", ["STN-C1", "STN-DL1", "STN-SL1"])
@pytest.mark.slow
def test_parts_are_those_of_losses_with_one_path_alone(name, x64):
  network = network_of(name)
  images = np.float64(tiny.IMAGES)
  found = gradients.gradient_norms(network, images, LABELS)
  parts = steps.split(network)

  def model(params):
    return nnx.merge(parts.graphdef, params, *parts[2:], copy=True)

  frozen = model(parts.params)
  expected = {
    "total": lambda p: by_hand(model(p), model(p), images, name),
    "through_theta": lambda p: by_hand(model(p), frozen, images, name),
    "direct": lambda p: by_hand(frozen, model(p), images, name),
  }
  for part, loss in expected.items():
    norms = norms_by_layer(jax.jit(jax.grad(loss))(parts.params))
    assert norms.keys() == found.keys()
    for layer, norm in norms.items():
      value = float(getattr(found[layer], part))
      np.testing.assert_allclose(value, norm, 1e-9, 1e-12, err_msg=layer)
  shared = found["stages.0.conv"]
  # C1 and SL1 localise in features of the first stage, DL1 in those of a copy.
  assert (shared.through_theta > 1e-6) == (name != "STN-DL1")
  assert found["sites.1.transformer.localiser.head"].direct == 0
  assert shared.direct > 1e-3


@pytest.mark.slow
def test_the_total_is_a_finite_difference_of_the_loss(x64):
  network = network_of("STN-SL1x2")
  images = np.float64(tiny.IMAGES)
  found = gradients.gradient_norms(network, images, LABELS)
  kernel = network.head.last.kernel
  bias = network.head.last.bias
  start, squares = (kernel[...], bias[...]), 0.0
  loss = jax.jit(
    lambda kernel, bias: loss_of(_answer_with(network, kernel, bias, images))
  )
  for which, value in enumerate(start):
    for index in np.ndindex(value.shape):
      ends = []
      for step in (1e-5, -1e-5):
        moved = list(start)
        moved[which] = value.at[index].add(step)
        ends.append(float(loss(*moved)))
      squares += ((ends[0] - ends[1]) / 2e-5) ** 2
  total = float(found["head.last"].total)
  np.testing.assert_allclose(total, np.sqrt(squares), rtol=1e-6)
  norm = np.sqrt(sum(np.sum(np.square(value)) for value in start))
  np.testing.assert_allclose(float(found["head.last"].parameters), norm)


def _answer_with(network, kernel, bias, images):
  changed = nnx.clone(network)
  changed.head.last.kernel[...] = kernel
  changed.head.last.bias[...] = bias
  return changed(images).logits


@pytest.mark.slow
def test_the_factor_at_theta_scales_the_part_through_it():
  network = network_of("STN-SL1", jnp.float32)
  halved = nnx.clone(network)
  halved.theta_gradient = 0.5
  whole, half = (
    gradients.gradient_norms(each, tiny.IMAGES, LABELS)
    for each in (network, halved)
  )
  for layer, norms in whole.items():
    np.testing.assert_allclose(
      half[layer].through_theta, norms.through_theta / 2, rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(half[layer].direct, norms.direct, rtol=1e-4)


@pytest.mark.slow
def test_train_mode_changes_nothing_in_the_network():
  network = toy_trainers.network_of(
    "STN-DL1", "rich", "rotation", True, 1, "affine"
  )
  before = jax.tree.map(np.asarray, steps.split(network).stats)
  images = toy_trainers.normalised(toy_trainers.examples(3).images)
  labels = np.array([0, 1, 2])
  with pytest.raises(ValueError, match="keys must be given"):
    gradients.gradient_norms(network, images, labels)
  keys = jax.random.split(jax.random.key(0), 3)
  found = gradients.gradient_norms(network, images, labels, keys)
  after = steps.split(network).stats
  assert toy_trainers.max_difference(before, after) == 0
  assert network.theta_gradient == 1
  assert list(found) == [
    "stages.0.conv",
    "stages.0.norm",
    "stages.1.conv",
    "stages.1.norm",
    "head.hidden.0",
    "head.last",
    "sites.1.stages.0.conv",
    "sites.1.stages.0.norm",
    "sites.1.transformer.localiser.convs.0",
    "sites.1.transformer.localiser.hidden.0",
    "sites.1.transformer.localiser.head",
  ]


def test_a_network_without_transformer_has_one_part():
  network = network_of("CNN", jnp.float32)
  for norms in gradients.gradient_norms(network, tiny.IMAGES, LABELS).values():
    assert norms.through_theta == 0
    assert norms.direct == norms.total > 0
