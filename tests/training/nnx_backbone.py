"""A backbone of plain NNX layers, as a user may have it."""

from flax import nnx
import jax.numpy as jnp

from stnjax import placement


class Seen(nnx.Variable):
  """State that is neither a parameter nor a statistic of a batch norm."""


class Counter(nnx.Module):
  """Counts the batches that it trains on, and keeps their last mean."""

  def __init__(self):
    self.count = Seen(jnp.zeros((), jnp.int32))
    self.mean = Seen(jnp.zeros(4))

  def __call__(self, x, context):
    if context.train:
      self.count[...] += 1
      self.mean[...] = x.mean(axis=(0, 1, 2))
    return x


class Stage(nnx.Module):
  """Convolution, batch norm, nonlinearity and dropout, all of NNX."""

  def __init__(self, channels, filters, rate, rngs):
    # Without a bias, whose gradient is rounding alone; Adam would follow it.
    self.conv = nnx.Conv(
      channels, filters, (3, 3), strides=2, use_bias=False, rngs=rngs
    )
    self.norm = nnx.BatchNorm(filters, momentum=0.5, rngs=rngs)
    self.dropout = nnx.Dropout(rate, rngs=rngs)

  def __call__(self, x):
    return self.dropout(nnx.relu(self.norm(self.conv(x))))


class Head(nnx.Module):
  def __init__(self, channels, outputs, rate, rngs):
    self.dropout = nnx.Dropout(rate, rngs=rngs)
    self.dense = nnx.Linear(channels, outputs, rngs=rngs)

  def __call__(self, x):
    return self.dense(self.dropout(x.mean(axis=(1, 2))))


def backbone(task, *, rngs, rate=0.5):
  stages = [
    Stage(task.image_shape[-1], 4, rate, rngs),
    Counter(),
    Stage(4, 6, rate, rngs),
  ]
  return placement.Backbone(stages, Head(6, task.num_classes, rate, rngs))
