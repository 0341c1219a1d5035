"""Norms of the gradient of the loss, layer by layer, with and without theta."""

from collections.abc import Mapping, Sequence
import functools
from typing import Any, NamedTuple

from flax import nnx
import jax
import jax.numpy as jnp

from stnjax import placement, promotion
from stnjax.training import steps

_ORDER = ("stages", "head", "sites")
_GraphDef = nnx.GraphDef[placement.Network]


class GradientNorms(NamedTuple):
  """Euclidean norms of the gradient with respect to one layer's parameters.

  The gradient is the sum of two parts: `through_theta` comes through the output
  of localisation, along any path; `direct` does not. Their norms do not add up
  to `total` unless the parts are orthogonal or one of them is zero.

  Attributes:
    total: Norm of the gradient, a scalar.
    through_theta: Norm of the part that comes through theta, a scalar.
    direct: Norm of the part with all thetas held fixed, a scalar.
    parameters: Norm of the layer's parameters, a scalar.
  """

  total: jax.Array
  through_theta: jax.Array
  direct: jax.Array
  parameters: jax.Array


@promotion.usual
def gradient_norms(
  network: placement.Network,
  images: jax.Array,
  labels: jax.Array,
  keys: jax.Array | None = None,
) -> dict[str, GradientNorms]:
  """Norms of the gradient of the training loss, by layer.

  The loss is the mean cross-entropy in train mode. Of the points that a
  deformed convolution reads, theta stands for all. `network.theta_gradient`
  scales the gradient through theta, as in training.

  Args:
    network: Network, whose batch norms are not updated.
    images: `[B, H, W, C]`, normalised.
    labels: `[B]` or `[B, heads]`, the true classes.
    keys: `[B]`, a random key for each image, for dropout.

  Returns:
    Norms by path of the layer, such as "stages.0.conv", of the modules that
    hold parameters: the stages, then the head, then the modules of the sites.

  Raises:
    ValueError: For a network with dropout and no keys.
  """
  fixed = nnx.clone(network)
  fixed.theta_gradient = 0.0
  parts = steps.split(network)
  graphdefs = (parts.graphdef, steps.split(fixed).graphdef)
  found = _norms(graphdefs, parts[1:], images, labels, keys)
  return {layer: found[layer] for layer in sorted(found, key=layer_order)}


@functools.partial(jax.jit, static_argnums=0)
def _norms(
  graphdefs: tuple[
    nnx.GraphDef[placement.Network], nnx.GraphDef[placement.Network]
  ],
  states: Sequence[nnx.State[Any, Any]],
  images: jax.Array,
  labels: jax.Array,
  keys: jax.Array | None,
) -> dict[str, GradientNorms]:
  """Norms by layer; of the static parts the second holds theta fixed."""
  params, *others = states

  def loss(params: nnx.State[Any, Any], graphdef: _GraphDef) -> jax.Array:
    model = nnx.merge(graphdef, params, *others, copy=True)
    logits = model(images, train=True, keys=keys).logits
    return steps.cross_entropy(logits, labels).mean()

  total, direct = (jax.grad(loss)(params, graphdef) for graphdef in graphdefs)
  through = jax.tree.map(jnp.subtract, total, direct)
  by_part = [_layers(part) for part in (total, through, direct, params)]
  return {
    layer: GradientNorms(*(_norm(part[layer]) for part in by_part))
    for layer in by_part[0]
  }


def _layers(state: nnx.State[Any, Any]) -> dict[str, list[jax.Array]]:
  """The arrays of each layer by its path."""
  layers: dict[str, list[jax.Array]] = {}
  for path, leaf in nnx.to_flat_state(state):
    name = ".".join(map(str, path[:-1]))
    layers.setdefault(name, []).append(leaf.get_value())
  return layers


def _norm(arrays: Sequence[jax.Array]) -> jax.Array:
  return jnp.sqrt(sum(jnp.sum(array * array) for array in arrays))


def layer_order(layer: str) -> tuple[Any, ...]:
  """A key to sort layers by: the stages, the head, then localisation.

  Args:
    layer: Path of a layer, as `gradient_norms` names it.
  """
  first, *rest = layer.split(".")
  # Within localisation, copied stages come first and the last layer last.
  late = ("transformer", "predictor", "head", "last")
  ranks = [
    (late.index(part) + 1 if part in late else 0, part.zfill(4))
    for part in rest
  ]
  rank = _ORDER.index(first) if first in _ORDER else len(_ORDER)
  return rank, first, ranks


def to_json(norms: Mapping[str, GradientNorms]) -> dict[str, Any]:
  """Norms by layer as numbers for JSON."""
  return {
    layer: {name: float(value) for name, value in found._asdict().items()}
    for layer, found in norms.items()
  }
