"""Initial values of convolutions and dense layers, by name."""

from collections.abc import Callable
import math
from typing import Any, TypedDict

import jax
import jax.numpy as jnp

from stnjax import checks

Initialiser = Callable[..., jax.Array]
"""From a key, a shape and a dtype to an array."""


class LayerInitialisers(TypedDict):
  """Arguments of `nnx.Conv` and `nnx.Linear`."""

  kernel_init: Initialiser
  bias_init: Initialiser


INITIALISERS = ("lecun_normal", "he_normal", "torch")
"""Names that `of_layer` accepts."""


def of_layer(name: str, fan_in: int) -> LayerInitialisers:
  """Initialisers of a layer, as arguments of `nnx.Conv` and `nnx.Linear`.

  Args:
    name: "lecun_normal" or "he_normal", those of `jax.nn.initializers` with
      biases of zero; "torch", kernels and biases uniform in +-1/sqrt(fan_in),
      the default of `torch.nn.Conv2d` and `torch.nn.Linear`.
    fan_in: Number of inputs of a unit: the kernel's pixels times channels.

  Returns:
    `{"kernel_init": ..., "bias_init": ...}`.

  Raises:
    ValueError: For an unknown name, or a fan_in that is not positive.
  """
  checks.option("init", name, INITIALISERS)
  checks.whole("fan_in", fan_in, 1)
  if name == "torch":
    uniform = _uniform(1 / math.sqrt(fan_in))
    return {"kernel_init": uniform, "bias_init": uniform}
  kernel = getattr(jax.nn.initializers, name)()
  return {"kernel_init": kernel, "bias_init": jax.nn.initializers.zeros}


def _uniform(bound: float) -> Initialiser:
  def initialise(key: jax.Array, shape: Any, dtype: Any = None) -> jax.Array:
    return jax.random.uniform(key, shape, dtype or jnp.float32, -bound, bound)

  return initialise
