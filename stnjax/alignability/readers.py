"""Readers of poses from features, cross-validated: ridge and a dense net."""

from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import optax

from stnjax import checks

READERS = ("ridge", "dense")
"""Readers of poses: ridge regression, and a dense net with two hidden layers of
32 units, as wide as localisation nets usually are."""

_PENALTIES = 10.0 ** np.arange(-6, 2)  # relative to the mean eigenvalue
_HIDDEN = 32
_BATCH = 64
_STEPS = 2000  # of Adam
_HELD_OUT = 0.2  # share of the training images that stops the dense net
_LEAST_SPREAD = 1e-9  # of poses, relative to their size; less is rounding


class Readout(NamedTuple):
  """Accuracy of a pose read from features of unseen images.

  Attributes:
    r2: Coefficient of determination, 1 - squared error / squared deviation from
      the mean: 1 is perfect, 0 as good as the mean; it may be negative.
    error: Root mean square error, in the unit of the pose.
    none: Root mean square error of the mean pose, in the unit of the pose.
  """

  r2: float
  error: float
  none: float


def folds_of(groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
  """The fold of each example, `[N]`; examples of one group share theirs.

  Args:
    groups: Group of each example, `[N]`.
    folds: Number of folds, at most the number of groups.
    seed: Seed of the random order of the groups.
  """
  names, index = np.unique(groups, return_inverse=True)
  if not 2 <= folds <= len(names):
    raise ValueError(
      f"folds must be 2 to {len(names)}, the number of images, got {folds}"
    )
  order = np.random.default_rng(seed).permutation(len(names))
  return (order % folds)[index]


def read(
  features: np.ndarray,
  poses: Mapping[str, np.ndarray],
  folds: np.ndarray,
  *,
  reader: str = "ridge",
  periods: Mapping[str, float | None] | None = None,
  groups: np.ndarray | None = None,
  seed: int = 0,
) -> dict[str, Readout]:
  """Reads poses from features by cross-validation, all of them at once.

  Args:
    features: `[N, ...]`; flattened.
    poses: Poses by name, `[N]` each, in any unit.
    folds: `[N]`, the fold of each example, see `folds_of`.
    reader: One of `READERS`.
    periods: By name, the difference of poses that are the same, which are read
      as the cosine and sine of their phase; None, or left out, for poses that
      do not repeat.
    groups: `[N]`; examples of one group, such as views of one image, are fitted
      or held out together. By default each is its own.
    seed: Seed of the dense net.

  Returns:
    Readouts by name, over the examples of all folds together.

  Raises:
    ValueError: For an unknown reader, values that are not finite, or too few
      examples for the dense net.
  """
  checks.option("reader", reader, READERS)
  periods = {name: (periods or {}).get(name) for name in poses}
  flat = np.asarray(features, np.float32).reshape(len(folds), -1)
  encoded = {
    name: _encode(np.asarray(values, np.float64), periods[name])
    for name, values in poses.items()
  }
  targets = np.concatenate([*encoded.values()], axis=1)
  if not np.isfinite(flat).all() or not np.isfinite(targets).all():
    raise ValueError("features and poses must be finite")
  groups = np.arange(len(flat)) if groups is None else np.asarray(groups)
  ends = np.cumsum([values.shape[1] for values in encoded.values()])
  columns = np.split(np.arange(targets.shape[1]), ends[:-1])
  if reader == "ridge":
    fit = _ridge(flat, groups, columns)
  else:
    fit = _dense(flat, groups, seed)
  predicted, means = np.empty_like(targets), np.empty_like(targets)
  for fold in np.unique(folds):
    test = folds == fold
    predicted[test] = fit(targets, ~test, test)
    means[test] = targets[~test].mean(axis=0)
  readouts = {}
  for (name, true), own in zip(encoded.items(), columns, strict=True):
    error, none = (
      _rms(_difference(found[:, own], true, periods[name]))
      for found in (predicted, means)
    )
    varies = none > _LEAST_SPREAD * np.abs(poses[name]).max()
    r2 = 1 - (error / none) ** 2 if varies else np.nan
    readouts[name] = Readout(r2, error, none)
  return readouts


def _rms(values: np.ndarray) -> float:
  return float(np.sqrt(np.mean(values**2)))


def _encode(poses: np.ndarray, period: float | None) -> np.ndarray:
  """Targets of readers, `[N, 1]`, or `[N, 2]` for poses that repeat."""
  if period is None:
    return poses[:, None]
  phase = 2 * np.pi * poses / period
  return np.stack([np.cos(phase), np.sin(phase)], axis=1)


def _difference(
  left: np.ndarray, right: np.ndarray, period: float | None
) -> np.ndarray:
  """Differences of encoded poses `[N]`; within half a period if they repeat."""
  if period is None:
    return np.asarray((left - right)[:, 0])
  first, second = (points @ np.array([1, 1j]) for points in (left, right))
  turned = np.angle(first * np.conj(second)) * period / (2 * np.pi)
  return np.asarray(turned)


Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""From targets `[N, P]` and masks of training and test examples `[N]` to the
predictions of the test examples."""


def _ridge(
  flat: np.ndarray, groups: np.ndarray, columns: Sequence[np.ndarray]
) -> Fit:
  """Ridge regression in its dual form, a penalty for each pose.

  Args:
    flat: `[N, D]`, the features.
    groups: `[N]`, groups of examples that are left out together.
    columns: Columns of the targets that belong to each pose.
  """
  # float64: rounded products would have more dimensions than the features.
  flat = flat.astype(np.float64)
  flat -= flat.mean(axis=0)
  products = flat @ flat.T

  def fit(
    targets: np.ndarray, train: np.ndarray, test: np.ndarray
  ) -> np.ndarray:
    inner, outer = products[np.ix_(train, train)], products[np.ix_(test, train)]
    rows = inner.mean(axis=0)
    middle = rows.mean()
    centred = inner - rows - rows[:, None] + middle
    values, vectors = np.linalg.eigh(centred)
    values = values.clip(min=0)
    mean = targets[train].mean(axis=0)
    rotated = vectors.T @ (targets[train] - mean)
    parts = _members(groups[train])
    weights = np.empty_like(rotated)
    for own in columns:
      weights[:, own] = _leave_out(values, vectors, rotated[:, own], parts)
    seen = outer - outer.mean(axis=1, keepdims=True) - rows + middle
    return np.asarray(mean + seen @ weights)

  return fit


def _members(groups: np.ndarray) -> list[np.ndarray]:
  """Indices of the members of each group."""
  order = np.argsort(groups, kind="stable")
  starts = np.unique(groups[order], return_index=True)[1]
  return np.split(order, starts[1:])


def _leave_out(
  values: np.ndarray,
  vectors: np.ndarray,
  rotated: np.ndarray,
  parts: Sequence[np.ndarray],
) -> np.ndarray:
  """Dual weights with the penalty of the least error of groups left out.

  Args:
    values: `[N]`, eigenvalues of the centred products.
    vectors: `[N, N]`, their eigenvectors, in columns.
    rotated: `[N, P]`, the centred targets in the basis of the eigenvectors.
    parts: Indices of the members of each group.
  """
  best, weights = np.inf, np.zeros_like(rotated)
  if not values.any():  # constant features: the mean
    return weights
  for penalty in _PENALTIES * values.mean():
    inverse = 1 / (values + penalty)
    dual = vectors @ (inverse[:, None] * rotated)
    loss = 0.0
    for members in parts:
      rows = vectors[members]
      # The mean is fitted, too: 1 / N of every example's weight.
      hat = (rows * (values * inverse)) @ rows.T + 1 / len(values)
      left = np.eye(len(members)) - hat + 1e-9 * np.eye(len(members))
      loss += (np.linalg.solve(left, penalty * dual[members]) ** 2).sum()
    if loss < best:
      best, weights = loss, dual
  return weights


def _dense(flat: np.ndarray, groups: np.ndarray, seed: int) -> Fit:
  """A dense net on standardised features, stopped by held-out groups."""

  def fit(
    targets: np.ndarray, train: np.ndarray, test: np.ndarray
  ) -> np.ndarray:
    members = np.flatnonzero(train)
    parts = folds_of(groups[train], _parts(groups[train]), seed)
    held, fitted = members[parts == 0], members[parts != 0]
    mean = flat[fitted].mean(axis=0)
    scale = float((flat[fitted] - mean).std()) or 1.0
    middle, spread = targets[fitted].mean(axis=0), targets[fitted].std(axis=0)
    varies = spread > _LEAST_SPREAD * np.abs(targets).max()
    spread = np.where(varies, spread, 1.0)

    def inputs(which: np.ndarray) -> jax.Array:
      return jnp.asarray((flat[which] - mean) / scale)

    goal = jnp.asarray((targets - middle) / spread, jnp.float32)
    predict = _train(
      inputs(fitted), goal[fitted], inputs(held), goal[held], seed
    )
    found = np.asarray(predict(inputs(np.flatnonzero(test))), np.float64)
    return np.asarray(middle + spread * found)

  return fit


def _parts(groups: np.ndarray) -> int:
  """Number of parts, one of which is held out; at most one for each group."""
  count = len(np.unique(groups))
  if count < 4:
    raise ValueError(
      "the dense net needs at least 4 images in every fitted part, got"
      f" {count}; pass more images, or reading=('ridge',)"
    )
  return min(round(1 / _HELD_OUT), count)


def _train(
  x: jax.Array, y: jax.Array, held_x: jax.Array, held_y: jax.Array, seed: int
) -> Callable[[jax.Array], jax.Array]:
  """Trains a dense net by Adam; keeps the epoch of the least held-out error."""
  key = jax.random.key(seed)
  sizes = (x.shape[1], _HIDDEN, _HIDDEN, y.shape[1])
  params = _initial(key, sizes)
  best = _fit(params, key, x, y, held_x, held_y)
  return functools.partial(_apply, best)


_Layers = Sequence[tuple[jax.Array, jax.Array]]  # kernels and biases


def _initial(key: jax.Array, sizes: Sequence[int]) -> _Layers:
  """He's kernels, zero biases; the last layer starts at zero."""
  layers = []
  for index, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:])):
    scale = 0.0 if index == len(sizes) - 2 else np.sqrt(2 / fan_in)
    kernel = jax.random.normal(
      jax.random.fold_in(key, index), (fan_in, fan_out)
    )
    layers.append((scale * kernel, jnp.zeros(fan_out)))
  return layers


