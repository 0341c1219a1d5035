"""Context of a forward pass: train mode, and a random key for each image."""

from collections.abc import Callable
import functools
import inspect
from typing import Any, TypeVar

from flax import nnx
import jax
import jax.numpy as jnp

_Module = TypeVar("_Module", bound=nnx.Module)


class Context:
  """Train mode and per-image dropout keys.

  `dropout` depends on each image's own key alone, so that it is the same for
  any distribution of a batch over devices. A layer that runs twice draws
  two masks.

  Attributes:
    train: Whether layers behave as in training.
  """

  def __init__(self, train: bool = False, keys: jax.Array | None = None):
    """Starts a forward pass.

    Args:
      train: Whether dropout drops, and batch norms use and update the
        statistics of the batch.
      keys: `[B]`, a random key for each image; needed to train with dropout.
    """
    self.train = train
    self._keys = keys
    self._drops = 0

  def dropout(
    self, x: jax.Array, rate: float, *, channels: bool = False
  ) -> jax.Array:
    """Drops a share of the values of each image; none outside of training.

    Args:
      x: `[B, ..., C]`.
      rate: Probability of each value to be dropped, 0 to 1.
      channels: Whether to drop whole channels instead of single values.

    Raises:
      ValueError: In training without keys.
    """
    if not self.train or not rate:
      return x
    self._drops += 1
    keys = jax.vmap(jax.random.fold_in, (0, None))(
      self._checked_keys(), self._drops
    )
    shape = x.shape[1:]
    if channels:
      shape = (*[1] * (x.ndim - 2), x.shape[-1])
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(
      keys
    )
    return jnp.where(kept, x / (1 - rate), 0)

  def of_copies(self, count: int) -> "Context":
    """The context of a pass of several copies of each image.

    Dropout draws a new mask, the same for all copies of an image.

    Args:
      count: Number of copies, those of an image side by side: `[B * count]`.
    """
    if not self.train or self._keys is None:
      return Context(self.train)
    self._drops += 1
    keys = jax.vmap(jax.random.fold_in, (0, None))(self._keys, self._drops)
    return Context(self.train, jnp.repeat(keys, count, axis=0))

  def apply(self, module: Callable[..., Any], x: jax.Array) -> Any:
    """Calls a module or function, with this context if it takes one.

    Args:
      module: Callable with `x`, and optionally an argument named `context`.
      x: `[B, ...]`.
    """
    return module(x, context=self) if takes_context(module) else module(x)

  def prepare(self, module: _Module) -> _Module:
    """A view of a module in the mode of this pass, sharing its variables.

    `deterministic` and `use_running_average` are set in all of its modules,
    such as `nnx.Dropout` and `nnx.BatchNorm`. In training, its streams of
    random numbers (`nnx.RngStream`) restart from the key of the batch's
    first image, so that a step depends on the keys alone.

    Raises:
      ValueError: In training without keys, if there is such a stream.
    """
    view = nnx.with_attributes(
      module,
      deterministic=not self.train,
      use_running_average=not self.train,
      raise_if_not_found=False,
    )
    if self.train:
      self._reseed(view)
    return view

  def _reseed(self, module: nnx.Module) -> None:
    streams = [
      node
      for _, node in nnx.iter_graph(module)
      if isinstance(node, nnx.RngStream)
    ]
    if not streams:
      return
    key = self._checked_keys()[0]
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
      key = jax.random.wrap_key_data(key)
    key = jax.random.fold_in(key, 0)  # `dropout` folds in 1, 2, ...
    for index, stream in enumerate(streams):
      own, shape = jax.random.fold_in(key, index), stream.key.shape
      stream.key.set_value(jax.random.split(own, shape) if shape else own)
      stream.count.set_value(jnp.zeros(shape, jnp.uint32))

  def _checked_keys(self) -> jax.Array:
    if self._keys is None:
      raise ValueError(
        "keys must be given to train a network with dropout, got None;"
        " accepted: [B] random keys, one for each image"
      )
    return self._keys


def takes_context(module: Callable[..., Any]) -> bool:
  """Whether a module or function has an argument named `context`."""
  is_module = isinstance(module, nnx.Module)
  return _has_context(type(module).__call__ if is_module else module)


@functools.lru_cache(maxsize=1024)
def _has_context(function: Callable[..., Any]) -> bool:
  try:
    return "context" in inspect.signature(function).parameters
  except (TypeError, ValueError):  # built in
    return False