@jax.jit
def _apply(params: _Layers, x: jax.Array) -> jax.Array:
  *hidden, (kernel, bias) = params
  for weights, offset in hidden:
    x = jax.nn.relu(x @ weights + offset)
  outputs: jax.Array = x @ kernel + bias
  return outputs


@jax.jit
def _fit(
  params: _Layers,
  key: jax.Array,
  x: jax.Array,
  y: jax.Array,
  held_x: jax.Array,
  held_y: jax.Array,
) -> _Layers:
  """The parameters of the epoch with the least held-out error."""
  batch = min(_BATCH, len(x))
  steps = max(1, len(x) // batch)
  epochs = -(-_STEPS // steps)
  optimiser = optax.adam(optax.cosine_decay_schedule(1e-3, epochs * steps))

  def loss(params: _Layers, x: jax.Array, y: jax.Array) -> jax.Array:
    error: jax.Array = ((_apply(params, x) - y) ** 2).mean()
    return error

  def step(carry: tuple[Any, ...], rows: jax.Array) -> tuple[Any, None]:
    params, state = carry
    grads = jax.grad(loss)(params, x[rows], y[rows])
    updates, state = optimiser.update(grads, state)
    return (optax.apply_updates(params, updates), state), None

  def epoch(carry: tuple[Any, ...], key: jax.Array) -> tuple[Any, None]:
    params, state, best, least = carry
    order = jax.random.permutation(key, len(x))[: batch * steps]
    rows = order.reshape(steps, batch)
    (params, state), _ = lax.scan(step, (params, state), rows)
    error = loss(params, held_x, held_y)
    better = error < least
    best = jax.tree.map(lambda a, b: jnp.where(better, a, b), params, best)
    return (params, state, best, jnp.minimum(error, least)), None

  start = (params, optimiser.init(params), params, loss(params, held_x, held_y))
  (*_, best, _), _ = lax.scan(epoch, start, jax.random.split(key, epochs))
  return best
